package sysext

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"
	"io"
	"math/bits"
	"runtime"
	"sync"
	"sync/atomic"
)

const (
	superblockSize = 512
	maxSalt        = 256
	maxBlock       = 64 << 10
	// maxWorkers bounds the memory: each holds a piece, of at most 4 MiB.
	maxWorkers = 8
	// pieceBlocks is how many data blocks are read at once; then a cancelled context is noticed.
	pieceBlocks = 64
)

// tree is what the superblock of a dm-verity hash partition says, format 1 with SHA-256.
type tree struct {
	dataBlock  int64
	hashBlock  int64
	dataBlocks int64
	salt       []byte
}

// readSuperblock reads the first bytes of the hash partition and bounds every number
// by the sizes of the two partitions.
func readSuperblock(hashes, data *io.SectionReader) (tree, error) {
	block := make([]byte, superblockSize)
	if _, err := io.ReadFull(io.NewSectionReader(hashes, 0, superblockSize), block); err != nil {
		return tree{}, fmt.Errorf("reading the verity superblock: %w", err)
	}
	le := binary.LittleEndian
	version, hashType := le.Uint32(block[8:]), le.Uint32(block[12:])
	algorithm := string(bytes.TrimRight(block[32:64], "\x00"))
	dataBlock, hashBlock, dataBlocks := le.Uint32(block[64:]), le.Uint32(block[68:]), le.Uint64(block[72:])
	saltSize := le.Uint16(block[80:])
	switch {
	case !bytes.Equal(block[:8], []byte("verity\x00\x00")):
		return tree{}, fmt.Errorf("verity partition has no superblock")
	case version != 1 || hashType != 1 || algorithm != "sha256":
		return tree{}, fmt.Errorf("verity format is version %d, type %d, %q; want version 1, type 1, \"sha256\"", version, hashType, algorithm)
	case !validBlock(dataBlock) || !validBlock(hashBlock):
		return tree{}, fmt.Errorf("verity blocks of %d and %d bytes; want powers of two from 512 to %d", dataBlock, hashBlock, maxBlock)
	case saltSize > maxSalt:
		return tree{}, fmt.Errorf("verity salt has %d bytes, want at most %d", saltSize, maxSalt)
	case dataBlocks == 0 || dataBlocks > uint64(data.Size()/int64(dataBlock)):
		return tree{}, fmt.Errorf("verity covers %d blocks of %d bytes, which is not inside the data partition of %d bytes", dataBlocks, dataBlock, data.Size())
	}
	return tree{
		dataBlock:  int64(dataBlock),
		hashBlock:  int64(hashBlock),
		dataBlocks: int64(dataBlocks),
		salt:       block[88 : 88+saltSize],
	}, nil
}

func validBlock(n uint32) bool { return n >= 512 && n <= maxBlock && bits.OnesCount32(n) == 1 }

// verifyTree recomputes the hash tree over all data blocks, compares it with the stored
// one and its root with want. Data is streamed; a level of digests is kept in memory
// (1/128 of the data for blocks of 4 KiB).
func verifyTree(ctx context.Context, hashes, data *io.SectionReader, want []byte) error {
	t, err := readSuperblock(hashes, data)
	if err != nil {
		return err
	}
	digests, err := t.hashData(ctx, data)
	if err != nil {
		return err
	}
	offsets, err := t.levels(hashes.Size())
	if err != nil {
		return err
	}
	for level, offset := range offsets {
		if digests, err = t.checkLevel(hashes, offset, level, digests); err != nil {
			return err
		}
	}
	if !bytes.Equal(digests, want) {
		return fmt.Errorf("data has root hash %x, but %x is signed", digests, want)
	}
	return nil
}

// levels gives the offset of each level of the tree in the hash partition, lowest first.
// On disk the highest comes first, in the block after the superblock.
func (t tree) levels(size int64) ([]int64, error) {
	var blocks []int64
	for n := t.dataBlocks; n > 1; {
		perBlock := t.hashBlock / sha256.Size
		n = (n + perBlock - 1) / perBlock
		blocks = append(blocks, n)
	}
	offsets := make([]int64, len(blocks))
	position := max(t.hashBlock, superblockSize)
	for i := len(blocks) - 1; i >= 0; i-- {
		offsets[i] = position
		position += blocks[i] * t.hashBlock
	}
	if position > size {
		return nil, fmt.Errorf("verity tree needs %d bytes, its partition has %d", position, size)
	}
	return offsets, nil
}

// hashData gives the digests of all data blocks, one after the other. Each processor takes the
// next piece of the data that nobody has taken.
func (t tree) hashData(ctx context.Context, data io.ReaderAt) ([]byte, error) {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	digests := make([]byte, t.dataBlocks*sha256.Size)
	var next atomic.Int64
	var workers sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), maxWorkers) {
		workers.Go(func() {
			h, piece := sha256.New(), make([]byte, pieceBlocks*t.dataBlock)
			for ctx.Err() == nil {
				first := next.Add(pieceBlocks) - pieceBlocks
				count := min(pieceBlocks, t.dataBlocks-first)
				if count <= 0 {
					return
				}
				if _, err := data.ReadAt(piece[:count*t.dataBlock], first*t.dataBlock); err != nil {
					stop(fmt.Errorf("reading data blocks %d to %d: %w", first, first+count-1, err))
					return
				}
				for i := range count {
					at := (first + i) * sha256.Size
					t.digest(h, digests[at:at:at+sha256.Size], piece[i*t.dataBlock:(i+1)*t.dataBlock])
				}
			}
		})
	}
	workers.Wait()
	return digests, context.Cause(ctx)
}

// checkLevel compares one stored level with the digests that belong there and gives the
// digests of its blocks.
func (t tree) checkLevel(hashes io.ReaderAt, offset int64, level int, digests []byte) ([]byte, error) {
	h := sha256.New()
	stored, wanted := make([]byte, t.hashBlock), make([]byte, t.hashBlock)
	var next []byte
	for i := int64(0); len(digests) > 0; i++ {
		n := copy(wanted, digests)
		clear(wanted[n:])
		digests = digests[n:]
		if _, err := hashes.ReadAt(stored, offset+i*t.hashBlock); err != nil {
			return nil, fmt.Errorf("reading block %d of level %d of the verity tree: %w", i, level, err)
		}
		if !bytes.Equal(stored, wanted) {
			return nil, fmt.Errorf("block %d of level %d of the verity tree does not fit the data", i, level)
		}
		next = t.digest(h, next, stored)
	}
	return next, nil
}

func (t tree) digest(h hash.Hash, to, block []byte) []byte {
	h.Reset()
	h.Write(t.salt)
	h.Write(block)
	return h.Sum(to)
}
