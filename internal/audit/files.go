package audit

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
)

// Files is where the log lies. What has returned is on the disk.
type Files interface {
	// List gives the size of each file in bytes, by name.
	List() (map[string]int64, error)
	// Append opens a file to write at its end, and makes it when it is missing.
	Append(name string) (Appender, error)
	// Read opens a file from its beginning.
	Read(name string) (io.ReadCloser, error)
	// Truncate cuts a file off behind size bytes.
	Truncate(name string, size int64) error
	// Remove removes a file.
	Remove(name string) error
}

// Appender is a file that is written at its end.
type Appender interface {
	io.WriteCloser
	// Sync returns when all that was written is on the disk.
	Sync() error
}

// directory is Files in a directory of the machine.
type directory struct{ root *os.Root }

// OpenDirectory opens a directory for a log, and makes it (0700) when it is missing. The
// files are 0600. On a node it is /var/lib/incus-os/audit.
func OpenDirectory(path string) (Files, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("making audit directory %s: %w", path, err)
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, fmt.Errorf("opening audit directory %s: %w", path, err)
	}
	parent, err := os.Open(filepath.Dir(path))
	if err == nil {
		err = errors.Join(parent.Sync(), parent.Close())
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("keeping the name of audit directory %s: %w", path, err), root.Close())
	}
	return directory{root}, nil
}

func (d directory) List() (map[string]int64, error) {
	entries, err := fs.ReadDir(d.root.FS(), ".")
	if err != nil {
		return nil, err
	}
	sizes := map[string]int64{}
	for _, entry := range entries {
		info, err := entry.Info()
		if err != nil {
			return nil, err
		}
		if info.Mode().IsRegular() {
			sizes[entry.Name()] = info.Size()
		}
	}
	return sizes, nil
}

func (d directory) Append(name string) (Appender, error) {
	f, err := d.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	// The name of a new file has to last too.
	if err := d.sync(); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func (d directory) Read(name string) (io.ReadCloser, error) { return d.root.Open(name) }

func (d directory) Truncate(name string, size int64) error {
	f, err := d.root.OpenFile(name, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	err = f.Truncate(size)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

func (d directory) Remove(name string) error {
	if err := d.root.Remove(name); err != nil {
		return err
	}
	return d.sync()
}

func (d directory) sync() error {
	dir, err := d.root.Open(".")
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// part is one file of the log.
type part struct {
	name  string
	first uint64 // the number of its first entry
	size  int64
}

var partName = regexp.MustCompile(`^audit-([0-9]{20})\.jsonl$`)

func newPart(first uint64) part {
	return part{name: fmt.Sprintf("audit-%020d.jsonl", first), first: first}
}

// parts gives the files of the log in the order of their entries. Other files are not
// looked at.
func parts(files Files) ([]part, error) {
	sizes, err := files.List()
	if err != nil {
		return nil, fmt.Errorf("listing the audit log: %w", err)
	}
	var all []part
	for name, size := range sizes {
		if match := partName.FindStringSubmatch(name); match != nil {
			first, err := strconv.ParseUint(match[1], 10, 64)
			if err != nil {
				return nil, fmt.Errorf("listing the audit log: %s is not the name of a part: %w", name, err)
			}
			all = append(all, part{name, first, size})
		}
	}
	slices.SortFunc(all, func(a, b part) int {
		if a.first < b.first {
			return -1
		}
		return 1
	})
	return all, nil
}

// line is one line of a part. Text has no line feed and holds until the next line.
type line struct {
	text  []byte
	start int64
	whole bool // it ends with a line feed
}

// eachLine calls do with every line of the part as it was when its size was taken, until
// do is done. A line that is too long is given cut.
func eachLine(files Files, p part, do func(line) (done bool)) error {
	f, err := files.Read(p.name)
	if err != nil {
		return fmt.Errorf("reading audit file %s: %w", p.name, err)
	}
	defer f.Close()
	in := bufio.NewReaderSize(io.LimitReader(f, p.size), maxLine+2)
	var at int64
	for {
		text, err := in.ReadSlice('\n')
		now := line{start: at, whole: err == nil}
		at += int64(len(text))
		now.text = bytes.TrimSuffix(text, []byte("\n"))
		for errors.Is(err, bufio.ErrBufferFull) {
			var rest []byte
			rest, err = in.ReadSlice('\n')
			at += int64(len(rest))
			now.whole = err == nil
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("reading audit file %s: %w", p.name, err)
		}
		if at == now.start || do(now) || err != nil {
			return nil
		}
	}
}
