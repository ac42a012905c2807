// Package bundle makes the archive that an owner sends to whoever helps: a gzip tar of
// named texts, none of which has a secret of the node in it.
//
// The caller names the members and gives every secret that the node knows. Members are
// scrubbed as they are read, whatever pieces they come in; a member that is too long is
// cut, one that cannot be read is noted, and the rest of the bundle is made all the same.
// The last member, manifest.json, says what became of each.
//
// Invariants: no given secret is in any member, in any of the forms of Forms, nor in a
// name, an error or the manifest; a member that is cut ends with no beginning of a secret;
// no more than the limits is held in memory.
//
// What it cannot do: remove a secret that it was not given, or one that is encrypted,
// compressed, or written with spaces in between.
package bundle

import (
	"archive/tar"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"time"
)

// Limits of a bundle.
const (
	// DefaultLimit is how much of a member is read when it has no limit, in bytes.
	DefaultLimit = 16 << 20
	// MaxMembers is how many members there may be.
	MaxMembers = 1000
	// maxName is how long the name of a member may be.
	maxName = 200
	// Manifest is the name of the last member.
	Manifest = "manifest.json"
)

// Member is one file of the bundle.
type Member struct {
	// Name is its path in the bundle, as "journal/boot.json".
	Name string
	// Open gives the content; it is called once. The reader is closed when it is a Closer.
	Open func() (io.Reader, error)
	// Limit is how much is read, in bytes; default DefaultLimit.
	Limit int64
}

// Entry is what the manifest says of a member.
type Entry struct {
	Name string `json:"name"`
	// Size is in bytes, after scrubbing.
	Size int64 `json:"size"`
	// Removed is how many places had a secret.
	Removed int `json:"removed,omitempty"`
	// Cut is true when the member was longer than its limit.
	Cut bool `json:"cut,omitempty"`
	// Error says why the member is not whole.
	Error string `json:"error,omitempty"`
}

// document is the manifest.
type document struct {
	Format  int       `json:"format"`
	Made    time.Time `json:"made"`
	Members []Entry   `json:"members"`
}

// Write makes a bundle. Only what the output or the list of members does wrong is an
// error; what is wrong with a member's content stands in the manifest.
func Write(to io.Writer, members []Member, secrets []string, made time.Time) error {
	if err := check(members); err != nil {
		return fmt.Errorf("making a bundle: %w", err)
	}
	scrubber, err := NewScrubber(secrets)
	if err != nil {
		return fmt.Errorf("making a bundle: %w", err)
	}
	zip := gzip.NewWriter(to)
	archive := tar.NewWriter(zip)
	manifest := document{Format: 1, Made: made.UTC().Truncate(time.Second), Members: []Entry{}}
	for _, member := range members {
		entry, data := read(member, scrubber)
		manifest.Members = append(manifest.Members, entry)
		if err := put(archive, entry.Name, data, manifest.Made); err != nil {
			return fmt.Errorf("making a bundle: writing %s: %w", entry.Name, err)
		}
	}
	text, err := json.MarshalIndent(manifest, "", "  ")
	if err != nil {
		return fmt.Errorf("making a bundle: writing its manifest: %w", err)
	}
	last, _ := scrubber.Text(string(text) + "\n")
	if err := errors.Join(put(archive, Manifest, []byte(last), manifest.Made), archive.Close(), zip.Close()); err != nil {
		return fmt.Errorf("making a bundle: %w", err)
	}
	return nil
}

// check refuses names that would leave the folder that a bundle is unpacked into, or that
// there are twice.
func check(members []Member) error {
	if len(members) > MaxMembers {
		return fmt.Errorf("it has %d members, at most %d are possible", len(members), MaxMembers)
	}
	var names []string
	for _, m := range members {
		bad := m.Name == "" || m.Name == Manifest || len(m.Name) > maxName || path.IsAbs(m.Name) || path.Clean(m.Name) != m.Name ||
			m.Name == "." || m.Name == ".." || strings.HasPrefix(m.Name, "../") || strings.ContainsFunc(m.Name, func(r rune) bool { return r < ' ' || r > '~' || r == '\\' })
		if bad || slices.Contains(names, m.Name) || m.Open == nil {
			return fmt.Errorf("%q is not the name of a new member with a content", m.Name)
		}
		names = append(names, m.Name)
	}
	return nil
}

// read gives a member without its secrets.
func read(member Member, scrubber *Scrubber) (Entry, []byte) {
	entry := Entry{}
	entry.Name, _ = scrubber.Text(member.Name)
	content := &stream{scrubber: scrubber}
	cut, err := fill(content, member)
	// An error may have cut the text anywhere too.
	content.close(cut || err != nil)
	entry.Size, entry.Removed, entry.Cut = int64(len(content.done)), content.removed, cut
	if err != nil {
		entry.Error, _ = scrubber.Text(err.Error())
	}
	return entry, content.done
}

// fill reads a member up to its limit, and tells whether there was more.
func fill(into *stream, member Member) (cut bool, err error) {
	source, err := member.Open()
	if err != nil {
		return false, err
	}
	if closer, ok := source.(io.Closer); ok {
		defer func() { err = errors.Join(err, closer.Close()) }()
	}
	limit := member.Limit
	if limit <= 0 {
		limit = DefaultLimit
	}
	buffer := make([]byte, 64<<10)
	for left := limit; ; {
		n, err := source.Read(buffer)
		if int64(n) > left {
			into.write(buffer[:left])
			return true, nil
		}
		into.write(buffer[:n])
		left -= int64(n)
		if errors.Is(err, io.EOF) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
	}
}

func put(archive *tar.Writer, name string, data []byte, made time.Time) error {
	header := &tar.Header{Typeflag: tar.TypeReg, Name: name, Size: int64(len(data)), Mode: 0o600, ModTime: made, Format: tar.FormatPAX}
	if err := archive.WriteHeader(header); err != nil {
		return err
	}
	_, err := archive.Write(data)
	return err
}
