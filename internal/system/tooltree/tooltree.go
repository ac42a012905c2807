// Package tooltree runs the programs of the tools tree: a Debian 13 folder that
// holds QEMU, swtpm, the UEFI firmware and mtools in the versions the project is
// tested with.
//
// The programs run on this machine as they are, without chroot and without root:
// each is handed to the tree's own dynamic loader with the tree's own libraries, so
// that neither the distribution nor its C library matter. What a program would look
// up under /usr/share (firmware, keyboard maps) has to be named by the caller;
// File gives those paths.
//
// The tree is made by the image build and complete once it holds the file
// ".complete". Nothing here changes it.
package tooltree

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/holdfast-os/holdfast/internal/system/run"
)

// Tree is a tools tree. Open makes one; the zero value runs nothing useful.
type Tree struct {
	// Path is the absolute path of the folder.
	Path string
}

// ErrMissing is returned, wrapped, when there is no complete tools tree.
var ErrMissing = errors.New("the tools tree is missing or unfinished: run `make build` to build it")

// CacheDir is where Holdfast keeps what can be made again: $HOLDFAST_CACHE, by
// default $XDG_CACHE_HOME/holdfast or ~/.cache/holdfast. It is not created.
func CacheDir() (string, error) {
	if dir := os.Getenv("HOLDFAST_CACHE"); dir != "" {
		return filepath.Abs(dir)
	}
	base, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("finding the cache folder: %w (set HOLDFAST_CACHE)", err)
	}
	return filepath.Join(base, "holdfast"), nil
}

// Default opens the tree in CacheDir()/tools.
func Default() (Tree, error) {
	cache, err := CacheDir()
	if err != nil {
		return Tree{}, err
	}
	return Open(filepath.Join(cache, "tools"))
}

// Open checks that path holds a complete tree. The error wraps ErrMissing when not.
func Open(path string) (Tree, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return Tree{}, fmt.Errorf("opening the tools tree %s: %w", path, err)
	}
	for _, name := range []string{".complete", loader} {
		if _, err := os.Stat(filepath.Join(abs, name)); err != nil {
			return Tree{}, fmt.Errorf("opening the tools tree %s: %w: %w", abs, err, ErrMissing)
		}
	}
	return Tree{Path: abs}, nil
}

const (
	loader    = "lib64/ld-linux-x86-64.so.2"
	libraries = "usr/lib/x86_64-linux-gnu"
)

// File is the absolute path of a file in the tree, given relative to its root.
func (t Tree) File(name string) string { return filepath.Join(t.Path, name) }

// Has tells whether the tree holds the program.
func (t Tree) Has(name string) bool {
	_, err := os.Stat(t.program(name))
	return err == nil
}

// Command is the program name of the tree (from usr/bin, else usr/sbin) with its
// arguments, ready for a run.Runner.
func (t Tree) Command(name string, args ...string) run.Command {
	lib := t.File(libraries)
	search := strings.Join([]string{lib, lib + "/swtpm", lib + "/systemd"}, ":")
	full := []string{"--library-path", search, t.program(name)}
	return run.Command{
		Name: t.File(loader),
		Args: append(full, args...),
		// QEMU loads parts of itself from here; XDG and mtools settings of the
		// person must not change what a machine looks like.
		Env: []string{"QEMU_MODULE_DIR=" + lib + "/qemu", "MTOOLSRC=/dev/null"},
	}
}

func (t Tree) program(name string) string {
	path := t.File("usr/bin/" + name)
	if _, err := os.Stat(path); err != nil {
		if sbin := t.File("usr/sbin/" + name); exists(sbin) {
			return sbin
		}
	}
	return path
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
