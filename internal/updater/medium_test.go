package updater

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/api/release"
	"github.com/holdfast-os/holdfast/internal/fetch"
)

// What is copied from a medium is what its signed release promises, or nothing is left of it.
func TestMedium_File_IsCopiedWhenItIsRight(t *testing.T) {
	content := []byte("the application")
	sum := sha256.Sum256(content)
	u := release.Update{Version: "202611230104", Files: []release.File{{
		Architecture: "x86_64", Filename: "x86_64/incus.raw.gz", Size: int64(len(content)), SHA256: hex.EncodeToString(sum[:]), Type: release.TypeApplication, Component: "incus",
	}}}
	for name, test := range map[string]struct {
		files fstest.MapFS
		right bool
	}{
		"right":     {fstest.MapFS{"x86_64/incus.raw.gz": {Data: content}}, true},
		"changed":   {fstest.MapFS{"x86_64/incus.raw.gz": {Data: []byte("the Application")}}, false},
		"cut":       {fstest.MapFS{"x86_64/incus.raw.gz": {Data: content[1:]}}, false},
		"longer":    {fstest.MapFS{"x86_64/incus.raw.gz": {Data: append([]byte("the application"), 0)}}, false},
		"not there": {fstest.MapFS{}, false},
	} {
		t.Run(name, func(t *testing.T) {
			m := OpenMedium(test.files, u, "x86_64")
			found, err := m.Newest(t.Context(), "stable", true)
			if err != nil || len(found.Manifest.Parts) != 1 {
				t.Fatalf("got %+v, %v", found.Manifest, err)
			}
			dir := t.TempDir()
			root, err := os.OpenRoot(dir)
			if err != nil {
				t.Fatal(err)
			}
			defer root.Close()
			err = m.File(t.Context(), found.Manifest.Parts[0].Full, fetch.Folder(root), "part", nil)
			if (err == nil) != test.right {
				t.Errorf("got %v", err)
			}
			left, err := os.ReadDir(dir)
			if err != nil {
				t.Fatal(err)
			}
			var names []string
			for _, entry := range left {
				names = append(names, entry.Name())
			}
			want := []string(nil)
			if test.right {
				want = []string{"part"}
			}
			if diff := cmp.Diff(want, names); diff != "" {
				t.Error(diff)
			}
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	root, err := os.OpenRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	m := OpenMedium(fstest.MapFS{"x86_64/incus.raw.gz": {Data: content}}, u, "x86_64")
	blob := release.Blob{Path: "202611230104/x86_64/incus.raw.gz", Size: int64(len(content)), SHA256: hex.EncodeToString(sum[:])}
	if err := m.File(ctx, blob, fetch.Folder(root), "part", nil); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if _, err := root.Stat("part"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}
