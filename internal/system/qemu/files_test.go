package qemu

import (
	"bytes"
	"encoding/hex"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// A blank disk of 20 GiB must not take 20 GiB when it is copied.
func TestCopySparse_HolesAroundData_StayHoles(t *testing.T) {
	dir := t.TempDir()
	src, dst := filepath.Join(dir, "src"), filepath.Join(dir, "dst")
	file, err := os.Create(src)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := file.WriteAt([]byte("data"), 64<<20); err != nil {
		t.Fatal(err)
	}
	if err := file.Truncate(256 << 20); err != nil {
		t.Fatal(err)
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	if err := CopySparse(dst, src); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(dst)
	if err != nil {
		t.Fatal(err)
	}
	if used := info.Sys().(*syscall.Stat_t).Blocks * 512; info.Size() != 256<<20 || used > 1<<20 {
		t.Errorf("the copy has %d bytes and takes %d", info.Size(), used)
	}
	raw, err := os.ReadFile(dst)
	if err != nil || !bytes.Equal(raw[64<<20:64<<20+4], []byte("data")) {
		t.Errorf("the data did not arrive: %v", err)
	}
}

// QEMU is the judge of the format (the lab's test starts it on one); this keeps the
// bytes from changing by accident.
func TestOverlay_Header_IsThatOfAVersion3Image(t *testing.T) {
	image, err := overlay("/base.raw", "raw", 20<<30)
	if err != nil {
		t.Fatal(err)
	}
	want := "514649fb" + "00000003" + "0000000000000200" + "00000009" + "00000010" + "0000000500000000" +
		"00000000" + "00000028" + "0000000000030000" + "0000000000010000" + "00000001" + "00000000" + "0000000000000000"
	if diff := cmp.Diff(want, hex.EncodeToString(image[:72])); diff != "" {
		t.Errorf("header (-want +got):\n%s", diff)
	}
	if got := string(image[512:521]); got != "/base.raw" {
		t.Errorf("the base is named %q", got)
	}
	if len(image) != 4<<16 {
		t.Errorf("the image has %d bytes", len(image))
	}
}

func TestOverlay_SizeThatDoesNotFit_IsRefused(t *testing.T) {
	for _, size := range []int64{-1, 0, 4<<40 + 1} {
		if _, err := overlay("/base.raw", "raw", size); err == nil {
			t.Errorf("%d bytes were accepted", size)
		}
	}
}
