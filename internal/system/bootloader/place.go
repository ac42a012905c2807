package bootloader

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// placedTries are the tries of an image that Place has made bootable, as those that the
// transfers of systemd-sysupdate give.
const placedTries = 3

// Place puts a kernel image onto the ESP where systemd-sysupdate cannot run, as in the initrd.
// The image is written under a name that no loader looks at, flushed, compared with what the
// disk gives back, and shown to check, which may refuse it; then one rename makes it bootable,
// with three tries. Last, other images of the same version are removed, also the one that runs.
// An error of content ends it before the rename; an ESP without room is ErrNoRoom.
func (l Loader) Place(ctx context.Context, version string, content io.Reader, check func(file string) error) (err error) {
	fail := func(err error) error { return fmt.Errorf("placing the kernel image of %s: %w", version, err) }
	if err := l.Clean(); err != nil {
		return fail(err)
	}
	name := fmt.Sprintf("%s_%s+%d-0.efi", l.Name, version, placedTries)
	if _, ok := ParseEntry(l.Name, name); !ok {
		return fail(errors.New("this is no version"))
	}
	part, file := filepath.Join(l.folder(), temporaryPrefix+name), filepath.Join(l.folder(), name)
	defer func() {
		if err != nil {
			if rest := os.Remove(part); rest != nil && !errors.Is(rest, os.ErrNotExist) {
				err = errors.Join(err, rest)
			}
		}
	}()
	if err := writeChecked(ctx, part, content); err != nil {
		return fail(err)
	}
	if err := check(part); err != nil {
		return fail(err)
	}
	if err := errors.Join(l.flush(), os.Rename(part, file), l.flush()); err != nil {
		return fail(err)
	}
	if err := l.removeOthers(version, name); err != nil {
		return fail(err)
	}
	return nil
}

// writeChecked writes a file and compares it.
func writeChecked(ctx context.Context, name string, content io.Reader) (err error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	want, got := sha256.New(), sha256.New()
	_, err = io.Copy(f, io.TeeReader(untilDone{ctx, content}, want))
	if errors.Is(err, unix.ENOSPC) {
		return fmt.Errorf("%w: %w", ErrNoRoom, err)
	}
	if err == nil {
		err = f.Sync()
	}
	if err != nil {
		return err
	}
	// Only advice: where it is not followed, what was written is compared in memory.
	_ = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	if _, err := io.Copy(got, f); err != nil {
		return fmt.Errorf("reading it back: %w", err)
	}
	if !slices.Equal(got.Sum(nil), want.Sum(nil)) {
		return errors.New("the ESP does not keep what was written to it: the disk is damaged")
	}
	return nil
}

// untilDone reads until the context ends.
type untilDone struct {
	ctx context.Context
	r   io.Reader
}

func (u untilDone) Read(p []byte) (int, error) {
	if err := u.ctx.Err(); err != nil {
		return 0, err
	}
	return u.r.Read(p)
}

// removeOthers removes the images of a version but one.
func (l Loader) removeOthers(version, keep string) error {
	state, err := l.Read()
	if err != nil {
		return err
	}
	for _, entry := range state.Entries {
		if entry.Version == version && entry.File != keep {
			if err := os.Remove(filepath.Join(l.folder(), entry.File)); err != nil {
				return err
			}
		}
	}
	return l.flush()
}
