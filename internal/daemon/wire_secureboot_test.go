package daemon

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/internal/keyupdate"
	"github.com/holdfast-os/holdfast/internal/layout"
	"github.com/holdfast-os/holdfast/internal/pcr"
	"github.com/holdfast-os/holdfast/internal/secureboot"
	"github.com/holdfast-os/holdfast/internal/system/bootloader"
	"github.com/holdfast-os/holdfast/internal/system/efi"
)

// program is a PE file with some sections and no signature.
func program(sections ...string) string {
	const headers = 1024
	le := binary.LittleEndian
	file := make([]byte, headers)
	copy(file, "MZ")
	le.PutUint32(file[0x3c:], 64)
	copy(file[64:], "PE\x00\x00")
	le.PutUint16(file[68:], 0x8664)
	le.PutUint16(file[70:], uint16(len(sections)/2))
	le.PutUint16(file[84:], 240)
	optional := file[88:]
	le.PutUint16(optional, 0x20b)
	le.PutUint32(optional[60:], headers)
	le.PutUint32(optional[108:], 16)
	for i := 0; i < len(sections); i += 2 {
		entry := file[88+240+20*i:]
		copy(entry, sections[i])
		le.PutUint32(entry[8:], uint32(len(sections[i+1])))
		le.PutUint32(entry[16:], uint32(len(sections[i+1])))
		le.PutUint32(entry[20:], uint32(len(file)))
		file = append(file, sections[i+1]...)
	}
	return string(file)
}

var pcrSection = `{"sha256":[{"pcrs":[11],"pkfp":"` + strings.Repeat("a", 64) + `"}]}`

// aESP is an ESP with two boot loaders, the running UKI and whatever else is given.
func aESP(t *testing.T, more map[string]string) *espPrograms {
	t.Helper()
	dir := t.TempDir()
	files := map[string]string{
		"EFI/BOOT/BOOTX64.EFI": program(".text", "loader"), "EFI/systemd/systemd-bootx64.efi": program(".text", "loader"),
		"EFI/Linux/" + layout.Name + "_202611220104.efi": program(".linux", program(".text", "kernel"), ".pcrsig", pcrSection, ".pcrpkey", "the key\x00"),
	}
	for name, text := range more {
		files[name] = text
	}
	for name, text := range files {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	loader := bootloader.Loader{ESP: dir, Name: layout.Name, Running: "202611220104", Vars: efi.Vars{Dir: t.TempDir()}}
	return &espPrograms{loader: loader, esp: dir, arch: layout.X86_64, note: filepath.Join(t.TempDir(), "note/started.json")}
}

// What may start, what needs a key that dbx might take, and what cannot be read: each counts.
func TestESP_Programs_AreToldApart(t *testing.T) {
	e := aESP(t, map[string]string{
		"EFI/Linux/" + layout.Name + "_202611230104+3-0.efi": program(".pcrsig", pcrSection, ".pcrpkey", "next key"),
		"EFI/Linux/.#sysupdate123.efi":                       "unfinished",
		"EFI/other/grub.efi":                                 program(".text", "grub"),
		"EFI/other/broken.efi":                               "MZ",
		"EFI/Linux/" + layout.Name + "_202611240104.efi":     "MZ",
		"FSCK0000.REC":                                       "junk",
	})
	var f keyupdate.Facts
	if err := e.read(&f); err != nil {
		t.Fatal(err)
	}
	names := func(programs []keyupdate.Program) (list []string) {
		for _, p := range programs {
			list = append(list, p.Image.Name+strings.Join(p.Signed, ""))
		}
		return list
	}
	const a, b = "EFI/Linux/" + layout.Name + "_202611220104.efi", "EFI/Linux/" + layout.Name + "_202611230104+3-0.efi"
	keys := strings.Repeat("a", 64)
	got := map[string]any{"loaders": names(f.Loaders), "ukis": names(f.UKIs), "running": f.UKI, "images": len(f.State.Images), "unread": len(f.State.Unread),
		"broken": f.State.Unread["EFI/other/broken.efi"] != "", "trial": f.OnTrial, "keys": len(e.policyKeys()), "unknown": f.Unknown}
	want := map[string]any{"loaders": []string{"EFI/BOOT/BOOTX64.EFI", "EFI/systemd/systemd-bootx64.efi"}, "ukis": []string{a + keys, b + keys},
		"running": a, "images": 5, "unread": 2, "broken": true, "trial": false, "keys": 2,
		"unknown": []string{"EFI/Linux/" + layout.Name + "_202611240104.efi"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// A boot loader that was replaced since the start is not the one that was measured: nothing
// may be worked out from it. The note is made once, also when the daemon starts again.
func TestESP_LoaderReplaced_IsNotTheOneThatStarted(t *testing.T) {
	e := aESP(t, nil)
	note, err := e.started()
	if err != nil {
		t.Fatal(err)
	}
	var f keyupdate.Facts
	if err := e.read(&f); err != nil {
		t.Fatal(err)
	}
	log := []pcr.Event{{PCR: 4, Type: 0x80000003, SHA256: f.Loaders[0].Image.SHA256}}
	if got := note.loader(log, f.Loaders); got != "EFI/BOOT/BOOTX64.EFI" {
		t.Errorf("got %q", got)
	}
	if got := note.loader(nil, f.Loaders); got != "" {
		t.Errorf("without a log: %q", got)
	}
	for _, l := range f.Loaders {
		if err := os.WriteFile(filepath.Join(e.esp, l.Image.Name), []byte(program(".text", "another loader")), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	again, err := e.started()
	if diff := cmp.Diff(note, again); diff != "" || err != nil {
		t.Error(diff, err)
	}
	f = keyupdate.Facts{}
	if err := e.read(&f); err != nil {
		t.Fatal(err)
	}
	log = append(log, pcr.Event{PCR: 4, Type: 0x80000003, SHA256: f.Loaders[0].Image.SHA256})
	if got := again.loader(log, f.Loaders); got != "" {
		t.Errorf("the new one: %q", got)
	}
}

// The archive is for root alone, and replaced as a whole.
func TestKeepFile_Twice_IsOneFileForRootAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "folder/update.tar")
	for _, text := range []string{"first, and longer", "second"} {
		if err := keepFile(path, []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	text, err := readLimited(path, 6)
	entries, listErr := os.ReadDir(filepath.Dir(path))
	if string(text) != "second" || err != nil || listErr != nil || len(entries) != 1 || info.Mode().Perm() != 0o600 {
		t.Errorf("%q, %v, %v, %d files, mode %o", text, err, listErr, len(entries), info.Mode().Perm())
	}
	if _, err := readLimited(path, 5); err == nil {
		t.Error("more than the limit is read")
	}
	if text, err := readLimited(path+"x", 5); text != nil || err != nil {
		t.Errorf("a file that is not there: %q, %v", text, err)
	}
}

func TestVendorOf_Variables_AreWhereTheFirmwareHasThem(t *testing.T) {
	got := map[secureboot.Name]string{}
	for _, name := range []secureboot.Name{secureboot.PK, secureboot.KEK, secureboot.DB, secureboot.DBX} {
		got[name] = vendorOf(name)[:8]
	}
	want := map[secureboot.Name]string{"PK": "8be4df61", "KEK": "8be4df61", "db": "d719b2cb", "dbx": "d719b2cb"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if got := fmt.Sprint(restartOf(keyupdate.Outcome{}), "|", restartOf(keyupdate.Outcome{Restart: true})); got != "|a variable was written" {
		t.Errorf("got %q", got)
	}
}

// A release that is not on the ESP yet is told apart from all that are, and a kernel image
// that cannot be read is no release.
func TestReadRelease_KernelImage_HasItsKeys(t *testing.T) {
	file := filepath.Join(t.TempDir(), "202611230104.kernel")
	if err := os.WriteFile(file, []byte(program(".pcrsig", pcrSection, ".pcrpkey", "next key\x00\x00")), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := readRelease("202611230104", file)
	if err != nil {
		t.Fatal(err)
	}
	want := keyupdate.Release{Version: "202611230104", Key: []byte("next key"), UKI: keyupdate.Program{
		Image: secureboot.Image{Name: "release 202611230104", SHA256: got.UKI.Image.SHA256}, Signed: []string{strings.Repeat("a", 64)}}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if err := os.WriteFile(file, []byte("MZ"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := readRelease("202611230104", file); err == nil {
		t.Error("a file that is no program was read")
	}
}
