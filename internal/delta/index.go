package delta

import (
	"encoding/binary"
	"fmt"
	"io"
	"slices"
)

// An index is an envelope whose body is:
//
//	result   8 bytes size, 32 bytes SHA-256
//	pack     8 bytes size
//	count    4 bytes, number of chunks
//	and for each chunk, in the order of the file
//	  offset   8 bytes, in the pack
//	  packed   4 bytes, length in the pack
//	  length   4 bytes, unpacked
//	  sum      32 bytes, SHA-256 of the chunk
//
// The chunks lie in the pack without a gap, in the order in which they are first needed;
// one that is needed again has the same place again.
const indexMagic = "HFCHUNK1"

const (
	// maxChunks bounds an index to 12 MiB, and a file that is cut to 16 GiB, on average.
	maxChunks = 1 << 18

	indexEntry = 8 + 4 + 4 + 32
	maxIndex   = 8 + 32 + 8 + 4 + maxChunks*indexEntry
)

// Chunk is a part of a file and its place in the pack.
type Chunk struct {
	// Offset is the place in the pack, in bytes.
	Offset int64
	// Packed is the length in the pack, in bytes.
	Packed int64
	// Length is that of the unpacked chunk, in bytes; at most ChunkMax.
	Length int64
	// SHA256 is of the unpacked chunk.
	SHA256 Sum
}

// Index lists the chunks of a file in their order.
type Index struct {
	// Result is the file that the chunks make.
	Result File
	// PackSize is that of the pack, in bytes.
	PackSize int64
	// Chunks are all of the file, those that occur twice twice.
	Chunks []Chunk
}

func (x Index) encode() []byte {
	le := binary.LittleEndian
	b := append(le.AppendUint64(nil, uint64(x.Result.Size)), x.Result.SHA256[:]...)
	b = le.AppendUint64(b, uint64(x.PackSize))
	b = le.AppendUint32(b, uint32(len(x.Chunks)))
	for _, c := range x.Chunks {
		b = le.AppendUint64(b, uint64(c.Offset))
		b = le.AppendUint32(le.AppendUint32(b, uint32(c.Packed)), uint32(c.Length))
		b = append(b, c.SHA256[:]...)
	}
	return seal(indexMagic, b)
}

// ReadIndex reads an index to its end and checks that it is one: ErrDamaged when not. Its
// Result is what the index says; Assemble compares it with what was promised.
func ReadIndex(r io.Reader) (Index, error) {
	body, err := unseal(r, indexMagic, "the index", maxIndex)
	if err != nil {
		return Index{}, err
	}
	if err := atEnd(r, "the index"); err != nil {
		return Index{}, err
	}
	f := &fields{rest: body}
	x := Index{Result: File{f.size(), f.sum()}, PackSize: f.size()}
	count := f.u32()
	if f.bad || count > maxChunks || count*indexEntry != int64(len(f.rest)) {
		return Index{}, fmt.Errorf("the index promises %d chunks and has %d bytes for them, with room for at most %d: %w",
			count, len(f.rest), maxChunks, ErrDamaged)
	}
	x.Chunks = slices.Grow(x.Chunks, int(count))
	for range count {
		x.Chunks = append(x.Chunks, Chunk{Offset: f.size(), Packed: f.u32(), Length: f.u32(), SHA256: f.sum()})
	}
	if f.bad {
		return Index{}, fmt.Errorf("the index names a place behind %d bytes: %w", int64(MaxFile), ErrDamaged)
	}
	return x, x.check()
}

// check refuses an index in which chunks overlap, leave gaps, are too large, or do not
// add up.
func (x Index) check() error {
	places := make(map[Sum]Chunk, len(x.Chunks))
	var length, packed int64
	for i, c := range x.Chunks {
		if c.Length < 1 || c.Length > ChunkMax || c.Packed < 1 || c.Packed > maxFrame(c.Length) {
			return fmt.Errorf("chunk %d of the index has %d bytes, packed %d: %w", i, c.Length, c.Packed, ErrDamaged)
		}
		length += c.Length
		if earlier, again := places[c.SHA256]; again {
			if earlier != c {
				return fmt.Errorf("chunk %d of the index has two places in the pack: %w", i, ErrDamaged)
			}
			continue
		}
		if c.Offset != packed {
			return fmt.Errorf("chunk %d of the index is at %d of the pack, its place is %d: %w", i, c.Offset, packed, ErrDamaged)
		}
		places[c.SHA256] = c
		packed += c.Packed
	}
	if length != x.Result.Size || packed != x.PackSize {
		return fmt.Errorf("the chunks of the index have %d bytes of %d, packed %d of %d: %w",
			length, x.Result.Size, packed, x.PackSize, ErrDamaged)
	}
	return nil
}
