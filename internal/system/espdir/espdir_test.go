package espdir

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestDir_WriteReadRemove_LeavesNothing(t *testing.T) {
	d := Dir(t.TempDir())
	for _, text := range []string{"longer text", "short"} {
		if err := d.Write("holdfast/reset.json", []byte(text)); err != nil {
			t.Fatal(err)
		}
		got, err := d.Read("holdfast/reset.json", int64(len(text)))
		if err != nil || string(got) != text {
			t.Errorf("got %q, %v; want %q", got, err, text)
		}
	}
	if err := d.MakeFolder("swtpm"); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"holdfast", "swtpm", "swtpm"} {
		if err := d.Remove(name); err != nil {
			t.Fatal(err)
		}
	}
	left, err := os.ReadDir(string(d))
	if err != nil || len(left) != 0 {
		t.Errorf("left are %v, %v", left, err)
	}
}

// A file of the ESP comes from whoever had the disk: it cannot fill the memory.
func TestRead_FileLongerThanItsLimit_IsRefused(t *testing.T) {
	d := Dir(t.TempDir())
	if err := d.Write("big", []byte("12345")); err != nil {
		t.Fatal(err)
	}
	if got, err := d.Read("big", 4); err == nil {
		t.Errorf("got %q", got)
	}
	if _, err := d.Read("none", 4); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

func TestDir_NameThatLeadsOut_StaysInside(t *testing.T) {
	top := t.TempDir()
	d := Dir(filepath.Join(top, "esp"))
	if err := os.Mkdir(string(d), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(top, "precious"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := d.Remove("../precious"); err != nil {
		t.Fatal(err)
	}
	there, err := Dir(top).Has("precious")
	if diff := cmp.Diff(true, there); diff != "" || err != nil {
		t.Error(diff, err)
	}
}
