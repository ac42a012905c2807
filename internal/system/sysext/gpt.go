package sysext

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
)

const (
	// maxEntries is how many partition entries are read; 128 is what every tool writes.
	maxEntries = 1024
	// entrySize is the size of a partition entry, in bytes, in every table of today.
	entrySize = 128
)

// role is what a partition is for.
type role int

const (
	roleData role = iota
	roleVerity
	roleSignature
)

func (r role) String() string { return [...]string{"data", "verity", "verity signature"}[r] }

// kind is a known partition type: its family ("root-x86-64") and role.
type kind struct {
	family string
	role   role
}

// kinds are the types of the Discoverable Partitions Specification that an extension
// may have.
var kinds = map[string]kind{
	"4f68bce3-e8cd-4db1-96e7-fbcaf984b709": {"root-x86-64", roleData},
	"2c7357ed-ebd2-46d9-aec1-23d437ec2bf5": {"root-x86-64", roleVerity},
	"41092b05-9fc8-4523-994f-2def0408b176": {"root-x86-64", roleSignature},
	"8484680c-9521-48c6-9c11-b0720656f69e": {"usr-x86-64", roleData},
	"77ff5f63-e7b6-4633-acf4-1565b864c0e6": {"usr-x86-64", roleVerity},
	"e7bb33fb-06cf-4e81-8273-e543b413e2e2": {"usr-x86-64", roleSignature},
	"b921b045-1df0-41c3-af44-4c6f280d3fae": {"root-arm64", roleData},
	"df3300ce-d69f-4c92-978c-9bfb0f38d820": {"root-arm64", roleVerity},
	"6db69de6-29f4-4758-a7a5-962190f00ce3": {"root-arm64", roleSignature},
	"b0e01050-ee5f-4390-949a-9101b17104e9": {"usr-arm64", roleData},
	"6e11a4e7-fbca-4ded-b9e9-e1a512bb664e": {"usr-arm64", roleVerity},
	"c23ce4ff-44bd-4b00-b2d4-b41b3419e02a": {"usr-arm64", roleSignature},
}

// partition is one entry of the table, in bytes.
type partition struct {
	typeID string
	offset int64
	size   int64
}

// parts are the three partitions of an extension.
type parts [3]*io.SectionReader

// readParts finds the three partitions and refuses every other picture.
func readParts(image io.ReaderAt, size int64) (parts, error) {
	table, err := readTable(image, size)
	if err != nil {
		return parts{}, err
	}
	var found parts
	family := ""
	for _, p := range table {
		k, known := kinds[p.typeID]
		switch {
		case !known:
			return parts{}, fmt.Errorf("image has a partition of type %s, which an extension must not have", p.typeID)
		case family != "" && k.family != family:
			return parts{}, fmt.Errorf("image has partitions of two families, %s and %s", family, k.family)
		case found[k.role] != nil:
			return parts{}, fmt.Errorf("image has two %s partitions", k.role)
		}
		family = k.family
		found[k.role] = io.NewSectionReader(image, p.offset, p.size)
	}
	for r, p := range found {
		if p == nil {
			return parts{}, fmt.Errorf("image has no %s partition", role(r))
		}
	}
	return found, nil
}

// readTable reads the primary GPT. Like systemd it finds the sector size by looking for
// the header, and refuses an image where more than one place holds one.
func readTable(image io.ReaderAt, size int64) ([]partition, error) {
	var header []byte
	var sector int64
	for _, s := range []int64{512, 1024, 2048, 4096} {
		block := make([]byte, 92)
		if s+int64(len(block)) > size {
			break
		}
		if _, err := image.ReadAt(block, s); err != nil {
			return nil, fmt.Errorf("reading the partition table: %w", err)
		}
		if !bytes.HasPrefix(block, []byte("EFI PART")) {
			continue
		}
		if header != nil {
			return nil, fmt.Errorf("image has partition tables for sectors of %d and %d bytes", sector, s)
		}
		header, sector = block, s
	}
	if header == nil {
		return nil, fmt.Errorf("image has no partition table, so it is not a signed extension")
	}
	entries, err := readEntries(image, size, sector, header)
	if err != nil {
		return nil, err
	}
	return readPartitions(entries, size, sector)
}

// readEntries checks the header and gives the bytes of the entries.
func readEntries(image io.ReaderAt, size, sector int64, header []byte) ([]byte, error) {
	le := binary.LittleEndian
	if n := le.Uint32(header[12:]); n != uint32(len(header)) {
		return nil, fmt.Errorf("partition table header has %d bytes, want %d", n, len(header))
	}
	sum := le.Uint32(header[16:])
	clear := slices.Clone(header)
	copy(clear[16:20], []byte{0, 0, 0, 0})
	if crc32.ChecksumIEEE(clear) != sum {
		return nil, fmt.Errorf("partition table header has a wrong checksum")
	}
	if lba := le.Uint64(header[24:]); lba != 1 {
		return nil, fmt.Errorf("partition table header says that it is in sector %d, not 1", lba)
	}
	first, count, each := le.Uint64(header[72:]), le.Uint32(header[80:]), le.Uint32(header[84:])
	if each != entrySize || count == 0 || count > maxEntries {
		return nil, fmt.Errorf("partition table has %d entries of %d bytes, want at most %d of %d", count, each, maxEntries, entrySize)
	}
	length := int64(count) * entrySize
	if first < 2 || first > uint64(size/sector) || int64(first)*sector > size-length {
		return nil, fmt.Errorf("partition entries at sector %d are not inside the image", first)
	}
	entries := make([]byte, length)
	if _, err := image.ReadAt(entries, int64(first)*sector); err != nil {
		return nil, fmt.Errorf("reading the partition entries: %w", err)
	}
	if crc32.ChecksumIEEE(entries) != le.Uint32(header[88:]) {
		return nil, fmt.Errorf("partition entries have a wrong checksum")
	}
	return entries, nil
}

// readPartitions checks that every used entry is inside the image and none overlap.
func readPartitions(entries []byte, size, sector int64) ([]partition, error) {
	le := binary.LittleEndian
	var table []partition
	for ; len(entries) >= entrySize; entries = entries[entrySize:] {
		if bytes.Equal(entries[:16], make([]byte, 16)) {
			continue
		}
		first, last := le.Uint64(entries[32:]), le.Uint64(entries[40:])
		if first < 2 || last < first || last >= uint64(size/sector) {
			return nil, fmt.Errorf("partition %d (sectors %d to %d) is not inside the image", len(table)+1, first, last)
		}
		table = append(table, partition{
			typeID: guid(entries[:16]),
			offset: int64(first) * sector,
			size:   int64(last-first+1) * sector,
		})
	}
	slices.SortFunc(table, func(a, b partition) int { return int(min(max(a.offset-b.offset, -1), 1)) })
	for i := 1; i < len(table); i++ {
		if table[i].offset < table[i-1].offset+table[i-1].size {
			return nil, fmt.Errorf("partitions at bytes %d and %d overlap", table[i-1].offset, table[i].offset)
		}
	}
	return table, nil
}

// guid writes the mixed-endian bytes of a GPT as text.
func guid(b []byte) string {
	le, be := binary.LittleEndian, binary.BigEndian
	return fmt.Sprintf("%08x-%04x-%04x-%04x-%012x", le.Uint32(b), le.Uint16(b[4:]), le.Uint16(b[6:]), be.Uint16(b[8:]), b[10:16])
}
