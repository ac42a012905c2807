// Package espdir keeps small files on the EFI system partition, where it is mounted.
//
// FAT has no journal: a power cut may leave a part of a file, or a name without its
// content. Each change is brought to the disk before the call returns, so that a caller
// can order its changes; what a part of a file means is the caller's business.
package espdir

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Dir is the mount point of the ESP. Names are relative to it.
type Dir string

// With mounts an ESP at a folder, which is made, while do works on it.
func With(device, folder string, do func(Dir) error) (err error) {
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return fmt.Errorf("mounting the ESP %s: %w", device, err)
	}
	const flags = unix.MS_NODEV | unix.MS_NOSUID | unix.MS_NOEXEC | unix.MS_NOSYMFOLLOW
	if err := unix.Mount(device, folder, "vfat", flags, "umask=0077"); err != nil {
		return fmt.Errorf("mounting the ESP %s: %w", device, err)
	}
	defer func() {
		if unmountErr := unix.Unmount(folder, 0); unmountErr != nil {
			err = errors.Join(err, fmt.Errorf("unmounting the ESP %s: %w", device, unmountErr))
		}
	}()
	return do(Dir(folder))
}

func (d Dir) file(name string) string { return filepath.Join(string(d), path.Clean("/"+name)) }

// Read gives a file of at most limit bytes; fs.ErrNotExist, wrapped, when there is none.
func (d Dir) Read(name string, limit int64) ([]byte, error) {
	f, err := os.Open(d.file(name))
	if err != nil {
		return nil, err
	}
	text, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(text)) > limit {
		err = fmt.Errorf("%s has more than %d bytes", f.Name(), limit)
	}
	return text, errors.Join(err, f.Close())
}

// Has tells whether a file or folder is there.
func (d Dir) Has(name string) (bool, error) {
	_, err := os.Lstat(d.file(name))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// Write makes or replaces a file, with its folder.
func (d Dir) Write(name string, data []byte) error {
	file := d.file(name)
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return d.sync()
}

// MakeFolder makes a folder with those above it; one that is there is no error.
func (d Dir) MakeFolder(name string) error {
	if err := os.MkdirAll(d.file(name), 0o700); err != nil {
		return err
	}
	return d.sync()
}

// Remove removes a file, or a folder with all in it; a missing one is no error.
func (d Dir) Remove(name string) error {
	there, err := d.Has(name)
	if err != nil || !there {
		return err
	}
	if err := os.RemoveAll(d.file(name)); err != nil {
		return err
	}
	return d.sync()
}

// sync brings names to the disk too.
func (d Dir) sync() error {
	f, err := os.Open(string(d))
	if err != nil {
		return err
	}
	return errors.Join(unix.Syncfs(int(f.Fd())), f.Close())
}
