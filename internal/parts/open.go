package parts

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/pgzip"

	"github.com/holdfast-os/holdfast/api/release"
	"github.com/holdfast-os/holdfast/internal/delta"
)

// Open gives a part that was fetched, from its beginning. It is made while it is read. The
// stream ends with io.EOF only when it had the promised size and sum. Closing it early is
// no error.
func (g *Getter) Open(ctx context.Context, way Way) (io.ReadCloser, error) {
	result, err := resultOf(way.part)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	r, w := io.Pipe()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		var err error
		switch way.Kind {
		case delta.KindDelta:
			err = g.patch(ctx, way, result, w)
		case delta.KindChunks:
			err = g.assemble(ctx, way, result, w)
		default:
			err = g.unpack(ctx, way.part, w)
		}
		if err != nil {
			err = fmt.Errorf("making %s: %w", way.part.Name, err)
		}
		w.CloseWithError(err)
	}()
	return &stream{PipeReader: r, stop: func() { cancel(); <-ended }}, nil
}

// stream ends what makes it when it is closed.
type stream struct {
	*io.PipeReader
	stop func()
}

// Close ends the making.
func (s *stream) Close() error {
	err := s.PipeReader.Close()
	s.stop()
	return err
}

func resultOf(part release.Part) (delta.File, error) {
	sum, err := delta.ParseSum(part.SHA256)
	if err != nil {
		return delta.File{}, fmt.Errorf("making %s: %w", part.Name, err)
	}
	return delta.File{Size: part.Size, SHA256: sum}, nil
}

func (g *Getter) patch(ctx context.Context, way Way, result delta.File, out io.Writer) (err error) {
	sum, err := delta.ParseSum(way.Delta.BaseSHA256)
	if err != nil {
		return err
	}
	patch, err := g.Dir.Open(g.name(way.part, "patch"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, patch.Close()) }()
	base, err := way.base.Open()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, base.Close()) }()
	limits := delta.Limits{Base: delta.File{Size: way.Delta.BaseSize, SHA256: sum}, Result: result}
	return delta.Apply(ctx, bufio.NewReaderSize(patch, 1<<20), base, out, limits)
}

func (g *Getter) assemble(ctx context.Context, way Way, result delta.File, out io.Writer) (err error) {
	pieces, err := g.Dir.Open(g.name(way.part, "pieces"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, pieces.Close()) }()
	base, err := way.base.Open()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, base.Close()) }()
	var at int64
	next := func(_ context.Context, r delta.Range) (io.ReadCloser, error) {
		piece := io.NewSectionReader(pieces, at, r.Length)
		at += r.Length
		return io.NopCloser(piece), nil
	}
	return delta.Assemble(ctx, way.index, delta.Local{Base: base, Places: way.places}, next, out, result)
}

// gunzip reads what gzip has packed, a few blocks ahead of the caller, who has sums to make
// meanwhile. It has to be closed.
func gunzip(packed io.Reader) (*pgzip.Reader, error) {
	const block, ahead = 1 << 20, 4
	unpacked, err := pgzip.NewReaderN(bufio.NewReaderSize(packed, block), block, ahead)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", delta.ErrDamaged, err)
	}
	return unpacked, nil
}

// unpack holds the last bytes back until the sum is right, as the other ways do.
func (g *Getter) unpack(ctx context.Context, part release.Part, out io.Writer) (err error) {
	packed, err := g.Dir.Open(g.name(part, "gz"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, packed.Close()) }()
	unpacked, err := gunzip(packed)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unpacked.Close()) }()
	digest, next, held := sha256.New(), make([]byte, 1<<20), make([]byte, 0, 1<<20)
	for done := int64(0); ; {
		n, err := io.ReadFull(unpacked, next)
		last := errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
		if err != nil && !last {
			return fmt.Errorf("%w: %w", delta.ErrDamaged, err)
		}
		done += int64(n)
		digest.Write(next[:n])
		if done > part.Size || last && (done != part.Size || hex.EncodeToString(digest.Sum(nil)) != part.SHA256) {
			return fmt.Errorf("%w: after %d bytes of %d", delta.ErrMismatch, done, part.Size)
		}
		if _, err := out.Write(held); err != nil {
			return err
		}
		held, next = next[:n], held[:cap(held)]
		if last {
			_, err := out.Write(held)
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
}
