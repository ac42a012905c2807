package tuf

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// onDisk is a tree of three releases, of which the first was withdrawn, with the rest of a
// cut write; all of it is two hours old.
func onDisk(t *testing.T) (tree string, image []byte) {
	t.Helper()
	w := newWorld(t)
	tree = t.TempDir()
	dir, err := OpenDir(tree)
	w.must(err)
	defer dir.Close()
	for _, name := range []string{"1.root.json", "1.snapshot.json", "1.targets.json", "1.stable.json", "1.testing.json"} {
		if _, err := w.tree.Read(name); err != nil {
			t.Fatal(err)
		}
	}
	for name, data := range w.tree {
		w.must(dir.Write(name, data))
	}
	w.p.Store = dir
	w.publish("stable", v2)
	w.must(w.p.Withdraw(context.Background(), "stable", v1))
	w.must(w.p.Rotate(context.Background(), "root", role(2, "root-1", "root-2")))
	w.must(dir.Write("9.snapshot.json", []byte("a cut publication"))) // its number is never used again
	w.must(dir.Write("README", []byte("of somebody's")))
	w.must(os.WriteFile(filepath.Join(tree, "tuf", ".new-timestamp.json"), []byte("cut"), 0o644))
	old := time.Now().Add(-2 * time.Hour)
	w.must(filepath.Walk(tree, func(name string, _ os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		return os.Chtimes(name, old, old)
	}))
	return tree, w.image
}

// A tree that publishes daily does not grow for ever, and whoever read it before reads it
// afterwards, from the first root on.
func TestPrune_OldVersions_GoAndNodesFollowAllTheSame(t *testing.T) {
	tree, image := onDisk(t)
	removed, err := Prune(tree, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(removed)
	for i, name := range removed {
		if strings.HasPrefix(name, "targets/") {
			parts := strings.Split(name, "/")
			_, version, _ := strings.Cut(parts[3], ".")
			removed[i] = parts[0] + "/" + parts[1] + "/" + parts[2] + "/" + version
		}
	}
	want := []string{".new-timestamp.json", "1.snapshot.json", "1.stable.json", "2.snapshot.json", "2.stable.json", "3.snapshot.json", "3.stable.json",
		"targets/stable/aarch64/" + v1 + ".json", "targets/stable/x86_64/" + v1 + ".json"}
	if diff := cmp.Diff(want, removed); diff != "" {
		t.Error(diff)
	}
	for _, name := range []string{"1.root.json", "2.root.json", "9.snapshot.json", "README"} {
		if _, err := os.Stat(filepath.Join(tree, "tuf", name)); err != nil {
			t.Error(err)
		}
	}
	again, err := Prune(tree, time.Now())
	if err != nil || len(again) > 0 {
		t.Errorf("a second time: %v, %v", again, err)
	}
	w := newWorld(t)
	w.tree, w.image = files{}, image
	dir, err := OpenDir(tree)
	w.must(err)
	defer dir.Close()
	w.must(filepath.Walk(filepath.Join(tree, "tuf"), func(name string, info os.FileInfo, err error) error {
		if err != nil || info.IsDir() {
			return err
		}
		relative, err := filepath.Rel(filepath.Join(tree, "tuf"), name)
		if err == nil {
			w.tree[relative], err = os.ReadFile(name)
		}
		return err
	}))
	got, err := w.client().Newest(t.Context(), "stable", x86)
	if err != nil || got.Version != v2 {
		t.Errorf("release %s, %v", got.Version, err)
	}
}

// A node that has just read the timestamp of before finds what it leads to.
func TestPrune_JustReplaced_Stays(t *testing.T) {
	tree, _ := onDisk(t)
	removed, err := Prune(tree, time.Now().Add(-90*time.Minute))
	if err != nil || len(removed) > 0 {
		t.Errorf("removed %v, %v", removed, err)
	}
}

// A tree that somebody has changed is left as it is, to be looked at.
func TestPrune_ChangedTree_RemovesNothing(t *testing.T) {
	tree, _ := onDisk(t)
	name := filepath.Join(tree, "tuf", "timestamp.json")
	if err := os.WriteFile(name, []byte("{}"), 0o644); err != nil {
		t.Fatal(err)
	}
	if removed, err := Prune(tree, time.Now()); err == nil || len(removed) > 0 {
		t.Errorf("removed %v, %v", removed, err)
	}
}
