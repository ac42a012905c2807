package apps_test

import (
	"context"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const (
	os1, os2, os3 = "202601010000", "202602010000", "202603010000"
)

// twice is a node that ran incus of January under the OS of January, took both of February,
// and has incus of March since, which came while the OS of February ran.
func twice(t *testing.T) *world {
	w := newWorld(t)
	w.os = os1
	w.must(w.manager().Add(context.Background(), "incus"))
	w.must(w.boot())
	w.os = os2
	w.must(w.boot())
	w.release = os2
	if _, err := w.manager().CheckUpdates(context.Background()); err != nil {
		t.Fatal(err)
	}
	w.release = os3
	if _, err := w.manager().CheckUpdates(context.Background()); err != nil {
		t.Fatal(err)
	}
	w.news = nil
	return w
}

// A node that goes back to the OS of January keeps what runs there, and takes the
// application of then only where the newer one needs the newer OS. Each time it says so.
func TestBoot_ReturnToOlderOS_ApplicationsFollowWhereTheyHaveTo(t *testing.T) {
	for name, c := range map[string]struct {
		change  func(w *world)
		version string
		news    []string
	}{
		"the newer one runs": {func(*world) {}, os3, []string{"incus stays at 202603010000, which runs under the older OS 202601010000 too"}},
		"it does not start": {func(w *world) { w.startErr["signed 3"] = errors.New("needs a newer kernel") }, os1,
			[]string{"incus went back from 202603010000 to 202601010000, which ran with the OS 202601010000: starting incus.socket of application incus: needs a newer kernel"}},
	} {
		t.Run(name, func(t *testing.T) {
			w := twice(t)
			c.change(w)
			w.os = os1
			_ = w.boot()
			w.must(w.boot()) // and stays so
			if got := w.state["incus"].Version; got != c.version || w.active["incus.service"] == "" {
				t.Errorf("incus %s, service %q", got, w.active["incus.service"])
			}
			if diff := cmp.Diff(c.news, w.news); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// What did not work under the older OS is taken again under a newer one, at the next check.
func TestBoot_NewerOSAfterAReturn_TakesTheNewerApplicationAgain(t *testing.T) {
	w := twice(t)
	w.startErr["signed 3"] = errors.New("needs a newer kernel")
	w.os = os1
	_ = w.boot()
	if changed, _ := w.manager().CheckUpdates(context.Background()); len(changed) > 0 {
		t.Errorf("under the older OS %v were updated", changed)
	}
	delete(w.startErr, "signed 3")
	w.os = os3
	w.must(w.boot())
	changed, err := w.manager().CheckUpdates(context.Background())
	if diff := cmp.Diff([]string{"incus"}, changed); diff != "" || err != nil || w.merged["incus"] != "signed 3" {
		t.Errorf("%s, %q, %v", diff, w.merged["incus"], err)
	}
}

// The power may go at each effect of the return: a version that is whole runs in the end.
func TestBoot_ReturnToOlderOS_PowerCutAtAnyStep_EndsWithTheOneThatRuns(t *testing.T) {
	for at := 0; ; at++ {
		w := twice(t)
		w.startErr["signed 3"] = errors.New("needs a newer kernel")
		w.os = os1
		cut := w.withPowerCut(at, func() { _ = w.boot() })
		_ = w.boot()
		w.must(w.boot())
		if got := w.state["incus"]; got.Version != os1 || got.Next != "" || w.active["incus.service"] != "signed 1" {
			t.Errorf("cut at %d: %+v, %v runs", at, got, w.active)
		}
		if !cut {
			if at < 5 {
				t.Errorf("the return has %d effects", at)
			}
			return
		}
	}
}

// A node whose OS is not known, and one that goes on to a newer OS, change nothing.
func TestBoot_NoReturn_ChangesNoVersion(t *testing.T) {
	for name, os := range map[string]string{"not known": "", "the same": os2, "newer": os3} {
		w := twice(t)
		w.startErr["signed 1"] = errors.New("must not be started")
		w.os = os
		w.must(w.boot())
		if got := w.state["incus"]; got.Version != os3 || got.Next != "" || w.news != nil {
			t.Errorf("%s: %+v, %v", name, got, w.news)
		}
	}
}
