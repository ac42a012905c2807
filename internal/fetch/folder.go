package fetch

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"
)

// Dir is the folder that File writes to. Names have no slash.
type Dir interface {
	// Open opens a regular file to read and write, at its beginning. With create, a missing
	// one is made, mode 0600, and nobody else has it open with create at the same time, or
	// the error is ErrInUse. Without, fs.ErrNotExist says that it is missing.
	Open(name string, create bool) (Handle, error)
	// Rename gives a file another name, in the place of what had it.
	Rename(from, to string) error
	// Remove removes a file; a missing one is no error.
	Remove(name string) error
	// Sync makes names last over a power cut.
	Sync() error
	// Free is how many bytes can be written.
	Free() (int64, error)
}

// Handle is an open file of a Dir; *os.File is one.
type Handle interface {
	io.ReadWriteSeeker
	Truncate(size int64) error
	Sync() error
	Close() error
}

// Folder is a folder on a disk. The root stays the caller's to close.
func Folder(root *os.Root) Dir { return folder{root} }

type folder struct{ root *os.Root }

func (f folder) Open(name string, create bool) (Handle, error) {
	info, err := f.root.Lstat(name)
	if err == nil && !info.Mode().IsRegular() {
		return nil, fmt.Errorf("opening %s: it is no regular file: move it away", name)
	}
	flag := os.O_RDWR
	if create {
		flag |= os.O_CREATE
	}
	file, err := f.root.OpenFile(name, flag|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0o600)
	if err != nil || !create {
		return file, err
	}
	if err := f.own(file, name); err != nil {
		return nil, errors.Join(fmt.Errorf("locking %s: %w", name, err), file.Close())
	}
	return file, nil
}

// own locks a file, and makes sure that it still has its name: who had it locked before may
// have renamed it in the meantime.
func (f folder) own(file *os.File, name string) error {
	if err := lock(file); err != nil {
		return err
	}
	is, err := file.Stat()
	if err != nil {
		return err
	}
	named, err := f.root.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !os.SameFile(is, named) {
		return ErrInUse
	}
	return err
}

func lock(file *os.File) error {
	raw, err := file.SyscallConn()
	if err != nil {
		return err
	}
	var locked error
	if err := raw.Control(func(fd uintptr) { locked = syscall.Flock(int(fd), syscall.LOCK_EX|syscall.LOCK_NB) }); err != nil {
		return err
	}
	if errors.Is(locked, syscall.EWOULDBLOCK) {
		return ErrInUse
	}
	return locked
}

func (f folder) Rename(from, to string) error { return f.root.Rename(from, to) }

func (f folder) Remove(name string) error {
	if err := f.root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func (f folder) Sync() error {
	return f.self(func(dir *os.File) error { return dir.Sync() })
}

func (f folder) Free() (int64, error) {
	var stat syscall.Statfs_t
	err := f.self(func(dir *os.File) error {
		raw, err := dir.SyscallConn()
		if err != nil {
			return err
		}
		var asked error
		if err := raw.Control(func(fd uintptr) { asked = syscall.Fstatfs(int(fd), &stat) }); err != nil {
			return err
		}
		return asked
	})
	return int64(stat.Bavail) * stat.Bsize, err
}

// self opens the folder itself.
func (f folder) self(do func(*os.File) error) error {
	dir, err := f.root.Open(".")
	if err != nil {
		return err
	}
	return errors.Join(do(dir), dir.Close())
}
