//go:build linux

package host

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

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

const installVersion = "202611220104"

func fixedGUIDs() func() string {
	n := 0
	return func() string { n++; return fmt.Sprintf("aaaaaaaa-0000-4000-8000-%012d", n) }
}

// newImage makes a sparse file.
func newImage(t *testing.T, size int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk.img")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
	return path
}

// newMedium makes a medium: the real table, and a little data in each partition.
func newMedium(t *testing.T) string {
	t.Helper()
	path := newImage(t, layout.MinimumDisk)
	guids := map[int]string{}
	for number := layout.ESP; number <= layout.UsrA; number++ {
		guids[number] = fmt.Sprintf("bbbbbbbb-0000-4000-8000-%012d", number)
	}
	script, err := layout.InstallTable(layout.TableOptions{Arch: layout.X86_64, Version: installVersion, DiskSize: layout.MinimumDisk, UUIDs: guids})
	if err != nil {
		t.Fatal(err)
	}
	five, _, _ := strings.Cut(script, "\n6 :")
	if err := (block.Devices{Run: run.Host}).WriteTable(context.Background(), path, five+"\n"); err != nil {
		t.Fatal(err)
	}
	var tar bytes.Buffer
	if err := seed.Write(&tar, &seed.Set{Install: &api.Install{ForceReboot: true}, Applications: &api.Applications{Applications: []api.Application{{Name: "incus"}}}}); err != nil {
		t.Fatal(err)
	}
	boot := make([]byte, 512)
	copy(boot[11:], []byte{0, 2})
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, piece := range []struct {
		offset int64
		data   []byte
	}{
		{layout.Start(layout.ESP), boot},
		{layout.Start(layout.ESP) + 100*layout.MiB, bytes.Repeat([]byte("kernel"), 1<<19)},
		{layout.SeedOffset(), tar.Bytes()},
		{layout.Start(layout.SigA), []byte(`{"rootHash":"00"}`)},
		{layout.Start(layout.VerityA), bytes.Repeat([]byte("hash"), 1<<18)},
		{layout.Start(layout.UsrA), bytes.Repeat([]byte("usr"), 1<<20)},
		{layout.Start(layout.SigB) - 3, []byte("end")},
	} {
		if _, err := f.WriteAt(piece.data, piece.offset); err != nil {
			t.Fatal(err)
		}
	}
	return path
}

func installOptions(t *testing.T) installer.Options {
	t.Helper()
	root := t.TempDir()
	if err := os.MkdirAll(filepath.Join(root, efi.DefaultDir), 0o755); err != nil {
		t.Fatal(err)
	}
	works := func() error { return nil }
	return installer.Options{Root: root, Arch: layout.X86_64, TestTPM: works, Restart: func() error { return nil }}
}

// installOnce installs medium onto target; with stop, it is cut before that step.
func installOnce(t *testing.T, o installer.Options, medium, target string, stop string) error {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	described, err := installer.ReadMedium(medium, installVersion)
	if err != nil {
		t.Fatal(err)
	}
	host, err := installer.Open(ctx, o, medium, target)
	if err != nil {
		t.Fatal(err)
	}
	used, _ := install.Used(host.Medium(), described.Parts) // a partition without a file system is copied in full
	plan, err := install.NewPlan(install.Input{Arch: layout.X86_64, Medium: described, Used: used, NewGUID: fixedGUIDs(), Restart: true,
		Target: install.Disk{Path: target, Size: layout.MinimumDisk, Sector: 512}, Seed: []byte("the seed of the target")})
	if err != nil {
		t.Fatal(err)
	}
	err = install.Run(ctx, plan, host, install.Observer{
		Warn: func(message string) { t.Error(message) },
		Step: func(step install.Step) {
			if stop != "" && strings.HasPrefix(step.String(), stop) {
				cancel()
			}
		},
	})
	if closed := host.Close(); closed != nil {
		t.Error(closed)
	}
	return err
}

// blocks gives a checksum for each block of 1 MiB that is not zero, without the ends
// of the disk, where sfdisk puts a random GUID into the table.
func blocks(t *testing.T, path string) map[int64]string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	found, buffer := map[int64]string{}, make([]byte, layout.MiB)
	for at := int64(layout.MiB); at < layout.MinimumDisk-layout.MiB; at += layout.MiB {
		next, err := f.Seek(at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			break
		}
		if err == nil {
			at = next / layout.MiB * layout.MiB
		}
		if at >= layout.MinimumDisk-layout.MiB {
			break
		}
		if _, err := f.ReadAt(buffer, at); err != nil {
			t.Fatal(err)
		}
		if sum := sha256.Sum256(buffer); !bytes.Equal(buffer, make([]byte, layout.MiB)) {
			found[at] = fmt.Sprintf("%x", sum[:4])
		}
	}
	return found
}

// The disk after an installation, as the real programs leave it.
func TestInstall_RealPrograms_TargetHasTableContentAndBootEntry(t *testing.T) {
	needs.Programs(t, "sfdisk", "wipefs")
	medium, target, o := newMedium(t), newImage(t, layout.MinimumDisk), installOptions(t)
	if err := installOnce(t, o, medium, target, ""); err != nil {
		t.Fatal(err)
	}
	got, err := installer.Inspect(target)
	if err != nil {
		t.Fatal(err)
	}
	const mib = 1 << 20
	want := install.Content{Table: install.ValidTable, Parts: []install.Part{
		{Number: 1, GUID: "aaaaaaaa-0000-4000-8000-000000000001", Label: "esp", Start: mib, Size: 2048 * mib},
		{Number: 2, GUID: "aaaaaaaa-0000-4000-8000-000000000002", Label: "seed-data", Start: 2148532224, Size: 100 * mib},
		{Number: 3, GUID: "bbbbbbbb-0000-4000-8000-000000000003", Label: "Holdfast_202611220104_verity_sig", Start: 2253389824, Size: 16384},
		{Number: 4, GUID: "bbbbbbbb-0000-4000-8000-000000000004", Label: "Holdfast_202611220104_verity", Start: 2253406208, Size: 64 * mib},
		{Number: 5, GUID: "bbbbbbbb-0000-4000-8000-000000000005", Label: "Holdfast_202611220104", Start: 2320515072, Size: 2048 * mib},
		{Number: 6, GUID: "aaaaaaaa-0000-4000-8000-000000000006", Label: "_empty", Start: 4467998720, Size: 16384},
		{Number: 7, GUID: "aaaaaaaa-0000-4000-8000-000000000007", Label: "_empty", Start: 4468015104, Size: 64 * mib},
		{Number: 8, GUID: "aaaaaaaa-0000-4000-8000-000000000008", Label: "_empty", Start: 4535123968, Size: 2048 * mib},
	}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	from, to := blocks(t, medium), blocks(t, target)
	delete(from, layout.SeedOffset())
	delete(to, layout.SeedOffset())
	if diff := cmp.Diff(from, to); diff != "" {
		t.Errorf("medium and target differ beyond the seed:\n%s", diff)
	}
	vars := efi.Vars{Dir: filepath.Join(o.Root, efi.DefaultDir)}
	if complete, err := vars.InstallComplete(); !complete || err != nil {
		t.Errorf("installed is %t, %v", complete, err)
	}
	if order, err := vars.Read("BootOrder", efi.Global); err != nil || !bytes.Equal(order.Data, []byte{0, 0}) {
		t.Errorf("boot order %x, %v", order.Data, err)
	}
}

// The plug was pulled, the medium starts again: nobody has to set force_install, and
// the disk ends as if nothing had happened.
func TestInstall_CutWithRealPrograms_SecondRunEndsTheSame(t *testing.T) {
	needs.Programs(t, "sfdisk", "wipefs")
	medium, whole := newMedium(t), newImage(t, layout.MinimumDisk)
	if err := installOnce(t, installOptions(t), medium, whole, ""); err != nil {
		t.Fatal(err)
	}
	want := blocks(t, whole)
	for _, stop := range []string{"zero esp", "copy Holdfast_202611220104:", "table", "boot-entry", "unmark"} {
		t.Run(stop, func(t *testing.T) {
			target, o := newImage(t, layout.MinimumDisk), installOptions(t)
			if err := installOnce(t, o, medium, target, stop); !errors.Is(err, context.Canceled) {
				t.Fatalf("got %v", err)
			}
			content, err := installer.Inspect(target)
			if err != nil {
				t.Fatal(err)
			}
			if occupied := content.Occupied(); occupied != "" {
				t.Fatalf("the next start would refuse the disk: it holds %s", occupied)
			}
			if err := installOnce(t, o, medium, target, ""); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, blocks(t, target)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// A file is no disk: the kernel's own zeroing, flushing and rereading need a device.
func TestInstall_LoopDevice_EndsWithTheTableReadBack(t *testing.T) {
	needs.Programs(t, "sfdisk", "wipefs", "losetup")
	if os.Geteuid() != 0 {
		t.Skip("missing right: root, to set up a loop device")
	}
	out, err := exec.Command("losetup", "--find", "--show", "--partscan", newImage(t, layout.MinimumDisk)).Output()
	if err != nil {
		t.Skipf("missing: a loop device (%v)", err)
	}
	loop := strings.TrimSpace(string(out))
	t.Cleanup(func() {
		if err := exec.Command("losetup", "--detach", loop).Run(); err != nil {
			t.Error(err)
		}
	})
	medium := newMedium(t)
	if err := installOnce(t, installOptions(t), medium, loop, ""); err != nil {
		t.Fatal(err)
	}
	got, err := installer.Inspect(loop)
	if err != nil {
		t.Fatal(err)
	}
	if got.Table != install.ValidTable || len(got.Parts) != 8 || got.Mark != "" {
		t.Errorf("got %+v", got)
	}
}

// garbage writes old data at the start, the middle and the end of partitions 1, 4 and 5.
func garbage(t *testing.T, disk string) []int64 {
	t.Helper()
	var places []int64
	for _, number := range []int{layout.ESP, layout.VerityA, layout.UsrA} {
		start, size := layout.Start(number), layout.Size(number)
		places = append(places, start, start+size/2, start+size-4096)
	}
	writeAt(t, disk, bytes.Repeat([]byte("old data"), 512), places...)
	return places
}

func writeAt(t *testing.T, disk string, data []byte, places ...int64) {
	t.Helper()
	f, err := os.OpenFile(disk, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, at := range places {
		if _, err := f.WriteAt(data, at); err != nil {
			t.Fatal(err)
		}
	}
}

// section copies a partition between a disk and a file of its own, without its holes.
func section(t *testing.T, from string, fromAt int64, to string, toAt, size int64) {
	t.Helper()
	if _, err := runTool(t, run.Command{Name: "dd", Args: []string{"if=" + from, "of=" + to, "bs=64K", "conv=notrunc,sparse",
		"iflag=skip_bytes,count_bytes", "oflag=seek_bytes", fmt.Sprintf("skip=%d", fromAt), fmt.Sprintf("seek=%d", toAt),
		fmt.Sprintf("count=%d", size)}}); err != nil {
		t.Fatal(err)
	}
}

// realMedium is a medium whose partitions were made by the programs of the image
// build, the ESP with large sectors or small ones. It gives the root hash of /usr too.
func realMedium(t *testing.T, sector string, kernel, program []byte) (medium, root string) {
	t.Helper()
	tree := needs.Tree(t, "mkfs.fat", "mcopy", "mdel", "mkfs.erofs", "veritysetup")
	dir := t.TempDir()
	writeFile(t, dir+"/old.efi", strings.Repeat("deleted!", 1<<17))
	writeFile(t, dir+"/kernel.efi", string(kernel))
	writeFile(t, dir+"/usr/bin/program", string(program))
	medium = newMedium(t)
	esp, usr, hashes := newImage(t, layout.Size(layout.ESP)), newImage(t, layout.Size(layout.UsrA)), newImage(t, layout.Size(layout.VerityA))
	var output string
	for _, command := range []run.Command{
		tree.Command("mkfs.fat", "-F", "32", "-S", sector, esp),
		tree.Command("mcopy", "-i", esp, dir+"/old.efi", "::old.efi"),
		tree.Command("mcopy", "-i", esp, dir+"/kernel.efi", "::kernel.efi"),
		tree.Command("mdel", "-i", esp, "::old.efi"),
		tree.Command("mkfs.erofs", "--quiet", usr, dir+"/usr"),
		tree.Command("veritysetup", "format", usr, hashes),
	} {
		out, err := runTool(t, command)
		if err != nil {
			t.Fatal(err)
		}
		output = out
	}
	for _, line := range strings.Split(output, "\n") {
		if value, ok := strings.CutPrefix(line, "Root hash:"); ok {
			root = strings.TrimSpace(value)
		}
	}
	if err := os.Truncate(usr, layout.Size(layout.UsrA)); err != nil {
		t.Fatal(err)
	}
	for number, file := range map[int]string{layout.ESP: esp, layout.UsrA: usr, layout.VerityA: hashes} {
		wipe := make([]byte, 4*layout.MiB) // what newMedium wrote
		writeAt(t, medium, wipe, layout.Start(number), layout.Start(number)+100*layout.MiB*int64(layout.ESP/number))
		section(t, file, 0, medium, layout.Start(number), layout.Size(number))
	}
	return medium, root
}

// The whole point of copying less: the installed disk has the same files, its /usr has
// the same root hash, and nothing else of the medium or of the old disk is on it.
func TestInstall_RealFileSystems_TargetHoldsFilesAndZeros(t *testing.T) {
	needs.Programs(t, "sfdisk", "wipefs", "dd")
	kernel, program := bytes.Repeat([]byte("kernel. "), 3<<16), bytes.Repeat([]byte{0x90, 0x17, 3}, 1<<20)
	for _, sector := range []string{"512", "4096"} {
		t.Run("sectors of "+sector, func(t *testing.T) {
			medium, root := realMedium(t, sector, kernel, program)
			tree, target := needs.Tree(t, "fsck.erofs", "fsck.fat"), newImage(t, layout.MinimumDisk)
			old := garbage(t, target)
			writeAt(t, medium, []byte("old data"), old[1:3]...) // the middle and the end of the ESP
			onlyUsed(t, medium)
			if err := installOnce(t, installOptions(t), medium, target, ""); err != nil {
				t.Fatal(err)
			}
			noneLeft(t, target, "old data", "deleted!")
			esp, usr, hashes := newImage(t, layout.Size(layout.ESP)), newImage(t, layout.Size(layout.UsrA)), newImage(t, layout.Size(layout.VerityA))
			section(t, target, layout.Start(layout.ESP), esp, 0, layout.Size(layout.ESP))
			section(t, target, layout.Start(layout.UsrA), usr, 0, layout.Size(layout.UsrA))
			section(t, target, layout.Start(layout.VerityA), hashes, 0, layout.Size(layout.VerityA))
			for _, command := range []run.Command{
				tree.Command("fsck.fat", "-n", esp),
				tree.Command("fsck.erofs", usr),
				tree.Command("veritysetup", "verify", usr, hashes, root),
			} {
				if out, err := runTool(t, command); err != nil {
					t.Errorf("%v\n%s", err, out)
				}
			}
			got, err := runTool(t, tree.Command("mcopy", "-i", esp, "::kernel.efi", "-"))
			if err != nil || got != string(kernel) {
				t.Errorf("the kernel on the target has %d bytes, %v", len(got), err)
			}
		})
	}
}

// onlyUsed wants a few MiB of the 4 GiB to be copied.
func onlyUsed(t *testing.T, medium string) {
	t.Helper()
	described, err := installer.ReadMedium(medium, installVersion)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(medium)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	used, problems := install.Used(f, described.Parts)
	for number, limit := range map[int]int64{layout.ESP: 36 * layout.MiB, layout.VerityA: layout.MiB, layout.UsrA: 8 * layout.MiB} {
		var sum int64
		for _, r := range used[number] {
			sum += r.Size
		}
		if sum == 0 || sum > limit || problems != nil {
			t.Errorf("%d bytes of partition %d would be copied, want up to %d; %v", sum, number, limit, problems)
		}
	}
}

// noneLeft looks for texts in partitions 1, 4 and 5 of a disk.
func noneLeft(t *testing.T, disk string, texts ...string) {
	t.Helper()
	f, err := os.Open(disk)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	buffer := make([]byte, layout.MiB)
	for at := int64(layout.MiB); at < layout.Start(layout.SigB); at += layout.MiB {
		next, err := f.Seek(at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return
		}
		if err == nil {
			at = next / layout.MiB * layout.MiB
		}
		if _, err := f.ReadAt(buffer, at); err != nil {
			t.Fatal(err)
		}
		for _, text := range texts {
			if bytes.Contains(buffer, []byte(text)) {
				t.Errorf("%q is left near byte %d", text, at)
			}
		}
	}
}
