package disks

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/internal/system/run"
)

// What a person is shown before a disk is erased is all that could tell them that it is the
// wrong one.
func TestParse_SystemDisk_ShowsMountsUsersAndLabels(t *testing.T) {
	const answer = `{"blockdevices": [
	{"name":"sda","path":"/dev/sda","type":"disk","size":512110190592,"model":"Samsung SSD 860 ","serial":"S3Z1","tran":"sata","rm":false,"ro":false,
	 "mountpoints":[null],"fstype":null,"label":null,"partlabel":null,"children":[
	  {"name":"sda1","path":"/dev/sda1","type":"part","size":536870912,"rm":false,"ro":false,"mountpoints":["/boot/efi"],"fstype":"vfat","label":"EFI","partlabel":"EFI System"},
	  {"name":"sda2","path":"/dev/sda2","type":"part","size":511000000000,"rm":false,"ro":false,"mountpoints":[null],"fstype":"LVM2_member","label":null,"partlabel":null,"children":[
	   {"name":"vg-root","path":"/dev/mapper/vg-root","type":"lvm","size":100,"rm":false,"ro":false,"mountpoints":["/"],"fstype":"ext4","label":"root"},
	   {"name":"vg-swap","path":"/dev/mapper/vg-swap","type":"lvm","size":100,"rm":false,"ro":false,"mountpoints":["[SWAP]"],"fstype":"swap","label":null}
	  ]}]}]}`
	got, err := parse([]byte(answer), "/dev/sda")
	want := Disk{
		Path: "/dev/sda", Model: "Samsung SSD 860", Serial: "S3Z1", Transport: "sata", Kind: "disk", Size: 512110190592,
		Mounts: []string{"/boot/efi", "/", "[SWAP]"}, Users: []string{"lvm vg-root", "lvm vg-swap"},
		Contents: []string{`sda1 (536870912 bytes): "vfat" "EFI System" "EFI"`, `sda2 (511000000000 bytes): "LVM2_member"`,
			`vg-root (100 bytes): "ext4" "root"`, `vg-swap (100 bytes): "swap"`},
	}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v: %s", err, diff)
	}
}

// An answer that is not understood must not look like a disk without anything on it.
func TestParse_NotOneDisk_IsAnError(t *testing.T) {
	for _, answer := range []string{"", "{}", `{"blockdevices":[]}`, `{"blockdevices":[{"name":"a"},{"name":"b"}]}`} {
		if got, err := parse([]byte(answer), "/dev/sda"); err == nil {
			t.Errorf("%q: got %+v", answer, got)
		}
	}
}

func TestTake_File_IsNoDisk(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte("text"), 0o600); err != nil {
		t.Fatal(err)
	}
	nothing := func(context.Context, run.Command) (run.Result, error) {
		return run.Result{}, errors.New("lsblk was asked about a file")
	}
	_, describe := Describe(t.Context(), nothing, path)
	_, take := Take(path)
	if !errors.Is(describe, ErrNotDevice) || !errors.Is(take, ErrNotDevice) {
		t.Errorf("got %v, %v", describe, take)
	}
	if _, err := Take(path + "x"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}
