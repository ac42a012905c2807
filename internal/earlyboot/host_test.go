package earlyboot

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/internal/bootinfo"
	"github.com/holdfast-os/holdfast/internal/system/run"
)

// noMounts lets a folder stand for what would be mounted, and notes it.
type noMounts struct{ done *[]string }

func (n noMounts) Mount(source, target, fstype string, _ uintptr, _ string) error {
	*n.done = append(*n.done, "mount "+source+" "+filepath.Base(target)+" "+fstype)
	return nil
}

func (n noMounts) Unmount(target string, _ int) error {
	*n.done = append(*n.done, "unmount "+filepath.Base(target))
	return nil
}

// testHost is a Host below a folder. answer is asked for each program.
func testHost(t *testing.T, answer func(run.Command) (run.Result, error)) (Host, string, *[]string) {
	t.Helper()
	dir, done := t.TempDir(), &[]string{}
	runner := func(_ context.Context, c run.Command) (run.Result, error) {
		words := append([]string{filepath.Base(c.Name)}, c.Args...)
		*done = append(*done, strings.ReplaceAll(strings.Join(words, " "), dir, ""))
		return answer(c)
	}
	return NewHost(HostOptions{Run: runner, Mounts: noMounts{done}, Wait: time.Millisecond, Paths: Paths{
		Sysroot: dir + "/sysroot", Sysusr: dir + "/sysusr", Run: dir + "/run", Sys: dir + "/sys", Dev: dir + "/dev",
	}}), dir, done
}

func healthy(c run.Command) (run.Result, error) {
	if c.Name == "dmsetup" {
		return run.Result{Stdout: []byte("0 9404416 crypt aes-xts-plain64 :64:logon:key 0 254:10 32768\n")}, nil
	}
	return run.Result{}, nil
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func link(t *testing.T, target, path string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(target, path); err != nil {
		t.Fatal(err)
	}
}

func variable(text string) string {
	out := []byte{6, 0, 0, 0}
	for _, c := range text + "\x00" {
		out = append(out, byte(c), 0)
	}
	return string(out)
}

const espID = "0D2A3F10-1111-4222-8333-44445555AAAA"

// sysfs has two disks with the same partitions: only one of them was started from.
func sysfs(t *testing.T, dir string) {
	t.Helper()
	for _, disk := range []string{"nvme0n1", "nvme1n1"} {
		for number, text := range map[string]string{"p1": "1\n", "p2": "2\n", "p10": "10\n"} {
			write(t, dir+"/sys/devices/"+disk+"/"+disk+number+"/partition", text)
			link(t, "../../devices/"+disk+"/"+disk+number, dir+"/sys/class/block/"+disk+number)
		}
		write(t, dir+"/sys/devices/"+disk+"/queue/rotational", "0\n")
		write(t, dir+"/sys/devices/"+disk+"/size", "41943040\n")
		write(t, dir+"/sys/devices/"+disk+"/ro", "0\n")
		write(t, dir+"/dev/"+disk+"p1", "")
	}
	link(t, "../../nvme1n1p1", dir+"/dev/disk/by-partuuid/"+strings.ToLower(espID))
}

// A second disk with a copy of everything is in the machine: the one that the firmware
// booted from is used.
func TestSystemDisk_TwoDisksAlike_TakesTheOneThatWasBooted(t *testing.T) {
	host, dir, _ := testHost(t, healthy)
	sysfs(t, dir)
	write(t, filepath.Join(dir, "sys", loaderDevice), variable(espID))
	got, err := host.SystemDisk(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := Disk{Path: "/dev/nvme1n1", Medium: "/dev/nvme1n1", Size: 20 << 30, Partitions: map[int]string{1: "/dev/nvme1n1p1", 2: "/dev/nvme1n1p2", 10: "/dev/nvme1n1p10"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// What cannot be told is said in a way that leads on, and never guessed.
func TestSystemDisk_NothingToGoBy_SaysWhat(t *testing.T) {
	for name, test := range map[string]struct{ variable, want string }{
		"no UEFI":        {"", "set the machine's firmware to UEFI mode"},
		"empty variable": {"\x06\x00\x00\x00", `has "", which is no partition's id`},
		"a path":         {variable("../../vda"), `has "../../vda", which is no partition's id`},
		"no such disk":   {variable("99999999-1111-4222-8333-444455556666"), "its driver may be missing"},
	} {
		t.Run(name, func(t *testing.T) {
			host, dir, _ := testHost(t, healthy)
			if test.variable != "" {
				write(t, filepath.Join(dir, "sys", loaderDevice), test.variable)
			}
			if _, err := host.SystemDisk(t.Context()); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %s", err, test.want)
			}
		})
	}
}

// Names of old RAID controllers have a slash, which sysfs writes as "!".
func TestDiskOf_NameWithSlash_IsTheDeviceNode(t *testing.T) {
	host, dir, _ := testHost(t, healthy)
	disk := dir + "/sys/devices/cciss!c0d0"
	write(t, disk+"/cciss!c0d0p1/partition", "1\n")
	write(t, disk+"/size", "8\n")
	write(t, disk+"/ro", "1\n")
	link(t, "../../devices/cciss!c0d0/cciss!c0d0p1", dir+"/sys/class/block/cciss!c0d0p1")
	got, err := host.diskOf("cciss!c0d0p1")
	if err != nil {
		t.Fatal(err)
	}
	want := Disk{Path: "/dev/cciss/c0d0", Medium: "/dev/cciss/c0d0", Size: 4096, ReadOnly: true, Partitions: map[int]string{1: "/dev/cciss/c0d0p1"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	write(t, disk+"/cciss!c0d0p2/partition", "two\n")
	if _, err := host.diskOf("cciss!c0d0p1"); err == nil {
		t.Error("a partition without a number was accepted")
	}
}

func TestDecodeUTF16_FirmwareVariable_EndsAtItsNUL(t *testing.T) {
	for name, test := range map[string]struct{ raw, want string }{
		"text":             {"\x07\x00\x00\x00a\x00b\x00\x00\x00", "ab"},
		"no NUL":           {"\x07\x00\x00\x00a\x00b\x00", "ab"},
		"half a character": {"\x07\x00\x00\x00a\x00b", "a"},
		"after the NUL":    {"\x07\x00\x00\x00a\x00\x00\x00z\x00", "a"},
		"beyond 8 bits":    {"\x07\x00\x00\x00\xe4\x00\xac\x20", "ä€"},
		"attributes only":  {"\x07\x00\x00\x00", ""},
		"too short":        {"\x07\x00", ""},
		"nothing":          {"", ""},
	} {
		if got := decodeUTF16([]byte(test.raw)); got != test.want {
			t.Errorf("%s: got %q, want %q", name, got, test.want)
		}
	}
}

// The note of early boot names the root hash that is on the command line, not a part
// of another word.
func TestOption_WordOfTheCommandLine_IsTakenWhole(t *testing.T) {
	for _, test := range []struct{ cmdline, name, want string }{
		{"usrhash=abc rw", "usrhash", "abc"},
		{"rw usrhash=abc\n", "usrhash", "abc"},
		{"rd.usrhash=no usrhash=abc", "usrhash", "abc"},
		{"usrhash=first usrhash=second", "usrhash", "first"},
		{"usrhash=a=b", "usrhash", "a=b"},
		{"usrhash= rw", "usrhash", ""},
		{"usrhash rw", "usrhash", ""},
		{"usrhashes=abc", "usrhash", ""},
		{"", "usrhash", ""},
	} {
		if got := option(test.cmdline, test.name); got != test.want {
			t.Errorf("%s of %q: got %q, want %q", test.name, test.cmdline, got, test.want)
		}
	}
}

func archive(t *testing.T, members ...tar.Header) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, header := range members {
		header.Mode, header.Format = 0o600, tar.FormatUSTAR
		if err := w.WriteHeader(&header); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(bytes.Repeat([]byte("{"), int(header.Size))); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// A mistake in a seed must never turn a stick that should install into a node that
// lives on the stick.
func TestHasInstallSeed_BrokenSeed_StillMeansInstall(t *testing.T) {
	network := tar.Header{Name: "network.yaml", Size: 9}
	for name, test := range map[string]struct {
		seed      []byte
		want, err bool
	}{
		"no archive":                       {seed: make([]byte, 4096)},
		"old bytes":                        {seed: bytes.Repeat([]byte("old"), 4096)},
		"short partition":                  {seed: []byte("x")},
		"no install":                       {seed: archive(t, network)},
		"broken document":                  {seed: archive(t, network, tar.Header{Name: "install.yaml", Size: 2}), want: true},
		"empty document":                   {seed: archive(t, tar.Header{Name: "install.json"}), want: true},
		"written with ./":                  {seed: archive(t, tar.Header{Name: "./install.yml", Size: 3}), want: true},
		"too long":                         {seed: archive(t, tar.Header{Name: "install.yaml", Size: 2 << 20}), want: true},
		"behind a document that is broken": {seed: archive(t, tar.Header{Name: "network.yaml", Size: 2 << 20}, tar.Header{Name: "install.yaml"}), want: true},
		"no file":                          {seed: archive(t, tar.Header{Name: "install.yaml", Typeflag: tar.TypeSymlink, Linkname: "x"}), want: true},
		"in a folder, of a running node":   {seed: archive(t, tar.Header{Name: "t/install.yaml", Size: 2})},
		"a folder of that name":            {seed: archive(t, tar.Header{Name: "install.yaml/", Typeflag: tar.TypeDir})},
		"another name":                     {seed: archive(t, tar.Header{Name: "install.txt", Size: 2})},
		"cut before it":                    {seed: archive(t, network, tar.Header{Name: "install.yaml", Size: 2})[:1200], err: true},
		"damaged before it":                {seed: append(archive(t, network)[:1024], bytes.Repeat([]byte("?"), 1024)...), err: true},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "seed")
			write(t, path, string(test.seed))
			got, err := NewHost(HostOptions{}).HasInstallSeed(t.Context(), path, false)
			if got != test.want || (err != nil) != test.err {
				t.Errorf("got %t, %v", got, err)
			}
		})
	}
	if _, err := NewHost(HostOptions{}).HasInstallSeed(t.Context(), "", false); err == nil {
		t.Error("a disk without a seed partition was accepted")
	}
}

// Other programs than root's live below /var: only the node's own folder is closed.
func TestWriteNew_FreshVolume_ClosesTheStateAlone(t *testing.T) {
	old := syscall.Umask(0o077)
	t.Cleanup(func() { syscall.Umask(old) })
	host, dir, _ := testHost(t, healthy)
	for _, content := range []string{"first", "second"} {
		if err := host.Root().WriteNew(MachineIDFile, content); err != nil {
			t.Fatal(err)
		}
	}
	got := map[string]fs.FileMode{}
	for _, name := range []string{"", "var", "var/lib", "var/lib/incus-os", "var/lib/incus-os/machine-id"} {
		info, err := os.Stat(filepath.Join(dir, "sysroot", name))
		if err != nil {
			t.Fatal(err)
		}
		got[name] = info.Mode().Perm()
	}
	want := map[string]fs.FileMode{"": 0o755, "var": 0o755, "var/lib": 0o755, "var/lib/incus-os": 0o700, "var/lib/incus-os/machine-id": 0o400}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	raw, err := os.ReadFile(filepath.Join(dir, "sysroot", MachineIDFile))
	if err != nil || string(raw) != "second" {
		t.Errorf("got %q, %v", raw, err)
	}
	entries, err := os.ReadDir(filepath.Join(dir, "sysroot", StateDir))
	if err != nil || len(entries) != 1 {
		t.Errorf("got %v, %v: a half-written file is left", entries, err)
	}
	if there, err := host.Root().Exists(MachineIDFile); !there || err != nil {
		t.Errorf("Exists says %t, %v", there, err)
	}
	if there, err := host.Root().Exists(RecoveryKeyFile); there || err != nil {
		t.Errorf("Exists says %t, %v of a file that is not there", there, err)
	}
}

// The key of a new volume is nowhere but in the volume once systemd-repart has it.
func TestPartition_Key_GoesByFileAndIsGoneAfterwards(t *testing.T) {
	var key string
	var mode fs.FileMode
	host, dir, done := testHost(t, func(c run.Command) (run.Result, error) {
		for _, arg := range c.Args {
			path, found := strings.CutPrefix(arg, "--key-file=")
			if !found {
				continue
			}
			raw, err := os.ReadFile(path)
			if err != nil {
				return run.Result{}, err
			}
			info, err := os.Stat(path)
			if err != nil {
				return run.Result{}, err
			}
			key, mode = string(raw), info.Mode().Perm()
		}
		return run.Result{}, nil
	})
	if err := host.Table().Make(t.Context(), "/dev/vda", PartitionOptions{RecoveryKey: "hunter2"}); err != nil {
		t.Fatal(err)
	}
	if key != "hunter2" || mode != 0o400 {
		t.Errorf("systemd-repart reads %q, mode %o", key, mode)
	}
	if _, err := os.Stat(dir + "/run/holdfast/recovery.key"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the key is still there: %v", err)
	}
	want := []string{
		"systemd-repart --dry-run=no --no-pager --definitions=/sysusr/usr/lib/repart.d --key-file=/run/holdfast/recovery.key " +
			"--tpm2-device=auto --tpm2-pcrs=7+15:sha256=0000000000000000000000000000000000000000000000000000000000000000 " +
			"--tpm2-public-key=/run/systemd/tpm2-pcr-public-key.pem --tpm2-public-key-pcrs=11 /dev/vda",
		"udevadm settle --timeout=60",
	}
	if diff := cmp.Diff(want, *done); diff != "" {
		t.Error(diff)
	}
}

// What goes wrong behind the lock is not the key's fault, and leaves nothing open; the
// volume key is measured even when a person opened the volume.
func TestUnlock_EachFault_ClosesWhatWasOpened(t *testing.T) {
	const (
		tpm    = "systemd-cryptsetup attach root /dev/vda10 - luks,tpm2-device=auto,tpm2-measure-pcr=yes,headless=yes,timeout=60"
		person = "systemd-cryptsetup attach root /dev/vda10 - luks,tpm2-measure-pcr=yes,tries=0,timeout=0"
		table  = "dmsetup table root"
		check  = "fsck.ext4 -p /dev/mapper/root"
		mount  = "mount /dev/mapper/root sysroot ext4"
		detach = "systemd-cryptsetup detach root"
	)
	fails := func(name string, code int) func(run.Command) (run.Result, error) {
		return func(c run.Command) (run.Result, error) {
			if filepath.Base(c.Name) == name && c.Args[0] != "detach" {
				return run.Result{}, &run.Error{Args: []string{name}, ExitCode: code, Err: errors.New("exit")}
			}
			return healthy(c)
		}
	}
	for name, test := range map[string]struct {
		answer        func(run.Command) (run.Result, error)
		ask           bool
		done          []string
		failed, unkey bool
	}{
		"all well":          {answer: healthy, done: []string{tpm, table, check, mount}},
		"by a person":       {answer: healthy, ask: true, done: []string{person, table, check, mount}},
		"the TPM refuses":   {answer: fails("systemd-cryptsetup", 1), done: []string{tpm}, failed: true, unkey: true},
		"errors corrected":  {answer: fails("fsck.ext4", 1), done: []string{tpm, table, check, mount}},
		"errors that stay":  {answer: fails("fsck.ext4", 4), done: []string{tpm, table, check, detach}, failed: true},
		"fsck cannot start": {answer: fails("fsck.ext4", -1), done: []string{tpm, table, check, detach}, failed: true},
		"a null cipher": {answer: func(c run.Command) (run.Result, error) {
			if c.Name == "dmsetup" {
				return run.Result{Stdout: []byte("0 9404416 crypt cipher_null-ecb 0 0 254:10 32768\n")}, nil
			}
			return run.Result{}, nil
		}, done: []string{tpm, table, detach}, failed: true},
	} {
		t.Run(name, func(t *testing.T) {
			host, _, done := testHost(t, test.answer)
			err := host.Unlock(t.Context(), "/dev/vda10", test.ask)
			if (err != nil) != test.failed || errors.Is(err, ErrLocked) != test.unkey {
				t.Errorf("got %v", err)
			}
			if diff := cmp.Diff(test.done, *done); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// /etc is the release's, whatever was there: files, modes and links as in the image,
// and the ESP by its device.
func TestMakeEtc_Node_HasTheTemplateTheMachineIDAndTheBootMount(t *testing.T) {
	host, dir, done := testHost(t, healthy)
	template := dir + "/sysusr/usr/share/factory/etc"
	write(t, template+"/hostname", "node\n")
	write(t, template+"/ssl/certs/a.pem", "certificate\n")
	link(t, "../usr/lib/os-release", template+"/os-release")
	for path, mode := range map[string]fs.FileMode{"/hostname": 0o640, "/ssl": 0o711} {
		if err := os.Chmod(template+path, mode); err != nil {
			t.Fatal(err)
		}
	}
	write(t, dir+"/sysroot/"+MachineIDFile, "0123456789abcdef0123456789abcdef\n")
	if err := host.MakeEtc(bootinfo.Info{Mode: bootinfo.Node, ESP: "/dev/vda1"}); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"etc drwxr-xr-x", "etc/hostname -rw-r----- node\n", "etc/machine-id -r--r--r-- 0123456789abcdef0123456789abcdef\n",
		"etc/os-release -> ../usr/lib/os-release", "etc/ssl drwx--x--x", "etc/ssl/certs drwxr-xr-x", "etc/ssl/certs/a.pem -rw-r--r-- certificate\n",
	}
	if diff := cmp.Diff(want, listing(t, dir+"/sysroot", "etc")); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"mount tmpfs etc tmpfs", "mount /dev/vda1 boot vfat"}, *done); diff != "" {
		t.Error(diff)
	}
}

// failingMounts mounts all but the ESP.
type failingMounts struct{ noMounts }

func (m failingMounts) Mount(source, target, fstype string, flags uintptr, options string) error {
	if fstype == "vfat" {
		return errors.New("structure needs cleaning")
	}
	return m.noMounts.Mount(source, target, fstype, flags, options)
}

// A broken ESP keeps updates from being installed; it must not keep the owner from the node,
// whose screen says so.
func TestMakeEtc_EspCannotBeMounted_StartsAllTheSame(t *testing.T) {
	host, dir, done := testHost(t, healthy)
	host.mounts = failingMounts{noMounts{done}}
	write(t, dir+"/sysusr/usr/share/factory/etc/hostname", "node\n")
	write(t, dir+"/sysroot/"+MachineIDFile, "0123456789abcdef0123456789abcdef\n")
	write(t, dir+"/sys/"+bootCount, "\x06\x00\x00\x00x")
	if err := os.MkdirAll(dir+"/run/systemd/system", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := host.MakeEtc(bootinfo.Info{Mode: bootinfo.Node, ESP: "/dev/vda1"}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir + "/run/systemd/system/holdfastd.service.d/50-trial.conf"); err != nil {
		t.Errorf("what comes behind the mount was not done: %v", err)
	}
}

// A new release may be one whose daemon ends at once, or never says a word: what watches
// over it is the service manager, and only while the boot loader counts.
func TestMakeEtc_CountedStart_IsWatchedOver(t *testing.T) {
	for _, counted := range []bool{false, true} {
		host, dir, _ := testHost(t, healthy)
		write(t, dir+"/sysusr/usr/share/factory/etc/hostname", "node\n")
		write(t, dir+"/sysroot/"+MachineIDFile, "0123456789abcdef0123456789abcdef\n")
		if err := os.MkdirAll(dir+"/run/systemd/system", 0o755); err != nil {
			t.Fatal(err)
		}
		if counted {
			write(t, dir+"/sys/"+bootCount, "\x06\x00\x00\x00x")
		}
		if err := host.MakeEtc(bootinfo.Info{Mode: bootinfo.Node, ESP: "/dev/vda1"}); err != nil {
			t.Fatal(err)
		}
		var want []string
		if counted {
			want = []string{
				"systemd/system/holdfastd.service.d drwxr-xr-x",
				"systemd/system/holdfastd.service.d/50-trial.conf -rw-r--r-- [Unit]\nStartLimitIntervalSec=300\nStartLimitBurst=4\nOnFailure=holdfast-trial.service\n",
				"systemd/system/sysinit.target.wants drwxr-xr-x",
				"systemd/system/sysinit.target.wants/holdfast-trial.timer -> /usr/lib/systemd/system/holdfast-trial.timer",
			}
		}
		got := slices.DeleteFunc(listing(t, dir+"/run", "systemd/system"), func(line string) bool {
			return !strings.Contains(line, "holdfast") && !strings.Contains(line, "sysinit")
		})
		if len(got) == 0 {
			got = nil
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("counted %t: %s", counted, diff)
		}
	}
}

// An install medium belongs to no machine: it gets a fresh id each time, and its ESP
// is not mounted, so that nothing is written to it.
func TestMakeEtc_Install_HasAFreshIDAndNoBootMount(t *testing.T) {
	var ids []string
	for range 2 {
		host, dir, done := testHost(t, healthy)
		write(t, dir+"/sysusr/usr/share/factory/etc/hostname", "node\n")
		if err := host.MakeEtc(bootinfo.Info{Mode: bootinfo.Install, ESP: "/dev/vda1"}); err != nil {
			t.Fatal(err)
		}
		raw, err := os.ReadFile(dir + "/sysroot/etc/machine-id")
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, string(raw))
		if diff := cmp.Diff([]string{"mount tmpfs etc tmpfs"}, *done); diff != "" {
			t.Error(diff)
		}
	}
	if ids[0] == ids[1] || len(ids[0]) != 33 || strings.Trim(ids[0], "0123456789abcdef") != "\n" {
		t.Errorf("got the ids %q", ids)
	}
}

// listing is every file below root/from with its mode and content.
func listing(t *testing.T, root, from string) []string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(filepath.Join(root, from), func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		line, _ := filepath.Rel(root, path)
		if entry.Type() == fs.ModeSymlink {
			target, err := os.Readlink(path)
			out = append(out, line+" -> "+target)
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		line += " " + info.Mode().String()
		if entry.Type().IsRegular() {
			raw, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			line += " " + string(raw)
		}
		out = append(out, line)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(out)
	return out
}

// A module that an owner has ruled out must not be loaded by the first driver that finds
// its device; and a configuration that cannot be read must not keep the node from starting.
func TestMakeEtc_ModulesRuledOut_AreKnownBeforeTheFirstDriver(t *testing.T) {
	for name, c := range map[string]struct{ kept, want string }{
		"ruled out": {
			`{"version":1,"data":{"number":3,"sections":{"kernel":{"blacklist_modules":["floppy"]}}}}`,
			"modprobe.d/99-holdfast-blacklist.conf",
		},
		"nothing said": {`{"version":1,"data":{"number":0,"sections":{}}}`, ""},
		"damaged":      {`{"version":1,"da`, ""},
		"none":         {"", ""},
	} {
		t.Run(name, func(t *testing.T) {
			host, dir, _ := testHost(t, healthy)
			write(t, dir+"/sysusr/usr/share/factory/etc/hostname", "node\n")
			write(t, dir+"/sysroot/"+MachineIDFile, "0123456789abcdef0123456789abcdef\n")
			if c.kept != "" {
				write(t, dir+"/sysroot/"+keptConfiguration, c.kept)
			}
			if err := host.MakeEtc(bootinfo.Info{Mode: bootinfo.Node, ESP: "/dev/vda1"}); err != nil {
				t.Fatal(err)
			}
			found, err := filepath.Glob(dir + "/run/modprobe.d/*")
			if err != nil {
				t.Fatal(err)
			}
			var want []string
			if c.want != "" {
				want = []string{dir + "/run/" + c.want}
			}
			if diff := cmp.Diff(want, found); diff != "" {
				t.Fatal(diff)
			}
			if c.want == "" {
				return
			}
			text, err := os.ReadFile(found[0])
			if err != nil || !strings.Contains(string(text), "\nblacklist floppy\n") && !strings.Contains(string(text), "install floppy") {
				t.Errorf("%q, %v", text, err)
			}
		})
	}
}
