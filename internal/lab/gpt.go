package lab

import (
	"encoding/binary"
	"fmt"
	"io"
	"os"
)

// partitions counts the partitions in the GUID partition table of a raw image with sectors
// of so many bytes, 0 for 512; an image without a table has none.
func partitions(path string, sector int) (int, error) {
	file, err := os.Open(path)
	if err != nil {
		return 0, fmt.Errorf("reading the partition table: %w", err)
	}
	defer func() { _ = file.Close() }() // only read
	return countPartitions(file, or(sector, 512))
}

func countPartitions(r io.ReaderAt, sector int) (int, error) {
	const maxEntries = 128
	header := make([]byte, 92)
	if n, err := r.ReadAt(header, int64(sector)); n < len(header) {
		if err == io.EOF {
			return 0, nil
		}
		return 0, fmt.Errorf("reading the partition table: %w", err)
	}
	if string(header[:8]) != "EFI PART" {
		return 0, nil
	}
	start := binary.LittleEndian.Uint64(header[72:])
	entries := min(binary.LittleEndian.Uint32(header[80:]), maxEntries)
	size := binary.LittleEndian.Uint32(header[84:])
	if size < 128 || size > 4096 || start > 1<<32 {
		return 0, nil
	}
	table := make([]byte, int(entries)*int(size))
	if n, err := r.ReadAt(table, int64(start)*int64(sector)); n < len(table) && err != io.EOF {
		return 0, fmt.Errorf("reading the partition table: %w", err)
	}
	count := 0
	for i := 0; i < len(table); i += int(size) {
		if [16]byte(table[i:i+16]) != [16]byte{} {
			count++
		}
	}
	return count, nil
}
