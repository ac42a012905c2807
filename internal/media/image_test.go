package media

import (
	"archive/tar"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"
	"unicode/utf16"

	"github.com/holdfast-os/holdfast/internal/layout"
)

// memory is a large disk of which only what was written takes space.
type memory struct {
	size  int64
	pages map[int64][]byte
	// writes counts them; allowed is how many succeed, -1 for all.
	writes, allowed int
}

const page = 4096

func newMemory(size int64) *memory {
	return &memory{size: size, pages: map[int64][]byte{}, allowed: -1}
}

func (m *memory) copyOf() *memory {
	c := newMemory(m.size)
	for at, p := range m.pages {
		c.pages[at] = slices.Clone(p)
	}
	return c
}

func (m *memory) ReadAt(p []byte, offset int64) (int, error) {
	if offset >= m.size {
		return 0, io.EOF
	}
	n := int(min(int64(len(p)), m.size-offset))
	for done := 0; done < n; {
		at := offset + int64(done)
		step := int(min(int64(n-done), page-at%page))
		part := p[done : done+step]
		clear(part)
		if have := m.pages[at/page]; have != nil {
			copy(part, have[at%page:])
		}
		done += step
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

var errDisk = errors.New("the disk failed")

func (m *memory) WriteAt(p []byte, offset int64) (int, error) {
	if m.allowed >= 0 && m.writes >= m.allowed {
		return 0, errDisk
	}
	m.writes++
	for done := 0; done < len(p); {
		at := offset + int64(done)
		step := int(min(int64(len(p)-done), page-at%page))
		part := p[done : done+step]
		if m.pages[at/page] == nil && !isZero(part) {
			m.pages[at/page] = make([]byte, page)
		}
		if have := m.pages[at/page]; have != nil {
			copy(have[at%page:], part)
		}
		done += step
	}
	return len(p), nil
}

func (m *memory) Sync() error   { return nil }
func (m *memory) Forget() error { return nil }

// content gives the pages that hold something, for comparing.
func (m *memory) content() map[int64]string {
	found := map[int64]string{}
	for at, p := range m.pages {
		if !isZero(p) {
			found[at] = string(p)
		}
	}
	return found
}

const (
	testVersion = "202611220104"
	diskGUID    = "5ab558ab-49be-453d-a731-bf64ff9b4657"
)

// imageTable is that of an image of the build.
func imageTable(t testing.TB) Table {
	t.Helper()
	rows, err := layout.Table(layout.X86_64)
	if err != nil {
		t.Fatal(err)
	}
	table := Table{Sector: 512, DiskGUID: diskGUID, Length: imageSize}
	for _, row := range rows[:layout.UsrA] {
		table.Partitions = append(table.Partitions, Partition{Number: row.Number, Label: strings.ReplaceAll(row.Label, "%", testVersion),
			Type: strings.ToLower(row.GUID), GUID: fmt.Sprintf("cccccccc-0000-4000-8000-%012d", row.Number), Start: row.Start, Size: row.Size})
	}
	return table
}

const imageSize = 4468019200

// newImage is an image of the build with these files on its ESP.
func newImage(t testing.TB, files map[string][]byte) *memory {
	t.Helper()
	table := imageTable(t)
	m := newMemory(imageSize)
	head, tail, err := table.render(m.size)
	if err != nil {
		t.Fatal(err)
	}
	write(t, m, head, 0)
	write(t, m, tail, m.size-int64(len(tail)))
	write(t, m, fatImage(files), layout.FirstByte)
	return m
}

func write(t testing.TB, m *memory, data []byte, offset int64) {
	t.Helper()
	if _, err := m.WriteAt(data, offset); err != nil {
		t.Fatal(err)
	}
}

// fatImage is a FAT32 file system with sectors and clusters of 4096 bytes.
func fatImage(files map[string][]byte) []byte {
	const sector, reserved, perTable = 4096, 2, 1
	le := binary.LittleEndian
	clusters := [][]byte{nil, nil} // the first two numbers mean nothing
	table := []uint32{0x0ffffff8, 0x0fffffff}
	store := func(data []byte) uint32 {
		first := uint32(len(clusters))
		for {
			c := make([]byte, sector)
			data = data[copy(c, data):]
			clusters = append(clusters, c)
			table = append(table, uint32(len(clusters)))
			if len(data) == 0 {
				table[len(table)-1] = 0x0fffffff
				return first
			}
		}
	}
	var folder func(prefix string) []byte
	folder = func(prefix string) (raw []byte) {
		below := map[string]bool{}
		for _, path := range slices.Sorted(maps.Keys(files)) {
			name, inside := strings.CutPrefix(path, prefix)
			name, _, deeper := strings.Cut(name, "/")
			if !inside || below[name] {
				continue
			}
			below[name] = true
			e := make([]byte, 32)
			copy(e, fmt.Sprintf("F%07dEFI", len(raw)/32))
			var first uint32
			if deeper {
				e[11] = 0x10
				first = store(folder(prefix + name + "/"))
			} else {
				first = store(files[path])
				le.PutUint32(e[28:], uint32(len(files[path])))
			}
			le.PutUint16(e[26:], uint16(first))
			le.PutUint16(e[20:], uint16(first>>16))
			raw = append(append(raw, longName(name)...), e...)
		}
		return raw
	}
	root := store(folder(""))
	boot := make([]byte, sector*reserved)
	le.PutUint16(boot[11:], sector)
	boot[13], boot[16], boot[510], boot[511] = 1, 1, 0x55, 0xaa
	le.PutUint16(boot[14:], reserved)
	le.PutUint32(boot[32:], uint32(reserved+perTable+len(clusters)-2))
	le.PutUint32(boot[36:], perTable)
	le.PutUint32(boot[44:], root)
	chains := make([]byte, sector*perTable)
	for i, n := range table {
		le.PutUint32(chains[4*i:], n)
	}
	return slices.Concat(append([][]byte{boot, chains}, clusters[2:]...)...)
}

// longName are the entries before the one with the short name.
func longName(name string) (raw []byte) {
	units := append(utf16.Encode([]rune(name)), 0)
	for len(units)%13 != 0 {
		units = append(units, 0xffff)
	}
	count := len(units) / 13
	for i := count; i > 0; i-- {
		e := make([]byte, 32)
		e[0], e[11] = byte(i), 0x0f
		if i == count {
			e[0] |= 0x40
		}
		for j, unit := range units[(i-1)*13 : i*13] {
			at := 1 + 2*j
			if j >= 5 {
				at += 3
			}
			if j >= 11 {
				at += 2
			}
			binary.LittleEndian.PutUint16(e[at:], unit)
		}
		raw = append(raw, e...)
	}
	return raw
}

// archive is a seed of name and content in turn.
func archive(t testing.TB, members ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for i := 0; i < len(members); i += 2 {
		err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: members[i], Mode: 0o600, Size: int64(len(members[i+1])), Format: tar.FormatUSTAR})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, members[i+1]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// members lists a seed as "name content".
func members(t testing.TB, raw []byte) []string {
	t.Helper()
	r := tar.NewReader(bytes.NewReader(raw))
	found := []string{}
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return found
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		found = append(found, h.Name+" "+string(data))
	}
}

func sameText(t testing.TB, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func bytesContain(text []byte, word string) bool { return bytes.Contains(text, []byte(word)) }

func contains(list []string, word string) bool { return slices.Contains(list, word) }
