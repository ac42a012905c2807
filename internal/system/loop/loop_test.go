package loop

import (
	"os"
	"path/filepath"
	"testing"
	"unsafe"
)

// The kernel reads these as bytes: a field too many and it would take one for another.
func TestConfig_OfTheKernel_HasItsSizes(t *testing.T) {
	if got := [2]uintptr{unsafe.Sizeof(info{}), unsafe.Sizeof(config{})}; got != [2]uintptr{232, 304} {
		t.Errorf("loop_info64 and loop_config have %v bytes", got)
	}
}

func TestBacking_AttachedFreeAndOtherDevices_AreToldApart(t *testing.T) {
	sys := t.TempDir()
	dir := filepath.Join(sys, "class/block/loop0/loop")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "backing_file"), []byte("/dev/sr0\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{"/dev/loop0": "/dev/sr0", "/dev/loop1": "", "/dev/vda": ""} {
		if got, err := Backing(sys, path); got != want || err != nil {
			t.Errorf("%s: got %q, %v; want %q", path, got, err, want)
		}
	}
}
