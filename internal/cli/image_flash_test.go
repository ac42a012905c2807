package cli

import (
	"bytes"
	"strings"
	"testing"

	"github.com/holdfast-os/holdfast/internal/media"
)

// Typing "yes" out of habit must not erase a disk: its own name has to be typed.
func TestConfirmDisk_OnlyItsOwnName_GoesOn(t *testing.T) {
	for name, c := range map[string]struct {
		typed, given string
		terminal     bool
		want         string
	}{
		"typed":       {"4C53\n", "", true, ""},
		"given":       {"", "4C53", false, ""},
		"yes":         {"y\n", "", true, `not confirmed, nothing was written: "y" is not this device`},
		"nothing":     {"\n", "", true, `not confirmed, nothing was written: "" is not this device`},
		"other given": {"4C53\n", "4C54", true, `not confirmed, nothing was written: "4C54" is not this device`},
		"nobody":      {"4C53\n", "", false, "nobody is here to be asked whether all on /dev/sdb may be lost"},
	} {
		env := &Env{Stdin: strings.NewReader(c.typed), Stderr: &bytes.Buffer{}, StdinTerminal: c.terminal}
		got := ""
		if err := confirmDisk(env, media.Disk{Path: "/dev/sdb", Model: "Stick", Serial: "4C53"}, c.given); err != nil {
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("%s: got %q, want %q", name, got, c.want)
		}
	}
}
