//go:build linux

package host

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/internal/cli"
	"github.com/holdfast-os/holdfast/internal/layout"
	"github.com/holdfast-os/holdfast/internal/media"
	"github.com/holdfast-os/holdfast/internal/system/disks"
	"github.com/holdfast-os/holdfast/internal/system/qemuimg"
	"github.com/holdfast-os/holdfast/internal/system/run"
	"github.com/holdfast-os/holdfast/test/needs"
)

// smallImage is an image whose slot is small, with an ESP that tools of others have made.
func smallImage(t *testing.T) string { return imageWith(t, "") }

// imageWith is smallImage with a UKI.
func imageWith(t *testing.T, uki string) string {
	t.Helper()
	needs.Programs(t, "sfdisk")
	tree := needs.Tree(t, "mkfs.vfat", "mcopy")
	dir := t.TempDir()
	path := filepath.Join(dir, "image.img")
	writeFile(t, path, "")
	if err := os.Truncate(path, 2260<<20); err != nil {
		t.Fatal(err)
	}
	rows, err := layout.Table(layout.X86_64)
	if err != nil {
		t.Fatal(err)
	}
	script := "label: gpt\nunit: sectors\n"
	for _, row := range rows[:layout.UsrA] {
		if row.Number > layout.SigA {
			row.Start, row.Size = layout.Start(layout.VerityA)+int64(row.Number-layout.VerityA)<<20, 1<<20
		}
		script += fmt.Sprintf("start=%d, size=%d, type=%s, name=\"%s\"\n", row.Start/512, row.Size/512, row.GUID,
			strings.ReplaceAll(row.Label, "%", installVersion))
	}
	if _, err := run.Host(t.Context(), run.Command{Name: "sfdisk", Args: []string{"--quiet", "--no-tell-kernel", path}, Stdin: strings.NewReader(script)}); err != nil {
		t.Fatal(err)
	}
	esp := filepath.Join(dir, "esp.img")
	if _, err := runTool(t, tree.Command("mkfs.vfat", "-F", "32", "-S", "4096", "-C", esp, "65536")); err != nil {
		t.Fatal(err)
	}
	conf := filepath.Join(dir, "a rather long name.conf")
	writeFile(t, conf, "timeout 3\n")
	if _, err := runTool(t, tree.Command("mcopy", "-i", esp, conf, "::")); err != nil {
		t.Fatal(err)
	}
	if uki != "" {
		file := filepath.Join(dir, "Holdfast_"+installVersion+".efi")
		writeFile(t, file, uki)
		for _, command := range []run.Command{tree.Command("mmd", "-i", esp, "::EFI", "::EFI/Linux"), tree.Command("mcopy", "-i", esp, file, "::EFI/Linux"), tree.Command("mdel", "-i", esp, "::a rather long name.conf")} {
			if _, err := runTool(t, command); err != nil {
				t.Fatal(err)
			}
		}
	}
	content, err := os.ReadFile(esp)
	if err != nil {
		t.Fatal(err)
	}
	writeAt(t, path, content, layout.FirstByte)
	return path
}

// holdfast runs one command line and gives what it printed.
func holdfast(t *testing.T, args ...string) (stdout string, code int) {
	t.Helper()
	var out, problems bytes.Buffer
	env := cli.Env{Getenv: os.Getenv, Dir: t.TempDir(), Stdin: strings.NewReader(""), Stdout: &out, Stderr: &problems, Run: run.Host}
	code = cli.Run(t.Context(), args, env)
	if problems.Len() > 0 {
		t.Logf("holdfast %s: %s", strings.Join(args, " "), problems.String())
	}
	return out.String(), code
}

func must(t *testing.T, args ...string) string {
	t.Helper()
	out, code := holdfast(t, args...)
	if code != 0 {
		t.Fatalf("holdfast %s ended with %d", strings.Join(args, " "), code)
	}
	return out
}

// A CD that only we can read starts nowhere: sfdisk must find the partitions, and xorriso
// the boot image that firmware looks for.
func TestISO_ReadByToolsOfOthers_HasPartitionsAndUEFIBootImage(t *testing.T) {
	tree := needs.Tree(t, "xorriso")
	image := smallImage(t)
	cd := filepath.Join(t.TempDir(), "image.iso")
	must(t, "image", "iso", image, cd)
	out, err := run.Host(t.Context(), run.Command{Name: "sfdisk", Args: []string{"--json", attach(t, cd, "--read-only", "--sector-size", "2048")}})
	if err != nil {
		t.Fatal(err)
	}
	var answer struct {
		Table struct {
			SectorSize int64 `json:"sectorsize"`
			Partitions []struct {
				Start int64  `json:"start"`
				Name  string `json:"name"`
			} `json:"partitions"`
		} `json:"partitiontable"`
	}
	if err := json.Unmarshal(out.Stdout, &answer); err != nil {
		t.Fatal(err)
	}
	got := []string{}
	for _, p := range answer.Table.Partitions {
		got = append(got, fmt.Sprintf("%s at %d", p.Name, p.Start*answer.Table.SectorSize))
	}
	want := []string{"esp at 1048576", "seed-data at 2148532224", "Holdfast_" + installVersion + "_verity_sig at 2253389824",
		"Holdfast_" + installVersion + "_verity at 2253406208", "Holdfast_" + installVersion + " at 2254454784"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	report, err := run.Host(t.Context(), tree.Command("xorriso", "-indev", cd, "-report_el_torito", "plain"))
	if err != nil {
		t.Fatal(err)
	}
	isBoot := func(line string) bool { return strings.HasPrefix(line, "El Torito boot img :") }
	lines := slices.DeleteFunc(strings.Split(string(report.Stdout), "\n"), func(l string) bool { return !isBoot(l) })
	if diff := cmp.Diff([]string{"El Torito boot img :   1  UEFI  y   none  0x0000  0x00      0         512"}, lines); diff != "" {
		t.Error(diff)
	}
}

// A disk that a hypervisor calls damaged is of no use. qemu-img reads each of them, and finds
// the same bytes as in the image.
func TestConvert_EveryFormat_IsReadByQemuImg(t *testing.T) {
	tree := needs.Tree(t, "qemu-img")
	image := smallImage(t)
	tool := qemuimg.Tool{Run: run.Host, Command: func(args ...string) run.Command { return tree.Command("qemu-img", args...) }}
	must(t, "image", "seed", image, "--add", namedFile(t, "install.yaml", "{}\n"))
	for _, format := range []string{"qcow2", "vmdk", "vhdx"} {
		out := filepath.Join(t.TempDir(), "disk."+format)
		must(t, "image", "convert", image, out)
		if _, err := runTool(t, tree.Command("qemu-img", "check", "-f", format, out)); err != nil {
			t.Error(err)
		}
		got, err := tool.Info(t.Context(), out, format)
		if want := (qemuimg.Info{Format: format, Size: 2260 << 20}); err != nil || got != want {
			t.Errorf("got %+v, %v", got, err)
		}
		if _, err := runTool(t, tree.Command("qemu-img", "compare", "-f", "raw", "-F", format, image, out)); err != nil {
			t.Error(err)
		}
	}
}

// The machine's disk has the size that its description says, and the sums are right.
func TestConvert_OVA_HasTheSumsThatOthersCompute(t *testing.T) {
	needs.Programs(t, "tar", "sha256sum")
	tree := needs.Tree(t, "qemu-img")
	dir := t.TempDir()
	must(t, "image", "convert", smallImage(t), filepath.Join(dir, "node.ova"), "--disk-size", "30GiB")
	if _, err := runTool(t, run.Command{Name: "tar", Args: []string{"-xf", "node.ova"}, Dir: dir}); err != nil {
		t.Fatal(err)
	}
	name := "Holdfast_" + installVersion
	got, err := runTool(t, run.Command{Name: "sha256sum", Args: []string{"--tag", name + ".ovf", name + "-disk1.vmdk"}, Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	sums, err := os.ReadFile(filepath.Join(dir, name+".mf"))
	if err != nil {
		t.Fatal(err)
	}
	got = strings.NewReplacer("SHA256 (", "SHA256(", ") = ", ")= ").Replace(got)
	if diff := cmp.Diff(got, string(sums)); diff != "" {
		t.Error(diff)
	}
	tool := qemuimg.Tool{Run: run.Host, Command: func(args ...string) run.Command { return tree.Command("qemu-img", args...) }}
	info, err := tool.Info(t.Context(), filepath.Join(dir, name+"-disk1.vmdk"), "vmdk")
	if want := (qemuimg.Info{Format: "vmdk", Size: 30 << 30}); err != nil || info != want {
		t.Errorf("got %+v, %v", info, err)
	}
}

// The ESP is read as mtools and dosfstools wrote it.
func TestVerify_ESPOfOtherTools_ListsItsFiles(t *testing.T) {
	path := smallImage(t)
	const manifest = `{"format": "1", "version": "` + installVersion + `", "architecture": "x86_64", "parts": [PARTS]}`
	var parts []string
	for name, kind := range map[string]string{"a.efi": "update-efi", "b": "update-usr", "c": "update-usr-verity", "d": "update-usr-verity-signature"} {
		blob := `"size": 9999999, "sha256": "` + strings.Repeat("0", 64) + `"`
		parts = append(parts, `{"name": "`+name+`", "component": "os", "type": "`+kind+`", `+blob+`, "full": {"path": "`+installVersion+`/x86_64/`+name+`.gz", `+blob+`}}`)
	}
	slices.Sort(parts)
	out, code := holdfast(t, "image", "verify", path, "--manifest", namedFile(t, "manifest.json", strings.Replace(manifest, "PARTS", strings.Join(parts, ","), 1)), "-f", "json")
	var got []media.Compared
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		t.Fatal(err)
	}
	want := []media.Compared{
		{Name: "a.efi", Place: "EFI/Linux/a.efi", Problem: "it is not there"},
		{Name: "b", Place: "partition 5", Problem: "it has 1048576 bytes, the release says 9999999"},
		{Name: "c", Place: "partition 4", Problem: "it has 1048576 bytes, the release says 9999999"},
		{Name: "d", Place: "partition 3", Problem: "it has 16384 bytes, the release says 9999999"},
		{Name: "a rather long name.conf", Place: "a rather long name.conf", Problem: "the release does not have this file"},
	}
	if diff := cmp.Diff(want, got); diff != "" || code != cli.ExitDiffers {
		t.Errorf("exit code %d: %s", code, diff)
	}
}

// An image that was handed on is held against the metadata that nodes trust, too.
func TestVerify_TrustedTree_IsBelievedByItsRootAlone(t *testing.T) {
	needs.Programs(t, "openssl")
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	name := "Holdfast_" + installVersion
	for file, content := range map[string]string{"version": installVersion + "\n", name + ".efi": "the kernel", "incus.raw": "the application",
		name + ".usr-x86-64.cccccccc000040008000000000000001.raw": "usr", name + ".usr-x86-64-verity.cccccccc000040008000000000000002.raw": "verity",
		name + ".usr-x86-64-verity-sig.cccccccc000040008000000000000003.raw": "sig"} {
		writeFile(t, in("build/"+file), content)
	}
	if _, err := runTool(t, run.Command{Name: "openssl", Args: []string{"req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
		"-keyout", in("update.key"), "-out", in("update.crt"), "-days", "2", "-subj", "/CN=update"}}); err != nil {
		t.Fatal(err)
	}
	must(t, "release", "keys", in("keys"))
	must(t, "release", "keys", in("other"))
	must(t, "release", "publish", in("tree"), "--build", in("build"), "--sign-key", in("update.key"), "--sign-cert", in("update.crt"), "--keys", in("keys"), "--deltas", "0")
	image := imageWith(t, "the kernel")
	writeAt(t, image, []byte("sig"), layout.Start(layout.SigA))
	writeAt(t, image, []byte("verity"), layout.Start(layout.VerityA))
	writeAt(t, image, []byte("usr"), layout.Start(layout.VerityA)+1<<20)
	if out, code := holdfast(t, "image", "verify", image, "--tree", in("tree"), "--root", in("keys/root.json")); code != 0 {
		t.Errorf("exit code %d: %s", code, out)
	}
	if _, code := holdfast(t, "image", "verify", image, "--tree", in("tree"), "--root", in("other/root.json")); code != cli.ExitError {
		t.Errorf("with another root: exit code %d", code)
	}
	writeAt(t, image, []byte("USR"), layout.Start(layout.VerityA)+1<<20)
	if _, code := holdfast(t, "image", "verify", image, "--tree", in("tree"), "--root", in("keys/root.json")); code != cli.ExitDiffers {
		t.Errorf("with another /usr: exit code %d", code)
	}
}

// The image of the build is signed, whole, a release, and the one that was published.
func TestInspect_BuiltImage_HasNoProblem(t *testing.T) {
	version, err := os.ReadFile("../../.build/out/version")
	if err != nil {
		needs.MissingBuild(t, "image in .build/out: run `make build`")
	}
	release := strings.TrimSpace(string(version))
	out, code := holdfast(t, "image", "inspect", "../../.build/out/Holdfast_"+release+".raw", "--json")
	var report media.Report
	if err := json.Unmarshal([]byte(out), &report); err != nil {
		t.Fatal(err)
	}
	type summary struct {
		Version, Variant string
		Valid, Booted    bool
		Programs         int
		Problems         []string
	}
	want := summary{release, "release", true, true, 3, nil}
	got := summary{report.Version, report.Variant, report.Usr.Valid, report.Usr.Booted, len(report.Programs), report.Problems}
	if diff := cmp.Diff(want, got); diff != "" || code != 0 {
		t.Errorf("exit code %d: %s", code, diff)
	}
	if out, code := holdfast(t, "image", "verify", "../../.build/out/Holdfast_"+release+".raw", "--tree", "../../.build/release"); code != 0 {
		t.Errorf("held against its own release: exit code %d: %s", code, out)
	}
}

func namedFile(t *testing.T, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	writeFile(t, path, content)
	return path
}

// loopDevice is a disk of so many bytes that the kernel knows as one.
func loopDevice(t *testing.T, size int64) string {
	t.Helper()
	return attach(t, newImage(t, size))
}

// attach makes a file a disk.
func attach(t *testing.T, file string, options ...string) string {
	t.Helper()
	needs.Programs(t, "losetup", "lsblk")
	if os.Geteuid() != 0 {
		t.Skip("missing right: root, to set up a loop device")
	}
	out, err := exec.Command("losetup", append(append([]string{"--find", "--show"}, options...), file)...).Output()
	if err != nil {
		t.Skipf("missing: a loop device (%v)", err)
	}
	loop := strings.TrimSpace(string(out))
	t.Cleanup(func() {
		if err := exec.Command("losetup", "--detach", loop).Run(); err != nil {
			t.Error(err)
		}
	})
	return loop
}

// A device that is described, taken, written and read back through the kernel.
func TestFlash_LoopDevice_IsTakenAloneAndReadBack(t *testing.T) {
	needs.Programs(t, "sfdisk")
	loop := loopDevice(t, 16<<20)
	found, err := disks.Describe(t.Context(), run.Host, loop)
	if err != nil {
		t.Fatal(err)
	}
	if want := (disks.Disk{Path: loop, Kind: "loop", Size: 16 << 20}); !cmp.Equal(want, found) {
		t.Error(cmp.Diff(want, found))
	}
	taken, err := disks.Take(loop)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := taken.Close(); err != nil {
			t.Error(err)
		}
	})
	if _, err := disks.Take(loop); !errors.Is(err, disks.ErrInUse) {
		t.Errorf("taken twice: %v", err)
	}
	image := bytes.Repeat([]byte("an image"), 1<<20)
	path := filepath.Join(t.TempDir(), "image.img")
	writeFile(t, path, string(image))
	if _, err := run.Host(t.Context(), run.Command{Name: "sfdisk", Args: []string{"--quiet", "--no-tell-kernel", path}, Stdin: strings.NewReader("label: gpt\nstart=2048, size=2048\n")}); err != nil {
		t.Fatal(err)
	}
	if image, err = os.ReadFile(path); err != nil {
		t.Fatal(err)
	}
	size, err := media.Flash(context.Background(), bytes.NewReader(image), taken, 16<<20, func(int64, bool) {})
	if err != nil || size != 8<<20 {
		t.Fatalf("got %d, %v", size, err)
	}
	got, err := io.ReadAll(io.NewSectionReader(taken, 0, 8<<20))
	if err != nil || !bytes.Equal(image, got) {
		t.Errorf("the device does not have the image: %v", err)
	}
}

// Without --force a disk that cannot be taken out stays as it is, and with it the right word
// has to be given.
func TestFlash_FixedDisk_IsRefusedWithoutForceAndItsName(t *testing.T) {
	loop, image := loopDevice(t, 4<<30), smallImage(t)
	for _, more := range [][]string{{"--confirm", loop}, {"--force"}, {"--force", "--confirm", "/dev/sda"}} {
		if _, code := holdfast(t, append([]string{"image", "flash", image, loop}, more...)...); code != cli.ExitError {
			t.Errorf("%v: exit code %d", more, code)
		}
	}
	taken, err := disks.Take(loop)
	if err != nil {
		t.Fatal(err)
	}
	head := make([]byte, 1<<20)
	if _, err := taken.ReadAt(head, 0); err != nil || !bytes.Equal(head, make([]byte, 1<<20)) {
		t.Errorf("something was written: %v", err)
	}
	if err := taken.Close(); err != nil {
		t.Error(err)
	}
}

// The seed goes onto a medium that is a device, too.
func TestSeed_LoopDevice_IsChangedInPlace(t *testing.T) {
	loop := attach(t, smallImage(t))
	must(t, "image", "seed", loop, "--add", namedFile(t, "update.yaml", "channel: testing\n"))
	shown := must(t, "image", "seed", loop, "--show", "-f", "json")
	if want := "{\n  \"update\": {\n    \"auto_reboot\": false,\n    \"channel\": \"testing\",\n    \"check_frequency\": \"\"\n  }\n}\n"; shown != want {
		t.Error(cmp.Diff(want, shown))
	}
}
