package fetch

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"syscall"

	"github.com/holdfast-os/holdfast/api/release"
)

// File writes a file of the tree to dir under name, mode 0600. What an earlier call has
// left is continued. If name is there already and right, nothing is asked of anybody.
// Otherwise what name had before stays until the new file is whole. progress may be nil; it
// runs on the caller's goroutine and must be quick.
//
// The part is left behind on an error. Discard removes it. Two calls for one name must not
// overlap: the second ends with ErrInUse.
func (d *Downloader) File(ctx context.Context, blob release.Blob, dir Dir, name string, progress func(Progress)) error {
	if err := checkBlob(blob, d.limits); err != nil {
		return err
	}
	if err := checkName(name); err != nil {
		return err
	}
	there, err := holds(dir, name, blob)
	if err != nil {
		return fmt.Errorf("fetching %s: %w", blob.Path, err)
	}
	if there {
		if progress != nil {
			progress(Progress{Done: blob.Size, Total: blob.Size})
		}
		return Discard(dir, name)
	}
	p, err := openPart(dir, name, blob)
	if err != nil {
		return fmt.Errorf("fetching %s: %w", blob.Path, err)
	}
	if err := d.fill(ctx, p, progress); err != nil {
		return errors.Join(err, p.leave())
	}
	if err := p.publish(); err != nil {
		return fmt.Errorf("fetching %s: %w", blob.Path, err)
	}
	return nil
}

// Have is how many bytes of a file an earlier call of File has left, all of them when it is
// there and right. It reads what is there.
func Have(dir Dir, name string, blob release.Blob) (int64, error) {
	if err := checkName(name); err != nil {
		return 0, err
	}
	there, err := holds(dir, name, blob)
	if err != nil || there {
		return blob.Size, err
	}
	h, err := dir.Open(name+partSuffix, false)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("opening %s: %w", name+partSuffix, err)
	}
	p := &part{dir: dir, name: name, blob: blob, file: h}
	usable := p.restore()
	return p.pos, errors.Join(usable, h.Close())
}

// Discard removes what an unfinished call of File has left.
func Discard(dir Dir, name string) error {
	if err := checkName(name); err != nil {
		return err
	}
	for _, suffix := range []string{partSuffix, noteSuffix, noteSuffix + newSuffix} {
		if err := dir.Remove(name + suffix); err != nil {
			return fmt.Errorf("removing %s: %w", name+suffix, err)
		}
	}
	return nil
}

func checkName(name string) error {
	if err := checkPath(name); err != nil || strings.Contains(name, "/") || len(name) > 200 {
		return fmt.Errorf("%w: %q is no name for a file", ErrBlob, clip(name))
	}
	return nil
}

// holds tells whether a file is there and right.
func holds(dir Dir, name string, blob release.Blob) (bool, error) {
	h, err := dir.Open(name, false)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("opening %s: %w", name, err)
	}
	sum := sha256.New()
	size, err := h.Seek(0, io.SeekEnd)
	if err == nil && size == blob.Size {
		if _, err = h.Seek(0, io.SeekStart); err == nil {
			size, err = io.Copy(sum, io.LimitReader(h, blob.Size))
		}
	}
	if err = errors.Join(err, h.Close()); err != nil {
		return false, fmt.Errorf("reading %s: %w", name, err)
	}
	return size == blob.Size && hex.EncodeToString(sum.Sum(nil)) == blob.SHA256, nil
}

// fill downloads what the part lacks.
func (d *Downloader) fill(ctx context.Context, p *part, progress func(Progress)) error {
	if err := d.checkSpace(p); err != nil {
		return err
	}
	ctx, cancel := d.clock.within(ctx, d.limits.FileTotal)
	defer cancel()
	t := d.newTransfer(ctx, p.blob, d.newCall("fetching "+p.blob.Path, d.limits.FileTotal), progress)
	defer t.close()
	t.pos, t.sum, t.rewind, t.pieces = p.pos, p.sum, p.rewind, p.pos > 0
	for _, m := range d.mirrors {
		if p.etag != "" && p.mirror == m.base.String() {
			t.etags[m] = p.etag
		}
	}
	buffer := make([]byte, 128<<10)
	for {
		n, err := t.Read(buffer)
		p.sum = t.sum
		if n > 0 {
			if wrong := p.write(buffer[:n]); wrong != nil {
				return d.full(p, wrong)
			}
			p.mirror, p.etag = t.m.base.String(), t.etags[t.m]
			if p.pos-p.noted >= d.limits.Checkpoint {
				if wrong := p.checkpoint(); wrong != nil {
					return d.full(p, wrong)
				}
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (d *Downloader) checkSpace(p *part) error {
	free, err := p.dir.Free()
	if err != nil {
		return fmt.Errorf("fetching %s: asking how much space is free: %w", p.blob.Path, err)
	}
	if need := p.blob.Size - p.pos + d.limits.Reserve; free < need && p.pos < p.blob.Size {
		return fmt.Errorf("fetching %s: %w", p.blob.Path, &NoSpaceError{Need: need, Free: free})
	}
	return nil
}

// full says with numbers that a disk has run full.
func (d *Downloader) full(p *part, err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		free, asked := p.dir.Free()
		missing := &NoSpaceError{Need: p.blob.Size - p.pos + d.limits.Reserve, Free: free}
		err = errors.Join(fmt.Errorf("%w (%w)", missing, err), asked)
	}
	return fmt.Errorf("fetching %s: %w", p.blob.Path, err)
}
