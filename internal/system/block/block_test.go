package block

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/internal/system/run"
)

const lsblkAnswer = `{"blockdevices": [
 {"kname":"zram0","path":"/dev/zram0","maj:min":"253:0","size":0,"type":"disk","mountpoints":[null]},
 {"kname":"nvme0n1","path":"/dev/nvme0n1","maj:min":"259:0","size":107374182400,"serial":" S1 ","model":"Fast","wwn":"eui.1",
  "tran":"nvme","subsystems":"block:nvme:pci","rm":false,"ro":false,"rota":false,"type":"disk","log-sec":4096,"fstype":null,
  "pttype":"gpt","mountpoints":[null],"children":[
   {"kname":"nvme0n1p2","path":"/dev/nvme0n1p2","maj:min":"259:2","size":4096,"type":"part","partuuid":"AB","parttype":"CD","partlabel":"root","mountpoints":[null],
    "children":[{"kname":"dm-0","path":"/dev/mapper/root","type":"crypt","mountpoints":["/"]}]},
   {"kname":"nvme0n1p1","path":"/dev/nvme0n1p1","maj:min":"259:1","size":8192,"type":"part","partuuid":"ef","partlabel":"esp","mountpoints":[null]}]},
 {"kname":"sda","path":"/dev/sda","maj:min":"8:0","size":1000,"model":"SAN","tran":"fc","subsystems":"block:scsi:pci","type":"disk","log-sec":512,"fstype":"mpath_member","mountpoints":[null],
  "children":[{"kname":"dm-1","path":"/dev/mapper/mpatha","maj:min":"254:1","size":1000,"type":"mpath","log-sec":512,"mountpoints":[null]}]},
 {"kname":"sdb","path":"/dev/sdb","maj:min":"8:16","size":1000,"model":"SAN","tran":"fc","subsystems":"block:scsi:pci","type":"disk","log-sec":512,"fstype":"mpath_member","mountpoints":[null],
  "children":[{"kname":"dm-1","path":"/dev/mapper/mpatha","maj:min":"254:1","size":1000,"type":"mpath","log-sec":512,"mountpoints":[null]}]}
]}`

// A SAN disk with two paths is one disk to install on, and not two.
func TestList_DisksOfEveryKind_AreDescribedOnce(t *testing.T) {
	root := t.TempDir()
	dir := filepath.Join(root, "dev/disk/by-id")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, target := range map[string]string{"nvme-Fast_S1": "../../nvme0n1", "nvme-eui.1": "../../nvme0n1", "nvme-Fast_S1-part1": "../../nvme0n1p1", "dm-name-mpatha": "../../dm-1",
		"wwn-0x5": "../../dm-1", "scsi-35": "../../sdb", "scsi-SSAN": "../../sda"} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	devices := Devices{Root: root, Run: func(context.Context, run.Command) (run.Result, error) {
		return run.Result{Stdout: []byte(lsblkAnswer)}, nil
	}}
	got, err := devices.List(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	want := []Disk{
		{Name: "dm-1", Path: "/dev/mapper/mpatha", Links: []string{"dm-name-mpatha", "scsi-35", "scsi-SSAN", "wwn-0x5"}, Size: 1000, Model: "SAN", Transport: "fc",
			Subsystems: "block:scsi:pci", Type: "mpath", Major: 254, SectorSize: 512, Members: []string{"/dev/sda", "/dev/sdb"}},
		{Name: "nvme0n1", Path: "/dev/nvme0n1", Links: []string{"nvme-Fast_S1", "nvme-eui.1"}, Size: 107374182400, Serial: "S1",
			Model: "Fast", WWN: "eui.1", Transport: "nvme", Subsystems: "block:nvme:pci", Type: "disk", Major: 259,
			SectorSize: 4096, Signature: "gpt", Mounted: true, Partitions: []Partition{
				{Number: 1, Path: "/dev/nvme0n1p1", GUID: "ef", Label: "esp", Size: 8192},
				{Number: 2, Path: "/dev/nvme0n1p2", GUID: "ab", Type: "cd", Label: "root", Size: 4096},
			}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// disk is a disk of 1 MiB with one partition, its table built from the specification.
func disk(t *testing.T, sector int) []byte {
	t.Helper()
	const size = 1 << 20
	image := make([]byte, size)
	last := size/sector - 1
	entries := make([]byte, 128*128)
	copy(entries[128:], entry("esp"))
	perSector := len(entries) / sector
	putHeader(image[sector:][:sector], entries, 1, last, 2)
	copy(image[2*sector:], entries)
	putHeader(image[last*sector:], entries, last, 1, last-perSector)
	copy(image[(last-perSector)*sector:], entries)
	return image
}

func want(state State, sector int) Table {
	table := Table{State: state, SectorSize: sector}
	if state != TableNone {
		table.DiskGUID, table.FirstUsable, table.LastUsable = "03020100-0504-0706-0809-0a0b0c0d0e0f", 40, 200
		table.Entries = []Entry{{Number: 2, Type: "c12a7328-f81f-11d2-ba4b-00a0c93ec93b", GUID: "13121110-1514-1716-1819-1a1b1c1d1e1f",
			First: 64, Last: 127, Attributes: 1 << 60, Name: "esp"}}
	}
	return table
}

// A disk whose primary header was overwritten still holds somebody's data.
func TestReadTable_EveryDamage_IsToldApart(t *testing.T) {
	for _, sector := range []int{512, 2048, 4096} {
		last := (1<<20)/sector - 1
		for name, test := range map[string]struct {
			damage func([]byte)
			state  State
		}{
			"none":                    {func([]byte) {}, TableValid},
			"backup gone":             {func(b []byte) { clear(b[last*sector:]) }, TableValid},
			"primary gone":            {func(b []byte) { clear(b[:2*sector]) }, TablePrimaryDamaged},
			"primary flipped":         {func(b []byte) { b[sector+60] ^= 1 }, TablePrimaryDamaged},
			"primary entries flipped": {func(b []byte) { b[2*sector+300] ^= 1 }, TablePrimaryDamaged},
			"both gone":               {func(b []byte) { clear(b[:2*sector]); clear(b[last*sector:]) }, TableNone},
			"primary moved":           {func(b []byte) { b[sector+24]++ }, TablePrimaryDamaged},
			"huge entries":            {func(b []byte) { b[sector+83] = 0xff; fixHeader(b[sector:][:sector]) }, TablePrimaryDamaged},
			"entries beyond the end":  {func(b []byte) { b[sector+79] = 0x7f; fixHeader(b[sector:][:sector]) }, TablePrimaryDamaged},
			"header of no length":     {func(b []byte) { clear(b[sector+12:][:4]) }, TablePrimaryDamaged},
		} {
			image := disk(t, sector)
			test.damage(image)
			got, err := ReadTable(bytes.NewReader(image), int64(len(image)), sector)
			if err != nil {
				t.Errorf("%s, sectors of %d: %v", name, sector, err)
			}
			if diff := cmp.Diff(want(test.state, sector), got); diff != "" {
				t.Errorf("%s, sectors of %d:\n%s", name, sector, diff)
			}
		}
	}
}

// Every disk of the machine is looked at, whatever it holds.
func FuzzReadTable_AnyDisk_NoPanic(f *testing.F) {
	f.Add([]byte("EFI PART"), 512)
	f.Add(make([]byte, 8192), 4096)
	f.Fuzz(func(t *testing.T, data []byte, sector int) {
		image := make([]byte, 64<<10)
		copy(image[512:], data)
		if sector == 512 {
			fixHeader(image[512:1024])
		}
		table, err := ReadTable(bytes.NewReader(image), int64(len(image)), sector)
		if err == nil && table.State == TableNone && len(table.Entries) > 0 {
			t.Error("entries without a table")
		}
	})
}

// Old data must not shine through where zeros are left out of a copy.
func TestZero_PartOfAFile_OnlyThatPart(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "disk"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Write(bytes.Repeat([]byte{0xa5}, 3<<20)); err != nil {
		t.Fatal(err)
	}
	for _, zero := range []func(offset int64) error{
		func(offset int64) error { return Zero(context.Background(), f, offset, 4096) },
		func(offset int64) error { return writeZeros(f, offset, 4096) },
	} {
		if err := zero(1 << 20); err != nil {
			t.Fatal(err)
		}
		if err := Sync(f); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(f.Name())
		if err != nil {
			t.Fatal(err)
		}
		wanted := bytes.Repeat([]byte{0xa5}, 3<<20)
		clear(wanted[1<<20:][:4096])
		if !bytes.Equal(wanted, got) {
			t.Error("the file is not zero there and unchanged elsewhere")
		}
		if _, err := f.WriteAt(bytes.Repeat([]byte{0xa5}, 4096), 1<<20); err != nil {
			t.Fatal(err)
		}
	}
}

func TestPresent_FileThereAndGone_IsToldApart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "medium")
	if got, err := Present(path); got || err != nil {
		t.Errorf("got %t, %v", got, err)
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := Present(path); !got || err != nil {
		t.Errorf("got %t, %v", got, err)
	}
}

// A disk that two systems have used has the signatures of both, of which blkid tells none.
func TestSignatures_AnswersOfWipefs_AreEachSortOnce(t *testing.T) {
	for answer, want := range map[string][]string{
		"": nil,
		`{"signatures":[{"type":"zfs_member"},{"type":"zfs_member"},{"type":"LVM2_member"}]}`: {"LVM2_member", "zfs_member"},
		`{"signatures":[]}`: nil,
	} {
		devices := Devices{Run: func(context.Context, run.Command) (run.Result, error) { return run.Result{Stdout: []byte(answer)}, nil }}
		got, err := devices.Signatures(t.Context(), "/dev/vda")
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("%q: %v\n%s", answer, err, diff)
		}
	}
	devices := Devices{Run: func(context.Context, run.Command) (run.Result, error) { return run.Result{Stdout: []byte("{")}, nil }}
	if got, err := devices.Signatures(t.Context(), "/dev/vda"); err == nil {
		t.Errorf("got %v", got)
	}
}

func TestPartitionNode_PartitionThatComesLate_IsWaitedFor(t *testing.T) {
	asked := 0
	devices := Devices{Root: t.TempDir(), Run: func(context.Context, run.Command) (run.Result, error) {
		if asked++; asked == 1 {
			return run.Result{Stdout: []byte(`{"blockdevices":[{"kname":"vda","path":"/dev/vda","size":1}]}`)}, nil
		}
		return run.Result{Stdout: []byte(`{"blockdevices":[{"kname":"vda","path":"/dev/vda","size":1,"children":[{"kname":"vda1","path":"/dev/vda1","type":"part","size":1}]}]}`)}, nil
	}}
	if got, err := devices.PartitionNode(t.Context(), "/dev/vda", 1); got != "/dev/vda1" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if got, err := devices.PartitionNode(ctx, "/dev/vda", 2); err == nil {
		t.Errorf("got %q", got)
	}
}

// What was there before may have had secrets in it.
func TestWriteWhole_ShorterThanBefore_LeavesNothingOfIt(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "seed"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(3 << 20); err != nil {
		t.Fatal(err)
	}
	long := bytes.Repeat([]byte("secret"), 400_000) // over two of the pieces that are looked at
	for _, data := range [][]byte{long, []byte("short")} {
		if err := WriteWhole(t.Context(), f, data); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	if want := append([]byte("short"), make([]byte, 3<<20-5)...); !bytes.Equal(got, want) {
		t.Errorf("%d bytes are there that are not zero, of %d", len(bytes.Trim(got, "\x00")), len(got))
	}
	if err := WriteWhole(t.Context(), f, make([]byte, 3<<20+1)); err == nil {
		t.Error("one byte more than there is room for was taken")
	}
}
