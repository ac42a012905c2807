package lab

import (
	"archive/tar"
	"bytes"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/internal/layout"
	"github.com/holdfast-os/holdfast/internal/media"
	"github.com/holdfast-os/holdfast/internal/seed"
	"github.com/holdfast-os/holdfast/test/needs"
)

var somePEM = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("not really DER")})

func members(t *testing.T, archive []byte) map[string]string {
	t.Helper()
	got := map[string]string{}
	for r := tar.NewReader(bytes.NewReader(archive)); ; {
		header, err := r.Next()
		if err == io.EOF {
			return got
		}
		if err != nil {
			t.Fatal(err)
		}
		raw, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		got[header.Name] = string(raw)
	}
}

// The seed makes the node install by itself, trust the lab and get its releases
// from this computer; these are the documents that a node reads.
func TestSeedArchive_WithReleaseServer_HoldsTheFourDocuments(t *testing.T) {
	archive, err := archiveOf(seedInput{ClientCert: somePEM, ReleasePort: 8123})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"install.json":      `{"force_reboot":true,"version":"1"}`,
		"applications.json": `{"applications":[{"name":"incus"}],"version":"1"}`,
		"incus.json": `{"apply_defaults":true,"preseed":{"certificates":[{"certificate":"bm90IHJlYWxseSBERVI=","name":"lab","type":"client"}],` +
			`"config":{"core.https_address":":8443"}},"version":"1"}`,
		"provider.json": `{"config":{"server_url":"http://10.0.2.100:8080"},"name":"images","version":"1"}`,
	}
	if diff := cmp.Diff(want, members(t, archive)); diff != "" {
		t.Errorf("seed (-want +got):\n%s", diff)
	}
	if got := string(archive[257:262]); got != "ustar" {
		t.Errorf("bytes 257 to 261 are %q: a node takes that for no seed", got)
	}
}

// A VM test changes one document and leaves the others alone.
func TestSeedArchive_Replacements_AddChangeAndRemove(t *testing.T) {
	archive, err := archiveOf(seedInput{ClientCert: somePEM, Replace: map[string]any{
		"install": nil, "applications": object{"version": "1"}, "network": object{"version": "1"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	got := members(t, archive)
	delete(got, "incus.json")
	want := map[string]string{"applications.json": `{"version":"1"}`, "network.json": `{"version":"1"}`}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("seed (-want +got):\n%s", diff)
	}
}

// The seed must land where a node looks for it, and nowhere else.
func TestMakeMedium_Seed_LandsAtItsPlace(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "version"), []byte("202611220101\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	version, err := buildVersion(dir)
	if err != nil || version != "202611220101" {
		t.Fatalf("version %q, %v", version, err)
	}
	image := filepath.Join(dir, "Holdfast_202611220101.raw")
	if err := os.WriteFile(image, []byte("boot"), 0o600); err != nil {
		t.Fatal(err)
	}
	medium := filepath.Join(dir, "medium.raw")
	if err := makeMedium(medium, dir, version, []byte("seed")); err == nil || !strings.Contains(err.Error(), "byte 2148532224") {
		t.Errorf("an image without room for a seed: got %v", err)
	}
	if err := os.Truncate(image, 2148532224+1<<20); err != nil {
		t.Fatal(err)
	}
	if err := makeMedium(medium, dir, version, []byte("seed")); err != nil {
		t.Fatal(err)
	}
	file, err := os.Open(medium)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	start, seed := make([]byte, 4), make([]byte, 6)
	if _, err := file.ReadAt(start, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := file.ReadAt(seed, 2148532223); err != nil {
		t.Fatal(err)
	}
	if string(start) != "boot" || string(seed) != "\x00seed\x00" {
		t.Errorf("the medium begins %q, around the seed it has %q", start, seed)
	}
}

// The tests of CDs start from the same image as those of sticks.
func TestMakeCD_Medium_HasOneTableForSectorsOf2048(t *testing.T) {
	path := filepath.Join(t.TempDir(), "medium.raw")
	rows, err := layout.Table(layout.X86_64)
	if err != nil {
		t.Fatal(err)
	}
	script := "label: gpt\n"
	for _, row := range rows[:layout.UsrA] {
		script += fmt.Sprintf("%d : start=%d, size=%d, type=%s, name=\"%s\"\n", row.Number, row.Start/512, row.Size/512, row.GUID, row.Label)
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, 5<<30); err != nil {
		t.Fatal(err)
	}
	command := exec.Command("sfdisk", "--quiet", path)
	command.Stdin = strings.NewReader(script)
	if out, err := command.CombinedOutput(); errors.Is(err, exec.ErrNotFound) {
		needs.Missing(t, "program: sfdisk")
	} else if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, err := file.WriteAt([]byte{0, 16}, layout.Start(layout.ESP)+11); err != nil { // sectors of 4096
		t.Fatal(err)
	}
	if err := makeCD(path); err != nil {
		t.Fatal(err)
	}
	info, err := file.Stat()
	if err != nil {
		t.Fatal(err)
	}
	table, err := media.ReadTable(file, info.Size())
	if err != nil || table.Sector != 2048 || len(table.Partitions) != layout.UsrA {
		t.Errorf("got sectors of %d and %d partitions, %v", table.Sector, len(table.Partitions), err)
	}
	sector := make([]byte, 2)
	if _, err := file.ReadAt(sector, layout.Start(layout.ESP)+11); err != nil || sector[0] != 0 || sector[1] != 16 {
		t.Errorf("the boot sector of the ESP has become %x, %v: it starts nowhere", sector, err)
	}
}

func archiveOf(in seedInput) ([]byte, error) {
	files, err := seedFiles(in)
	if err != nil {
		return nil, err
	}
	return seedArchive(files)
}

// Whoever finds the medium of a sealed seed reads that an installation is wanted, and nothing else.
func TestSealed_Seed_HidesAllButTheInstallation(t *testing.T) {
	files, err := seedFiles(seedInput{ClientCert: somePEM, ReleasePort: 8123})
	if err != nil {
		t.Fatal(err)
	}
	hidden, strs, err := sealed(files, "")
	if err != nil || len(strs) != 1 {
		t.Fatalf("%d strings, %v", len(strs), err)
	}
	var names []string
	for _, file := range hidden {
		names = append(names, file.Name)
	}
	if diff := cmp.Diff([]string{"applications.json.age", "incus.json.age", "install.json", "provider.json.age"}, names); diff != "" {
		t.Error(diff)
	}
	text, found := strings.CutPrefix(strs[0], "holdfast.seed-key=")
	keys, err := seed.ParseKeys(text)
	if err != nil || !found {
		t.Fatalf("the key is %q, %v", strs[0], err)
	}
	opened, err := seed.Unseal(hidden[1], keys...)
	if err != nil || string(opened) != string(files[1].Data) {
		t.Errorf("with the key the document is %q, %v", opened, err)
	}
	hidden, strs, err = sealed(files[:1], "correct horse")
	if err != nil || len(strs) != 0 {
		t.Fatalf("sealed to a passphrase, the machine is told %q, %v", strs, err)
	}
	if keys, err = seed.ParseKeys("correct horse"); err != nil {
		t.Fatal(err)
	}
	if opened, err := seed.Unseal(hidden[0], keys...); err != nil || string(opened) != string(files[0].Data) {
		t.Errorf("with the passphrase the document is %q, %v", opened, err)
	}
}
