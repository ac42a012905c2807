package zfs_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/internal/system/run"
	"github.com/holdfast-os/holdfast/internal/system/zfs"
)

var background = context.Background()

// machine is one partition with what zpool and blkid do to it, in memory.
type machine struct {
	t         *testing.T
	directory string
	device    string
	// holds is what blkid sees: empty, "zfs_member" or another type; label its label.
	holds, label string
	// whole is true when a pool was made completely, with this key.
	whole    bool
	poolKey  []byte
	imported bool
	loaded   bool
	// diesAt names the program call in whose middle the power is cut.
	diesAt string
	ran    []string
}

var errPowerCut = errors.New("power cut")

func newMachine(t *testing.T) *machine {
	directory := t.TempDir()
	m := &machine{t: t, directory: directory, device: filepath.Join(directory, "local-data")}
	if err := os.WriteFile(m.device, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return m
}

func (m *machine) zfs() *zfs.ZFS { return &zfs.ZFS{Run: m.run, KeyDirectory: m.directory} }

func (m *machine) key() string { return filepath.Join(m.directory, "zpool.local.key") }

func (m *machine) ensure() error { return m.zfs().EnsureLocal(background, m.device, m.key()) }

func failed(code int) error { return &run.Error{ExitCode: code, Err: errors.New("exit status")} }

func (m *machine) run(_ context.Context, c run.Command) (run.Result, error) {
	call := c.Name + " " + c.Args[0]
	m.ran = append(m.ran, strings.ReplaceAll(strings.Join(append([]string{c.Name}, c.Args...), " "), m.directory, "DIR"))
	cut := m.diesAt == call
	switch call {
	case "zpool list":
		if m.imported {
			return run.Result{Stdout: []byte("local\n")}, nil
		}
		return run.Result{}, nil
	case "blkid --probe":
		if m.holds == "" {
			return run.Result{}, failed(2)
		}
		return run.Result{Stdout: []byte("LABEL=" + m.label + "\nTYPE=" + m.holds + "\n")}, nil
	case "zpool import":
		if !m.whole || m.imported {
			return run.Result{}, failed(1)
		}
		m.imported = true
	case "zpool create":
		if m.holds != "" && !slices.Contains(c.Args, "-f") {
			return run.Result{}, failed(1)
		}
		key, err := os.ReadFile(m.key())
		if err != nil {
			m.t.Fatal(err)
		}
		m.holds, m.label = "zfs_member", "local"
		if !cut {
			m.whole, m.poolKey, m.imported, m.loaded = true, key, true, true
		}
	case "zfs get":
		if m.loaded {
			return run.Result{Stdout: []byte("available\n")}, nil
		}
		return run.Result{Stdout: []byte("unavailable\n")}, nil
	case "zfs load-key":
		key, err := os.ReadFile(m.key())
		if err != nil || !bytes.Equal(key, m.poolKey) {
			return run.Result{}, failed(255)
		}
		m.loaded = true
	default:
		m.t.Fatalf("unexpected program: %s", call)
	}
	if cut {
		return run.Result{}, errPowerCut
	}
	return run.Result{}, nil
}

func (m *machine) reboot() { m.imported, m.loaded, m.diesAt, m.ran = false, false, "", nil }

// The owner's data is encrypted from the first byte, with a key that only root can read.
func TestEnsureLocal_BlankPartition_MakesAnEncryptedPool(t *testing.T) {
	m := newMachine(t)
	if err := m.ensure(); err != nil {
		t.Fatal(err)
	}
	want := "zpool create -o ashift=12 -O mountpoint=none -O encryption=aes-256-gcm -O keyformat=raw " +
		"-O keylocation=file://DIR/zpool.local.key -O compression=on -O acltype=posix -O xattr=sa local DIR/local-data"
	if !slices.Contains(m.ran, want) {
		t.Errorf("got %q", m.ran)
	}
	info, err := os.Stat(m.key())
	if err != nil || info.Size() != 32 || info.Mode() != 0o400 {
		t.Errorf("key: %v, %v", info, err)
	}
}

// Every boot after the first one finds its pool again, open.
func TestEnsureLocal_NextBoot_ImportsAndOpens(t *testing.T) {
	m := newMachine(t)
	for range 3 {
		if err := m.ensure(); err != nil {
			t.Fatal(err)
		}
		if !m.imported || !m.loaded {
			t.Fatalf("imported %v, loaded %v", m.imported, m.loaded)
		}
		m.reboot()
	}
	if err := errors.Join(m.ensure(), m.ensure()); err != nil {
		t.Error(err)
	}
	if slices.ContainsFunc(m.ran, func(c string) bool { return strings.HasPrefix(c, "zpool create") }) {
		t.Errorf("made again: %q", m.ran)
	}
}

// A power cut while the pool is made must not leave a node that needs a hand.
func TestEnsureLocal_PowerCutWhileMaking_IsMadeAgainWithTheSameKey(t *testing.T) {
	m := newMachine(t)
	m.diesAt = "zpool create"
	if err := m.ensure(); !errors.Is(err, errPowerCut) {
		t.Fatalf("got %v", err)
	}
	before, err := os.ReadFile(m.key())
	if err != nil {
		t.Fatal(err)
	}
	m.reboot()
	if err := m.ensure(); err != nil {
		t.Fatal(err)
	}
	if !m.loaded || !bytes.Equal(before, m.poolKey) {
		t.Error("the pool is not open, or its key was thrown away")
	}
}

// A pool that was made completely is never made again, whatever import says later.
func TestEnsureLocal_ImportFailsLater_NeverOverwrites(t *testing.T) {
	m := newMachine(t)
	if err := m.ensure(); err != nil {
		t.Fatal(err)
	}
	m.reboot()
	m.whole = false
	if err := m.ensure(); err == nil {
		t.Fatal("no error")
	}
	if slices.ContainsFunc(m.ran, func(c string) bool { return strings.HasPrefix(c, "zpool create") }) {
		t.Errorf("made again: %q", m.ran)
	}
}

// Data of an earlier installation, or of something else, is the owner's to delete.
func TestEnsureLocal_PartitionInUse_IsLeftAlone(t *testing.T) {
	for name, c := range map[string]struct {
		holds, label string
		key          int // size of the key file, -1 for none
		want         error
	}{
		"pool of an earlier installation": {"zfs_member", "local", -1, zfs.ErrNoKey},
		"another pool":                    {"zfs_member", "tank", 32, zfs.ErrOccupied},
		"another file system":             {"ext4", "data", 32, zfs.ErrOccupied},
		"encrypted by LUKS":               {"crypto_LUKS", "", -1, zfs.ErrOccupied},
		"damaged key":                     {"", "", 7, nil},
	} {
		m := newMachine(t)
		m.holds, m.label = c.holds, c.label
		if c.key >= 0 {
			if err := os.WriteFile(m.key(), make([]byte, c.key), 0o400); err != nil {
				t.Fatal(err)
			}
		}
		err := m.ensure()
		if err == nil || (c.want != nil && !errors.Is(err, c.want)) {
			t.Errorf("%s: got %v, want %v", name, err, c.want)
		}
		if m.holds != c.holds || m.imported {
			t.Errorf("%s: the partition was touched", name)
		}
	}
}

// A name from the API must not become an option of zpool.
func TestImport_NameLikeAnOption_IsRefused(t *testing.T) {
	m := newMachine(t)
	for _, name := range []string{"", "-a", "a/b", "a b", "local@x"} {
		if err := m.zfs().Import(background, name, false); err == nil {
			t.Errorf("%q was accepted", name)
		}
	}
	if len(m.ran) != 0 {
		t.Errorf("ran %q", m.ran)
	}
}

// Incus' data of an earlier installation must not be mixed with a new pool's.
func TestUsableForIncus_OldData_IsNot(t *testing.T) {
	for datasets, want := range map[string]bool{
		"local\n":                    true,
		"local\nlocal/incus\n":       true,
		"local\nlocal/incus-old/x\n": true,
		"local\nlocal/incus\nlocal/incus/containers\n":  false,
		"local\nlocal/other\nlocal/incus/images/abcd\n": false,
	} {
		z := &zfs.ZFS{Run: func(_ context.Context, c run.Command) (run.Result, error) {
			if c.Name == "zpool" {
				return run.Result{Stdout: []byte("local\n")}, nil
			}
			return run.Result{Stdout: []byte(datasets)}, nil
		}}
		got, err := z.UsableForIncus(background)
		if err != nil || got != want {
			t.Errorf("%q: got %v, %v", datasets, got, err)
		}
	}
}

func TestExists_ToolFails_IsAnErrorAndNotAbsence(t *testing.T) {
	z := &zfs.ZFS{Run: func(context.Context, run.Command) (run.Result, error) { return run.Result{}, failed(1) }}
	if got, err := z.Exists(background, "local"); err == nil || got {
		t.Errorf("got %v, %v", got, err)
	}
	if diff := cmp.Diff("/var/lib/incus-os/zpool.local.key", z.KeyPath("local")); diff != "" {
		t.Error(diff)
	}
}
