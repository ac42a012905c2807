package audit_test

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"maps"
	"slices"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/internal/audit"
)

// memory is a directory in memory: what is synced costs nothing there.
type memory struct {
	mu    sync.Mutex
	files map[string][]byte
}

func newMemory() *memory { return &memory{files: map[string][]byte{}} }

type memoryFile struct {
	m    *memory
	name string
}

func (m *memory) List() (map[string]int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	sizes := map[string]int64{}
	for name, text := range m.files {
		sizes[name] = int64(len(text))
	}
	return sizes, nil
}

func (m *memory) Append(name string) (audit.Appender, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.files[name] == nil {
		m.files[name] = []byte{}
	}
	return memoryFile{m, name}, nil
}

func (m *memory) Read(name string) (io.ReadCloser, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	text, ok := m.files[name]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return io.NopCloser(bytes.NewReader(bytes.Clone(text))), nil
}

func (m *memory) Truncate(name string, size int64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	text, ok := m.files[name]
	if !ok {
		return fs.ErrNotExist
	}
	m.files[name] = text[:size:size]
	return nil
}

func (m *memory) Remove(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.files[name]; !ok {
		return fs.ErrNotExist
	}
	delete(m.files, name)
	return nil
}

func (f memoryFile) Write(text []byte) (int, error) {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	f.m.files[f.name] = append(f.m.files[f.name], text...)
	return len(text), nil
}

func (memoryFile) Sync() error  { return nil }
func (memoryFile) Close() error { return nil }

// names gives the files in their order.
func (m *memory) names() []string { return slices.Sorted(maps.Keys(m.files)) }

// cutCopy copies a log up to size bytes. With a hole, zeros and a line feed follow, as
// when a file system has kept the length and lost the block.
func (m *memory) cutCopy(size int, hole bool) *memory {
	c := newMemory()
	for _, name := range m.names() {
		text := m.files[name]
		part := bytes.Clone(text[:min(len(text), size)])
		last := len(part) < len(text)
		if last && hole {
			part = append(append(part, make([]byte, 100)...), '\n')
		}
		c.files[name] = part
		if last {
			break
		}
		size -= len(part)
	}
	return c
}

// What the tests use in the place of the disk does what the disk does.
func TestFiles_DiskAndMemory_DoTheSame(t *testing.T) {
	disk, err := audit.OpenDirectory(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for name, files := range map[string]audit.Files{"disk": disk, "memory": newMemory()} {
		t.Run(name, func(t *testing.T) {
			must := func(err error) {
				t.Helper()
				if err != nil {
					t.Fatal(err)
				}
			}
			for _, text := range []string{"one\n", "two\n"} {
				out, err := files.Append("a")
				must(err)
				n, err := out.Write([]byte(text))
				must(errors.Join(err, out.Sync()))
				if n != 4 {
					t.Errorf("%d bytes were written", n)
				}
				must(files.Truncate("a", 3))
				_, err = out.Write([]byte(text))
				must(errors.Join(err, out.Close()))
			}
			out, err := files.Append("empty")
			must(errors.Join(err, out.Close()))
			in, err := files.Read("a")
			must(err)
			text, err := io.ReadAll(in)
			must(errors.Join(err, in.Close()))
			if string(text) != "onetwo\n" {
				t.Errorf("read %q", text)
			}
			sizes, err := files.List()
			must(err)
			if diff := cmp.Diff(map[string]int64{"a": 7, "empty": 0}, sizes); diff != "" {
				t.Error(diff)
			}
			must(files.Remove("a"))
			_, err = files.Read("a")
			for what, err := range map[string]error{"read": err, "truncate": files.Truncate("a", 0), "remove": files.Remove("a")} {
				if !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("%s what is not there: %v", what, err)
				}
			}
		})
	}
}
