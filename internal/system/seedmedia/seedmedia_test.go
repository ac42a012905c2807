package seedmedia_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/holdfast-os/holdfast/internal/system/seedmedia"
)

// machine is a folder with dev, run and sys, and media that are folders.
type machine struct {
	root, fstype string
	mounted      []string
}

func newMachine(t *testing.T, fstype string) *machine {
	t.Helper()
	return &machine{root: t.TempDir(), fstype: fstype}
}

func (m *machine) host() seedmedia.Host {
	return seedmedia.Host{Dev: filepath.Join(m.root, "dev"), Run: filepath.Join(m.root, "run"), Sys: filepath.Join(m.root, "sys"), Mounts: m}
}

// plug makes a medium with files and its link below dev/disk.
func (m *machine) plug(t *testing.T, link, device string, files map[string]string) {
	t.Helper()
	at := filepath.Join(m.root, "dev", device)
	for name, text := range files {
		write(t, filepath.Join(at, name), text)
	}
	name := filepath.Join(m.root, "dev/disk", link)
	if err := errors.Join(os.MkdirAll(at, 0o700), os.MkdirAll(filepath.Dir(name), 0o700), os.Symlink(at, name)); err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o700), os.WriteFile(file, []byte(text), 0o600)); err != nil {
		t.Fatal(err)
	}
}

func (m *machine) Mount(source, target, fstype string, flags uintptr, _ string) error {
	const want = unix.MS_RDONLY | unix.MS_NODEV | unix.MS_NOSUID | unix.MS_NOEXEC | unix.MS_NOSYMFOLLOW
	if flags != want {
		return fmt.Errorf("flags %x", flags)
	}
	if fstype != m.fstype {
		return unix.EINVAL
	}
	m.mounted = append(m.mounted, filepath.Base(source))
	return os.CopyFS(target, os.DirFS(source))
}

func (m *machine) Unmount(target string, _ int) error {
	entries, err := os.ReadDir(target)
	for _, entry := range entries {
		err = errors.Join(err, os.RemoveAll(filepath.Join(target, entry.Name())))
	}
	m.mounted = append(m.mounted, "unmounted")
	return err
}

func yaml(name string) bool { return strings.HasSuffix(name, ".yaml") }

// A stick or a CD: its files are read, and it is left as it was.
func TestRead_Medium_GivesTheWantedFilesAndUnmounts(t *testing.T) {
	for _, fstype := range []string{"vfat", "iso9660"} {
		t.Run(fstype, func(t *testing.T) {
			m := newMachine(t, fstype)
			m.plug(t, "by-label/SEED_DATA", "sdb1", map[string]string{"network.yaml": "dns: {}", "install.yaml": "", "notes.txt": "x", "sub/other.yaml": "x"})
			got, there, err := m.host().Read(t.Context(), "SEED_DATA", ".", 100, yaml)
			if err != nil || !there {
				t.Fatal(there, err)
			}
			if diff := cmp.Diff(map[string][]byte{"network.yaml": []byte("dns: {}"), "install.yaml": {}}, got); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff([]string{"sdb1", "unmounted"}, m.mounted); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// The name of a partition goes before a label, and a folder that is not there is no error.
func TestRead_TwoMediaAndAFolder_FollowTheOrder(t *testing.T) {
	m := newMachine(t, "vfat")
	m.plug(t, "by-label/SEED_DATA", "sdb1", map[string]string{"a.yaml": "label"})
	m.plug(t, "by-partlabel/SEED_DATA", "sdc1", map[string]string{"a.yaml": "partition"})
	m.plug(t, "by-label/config-2", "sr0", map[string]string{"openstack/latest/user_data.yaml": "x"})
	type answer struct {
		Files map[string][]byte
		There bool
	}
	for _, test := range []struct {
		label, dir string
		want       answer
	}{
		{"SEED_DATA", ".", answer{map[string][]byte{"a.yaml": []byte("partition")}, true}},
		{"config-2", "openstack/latest", answer{map[string][]byte{"user_data.yaml": []byte("x")}, true}},
		{"config-2", "ec2/latest", answer{nil, true}},
		{"CIDATA", ".", answer{nil, false}},
	} {
		files, there, err := m.host().Read(t.Context(), test.label, test.dir, 100, yaml)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(test.want, answer{files, there}); diff != "" {
			t.Errorf("%s %s: %s", test.label, test.dir, diff)
		}
	}
}

// A medium is foreign: what is too much, or leads elsewhere, is not read.
func TestRead_HostileMedium_IsRefusedOrLeftOut(t *testing.T) {
	many := map[string]string{}
	for i := range 65 {
		many[fmt.Sprintf("%02d.yaml", i)] = ""
	}
	for name, test := range map[string]struct {
		files map[string]string
		err   string
	}{
		"a long file": {map[string]string{"a.yaml": strings.Repeat("x", 101)}, "file a.yaml has more than 100 bytes"},
		"many files":  {many, "it has more than 64 such files"},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t, "vfat")
			m.plug(t, "by-label/SEED_DATA", "sdb1", test.files)
			_, there, err := m.host().Read(t.Context(), "SEED_DATA", ".", 100, yaml)
			want := "reading " + filepath.Join(m.root, "dev/sdb1") + ": " + test.err
			if !there || err == nil || err.Error() != want {
				t.Errorf("got %t, %v", there, err)
			}
			if m.mounted[len(m.mounted)-1] != "unmounted" {
				t.Error("it stays mounted")
			}
		})
	}
	t.Run("links", func(t *testing.T) {
		m := newMachine(t, "vfat")
		m.plug(t, "by-label/SEED_DATA", "sdb1", map[string]string{"a.yaml": "x"})
		if err := os.Symlink("/etc/passwd", filepath.Join(m.root, "dev/sdb1/b.yaml")); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink("/etc", filepath.Join(m.root, "dev/sdb1/up")); err != nil {
			t.Fatal(err)
		}
		got, _, err := m.host().Read(t.Context(), "SEED_DATA", ".", 100, yaml)
		if diff := cmp.Diff(map[string][]byte{"a.yaml": []byte("x")}, got); diff != "" || err != nil {
			t.Errorf("%v %s", err, diff)
		}
		if files, _, err := m.host().Read(t.Context(), "SEED_DATA", "up", 100, func(string) bool { return true }); err == nil {
			t.Errorf("read outside of the medium: %d files", len(files))
		}
	})
}

func TestRead_UnknownFileSystem_SaysWhatIsExpected(t *testing.T) {
	m := newMachine(t, "ntfs3")
	m.plug(t, "by-label/SEED_DATA", "sdb1", nil)
	_, there, err := m.host().Read(t.Context(), "SEED_DATA", ".", 100, yaml)
	if !there || !errors.Is(err, unix.EINVAL) || !strings.Contains(err.Error(), "FAT or ISO 9660") {
		t.Errorf("got %t, %v", there, err)
	}
}

// A stick shows its medium a second after the machine has found it, and a card reader
// without a card never does.
func TestSettle_UsbStorage_IsWaitedForAndNotForEver(t *testing.T) {
	device := "sys/bus/usb/devices/1-2:1.0"
	for name, test := range map[string]struct {
		class        string
		appears      int // after so many waits; -1 for never
		wantedWaits  int
		alreadyThere bool
	}{
		"no storage":    {class: "03", appears: -1},
		"there":         {class: "08", appears: -1, alreadyThere: true},
		"appears":       {class: "08", appears: 3, wantedWaits: 3},
		"never appears": {class: "08", appears: -1, wantedWaits: 50},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t, "vfat")
			write(t, filepath.Join(m.root, device, "bInterfaceClass"), test.class+"\n")
			show := func() { write(t, filepath.Join(m.root, device, "host0/target0:0:0/0:0:0:0/block/sda/size"), "1") }
			if test.alreadyThere {
				show()
			}
			waits := 0
			host := m.host()
			host.Poll = func(time.Duration) <-chan time.Time {
				if waits++; waits == test.appears {
					show()
				}
				now := make(chan time.Time, 1)
				now <- time.Time{}
				return now
			}
			if err := host.Settle(t.Context()); err != nil {
				t.Fatal(err)
			}
			if waits != test.wantedWaits {
				t.Errorf("%d waits", waits)
			}
		})
	}
	m := newMachine(t, "vfat")
	write(t, filepath.Join(m.root, device, "bInterfaceClass"), "08\n")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := m.host().Settle(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}
