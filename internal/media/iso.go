package media

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"github.com/holdfast-os/holdfast/internal/layout"
)

// The image as a CD: the same partitions at the same bytes, under a table for sectors of
// 2048 bytes. Firmware that reads the table of a CD starts from the ESP by it, and the boot
// loader then knows the partition that it came from, as on a disk. Firmware that knows CDs
// only as the UEFI specification (13.3.2.1) has them, by El Torito, finds the ESP in a
// catalog of an ISO 9660 file system without files, which lies in the gap before the first
// partition. (ECMA-119; El Torito, 1995)
const (
	isoSector  = 2048
	isoVolume  = 16 // sectors
	isoBoot    = 17
	isoEnd     = 18
	isoCatalog = 19
	isoPathsLE = 20
	isoPathsBE = 21
	isoRoot    = 22
	isoLast    = 23
	isoID      = "HOLDFAST"
)

// ISO is the Plan that makes a CD of an image with this table.
func ISO(t Table) (Plan, error) {
	esp, ok := t.Find(layout.ESP)
	if !ok {
		return Plan{}, fmt.Errorf("making a CD: %w: there is no ESP", ErrNotImage)
	}
	for _, p := range t.Partitions {
		if p.Start < layout.FirstByte {
			return Plan{}, fmt.Errorf("making a CD: partition %d begins at byte %d, before %d, and leaves no room for the catalog", p.Number, p.Start, layout.FirstByte)
		}
	}
	cd := Table{Sector: isoSector, DiskGUID: t.DiskGUID, Partitions: t.Partitions}
	const tail = gptEntries*gptEntry + isoSector
	size := (t.end()+isoSector-1)/isoSector*isoSector + tail
	first, last, err := cd.render(size)
	if err != nil {
		return Plan{}, fmt.Errorf("making a CD: %w", err)
	}
	head := make([]byte, layout.FirstByte)
	copy(head, first)
	putISO(head, esp.Start/isoSector, size/isoSector)
	return Plan{Size: size, Rewrites: []Rewrite{
		{Region{0, int64(len(head))}, func([]byte) ([]byte, error) { return head, nil }},
		{Region{esp.Start, block}, checkSectors},
		{Region{size - int64(len(last)), int64(len(last))}, func([]byte) ([]byte, error) { return last, nil }},
	}}, nil
}

// checkSectors looks at the boot sector of the ESP, and changes nothing: Linux refuses a FAT
// file system with sectors smaller than those of its device, so that the ESP could not be
// mounted from a CD.
func checkSectors(boot []byte) ([]byte, error) {
	if sector := binary.LittleEndian.Uint16(boot[11:]); sector < isoSector {
		return nil, fmt.Errorf("making a CD: the ESP has a FAT with sectors of %d bytes, which cannot be mounted from one: build the image anew, with sectors of 4096", sector)
	}
	return boot, nil
}

// putISO writes the descriptors into the first bytes of an image of so many sectors.
func putISO(head []byte, esp, sectors int64) {
	sector := func(n int) []byte { return head[n*isoSector:][:isoSector] }
	descriptor := func(n int, kind byte) []byte {
		d := sector(n)
		d[0], d[6] = kind, 1
		copy(d[1:], "CD001")
		return d
	}
	volume := descriptor(isoVolume, 1)
	text := func(at, length int, value string) {
		copy(volume[at:at+length], value+strings.Repeat(" ", length-len(value)))
	}
	text(8, 32, "")
	text(40, 32, isoID)
	both32(volume[80:], uint32(min(sectors, 0xffffffff)))
	both16(volume[120:], 1) // discs of the set
	both16(volume[124:], 1) // which of them
	both16(volume[128:], isoSector)
	both32(volume[132:], 10) // bytes of a path table with the root alone
	binary.LittleEndian.PutUint32(volume[140:], isoPathsLE)
	binary.BigEndian.PutUint32(volume[148:], isoPathsBE)
	copy(volume[156:], isoDirectory(0))
	for _, field := range [][2]int{{190, 128}, {318, 128}, {446, 128}, {574, 128}, {702, 37}, {739, 37}, {776, 37}} {
		text(field[0], field[1], "")
	}
	for _, at := range []int{813, 830, 847, 864} {
		copy(volume[at:], "0000000000000000") // no date
	}
	volume[881] = 1

	boot := descriptor(isoBoot, 0)
	copy(boot[7:], "EL TORITO SPECIFICATION")
	binary.LittleEndian.PutUint32(boot[71:], isoCatalog)
	descriptor(isoEnd, 255)
	putCatalog(sector(isoCatalog), esp)

	copy(sector(isoPathsLE), []byte{1, 0, isoRoot, 0, 0, 0, 1, 0, 0, 0})
	copy(sector(isoPathsBE), []byte{1, 0, 0, 0, 0, isoRoot, 0, 1, 0, 0})
	root := sector(isoRoot)
	copy(root, isoDirectory(0))
	copy(root[34:], isoDirectory(1))
}

// putCatalog writes the two entries of the boot catalog: one that makes it valid, and one
// for the ESP. 0 sectors stand for everything up to the end of the disc; the field has no
// room for the size of an ESP.
func putCatalog(c []byte, esp int64) {
	const uefi, bootable = 0xef, 0x88
	c[0], c[1], c[30], c[31] = 1, uefi, 0x55, 0xaa
	var sum uint16
	for i := 0; i < 32; i += 2 {
		sum += binary.LittleEndian.Uint16(c[i:])
	}
	binary.LittleEndian.PutUint16(c[28:], -sum)
	c[32] = bootable
	binary.LittleEndian.PutUint32(c[40:], uint32(esp))
}

// isoDirectory is the record of the root directory under one of its names, 0 (itself) or 1
// (the folder above, which is itself too).
func isoDirectory(name byte) []byte {
	d := make([]byte, 34)
	d[0], d[25], d[32], d[33] = 34, 2, 1, name
	both32(d[2:], isoRoot)
	both32(d[10:], isoSector)
	both16(d[28:], 1)
	return d
}

func both16(to []byte, n uint16) {
	binary.LittleEndian.PutUint16(to, n)
	binary.BigEndian.PutUint16(to[2:], n)
}

func both32(to []byte, n uint32) {
	binary.LittleEndian.PutUint32(to, n)
	binary.BigEndian.PutUint32(to[4:], n)
}

// with puts the rewrite of the seed into a Plan for a CD, or is that rewrite alone.
func (p Plan) with(r Rewrite) Plan {
	if len(p.Rewrites) == 0 {
		return Plan{Rewrites: []Rewrite{r}, Size: p.Size}
	}
	return Plan{Rewrites: slices.Insert(slices.Clone(p.Rewrites), len(p.Rewrites)-1, r), Size: p.Size}
}

// Customize is the Plan for an image with another seed, as a CD when iso is set.
func Customize(t Table, change Change, iso bool) (plan Plan, err error) {
	if iso {
		if plan, err = ISO(t); err != nil {
			return Plan{}, err
		}
	}
	r, err := SeedRewrite(t, change)
	if err != nil {
		return Plan{}, err
	}
	return plan.with(r), nil
}
