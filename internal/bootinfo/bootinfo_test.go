package bootinfo_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/internal/bootinfo"
)

var note = bootinfo.Info{
	Mode: bootinfo.Node, RootUnlock: bootinfo.TPM, FirstBoot: true,
	BootDisk: "/dev/vda", ESP: "/dev/vda1", UsrRootHash: "00ff",
}

// The initrd and the daemon meet only in this file: its names are a contract.
func TestWrite_Note_HasTheAgreedNamesAndMode(t *testing.T) {
	root := t.TempDir()
	if err := bootinfo.Write(root, note); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(root, "run/holdfast/boot.json"))
	if err != nil {
		t.Fatal(err)
	}
	want := `{"mode":"node","root_unlock":"tpm","first_boot":true,"boot_disk":"/dev/vda","esp":"/dev/vda1","usr_root_hash":"00ff"}` + "\n"
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Error(diff)
	}
	stat, err := os.Stat(filepath.Join(root, "run/holdfast/boot.json"))
	if err != nil {
		t.Fatal(err)
	}
	if stat.Mode() != 0o644 {
		t.Errorf("mode %v, want 0644", stat.Mode())
	}
	read, err := bootinfo.Read(root)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(note, read); diff != "" {
		t.Error(diff)
	}
}

// The daemon must tell "no note" from "a bad note".
func TestRead_NoNote_IsNotExist(t *testing.T) {
	if _, err := bootinfo.Read(t.TempDir()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

func TestRead_BadNote_IsRefused(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"mode":   {`{"mode":"rescue"}`, `mode "rescue" is neither "node" nor "install"`},
		"unlock": {`{"mode":"node","root_unlock":"luck"}`, `root_unlock "luck" is neither "tpm" nor "recovery"`},
		"cut":    {`{"mode":`, `unexpected end of JSON input`},
		"huge":   {strings.Repeat(" ", 65<<10), `more than 65536 bytes`},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			if err := os.MkdirAll(filepath.Join(root, "run/holdfast"), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(root, bootinfo.Path), []byte(c.text), 0o644); err != nil {
				t.Fatal(err)
			}
			_, err := bootinfo.Read(root)
			if want := "reading the note of early boot /run/holdfast/boot.json: " + c.want; err == nil || err.Error() != want {
				t.Errorf("got %v, want %s", err, want)
			}
		})
	}
}
