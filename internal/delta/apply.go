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

// Limits are what trusted metadata says about the two ends of a patch. Both are needed:
// a patch that says otherwise is refused.
type Limits struct {
	// Base is the old file.
	Base File
	// Result is the new one.
	Result File
}

// maxDecoderWindow is the largest window that a frame may ask for, in bytes: the smallest
// power of two that has room for a dictionary and a segment is 64 MiB, and the zstd program
// rounds up once more. No memory is taken for it: frames are unpacked in one piece
// into a buffer of their segment's length.
const maxDecoderWindow = 128 << 20

// Apply makes the new file out of base and patch and writes it to out, from its beginning
// and in order. It reads the patch once and in order; of base only what the patch names.
//
// The errors are those of the three sides, and ErrBase, ErrDamaged and ErrMismatch. After
// an error a beginning of the result may have been written, never its end.
func Apply(ctx context.Context, patch io.Reader, base io.ReaderAt, out io.Writer, limits Limits) error {
	patch = checkedReader{ctx, patch}
	h, err := readHeader(patch)
	if err != nil {
		return err
	}
	if h.Base != limits.Base {
		return fmt.Errorf("the patch needs a base of %d bytes with the SHA-256 %s, this one has %d bytes and %s: %w",
			h.Base.Size, h.Base.SHA256, limits.Base.Size, limits.Base.SHA256, ErrBase)
	}
	if h.Result != limits.Result {
		return fmt.Errorf("the patch makes a file of %d bytes with the SHA-256 %s, promised were %d bytes and %s: %w",
			h.Result.Size, h.Result.SHA256, limits.Result.Size, limits.Result.SHA256, ErrMismatch)
	}
	a, err := newApplier(h, patch, base)
	if err != nil {
		return err
	}
	defer a.decoder.Close()
	for i, s := range h.Segments {
		data, err := a.segment(s)
		if err != nil {
			return fmt.Errorf("segment %d of %d of the patch: %w", i+1, len(h.Segments), err)
		}
		if i < len(h.Segments)-1 { // the last is written below, when all is known to be well
			err = writeAll(ctx, out, data)
		}
		if err != nil {
			return err
		}
	}
	if err := atEnd(patch, "the patch"); err != nil {
		return err
	}
	if sum := Sum(a.whole.Sum(nil)); sum != limits.Result.SHA256 {
		return fmt.Errorf("the result has the SHA-256 %s, promised was %s: %w", sum, limits.Result.SHA256, ErrMismatch)
	}
	return writeAll(ctx, out, a.output)
}

// applier holds the buffers of one Apply; they are taken once, for the largest segment.
type applier struct {
	patch   io.Reader
	base    io.ReaderAt
	decoder *zstd.Decoder
	whole   hash.Hash

	window, frame, output []byte
}

func newApplier(h header, patch io.Reader, base io.ReaderAt) (*applier, error) {
	decoder, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
		zstd.WithDecodeAllCapLimit(true), zstd.WithDecoderMaxWindow(maxDecoderWindow))
	if err != nil {
		return nil, fmt.Errorf("preparing the unpacking of a patch: %w", err)
	}
	var window, packed, length int64
	for _, s := range h.Segments {
		window, packed, length = max(window, s.window()), max(packed, s.Packed), max(length, s.Length)
	}
	return &applier{
		patch: patch, base: base, decoder: decoder, whole: sha256.New(),
		window: make([]byte, window), frame: make([]byte, packed), output: make([]byte, 0, length),
	}, nil
}

// segment gives the next segment, checked. It is valid until the next call.
func (a *applier) segment(s segment) ([]byte, error) {
	frame := a.frame[:s.Packed]
	if _, err := io.ReadFull(a.patch, frame); err != nil {
		return nil, reading("the patch", err)
	}
	if Sum(sha256.Sum256(frame)) != s.Frame {
		return nil, fmt.Errorf("the frame does not have its SHA-256: %w", ErrDamaged)
	}
	window, err := a.read(s.Pieces)
	if err != nil {
		return nil, err
	}
	dictionary := zstd.WithDecoderDictRaw(0, window)
	if len(window) == 0 {
		dictionary = zstd.WithDecoderDictDelete()
	}
	if err := a.decoder.ResetWithOptions(nil, dictionary); err != nil {
		return nil, fmt.Errorf("preparing the unpacking of a frame: %w", err)
	}
	output, err := a.decoder.DecodeAll(frame, a.output[:0:s.Length])
	if err != nil {
		return nil, fmt.Errorf("unpacking the frame: %w (%w)", err, ErrDamaged)
	}
	a.output = output
	if int64(len(output)) != s.Length {
		return nil, fmt.Errorf("the frame has %d bytes, promised were %d: %w", len(output), s.Length, ErrDamaged)
	}
	// The frame is what the publisher made: the base must be another one.
	if Sum(sha256.Sum256(output)) != s.Result {
		return nil, fmt.Errorf("the segment does not have its SHA-256: %w", ErrBase)
	}
	a.whole.Write(output)
	return output, nil
}

// read gives the pieces of the base, one behind the other.
func (a *applier) read(pieces []piece) ([]byte, error) {
	var end int64
	for _, p := range pieces {
		into := a.window[end : end+p.Length]
		if n, err := a.base.ReadAt(into, p.Offset); n < len(into) {
			if errors.Is(err, io.EOF) {
				return nil, fmt.Errorf("the base ends before byte %d: %w", p.Offset+p.Length, ErrBase)
			}
			return nil, fmt.Errorf("reading the base: %w", err)
		}
		end += p.Length
	}
	return a.window[:end], nil
}
