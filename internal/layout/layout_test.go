package layout_test

import (
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/internal/layout"
)

// The tools that customize IncusOS images write a seed at this very byte.
func TestSeedOffset_IsWhereForeignToolsWrite(t *testing.T) {
	if got := layout.SeedOffset(); got != 2148532224 {
		t.Errorf("got %d, want 2148532224", got)
	}
}

// Whoever changes a size sees here what it moves on every disk.
func TestTable_Offsets_AreTheseBytes(t *testing.T) {
	table, err := layout.Table("x86_64")
	if err != nil {
		t.Fatal(err)
	}
	type row struct {
		Label       string
		Start, Size int64
	}
	var got []row
	for _, p := range table {
		got = append(got, row{p.Label, p.Start, p.Size})
		if p.Start%4096 != 0 || p.Size%4096 != 0 {
			t.Errorf("partition %d does not fit a disk with sectors of 4096", p.Number)
		}
	}
	want := []row{
		{"esp", 1048576, 2147483648},
		{"seed-data", 2148532224, 104857600},
		{"Holdfast_%_verity_sig", 2253389824, 16384},
		{"Holdfast_%_verity", 2253406208, 67108864},
		{"Holdfast_%", 2320515072, 2147483648},
		{"_empty", 4467998720, 16384},
		{"_empty", 4468015104, 67108864},
		{"_empty", 4535123968, 2147483648},
		{"swap", 6682607616, 1073741824},
		{"root-x86-64", 7756349440, 4831838208},
		{"local-data", 12588187648, 0},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// The smallest disk must hold the system and leave room for instances.
func TestTable_SmallestDisk_HasRoomForData(t *testing.T) {
	if layout.Start(layout.LocalData) > layout.MaximumSystem {
		t.Errorf("the system takes %d bytes", layout.Start(layout.LocalData))
	}
}

// The first boot matches partitions by these files; a wrong one formats a disk.
func TestRenderRepart_Node_RendersTheTable(t *testing.T) {
	got, err := layout.RenderRepart("x86_64")
	if err != nil {
		t.Fatal(err)
	}
	names := []string{
		"00-esp.conf", "01-seed.conf", "10-usr-verity-sig.conf", "11-usr-verity.conf", "12-usr.conf",
		"20-usr-verity-sig.conf", "21-usr-verity.conf", "22-usr.conf", "30-swap.conf", "40-root.conf", "50-local-data.conf",
	}
	if diff := cmp.Diff(names, slices.Sorted(maps.Keys(got))); diff != "" {
		t.Error(diff)
	}
	for name, want := range map[string]string{
		"00-esp.conf":            "[Partition]\nType=esp\nLabel=esp\nSizeMinBytes=2147483648\nSizeMaxBytes=2147483648\n",
		"10-usr-verity-sig.conf": "[Partition]\nType=usr-x86-64-verity-sig\nLabel=%M_%A_verity_sig\nSizeMinBytes=16384\nSizeMaxBytes=16384\n",
		"22-usr.conf":            "[Partition]\nType=usr-x86-64\nLabel=_empty\nSizeMinBytes=2147483648\nSizeMaxBytes=2147483648\nNoAuto=1\nWeight=2000\n",
		"40-root.conf":           "[Partition]\nType=root-x86-64\nLabel=root-x86-64\nSizeMinBytes=4831838208\nSizeMaxBytes=4831838208\nFormat=ext4\nEncrypt=key-file+tpm2\n",
		"50-local-data.conf":     "[Partition]\nType=linux-generic\nLabel=local-data\nSizeMinBytes=1073741824\n",
	} {
		if diff := cmp.Diff(want, got[name]); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

// The medium's /usr must be findable by its root hash, and split out under a name
// that carries its UUID.
func TestRenderMediumRepart_Usr_IsVerityDataOfFixedSize(t *testing.T) {
	got, err := layout.RenderMediumRepart("aarch64")
	if err != nil {
		t.Fatal(err)
	}
	want := "[Partition]\nType=usr-arm64\nLabel=%M_%A\nSizeMinBytes=2147483648\nSizeMaxBytes=2147483648\nFormat=erofs\n" +
		"Verity=data\nVerityMatchKey=usr\nCopyFiles=/usr:/\nMinimize=off\nSplitName=%t.%U\n"
	if diff := cmp.Diff(want, got["12-usr.conf"]); diff != "" || len(got) != 5 {
		t.Errorf("%d files, %s", len(got), diff)
	}
}

// An update takes the disk and the release that runs from its caller, never from what
// happens to be mounted or readable; and it becomes bootable last, with three tries.
func TestRenderTransfers_Node_NamesDiskSourceAndProtectedRelease(t *testing.T) {
	got, err := layout.RenderTransfers(layout.TransferOptions{
		Arch: "x86_64", Source: "http://127.0.0.1:4711/00ff/", Disk: "/dev/vda", ESP: "/boot", Protect: "202611220104",
	})
	if err != nil {
		t.Fatal(err)
	}
	top := "[Transfer]\nProtectVersion=202611220104\nVerify=no\n\n[Source]\nType=url-file\nPath=http://127.0.0.1:4711/00ff/\n"
	partition := "\n[Target]\nType=partition\nPath=/dev/vda\n"
	want := map[string]string{
		"10-usr-verity-sig.transfer": top + "MatchPattern=Holdfast_@v.usr-x86-64-verity-sig.@u.raw\n" + partition +
			"MatchPattern=Holdfast_@v_verity_sig\nMatchPartitionType=usr-x86-64-verity-sig\nReadOnly=1\n",
		"20-usr-verity.transfer": top + "MatchPattern=Holdfast_@v.usr-x86-64-verity.@u.raw\n" + partition +
			"MatchPattern=Holdfast_@v_verity\nMatchPartitionType=usr-x86-64-verity\nReadOnly=1\n",
		"30-usr.transfer": top + "MatchPattern=Holdfast_@v.usr-x86-64.@u.raw\n" + partition +
			"MatchPattern=Holdfast_@v\nMatchPartitionType=usr-x86-64\nReadOnly=1\n",
		"40-uki.transfer": top + "MatchPattern=Holdfast_@v.efi\n\n[Target]\nType=regular-file\nPath=/boot/EFI/Linux\n" +
			"MatchPattern=Holdfast_@v+@l-@d.efi Holdfast_@v+@l.efi Holdfast_@v.efi\nMode=0444\nTriesLeft=3\nTriesDone=0\nInstancesMax=2\n",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// What goes into these files decides which partitions are written: nothing that could
// mean a second line, a specifier or another machine gets there.
func TestRenderTransfers_BadOptions_NamesEveryProblem(t *testing.T) {
	good := layout.TransferOptions{Arch: "x86_64", Source: "http://127.0.0.1:1/a/", Disk: "/dev/vda", ESP: "/boot", Protect: "202611220104"}
	for name, c := range map[string]struct {
		change func(*layout.TransferOptions)
		want   string
	}{
		"another machine":  {func(o *layout.TransferOptions) { o.Source = "http://192.0.2.1:1/a/" }, "the source is no http URL of a folder on 127.0.0.1"},
		"a second line":    {func(o *layout.TransferOptions) { o.Disk = "/dev/vda\nPath=/dev/vdb" }, `the disk is "/dev/vda\nPath=/dev/vdb", not a plain absolute path`},
		"a specifier":      {func(o *layout.TransferOptions) { o.ESP = "/boot/%m" }, `the mount point of the ESP is "/boot/%m", not a plain absolute path`},
		"a way up":         {func(o *layout.TransferOptions) { o.ESP = "/boot/../etc" }, `the mount point of the ESP is "/boot/../etc", not a plain absolute path`},
		"nothing to guard": {func(o *layout.TransferOptions) { o.Protect = "" }, `release "" to protect is not 12 digits`},
	} {
		o := good
		c.change(&o)
		_, err := layout.RenderTransfers(o)
		if err == nil || err.Error() != "making the transfers of an update: "+c.want {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// systemd-sysupdate reads version and UUID out of these names.
func TestTransferFiles_Release_AreNamedAsThePatternsSay(t *testing.T) {
	got, err := layout.TransferFiles("x86_64", "202611220104", map[int]string{
		3: "33333333-0000-0000-0000-000000000000", 4: "44444444-0000-0000-0000-000000000000", 5: "55555555-0000-0000-0000-00000000000A",
	})
	want := []string{
		"Holdfast_202611220104.usr-x86-64-verity-sig.33333333-0000-0000-0000-000000000000.raw",
		"Holdfast_202611220104.usr-x86-64-verity.44444444-0000-0000-0000-000000000000.raw",
		"Holdfast_202611220104.usr-x86-64.55555555-0000-0000-0000-00000000000a.raw",
		"Holdfast_202611220104.efi",
	}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Error(diff, err)
	}
	if _, err := layout.TransferFiles("x86_64", "202611220104", nil); err == nil || err.Error() != `naming the files of release 202611220104: UUID "" of partition 3 is not one` {
		t.Errorf("got %v", err)
	}
}

// An installed disk is found by the kernel through the UUIDs of the medium.
func TestInstallTable_LargeSectors_CountsInThem(t *testing.T) {
	uuids := map[int]string{
		3: "33333333-0000-0000-0000-000000000000", 4: "44444444-0000-0000-0000-000000000000", 5: "55555555-0000-0000-0000-00000000000a",
	}
	got, err := layout.InstallTable(layout.TableOptions{Arch: "x86_64", Version: "202611220104", SectorSize: 4096, DiskSize: layout.MinimumDisk, UUIDs: uuids})
	if err != nil {
		t.Fatal(err)
	}
	want := `label: gpt
unit: sectors
sector-size: 4096

1 : start=256, size=524288, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B, name="esp"
2 : start=524544, size=25600, type=0FC63DAF-8483-4772-8E79-3D69D8477DE4, name="seed-data"
3 : start=550144, size=4, type=E7BB33FB-06CF-4E81-8273-E543B413E2E2, uuid=33333333-0000-0000-0000-000000000000, name="Holdfast_202611220104_verity_sig"
4 : start=550148, size=16384, type=77FF5F63-E7B6-4633-ACF4-1565B864C0E6, uuid=44444444-0000-0000-0000-000000000000, name="Holdfast_202611220104_verity"
5 : start=566532, size=524288, type=8484680C-9521-48C6-9C11-B0720656F69E, uuid=55555555-0000-0000-0000-00000000000A, name="Holdfast_202611220104"
6 : start=1090820, size=4, type=E7BB33FB-06CF-4E81-8273-E543B413E2E2, name="_empty"
7 : start=1090824, size=16384, type=77FF5F63-E7B6-4633-ACF4-1565B864C0E6, name="_empty"
8 : start=1107208, size=524288, type=8484680C-9521-48C6-9C11-B0720656F69E, name="_empty"
`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// A script with a hole in it must not reach the program that writes disks; what is
// wrong with it is said at once.
func TestInstallTable_BadOptions_NamesEveryProblem(t *testing.T) {
	_, err := layout.InstallTable(layout.TableOptions{
		Arch: "x86_64", Version: "1\", type=x", SectorSize: 520, DiskSize: 1,
		UUIDs: map[int]string{3: "x, type=y", 4: "44444444-0000-0000-0000-000000000000"},
	})
	want := `making the partition table: sectors of 520 bytes: known are 512 and 4096
release "1\", type=x" is not 12 digits
the disk has 1 bytes, at least 21474836480 are needed
UUID "x, type=y" of partition 3 is not one
no UUID for partition 5`
	if err == nil {
		t.Fatal("no error")
	}
	if diff := cmp.Diff(want, err.Error()); diff != "" {
		t.Error(diff)
	}
}
