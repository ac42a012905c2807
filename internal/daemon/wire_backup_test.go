package daemon

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/internal/apps"
	"github.com/holdfast-os/holdfast/internal/backup"
	"github.com/holdfast-os/holdfast/internal/bootinfo"
	"github.com/holdfast-os/holdfast/test/needs"
)

// starting is Store and Units of a node with Incus, which does not start with data "bad".
type starting struct {
	state apps.State
	dir   string
	log   []string
}

func (s *starting) Load() (apps.State, error) { return maps.Clone(s.state), nil }

func (s *starting) Save(state apps.State) error {
	s.state = state
	return nil
}

func (s *starting) Start(_ context.Context, units ...string) error {
	text, err := os.ReadFile(filepath.Join(s.dir, "f"))
	if err != nil {
		return err
	}
	s.log = append(s.log, "start with "+string(text))
	if string(text) == "bad" {
		return errors.New("it ended with 1")
	}
	return nil
}

func (s *starting) Stop(context.Context, ...string) error {
	s.log = append(s.log, "stop")
	return nil
}

func (s *starting) Restart(context.Context, ...string) error       { return nil }
func (s *starting) IsActive(context.Context, string) (bool, error) { return true, nil }

// seeding is an application that takes its seed.
type seeding struct{ *starting }

func (seeding) Ready(context.Context) error             { return nil }
func (seeding) Version(context.Context) (string, error) { return "1", nil }

func (s seeding) Initialize(context.Context) error {
	s.log = append(s.log, "seed")
	return nil
}

// A power cut behind a swap leaves data that nobody has seen to work. The next start judges
// it: what does not start gives way to what did. A restore says nothing of the seed: an
// application that never got one gets it now, and no other does.
func TestStartAll_DataOfACutRestore_StaysOrGivesWay(t *testing.T) {
	for name, c := range map[string]struct {
		dirs        map[string]string // content of a file, by the folder's ending
		initialized bool
		want        map[string]string
		log         []string
	}{
		"unproven and good":              {map[string]string{"": "new", ".old": "old"}, true, map[string]string{"": "new"}, []string{"start with new"}},
		"unproven and bad":               {map[string]string{"": "bad", ".old": "old"}, true, map[string]string{"": "old"}, []string{"start with bad", "stop", "start with old"}},
		"unproven and bad, never seeded": {map[string]string{"": "bad", ".old": "old"}, false, map[string]string{"": "old"}, []string{"start with bad", "stop", "start with old", "seed"}},
		"cut in the swap":                {map[string]string{".new": "new", ".old": "old"}, true, map[string]string{"": "old"}, []string{"start with old"}},
		"cut in the swap, never seeded":  {map[string]string{".new": "new", ".old": "old"}, false, map[string]string{"": "old"}, []string{"start with old", "seed"}},
		"cut while unpacking":            {map[string]string{"": "old", ".new": "half"}, true, map[string]string{"": "old"}, []string{"start with old"}},
		"never seeded":                   {map[string]string{"": "old", ".new": "half"}, false, map[string]string{"": "old"}, []string{"start with old", "seed"}},
	} {
		root := t.TempDir()
		place := backup.Place{Dir: filepath.Join(root, "var/lib/incus")}
		for ending, content := range c.dirs {
			if err := os.MkdirAll(place.Dir+ending, 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(place.Dir+ending, "f"), []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		s := &starting{state: apps.State{"incus": {Version: "1", Initialized: c.initialized}}, dir: place.Dir}
		h := &Host{log: slog.New(slog.DiscardHandler)}
		manager := h.gated(&apps.Manager{
			Store: s, Units: s, Root: root, Log: h.log, Programs: map[string]apps.Program{"incus": seeding{s}}, Catalogue: map[string]apps.Application{"incus": {Primary: true, Service: "incus.service"}},
		})
		j := judgedApps{hostApps{manager}, hostAppData{Host: h, manager: manager, root: root}}
		if err := j.StartAll(context.Background(), ""); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		got := map[string]string{}
		for _, ending := range []string{"", ".new", ".old"} {
			if text, err := os.ReadFile(filepath.Join(place.Dir+ending, "f")); err == nil {
				got[ending] = string(text)
			}
		}
		if diff := cmp.Diff(c.want, got) + cmp.Diff(c.log, s.log); diff != "" || !s.state["incus"].Initialized {
			t.Errorf("%s: %s, %+v", name, diff, s.state)
		}
	}
}

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
	needs.Programs(t, "sfdisk")
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
