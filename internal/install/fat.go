package install

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// fatGeometry is where things lie on a FAT16 or FAT32 file system, in bytes.
type fatGeometry struct {
	// sector and cluster are sizes.
	sector, cluster int64
	// table is where the first file allocation table begins.
	table int64
	// data is where cluster 2 begins: behind the reserved sectors, the tables and the
	// root directory of FAT16.
	data int64
	// clusters is the number of clusters.
	clusters int64
	// entry is the size of a table's entry: 2 or 4.
	entry int64
	// root is the first cluster of the root directory of FAT32; 0 for FAT16.
	root int64
	// media is the byte that begins the table.
	media byte
}

// fatMaxRanges bounds the pieces of a fragmented file system.
const fatMaxRanges = 1 << 16

var errFAT = errors.New("the FAT file system is of an unknown form")

// parseFAT reads a boot sector. What is unusual in any way is an error: the caller
// then copies everything. (Microsoft's FAT specification, 2005, section 3)
func parseFAT(boot []byte, size int64) (fatGeometry, error) {
	short := func(at int) int64 { return int64(binary.LittleEndian.Uint16(boot[at:])) }
	long := func(at int) int64 { return int64(binary.LittleEndian.Uint32(boot[at:])) }
	if boot[510] != 0x55 || boot[511] != 0xaa {
		return fatGeometry{}, errors.New("there is no FAT file system")
	}
	sector, perCluster, reserved, tables, rootEntries := short(11), int64(boot[13]), short(14), int64(boot[16]), short(17)
	total, perTable := short(19), short(22)
	if total == 0 {
		total = long(32)
	}
	g := fatGeometry{sector: sector, cluster: perCluster * sector, table: reserved * sector, entry: 2, media: boot[21]}
	fat32 := perTable == 0
	if fat32 {
		perTable, g.entry, g.root = long(36), 4, long(44)
		if short(40)&0x80 != 0 || short(42) != 0 { // a table that is not kept twice, a version of its own
			return fatGeometry{}, errFAT
		}
	}
	if !blockSize(sector) || sector > 4096 || perCluster == 0 || perCluster&(perCluster-1) != 0 ||
		reserved == 0 || tables == 0 || tables > 2 || perTable == 0 || fat32 != (rootEntries == 0) || total*sector > size {
		return fatGeometry{}, errFAT
	}
	start := reserved + tables*perTable + (rootEntries*32+sector-1)/sector
	if start >= total {
		return fatGeometry{}, errFAT
	}
	g.data, g.clusters = start*sector, (total-start)/perCluster
	// The number of clusters decides what firmware takes the file system for.
	least, most := int64(4085), int64(65525)
	if fat32 {
		least, most = 65525, 0x0ffffff6
	}
	if g.clusters < least || g.clusters >= most || (g.clusters+2)*g.entry > perTable*sector ||
		(fat32 && (g.root < 2 || g.root >= g.clusters+2)) {
		return fatGeometry{}, errFAT
	}
	return g, nil
}

// fatUsed gives everything before the first cluster, and each cluster whose entry in
// the first table, the one that Linux and firmware read, is not "free".
func fatUsed(part io.ReaderAt, size int64) ([]Range, error) {
	boot := make([]byte, 512)
	if err := readFull(part, boot, 0); err != nil {
		return nil, err
	}
	g, err := parseFAT(boot, size)
	if err != nil {
		return nil, err
	}
	ranges, rootUsed := []Range{{0, g.data}}, g.root == 0
	buffer := make([]byte, 1<<20)
	for from := int64(0); from < g.clusters+2; from += int64(len(buffer)) / g.entry {
		table := buffer[:min(int64(len(buffer)), (g.clusters+2-from)*g.entry)]
		if err := readFull(part, table, g.table+from*g.entry); err != nil {
			return nil, fmt.Errorf("reading the file allocation table: %w", err)
		}
		if from == 0 && table[0] != g.media {
			return nil, errFAT
		}
		for i := int64(0); i < int64(len(table))/g.entry; i++ {
			number := from + i
			if number < 2 || free(table[i*g.entry:][:g.entry]) {
				continue
			}
			rootUsed = rootUsed || number == g.root
			ranges = extend(ranges, Range{g.data + (number-2)*g.cluster, g.cluster})
		}
		if len(ranges) > fatMaxRanges {
			return nil, errors.New("the FAT file system is in too many pieces")
		}
	}
	if !rootUsed {
		return nil, errors.New("the FAT file system has no root directory")
	}
	return ranges, nil
}

// free looks at one entry. The upper 4 bits of FAT32 mean nothing.
func free(entry []byte) bool {
	if len(entry) == 4 {
		return binary.LittleEndian.Uint32(entry)&0x0fffffff == 0
	}
	return binary.LittleEndian.Uint16(entry) == 0
}

// extend adds a range behind the others, or makes the last one longer.
func extend(ranges []Range, r Range) []Range {
	if last := &ranges[len(ranges)-1]; last.Offset+last.Size == r.Offset {
		last.Size += r.Size
		return ranges
	}
	return append(ranges, r)
}
