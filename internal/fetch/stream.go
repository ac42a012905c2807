package fetch

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/holdfast-os/holdfast/api/release"
)

// Stream gives the bytes of a file as they come. Interruptions are dealt with inside Read.
// At the end Read gives io.EOF when length and sum are right, else ErrMismatch: what was
// read before is not verified until then. Nothing is asked before the first Read. The
// caller closes it, and reads from one goroutine.
func (d *Downloader) Stream(ctx context.Context, blob release.Blob) (io.ReadCloser, error) {
	if err := checkBlob(blob, d.limits); err != nil {
		return nil, err
	}
	ctx, cancel := d.clock.within(ctx, d.limits.FileTotal)
	t := d.newTransfer(ctx, blob, d.newCall("fetching "+blob.Path, d.limits.FileTotal), nil)
	t.sum = sha256.New()
	return &stream{t, cancel}, nil
}

func (d *Downloader) newTransfer(ctx context.Context, blob release.Blob, c *call, progress func(Progress)) *transfer {
	return &transfer{
		call: c, ctx: ctx, blob: blob, end: blob.Size, total: blob.Size, sources: map[*mirror]bool{},
		meter: newMeter(progress, d.clock.Now)}
}

type stream struct {
	t      *transfer
	cancel context.CancelFunc
}

func (s *stream) Read(p []byte) (int, error) { return s.t.Read(p) }

func (s *stream) Close() error {
	s.cancel()
	s.t.close()
	s.t.err = fmt.Errorf("reading %s: %w", s.t.blob.Path, os.ErrClosed)
	return nil
}

// Range is a piece of a file.
type Range struct {
	// Offset is that of the first byte.
	Offset int64
	// Length is in bytes, at least 1.
	Length int64
}

// Ranges hands pieces of a file to each, in the order given, with one request for each
// piece: put neighbours together before. Only the length of a piece is certain. When each
// gives an error that wraps ErrMismatch, another mirror is asked for the piece, and each is
// called for it again; any other error ends the call. ErrNoRanges means that no mirror
// serves pieces. progress may be nil; its Total is that of all pieces.
func (d *Downloader) Ranges(ctx context.Context, blob release.Blob, ranges []Range, progress func(Progress), each func(Range, io.Reader) error) error {
	if err := checkBlob(blob, d.limits); err != nil {
		return err
	}
	var total int64
	for _, r := range ranges {
		if r.Offset < 0 || r.Length < 1 || r.Offset > blob.Size || r.Length > blob.Size-r.Offset {
			return fmt.Errorf("fetching pieces of %s: %w: %d bytes from %d on are not in its %d", blob.Path, ErrBlob, r.Length, r.Offset, blob.Size)
		}
		total += r.Length
	}
	ctx, cancel := d.clock.within(ctx, d.limits.FileTotal)
	defer cancel()
	p := &pieces{
		d: d, call: d.newCall("fetching pieces of "+blob.Path, d.limits.FileTotal), blob: blob, total: total,
		meter: newMeter(progress, d.clock.Now), each: each}
	for _, r := range ranges {
		if err := p.fetch(ctx, r); err != nil {
			return err
		}
		p.done += r.Length
	}
	return nil
}

// pieces is a call of Ranges under way.
type pieces struct {
	d           *Downloader
	call        *call
	blob        release.Blob
	meter       *meter
	done, total int64
	each        func(Range, io.Reader) error
}

// fetch hands one piece to each, as often as there are mirrors to take it from.
func (p *pieces) fetch(ctx context.Context, r Range) error {
	for {
		t := p.d.newTransfer(ctx, p.blob, p.call, nil)
		t.start, t.pos, t.end, t.ranges = r.Offset, r.Offset, r.Offset+r.Length, true
		t.meter, t.doneBase, t.total = p.meter, p.done-r.Offset, p.total
		err := p.each(r, t)
		t.close()
		if t.err != nil && t.err != io.EOF {
			return t.err
		}
		if err == nil && t.pos == t.end {
			p.call.failures = 0
			for m := range t.sources {
				p.d.succeeded(m)
			}
		}
		if !errors.Is(err, ErrMismatch) || len(t.sources) == 0 {
			return err
		}
		for m := range t.sources {
			if ended := p.call.failed(ctx, m, err); ended != nil {
				return ended
			}
		}
	}
}
