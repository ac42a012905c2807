package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/holdfast-os/holdfast/internal/layout"
)

// loaderSources is where a release has its signed boot loader.
const loaderSources = "/usr/lib/systemd/boot/efi"

// maxLoader bounds a boot loader, in bytes; systemd-boot has some 200 kB.
const maxLoader = 16 << 20

// newLoader is the signed boot loader of the running release.
func newLoader(arch string) string {
	name := "systemd-bootx64.efi.signed"
	if arch == layout.AArch64 {
		name = "systemd-bootaa64.efi.signed"
	}
	return filepath.Join(root, loaderSources, name)
}

// replaceLoaders brings the boot loader on the ESP up to the key of the running release. A
// release that has none to offer leaves it as it is.
func (s hostSecureBoot) replaceLoaders(ctx context.Context) error {
	file := newLoader(architecture())
	seen, err := readProgram(file, file, false)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading the boot loader of this release: %w", err)
	}
	replaced, err := s.updater.ReplaceLoaders(ctx, seen.program, func(name string) error {
		return copyLoader(file, filepath.Join(espDir, name))
	})
	for _, name := range replaced {
		s.log.Info("boot loader replaced by that of this release, which the next key signed", "file", name)
	}
	return err
}

// copyLoader replaces a file of the ESP: the new bytes are on the disk, and compared with
// what was to be written, before they get the name.
func copyLoader(from, to string) (err error) {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	data, err := io.ReadAll(io.LimitReader(in, maxLoader+1))
	if err = errors.Join(err, in.Close()); err != nil {
		return err
	}
	if len(data) > maxLoader {
		return fmt.Errorf("%s has more than %d bytes", from, maxLoader)
	}
	part := to + ".new"
	file, err := os.OpenFile(part, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(part))
		}
	}()
	_, err = file.Write(data)
	if err = errors.Join(err, file.Sync(), file.Close()); err != nil {
		return err
	}
	written, err := readLimited(part, maxLoader)
	if err == nil && !bytes.Equal(written, data) {
		err = fmt.Errorf("the ESP gives back another content than was written to %s", part)
	}
	if err != nil {
		return err
	}
	if err = os.Rename(part, to); err != nil {
		return err
	}
	return syncDir(filepath.Dir(to))
}

// noESP is for an owner: early boot goes on without, so that the node is within reach.
const noESP = "the EFI system partition cannot be mounted, so no update can be installed: restart the node; if that does not help, make a backup and install it again"

// isMounted tells whether something is mounted on a folder.
func isMounted(dir string) (bool, error) {
	var inside, outside unix.Stat_t
	if err := unix.Stat(dir, &inside); err != nil {
		return false, fmt.Errorf("looking at %s: %w", dir, err)
	}
	if err := unix.Stat(filepath.Dir(dir), &outside); err != nil {
		return false, fmt.Errorf("looking at %s: %w", filepath.Dir(dir), err)
	}
	return inside.Dev != outside.Dev, nil
}
