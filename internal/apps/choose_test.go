package apps_test

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/internal/apps"
)

// An owner whom a new version of Incus troubles goes back to the one before, at once and
// without a download, and is not brought forward again by the next check.
func TestSwitchVersion_ToTheOneBefore_StaysThereUntilANewerOneComes(t *testing.T) {
	w := newWorld(t)
	w.must(w.manager().Add(background, "incus"))
	if _, err := w.manager().FindVersion("incus", ""); !errors.Is(err, apps.ErrNoVersion) {
		t.Errorf("with one version: %v", err)
	}
	w.release = "202602010000"
	if _, err := w.manager().CheckUpdates(background); err != nil {
		t.Fatal(err)
	}
	w.must(w.manager().SwitchVersion(background, "incus", ""))
	want := apps.Record{Version: "202601010000", Previous: "202602010000", Failed: "202602010000", Initialized: true}
	if diff := cmp.Diff(want, w.state["incus"]); diff != "" || w.active["incus.service"] != "signed 1" || w.fetches != 2 {
		t.Errorf("running %v after %d downloads: %s", w.active, w.fetches, diff)
	}
	if _, err := w.manager().CheckUpdates(background); !errors.Is(err, apps.ErrFailedBefore) || w.active["incus.service"] != "signed 1" {
		t.Errorf("the next check: running %v, %v", w.active, err)
	}
	if err := w.manager().SwitchVersion(background, "incus", "202603010000"); !errors.Is(err, apps.ErrNoVersion) {
		t.Errorf("to a version that is not here: %v", err)
	}
	w.must(w.manager().SwitchVersion(background, "incus", "202602010000"))
	if w.active["incus.service"] != "signed 2" || w.state["incus"].Failed != "" {
		t.Errorf("forward again: running %v, %+v", w.active, w.state["incus"])
	}
}
