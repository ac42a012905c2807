package efi

import (
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// The firmware checks a signature over the attributes: a missing bit, or data in two
// writes, and it refuses.
func TestAppendAuthenticated_Update_IsWrittenWithItsAttributes(t *testing.T) {
	vars := Vars{Dir: t.TempDir()}
	if err := vars.AppendAuthenticated("db", ImageSecurity, []byte("signed")); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(vars.Dir, "db-d719b2cb-3d3a-4596-a3bc-dad00e67656f"))
	if got, want := hex.EncodeToString(data), "67000000"+hex.EncodeToString([]byte("signed")); got != want || err != nil {
		t.Errorf("got %s, want %s, %v", got, want, err)
	}
	if err := vars.AppendAuthenticated("db", ImageSecurity, make([]byte, 1<<20+1)); err == nil {
		t.Error("more than a megabyte is written")
	}
}

// A person reads what the firmware's answer means, not the number of an error.
func TestAppendAuthenticated_Refused_SaysWhy(t *testing.T) {
	got := map[string]error{}
	for name, number := range map[string]syscall.Errno{
		"full": unix.ENOSPC, "read-only": unix.EROFS, "no right": unix.EPERM, "signature": unix.EACCES, "form": unix.EINVAL, "other": unix.EIO,
	} {
		err := classify(&fs.PathError{Op: "write", Path: "x", Err: number})
		if !errors.Is(err, number) {
			t.Errorf("%s: %v has lost %v", name, err, number)
		}
		for _, known := range []error{ErrFull, ErrReadOnly, ErrRefused, ErrUnusable} {
			if errors.Is(err, known) {
				got[name] = known
			}
		}
	}
	want := map[string]error{"full": ErrFull, "read-only": ErrReadOnly, "no right": ErrReadOnly, "signature": ErrRefused, "form": ErrUnusable}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b error) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
	if classify(nil) != nil {
		t.Error("no error became one")
	}
}

func TestAppendAuthenticated_NoSuchFolder_IsAnError(t *testing.T) {
	vars := Vars{Dir: filepath.Join(t.TempDir(), "missing")}
	if err := vars.AppendAuthenticated("db", ImageSecurity, []byte("signed")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

// Whether there is room is asked before the disk is bound to what will not come.
func TestRoom_FileSystem_Decides(t *testing.T) {
	for name, c := range map[string]struct {
		stat unix.Statfs_t
		want error
	}{
		"enough":                   {unix.Statfs_t{Blocks: 65536, Bavail: 3000, Bsize: 1}, nil},
		"one byte too few":         {unix.Statfs_t{Blocks: 65536, Bavail: 2999, Bsize: 1}, ErrFull},
		"full":                     {unix.Statfs_t{Blocks: 65536, Bsize: 1}, ErrFull},
		"a kernel that cannot say": {unix.Statfs_t{Bsize: 4096}, nil},
		"read-only":                {unix.Statfs_t{Blocks: 65536, Bavail: 60000, Bsize: 1, Flags: unix.ST_RDONLY}, ErrReadOnly},
	} {
		if err := room(c.stat, 3000); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if err := (Vars{Dir: filepath.Join(t.TempDir(), "missing")}).Room(1); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

// What does not exist is measured as empty, as far as firmware measures it at all.
func TestSecureBootVariables_SomeMissing_AreEmptyOrLeftOut(t *testing.T) {
	vars := Vars{Dir: t.TempDir()}
	for name, data := range map[string]string{
		"SecureBoot-" + Global: "\x06\x00\x00\x00\x01", "PK-" + Global: "\x27\x00\x00\x00pk", "dbr-" + ImageSecurity: "\x27\x00\x00\x00r",
	} {
		if err := os.WriteFile(filepath.Join(vars.Dir, name), []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	got, err := vars.SecureBootVariables()
	want := map[string][]byte{"SecureBoot": {1}, "PK": []byte("pk"), "KEK": {}, "db": {}, "dbx": {}, "dbr": []byte("r")}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Error(diff, err)
	}
}
