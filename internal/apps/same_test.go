package apps_test

import (
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/internal/apps"
)

// A release that brings the same application once more is taken, and nobody notices: nothing is
// merged or restarted. With other content, or when it does not run, it is.
func TestCheckUpdate_SameContent_IsTakenWithoutARestart(t *testing.T) {
	const untouched = "as it was started"
	for name, c := range map[string]struct {
		content string
		runs    bool
		want    string // what the unit runs afterwards
	}{
		"the same":              {"signed 1", true, untouched},
		"the same, not running": {"signed 1", false, "signed 1"},
		"another":               {"signed 2", true, "signed 2"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.must(w.manager().Add(background, "incus"))
			w.active = map[string]string{}
			if c.runs {
				w.active["incus.service"] = untouched
			}
			w.release, w.content["202602010000"] = "202602010000", c.content
			changed, err := w.manager().CheckUpdate(background, "incus")
			w.must(err)
			want := apps.Record{Version: "202602010000", Previous: "202601010000", Initialized: true}
			if diff := cmp.Diff(want, w.state["incus"]); diff != "" || !changed {
				t.Errorf("changed %t\n%s", changed, diff)
			}
			if got := w.active["incus.service"]; got != c.want {
				t.Errorf("the service runs %q, want %q", got, c.want)
			}
			w.must(w.boot())
			if want := filepath.Join(w.root, "var/lib/incus-os-extensions/202602010000/incus.raw"); w.links["incus"] != want || w.active["incus.service"] != c.content {
				t.Errorf("the next start merges %s and runs %q", w.links["incus"], w.active["incus.service"])
			}
		})
	}
}

// The power may be cut while such a version is taken: the next start runs a whole one.
func TestCheckUpdate_SameContentPowerCutAtAnyStep_BootsAWholeVersion(t *testing.T) {
	for step := 0; ; step++ {
		w := newWorld(t)
		w.must(w.manager().Add(background, "incus"))
		w.release, w.content["202602010000"] = "202602010000", "signed 1"
		cut := w.withPowerCut(step, func() {
			if _, err := w.manager().CheckUpdate(background, "incus"); err != nil {
				t.Fatal(err)
			}
		})
		w.must(w.boot())
		_, err := w.manager().CheckUpdate(background, "incus")
		w.must(err)
		want := apps.Record{Version: "202602010000", Previous: "202601010000", Initialized: true}
		if diff := cmp.Diff(want, w.state["incus"]); diff != "" || w.active["incus.service"] != "signed 1" {
			t.Errorf("cut before step %d: runs %q\n%s", step, w.active["incus.service"], diff)
		}
		if !cut {
			if step < 4 {
				t.Fatalf("only %d steps were seen", step)
			}
			return
		}
	}
}
