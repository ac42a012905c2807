package block

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"unicode/utf16"
)

// State says how much of a GUID partition table stands.
type State int

// The states of a table.
const (
	// TableNone is a disk without a table of this kind.
	TableNone State = iota
	// TableValid is a good primary header; the backup may be missing.
	TableValid
	// TablePrimaryDamaged is a good backup behind a primary that is gone or broken.
	TablePrimaryDamaged
)

// String names the state for a log.
func (s State) String() string {
	return [...]string{"none", "valid", "primary damaged"}[s]
}

// Table is a GUID partition table.
type Table struct {
	State State
	// SectorSize is in bytes; the LBAs below count in it.
	SectorSize int
	// DiskGUID is in lower case.
	DiskGUID string
	// FirstUsable and LastUsable are the LBAs that partitions may take.
	FirstUsable, LastUsable uint64
	// Entries are the used entries, in the order of the table.
	Entries []Entry
}

// Entry is one partition of a table.
type Entry struct {
	// Number is the place in the table, from 1.
	Number int
	// Type and GUID are in lower case.
	Type, GUID string
	// First and Last are LBAs, both part of the partition.
	First, Last uint64
	// Attributes are the flags of the specification, unchanged.
	Attributes uint64
	// Name is the label, at most 36 UTF-16 units.
	Name string
}

const (
	gptMagic   = "EFI PART"
	headerSize = 92
	// maxEntryBytes bounds what is read for the entries. The usual 128 entries take 16 KiB.
	maxEntryBytes = 1 << 20
	// maxNameUnits is the length of a label in UTF-16 units.
	maxNameUnits = 36
)

var errNoHeader = errors.New("no good header")

// ReadTable reads the table of a disk of size bytes with the given logical sector
// size (512, 2048 or 4096). A disk without a table gives TableNone and no error; an
// error is a disk that cannot be read.
func ReadTable(disk io.ReaderAt, size int64, sector int) (Table, error) {
	if sector < 512 || sector > 4096 || sector&(sector-1) != 0 {
		return Table{}, fmt.Errorf("reading a partition table: a sector of %d bytes is not supported", sector)
	}
	last := size/int64(sector) - 1
	if last < 3 {
		return Table{SectorSize: sector}, nil
	}
	table, err := readAt(disk, 1, last, sector)
	if err == nil {
		table.State = TableValid
		return table, nil
	}
	if !errors.Is(err, errNoHeader) {
		return Table{}, err
	}
	table, err = readAt(disk, last, last, sector)
	if errors.Is(err, errNoHeader) {
		return Table{SectorSize: sector}, nil
	}
	if err != nil {
		return Table{}, err
	}
	table.State = TablePrimaryDamaged
	return table, nil
}

// readAt reads the header at an LBA and its entries. Whatever is wrong with them is errNoHeader.
func readAt(disk io.ReaderAt, lba, last int64, sector int) (Table, error) {
	header := make([]byte, sector)
	if _, err := disk.ReadAt(header, lba*int64(sector)); err != nil {
		return Table{}, fmt.Errorf("reading partition table header at sector %d: %w", lba, err)
	}
	le := binary.LittleEndian
	length := le.Uint32(header[12:])
	if string(header[:8]) != gptMagic || length < headerSize || int(length) > sector || int64(le.Uint64(header[24:])) != lba {
		return Table{}, errNoHeader
	}
	want := le.Uint32(header[16:])
	clear(header[16:20])
	if crc32.ChecksumIEEE(header[:length]) != want {
		return Table{}, errNoHeader
	}
	start, count, each := int64(le.Uint64(header[72:])), le.Uint32(header[80:]), le.Uint32(header[84:])
	bytesUsed := uint64(count) * uint64(each)
	if start < 2 || start > last || each < 128 || each%8 != 0 || bytesUsed == 0 || bytesUsed > maxEntryBytes {
		return Table{}, errNoHeader
	}
	entries := make([]byte, bytesUsed)
	if _, err := disk.ReadAt(entries, start*int64(sector)); err != nil {
		if errors.Is(err, io.EOF) {
			return Table{}, errNoHeader
		}
		return Table{}, fmt.Errorf("reading partition entries at sector %d: %w", start, err)
	}
	if crc32.ChecksumIEEE(entries) != le.Uint32(header[88:]) {
		return Table{}, errNoHeader
	}
	table := Table{SectorSize: sector, DiskGUID: FormatGUID(header[56:72]),
		FirstUsable: le.Uint64(header[40:]), LastUsable: le.Uint64(header[48:])}
	for i := range int(count) {
		if entry, ok := parseEntry(entries[i*int(each):][:each]); ok {
			entry.Number = i + 1
			table.Entries = append(table.Entries, entry)
		}
	}
	return table, nil
}

func parseEntry(data []byte) (Entry, bool) {
	if bytes.Equal(data[:16], make([]byte, 16)) {
		return Entry{}, false
	}
	le := binary.LittleEndian
	var units []uint16
	for i := range maxNameUnits {
		unit := le.Uint16(data[56+2*i:])
		if unit == 0 {
			break
		}
		units = append(units, unit)
	}
	return Entry{Type: FormatGUID(data[:16]), GUID: FormatGUID(data[16:32]), First: le.Uint64(data[32:]),
		Last: le.Uint64(data[40:]), Attributes: le.Uint64(data[48:]), Name: string(utf16.Decode(units))}, true
}

// FormatGUID writes the 16 bytes of a GUID as the table stores them (first three
// fields little-endian) in lower case.
func FormatGUID(b []byte) string {
	le := binary.LittleEndian
	return fmt.Sprintf("%08x-%04x-%04x-%x-%x", le.Uint32(b), le.Uint16(b[4:]), le.Uint16(b[6:]), b[8:10], b[10:16])
}
