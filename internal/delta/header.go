package delta

import (
	"encoding/binary"
	"fmt"
	"io"
)

// A patch is a header in its envelope, and behind it the frames of the segments without
// a gap. The body of the header:
//
//	base     8 bytes size, 32 bytes SHA-256
//	result   8 bytes size, 32 bytes SHA-256
//	count    4 bytes, number of segments
//	and for each segment
//	  length   4 bytes, of the segment
//	  packed   4 bytes, of its frame
//	  frame    32 bytes, SHA-256 of the frame
//	  result   32 bytes, SHA-256 of the segment
//	  pieces   2 bytes, number of pieces of the base
//	  and for each piece 8 bytes offset, 4 bytes length
//
// The pieces, one behind the other, are the dictionary of the frame ("raw content" in
// RFC 8878, section 5).
const patchMagic = "HFDELTA1"

// Limits of the format. A header that asks for more is refused.
const (
	// MaxFile is the largest file that can be made, and the largest base, in bytes.
	MaxFile = 64 << 30
	// MaxSegment is the largest segment, in bytes.
	MaxSegment = 16 << 20
	// MaxWindow is how much of the base one segment may need, in bytes.
	MaxWindow = 32 << 20

	maxSegments    = 1 << 14
	maxPieces      = 512
	maxPatchHeader = 8 << 20
)

// maxFrame is the most that zstd makes of n bytes, with room (ZSTD_compressBound).
func maxFrame(n int64) int64 { return n + n/256 + 1024 }

// piece is a part of the base.
type piece struct {
	Offset int64
	Length int64
}

// segment is a part of the result.
type segment struct {
	Length int64
	Packed int64
	Frame  Sum
	Result Sum
	Pieces []piece
}

// window is the length of the dictionary.
func (s segment) window() int64 {
	var n int64
	for _, p := range s.Pieces {
		n += p.Length
	}
	return n
}

// header is what stands before the frames.
type header struct {
	Base     File
	Result   File
	Segments []segment
}

func (h header) encode() []byte {
	le := binary.LittleEndian
	var b []byte
	for _, f := range []File{h.Base, h.Result} {
		b = append(le.AppendUint64(b, uint64(f.Size)), f.SHA256[:]...)
	}
	b = le.AppendUint32(b, uint32(len(h.Segments)))
	for _, s := range h.Segments {
		b = le.AppendUint32(b, uint32(s.Length))
		b = le.AppendUint32(b, uint32(s.Packed))
		b = append(append(b, s.Frame[:]...), s.Result[:]...)
		b = le.AppendUint16(b, uint16(len(s.Pieces)))
		for _, p := range s.Pieces {
			b = le.AppendUint32(le.AppendUint64(b, uint64(p.Offset)), uint32(p.Length))
		}
	}
	return seal(patchMagic, b)
}

// readHeader reads a header and checks all that can be checked without the base. It
// leaves the reader at the first frame.
func readHeader(r io.Reader) (header, error) {
	body, err := unseal(r, patchMagic, "the patch", maxPatchHeader)
	if err != nil {
		return header{}, err
	}
	f := &fields{rest: body}
	h := header{Base: File{f.size(), f.sum()}, Result: File{f.size(), f.sum()}}
	count := f.u32()
	if count > maxSegments {
		return header{}, fmt.Errorf("the patch has %d segments, the limit is %d: %w", count, maxSegments, ErrDamaged)
	}
	var total int64
	for i := int64(0); i < count && !f.bad; i++ {
		s := readSegment(f)
		if why := s.wrong(h.Base.Size); why != "" && !f.bad {
			return header{}, fmt.Errorf("segment %d of the patch: %s: %w", i, why, ErrDamaged)
		}
		total += s.Length
		h.Segments = append(h.Segments, s)
	}
	switch {
	case f.bad:
		return header{}, fmt.Errorf("the header of the patch is too short, or names a file of more than %d bytes: %w", int64(MaxFile), ErrDamaged)
	case len(f.rest) > 0:
		return header{}, fmt.Errorf("the header of the patch has %d bytes too many: %w", len(f.rest), ErrDamaged)
	case total != h.Result.Size:
		return header{}, fmt.Errorf("the segments of the patch have %d bytes, its result %d: %w", total, h.Result.Size, ErrDamaged)
	}
	return h, nil
}

func readSegment(f *fields) segment {
	s := segment{Length: f.u32(), Packed: f.u32(), Frame: f.sum(), Result: f.sum()}
	count := f.u16()
	for i := 0; i < count && i <= maxPieces && !f.bad; i++ {
		s.Pieces = append(s.Pieces, piece{Offset: f.size(), Length: f.u32()})
	}
	return s
}

// wrong says what a segment must not be; empty when all is well. The pieces must be in
// the order of the base and must not overlap: nobody makes others.
func (s segment) wrong(baseSize int64) string {
	switch {
	case s.Length < 1 || s.Length > MaxSegment:
		return fmt.Sprintf("it has %d bytes, allowed are 1 to %d", s.Length, MaxSegment)
	case s.Packed < 1 || s.Packed > maxFrame(s.Length):
		return fmt.Sprintf("its frame has %d bytes, allowed are 1 to %d", s.Packed, maxFrame(s.Length))
	case len(s.Pieces) > maxPieces:
		return fmt.Sprintf("it needs more than %d pieces of the base", maxPieces)
	case s.window() > MaxWindow:
		return fmt.Sprintf("it needs %d bytes of the base, the limit is %d", s.window(), MaxWindow)
	}
	var end int64
	for _, p := range s.Pieces {
		if p.Length < 1 || p.Offset < end || p.Offset > baseSize-p.Length {
			return fmt.Sprintf("its piece of %d bytes at %d is outside the base or out of order", p.Length, p.Offset)
		}
		end = p.Offset + p.Length
	}
	return ""
}
