package delta

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"slices"
)

// Both kinds of header lie in the same envelope, integers little-endian:
//
//	magic   8 bytes, with the format's number as its last letter
//	length  4 bytes, of the body
//	body
//	sum     32 bytes, SHA-256 of all of the above
//
// The sum is no protection against an attacker: it tells a torn download from a bad one.
const envelopeStart = 8 + 4

func seal(magic string, body []byte) []byte {
	out := append([]byte(magic), 0, 0, 0, 0)
	binary.LittleEndian.PutUint32(out[len(magic):], uint32(len(body)))
	out = append(out, body...)
	sum := sha256.Sum256(out)
	return append(out, sum[:]...)
}

// unseal reads an envelope with a body of at most limit bytes. It reads not one byte more
// than the envelope has.
func unseal(r io.Reader, magic, what string, limit int) ([]byte, error) {
	start := make([]byte, envelopeStart)
	if _, err := io.ReadFull(r, start); err != nil {
		return nil, reading(what, err)
	}
	if string(start[:len(magic)]) != magic {
		return nil, fmt.Errorf("%s begins with %q, want %q: %w", what, start[:len(magic)], magic, ErrDamaged)
	}
	length := binary.LittleEndian.Uint32(start[len(magic):])
	if int64(length) > int64(limit) {
		return nil, fmt.Errorf("%s promises a header of %d bytes, the limit is %d: %w", what, length, limit, ErrDamaged)
	}
	rest, err := io.ReadAll(io.LimitReader(r, int64(length)+sha256.Size))
	if err == nil && len(rest) < int(length)+sha256.Size {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return nil, reading(what, err)
	}
	body := rest[:length]
	sum := sha256.Sum256(slices.Concat(start, body))
	if !bytes.Equal(sum[:], rest[length:]) {
		return nil, fmt.Errorf("%s: the header does not have its sum: %w", what, ErrDamaged)
	}
	return body, nil
}

// fields takes integers and sums off the front of a body. After the first one that is not
// there everything is zero, and bad is true.
type fields struct {
	rest []byte
	bad  bool
}

func (f *fields) take(n int) []byte {
	if f.bad || len(f.rest) < n {
		f.bad = true
		return make([]byte, n)
	}
	taken := f.rest[:n]
	f.rest = f.rest[n:]
	return taken
}

func (f *fields) u16() int   { return int(binary.LittleEndian.Uint16(f.take(2))) }
func (f *fields) u32() int64 { return int64(binary.LittleEndian.Uint32(f.take(4))) }

// size takes a size or an offset of 8 bytes. One that no file can have is bad.
func (f *fields) size() int64 {
	v := binary.LittleEndian.Uint64(f.take(8))
	if v > MaxFile {
		f.bad = true
		return 0
	}
	return int64(v)
}

func (f *fields) sum() Sum { return Sum(f.take(sha256.Size)) }
