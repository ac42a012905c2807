package audit_test

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"github.com/holdfast-os/holdfast/internal/audit"
)

// broken is a directory whose writes fail when the test says so.
type broken struct {
	audit.Files
	room       int // bytes that still fit; negative is no limit
	cannotCut  bool
	cannotSync bool
}

var errFull = errors.New("no space left on device")

type brokenFile struct {
	audit.Appender
	b *broken
}

func (b *broken) Append(name string) (audit.Appender, error) {
	f, err := b.Files.Append(name)
	return brokenFile{f, b}, err
}

func (b *broken) Truncate(name string, size int64) error {
	if b.cannotCut {
		return errFull
	}
	return b.Files.Truncate(name, size)
}

func (f brokenFile) Write(text []byte) (int, error) {
	if f.b.room >= 0 && f.b.room < len(text) {
		n, err := f.Appender.Write(text[:f.b.room])
		return n, errors.Join(err, errFull)
	}
	return f.Appender.Write(text)
}

func (f brokenFile) Sync() error {
	if f.b.cannotSync {
		return errFull
	}
	return f.Appender.Sync()
}

// A full disk costs the entries that did not fit, and nothing else.
func TestAdd_DiskIsFull_SaysSoAndGoesOnLater(t *testing.T) {
	for name, b := range map[string]*broken{
		"half a line":           {room: 100},
		"nothing":               {room: 0},
		"not synced":            {room: -1, cannotSync: true},
		"half, and cannot mend": {room: 100, cannotCut: true},
	} {
		for _, maxFile := range []int64{0, 1} {
			t.Run(fmt.Sprintf("%s, files of %d", name, maxFile), func(t *testing.T) {
				files, err := audit.OpenDirectory(t.TempDir())
				if err != nil {
					t.Fatal(err)
				}
				now := &broken{Files: files, room: -1}
				o := options()
				o.MaxFile = maxFile
				l, err := audit.Open(now, o)
				if err != nil {
					t.Fatal(err)
				}
				add(t, l, put("/1.0/1"))
				now.room, now.cannotCut, now.cannotSync = b.room, b.cannotCut, b.cannotSync
				for range 2 {
					if e, err := l.Add(put("/1.0/lost")); !errors.Is(err, errFull) || e.Number != 0 {
						t.Fatalf("entry %d, %v", e.Number, err)
					}
				}
				if v := verify(t, l, 0, 0); !v.Good || v.Last != 1 {
					t.Errorf("while full: %+v", v)
				}
				*now = broken{Files: files, room: -1}
				if e := add(t, l, put("/1.0/2")); e.Number != 2 {
					t.Errorf("entry %d", e.Number)
				}
				again, err := audit.Open(files, o)
				if err != nil {
					t.Fatal(err)
				}
				if v := verify(t, again, 0, 0); !v.Good || v.Last != 2 {
					t.Errorf("afterwards: %+v", v)
				}
			})
		}
	}
}

// Whatever stands in the file, the log opens, tells what it has, and goes on.
func FuzzOpen_AnyFile_CanBeReadAndGoesOn(f *testing.F) {
	source := newMemory()
	l, err := audit.Open(source, options())
	if err != nil {
		f.Fatal(err)
	}
	for range 2 {
		if _, err := l.Add(put("/1.0/a")); err != nil {
			f.Fatal(err)
		}
	}
	good := source.files[firstLog]
	f.Add(good)
	f.Add(good[:len(good)-3])
	f.Add(bytes.Replace(good, []byte(`{"number":2`), []byte(`{"number":18446744073709551615`), 1))
	f.Add([]byte("\n\n{}\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		files := newMemory()
		files.files[firstLog] = text
		l := openOn(t, files, options())
		before := l.Last()
		if e := add(t, l, put("/1.0/b")); e.Number != before+1 {
			t.Errorf("entry %d behind %d", e.Number, before)
		}
		verify(t, l, 0, 0)
		if a := read(t, l, before, 1000); len(a.Entries) == 0 {
			t.Error("the new entry is not there")
		}
	})
}
