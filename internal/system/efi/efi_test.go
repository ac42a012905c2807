package efi_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	api "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/system/efi"
)

func put(t *testing.T, dir, name string, data ...byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
		t.Fatal(err)
	}
}

func get(t *testing.T, dir, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(data)
}

// What is in the file is what the firmware gets: attributes first, little-endian.
func TestVars_WriteReadDelete_FileHoldsAttributesAndData(t *testing.T) {
	vars := efi.Vars{Dir: t.TempDir()}
	for _, data := range []string{"a longer first value", "short"} {
		if err := vars.Write("Test", efi.Install, efi.Variable{Attributes: efi.Persistent, Data: []byte(data)}); err != nil {
			t.Fatal(err)
		}
	}
	if got := get(t, vars.Dir, "Test-12f075e0-2d07-493d-811a-00920a72c04c"); got != "07000000"+hex.EncodeToString([]byte("short")) {
		t.Errorf("got %s", got)
	}
	got, err := vars.Read("Test", efi.Install)
	if diff := cmp.Diff(efi.Variable{Attributes: 7, Data: []byte("short")}, got); diff != "" || err != nil {
		t.Error(diff, err)
	}
	for range 2 {
		if err := vars.Delete("Test", efi.Install); err != nil {
			t.Error(err)
		}
	}
	if _, err := vars.Read("Test", efi.Install); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

// Nobody is told that Secure Boot is on because a variable is missing.
func TestModes_SomeVariablesMissing_CountAsOff(t *testing.T) {
	vars := efi.Vars{Dir: t.TempDir()}
	put(t, vars.Dir, "SecureBoot-"+efi.Global, 6, 0, 0, 0, 1)
	put(t, vars.Dir, "SetupMode-"+efi.Global, 6, 0, 0, 0, 0)
	put(t, vars.Dir, "AuditMode-"+efi.Global, 6, 0, 0, 0)
	got, err := vars.Modes()
	if diff := cmp.Diff(efi.Modes{SecureBoot: true}, got); diff != "" || err != nil {
		t.Error(diff, err)
	}
}

func TestLoaderPartition_AsTheBootLoaderWritesIt_IsLowerCase(t *testing.T) {
	vars := efi.Vars{Dir: t.TempDir()}
	data := []byte{6, 0, 0, 0}
	for _, c := range "3FA9C1D2-0000-4000-8000-000000000001\x00" {
		data = append(data, byte(c), 0)
	}
	put(t, vars.Dir, "LoaderDevicePartUUID-"+efi.Loader, data...)
	got, err := vars.LoaderPartition()
	if got != "3fa9c1d2-0000-4000-8000-000000000001" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
}

// Other tools read this variable too: its name and bytes are fixed.
func TestInstallComplete_SetAndCleared_HasTheKnownNameAndBytes(t *testing.T) {
	vars := efi.Vars{Dir: t.TempDir()}
	if err := vars.SetInstallComplete(true); err != nil {
		t.Fatal(err)
	}
	if got := get(t, vars.Dir, "IncusOSInstallComplete-12f075e0-2d07-493d-811a-00920a72c04c"); got != "0700000000000000" {
		t.Errorf("got %s", got)
	}
	if got, err := vars.InstallComplete(); !got || err != nil {
		t.Errorf("got %t, %v", got, err)
	}
	if err := vars.SetInstallComplete(false); err != nil {
		t.Fatal(err)
	}
	if got, err := vars.InstallComplete(); got || err != nil {
		t.Errorf("got %t, %v", got, err)
	}
}

var entry = efi.BootEntry{Label: "Hf", Partition: 1, Start: 2048, Size: 4194304,
	GUID: "3fa9c1d2-1122-3344-8000-0000000000aa", Loader: `\a.efi`}

// Written by hand from the specification: active, path of 42+4+14+4 bytes, label, nodes.
const entryBytes = "07000000" + "01000000" + "4000" + "480066000000" +
	"04012a00" + "01000000" + "0008000000000000" + "0000400000000000" + "d2c1a93f" + "2211" + "4433" + "80000000000000aa" + "0202" +
	"04041200" + "5c0061002e0065006600690000" + "00" +
	"7fff0400"

// A machine with another system on it must start the new one first, and keep the other.
func TestSetBootEntry_OtherEntriesThere_IsFirstAndKeepsThem(t *testing.T) {
	vars := efi.Vars{Dir: t.TempDir()}
	put(t, vars.Dir, "Boot0000-"+efi.Global, 7, 0, 0, 0, 1, 0, 0, 0, 0, 0, 'X', 0, 0, 0)
	put(t, vars.Dir, "BootOrder-"+efi.Global, 7, 0, 0, 0, 0, 0)
	put(t, vars.Dir, "BootCurrent-"+efi.Global, 6, 0, 0, 0, 0, 0)
	for range 2 {
		if err := vars.SetBootEntry(entry); err != nil {
			t.Fatal(err)
		}
		if got := get(t, vars.Dir, "Boot0001-"+efi.Global); got != entryBytes {
			t.Errorf("got\n%s, want\n%s", got, entryBytes)
		}
		if got := get(t, vars.Dir, "BootOrder-"+efi.Global); got != "0700000001000000" {
			t.Errorf("got order %s", got)
		}
	}
}

// Installing ten times must not leave ten entries.
func TestSetBootEntry_SameLabelTwice_LeavesOne(t *testing.T) {
	vars := efi.Vars{Dir: t.TempDir()}
	old := []byte{7, 0, 0, 0, 1, 0, 0, 0, 0, 0, 'H', 0, 'f', 0, 0, 0, 0x7f, 0xff, 4, 0}
	put(t, vars.Dir, "Boot0003-"+efi.Global, old...)
	put(t, vars.Dir, "Boot001A-"+efi.Global, old...)
	put(t, vars.Dir, "BootOrder-"+efi.Global, 7, 0, 0, 0, 0x1a, 0, 9, 0, 3, 0)
	if err := vars.SetBootEntry(entry); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(vars.Dir, "Boot0*"))
	if err != nil || len(files) != 1 || filepath.Base(files[0]) != "Boot0003-"+efi.Global {
		t.Errorf("got %q, %v", files, err)
	}
	if got := get(t, vars.Dir, "BootOrder-"+efi.Global); got != "0700000003000900" {
		t.Errorf("got order %s", got)
	}
	if got := get(t, vars.Dir, "Boot0003-"+efi.Global); got != entryBytes {
		t.Errorf("got %s", got)
	}
}

func list(kind string, signatures ...[]byte) []byte {
	data, err := hex.DecodeString(kind)
	if err != nil {
		panic(err)
	}
	each := 16 + len(signatures[0])
	data = binary.LittleEndian.AppendUint32(data, uint32(28+each*len(signatures)))
	data = binary.LittleEndian.AppendUint32(data, 0)
	data = binary.LittleEndian.AppendUint32(data, uint32(each))
	for _, s := range signatures {
		data = append(append(data, make([]byte, 16)...), s...)
	}
	return data
}

const (
	x509List   = "a159c0a5e494a74a87b5ab155c2bf072"
	sha256List = "2616c4c14c509240aca941f936934328"
)

// The node names its trust anchors: what is shown must be what the firmware holds.
func TestCertificates_ListsOfBothKinds_CertificatesAreNamed(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Holdfast db"}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	vars := efi.Vars{Dir: t.TempDir()}
	attributes := []byte{0x27, 0, 0, 0}
	put(t, vars.Dir, "db-"+efi.ImageSecurity, append(attributes, append(list(sha256List, make([]byte, 32)), list(x509List, der)...)...)...)
	put(t, vars.Dir, "PK-"+efi.Global, append(attributes, list(x509List, []byte("no certificate"))...)...)
	got, err := vars.Certificates()
	if err != nil {
		t.Fatal(err)
	}
	sum, odd := sha256.Sum256(der), sha256.Sum256([]byte("no certificate"))
	want := []api.SecureBootCertificate{
		{Type: "PK", Fingerprint: hex.EncodeToString(odd[:])},
		{Type: "db", Fingerprint: hex.EncodeToString(sum[:]), Subject: "CN=Holdfast db", Issuer: "CN=Holdfast db"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// Firmware is foreign: sizes that lie must be an error and not a crash.
func TestParseCertificates_SizesThatDoNotAddUp_AreRefused(t *testing.T) {
	good := list(x509List, []byte("abc"), []byte("def"))
	if got, err := efi.ParseCertificates(good); err != nil || len(got) != 2 || string(got[1]) != "def" {
		t.Fatalf("got %q, %v", got, err)
	}
	for name, change := range map[string]func([]byte) []byte{
		"cut in the header":     func(b []byte) []byte { return b[:27] },
		"cut in the body":       func(b []byte) []byte { return b[:40] },
		"list size too large":   func(b []byte) []byte { b[16]++; return b },
		"list size zero":        func(b []byte) []byte { b[16] = 0; return b },
		"header beyond the end": func(b []byte) []byte { b[23] = 0xff; return b },
		"signatures of nothing": func(b []byte) []byte { b[24] = 0; return b },
		"owner alone":           func(b []byte) []byte { b[24] = 16; return b },
	} {
		t.Run(name, func(t *testing.T) {
			if got, err := efi.ParseCertificates(change(append([]byte{}, good...))); err == nil {
				t.Errorf("got %q and no error", got)
			}
		})
	}
}

func FuzzParseCertificates_AnyBytes_NoPanicAndInBounds(f *testing.F) {
	f.Add(list(x509List, []byte("abc")))
	f.Add(append(list(sha256List, make([]byte, 32)), list(x509List, []byte("x"))...))
	f.Fuzz(func(t *testing.T, data []byte) {
		total := 0
		found, err := efi.ParseCertificates(data)
		for _, der := range found {
			total += len(der) + 16
		}
		if err == nil && total > len(data) {
			t.Errorf("%d bytes of certificates out of %d", total, len(data))
		}
	})
}
