package fetch

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"

	"github.com/holdfast-os/holdfast/api/release"
)

// Names beside the file.
const (
	partSuffix = ".part"
	noteSuffix = ".part.json"
	newSuffix  = ".new"
)

// noteFormat is the format that is written and read; another is thrown away with its part.
const noteFormat = 1

// maxNote is the size of a note in bytes.
const maxNote = 8 << 10

// note is what is needed to go on with a part. It is believed as far as Sum is the sum of
// the first Offset bytes of the part: the two files reach the disk in any order.
type note struct {
	Format int `json:"format"`
	// Size and SHA256 are those of the whole file.
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
	// Offset is how many bytes are there, and Sum their SHA-256, hexadecimal.
	Offset int64  `json:"offset"`
	Sum    string `json:"sum"`
	// Mirror is where the last bytes are from, and ETag its strong tag, if it gave one.
	Mirror string `json:"mirror,omitempty"`
	ETag   string `json:"etag,omitempty"`
}

// readNote gives the note for a file; ok is false when there is none that fits.
func readNote(data []byte, blob release.Blob) (n note, ok bool) {
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&n); err != nil {
		return note{}, false
	}
	if n.Format != noteFormat || n.Size != blob.Size || n.SHA256 != blob.SHA256 || n.Offset < 0 || n.Offset > n.Size {
		return note{}, false
	}
	if !strongETag(n.ETag) {
		n.ETag = ""
	}
	return n, true
}

// part is NAME.part, open.
type part struct {
	dir  Dir
	name string
	blob release.Blob
	file Handle
	// pos is how many bytes are written, noted how many the note on the disk speaks of.
	pos, noted int64
	sum        hash.Hash
	mirror     string
	etag       string
	// broken: a write has failed, and the sum has bytes that the file has not.
	broken bool
}

// openPart opens the part, new or old, ready to be written behind what is usable of it.
func openPart(dir Dir, name string, blob release.Blob) (*part, error) {
	file, err := dir.Open(name+partSuffix, true)
	if err != nil {
		return nil, fmt.Errorf("opening %s: %w", name+partSuffix, err)
	}
	p := &part{dir: dir, name: name, blob: blob, file: file}
	if err := p.restore(); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	if err := p.rewind(p.pos); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return p, nil
}

// restore finds out how much of the part can be used.
func (p *part) restore() error {
	p.sum = sha256.New()
	data, err := p.readNote()
	if err != nil {
		return err
	}
	n, ok := readNote(data, p.blob)
	if !ok {
		return nil
	}
	sum := sha256.New()
	length, err := io.Copy(sum, io.LimitReader(p.file, n.Offset))
	if err != nil {
		return fmt.Errorf("reading %s: %w", p.name+partSuffix, err)
	}
	if length == n.Offset && hex.EncodeToString(sum.Sum(nil)) == n.Sum {
		p.pos, p.noted, p.sum, p.mirror, p.etag = n.Offset, n.Offset, sum, n.Mirror, n.ETag
	}
	return nil
}

func (p *part) readNote() ([]byte, error) {
	file, err := p.dir.Open(p.name+noteSuffix, false)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("opening %s: %w", p.name+noteSuffix, err)
	}
	data, err := io.ReadAll(io.LimitReader(file, maxNote))
	if err = errors.Join(err, file.Close()); err != nil {
		return nil, fmt.Errorf("reading %s: %w", p.name+noteSuffix, err)
	}
	return data, nil
}

// write appends bytes that the sum already has.
func (p *part) write(data []byte) error {
	n, err := p.file.Write(data)
	p.pos += int64(n)
	if err != nil {
		p.broken = true
		return fmt.Errorf("writing %s: %w", p.name+partSuffix, err)
	}
	return nil
}

// rewind throws away what lies behind a position.
func (p *part) rewind(to int64) error {
	if err := p.file.Truncate(to); err != nil {
		return fmt.Errorf("cutting %s to %d bytes: %w", p.name+partSuffix, to, err)
	}
	if _, err := p.file.Seek(to, io.SeekStart); err != nil {
		return fmt.Errorf("going to byte %d of %s: %w", to, p.name+partSuffix, err)
	}
	p.pos, p.noted = to, min(p.noted, to)
	return nil
}

// checkpoint writes the part to the disk, then the note.
func (p *part) checkpoint() error {
	if err := p.file.Sync(); err != nil {
		return fmt.Errorf("writing %s to the disk: %w", p.name+partSuffix, err)
	}
	data, err := json.Marshal(note{
		Format: noteFormat, Size: p.blob.Size, SHA256: p.blob.SHA256, Offset: p.pos,
		Sum: hex.EncodeToString(p.sum.Sum(nil)), Mirror: p.mirror, ETag: p.etag})
	if err != nil {
		return fmt.Errorf("encoding %s: %w", p.name+noteSuffix, err)
	}
	if err := p.writeNote(data); err != nil {
		return fmt.Errorf("writing %s: %w", p.name+noteSuffix, err)
	}
	p.noted = p.pos
	return nil
}

func (p *part) writeNote(data []byte) error {
	fresh := p.name + noteSuffix + newSuffix
	file, err := p.dir.Open(fresh, true)
	if err != nil {
		return err
	}
	err = file.Truncate(0)
	if err == nil {
		_, err = file.Write(data)
	}
	if err == nil {
		err = file.Sync()
	}
	if err = errors.Join(err, file.Close()); err != nil {
		return err
	}
	if err := p.dir.Rename(fresh, p.name+noteSuffix); err != nil {
		return err
	}
	return p.dir.Sync()
}

// leave keeps what there is for the next call.
func (p *part) leave() error {
	var err error
	switch {
	case p.pos == 0:
		err = Discard(p.dir, p.name)
	case p.pos > p.noted && !p.broken:
		err = p.checkpoint()
	}
	return errors.Join(err, p.file.Close())
}

// publish gives the file its name. The bytes are on the disk before the name is, and the
// note goes last.
func (p *part) publish() error {
	if err := p.file.Sync(); err != nil {
		return errors.Join(fmt.Errorf("writing %s to the disk: %w", p.name+partSuffix, err), p.file.Close())
	}
	// The lock goes with the handle, so the name is given before.
	err := p.dir.Rename(p.name+partSuffix, p.name)
	if err = errors.Join(err, p.file.Close()); err != nil {
		return fmt.Errorf("naming %s: %w", p.name, err)
	}
	if err := p.dir.Sync(); err != nil {
		return fmt.Errorf("writing the name %s to the disk: %w", p.name, err)
	}
	return Discard(p.dir, p.name)
}
