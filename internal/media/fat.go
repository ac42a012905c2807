package media

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"sort"
	"strings"
	"unicode/utf16"
)

// Limits of what is read of a FAT file system that anybody could have written.
const (
	fatMaxFiles     = 4096
	fatMaxDepth     = 8
	fatMaxDirectory = 1 << 20
)

var errFAT = errors.New("the FAT file system of the ESP is damaged or of an unknown form")

// espFile is a file of a FAT file system.
type espFile struct {
	// path is relative to the root, with slashes, as it is spelt there.
	path string
	data *io.SectionReader
}

// fat is a FAT16 or FAT32 file system. (Microsoft's FAT specification, 2005)
type fat struct {
	r                 io.ReaderAt
	cluster           int64 // size, in bytes
	table, data       int64 // where they begin, in bytes
	clusters          int64
	wide              bool // FAT32
	root              int64
	rootStart, rootAt int64 // of FAT16: size and place of the root directory, in bytes
	// steps is how many clusters may still be followed: each belongs to one file, so that a
	// sound file system has no more than there are.
	steps int64
}

// readFAT lists all files of a FAT file system.
func readFAT(r io.ReaderAt, size int64) ([]espFile, error) {
	f, err := openFAT(r, size)
	if err != nil {
		return nil, err
	}
	w := &fatWalk{fat: f}
	if f.wide {
		err = w.directory("", f.root, 0)
	} else {
		raw := make([]byte, f.rootStart)
		if err = readAt(r, raw, f.rootAt); err == nil {
			err = w.entries("", raw, 0)
		}
	}
	sort.Slice(w.files, func(i, j int) bool { return w.files[i].path < w.files[j].path })
	return w.files, err
}

func openFAT(r io.ReaderAt, size int64) (*fat, error) {
	boot := make([]byte, 512)
	if err := readAt(r, boot, 0); err != nil {
		return nil, err
	}
	short := func(at int) int64 { return int64(binary.LittleEndian.Uint16(boot[at:])) }
	long := func(at int) int64 { return int64(binary.LittleEndian.Uint32(boot[at:])) }
	if boot[510] != 0x55 || boot[511] != 0xaa {
		return nil, errFAT
	}
	sector, perCluster, reserved, tables, rootEntries := short(11), int64(boot[13]), short(14), int64(boot[16]), short(17)
	total, perTable := short(19), short(22)
	if total == 0 {
		total = long(32)
	}
	f := &fat{r: r, cluster: perCluster * sector, table: reserved * sector}
	if perTable == 0 {
		perTable, f.wide, f.root = long(36), true, long(44)
	}
	power := func(n int64) bool { return n > 0 && n&(n-1) == 0 }
	if !power(sector) || sector < 512 || sector > 4096 || !power(perCluster) || reserved == 0 || tables == 0 || tables > 2 || perTable == 0 || total*sector > size {
		return nil, errFAT
	}
	f.rootAt, f.rootStart = (reserved+tables*perTable)*sector, rootEntries*32
	start := reserved + tables*perTable + (rootEntries*32+sector-1)/sector
	if start >= total {
		return nil, errFAT
	}
	f.data, f.clusters = start*sector, (total-start)/perCluster
	f.steps = f.clusters
	entry := int64(2)
	if f.wide {
		entry = 4
	}
	if (f.clusters+2)*entry > perTable*sector {
		return nil, errFAT
	}
	return f, nil
}

// next follows the chain; 0 at its end.
func (f *fat) next(number int64) (int64, error) {
	raw := make([]byte, 4)
	if f.wide {
		if err := readAt(f.r, raw, f.table+number*4); err != nil {
			return 0, err
		}
		n := int64(binary.LittleEndian.Uint32(raw)) & 0x0fffffff
		if n >= 0x0ffffff8 {
			return 0, nil
		}
		return n, nil
	}
	if err := readAt(f.r, raw[:2], f.table+number*2); err != nil {
		return 0, err
	}
	n := int64(binary.LittleEndian.Uint16(raw))
	if n >= 0xfff8 {
		return 0, nil
	}
	return n, nil
}

// extent is a piece of a file: where it begins in the file and in the partition.
type extent struct{ from, at, size int64 }

// chain gives the pieces of a file of up to size bytes.
func (f *fat) chain(first, size int64) (*extents, error) {
	e := &extents{r: f.r}
	for number := first; e.size < size && number != 0; {
		if f.steps--; number < 2 || number >= f.clusters+2 || f.steps < 0 {
			return nil, errFAT
		}
		at := f.data + (number-2)*f.cluster
		last := len(e.list) - 1
		if last >= 0 && e.list[last].at+e.list[last].size == at {
			e.list[last].size += f.cluster
		} else {
			e.list = append(e.list, extent{e.size, at, f.cluster})
		}
		e.size += f.cluster
		var err error
		if number, err = f.next(number); err != nil {
			return nil, err
		}
	}
	return e, nil
}

// extents is a file in pieces.
type extents struct {
	r    io.ReaderAt
	list []extent
	size int64
}

func (e *extents) ReadAt(p []byte, offset int64) (done int, err error) {
	for done < len(p) {
		at := offset + int64(done)
		i := sort.Search(len(e.list), func(i int) bool { return e.list[i].from+e.list[i].size > at })
		if i == len(e.list) || at < 0 {
			return done, io.EOF
		}
		piece := e.list[i]
		n := min(int64(len(p)-done), piece.from+piece.size-at)
		got, err := e.r.ReadAt(p[done:done+int(n)], piece.at+at-piece.from)
		done += got
		if int64(got) < n {
			return done, err
		}
	}
	return done, nil
}

type fatWalk struct {
	*fat
	files []espFile
	seen  int
}

func (w *fatWalk) directory(path string, first int64, depth int) error {
	if depth > fatMaxDepth {
		return fmt.Errorf("%w: its folders are nested deeper than %d", errFAT, fatMaxDepth)
	}
	pieces, err := w.chain(first, fatMaxDirectory)
	if err != nil {
		return err
	}
	raw := make([]byte, min(pieces.size, fatMaxDirectory))
	if err := readAt(pieces, raw, 0); err != nil {
		return err
	}
	return w.entries(path, raw, depth)
}

// entries reads a directory. Long names come in pieces before the entry they belong to.
func (w *fatWalk) entries(path string, raw []byte, depth int) error {
	long := ""
	for ; len(raw) >= 32 && raw[0] != 0; raw = raw[32:] {
		const deleted, volume, folder, longName = 0xe5, 0x08, 0x10, 0x0f
		e := raw[:32]
		switch {
		case e[0] == deleted:
			long = ""
			continue
		case e[11] == longName:
			if e[0]&0x40 != 0 {
				long = ""
			}
			long = longPart(e) + long
			continue
		case e[11]&volume != 0:
			long = ""
			continue
		}
		name := cmp.Or(long, shortName(e))
		long = ""
		if name == "." || name == ".." {
			continue
		}
		if w.seen++; w.seen > fatMaxFiles {
			return fmt.Errorf("%w: it has more than %d files", errFAT, fatMaxFiles)
		}
		if err := w.entry(path+name, e, e[11]&folder != 0, depth); err != nil {
			return err
		}
	}
	return nil
}

func (w *fatWalk) entry(path string, e []byte, folder bool, depth int) error {
	le := binary.LittleEndian
	first := int64(le.Uint16(e[26:]))
	if w.wide {
		first |= int64(le.Uint16(e[20:])) << 16
	}
	if folder {
		return w.directory(path+"/", first, depth+1)
	}
	size := int64(le.Uint32(e[28:]))
	pieces, err := w.chain(first, size)
	if err != nil {
		return fmt.Errorf("file %.200q: %w", path, err)
	}
	if pieces.size < size {
		return fmt.Errorf("file %.200q ends before its size: %w", path, errFAT)
	}
	w.files = append(w.files, espFile{path, io.NewSectionReader(pieces, 0, size)})
	return nil
}

func longPart(e []byte) string {
	raw := slices.Concat(e[1:11], e[14:26], e[28:32])
	var units []uint16
	for ; len(raw) >= 2; raw = raw[2:] {
		unit := binary.LittleEndian.Uint16(raw)
		if unit == 0 || unit == 0xffff {
			break
		}
		units = append(units, unit)
	}
	return string(utf16.Decode(units))
}

// shortName is a name of the form 8.3; two flags say which half is in small letters.
func shortName(e []byte) string {
	base, ext := string(bytes.TrimRight(e[:8], " ")), string(bytes.TrimRight(e[8:11], " "))
	if e[12]&0x08 != 0 {
		base = strings.ToLower(base)
	}
	if e[12]&0x10 != 0 {
		ext = strings.ToLower(ext)
	}
	if ext != "" {
		base += "." + ext
	}
	return strings.ToValidUTF8(base, "?")
}
