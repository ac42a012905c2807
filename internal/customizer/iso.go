package customizer

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-os/holdfast/internal/splice"
)

// isoSector is the block of ISO 9660, in bytes.
const isoSector = 2048

// isoMaxFile is the longest file of one extent, in bytes.
const isoMaxFile = 1<<32 - isoSector

// isoMaxName is how long a Rock Ridge name may be to stay within its directory record.
const isoMaxName = 100

// isoFile is one file of an ISO 9660 file system.
type isoFile struct {
	// name is its path, as "update/x86_64/incus.raw.gz".
	name string
	// part is its content.
	part splice.Part
}

// isoDir is a directory while the file system is laid out.
type isoDir struct {
	name     string
	parent   *isoDir
	children []isoChild
	sector   uint32
	size     uint32
	number   int
}

type isoChild struct {
	name   string
	dir    *isoDir
	size   uint32
	sector uint32
}

// isoParts lays out a file system with the names of Rock Ridge, which Linux shows. Only its
// first sectors are made; the files stay where they are.
func isoParts(label string, made time.Time, files []isoFile) ([]splice.Part, error) {
	root := &isoDir{number: 1}
	root.parent = root
	dirs := []*isoDir{root}
	for _, f := range files {
		if f.part.Size > isoMaxFile {
			return nil, fmt.Errorf("%s has %d bytes, a file of the medium at most %d", f.name, f.part.Size, isoMaxFile)
		}
		if len(path.Base(f.name)) > isoMaxName {
			return nil, fmt.Errorf("the name %s is longer than %d bytes", path.Base(f.name), isoMaxName)
		}
		dir := root
		for _, name := range strings.Split(path.Dir(f.name), "/") {
			next := dir.find(name)
			if next == nil {
				next = &isoDir{name: name, parent: dir, number: len(dirs) + 1}
				dirs = append(dirs, next)
				dir.children = append(dir.children, isoChild{name: name, dir: next})
			}
			dir = next
		}
		dir.children = append(dir.children, isoChild{name: path.Base(f.name), size: uint32(f.part.Size)})
	}
	const firstDir = 20 // behind two descriptors and two path tables
	sector := uint32(firstDir)
	for _, d := range dirs {
		d.sector, d.size = sector, uint32(len(d.encode(made)))
		sector += d.size / isoSector
	}
	parts := []splice.Part{{}}
	next := map[string]uint32{}
	for _, f := range files {
		next[f.name] = sector
		sectors := uint32((f.part.Size + isoSector - 1) / isoSector)
		sector += sectors
		parts = append(parts, f.part, splice.Part{Data: make([]byte, int64(sectors)*isoSector-f.part.Size)})
	}
	for _, d := range dirs {
		for i := range d.children {
			d.children[i].sector = next[strings.TrimPrefix(d.path()+"/"+d.children[i].name, "/")]
		}
	}
	head := make([]byte, 16*isoSector)
	head = append(head, volume(label, made, sector, root, dirs)...)
	head = append(head, terminator()...)
	head = append(head, pathTable(dirs, binary.LittleEndian)...)
	head = append(head, pathTable(dirs, binary.BigEndian)...)
	for _, d := range dirs {
		head = append(head, d.encode(made)...)
	}
	parts[0].Data = head
	return parts, nil
}

func (d *isoDir) find(name string) *isoDir {
	for _, c := range d.children {
		if c.dir != nil && c.name == name {
			return c.dir
		}
	}
	return nil
}

func (d *isoDir) path() string {
	if d.parent == d {
		return ""
	}
	return d.parent.path() + "/" + d.name
}

// identifier is the plain name of ISO 9660; those of a directory are in order.
func (d *isoDir) identifier() string { return fmt.Sprintf("DIR%05d", d.number) }

func both32(n uint32) []byte {
	return binary.BigEndian.AppendUint32(binary.LittleEndian.AppendUint32(nil, n), n)
}

func both16(n uint16) []byte {
	return binary.BigEndian.AppendUint16(binary.LittleEndian.AppendUint16(nil, n), n)
}

func recordTime(t time.Time) []byte {
	t = t.UTC()
	return []byte{byte(t.Year() - 1900), byte(t.Month()), byte(t.Day()), byte(t.Hour()), byte(t.Minute()), byte(t.Second()), 0}
}

// record is a directory record; use is the Rock Ridge part.
func record(id string, sector, size uint32, made time.Time, isDir bool, use []byte) []byte {
	flags := byte(0)
	if isDir {
		flags = 2
	}
	r := slices.Concat([]byte{0, 0}, both32(sector), both32(size), recordTime(made), []byte{flags, 0, 0}, both16(1), []byte{byte(len(id))}, []byte(id))
	if len(r)%2 == 1 {
		r = append(r, 0)
	}
	r = append(r, use...)
	if len(r)%2 == 1 {
		r = append(r, 0)
	}
	r[0] = byte(len(r))
	return r
}

// posix is the entry PX: who may read. All may, nobody may write.
func posix(isDir bool) []byte {
	mode := uint32(0o100444)
	if isDir {
		mode = 0o040555
	}
	return slices.Concat([]byte{'P', 'X', 36, 1}, both32(mode), both32(1), both32(0), both32(0))
}

func named(name string) []byte {
	return slices.Concat([]byte{'N', 'M', byte(5 + len(name)), 1, 0}, []byte(name))
}

// encode is the directory's own extent, whole sectors. Names alone decide how many, so that
// it can be called before anything has its place.
func (d *isoDir) encode(made time.Time) []byte {
	self := posix(true)
	if d.parent == d {
		const id = "RRIP_1991A"
		self = slices.Concat([]byte{'S', 'P', 7, 1, 0xbe, 0xef, 0}, self, []byte{'E', 'R', byte(8 + len(id)), 1, byte(len(id)), 0, 0, 1}, []byte(id))
	}
	records := [][]byte{
		record("\x00", d.sector, d.size, made, true, self),
		record("\x01", d.parent.sector, d.parent.size, made, true, posix(true)),
	}
	var inside, files [][]byte
	for i, c := range d.children {
		if c.dir != nil {
			inside = append(inside, record(c.dir.identifier(), c.dir.sector, c.dir.size, made, true, append(posix(true), named(c.name)...)))
			continue
		}
		files = append(files, record(fmt.Sprintf("F%07d.;1", i), c.sector, c.size, made, false, append(posix(false), named(c.name)...)))
	}
	var out []byte
	for _, r := range slices.Concat(records, inside, files) {
		if left := isoSector - len(out)%isoSector; len(r) > left {
			out = append(out, make([]byte, left)...) // a record does not cross sectors
		}
		out = append(out, r...)
	}
	return append(out, make([]byte, (isoSector-len(out)%isoSector)%isoSector)...)
}

func text(s string, length int) []byte {
	return append([]byte(s), bytes.Repeat([]byte(" "), length-len(s))...)
}

// volume is the primary volume descriptor.
func volume(label string, made time.Time, sectors uint32, root *isoDir, dirs []*isoDir) []byte {
	table := uint32(len(rawPathTable(dirs, binary.LittleEndian)))
	stamp := append([]byte(made.UTC().Format("20060102150405")+"00"), 0)
	none := append(bytes.Repeat([]byte("0"), 16), 0)
	v := slices.Concat(
		[]byte{1}, []byte("CD001"), []byte{1, 0}, text("", 32), text(label, 32), make([]byte, 8), both32(sectors), make([]byte, 32),
		both16(1), both16(1), both16(isoSector), both32(table),
		binary.LittleEndian.AppendUint32(nil, 18), make([]byte, 4), binary.BigEndian.AppendUint32(nil, 19), make([]byte, 4),
		record("\x00", root.sector, root.size, made, true, nil),
		text("", 128), text("HOLDFAST", 128), text("", 128), text("HOLDFAST", 128), text("", 37), text("", 37), text("", 37),
		stamp, stamp, none, none, []byte{1},
	)
	return append(v, make([]byte, isoSector-len(v))...)
}

func terminator() []byte {
	return append([]byte("\xffCD001\x01"), make([]byte, isoSector-7)...)
}

func rawPathTable(dirs []*isoDir, order binary.AppendByteOrder) (table []byte) {
	for _, d := range dirs {
		id := d.identifier()
		if d.parent == d {
			id = "\x00"
		}
		table = append(table, byte(len(id)), 0)
		table = order.AppendUint32(table, d.sector)
		table = order.AppendUint16(table, uint16(d.parent.number))
		table = append(table, id...)
		if len(id)%2 == 1 {
			table = append(table, 0)
		}
	}
	return table
}

func pathTable(dirs []*isoDir, order binary.AppendByteOrder) []byte {
	table := rawPathTable(dirs, order)
	return append(table, make([]byte, isoSector-len(table))...)
}
