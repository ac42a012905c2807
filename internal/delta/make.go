package delta

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"sync"
)

// DefaultSegment and DefaultWindow are what Make uses, in bytes. Measured with a /usr of
// 800 MB and a new kernel with all its modules: longer segments and windows do not make
// the patch smaller, and cost the node memory.
const (
	DefaultSegment = 8 << 20
	DefaultWindow  = 16 << 20
)

// Options say how a patch is made.
type Options struct {
	// Compress makes one zstd frame out of a segment, with window as a dictionary of raw
	// content; the window may be empty. It must be safe for concurrent use and give the
	// same frame each time. Required.
	Compress func(ctx context.Context, window, segment []byte) ([]byte, error)
	// Segment is the length of a segment in bytes, at most MaxSegment. Default
	// DefaultSegment.
	Segment int64
	// Window is how much of the base a segment may use, in bytes, at most MaxWindow.
	// Default DefaultWindow.
	Window int64
	// Workers is how many segments are made at a time, each with a program of its own.
	// It does not change the patch. Default 1.
	Workers int
}

func (o Options) complete() (Options, error) {
	if o.Segment == 0 {
		o.Segment = DefaultSegment
	}
	if o.Window == 0 {
		o.Window = DefaultWindow
	}
	o.Workers = max(o.Workers, 1)
	switch {
	case o.Compress == nil:
		return o, errors.New("making a patch: there is nothing to compress with")
	case o.Segment < 1 || o.Segment > MaxSegment:
		return o, fmt.Errorf("making a patch: segments of %d bytes, allowed are 1 to %d", o.Segment, MaxSegment)
	case o.Window < 0 || o.Window > MaxWindow:
		return o, fmt.Errorf("making a patch: a window of %d bytes, allowed are 0 to %d", o.Window, MaxWindow)
	}
	return o, nil
}

// Make writes the patch that makes result out of base, and gives both files as Apply wants
// them. It reads the base twice and the result twice, and keeps the frames in memory until
// all are made.
func Make(ctx context.Context, base, result *io.SectionReader, out io.Writer, options Options) (Limits, error) {
	options, err := options.complete()
	if err != nil {
		return Limits{}, err
	}
	count := (result.Size() + options.Segment - 1) / options.Segment
	if base.Size() > MaxFile || result.Size() > MaxFile || count > maxSegments {
		return Limits{}, fmt.Errorf("making a patch: %d bytes out of %d in segments of %d are too many; files may have %d bytes, and %d segments",
			result.Size(), base.Size(), options.Segment, int64(MaxFile), maxSegments)
	}
	index, baseSum, err := indexBase(ctx, base)
	if err != nil {
		return Limits{}, fmt.Errorf("making a patch: %w", err)
	}
	whole := sha256.New()
	if _, err := io.Copy(whole, checkedReader{ctx, io.NewSectionReader(result, 0, result.Size())}); err != nil {
		return Limits{}, fmt.Errorf("making a patch: reading the result: %w", err)
	}
	m := &maker{index: index, base: base, result: result, options: options, frames: make([][]byte, count)}
	m.header = header{
		Base:     File{base.Size(), baseSum},
		Result:   File{result.Size(), Sum(whole.Sum(nil))},
		Segments: make([]segment, count),
	}
	if err := m.all(ctx); err != nil {
		return Limits{}, fmt.Errorf("making a patch: %w", err)
	}
	encoded := m.header.encode()
	if len(encoded) > maxPatchHeader {
		return Limits{}, fmt.Errorf("making a patch: its header has %d bytes, the limit is %d: use larger segments", len(encoded), maxPatchHeader)
	}
	for _, part := range append([][]byte{encoded}, m.frames...) {
		if err := writeAll(ctx, out, part); err != nil {
			return Limits{}, fmt.Errorf("making a patch: %w", err)
		}
	}
	return Limits{Base: m.header.Base, Result: m.header.Result}, nil
}

// maker holds what the workers share. Each segment is written by one of them.
type maker struct {
	index        baseIndex
	base, result *io.SectionReader
	options      Options
	header       header
	frames       [][]byte
}

// all makes every segment. The first error, in the order of the segments, is told.
func (m *maker) all(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	next := make(chan int)
	failed := make([]error, len(m.frames))
	var workers sync.WaitGroup
	for range min(m.options.Workers, len(m.frames)) {
		workers.Go(func() {
			for i := range next {
				if failed[i] = m.segment(ctx, i); failed[i] != nil {
					cancel()
				}
			}
		})
	}
	for i := range m.frames {
		next <- i
	}
	close(next)
	workers.Wait()
	var given error
	for i, err := range failed {
		if err != nil && (given == nil || errors.Is(given, context.Canceled)) {
			given = fmt.Errorf("segment %d of %d: %w", i+1, len(failed), err)
		}
	}
	return given
}

func (m *maker) segment(ctx context.Context, i int) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	at := int64(i) * m.options.Segment
	data := make([]byte, min(m.options.Segment, m.result.Size()-at))
	if _, err := io.ReadFull(io.NewSectionReader(m.result, at, int64(len(data))), data); err != nil {
		return fmt.Errorf("reading the result: %w", err)
	}
	s := segment{Length: int64(len(data)), Result: sha256.Sum256(data), Pieces: m.index.choose(data, m.options.Window)}
	window := make([]byte, 0, s.window())
	for _, p := range s.Pieces {
		window = window[:int64(len(window))+p.Length]
		if _, err := io.ReadFull(io.NewSectionReader(m.base, p.Offset, p.Length), window[int64(len(window))-p.Length:]); err != nil {
			return fmt.Errorf("reading the base: %w", err)
		}
	}
	frame, err := m.options.Compress(ctx, window, data)
	if err != nil {
		return err
	}
	s.Packed, s.Frame = int64(len(frame)), sha256.Sum256(frame)
	if why := s.wrong(m.index.size); why != "" {
		return errors.New(why)
	}
	m.header.Segments[i], m.frames[i] = s, frame
	return nil
}
