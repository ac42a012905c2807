package removable

import (
	"os"
	"path/filepath"
	"testing"
)

func TestFind_LabelOfPartitionAndFileSystem_PartitionComesFirst(t *testing.T) {
	root := t.TempDir()
	link := func(folder, target string) {
		t.Helper()
		dir := filepath.Join(root, "dev/disk", folder)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, "dev", target), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink("../../"+target, filepath.Join(dir, "RESCUE_DATA")); err != nil {
			t.Fatal(err)
		}
	}
	expect := func(want string) {
		t.Helper()
		if got, err := Find(root, "RESCUE_DATA"); got != want || err != nil {
			t.Errorf("got %q, %v; want %q", got, err, want)
		}
	}
	expect("")
	link("by-label", "sr0")
	expect(filepath.Join(root, "dev/sr0"))
	link("by-partlabel", "sdb1")
	expect(filepath.Join(root, "dev/sdb1"))
}
