package smbios_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/internal/system/smbios"
)

// structure is a type, its formatted area behind the first four bytes, and its texts.
func structure(kind byte, area string, texts ...string) string {
	text := strings.Join(texts, "\x00") + "\x00\x00"
	return string([]byte{kind, byte(4 + len(area)), 1, 0}) + area + text
}

var (
	bios   = structure(0, "\x01\x02", "Vendor", "1.0")
	plain  = structure(16, "\x01") // no texts
	oem    = structure(11, "\x02", "holdfast.seed-key=correct horse", "another")
	ending = structure(127, "")
)

// The strings are found wherever they stand, and a table that breaks off or lies about a
// length gives what stands before.
func TestParse_Tables_GivesTheOEMStrings(t *testing.T) {
	for name, test := range map[string]struct {
		table string
		want  []string
	}{
		"among others":         {bios + plain + oem + ending, []string{"holdfast.seed-key=correct horse", "another"}},
		"two structures":       {oem + structure(11, "\x01", "x") + ending, []string{"holdfast.seed-key=correct horse", "another", "x"}},
		"behind the end":       {bios + ending + oem, nil},
		"without an end":       {bios + oem, []string{"holdfast.seed-key=correct horse", "another"}},
		"breaks off":           {bios + oem[:len(oem)-4], []string{"holdfast.seed-key=correct horse"}},
		"no texts at all":      {structure(11, "\x00") + ending, nil},
		"length of nothing":    {"\x0b\x00\x01\x00abc\x00\x00" + oem, nil},
		"length beyond":        {"\x0b\xff\x01\x00abc\x00\x00", nil},
		"three bytes":          {"\x0b\x05\x01", nil},
		"nothing":              {"", nil},
		"text of another type": {structure(1, "\x01", "holdfast.seed-key=x") + ending, nil},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(test.want, smbios.Parse([]byte(test.table))); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestOEMStrings_OfAMachine_AreRead(t *testing.T) {
	root := t.TempDir()
	if got, err := smbios.OEMStrings(root); got != nil || err != nil {
		t.Errorf("without a table: %q, %v", got, err)
	}
	file := filepath.Join(root, smbios.Table)
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(bios+oem), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := smbios.OEMStrings(root)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"holdfast.seed-key=correct horse", "another"}, got); diff != "" {
		t.Error(diff)
	}
}

// The table is written by whoever runs the machine.
func FuzzParse(f *testing.F) {
	f.Add([]byte(bios + plain + oem + ending))
	f.Add([]byte(oem[:len(oem)-4]))
	f.Fuzz(func(t *testing.T, table []byte) {
		total := 0
		for _, text := range smbios.Parse(table) {
			if text == "" || strings.Contains(text, "\x00") {
				t.Errorf("a text %q", text)
			}
			total += len(text)
		}
		if total > len(table) {
			t.Errorf("%d bytes of texts out of %d", total, len(table))
		}
	})
}
