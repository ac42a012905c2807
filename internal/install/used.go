package install

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/holdfast-os/holdfast/internal/layout"
)

// Range is a piece of a disk.
type Range struct {
	// Offset and Size are in bytes.
	Offset, Size int64
}

// usedBy tells, for the partitions that are larger than what is in them, which part
// of them is in use. Offsets are from the start of the partition.
var usedBy = map[int]func(part io.ReaderAt, size int64) ([]Range, error){
	layout.ESP:     fatUsed,
	layout.VerityA: verityUsed,
	layout.UsrA:    erofsUsed,
}

// Used reads from the medium which ranges of its partitions are in use, in bytes of
// the disk, by number and in ascending order. A partition that is not in the result
// has to be copied in full; the problems say why, where another answer was expected.
func Used(medium io.ReaderAt, parts []Part) (used map[int][]Range, problems []error) {
	used = map[int][]Range{}
	for _, p := range parts {
		read := usedBy[p.Number]
		if read == nil || p.Start < 0 || p.Size <= 0 {
			continue
		}
		ranges, err := read(io.NewSectionReader(medium, p.Start, p.Size), p.Size)
		if err != nil {
			problems = append(problems, fmt.Errorf("finding what is used of partition %d (%s) of the medium: %w; all of it is copied", p.Number, p.Label, err))
			continue
		}
		for i := range ranges {
			ranges[i].Offset += p.Start
		}
		used[p.Number] = ranges
	}
	return used, problems
}

// inside reports whether the ranges ascend, do not overlap and stay in a partition.
func inside(ranges []Range, p layout.Partition) bool {
	at, end := p.Start, p.Start+p.Size
	for _, r := range ranges {
		if r.Offset < at || r.Size <= 0 || r.Size > end-r.Offset {
			return false
		}
		at = r.Offset + r.Size
	}
	return true
}

// first is the range from the start of a partition, when it is one.
func first(what string, used, size int64) ([]Range, error) {
	if used <= 0 || used > size {
		return nil, fmt.Errorf("the %s has %d bytes, and its partition %d", what, used, size)
	}
	return []Range{{0, used}}, nil
}

// The superblock of EROFS lies at byte 1024, and its checksum covers the rest of the
// first block. (Documentation/filesystems/erofs.rst of the kernel, fs/erofs/erofs_fs.h)
const (
	erofsOffset  = 1024
	erofsMagic   = 0xe0f5e1e2
	erofsBits    = 12   // blocks of 4096 bytes, the only ones that the image build makes
	erofsChecked = 0x1  // compatible feature: there is a checksum
	erofsDevices = 0x8  // incompatible feature: data on other devices
	erofsLarge   = 0x80 // incompatible feature: the number of blocks has 48 bits
)

func erofsUsed(part io.ReaderAt, size int64) ([]Range, error) {
	block := make([]byte, 1<<erofsBits)
	if err := readFull(part, block, 0); err != nil {
		return nil, err
	}
	super := block[erofsOffset:]
	if binary.LittleEndian.Uint32(super) != erofsMagic {
		return nil, errors.New("there is no EROFS")
	}
	if super[12] != erofsBits || binary.LittleEndian.Uint32(super[80:])&(erofsDevices|erofsLarge) != 0 {
		return nil, errors.New("the EROFS is of an unknown form")
	}
	checksum := binary.LittleEndian.Uint32(super[4:])
	clear(super[4:8])
	// The kernel leaves the last step of CRC-32C out, which inverts the sum.
	if binary.LittleEndian.Uint32(super[8:])&erofsChecked != 0 &&
		checksum != ^crc32.Checksum(super, crc32.MakeTable(crc32.Castagnoli)) {
		return nil, errors.New("the checksum of the EROFS superblock is wrong")
	}
	return first("EROFS", int64(binary.LittleEndian.Uint32(super[36:]))<<erofsBits, size)
}

// The superblock of dm-verity begins the hash partition; the levels of the tree
// follow in blocks of their own. (cryptsetup, lib/verity/verity.c)
const (
	verityMagic     = "verity\x00\x00"
	veritySize      = 512
	verityMaxBlocks = 1 << 40
)

func verityUsed(part io.ReaderAt, size int64) ([]Range, error) {
	super := make([]byte, veritySize)
	if err := readFull(part, super, 0); err != nil {
		return nil, err
	}
	if string(super[:8]) != verityMagic {
		return nil, errors.New("there is no dm-verity superblock")
	}
	number := func(at int) int64 { return int64(binary.LittleEndian.Uint32(super[at:])) }
	digest := map[string]int64{"sha256": 32, "sha512": 64}[string(bytes.TrimRight(super[32:64], "\x00"))]
	dataBlock, hashBlock, blocks := number(64), number(68), binary.LittleEndian.Uint64(super[72:])
	if number(8) != 1 || number(12) != 1 || digest == 0 || !blockSize(dataBlock) || !blockSize(hashBlock) ||
		blocks == 0 || blocks > verityMaxBlocks {
		return nil, errors.New("the dm-verity superblock is of an unknown form")
	}
	used, perBlock := hashBlock, hashBlock/digest
	for level := int64(blocks); level > 1; {
		level = (level + perBlock - 1) / perBlock
		used += level * hashBlock
	}
	return first("hash tree", used, size)
}

// blockSize accepts the powers of two from 512 to 64 KiB.
func blockSize(n int64) bool { return n >= 512 && n <= 64<<10 && n&(n-1) == 0 }
