package cli

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Whoever waits for gigabytes sees that something goes on; a small file says nothing.
func TestOpening_LargeFile_SaysEachTenth(t *testing.T) {
	for name, c := range map[string]struct {
		size int64
		want string
	}{
		"small": {1 << 20, ""},
		"large": {100 << 20, "sent 10.0 MiB of 100.0 MiB\nsent 20.0 MiB of 100.0 MiB\nsent 30.0 MiB of 100.0 MiB\nsent 40.0 MiB of 100.0 MiB\nsent 50.0 MiB of 100.0 MiB\n" +
			"sent 60.0 MiB of 100.0 MiB\nsent 70.0 MiB of 100.0 MiB\nsent 80.0 MiB of 100.0 MiB\nsent 90.0 MiB of 100.0 MiB\nsent 100.0 MiB of 100.0 MiB\n"},
	} {
		file, err := os.Create(filepath.Join(t.TempDir(), "backup"))
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		if err := file.Truncate(c.size); err != nil {
			t.Fatal(err)
		}
		var said bytes.Buffer
		o := &opening{env: &Env{Stderr: &said}}
		in, err := o.open(file, "sent")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, struct{ io.Reader }{in}); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(c.want, said.String()); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

// A backup that comes has no length: what is there is told each time that it has doubled.
func TestDoubles_LargeFile_SaysEachDoubling(t *testing.T) {
	var said bytes.Buffer
	d := &doubles{env: &Env{Stderr: &said}, w: io.Discard}
	for range 300 {
		if _, err := d.Write(make([]byte, 1<<20)); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff("received 64.0 MiB\nreceived 128.0 MiB\nreceived 256.0 MiB\n", said.String()); diff != "" {
		t.Error(diff)
	}
}
