package release

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/klauspost/pgzip"
)

// trimBlock is what a trimmed file's size stays a multiple of, in bytes: the block
// of dm-verity and of erofs.
const trimBlock = 4096

// packed is a file of a build in its two forms.
type packed struct {
	// size and sum are of the packed file.
	size int64
	sum  string
	// plainSize and plainSum are of what comes out when it is unpacked.
	plainSize int64
	plainSum  string
}

// compress writes source to target as gzip: no name, no time, blocks of fixed size,
// so that the same bytes always give the same file.
func compress(ctx context.Context, source, target string, trim bool) (packed, error) {
	in, length, err := openPlain(source, trim)
	if err != nil {
		return packed{}, err
	}
	defer in.Close()
	out, err := os.OpenFile(target, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return packed{}, fmt.Errorf("making %s: %w", target, err)
	}
	digest, plain := sha256.New(), sha256.New()
	counter := &countingWriter{w: io.MultiWriter(out, digest)}
	if err := pack(ctx, counter, io.TeeReader(io.NewSectionReader(in, 0, length), plain)); err != nil {
		return packed{}, errors.Join(fmt.Errorf("compressing %s: %w", source, err), out.Close())
	}
	if err := out.Sync(); err != nil {
		return packed{}, errors.Join(fmt.Errorf("writing %s to the disk: %w", target, err), out.Close())
	}
	if err := out.Close(); err != nil {
		return packed{}, fmt.Errorf("closing %s: %w", target, err)
	}
	return packed{counter.n, hex.EncodeToString(digest.Sum(nil)), length, hex.EncodeToString(plain.Sum(nil))}, nil
}

// openPlain opens a file of a build and says how much of it is published.
func openPlain(source string, trim bool) (*os.File, int64, error) {
	in, err := os.Open(source)
	if err != nil {
		return nil, 0, fmt.Errorf("reading the build: %w", err)
	}
	length, err := in.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, 0, errors.Join(fmt.Errorf("measuring %s: %w", source, err), in.Close())
	}
	if trim {
		if length, err = trimmedLength(in, length); err != nil {
			return nil, 0, errors.Join(fmt.Errorf("reading %s: %w", source, err), in.Close())
		}
	}
	return in, length, nil
}

func pack(ctx context.Context, w io.Writer, r io.Reader) error {
	packer, err := pgzip.NewWriterLevel(w, pgzip.DefaultCompression)
	if err != nil {
		return err
	}
	// The size of the blocks shapes the result; their number in flight does not.
	if err := packer.SetConcurrency(1<<20, 4); err != nil {
		return err
	}
	if _, err := io.Copy(packer, &contextReader{ctx, r}); err != nil {
		return errors.Join(err, packer.Close())
	}
	return packer.Close()
}

// trimmedLength is the length of a file without the zeros at its end, rounded up to
// a whole block; at least one block where the file has one.
func trimmedLength(r io.ReaderAt, length int64) (int64, error) {
	buffer := make([]byte, 1<<20)
	end := length
	for end > 0 {
		begin := max(0, end-int64(len(buffer)))
		chunk := buffer[:end-begin]
		if _, err := r.ReadAt(chunk, begin); err != nil && err != io.EOF {
			return 0, err
		}
		if kept := len(bytes.TrimRight(chunk, "\x00")); kept > 0 {
			end = begin + int64(kept)
			break
		}
		end = begin
	}
	rounded := max(end+trimBlock-1, trimBlock) / trimBlock * trimBlock
	return min(rounded, length), nil
}

type countingWriter struct {
	w io.Writer
	n int64
}

func (c *countingWriter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c *contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}
