package vm

import (
	"context"
	"errors"
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
	// made counts the releases that were begun.
	made int
}

// newTree copies the tree of the build; files are shared until they are replaced.
func newTree(t *testing.T) *published {
	t.Helper()
	p := &published{tree: filepath.Join(machines.tree, updatesFolder)}
	t.Cleanup(func() {
		if err := errors.Join(os.RemoveAll(p.tree), os.RemoveAll(p.next())); err != nil {
			t.Error(err)
		}
	})
	if err := linkTree(p.tree, machines.tree, updatesFolder); err != nil {
		t.Fatal(err)
	}
	return p
}

// next is where the tree with one more release is made, while the node has the present one.
func (p *published) next() string { return p.tree + ".next" }

// linkTree makes to a copy of the tree from, without the folders in it that begin so. What is
// there already is replaced.
func linkTree(to, from, without string) error {
	if err := os.RemoveAll(to); err != nil {
		return err
	}
	return filepath.WalkDir(from, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		if entry.IsDir() && without != "" && strings.HasPrefix(relative, without) {
			return fs.SkipDir
		}
		if entry.IsDir() {
			return os.MkdirAll(filepath.Join(to, relative), 0o755)
		}
		return os.Link(path, filepath.Join(to, relative))
	})
}

// coming is a release that is being made beside the test.
type coming struct {
	tree    *published
	version string
	made    chan error
	begun   time.Time
}

// begin has a release made out of the build, with what is wrong with it. The version is some
// minutes after the build's. One release is made at a time.
func (p *published) begin(t *testing.T, bad string) *coming {
	t.Helper()
	p.made++
	built, err := time.Parse("200601021504", machines.version)
	if err != nil {
		t.Fatal(err)
	}
	c := &coming{tree: p, version: built.Add(time.Duration(p.made) * time.Minute).Format("200601021504"), made: make(chan error, 1), begun: time.Now()}
	ctx, cancel := context.WithTimeout(t.Context(), makeLimit)
	ended := make(chan struct{})
	t.Cleanup(func() { cancel(); <-ended })
	go func() {
		defer close(ended)
		c.made <- p.make(ctx, c.version, bad)
	}()
	return c
}

func (p *published) make(ctx context.Context, version, bad string) error {
	deltas := "3"
	if *long { // a good release comes behind all the bad ones, and the node has skipped them
		deltas = "8"
	}
	out := filepath.Join(machines.root, ".build", "variants", version)
	if err := linkTree(p.next(), p.tree, ""); err != nil {
		return err
	}
	for _, c := range []run.Command{
		{Name: filepath.Join(machines.root, "image/steps/variant"), Dir: machines.root,
			Env: []string{"VERSION=" + version, "HOLDFAST_BAD=" + bad, "HOLDFAST_OUT=" + out, "HOLDFAST_ROOT=" + machines.root}},
		{Name: filepath.Join(machines.root, "bin/holdfast"), Dir: machines.root,
			Args: []string{"release", "publish", p.next(), "--build", out, "--deltas", deltas}},
	} {
		if _, err := run.Host(ctx, c); err != nil {
			return errors.Join(err, os.RemoveAll(out))
		}
	}
	return os.RemoveAll(out)
}

// unpublished waits until a release is made, and gives the folder with its files, which no node
// is served.
func (c *coming) unpublished(t *testing.T) string {
	t.Helper()
	if err := <-c.made; err != nil {
		t.Fatalf("making release %s: %v", c.version, err)
	}
	return filepath.Join(c.tree.next(), c.version)
}

// publish waits until a release is made, and serves it. It gives its version.
func (c *coming) publish(t *testing.T) string {
	t.Helper()
	waited := time.Now()
	if err := <-c.made; err != nil {
		t.Fatalf("making release %s: %v", c.version, err)
	}
	t.Logf("release %s was made in at most %s; the test waited %s", c.version, time.Since(c.begun).Round(time.Second), time.Since(waited).Round(time.Second))
	if err := errors.Join(os.RemoveAll(c.tree.tree), os.Rename(c.tree.next(), c.tree.tree)); err != nil {
		t.Fatal(err)
	}
	return c.version
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

// asked has the node take its updates from the test's tree, and only when it is told to.
func (n *node) asked(t *testing.T) {
	t.Helper()
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
}

// life gives the node a container and a setting that updates must leave as they are, and has
// it take its updates from the test's tree.
func (n *node) life(t *testing.T, r *recording) {
	t.Helper()
	n.asked(t)
	c := stockClient(t, n)
	c.launch(t)
	c.run(t, time.Minute, "snapshot", "create", "node:c1", "held") // ZFS has all on the disk before it answers
	info, err := os.Stat(r.log)
	if err != nil {
		t.Fatal(err)
	}
	r.from = info.Size()
	r.kept = kept{Trusted: true, Frequency: "never", Applications: []string{"incus"}, Containers: "c1,RUNNING"}
	r.releases = []string{machines.version}
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
	if *bad != "" {
		kinds = strings.Split(*bad, ",")
	}
	tree := newTree(t)
	next := tree.begin(t, kinds[0])
	n, r := record(t)
	n.life(t, r)
	for i, kind := range kinds {
		broken := next.publish(t)
		next = tree.begin(t, append(kinds, "")[i+1])
		n.stage(t, broken)
		state := n.reboot(t, machines.version, "returned")
		i := slices.IndexFunc(state.BadReleases, func(b api.UpdateBadRelease) bool { return b.Version == broken })
		if i < 0 || state.BadReleases[i].Reason == "" || state.Reason == "" {
			t.Fatalf("%s: the node does not say what was wrong with release %s: %+v", kind, broken, state)
		}
		t.Logf("%s: %s", kind, state.BadReleases[i].Reason)
		if err := n.api.CheckUpdate(t.Context(), api.UpdateCheckPost{OSOnly: true}); err == nil {
			t.Errorf("%s: a bad release is taken again, or nobody says why not", kind)
		}
		n.expectSlots(t, map[string]bool{machines.version: true, broken: false})
		r.expectKept(t, n)
	}
	for before := machines.version; ; {
		good := next.publish(t)
		if goods--; goods > 0 {
			next = tree.begin(t, "")
		}
		r.releases = append(r.releases, good)
		n.expectGood(t, before, good)
		r.expectKept(t, n)
		if before = good; goods == 0 {
			break
		}
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
		next := newTree(t).begin(t, "")
		var n *node
		n, r = record(t)
		n.life(t, r)
		good := next.publish(t)
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
