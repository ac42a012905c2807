package consoles

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Whoever stands before the machine looks at the screen, and whoever is far away at the serial
// port: both see the same.
func TestWrite_EveryConsole_GetsTheText(t *testing.T) {
	for name, c := range map[string]struct {
		active string
		there  []string
		want   map[string]string
		fails  bool
	}{
		"screen and serial port": {"tty0 ttyS0\n", []string{"tty0", "ttyS0", "ttyS1"}, map[string]string{"tty0": "both bad\n", "ttyS0": "both bad\n", "ttyS1": ""}, false},
		"no screen":              {"tty0 ttyS0\n", []string{"ttyS0"}, map[string]string{"ttyS0": "both bad\n"}, false},
		"none":                   {"tty0\n", nil, nil, true},
		"a way out":              {"../secret\n", []string{"../secret"}, map[string]string{"../secret": ""}, true},
	} {
		root := t.TempDir()
		sys, dev := filepath.Join(root, "sys"), filepath.Join(root, "dev")
		at := filepath.Join(sys, "class/tty/console")
		err := errors.Join(os.MkdirAll(at, 0o755), os.MkdirAll(dev, 0o755), os.WriteFile(filepath.Join(at, "active"), []byte(c.active), 0o600))
		for _, console := range c.there {
			err = errors.Join(err, os.WriteFile(filepath.Join(dev, console), nil, 0o600))
		}
		if err != nil {
			t.Fatal(err)
		}
		all, err := Open(sys, dev)
		if (err != nil) != c.fails {
			t.Fatalf("%s: got %v", name, err)
		}
		if err == nil {
			if _, err := all.Write([]byte("both bad\n")); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			if err := all.Close(); err != nil {
				t.Error(err)
			}
			if _, err := all.Write([]byte("x")); err == nil {
				t.Errorf("%s: nobody took the text, and that was no error", name)
			}
		}
		for console, want := range c.want {
			got, err := os.ReadFile(filepath.Join(dev, console))
			if diff := cmp.Diff(want, string(got)); diff != "" || err != nil {
				t.Errorf("%s: %s: %v %s", name, console, err, diff)
			}
		}
	}
}
