package earlyboot

import (
	"bytes"
	"errors"
	"io"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/holdfast-os/holdfast/internal/bootinfo"
)

// A /usr that cannot be read must be told at once, and not after ten minutes.
func TestReadUsr_OnlyABeginningThatCanBeRead_IsGood(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "whole"), strings.Repeat("x", 1<<20))
	write(t, filepath.Join(dir, "short"), "x")
	for path, want := range map[string]error{"whole": nil, "short": io.EOF, "none": unix.ENOENT, ".": unix.EISDIR} {
		if err := readUsr(filepath.Join(dir, path), usrBeginning); !errors.Is(err, want) || (err == nil) != (want == nil) {
			t.Errorf("%s: got %v, want %v", path, err, want)
		}
	}
}

// A good release does not lose time, one that keeps restarting is read to its end, and what is
// wrong there ends the start while it can be told.
func TestDoubtUsr_StartsThatDidNotEnd_ReadAllOfIt(t *testing.T) {
	host, dir, _ := testHost(t, healthy)
	write(t, filepath.Join(dir, "sysroot", MachineIDFile), "")
	write(t, filepath.Join(dir, "sysusr/usr/lib/os-release"), "")
	damaged := filepath.Join(dir, "damaged") // it ends before the file system does
	write(t, damaged, strings.Repeat("x", usrBeginning))
	node := bootinfo.Info{Mode: bootinfo.Node, UsrRootHash: "ab"}
	for i, want := range []error{nil, nil, io.EOF, io.EOF} {
		var said bytes.Buffer
		if err := host.doubtUsr(node, damaged, &said); !errors.Is(err, want) || (err == nil) != (want == nil) {
			t.Errorf("start %d: got %v, want %v", i+1, err, want)
		}
		if told := said.Len() > 0; told != (want != nil) {
			t.Errorf("start %d: it says %q", i+1, said.String())
		}
	}
	if err := host.doubtUsr(bootinfo.Info{Mode: bootinfo.Node, UsrRootHash: "other"}, damaged, io.Discard); err != nil {
		t.Errorf("the first start of another release: %v", err)
	}
	if err := host.doubtUsr(bootinfo.Info{Mode: bootinfo.Install}, "none", io.Discard); err != nil {
		t.Errorf("an install medium: %v", err)
	}
}
