package earlyboot

import (
	"errors"
	"io"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// A /usr that cannot be read must be told at once, and not after ten minutes.
func TestReadUsr_OnlyABeginningThatCanBeRead_IsGood(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "whole"), strings.Repeat("x", 1<<20))
	write(t, filepath.Join(dir, "short"), "x")
	for path, want := range map[string]error{"whole": nil, "short": io.EOF, "none": unix.ENOENT, ".": unix.EISDIR} {
		if err := readUsr(filepath.Join(dir, path)); !errors.Is(err, want) || (err == nil) != (want == nil) {
			t.Errorf("%s: got %v, want %v", path, err, want)
		}
	}
}
