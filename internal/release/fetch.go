package release

import (
	"bufio"
	"compress/flate"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/holdfast-os/holdfast/api/release"
)

// Fetch is described at Provider. The file is written to dst+".part", mode 0600,
// while its sum is made; it gets its name only when size and sum are right and its
// bytes are on the disk. Two calls for one dst must not overlap.
func (s *Source) Fetch(ctx context.Context, update release.Update, file release.File, dst string, progress Progress) error {
	if err := checkUpdate(update); err != nil {
		return err
	}
	if !slices.Contains(update.Files, file) {
		return fmt.Errorf("fetching %s: %w: release %s does not list it", file.Filename, ErrIndex, update.Version)
	}
	blob := release.Blob{Path: update.Version + "/" + file.Filename, Size: file.Size, SHA256: file.SHA256}
	packed, err := s.downloads.Stream(ctx, blob)
	if err != nil {
		return fmt.Errorf("fetching %s: %w", blob.Path, err)
	}
	d := &download{r: packed, total: file.Size, progress: progress}
	err = writePart(dst, func(w io.Writer) error { return s.unpack(w, d, file.Size) })
	if err = errors.Join(err, packed.Close()); err != nil {
		return fmt.Errorf("unpacking %s: %w", blob.Path, err)
	}
	return nil
}

// unpack writes the unpacked download to w, and reads it to its end, where its sum is known.
func (s *Source) unpack(w io.Writer, d *download, size int64) error {
	limit := min(s.limits.MaxExpanded, 64<<20+size*s.limits.MaxRatio)
	packed := bufio.NewReaderSize(d, 64<<10)
	reader, err := gzip.NewReader(packed)
	if err != nil {
		return d.blame(fmt.Errorf("%w: it is no gzip file", ErrMismatch))
	}
	n, err := io.Copy(w, io.LimitReader(reader, limit))
	if err != nil {
		return d.blame(err)
	}
	if n == limit {
		if extra, err := reader.Read(make([]byte, 1)); extra > 0 || err == nil {
			return fmt.Errorf("%w: it unpacks to more than %d bytes", ErrLimit, limit)
		}
	}
	if rest, err := io.Copy(io.Discard, packed); err != nil || rest > 0 {
		return d.blame(fmt.Errorf("%w: %d bytes follow on it", ErrMismatch, rest))
	}
	return nil
}

// download tells how far it is, and remembers what the network did.
type download struct {
	r           io.Reader
	done, total int64
	progress    Progress
	err         error
}

func (d *download) Read(p []byte) (int, error) {
	n, err := d.r.Read(p)
	d.done += int64(n)
	if d.progress != nil && n > 0 {
		d.progress(d.done, d.total)
	}
	if err != nil && err != io.EOF {
		d.err = err
	}
	return n, err
}

// blame prefers what the network did over what the unpacking made of it.
func (d *download) blame(err error) error {
	if d.err != nil {
		return d.err
	}
	var corrupt flate.CorruptInputError
	if errors.As(err, &corrupt) || errors.Is(err, gzip.ErrHeader) || errors.Is(err, gzip.ErrChecksum) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: %w", ErrMismatch, err)
	}
	return err
}

// writePart writes dst whole or not at all.
func writePart(dst string, write func(io.Writer) error) (err error) {
	part := dst + ".part"
	if err := ignore(os.Remove(part), os.ErrNotExist); err != nil {
		return fmt.Errorf("clearing %s: %w", part, err)
	}
	f, err := os.OpenFile(part, os.O_WRONLY|os.O_CREATE|os.O_EXCL|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return fmt.Errorf("making %s: %w", part, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, ignore(f.Close(), os.ErrClosed), ignore(os.Remove(part), os.ErrNotExist))
		}
	}()
	if err := write(f); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("writing %s to the disk: %w", part, err)
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("closing %s: %w", part, err)
	}
	if err := os.Rename(part, dst); err != nil {
		return fmt.Errorf("naming %s: %w", dst, err)
	}
	return syncDir(filepath.Dir(dst))
}

func ignore(err, harmless error) error {
	if errors.Is(err, harmless) {
		return nil
	}
	return err
}

// syncDir makes a rename in dir last.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("opening %s: %w", dir, err)
	}
	if err := d.Sync(); err != nil {
		return errors.Join(fmt.Errorf("writing %s to the disk: %w", dir, err), d.Close())
	}
	return d.Close()
}
