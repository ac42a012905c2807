package earlyboot

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/internal/bootinfo"
	"github.com/holdfast-os/holdfast/internal/system/run"
)

const diskWWID = "35000c500a1b2c3d4"

// storageNetwork has three paths to the disk of this start, a partition of one of them, a disk
// that is somebody else's, and one that udev has not looked at yet.
func storageNetwork(t *testing.T, dir string) {
	t.Helper()
	for _, disk := range []struct{ name, device, udev string }{
		{"sda", "8:0", "E:HOLDFAST_DISK=path\nE:ID_SERIAL=" + diskWWID + "\n"},
		{"sda1", "8:1", "E:HOLDFAST_DISK=path\nE:ID_SERIAL=" + diskWWID + "\n"},
		{"sdb", "8:16", "I:1\nE:ID_SERIAL=" + diskWWID + "\nE:HOLDFAST_DISK=path\n"},
		{"sdc", "8:32", "E:ID_SERIAL=35000c500ffffffff\n"},
		{"sdd", "8:48", ""},
		{"sde", "8:64", "E:HOLDFAST_DISK=other\nE:ID_SERIAL=" + diskWWID + "\n"},
	} {
		at := dir + "/sys/class/block/" + disk.name
		write(t, at+"/dev", disk.device+"\n")
		write(t, at+"/size", "41943040\n")
		if strings.HasSuffix(disk.name, "1") {
			write(t, at+"/partition", "1\n")
		}
		if disk.udev != "" {
			write(t, dir+"/run/udev/data/b"+disk.device, disk.udev)
		}
	}
}

// joins are the programs that made a map.
func joins(done []string) []string {
	return slices.DeleteFunc(slices.Clone(done), func(line string) bool { return strings.HasPrefix(line, "udevadm") })
}

func TestFindMedium_DiskOverTwoPaths_IsJoinedOnce(t *testing.T) {
	var dir string
	var done *[]string
	link := func(c run.Command) (run.Result, error) {
		if filepath.Base(c.Name) == "kpartx" { // the partitions have names from here on
			write(t, dir+"/dev/disk/by-partuuid/"+strings.ToLower(espID), "")
		}
		return run.Result{}, nil
	}
	host, dir, done := testHost(t, link)
	storageNetwork(t, dir)
	write(t, filepath.Join(dir, "sys", loaderDevice), variable(espID))
	var said []string
	if err := host.FindMedium(t.Context(), usrHash, nil, func(line string) { said = append(said, line) }); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"dmsetup create " + diskWWID + " --uuid mpath-" + diskWWID +
			" --table 0 41943040 multipath 1 retain_attached_hw_handler 0 1 1 service-time 0 2 1 8:0 1 8:16 1",
		"kpartx -u -s -p -part /dev/mapper/" + diskWWID,
	}
	if diff := cmp.Diff(want, joins(*done)); diff != "" {
		t.Error(diff)
	}
	if want := "The system disk " + diskWWID + " is reached over 2 paths."; !slices.Contains(said, want) {
		t.Errorf("said %q", said)
	}
}

// A copy that the storage made of the disk is no path to it.
func TestJoinPaths_CopyOfTheDisk_IsToldAndLeftOut(t *testing.T) {
	host, dir, done := testHost(t, healthy)
	storageNetwork(t, dir)
	write(t, dir+"/run/udev/data/b8:16", "E:ID_SERIAL=3600ffff\nE:HOLDFAST_DISK=path\n")
	var said []string
	ok, err := host.joinPaths(t.Context(), func(line string) { said = append(said, line) })
	if !ok || err != nil {
		t.Fatal(ok, err)
	}
	if table := joins(*done)[0]; !strings.HasSuffix(table, "service-time 0 1 1 8:0 1") {
		t.Errorf("got %s", table)
	}
	if !strings.Contains(strings.Join(said, "\n"), "Two disks carry this system: "+diskWWID+", which is used, and 3600ffff") {
		t.Errorf("said %q", said)
	}
}

func TestJoinPaths_KernelRefuses_IsAnErrorThatNamesTheDisk(t *testing.T) {
	host, dir, _ := testHost(t, func(c run.Command) (run.Result, error) {
		if filepath.Base(c.Name) == "dmsetup" {
			return run.Result{}, errors.New("device or resource busy")
		}
		return run.Result{}, nil
	})
	storageNetwork(t, dir)
	if ok, err := host.joinPaths(t.Context(), func(string) {}); ok || err == nil || !strings.Contains(err.Error(), diskWWID) {
		t.Errorf("got %t, %v", ok, err)
	}
}

func TestJoinPaths_NoPath_DoesNothing(t *testing.T) {
	host, _, done := testHost(t, healthy)
	if ok, err := host.joinPaths(t.Context(), func(string) {}); ok || err != nil || len(*done) > 0 {
		t.Errorf("got %t, %v, %q", ok, err, *done)
	}
}

// mapped is a system disk that was joined, with an ESP and a root volume, and /usr above.
func mapped(t *testing.T, dir string) {
	t.Helper()
	block := dir + "/sys/class/block/"
	write(t, block+"dm-0/dm/uuid", "mpath-"+diskWWID+"\n")
	write(t, block+"dm-0/dm/name", diskWWID+"\n")
	write(t, block+"dm-0/size", "41943040\n")
	write(t, block+"dm-0/ro", "0\n")
	for device, number := range map[string]string{"dm-1": "1", "dm-2": "10"} {
		write(t, block+device+"/dm/uuid", "part"+number+"-mpath-"+diskWWID+"\n")
		write(t, block+device+"/dm/name", diskWWID+"-part"+number+"\n")
		write(t, block+device+"/slaves/dm-0/x", "")
		write(t, block+"dm-0/holders/"+device+"/x", "")
	}
	write(t, block+"dm-3/dm/uuid", "CRYPT-VERITY-1-usr\n")
	write(t, dir+"/dev/dm-0", "")
	write(t, dir+"/dev/dm-1", "")
	link(t, "../dm-0", dir+"/dev/mapper/"+diskWWID)
}

func TestSystemDisk_OverPaths_IsTheMapWithItsPartitions(t *testing.T) {
	host, dir, _ := testHost(t, healthy)
	mapped(t, dir)
	write(t, filepath.Join(dir, "sys", loaderDevice), variable(espID))
	link(t, "../../dm-1", dir+"/dev/disk/by-partuuid/"+strings.ToLower(espID))
	got, err := host.SystemDisk(t.Context())
	node := "/dev/mapper/" + diskWWID
	want := Disk{Path: node, Medium: node, Size: 20 << 30, Partitions: map[int]string{1: node + "-part1", 10: node + "-part10"}}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v: %s", err, diff)
	}
}

// systemd-repart tells the kernel of new partitions, and the kernel knows none on a map.
func TestTableMake_OverPaths_MapsTheNewPartitions(t *testing.T) {
	for node, want := range map[string]bool{"/dev/mapper/" + diskWWID: true, "/dev/vda": false} {
		host, dir, done := testHost(t, healthy)
		mapped(t, dir)
		write(t, dir+"/dev/vda", "")
		if err := host.Table().Make(t.Context(), node, PartitionOptions{RecoveryKey: "k"}); err != nil {
			t.Fatal(err)
		}
		if got := slices.Contains(*done, "kpartx -u -s -p -part "+node); got != want {
			t.Errorf("%s: %q", node, *done)
		}
	}
}

func TestWriteMultipath_EachStart_NamesWhatIsMultipathds(t *testing.T) {
	for name, test := range map[string]struct {
		info  bootinfo.Info
		wants map[string]string
	}{
		"a node over paths": {bootinfo.Info{Mode: bootinfo.Node, BootDisk: "/dev/mapper/" + diskWWID},
			map[string]string{knownDisks: "/" + diskWWID + "/\n"}},
		"any other node": {bootinfo.Info{Mode: bootinfo.Node, BootDisk: "/dev/vda"}, nil},
		"an install medium": {bootinfo.Info{Mode: bootinfo.Install, BootDisk: "/dev/vda"},
			map[string]string{knownDisks: "", mediumConfig: "defaults {\n\tfind_multipaths yes\n}\n"}},
	} {
		host, dir, _ := testHost(t, healthy)
		mapped(t, dir)
		write(t, dir+"/dev/vda", "")
		etc := t.TempDir()
		if err := host.writeMultipath(test.info, etc); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for _, file := range []string{knownDisks, mediumConfig} {
			want, wanted := test.wants[file]
			got, err := os.ReadFile(filepath.Join(etc, file))
			if wanted && (err != nil || string(got) != want) || !wanted && !errors.Is(err, os.ErrNotExist) {
				t.Errorf("%s: %s: %q, %v", name, file, got, err)
			}
		}
	}
}
