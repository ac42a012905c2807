package media

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"slices"
	"strings"
	"unicode/utf16"

	"github.com/holdfast-os/holdfast/internal/layout"
)

const (
	gptMagic     = "EFI PART"
	gptHeader    = 92
	gptEntry     = 128
	gptEntries   = 128 // what is written
	maxEntries   = 1024
	maxNameUnits = 36
)

// Table is the GUID partition table of an image.
type Table struct {
	// Sector is the size of a sector, in bytes: 512, 2048 (a CD) or 4096.
	Sector int64
	// DiskGUID is in lower case.
	DiskGUID string
	// Partitions are in the order of the table.
	Partitions []Partition
	// Length is how many bytes an image with this table has at least: up to the end of its
	// partitions, and of the second table, which lies where the first one says.
	Length int64
}

// Partition is one entry of a table.
type Partition struct {
	// Number is the place in the table, from 1.
	Number int `json:"number"`
	// Label is the partition's name.
	Label string `json:"label"`
	// Type and GUID are in lower case.
	Type string `json:"type"`
	GUID string `json:"guid"`
	// Start is the first byte, and Size is in bytes.
	Start int64 `json:"start"`
	Size  int64 `json:"size"`
	// Attributes are the flags of the specification.
	Attributes uint64 `json:"attributes"`
}

// Find gives a partition by its number.
func (t Table) Find(number int) (Partition, bool) {
	i := slices.IndexFunc(t.Partitions, func(p Partition) bool { return p.Number == number })
	if i < 0 {
		return Partition{}, false
	}
	return t.Partitions[i], true
}

// end is the first byte behind all partitions.
func (t Table) end() (end int64) {
	for _, p := range t.Partitions {
		end = max(end, p.Start+p.Size)
	}
	return end
}

// ReadTable reads the primary table of an image of size bytes. The size of a sector is
// found by looking for the table, and an image with two tables is refused: programs would
// see different things in it. No table is ErrNotImage.
func ReadTable(image io.ReaderAt, size int64) (Table, error) {
	var header []byte
	var sector int64
	for _, s := range []int64{512, 2048, 4096} {
		block := make([]byte, gptHeader)
		if s+gptHeader > size {
			break
		}
		err := readAt(image, block, s)
		if errors.Is(err, io.ErrUnexpectedEOF) {
			break // a stream, whose size was not known
		}
		if err != nil {
			return Table{}, fmt.Errorf("looking for the partition table: %w", err)
		}
		if !bytes.HasPrefix(block, []byte(gptMagic)) {
			continue
		}
		if header != nil {
			return Table{}, fmt.Errorf("%w: it has partition tables for sectors of %d and of %d bytes", ErrNotImage, sector, s)
		}
		header, sector = block, s
	}
	if header == nil {
		return Table{}, fmt.Errorf("%w: it has no partition table (GPT)", ErrNotImage)
	}
	entries, err := readEntries(image, size, sector, header)
	if err != nil {
		return Table{}, fmt.Errorf("reading the partition table: %w", err)
	}
	table := Table{Sector: sector, DiskGUID: guidText(header[56:72])}
	if table.Partitions, err = parseEntries(entries, size, sector); err != nil {
		return Table{}, fmt.Errorf("reading the partition table: %w", err)
	}
	second := binary.LittleEndian.Uint64(header[32:])
	if second >= uint64(math.MaxInt64/sector) {
		return Table{}, fmt.Errorf("reading the partition table: %w: its second table lies outside", ErrNotImage)
	}
	table.Length = max(table.end(), (int64(second)+1)*sector)
	return table, nil
}

// CheckWhole is ErrCut for an image of size bytes that ends before its table says so.
func (t Table) CheckWhole(size int64) error {
	if size < t.Length {
		return fmt.Errorf("%w: it ends after %d bytes, and by its partition table it has %d", ErrCut, size, t.Length)
	}
	return nil
}

func readEntries(image io.ReaderAt, size, sector int64, header []byte) ([]byte, error) {
	le := binary.LittleEndian
	sum := le.Uint32(header[16:])
	clean := slices.Clone(header)
	clear(clean[16:20])
	if le.Uint32(header[12:]) != gptHeader || crc32.ChecksumIEEE(clean) != sum || le.Uint64(header[24:]) != 1 {
		return nil, fmt.Errorf("%w: its header is damaged", ErrNotImage)
	}
	first, count, each := le.Uint64(header[72:]), le.Uint32(header[80:]), le.Uint32(header[84:])
	if each != gptEntry || count == 0 || count > maxEntries {
		return nil, fmt.Errorf("%w: it has %d entries of %d bytes, at most %d of %d are read", ErrNotImage, count, each, maxEntries, gptEntry)
	}
	length := int64(count) * gptEntry
	if first < 2 || first > uint64(size/sector) || int64(first)*sector > size-length {
		return nil, fmt.Errorf("%w: its entries lie outside", ErrNotImage)
	}
	entries := make([]byte, length)
	if err := readAt(image, entries, int64(first)*sector); err != nil {
		return nil, err
	}
	if crc32.ChecksumIEEE(entries) != le.Uint32(header[88:]) {
		return nil, fmt.Errorf("%w: its entries are damaged", ErrNotImage)
	}
	return entries, nil
}

func parseEntries(entries []byte, size, sector int64) ([]Partition, error) {
	le := binary.LittleEndian
	var found []Partition
	for i := range len(entries) / gptEntry {
		e := entries[i*gptEntry:][:gptEntry]
		if bytes.Equal(e[:16], make([]byte, 16)) {
			continue
		}
		first, last := le.Uint64(e[32:]), le.Uint64(e[40:])
		if first < 2 || last < first || last >= uint64(size/sector) {
			return nil, fmt.Errorf("%w: partition %d lies outside (the file may be cut off)", ErrNotImage, i+1)
		}
		var units []uint16
		for j := range maxNameUnits {
			unit := le.Uint16(e[56+2*j:])
			if unit == 0 {
				break
			}
			units = append(units, unit)
		}
		found = append(found, Partition{Number: i + 1, Label: string(utf16.Decode(units)), Type: guidText(e[:16]), GUID: guidText(e[16:32]),
			Start: int64(first) * sector, Size: int64(last-first+1) * sector, Attributes: le.Uint64(e[48:])})
	}
	byPlace := slices.Clone(found)
	slices.SortFunc(byPlace, func(a, b Partition) int { return int(min(max(a.Start-b.Start, -1), 1)) })
	for i := 1; i < len(byPlace); i++ {
		if byPlace[i].Start < byPlace[i-1].Start+byPlace[i-1].Size {
			return nil, fmt.Errorf("%w: partitions %d and %d overlap", ErrNotImage, byPlace[i-1].Number, byPlace[i].Number)
		}
	}
	return found, nil
}

// render gives the first bytes of an image of size bytes with this table (protective MBR,
// header, entries), and the last ones (entries, header). Partitions have to begin and end
// at sectors, and lie between the two.
func (t Table) render(size int64) (head, tail []byte, err error) {
	entries := make([]byte, gptEntries*gptEntry)
	le := binary.LittleEndian
	room := (int64(len(entries)) + t.Sector - 1) / t.Sector // sectors of entries
	sectors := size / t.Sector
	firstUsable, lastUsable := 2+room, sectors-2-room
	for _, p := range t.Partitions {
		first, last := p.Start/t.Sector, (p.Start+p.Size)/t.Sector-1
		if p.Number < 1 || p.Number > gptEntries || p.Start%t.Sector != 0 || p.Size%t.Sector != 0 || first < firstUsable || last > lastUsable {
			return nil, nil, fmt.Errorf("partition %d at %d with %d bytes does not fit sectors of %d bytes in an image of %d", p.Number, p.Start, p.Size, t.Sector, size)
		}
		e := entries[(p.Number-1)*gptEntry:][:gptEntry]
		if err := putGUID(e, p.Type); err != nil {
			return nil, nil, err
		}
		if err := putGUID(e[16:], p.GUID); err != nil {
			return nil, nil, err
		}
		le.PutUint64(e[32:], uint64(first))
		le.PutUint64(e[40:], uint64(last))
		le.PutUint64(e[48:], p.Attributes)
		units := utf16.Encode([]rune(p.Label))
		for i, unit := range units[:min(len(units), maxNameUnits)] {
			le.PutUint16(e[56+2*i:], unit)
		}
	}
	header := func(self, other, at int64) ([]byte, error) {
		h := make([]byte, t.Sector)
		copy(h, gptMagic)
		le.PutUint32(h[8:], 0x00010000)
		le.PutUint32(h[12:], gptHeader)
		for i, n := range []int64{self, other, firstUsable, lastUsable} {
			le.PutUint64(h[24+8*i:], uint64(n))
		}
		if err := putGUID(h[56:], t.DiskGUID); err != nil {
			return nil, err
		}
		le.PutUint64(h[72:], uint64(at))
		le.PutUint32(h[80:], gptEntries)
		le.PutUint32(h[84:], gptEntry)
		le.PutUint32(h[88:], crc32.ChecksumIEEE(entries))
		le.PutUint32(h[16:], crc32.ChecksumIEEE(h[:gptHeader]))
		return h, nil
	}
	primary, err := header(1, sectors-1, 2)
	if err != nil {
		return nil, nil, err
	}
	backup, err := header(sectors-1, 1, sectors-1-room)
	if err != nil {
		return nil, nil, err
	}
	padded := make([]byte, room*t.Sector)
	copy(padded, entries)
	head = slices.Concat(protectiveMBR(t.Sector, sectors), primary, padded)
	return head, slices.Concat(padded, backup), nil
}

func protectiveMBR(sector, sectors int64) []byte {
	mbr := make([]byte, sector)
	e := mbr[446:]
	copy(e, []byte{0, 0, 2, 0, 0xee, 0xff, 0xff, 0xff, 1, 0, 0, 0})
	binary.LittleEndian.PutUint32(e[12:], uint32(min(sectors-1, 0xffffffff)))
	mbr[510], mbr[511] = 0x55, 0xaa
	return mbr
}

// guidText writes the mixed-endian bytes of a table as text.
func guidText(b []byte) string {
	le, be := binary.LittleEndian, binary.BigEndian
	return fmt.Sprintf("%08x-%04x-%04x-%04x-%012x", le.Uint32(b), le.Uint16(b[4:]), le.Uint16(b[6:]), be.Uint16(b[8:]), b[10:16])
}

func putGUID(to []byte, text string) error {
	raw, err := hex.DecodeString(strings.ReplaceAll(text, "-", ""))
	if err != nil || len(raw) != 16 {
		return fmt.Errorf("%q is no GUID", text)
	}
	for i, j := range []int{3, 2, 1, 0, 5, 4, 7, 6} {
		to[i] = raw[j]
	}
	copy(to[8:16], raw[8:])
	return nil
}

// Kind is what the table of an image says about it.
type Kind struct {
	// Architecture is "x86_64" or "aarch64".
	Architecture string `json:"architecture"`
	// Version is the release, 12 digits.
	Version string `json:"version"`
}

// KindOf reads architecture and release from the partition with the content of /usr. An
// image without one is ErrNotImage.
func (t Table) KindOf() (Kind, error) {
	for _, arch := range []string{layout.X86_64, layout.AArch64} {
		want, err := layout.Table(arch)
		if err != nil {
			return Kind{}, err
		}
		p, ok := t.Find(layout.UsrA)
		version, named := strings.CutPrefix(p.Label, layout.Name+"_")
		if ok && named && strings.EqualFold(p.Type, want[layout.UsrA-1].GUID) {
			return Kind{arch, version}, nil
		}
	}
	return Kind{}, fmt.Errorf("%w: partition %d does not hold a /usr of %s", ErrNotImage, layout.UsrA, layout.Name)
}
