package vm

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	api "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/lab"
	"github.com/holdfast-os/holdfast/internal/system/run"
)

const (
	// makeLimit bounds making and publishing a release, stageLimit bringing it into a slot.
	makeLimit  = 15 * time.Minute
	stageLimit = 15 * time.Minute
)

// updatesFolder is where a test's tree lies in the one that the lab serves.
const updatesFolder = "updates-of-a-test"

// published is a release tree of a test's own, served to the node.
type published struct {
	tree string
	// made counts the releases that were added.
	made int
}

// newTree copies the tree of the build; files are shared until they are replaced.
func newTree(t *testing.T) *published {
	t.Helper()
	p := &published{tree: filepath.Join(machines.tree, updatesFolder)}
	if err := os.RemoveAll(p.tree); err != nil {
		t.Fatal(err)
	}
	err := filepath.WalkDir(machines.tree, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(machines.tree, path)
		if err != nil {
			return err
		}
		if entry.IsDir() && path == p.tree {
			return fs.SkipDir
		}
		if entry.IsDir() {
			return os.MkdirAll(filepath.Join(p.tree, relative), 0o755)
		}
		return os.Link(path, filepath.Join(p.tree, relative))
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(p.tree); err != nil {
			t.Error(err)
		}
	})
	return p
}

// add makes a release out of the build, with what is wrong with it, and publishes it. The
// version is some minutes after the build's.
func (p *published) add(t *testing.T, bad string) string {
	t.Helper()
	p.made++
	built, err := time.Parse("200601021504", machines.version)
	if err != nil {
		t.Fatal(err)
	}
	version := built.Add(time.Duration(p.made) * time.Minute).Format("200601021504")
	out := filepath.Join(machines.root, ".build", "variants", version)
	ctx, cancel := context.WithTimeout(t.Context(), makeLimit)
	defer cancel()
	begun := time.Now()
	for _, c := range []run.Command{
		{Name: filepath.Join(machines.root, "image/steps/variant"), Dir: machines.root,
			Env: []string{"VERSION=" + version, "HOLDFAST_BAD=" + bad, "HOLDFAST_OUT=" + out, "HOLDFAST_ROOT=" + machines.root}},
		{Name: filepath.Join(machines.root, "bin/holdfast"), Dir: machines.root,
			Args: []string{"release", "publish", p.tree, "--build", out, "--deltas", "3"}},
	} {
		if _, err := run.Host(ctx, c); err != nil {
			t.Fatalf("making release %s: %v", version, err)
		}
	}
	t.Logf("release %s (bad: %q) was made in %s", version, bad, time.Since(begun).Round(time.Second))
	if err := os.RemoveAll(out); err != nil {
		t.Error(err)
	}
	return version
}

// updates is what the node says about its updates; while it restarts there is no answer.
func (n *node) updates(ctx context.Context) (api.UpdateState, error) {
	got, _, err := n.api.Update(ctx)
	return got.State, err
}

// stage has the node take the newest release, and waits until it is in the other slot.
func (n *node) stage(t *testing.T, version string) {
	t.Helper()
	begun := time.Now()
	if err := n.api.CheckUpdate(t.Context(), api.UpdateCheckPost{}); err != nil {
		t.Fatal(err)
	}
	until(t, stageLimit, "waiting for release "+version+" in the other slot", func(ctx context.Context) (bool, error) {
		state, err := n.updates(ctx)
		if err == nil && (state.State == "failed" || strings.HasPrefix(state.Status, "Failed")) && state.LastCheck.After(begun.Add(-time.Hour)) {
			t.Fatalf("the update failed: %s: %s\n%v", state.Status, state.Reason, state.Decisions)
		}
		return err == nil && state.State == "staged" && state.StagedVersion == version && state.NeedsReboot, fmt.Errorf("%s, %w", state.State, orNone(err))
	})
	t.Logf("release %s was staged in %s", version, time.Since(begun).Round(time.Second))
}

// reboot restarts the node into what is staged, and waits until it is ready with a
// release that settles.
func (n *node) reboot(t *testing.T, running, state string) api.UpdateState {
	t.Helper()
	begun := time.Now()
	if err := n.api.Reboot(t.Context()); err != nil {
		t.Fatal(err)
	}
	var got api.UpdateState
	until(t, 2*bootLimit, "waiting for release "+running+" to be "+state, func(ctx context.Context) (bool, error) {
		n.api.Close() // connections of before the restart
		var err error
		got, err = n.updates(ctx)
		return err == nil && got.RunningVersion == running && got.State == state, fmt.Errorf("%s %s, %w", got.RunningVersion, got.State, orNone(err))
	})
	until(t, bootLimit, "waiting for the node", n.ready)
	t.Logf("%s runs and is %s, %s after the restart", running, state, time.Since(begun).Round(time.Second))
	return got
}

// life gives the node a container and a setting that updates must leave as they are, and a
// tree of releases to take its updates from.
func (n *node) life(t *testing.T, r *recording) *published {
	t.Helper()
	tree := newTree(t)
	config := api.ProviderConfig{Name: "images", Config: map[string]string{"server_url": lab.ReleaseURL + "/" + updatesFolder}}
	if err := n.api.SetProvider(t.Context(), config, ""); err != nil {
		t.Fatal(err)
	}
	settings, etag, err := n.api.Update(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	settings.Config.CheckFrequency = "never"
	if err := n.api.SetUpdate(t.Context(), settings.Config, etag); err != nil {
		t.Fatal(err)
	}
	c := stockClient(t, n)
	c.run(t, 5*time.Minute, "image", "import", containerImage(t), "node:", "--alias", "tiny")
	c.run(t, 5*time.Minute, "launch", "node:tiny", "node:c1", "-c", "boot.autostart=true")
	r.kept = kept{Trusted: true, Frequency: "never", Applications: []string{"incus"}, Containers: "c1,RUNNING"}
	r.releases = []string{machines.version}
	return tree
}

// A bad release costs a node two restarts and nobody a visit: it comes back by itself, says
// what was wrong, does not take the release again, and takes the next one, of which it
// fetches a small part. What ran on it runs again after each of these.
func TestUpdate_BadReleaseThenAGoodOne_ComesBackAndTakesTheNext(t *testing.T) {
	slow(t)
	kinds, goods := []string{"daemon"}, 1
	if *long {
		kinds, goods = []string{"daemon", "api", "network", "pool", "application", "kernel", "initrd"}, 3
	}
	n, r := record(t)
	tree := n.life(t, r)
	for _, kind := range kinds {
		bad := tree.add(t, kind)
		n.stage(t, bad)
		state := n.reboot(t, machines.version, "returned")
		i := slices.IndexFunc(state.BadReleases, func(b api.UpdateBadRelease) bool { return b.Version == bad })
		if i < 0 || state.BadReleases[i].Reason == "" || state.Reason == "" {
			t.Fatalf("%s: the node does not say what was wrong with release %s: %+v", kind, bad, state)
		}
		t.Logf("%s: %s", kind, state.BadReleases[i].Reason)
		if err := n.api.CheckUpdate(t.Context(), api.UpdateCheckPost{OSOnly: true}); err == nil {
			t.Errorf("%s: a bad release is taken again, or nobody says why not", kind)
		}
		n.expectSlots(t, map[string]bool{machines.version: true, bad: false})
		r.expectKept(t, n)
	}
	for before := machines.version; goods > 0; goods-- {
		good := tree.add(t, "")
		r.releases = append(r.releases, good)
		n.expectGood(t, before, good)
		r.expectKept(t, n)
		before = good
	}
	r.stop()
	if !t.Failed() {
		machines.recorded = r
	}
}

// expectGood brings the node from one release to the next, a good one.
func (n *node) expectGood(t *testing.T, before, good string) {
	t.Helper()
	plan, err := n.api.PlanUpdate(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !plan.Needed || plan.Version != good || !plan.Reboot || plan.Bytes == 0 || plan.Bytes*10 > plan.FullBytes || plan.PCR == "" || plan.Problems != nil {
		t.Errorf("the plan: %+v", plan)
	}
	t.Logf("to fetch: %d bytes of %d", plan.Bytes, plan.FullBytes)
	n.stage(t, good)
	state := n.reboot(t, good, "good")
	for _, check := range state.Checks {
		if !check.OK {
			t.Errorf("the node blessed a release with a check that does not hold: %+v", check)
		}
	}
	n.expectSlots(t, map[string]bool{before: false, good: true})
}

// The power may go at any moment of an update, and a disk may lose or keep what was not
// flushed: the node starts by itself, with the old release or the new one, its disk opened by
// its TPM, and with all that was there.
func TestUpdate_PowerCutAtAnyWrite_BootsWithNothingLost(t *testing.T) {
	slow(t)
	r := machines.recorded
	if r == nil { // the test above did not run
		var n *node
		n, r = record(t)
		tree := n.life(t, r)
		good := tree.add(t, "")
		r.releases = append(r.releases, good)
		n.expectGood(t, machines.version, good)
		r.stop()
	}
	r.replay(t, newNode(t, baseName), *points)
}

// expectSlots fails unless the node can start these releases, true for the one that runs,
// and none of them is on trial with tries left.
func (n *node) expectSlots(t *testing.T, want map[string]bool) {
	t.Helper()
	state, err := n.updates(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]bool{}
	for _, slot := range state.Slots {
		got[slot.Version] = slot.Running
		if slot.TriesLeft > 0 {
			t.Errorf("release %s still has %d tries", slot.Version, slot.TriesLeft)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("slots (-want +got):\n%s", diff)
	}
}
