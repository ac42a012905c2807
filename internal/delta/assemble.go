package delta

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/klauspost/compress/zstd"
)

// Local is an old file and where its chunks are. The zero value has none.
type Local struct {
	// Base is the old file.
	Base io.ReaderAt
	// Places are what Scan found in it.
	Places map[Sum]Place
}

// Has is true for a chunk of the old file; it is what PlanChunks asks. It does not need
// Base.
func (l Local) Has(sum Sum) bool {
	_, has := l.Places[sum]
	return has
}

// Fetcher gives the bytes of one range of the pack. It is asked for the ranges of
// PlanChunks, one after the other; each reader is closed before the next is asked for.
type Fetcher func(ctx context.Context, r Range) (io.ReadCloser, error)

// Assemble makes the file result out of an index, the chunks of an old file and a pack,
// and writes it to out from its beginning, in order.
//
// The errors are those of the three sides; ErrMismatch for a chunk of the pack that is torn
// or another one, ErrBase for one of the old file, both with the chunk's number and sum;
// ErrDamaged for an index that is none; ErrMismatch for another file than promised. After an error a beginning of the result may have been written, never
// its end.
func Assemble(ctx context.Context, x Index, local Local, fetch Fetcher, out io.Writer, result File) (err error) {
	if x.Result != result {
		return fmt.Errorf("the index makes a file of %d bytes with the SHA-256 %s, promised were %d bytes and %s: %w",
			x.Result.Size, x.Result.SHA256, result.Size, result.SHA256, ErrMismatch)
	}
	if err := x.check(); err != nil {
		return err
	}
	decoder, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
		zstd.WithDecodeAllCapLimit(true), zstd.WithDecoderMaxWindow(8<<20))
	if err != nil {
		return fmt.Errorf("preparing the unpacking of chunks: %w", err)
	}
	defer decoder.Close()
	a := &assembler{
		index: x, local: local, decoder: decoder, whole: sha256.New(), held: map[Sum][]byte{},
		pack:   packReader{ctx: ctx, fetch: fetch, ranges: PlanChunks(x, local.Has).Ranges},
		frame:  make([]byte, maxFrame(ChunkMax)),
		output: make([]byte, ChunkMax),
	}
	defer func() { err = errors.Join(err, a.pack.close()) }()
	return a.run(ctx, out)
}

// assembler holds the state of one Assemble.
type assembler struct {
	index   Index
	local   Local
	decoder *zstd.Decoder
	whole   hash.Hash
	held    map[Sum][]byte
	pack    packReader

	frame, output []byte
}

func (a *assembler) run(ctx context.Context, out io.Writer) error {
	last := len(a.index.Chunks) - 1
	for i, s := range steps(a.index, a.local.Has) {
		data, err := a.chunk(a.index.Chunks[i], s)
		if err != nil {
			return fmt.Errorf("chunk %d of %d (%s): %w", i+1, last+1, a.index.Chunks[i].SHA256, err)
		}
		a.whole.Write(data)
		if i == last {
			if sum := Sum(a.whole.Sum(nil)); sum != a.index.Result.SHA256 {
				return fmt.Errorf("the result has the SHA-256 %s, promised was %s: %w", sum, a.index.Result.SHA256, ErrMismatch)
			}
		}
		if err := writeAll(ctx, out, data); err != nil {
			return err
		}
	}
	if last < 0 && a.index.Result.SHA256 != Sum(sha256.Sum256(nil)) {
		return fmt.Errorf("the result is empty, promised was %s: %w", a.index.Result.SHA256, ErrMismatch)
	}
	return nil
}

// chunk gives the checked content of a chunk.
func (a *assembler) chunk(c Chunk, s action) ([]byte, error) {
	var data []byte
	var err error
	switch s.from {
	case fromHeld:
		data = a.held[c.SHA256] // was checked when it was held
	case fromLocal:
		data, err = a.fromBase(c)
	default:
		data, err = a.fromPack(c)
	}
	if err != nil {
		return nil, err
	}
	switch {
	case s.from == fromPack && s.hold:
		a.held[c.SHA256] = append([]byte(nil), data...)
	case s.from == fromHeld && !s.hold:
		delete(a.held, c.SHA256)
	}
	return data, nil
}

func (a *assembler) fromBase(c Chunk) ([]byte, error) {
	if a.local.Base == nil {
		return nil, fmt.Errorf("it should be in the old file, and there is none: %w", ErrBase)
	}
	at := int64(a.local.Places[c.SHA256])
	data := a.output[:c.Length]
	if n, err := a.local.Base.ReadAt(data, at); n < len(data) {
		if errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("the old file ends before byte %d: %w", at+c.Length, ErrBase)
		}
		return nil, fmt.Errorf("reading the old file: %w", err)
	}
	if Sum(sha256.Sum256(data)) != c.SHA256 {
		return nil, fmt.Errorf("the old file has something else at byte %d: %w", at, ErrBase)
	}
	return data, nil
}

func (a *assembler) fromPack(c Chunk) ([]byte, error) {
	frame := a.frame[:c.Packed]
	if err := a.pack.read(frame, c.Offset); err != nil {
		return nil, err
	}
	data, err := a.decoder.DecodeAll(frame, a.output[:0:c.Length])
	if err != nil {
		return nil, fmt.Errorf("unpacking it: %w (%w)", err, ErrMismatch)
	}
	if int64(len(data)) != c.Length || Sum(sha256.Sum256(data)) != c.SHA256 {
		return nil, fmt.Errorf("the pack has something else at byte %d: %w", c.Offset, ErrMismatch)
	}
	return data, nil
}

// packReader reads the ranges one after the other.
type packReader struct {
	ctx    context.Context
	fetch  Fetcher
	ranges []Range

	open io.ReadCloser
	at   int64 // in the pack, of the next byte of open
	end  int64 // of the open range
}

// read fills frame with the pack at offset. What lies between is skipped.
func (p *packReader) read(frame []byte, offset int64) error {
	if p.open == nil || offset < p.at || offset >= p.end {
		if err := p.next(); err != nil {
			return err
		}
	}
	if _, err := io.CopyN(io.Discard, p.open, offset-p.at); err != nil {
		return readingPack(err)
	}
	if _, err := io.ReadFull(p.open, frame); err != nil {
		return readingPack(err)
	}
	p.at = offset + int64(len(frame))
	return nil
}

// readingPack tells a range that is too short, which is a wrong chunk, from a lost connection.
func readingPack(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("the pack ends within it: %w", ErrMismatch)
	}
	return fmt.Errorf("reading the pack: %w", err)
}

func (p *packReader) next() error {
	if err := p.close(); err != nil {
		return err
	}
	r := p.ranges[0]
	p.ranges = p.ranges[1:]
	open, err := p.fetch(p.ctx, r)
	if err != nil {
		return fmt.Errorf("fetching %d bytes at %d of the pack: %w", r.Length, r.Offset, err)
	}
	p.open, p.at, p.end = open, r.Offset, r.Offset+r.Length
	return nil
}

func (p *packReader) close() error {
	if p.open == nil {
		return nil
	}
	err := p.open.Close()
	p.open = nil
	if err != nil {
		return fmt.Errorf("closing a range of the pack: %w", err)
	}
	return nil
}
