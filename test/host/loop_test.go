//go:build linux

package host

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/holdfast-os/holdfast/internal/installer"
	"github.com/holdfast-os/holdfast/internal/layout"
	"github.com/holdfast-os/holdfast/internal/media"
	"github.com/holdfast-os/holdfast/internal/system/block"
	"github.com/holdfast-os/holdfast/internal/system/loop"
	"github.com/holdfast-os/holdfast/test/needs"
)

// needLoop skips where no loop device can be made.
func needLoop(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("missing right: root, to set up a loop device")
	}
	if _, err := os.Stat("/dev/loop-control"); errors.Is(err, fs.ErrNotExist) {
		t.Skip("missing: /dev/loop-control, to set up a loop device")
	}
}

// attachLoop makes a disk of a file, and takes it apart with the test.
func attachLoop(t *testing.T, file string, o loop.Options) string {
	t.Helper()
	needLoop(t)
	path, err := loop.Attach(context.Background(), file, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := loop.Detach(path); err != nil {
			t.Error(err)
		}
	})
	return path
}

// newISO makes the CD of a medium, without the content of its partitions.
func newISO(t *testing.T) string {
	t.Helper()
	medium := newMedium(t)
	image, err := os.Open(medium)
	if err != nil {
		t.Fatal(err)
	}
	defer image.Close()
	info, err := image.Stat()
	if err != nil {
		t.Fatal(err)
	}
	table, err := media.ReadTable(image, info.Size())
	if err != nil {
		t.Fatal(err)
	}
	plan, err := media.ISO(table)
	if err != nil {
		t.Fatal(err)
	}
	path := newImage(t, plan.Size)
	cd, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer cd.Close()
	writeAt(t, path, []byte{0, 16}, layout.Start(layout.ESP)+11) // a FAT for sectors of 4096
	for _, rewrite := range plan.Rewrites {
		before := make([]byte, rewrite.Size)
		if _, err := cd.ReadAt(before, rewrite.Offset); err != nil {
			t.Fatal(err)
		}
		after, err := rewrite.New(before)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := cd.WriteAt(after, rewrite.Offset); err != nil {
			t.Fatal(err)
		}
	}
	return path
}

// A CD has no partitions for the kernel. As a loop device with its sectors it has them, and
// that is what early boot starts /usr from.
func TestAttach_CDOfAnImage_HasThePartitionsOfTheMedium(t *testing.T) {
	needs.Programs(t, "sfdisk")
	path := attachLoop(t, newISO(t), loop.Options{BlockSize: 2048, Partitions: true})
	device, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer device.Close()
	_, sector, err := block.Size(device)
	if err != nil || sector != 2048 {
		t.Errorf("the sectors have %d bytes, %v", sector, err)
	}
	if readOnly, err := unix.IoctlGetInt(int(device.Fd()), unix.BLKROGET); err != nil || readOnly != 1 {
		t.Errorf("read-only is %d, %v", readOnly, err)
	}
	medium, err := installer.ReadMedium(path, installVersion)
	if err != nil {
		t.Fatal(err)
	}
	starts := map[int]int64{}
	for _, part := range medium.Parts {
		starts[part.Number] = part.Start
	}
	want := map[int]int64{1: 1 << 20, 2: 2148532224, 3: 2253389824, 4: 2253406208, 5: 2320515072}
	if diff := cmp.Diff(want, starts); diff != "" || medium.ESPSector != 4096 {
		t.Errorf("sectors of %d bytes in the ESP; partitions begin elsewhere:\n%s", medium.ESPSector, diff)
	}
	if backing, err := loop.Backing("/sys", path); err != nil || !strings.HasSuffix(backing, "/disk.img") {
		t.Errorf("it stands for %q, %v", backing, err)
	}
	control := attachLoop(t, newMedium(t), loop.Options{Partitions: true})
	if !hasPartition(control, layout.ESP) {
		t.Skip("missing: a kernel that reads GUID partition tables (CONFIG_EFI_PARTITION)")
	}
	for number := layout.ESP; number <= layout.UsrA; number++ {
		if !hasPartition(path, number) {
			t.Errorf("the kernel has no partition %d", number)
		}
	}
}

func hasPartition(disk string, number int) bool {
	_, err := os.Stat(fmt.Sprintf("/sys/class/block/%sp%d", filepath.Base(disk), number))
	return err == nil
}
