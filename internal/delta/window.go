package delta

import (
	"cmp"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"slices"
	"sort"
)

// How the pieces of the base are chosen for a segment. Both files are sampled: a hash of
// the last 32 bytes runs along, and where its upper sampleBits bits are zero it is noted.
// That depends on the content alone, so that equal content is found wherever it has
// moved. Each block of the base then has as many votes as it shares samples with the
// segment, and those with most votes become the dictionary, up to the window's length.
const (
	// sampleBits thins the samples out, to one of 128 positions.
	sampleBits = 7
	// blockSize is the unit in which the base is chosen, in bytes: small enough that a
	// moved file does not drag its neighbours along, large enough for some thousand samples.
	blockSize = 256 << 10
	// commonIn is in how many blocks a sample may occur before it says nothing about any.
	commonIn = 32
	// vote is what a sample gives, shared by the blocks in which it occurs.
	vote = 5040
	// minVotes is what a block must have to be worth reading: about one of a hundred of
	// its samples.
	minVotes = 16 * vote
)

// sampler finds the samples of a stream.
type sampler struct{ hash uint64 }

// add calls found with each sample in data. A shift by two leaves the last 32 bytes in
// the hash.
func (s *sampler) add(data []byte, found func(sample uint32)) {
	h := s.hash
	for _, b := range data {
		h = h<<2 + gear[b]
		if h>>(64-sampleBits) == 0 {
			found(uint32(h >> 24))
		}
	}
	s.hash = h
}

// baseIndex knows in which blocks of the base a sample occurs: each entry is a sample in
// the upper half and the number of a block in the lower half, sorted.
type baseIndex struct {
	size    int64
	entries []uint64
}

// indexBase reads the base once, for its samples and its sum.
func indexBase(ctx context.Context, base *io.SectionReader) (baseIndex, Sum, error) {
	index := baseIndex{size: base.Size()}
	var s sampler
	whole := sha256.New()
	block := make([]byte, blockSize)
	for at := int64(0); at < base.Size(); at += blockSize {
		if err := ctx.Err(); err != nil {
			return baseIndex{}, Sum{}, err
		}
		data := block[:min(blockSize, base.Size()-at)]
		if _, err := io.ReadFull(io.NewSectionReader(base, at, int64(len(data))), data); err != nil {
			return baseIndex{}, Sum{}, fmt.Errorf("reading the base: %w", err)
		}
		whole.Write(data)
		number := uint64(at / blockSize)
		s.add(data, func(sample uint32) { index.entries = append(index.entries, uint64(sample)<<32|number) })
	}
	slices.Sort(index.entries)
	index.entries = slices.Clip(slices.Compact(index.entries))
	return index, Sum(whole.Sum(nil)), nil
}

// blocks gives the entries of one sample.
func (b baseIndex) blocks(sample uint32) []uint64 {
	from := sort.Search(len(b.entries), func(i int) bool { return b.entries[i]>>32 >= uint64(sample) })
	to := from
	for to < len(b.entries) && to-from <= commonIn && b.entries[to]>>32 == uint64(sample) {
		to++
	}
	return b.entries[from:to]
}

// choose gives the pieces of the base that are most like the segment, at most window
// bytes, in the order of the base.
func (b baseIndex) choose(segment []byte, window int64) []piece {
	var samples []uint32
	new(sampler).add(segment, func(sample uint32) { samples = append(samples, sample) })
	slices.Sort(samples)
	votes := map[int64]int{}
	for _, sample := range slices.Compact(samples) {
		in := b.blocks(sample)
		if len(in) > commonIn {
			continue
		}
		for _, entry := range in {
			votes[int64(uint32(entry))] += vote / len(in)
		}
	}
	ranked := make([]int64, 0, len(votes))
	for block, n := range votes {
		if n >= minVotes {
			ranked = append(ranked, block)
		}
	}
	slices.SortFunc(ranked, func(x, y int64) int {
		return cmp.Or(cmp.Compare(votes[y], votes[x]), cmp.Compare(x, y))
	})
	ranked = ranked[:min(int64(len(ranked)), window/blockSize, maxPieces)]
	slices.Sort(ranked)
	return b.join(ranked)
}

// join makes pieces out of blocks, neighbours becoming one.
func (b baseIndex) join(blocks []int64) []piece {
	var pieces []piece
	for _, block := range blocks {
		at := block * blockSize
		length := min(blockSize, b.size-at)
		if last := len(pieces) - 1; last >= 0 && pieces[last].Offset+pieces[last].Length == at {
			pieces[last].Length += length
			continue
		}
		pieces = append(pieces, piece{Offset: at, Length: length})
	}
	return pieces
}
