// Package delta makes one file out of another one and a small download.
//
// A release has parts of hundreds of megabytes that differ little from those of the
// release before. A node that has the old part needs either
//
//   - a patch: for each segment of the new file a zstd frame that was made with pieces of
//     the old file as its dictionary (Make, Apply), or
//   - chunks: an index of the new file cut where its content says so, and a pack from
//     which it fetches those that the old file does not have (MakeChunks, Scan, PlanChunks,
//     Assemble). One index serves every old release; a patch serves one and is smaller.
//
// Cheapest says which.
//
// Parties: the publisher makes patches, indexes and packs; the node applies them. The
// node has the size and the SHA-256 of the result, and of the base of a patch, from
// trusted metadata, and trusts nothing else: not the old file on its disk, not what it
// downloads, not what stands in the downloaded header.
//
// What always holds:
//
//   - No byte is written that was not compared with a sum before, and never more bytes
//     than the metadata promises. The last bytes are written only when the sum of the whole
//     is right, so that a result of the right length is the right one.
//   - Whatever a header promises has a limit before memory is taken for it. Apply needs at
//     most MaxSegment + MaxWindow and the frame of one segment, Assemble MaxHeld and two chunks.
//   - The same input and the same zstd give the same bytes. Patches are made by the zstd
//     program, packs by the Go package; another version of either may pack otherwise,
//     and is read all the same.
//
// What can fail: the old file may be another one or be damaged (ErrBase), the download
// may be torn (ErrDamaged), or both may be whole and the result wrong all the same
// (ErrMismatch). For all three the answer is the same: take the whole file. What was
// written up to then is right as far as it goes, but incomplete.
//
// The package opens no files and runs no programs.
package delta

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
)

var (
	// ErrBase says that the old file is not the one that the patch was made against, or
	// that what was found in it is not there any more. Take the whole file.
	ErrBase = errors.New("the base is not the file that the delta was made against; take the whole file")
	// ErrDamaged says that a patch, an index or a pack is torn, too long, or no such file.
	// Fetch it again, or take the whole file.
	ErrDamaged = errors.New("damaged or not of this format; fetch it again or take the whole file")
	// ErrMismatch says that the result, or a chunk of it, is not the promised one. Take the
	// whole file.
	ErrMismatch = errors.New("the result is not the promised file; take the whole file")
)

// Sum is a SHA-256.
type Sum [sha256.Size]byte

// String gives the sum in hexadecimal, as manifests have it.
func (s Sum) String() string { return hex.EncodeToString(s[:]) }

// ParseSum reads 64 hexadecimal digits.
func ParseSum(text string) (Sum, error) {
	var s Sum
	if len(text) != hex.EncodedLen(len(s)) {
		return s, fmt.Errorf("reading a SHA-256: %d digits, want %d", len(text), hex.EncodedLen(len(s)))
	}
	if _, err := hex.Decode(s[:], []byte(text)); err != nil {
		return Sum{}, fmt.Errorf("reading a SHA-256: %w", err)
	}
	return s, nil
}

// File is the content of a file, by size and sum.
type File struct {
	// Size is in bytes.
	Size int64
	// SHA256 is of the whole file.
	SHA256 Sum
}

// step is how much is read or written between two looks at the context, in bytes.
const step = 1 << 20

// writeAll writes in steps, so that a long write can be given up and watched.
func writeAll(ctx context.Context, out io.Writer, data []byte) error {
	for len(data) > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		n := min(step, len(data))
		if _, err := out.Write(data[:n]); err != nil {
			return fmt.Errorf("writing the result: %w", err)
		}
		data = data[n:]
	}
	return nil
}

// reading makes an error out of a read that ended too early; other errors stay what
// they are, so that a caller can tell a torn file from a lost connection.
func reading(what string, err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%s ends too early: %w", what, ErrDamaged)
	}
	return fmt.Errorf("reading %s: %w", what, err)
}

// atEnd refuses whatever stands behind the end.
func atEnd(r io.Reader, what string) error {
	var one [1]byte
	n, err := io.ReadFull(r, one[:])
	switch {
	case n > 0:
		return fmt.Errorf("%s goes on behind its end: %w", what, ErrDamaged)
	case errors.Is(err, io.EOF):
		return nil
	}
	return fmt.Errorf("reading %s: %w", what, err)
}

// checkedReader gives up when the context ends.
type checkedReader struct {
	ctx context.Context
	r   io.Reader
}

func (c checkedReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}
