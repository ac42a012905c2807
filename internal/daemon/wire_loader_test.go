package daemon

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The firmware starts what has this name: it is the old file or the new one, and nothing of
// the work stays beside it.
func TestCopyLoader_File_IsReplacedWhole(t *testing.T) {
	dir := t.TempDir()
	from, to := filepath.Join(dir, "new"), filepath.Join(dir, "esp", "BOOTX64.EFI")
	if err := os.Mkdir(filepath.Dir(to), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{from: "new loader", to: "the loader of before"} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := copyLoader(from, to); err != nil {
		t.Fatal(err)
	}
	if err := copyLoader(filepath.Join(dir, "none"), to); err == nil {
		t.Error("a file that is not there was copied")
	}
	got := map[string]string{}
	entries, err := os.ReadDir(filepath.Dir(to))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		text, err := os.ReadFile(filepath.Join(filepath.Dir(to), e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		got[e.Name()] = string(text)
	}
	if diff := cmp.Diff(map[string]string{"BOOTX64.EFI": "new loader"}, got); diff != "" {
		t.Error(diff)
	}
}

// A broken ESP must be told: the folder below is there, and takes what is written into it.
func TestIsMounted_FolderAndMountPoint_AreToldApart(t *testing.T) {
	for dir, want := range map[string]bool{t.TempDir(): false, "/proc": true} {
		if got, err := isMounted(dir); err != nil || got != want {
			t.Errorf("%s: %v, %v", dir, got, err)
		}
	}
	if _, err := isMounted(t.TempDir() + "/missing"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a folder that is missing: %v", err)
	}
}
