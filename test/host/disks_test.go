//go:build linux

package host

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	api "github.com/holdfast-os/holdfast/api/seed"
	"github.com/holdfast-os/holdfast/internal/install"
	"github.com/holdfast-os/holdfast/internal/installer"
	"github.com/holdfast-os/holdfast/internal/layout"
	"github.com/holdfast-os/holdfast/internal/seed"
	"github.com/holdfast-os/holdfast/internal/system/block"
	"github.com/holdfast-os/holdfast/internal/system/efi"
	"github.com/holdfast-os/holdfast/internal/system/run"
	"github.com/holdfast-os/holdfast/test/needs"
)

// strangeDisk is a loop device that the installer meets as a disk of a virtual machine.
type strangeDisk struct {
	// make writes what was on the disk; nil for nothing.
	make func(t *testing.T, image string)
	// losetup are more arguments for losetup.
	losetup []string
	// after is done to the image once it is attached; nil for nothing.
	after func(t *testing.T, image string)
}

// attached makes the loop device of a strange disk.
func (d strangeDisk) attached(t *testing.T) string {
	t.Helper()
	needLoop(t)
	needs.Programs(t, "losetup", "lsblk", "wipefs", "sfdisk")
	image := newImage(t, layout.MinimumDisk)
	if d.make != nil {
		d.make(t, image)
	}
	out, err := exec.Command("losetup", append([]string{"--find", "--show"}, append(d.losetup, image)...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("losetup: %v: %s", err, out)
	}
	path := strings.TrimSpace(string(out))
	t.Cleanup(func() {
		if err := exec.Command("losetup", "--detach", path).Run(); err != nil {
			t.Error(err)
		}
	})
	if d.after != nil {
		d.after(t, image)
	}
	return path
}

// asDisks is a Runner whose lsblk shows these loop devices as disks, and no others. All else
// is what the real programs say.
func asDisks(devices []string) run.Runner {
	return func(ctx context.Context, c run.Command) (run.Result, error) {
		result, err := run.Host(ctx, c)
		if c.Name != "lsblk" || err != nil {
			return result, err
		}
		var answer struct {
			BlockDevices []map[string]any `json:"blockdevices"`
		}
		if err := json.Unmarshal(result.Stdout, &answer); err != nil {
			return result, err
		}
		answer.BlockDevices = slices.DeleteFunc(answer.BlockDevices, func(d map[string]any) bool {
			path, _ := d["path"].(string)
			return !slices.Contains(devices, path)
		})
		for _, d := range answer.BlockDevices {
			d["type"], d["subsystems"] = "disk", "block:virtio:pci"
		}
		result.Stdout, err = json.Marshal(answer)
		return result, err
	}
}

// decide runs the real gathering of facts, the checks and the plan. It gives the rules that
// are broken, or what is going to be written to.
func decide(t *testing.T, request api.Install, espSector uint16, devices ...string) string {
	t.Helper()
	o := installOptions(t)
	medium := newMedium(t)
	writeAt(t, medium, binary.LittleEndian.AppendUint16(nil, espSector), layout.Start(layout.ESP)+11)
	writeFile(t, filepath.Join(o.Root, efi.DefaultDir, "SecureBoot-"+efi.Global), "\x06\x00\x00\x00\x01")
	writeFile(t, filepath.Join(o.Root, "sys/class/tpm/tpm0/tpm_version_major"), "2\n")
	ids := filepath.Join(o.Root, "dev/disk/by-id")
	if err := os.MkdirAll(ids, 0o755); err != nil {
		t.Fatal(err)
	}
	for i, device := range devices {
		if err := os.Symlink("../../"+filepath.Base(device), filepath.Join(ids, fmt.Sprintf("virtio-disk%d", i))); err != nil {
			t.Fatal(err)
		}
	}
	o.Seed, o.SourceDisk, o.Version, o.Runner = &seed.Set{Install: &request}, medium, installVersion, asDisks(devices)
	machine, err := installer.Gather(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	target, problems := install.Check(machine)
	var rules []string
	for _, problem := range problems {
		t.Log(problem.Error())
		rules = append(rules, problem.Rule)
	}
	if len(rules) > 0 {
		return strings.Join(rules, " ")
	}
	plan, err := install.NewPlan(install.Input{Arch: layout.X86_64, Medium: machine.Medium, Target: target, NewGUID: fixedGUIDs()})
	if err != nil {
		t.Fatal(err)
	}
	_, sector, _ := strings.Cut(plan.Table, "sector-size: ")
	sector, _, _ = strings.Cut(sector, "\n")
	return fmt.Sprintf("install disk%d with sectors of %s", slices.Index(devices, plan.Target), sector)
}

// Writers of what somebody has left on a disk. The places are those of each format.

func bytesAt(offset int64, data string) func(*testing.T, string) {
	return func(t *testing.T, image string) { writeAt(t, image, []byte(data), offset) }
}

func tool(name string, args ...string) func(*testing.T, string) {
	return func(t *testing.T, image string) {
		t.Helper()
		needs.Programs(t, name)
		if out, err := exec.Command(name, append(args, image)...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", name, err, out)
		}
	}
}

func all(makers ...func(*testing.T, string)) func(*testing.T, string) {
	return func(t *testing.T, image string) {
		for _, make := range makers {
			make(t, image)
		}
	}
}

// gpt is a disk of somebody else with one partition.
func gpt(t *testing.T, image string) {
	t.Helper()
	script := "label: gpt\n1 : start=2048, size=8192, name=\"somebody's data\"\n"
	if err := (block.Devices{Run: run.Host}).WriteTable(t.Context(), image, script); err != nil {
		t.Fatal(err)
	}
}

// zeroed overwrites with zeros; a negative offset counts from the end.
func zeroed(offset, length int64) func(*testing.T, string) {
	return func(t *testing.T, image string) {
		if offset < 0 {
			offset += layout.MinimumDisk
		}
		writeAt(t, image, make([]byte, length), offset)
	}
}

// raid is a member of a Linux software RAID with metadata 1.x at an offset.
func raid(offset int64) func(*testing.T, string) {
	return func(t *testing.T, image string) {
		super := make([]byte, 256)
		binary.LittleEndian.PutUint32(super, 0xa92b4efc)
		binary.LittleEndian.PutUint32(super[4:], 1)
		copy(super[16:], "0123456789abcdef")
		binary.LittleEndian.PutUint64(super[144:], uint64(offset/512))
		var sum uint64
		for i := 0; i < len(super); i += 4 {
			sum += uint64(binary.LittleEndian.Uint32(super[i:]))
		}
		binary.LittleEndian.PutUint32(super[216:], uint32(sum&0xffffffff)+uint32(sum>>32))
		writeAt(t, image, super, offset)
	}
}

// lvm is a physical volume of LVM2.
func lvm(t *testing.T, image string) {
	label := make([]byte, 512)
	copy(label, "LABELONE")
	label[8] = 1 // the sector
	binary.LittleEndian.PutUint32(label[20:], 32)
	copy(label[24:], "LVM2 001"+strings.Repeat("x", 32))
	// LVM starts its CRC-32 with a value of its own and does not invert it.
	crc := ^crc32.Update(^uint32(0xf597a6cf), crc32.IEEETable, label[20:])
	binary.LittleEndian.PutUint32(label[16:], crc)
	writeAt(t, image, label, 512)
}

// zfs is a member of a pool: labels of 256 KiB at both ends, each with an array of uberblocks.
func zfs(t *testing.T, image string) {
	uberblock := binary.LittleEndian.AppendUint64(nil, 0x00bab10c)
	for _, label := range []int64{0, 256 << 10, layout.MinimumDisk - 512<<10, layout.MinimumDisk - 256<<10} {
		for i := range int64(16) {
			writeAt(t, image, uberblock, label+128<<10+i<<10)
		}
	}
}

// formerHoldfast is a node that was installed and has started since.
func formerHoldfast(version string) func(*testing.T, string) {
	return func(t *testing.T, image string) {
		t.Helper()
		guids := map[int]string{}
		for number := layout.ESP; number <= layout.UsrB; number++ {
			guids[number] = fmt.Sprintf("cccccccc-0000-4000-8000-%012d", number)
		}
		script, err := layout.InstallTable(layout.TableOptions{Arch: layout.X86_64, Version: version, DiskSize: layout.MinimumDisk, UUIDs: guids})
		if err != nil {
			t.Fatal(err)
		}
		script += fmt.Sprintf("9 : start=%d, size=2097152, name=\"swap\"\n", layout.Start(layout.Swap)/512)
		if err := (block.Devices{Run: run.Host}).WriteTable(t.Context(), image, script); err != nil {
			t.Fatal(err)
		}
	}
}

// cut is an installation whose power was cut before a step.
func cut(step string) func(*testing.T, string) {
	return func(t *testing.T, image string) {
		t.Helper()
		if err := installOnce(t, installOptions(t), newMedium(t), image, step); err == nil {
			t.Fatal("the installation was not cut")
		}
	}
}

// Disks come out of other machines with all that was on them. Whatever that is, nothing is
// lost without force_install, a disk of no use is not taken, and an empty one is.
func TestInstall_StrangeDisk_IsTakenOnlyWhenNothingIsLost(t *testing.T) {
	const install512, occupied = "install disk0 with sectors of 512", "target-occupied"
	const middle = layout.MinimumDisk / 2
	for name, test := range map[string]struct {
		disk   strangeDisk
		sector uint16 // of the medium's ESP; default 512
		want   string
		forced string // with force_install; default install512
	}{
		"empty":                            {strangeDisk{}, 0, install512, ""},
		"GPT":                              {strangeDisk{make: gpt}, 0, occupied, ""},
		"GPT, primary header damaged":      {strangeDisk{make: all(gpt, zeroed(512, 512))}, 0, occupied, ""},
		"GPT, primary table and MBR gone":  {strangeDisk{make: all(gpt, zeroed(0, 34*512))}, 0, occupied, ""},
		"GPT, backup header damaged":       {strangeDisk{make: all(gpt, zeroed(-512, 512))}, 0, occupied, ""},
		"GPT, both headers damaged":        {strangeDisk{make: all(gpt, zeroed(512, 512), zeroed(-512, 512))}, 0, occupied, ""},
		"MBR":                              {strangeDisk{make: func(t *testing.T, i string) { scriptTable(t, i, "label: dos\n1 : start=2048, size=8192\n") }}, 0, occupied, ""},
		"file system without partitions":   {strangeDisk{make: tool("mkfs.ext4", "-q", "-E", "lazy_itable_init=1,nodiscard")}, 0, occupied, ""},
		"file system under another's MBR":  {strangeDisk{make: all(tool("mkfs.ext4", "-q", "-E", "lazy_itable_init=1"), func(t *testing.T, i string) { scriptTable(t, i, "label: dos\n") })}, 0, occupied, ""},
		"RAID, metadata 1.1":               {strangeDisk{make: raid(0)}, 0, occupied, ""},
		"RAID, metadata 1.2":               {strangeDisk{make: raid(4096)}, 0, occupied, ""},
		"RAID, metadata 1.0 at the end":    {strangeDisk{make: raid(layout.MinimumDisk - 8<<10)}, 0, occupied, ""},
		"RAID of the chipset (Intel)":      {strangeDisk{make: bytesAt(layout.MinimumDisk-1024, "Intel Raid ISM Cfg Sig. 1.1.00")}, 0, occupied, ""},
		"LVM":                              {strangeDisk{make: lvm}, 0, occupied, ""},
		"ZFS":                              {strangeDisk{make: zfs}, 0, occupied, ""},
		"ZFS under LVM":                    {strangeDisk{make: all(zfs, lvm)}, 0, occupied, ""},
		"Ceph":                             {strangeDisk{make: bytesAt(0, "bluestore block device\n0123")}, 0, occupied, ""},
		"LUKS":                             {strangeDisk{make: bytesAt(0, "LUKS\xba\xbe\x00\x01")}, 0, occupied, ""},
		"old bytes that nobody recognises": {strangeDisk{make: bytesAt(middle, strings.Repeat("old", 1000))}, 0, install512, ""},
		"former Holdfast":                  {strangeDisk{make: formerHoldfast("202601010000")}, 0, occupied, ""},
		"former Holdfast, same release":    {strangeDisk{make: formerHoldfast(installVersion)}, 0, occupied, "target-confirmation"},
		"installation cut at its start":    {strangeDisk{make: cut("copy Holdfast_202611220104:")}, 0, install512, ""},
		"installation cut at its end":      {strangeDisk{make: cut("unmark")}, 0, install512, ""},
		"4Kn":                              {strangeDisk{losetup: []string{"--sector-size", "4096"}}, 4096, "install disk0 with sectors of 4096", "install disk0 with sectors of 4096"},
		"4Kn, medium of before":            {strangeDisk{losetup: []string{"--sector-size", "4096"}}, 512, "target-sector", "target-sector"},
		"GPT for 512 on 4Kn":               {strangeDisk{make: gpt, losetup: []string{"--sector-size", "4096"}}, 4096, occupied, "install disk0 with sectors of 4096"},
		"sectors of 512, medium for 4096":  {strangeDisk{}, 4096, install512, ""},
		"read-only":                        {strangeDisk{losetup: []string{"--read-only"}}, 0, "target-read-only", "target-read-only"},
		"read errors everywhere": {strangeDisk{after: func(t *testing.T, image string) {
			if err := os.Truncate(image, 0); err != nil {
				t.Fatal(err)
			}
		}}, 0, "target-unreadable", "target-unreadable"},
	} {
		t.Run(name, func(t *testing.T) {
			device, sector := test.disk.attached(t), test.sector
			if sector == 0 {
				sector = 512
			}
			if test.forced == "" {
				test.forced = install512
			}
			got := []string{decide(t, api.Install{}, sector, device), decide(t, api.Install{ForceInstall: true}, sector, device)}
			if diff := cmp.Diff([]string{test.want, test.forced}, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func scriptTable(t *testing.T, image, script string) {
	t.Helper()
	c := exec.Command("sfdisk", "--quiet", "--wipe", "never", image)
	c.Stdin = strings.NewReader(script)
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("sfdisk: %v: %s", err, out)
	}
}

// Two disks that are copies of each other have the same labels and ids in their tables. The
// installer goes by the disks themselves, and the confirmation is that of the one chosen.
func TestInstall_TwoDisksWithTheSameTable_TakesTheOneThatWasNamed(t *testing.T) {
	twin := strangeDisk{make: formerHoldfast(installVersion)}
	first, second := twin.attached(t), twin.attached(t)
	named := &api.InstallTarget{ID: "virtio-disk1"}
	for _, test := range []struct {
		request api.Install
		want    string
	}{
		{api.Install{}, "target-several"},
		{api.Install{ForceInstall: true}, "target-several"},
		{api.Install{Target: named}, "target-occupied"},
		{api.Install{Target: named, ForceInstall: true}, "target-confirmation"},
		{api.Install{Target: named, ForceInstall: true, ForceInstallConfirmation: "cccccc"}, "install disk1 with sectors of 512"},
	} {
		if got := decide(t, test.request, 512, first, second); got != test.want {
			t.Errorf("%+v: got %s, want %s", test.request, got, test.want)
		}
	}
}

// A disk that fails must not leave another one, with somebody's data, as the only choice.
func TestInstall_OneOfTwoDisksFails_OtherIsNotTakenByItself(t *testing.T) {
	broken := strangeDisk{after: func(t *testing.T, image string) {
		if err := os.Truncate(image, 0); err != nil {
			t.Fatal(err)
		}
	}}.attached(t)
	if got := decide(t, api.Install{}, 512, broken, strangeDisk{}.attached(t)); got != "target-several" {
		t.Errorf("got %s", got)
	}
}

// What is written to a disk with large sectors is a table of large sectors, and it is read
// back as one; the rests of a table for small ones are gone.
func TestInstall_DiskWithLargeSectors_HasItsTableAlone(t *testing.T) {
	device := strangeDisk{make: gpt, losetup: []string{"--sector-size", "4096"}}.attached(t)
	medium, o := newMedium(t), installOptions(t)
	described, err := installer.ReadMedium(medium, installVersion)
	if err != nil {
		t.Fatal(err)
	}
	host, err := installer.Open(t.Context(), o, medium, device)
	if err != nil {
		t.Fatal(err)
	}
	defer host.Close()
	plan, err := install.NewPlan(install.Input{Arch: layout.X86_64, Medium: described, NewGUID: fixedGUIDs(), Restart: true,
		Target: install.Disk{Path: device, Size: layout.MinimumDisk, Sector: 4096}, Seed: []byte("seed")})
	if err != nil {
		t.Fatal(err)
	}
	// A sparse medium is copied fast enough; what is used of it is another test's matter.
	if err := install.Run(t.Context(), plan, host, install.Observer{}); err != nil {
		t.Fatal(err)
	}
	content, err := installer.Inspect(device)
	if err != nil {
		t.Fatal(err)
	}
	if content.Table != install.ValidTable || len(content.Parts) != 8 || content.Parts[0].Start != layout.MiB {
		t.Errorf("got %+v", content)
	}
	f, err := os.Open(device)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	head := make([]byte, 4096)
	if _, err := f.ReadAt(head, 0); err != nil {
		t.Fatal(err)
	}
	if bytes.HasPrefix(head[512:], []byte("EFI PART")) {
		t.Error("the header for sectors of 512 bytes is still there")
	}
}
