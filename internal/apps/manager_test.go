package apps_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	api "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/apps"
)

var background = context.Background()

// After one call the owner has Incus running, set up, and shown by the API.
func TestAdd_Incus_RunsAndIsInitialized(t *testing.T) {
	w := newWorld(t)
	w.must(w.manager().Add(background, "incus"))
	got, err := w.manager().Show(background, "incus")
	w.must(err)
	want := api.Application{State: api.ApplicationState{
		Initialized: true, IsPrimary: true, FriendlyVersion: "7.0.2 [202601010000]",
		Version: "202601010000", AvailableVersions: []string{"202601010000"},
	}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"-rw------- 202601010000/incus.raw", "drwx------ 202601010000"}, w.files()); diff != "" {
		t.Error(diff)
	}
	if w.active["incus.service"] != "signed 1" || w.users != 1 {
		t.Errorf("running %v, initialized %d times", w.active, w.users)
	}
}

// Whoever owns the update server, or the disk of the mirror, must not change what runs.
//
//	attack              caught by
//	byte changed        Verify: the hash tree
//	foreign signature   Verify: the firmware's certificates
//	wrong sum           the provider
//	too big             the provider, by the published size
//	path as version     checkVersion, before anything is written
//	older release       check: a known hole would come back
func TestCheckUpdate_RefusedImage_LeavesTheOldOneRunningAndNothingOnDisk(t *testing.T) {
	for name, attack := range map[string]struct{ version, content string }{
		"byte changed":      {"202602010000", "signed 2 and changed"},
		"foreign signature": {"202602010000", "foreign 2"},
		"wrong sum":         {"202602010000", "wrong sum"},
		"too big":           {"202602010000", "too big"},
		"path as version":   {"../../../etc", "signed 2"},
		"hidden version":    {"..", "signed 2"},
		"older release":     {"202512010000", "signed 0"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.must(w.manager().Add(background, "incus"))
			state, links, files := w.state, w.links["incus"], w.files()
			w.release = attack.version
			w.content[attack.version] = attack.content
			if changed, err := w.manager().CheckUpdate(background, "incus"); err == nil || changed {
				t.Fatalf("got %v, %v", changed, err)
			}
			if diff := cmp.Diff(state, w.state); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(files, w.files()); diff != "" {
				t.Error(diff)
			}
			if w.links["incus"] != links || w.active["incus.service"] != "signed 1" {
				t.Errorf("link %s, running %v", w.links["incus"], w.active)
			}
		})
	}
}

// A refused first installation must not look like an installed application.
func TestAdd_RefusedImage_LeavesNothing(t *testing.T) {
	for _, content := range []string{"foreign 1", "wrong sum"} {
		w := newWorld(t)
		w.content["202601010000"] = content
		if err := w.manager().Add(background, "incus"); err == nil {
			t.Fatal("accepted")
		}
		if len(w.state) != 0 || len(w.files()) != 0 || len(w.links) != 0 {
			t.Errorf("state %v, files %v, links %v", w.state, w.files(), w.links)
		}
	}
}

// An image that cannot start must not block the next attempt with "already installed".
func TestAdd_ServiceDoesNotStart_CanBeAddedAgain(t *testing.T) {
	w := newWorld(t)
	w.startErr["signed 1"] = errors.New("exit 1")
	if err := w.manager().Add(background, "incus"); !errors.Is(err, w.startErr["signed 1"]) {
		t.Fatalf("got %v", err)
	}
	if len(w.state) != 0 || len(w.files()) != 0 || len(w.links) != 0 || len(w.merged) != 0 {
		t.Errorf("state %v, files %v, links %v, merged %v", w.state, w.files(), w.links, w.merged)
	}
	delete(w.startErr, "signed 1")
	w.must(w.manager().Add(background, "incus"))
}

// A typing error in the seed must not cost the installation; the next boot applies it.
func TestAdd_SeedFails_StaysInstalledAndNextBootAppliesIt(t *testing.T) {
	w := newWorld(t)
	w.seedErr = errors.New("bad preseed")
	if err := w.manager().Add(background, "incus"); !errors.Is(err, w.seedErr) {
		t.Fatalf("got %v", err)
	}
	w.seedErr = nil
	w.must(w.boot())
	w.must(w.boot())
	if w.users != 1 || !w.state["incus"].Initialized {
		t.Errorf("initialized %d times, %+v", w.users, w.state["incus"])
	}
}

// The owner can go back one version, and the disk does not fill up with older ones.
func TestCheckUpdate_TwoUpdates_KeepTheActiveAndTheOneBefore(t *testing.T) {
	w := newWorld(t)
	w.must(w.manager().Add(background, "incus"))
	for _, w.release = range []string{"202602010000", "202603010000"} {
		if changed, err := w.manager().CheckUpdate(background, "incus"); err != nil || !changed {
			t.Fatalf("got %v, %v", changed, err)
		}
	}
	if changed, err := w.manager().CheckUpdate(background, "incus"); err != nil || changed {
		t.Errorf("without a newer release: %v, %v", changed, err)
	}
	want := apps.Record{Version: "202603010000", Previous: "202602010000", Initialized: true}
	if diff := cmp.Diff(want, w.state["incus"]); diff != "" {
		t.Error(diff)
	}
	got, err := w.manager().Show(background, "incus")
	w.must(err)
	if diff := cmp.Diff([]string{"202602010000", "202603010000"}, got.State.AvailableVersions); diff != "" {
		t.Error(diff)
	}
	if w.active["incus.service"] != "signed 3" || w.fetches != 3 || w.users != 1 {
		t.Errorf("running %v, %d fetches, initialized %d times", w.active, w.fetches, w.users)
	}
}

// A bad release costs one interruption: the node goes back by itself, and the periodic
// check does not try it again until the owner asks or a newer one appears.
func TestCheckUpdates_NewVersionDoesNotStart_GoesBackAndSkipsIt(t *testing.T) {
	w := newWorld(t)
	w.must(w.manager().Add(background, "incus"))
	w.release = "202602010000"
	w.startErr["signed 2"] = errors.New("exit 1")
	if updated, err := w.manager().CheckUpdates(background); !errors.Is(err, w.startErr["signed 2"]) || len(updated) != 0 {
		t.Fatalf("got %v, %v", updated, err)
	}
	want := apps.Record{Version: "202601010000", Failed: "202602010000", Initialized: true}
	if diff := cmp.Diff(want, w.state["incus"]); diff != "" {
		t.Error(diff)
	}
	if w.active["incus.service"] != "signed 1" {
		t.Errorf("running %v", w.active)
	}
	if _, err := w.manager().CheckUpdates(background); !errors.Is(err, apps.ErrFailedBefore) || w.fetches != 2 {
		t.Errorf("second check: %v after %d fetches", err, w.fetches)
	}
	delete(w.startErr, "signed 2")
	if changed, err := w.manager().CheckUpdate(background, "incus"); err != nil || !changed {
		t.Errorf("asked by the owner: %v, %v", changed, err)
	}
}

// Power may be cut before any change of the machine. Whatever was done by then, the next
// boot runs the old or the new version, whole, and a further check ends with the new one.
func TestCheckUpdate_PowerCutAtAnyStep_BootsAWholeVersion(t *testing.T) {
	for step := 0; ; step++ {
		w := newWorld(t)
		w.must(w.manager().Add(background, "incus"))
		w.release = "202602010000"
		cut := w.withPowerCut(step, func() {
			if _, err := w.manager().CheckUpdate(background, "incus"); err != nil {
				t.Fatal(err)
			}
		})
		w.must(w.boot())
		record, running := w.state["incus"], w.active["incus.service"]
		if running != w.content[record.Version] || record.Next != "" || !record.Initialized {
			t.Errorf("cut before step %d: runs %q with %+v", step, running, record)
		}
		_, err := w.manager().CheckUpdate(background, "incus")
		w.must(err)
		if w.active["incus.service"] != "signed 2" || w.state["incus"].Failed != "" || w.users != 1 {
			t.Errorf("cut before step %d: after another check %v, %+v", step, w.active, w.state["incus"])
		}
		if !cut {
			if step < 6 {
				t.Fatalf("only %d steps were seen", step)
			}
			return
		}
	}
}

// The same for the first installation: a later Ensure ends with one running Incus.
func TestAdd_PowerCutAtAnyStep_NextBootEndsWithIncus(t *testing.T) {
	for step := 0; ; step++ {
		w := newWorld(t)
		cut := w.withPowerCut(step, func() { w.must(w.manager().Add(background, "incus")) })
		w.must(w.boot())
		w.must(w.manager().Ensure(background, nil))
		if w.active["incus.service"] != "signed 1" || !w.state["incus"].Initialized {
			t.Errorf("cut before step %d: %v, %+v", step, w.active, w.state)
		}
		if diff := cmp.Diff([]string{"-rw------- 202601010000/incus.raw", "drwx------ 202601010000"}, w.files()); diff != "" {
			t.Errorf("cut before step %d: %s", step, diff)
		}
		if !cut {
			return
		}
	}
}

// A new version that brings the machine down at each boot must not do so for ever.
func TestMerge_BootWithNextDiesTwice_GoesBack(t *testing.T) {
	w := newWorld(t)
	w.must(w.manager().Add(background, "incus"))
	w.release = "202602010000"
	isSwitching := func() bool { return w.state["incus"].Next != "" }
	for step := 0; !isSwitching() || w.links["incus"] == filepath.Join(w.root, "var/lib/incus-os-extensions/202601010000/incus.raw"); step++ {
		w.withPowerCut(step, func() {
			if _, err := w.manager().CheckUpdate(background, "incus"); err != nil {
				t.Fatal(err)
			}
		})
	}
	w.withPowerCut(2, func() { w.must(w.boot()) })
	if !w.state["incus"].NextTried {
		t.Fatalf("the first boot did not try: %+v", w.state["incus"])
	}
	w.must(w.boot())
	want := apps.Record{Version: "202601010000", Failed: "202602010000", Initialized: true}
	if diff := cmp.Diff(want, w.state["incus"]); diff != "" {
		t.Error(diff)
	}
	if w.active["incus.service"] != "signed 1" {
		t.Errorf("running %v", w.active)
	}
}

// A lost image file must not keep the other applications and the API from starting.
func TestMerge_ImageIsGone_OthersAreMergedAndNextCheckFetchesIt(t *testing.T) {
	w := newWorld(t)
	w.must(w.manager().Ensure(background, []string{"debug", "incus"}))
	w.must(os.Remove(filepath.Join(w.root, "var/lib/incus-os-extensions/202601010000/incus.raw")))
	if err := w.manager().Merge(background); err == nil {
		t.Error("no word about the missing image")
	}
	if diff := cmp.Diff(map[string]string{"debug": "signed 1"}, w.merged); diff != "" {
		t.Error(diff)
	}
	updated, err := w.manager().CheckUpdates(background)
	w.must(err)
	if diff := cmp.Diff([]string{"incus"}, updated); diff != "" {
		t.Error(diff)
	}
	if w.active["incus.service"] != "signed 1" {
		t.Errorf("running %v", w.active)
	}
}

// The owner's LXCFS options reach the daemon, and only a change costs a restart.
func TestConfigure_LXCFS_WritesOptions(t *testing.T) {
	w := newWorld(t)
	w.must(w.manager().Add(background, "incus"))
	read := func() string {
		text, err := os.ReadFile(filepath.Join(w.root, "etc/default/incus"))
		w.must(err)
		return string(text)
	}
	if got := read(); got != "LXCFS_OPTS=\"\"\n" {
		t.Errorf("after the installation: %q", got)
	}
	config := api.ApplicationConfig{LXCFS: &api.LXCFSConfig{CPUShares: true, LoadAverage: true}}
	w.must(w.manager().Configure(background, "incus", config))
	if got := read(); got != "LXCFS_OPTS=\"--enable-cfs --enable-loadavg\"\n" {
		t.Errorf("got %q", got)
	}
	if diff := cmp.Diff(config, w.state["incus"].Config); diff != "" {
		t.Error(diff)
	}
	if cut := w.withPowerCut(1, func() { w.must(w.manager().Configure(background, "incus", config)) }); cut {
		t.Error("the same configuration again restarted the application")
	}
}

// The API chooses its status by the cause, so each refusal has the right one.
func TestManager_Refusals_HaveTheirCause(t *testing.T) {
	w := newWorld(t)
	m := w.manager()
	w.must(m.Ensure(background, []string{"debug"}))
	_, showUnknown := m.Show(background, "nonsense")
	_, showMissing := m.Show(background, "openfga")
	_, updateMissing := m.CheckUpdate(background, "openfga")
	lxcfs := api.ApplicationConfig{LXCFS: &api.LXCFSConfig{}}
	for name, c := range map[string]struct{ got, want error }{
		"add unknown":       {m.Add(background, "nonsense"), apps.ErrUnknown},
		"add empty":         {m.Add(background, ""), apps.ErrUnknown},
		"add again":         {m.Add(background, "incus"), apps.ErrInstalled},
		"add a later one":   {m.Add(background, "openfga"), apps.ErrUnsupported},
		"show unknown":      {showUnknown, apps.ErrUnknown},
		"show missing":      {showMissing, apps.ErrNotInstalled},
		"update missing":    {updateMissing, apps.ErrNotInstalled},
		"restart missing":   {m.Restart(background, "openfga"), apps.ErrNotInstalled},
		"remove missing":    {m.Remove(background, "openfga"), apps.ErrNotInstalled},
		"remove primary":    {m.Remove(background, "incus"), apps.ErrPrimary},
		"lxcfs of debug":    {m.Configure(background, "debug", lxcfs), apps.ErrUnsupported},
		"configure missing": {m.Configure(background, "openfga", lxcfs), apps.ErrNotInstalled},
	} {
		if !errors.Is(c.got, c.want) {
			t.Errorf("%s: got %v, want %v", name, c.got, c.want)
		}
	}
}

// What is removed is gone from /usr, the disk and the list; the rest goes on.
func TestRemove_SecondaryApplication_LeavesTheRest(t *testing.T) {
	w := newWorld(t)
	w.must(w.manager().Ensure(background, []string{"debug"}))
	names, err := w.manager().List()
	w.must(err)
	if diff := cmp.Diff([]string{"debug", "incus"}, names); diff != "" {
		t.Fatal(diff)
	}
	w.must(w.manager().Remove(background, "debug"))
	if diff := cmp.Diff(map[string]string{"incus": "signed 1"}, w.merged); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"-rw------- 202601010000/incus.raw", "drwx------ 202601010000"}, w.files()); diff != "" {
		t.Error(diff)
	}
	if names, err = w.manager().List(); err != nil || !slices.Equal(names, []string{"incus"}) {
		t.Errorf("got %v, %v", names, err)
	}
}

// A shutdown stops the units, so that Incus can end its instances in time.
func TestStopAll_RunningIncus_StopsItsUnits(t *testing.T) {
	w := newWorld(t)
	w.must(w.manager().Add(background, "incus"))
	w.must(w.manager().StopAll(background))
	if len(w.active) != 0 {
		t.Errorf("still running: %v", w.active)
	}
}
