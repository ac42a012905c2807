package bootinfo

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Early boot looks closer at a release whose starts do not end, and at no other.
func TestCountStart_StartsThatDoNotEnd_AreCountedOfThisReleaseAlone(t *testing.T) {
	root := t.TempDir()
	if err := os.MkdirAll(filepath.Join(root, filepath.Dir(StartsPath)), 0o700); err != nil {
		t.Fatal(err)
	}
	var got []int
	for _, step := range strings.Fields("a a a ready a b b torn b a ready ready b") {
		switch step {
		case "ready":
			if err := FinishStart(root); err != nil {
				t.Fatal(err)
			}
			continue
		case "torn":
			if err := os.WriteFile(filepath.Join(root, StartsPath), []byte(`{"usr_ro`), 0o600); err != nil {
				t.Fatal(err)
			}
			continue
		}
		before, err := CountStart(root, step)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, before)
	}
	want := []int{0, 1, 2 /* ready */, 0 /* b */, 0, 1 /* torn */, 0 /* a */, 0 /* ready */, 0}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("unfinished starts before each (-want +got):\n%s", diff)
	}
}

func TestCountStart_NoRootVolume_IsAnError(t *testing.T) {
	if _, err := CountStart(t.TempDir(), "a"); err == nil {
		t.Error("a start was counted nowhere")
	}
}
