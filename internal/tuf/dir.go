package tuf

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"syscall"
)

// Store is where a publisher keeps the files of the metadata; names have slashes and are
// relative to the tree's folder tuf.
type Store interface {
	// Read gives a file; an error that wraps fs.ErrNotExist when there is none.
	Read(name string) ([]byte, error)
	// Write makes or replaces a file, whole or not at all, and is done when the disk has it.
	Write(name string, data []byte) error
}

// Dir is the Store in a release tree on disk. Nobody else can open it before Close.
type Dir struct {
	root *os.Root
	lock *os.File
}

// OpenDir opens the folder "tuf" of a release tree and makes what is missing. It waits
// until nobody else has it open.
func OpenDir(tree string) (*Dir, error) {
	name := path.Join(tree, folder)
	// A web server under another user reads the tree.
	if err := os.MkdirAll(name, 0o755); err != nil {
		return nil, fmt.Errorf("making the folder of the metadata: %w", err)
	}
	root, err := os.OpenRoot(name)
	if err != nil {
		return nil, fmt.Errorf("opening the folder of the metadata: %w", err)
	}
	lock, err := root.Open(".")
	if err != nil {
		return nil, errors.Join(fmt.Errorf("opening the folder of the metadata: %w", err), root.Close())
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return nil, errors.Join(fmt.Errorf("locking %s: %w", name, err), lock.Close(), root.Close())
	}
	return &Dir{root: root, lock: lock}, nil
}

// Close lets others in.
func (d *Dir) Close() error { return errors.Join(d.lock.Close(), d.root.Close()) }

// Read is described at Store. It reads at most 5 MiB.
func (d *Dir) Read(name string) (data []byte, err error) {
	f, err := d.root.Open(name)
	if err != nil {
		return nil, fmt.Errorf("reading the metadata: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	data, err = io.ReadAll(io.LimitReader(f, maxTargets+1))
	if err != nil {
		return nil, fmt.Errorf("reading the metadata file %s: %w", name, err)
	}
	if len(data) > maxTargets {
		return nil, fmt.Errorf("reading the metadata file %s: %w of %d bytes", name, ErrLimit, maxTargets)
	}
	return data, nil
}

// Write is described at Store. Its temporary names begin with a dot.
func (d *Dir) Write(name string, data []byte) error {
	if !fs.ValidPath(name) {
		return fmt.Errorf("writing the metadata file %q: the name leads outside", name)
	}
	dir, base := path.Split(name)
	if dir = path.Clean(dir); dir != "." {
		if err := d.root.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("making the folder %s: %w", dir, err)
		}
	}
	part := path.Join(dir, ".new-"+base)
	if err := d.root.Remove(part); err != nil && !missing(err) {
		return fmt.Errorf("clearing %s: %w", part, err)
	}
	if err := writeNew(d.root, part, data, 0o644); err != nil {
		return fmt.Errorf("writing the metadata file %s: %w", name, err)
	}
	if err := d.root.Rename(part, name); err != nil {
		return fmt.Errorf("naming the metadata file %s: %w", name, err)
	}
	for ; ; dir = path.Dir(dir) {
		if err := syncFolder(d.root, dir); err != nil {
			return fmt.Errorf("writing the metadata file %s to the disk: %w", name, err)
		}
		if dir == "." {
			return nil
		}
	}
}

// writeNew writes a file that must not be there; on an error it is not there.
func writeNew(root *os.Root, name string, data []byte, mode fs.FileMode) error {
	f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL|syscall.O_NOFOLLOW, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = errors.Join(f.Chmod(mode), f.Sync())
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, root.Remove(name))
	}
	return nil
}

func syncFolder(root *os.Root, name string) error {
	dir, err := root.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
