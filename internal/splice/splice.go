// Package splice puts a seed into a release's image while it is being sent, without
// unpacking or packing the image again.
//
// An image is prepared once (Prepare): its gzip file is unpacked and packed anew in pieces
// before and behind the seed's partition, which is left out. A customized image is
//
//	gzip header | head | seed, zeros | tail | checksum, length
//	 fresh        file   fresh         file   fresh
//
// Each piece ends at a whole byte and refers to nothing before itself, so that pieces can be
// joined. An image that was cut at the right places becomes another kind of medium likewise
// (With): a CD has another first and last piece. The checksum of the whole is computed from those of the parts. The result is one
// gzip member: several would unpack with gzip(1), but browsers and curl --compressed stop
// behind the first when the file comes with "Content-Encoding: gzip". The unpacked image is
// spliced likewise, out of a sparse file.
//
// Invariants: the same image and seed give the same bytes, so that a cut download goes on;
// length and entity tag are known before the first byte; what lies on the disk goes to the
// network without passing through this program (sendfile).
//
// A cache is two files and an index, named after the sum of the image's gzip file; the index
// comes last and atomically. A cut preparation leaves files that the next one replaces.
//
// What can fail: an image that is not what its sum says, that is shorter than the partition
// needs, or that is cut off (nothing is kept); a full disk; files of the cache removed while
// the service runs (an error before the first byte; Ready tells).
package splice

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"

	"github.com/klauspost/compress/flate"
)

// Region is the part of the unpacked image that is replaced, in bytes.
type Region struct{ Offset, Size int64 }

// Image is a prepared image. It is safe for several goroutines.
type Image struct {
	// packed and raw are the files, and their sizes in bytes.
	packed, raw         string
	packedSize, rawSize int64
	region              Region
	pieces              []piece
	size                int64
	// content names the bytes of all pieces.
	content    string
	head, tail half
	zeros      zeros
}

// unitSize is what the seed is filled up to a multiple of, in bytes.
const unitSize = 64 << 10

// zeros are units of zeros for a whole region.
type zeros struct {
	// packed are all units, one behind the other, each of length bytes.
	packed []byte
	length int
	// sums are the CRC-32 of the first n units.
	sums []uint32
}

// gzipHeader has no name and no time.
var gzipHeader = []byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255}

// lastBlock is an empty block that ends a deflate stream.
var lastBlock = []byte{0x03, 0x00}

// ErrTooLarge is a seed that does not fit into its partition.
var ErrTooLarge = errors.New("the seed does not fit into its partition")

// Size is the unpacked image's, in bytes.
func (m *Image) Size() int64 { return m.size }

// Packed is the image as a gzip file, with the seed's archive at the beginning of the region
// and zeros behind it.
func (m *Image) Packed(seed []byte) (*Content, error) {
	filled, err := m.fill(seed)
	if err != nil {
		return nil, err
	}
	fresh, err := deflate(filled)
	if err != nil {
		return nil, fmt.Errorf("packing the seed: %w", err)
	}
	units := int(m.region.Size-int64(len(filled))) / unitSize
	sum := joinSums(m.head.sum, crc32.ChecksumIEEE(filled), int64(len(filled)))
	sum = joinSums(sum, m.zeros.sums[units], int64(units)*unitSize)
	sum = joinSums(sum, m.tail.sum, m.tail.size)
	trailer := binary.LittleEndian.AppendUint32(slices.Clone(lastBlock), sum)
	trailer = binary.LittleEndian.AppendUint32(trailer, uint32(m.size)) // modulo 2^32, as RFC 1952 has it
	return Join(m.tag("gzip", fresh), slices.Concat(
		[]Part{{Data: gzipHeader}},
		m.head.packed,
		[]Part{{Data: fresh}, {Data: m.zeros.packed[:units*m.zeros.length]}},
		m.tail.packed,
		[]Part{{Data: trailer}},
	)...), nil
}

// Raw is the same image unpacked.
func (m *Image) Raw(seed []byte) (*Content, error) {
	filled, err := m.fill(seed)
	if err != nil {
		return nil, err
	}
	rest := m.region.Size - int64(len(filled))
	return Join(m.tag("raw", filled), slices.Concat(
		m.head.raw,
		[]Part{{Data: filled}, {Path: m.raw, Offset: m.region.Offset + int64(len(filled)), Size: rest}},
		m.tail.raw,
	)...), nil
}

// fill gives the seed with zeros behind it, a whole number of units.
func (m *Image) fill(seed []byte) ([]byte, error) {
	if int64(len(seed)) > m.region.Size {
		return nil, fmt.Errorf("%w: %d bytes, there are %d", ErrTooLarge, len(seed), m.region.Size)
	}
	units := max((len(seed)+unitSize-1)/unitSize, 1)
	filled := make([]byte, units*unitSize)
	copy(filled, seed)
	return filled, nil
}

// tag is an entity tag that changes with every byte of the content: with the files it is
// made of, and with what is fresh in it.
func (m *Image) tag(form string, fresh []byte) string {
	h := sha256.New()
	fmt.Fprintf(h, "%s %s %d ", form, m.content, m.region.Offset)
	h.Write(fresh)
	return `"` + hex.EncodeToString(h.Sum(nil)[:16]) + `"`
}

// deflate packs data into blocks that end at a whole byte, and that others can follow.
func deflate(data []byte) ([]byte, error) {
	var out bytes.Buffer
	w, err := flate.NewWriter(&out, flate.DefaultCompression)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(data); err != nil {
		return nil, err
	}
	if err := w.Flush(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// newZeros makes the units of a region of size bytes.
func newZeros(size int64) (zeros, error) {
	unit := make([]byte, unitSize)
	packed, err := deflate(unit)
	if err != nil {
		return zeros{}, fmt.Errorf("packing zeros: %w", err)
	}
	z := zeros{length: len(packed), sums: []uint32{0}}
	sum := crc32.ChecksumIEEE(unit)
	for n := range int(size / unitSize) {
		z.sums = append(z.sums, joinSums(z.sums[n], sum, unitSize))
	}
	z.packed = bytes.Repeat(packed, int(size/unitSize))
	return z, nil
}

// matrix is a linear map of 32 bits: its columns.
type matrix [32]uint32

func (m *matrix) times(v uint32) (sum uint32) {
	for i := 0; v != 0; i, v = i+1, v>>1 {
		if v&1 != 0 {
			sum ^= m[i]
		}
	}
	return sum
}

func (m *matrix) squared() (square matrix) {
	for i := range m {
		square[i] = m.times(m[i])
	}
	return square
}

// joinSums is the CRC-32 of two texts one behind the other, out of their sums and the
// length of the second in bytes. A CRC is linear: behind n more bytes, the sum of the first
// text is its old one, n times moved on by a byte of zeros.
func joinSums(first, second uint32, length int64) uint32 {
	var move matrix // by one bit
	move[0] = crc32.IEEE
	for i := 1; i < 32; i++ {
		move[i] = 1 << (i - 1)
	}
	for range 3 {
		move = move.squared() // by one byte
	}
	for ; length > 0; length >>= 1 {
		if length&1 != 0 {
			first = move.times(first)
		}
		move = move.squared()
	}
	return first ^ second
}
