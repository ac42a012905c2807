package multipath

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/internal/system/run"
)

// sysfs is a map with two partitions, a volume on the second of them, and a disk.
func sysfs(t *testing.T) Devices {
	t.Helper()
	root := t.TempDir()
	for name, text := range map[string]string{
		"dm-0/dm/uuid": "mpath-3600a\n", "dm-0/dm/name": "3600a\n", "dm-0/holders/dm-1/x": "", "dm-0/holders/dm-2/x": "", "dm-0/holders/dm-4/x": "",
		"dm-1/dm/uuid": "part1-mpath-3600a\n", "dm-1/dm/name": "3600a-part1\n", "dm-1/slaves/dm-0/x": "",
		"dm-2/dm/uuid": "part11-mpath-3600a\n", "dm-2/dm/name": "3600a-part11\n", "dm-2/slaves/dm-0/x": "",
		"dm-3/dm/uuid": "CRYPT-LUKS2-0f-root\n", "dm-3/dm/name": "root\n", "dm-3/slaves/dm-2/x": "",
		"dm-4/dm/uuid": "LVM-x\n", "dm-4/dm/name": "vg-lv\n", "dm-4/slaves/dm-0/x": "",
		"dm-5/dm/uuid": "part2-mpath-3600a\n", "dm-5/slaves/dm-0/x": "", "dm-5/slaves/dm-1/x": "",
		"dm-6/dm/uuid": "part2-DMRAID-x\n", "dm-6/slaves/dm-0/x": "",
		"sda/size": "8\n",
	} {
		path := filepath.Join(root, "class/block", name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	return Devices{Sys: root}
}

func TestDevices_Sysfs_TellsMapsAndPartitions(t *testing.T) {
	d := sysfs(t)
	for device, want := range map[string]struct {
		isMap  bool
		wwid   string
		parent string
		number int
		fails  bool
	}{
		"dm-0": {isMap: true, wwid: "3600a"},
		"dm-1": {parent: "dm-0", number: 1},
		"dm-2": {parent: "dm-0", number: 11},
		"dm-3": {}, "dm-4": {}, "sda": {}, "none": {},
		"dm-5": {fails: true}, // no partition lies on two disks
		"dm-6": {},
	} {
		isMap, err1 := d.IsMap(device)
		wwid, err2 := d.WWID(device)
		parent, number, err3 := d.Partition(device)
		if isMap != want.isMap || wwid != want.wwid || parent != want.parent || number != want.number ||
			err1 != nil || err2 != nil || (err3 != nil) != want.fails {
			t.Errorf("%s: map %t, WWID %q, partition %d of %q; %v, %v, %v", device, isMap, wwid, number, parent, err1, err2, err3)
		}
	}
	got, err := d.Partitions("dm-0")
	if diff := cmp.Diff(map[int]string{1: "/dev/mapper/3600a-part1", 11: "/dev/mapper/3600a-part11"}, got); err != nil || diff != "" {
		t.Errorf("%v: %s", err, diff)
	}
	if path, err := d.Path("sda"); err == nil {
		t.Errorf("a disk has the map %s", path)
	}
}

// A name from outside is part of a command and of a table.
func TestJoin_NothingToJoin_StartsNoProgram(t *testing.T) {
	d := Devices{Run: func(_ context.Context, c run.Command) (run.Result, error) {
		t.Errorf("started %s %q", c.Name, c.Args)
		return run.Result{}, nil
	}}
	if err := d.Join(t.Context(), "3600a", 8, nil); !errors.Is(err, ErrNoPath) {
		t.Errorf("got %v", err)
	}
	for _, wwid := range []string{"", "a b", "../x", "a/b", "a\nb", strings.Repeat("a", 200)} {
		if err := d.Join(t.Context(), wwid, 8, []string{"8:0"}); err == nil || !strings.Contains(err.Error(), "is no WWID") {
			t.Errorf("%q: got %v", wwid, err)
		}
	}
}
