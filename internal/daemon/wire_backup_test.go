package daemon

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/internal/bootinfo"
)

// What Incus has mounted in its data must be gone before the data is moved, the deepest
// first; what is mounted elsewhere must stay.
func TestMountsBelow_Mountinfo_GivesTheFolderAlone(t *testing.T) {
	const text = `22 1 254:1 / / rw - ext4 /dev/mapper/root rw
30 22 0:30 / /var/lib/incus/shmounts rw - tmpfs tmpfs rw
31 22 0:31 / /var/lib/incus/storage-pools/local rw - tmpfs tmpfs rw
32 31 0:32 / /var/lib/incus/storage-pools/local/a\040b rw - zfs local/a rw
33 22 0:33 / /var/lib/incus-os rw - tmpfs tmpfs rw
34 22 0:34 / /var/lib/incus rw - tmpfs tmpfs rw
short line
`
	want := []string{"/var/lib/incus/storage-pools/local/a b", "/var/lib/incus/storage-pools/local", "/var/lib/incus/shmounts"}
	if diff := cmp.Diff(want, mountsBelow(text, "/var/lib/incus")); diff != "" {
		t.Error(diff)
	}
}

// A reset that is asked for twice finds partitions that are gone already: that is no error,
// and the others stay.
func TestRemovePartitions_CalledTwice_LeavesTheOthers(t *testing.T) {
	if _, err := exec.LookPath("sfdisk"); err != nil {
		t.Skip("sfdisk: missing")
	}
	disk := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(disk, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(disk, 32<<20); err != nil {
		t.Fatal(err)
	}
	make := exec.Command("sfdisk", "--quiet", "--label", "gpt", disk)
	make.Stdin = strings.NewReader("1: size=1MiB\n2: size=1MiB\n9: size=1MiB\n10: size=1MiB\n11: size=1MiB\n")
	if out, err := make.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	h := hostResets{Host: &Host{info: bootinfo.Info{BootDisk: disk}}}
	for range 2 {
		if err := h.RemovePartitions(context.Background(), 9, 10, 11); err != nil {
			t.Fatal(err)
		}
	}
	got, err := partitionsOf(disk)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]int{1, 2}, got); diff != "" {
		t.Error(diff)
	}
}

// The ESP keeps what a reset needs, by names that cannot lead out of it.
func TestHostResets_ESP_KeepsAndRemovesFiles(t *testing.T) {
	h := hostResets{esp: t.TempDir()}
	outside := filepath.Join(filepath.Dir(h.esp), "x")
	if err := os.WriteFile(outside, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := h.Write("holdfast/reset.json", []byte("hello")); err != nil {
		t.Fatal(err)
	}
	if text, err := h.Read("holdfast/reset.json", 5); err != nil || string(text) != "hello" {
		t.Errorf("%q %v", text, err)
	}
	if _, err := h.Read("holdfast/reset.json", 4); err == nil {
		t.Error("a longer file than allowed is read")
	}
	for _, name := range []string{"holdfast/reset.json", "holdfast/reset.json", "holdfast", "../x"} {
		if err := h.Remove(name); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := h.Read("holdfast/reset.json", 5); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if _, err := os.Stat(outside); err != nil {
		t.Error(err)
	}
}

// A seed that is shorter than the one before it is read to its own end.
func TestWriteSeed_File_ReadsBackWhatWasWritten(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "seed"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, text := range []string{"a long archive", "short"} {
		if err := writeSeed(f, []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(f.Name())
	if err != nil || string(got) != "shortg archive" {
		t.Errorf("%q %v", got, err)
	}
}
