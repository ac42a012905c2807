package earlyboot_test

import (
	"strings"
	"testing"

	"github.com/holdfast-os/holdfast/internal/earlyboot"
)

const hash = "usrhash=5aaa20a0f2ff1f6ba1b1d5be8be24ba1c11c2c0d7e5b4d7cd3b7d0c5d4a8e901"

// Whoever controls a BMC or a hypervisor must not be able to add a word to the command
// line of a signed system.
func TestCheckCommandLine_OnlyTheSignedWords_AreAccepted(t *testing.T) {
	const signed = "rw quiet systemd.import_credentials=no\n"
	tests := []struct {
		name, running, refused string
	}{
		{"as signed", hash + " rw quiet systemd.import_credentials=no\n", ""},
		{"padded with NUL", hash + " rw quiet systemd.import_credentials=no\x00\n", ""},
		{"a word added at the end", hash + " rw quiet systemd.import_credentials=no init=/bin/sh", "init=/bin/sh"},
		{"a word added before", "rd.break " + hash + " rw quiet systemd.import_credentials=no", "usrhash="},
		{"a word changed", hash + " rw quiet systemd.import_credentials=yes", "systemd.import_credentials=yes"},
		{"a word missing", hash + " rw quiet", "systemd.import_credentials=no"},
		{"a second root hash", hash + " " + hash + " rw quiet systemd.import_credentials=no", "usrhash="},
		{"no root hash", "rw quiet systemd.import_credentials=no", "usrhash="},
		{"empty", "", "usrhash="},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			err := earlyboot.CheckCommandLine(test.running, signed)
			switch {
			case test.refused == "" && err != nil:
				t.Errorf("refused: %v", err)
			case test.refused != "" && err == nil:
				t.Error("accepted")
			case test.refused != "" && !strings.Contains(err.Error(), test.refused):
				t.Errorf("the reason %q does not name %q", err, test.refused)
			}
		})
	}
}
