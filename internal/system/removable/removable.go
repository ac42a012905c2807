// Package removable mounts what a person has put into the machine: a stick or CD, found by
// the label of its partition or file system, read-only.
//
// Labels are not proof of anything, and a disk of the node may carry the same one; what is
// read has to be checked by whoever asked for it.
package removable

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// types are the file systems that a medium may have, in the order in which they are tried.
var types = []string{"vfat", "iso9660"}

// Find gives the device with a label: of a partition first, else of a file system; "" when
// there is none. root is where dev is, as "/".
func Find(root, label string) (string, error) {
	for _, folder := range []string{"by-partlabel", "by-label"} {
		device, err := filepath.EvalSymlinks(filepath.Join(root, "dev/disk", folder, label))
		if err == nil {
			return device, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("looking for a medium named %s: %w", label, err)
		}
	}
	return "", nil
}

// Mount mounts a device at a folder, which is made, and gives the way to unmount it.
func Mount(device, folder string) (unmount func() error, err error) {
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return nil, fmt.Errorf("mounting the medium %s: %w", device, err)
	}
	const flags = unix.MS_RDONLY | unix.MS_NODEV | unix.MS_NOSUID | unix.MS_NOEXEC | unix.MS_NOSYMFOLLOW
	for _, kind := range types {
		mountErr := unix.Mount(device, folder, kind, flags, "")
		if mountErr == nil {
			return func() error {
				if err := unix.Unmount(folder, 0); err != nil {
					return fmt.Errorf("unmounting the medium %s: %w", device, err)
				}
				return nil
			}, nil
		}
		err = errors.Join(err, fmt.Errorf("as %s: %w", kind, mountErr))
	}
	return nil, fmt.Errorf("mounting the medium %s: %w", device, err)
}
