package media

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/holdfast-os/holdfast/internal/layout"
	"github.com/holdfast-os/holdfast/internal/seed"
)

// Region is a piece of an image, in bytes.
type Region struct{ Offset, Size int64 }

const (
	seedLabel = "seed-data"
	// block is that of a tar archive, in bytes.
	block = 512
	// grain is in what steps an image is read and written, in bytes.
	grain = 1 << 20
)

// SeedPlace is where the seed lies in an image with this table. A table that does not have
// our partition at the place where nodes look is ErrNotImage.
func SeedPlace(t Table) (Region, error) {
	generic, err := layout.Table(layout.X86_64) // the same for every architecture
	if err != nil {
		return Region{}, err
	}
	p, ok := t.Find(layout.Seed)
	if !ok || p.Label != seedLabel || !strings.EqualFold(p.Type, generic[layout.Seed-1].GUID) || p.Start != layout.SeedOffset() {
		return Region{}, fmt.Errorf("%w: it has no partition %d named %q at byte %d, where the seed belongs", ErrNotImage, layout.Seed, seedLabel, layout.SeedOffset())
	}
	return Region{p.Start, p.Size}, nil
}

// Change is what shall become of a seed. The zero value changes nothing.
type Change struct {
	// Add are documents that take the place of those of the same name.
	Add *seed.Set
	// Remove are names of documents that go.
	Remove []string
	// Only leaves out all that was there before; default false.
	Only bool
}

// Archive is the archive that the old one becomes, checked as a node does: Problems when
// it would not be taken. An old archive that is damaged is an error, unless Only is set. A
// name in Remove that is not there is an error: it is likely misspelt.
func (c Change) Archive(old io.Reader) ([]byte, error) {
	if c.Only {
		old = bytes.NewReader(nil)
	}
	before, err := io.ReadAll(io.LimitReader(old, seed.MaxArchive))
	if err != nil {
		return nil, fmt.Errorf("reading the seed: %w", err)
	}
	if err := c.checkRemove(before); err != nil {
		return nil, err
	}
	var out bytes.Buffer
	if err := seed.Merge(bytes.NewReader(before), &out, c.Add, c.Remove...); err != nil {
		return nil, fmt.Errorf("changing the seed: %w", problemsOf(err, nil))
	}
	set, err := seed.Parse(bytes.NewReader(out.Bytes()))
	if err != nil && !errors.Is(err, seed.Missing) {
		return nil, fmt.Errorf("the seed that is there cannot stay: %w", problemsOf(err, nil))
	}
	return out.Bytes(), CheckSet(set, nil).Err()
}

func (c Change) checkRemove(before []byte) error {
	set, err := seed.Parse(bytes.NewReader(before))
	for _, name := range c.Remove {
		if !slices.Contains(seed.Names(), name) {
			return fmt.Errorf("removing seed %q: there is no such document: known are %s", name, strings.Join(seed.Names(), ", "))
		}
		// What is there and cannot be read may go, too.
		sealed := slices.ContainsFunc(set.Sealed, func(m seed.Member) bool { return stem(m.Name) == name })
		if _, missing := set.Get(name); missing != nil && !sealed && (err == nil || errors.Is(err, seed.Missing)) {
			return fmt.Errorf("removing seed %s: the image does not have it", name)
		}
	}
	return nil
}

// ReadSeed reads the seed of an image. No seed is an empty set. What is wrong with it is
// Problems, and the set then has the documents that are sound.
func ReadSeed(image io.ReaderAt, at Region) (*seed.Set, error) {
	set, err := seed.Parse(io.NewSectionReader(image, at.Offset, at.Size))
	if errors.Is(err, seed.Missing) {
		return set, nil
	}
	return set, problemsOf(err, nil)
}

// Target is an image that can be changed in its place.
type Target interface {
	io.ReaderAt
	io.WriterAt
	// Sync returns when the disk has all that was written.
	Sync() error
}

// halfWritten begins an archive while it is being written: it is taken for one, and for a
// damaged one, by everything that reads seeds.
func halfWritten() []byte {
	mark := make([]byte, block)
	copy(mark, "this seed was written by half: write it again")
	copy(mark[257:], "ustar")
	return mark
}

// WriteSeed puts an archive into its place, and zeros over what was there before. When
// something goes wrong, the old seed is put back; when the power goes, the archive is one
// that nodes refuse as damaged.
func WriteSeed(image Target, at Region, archive []byte) error {
	if int64(len(archive)) > at.Size || len(archive) < block {
		return fmt.Errorf("writing the seed: it has %d bytes, and there is room for %d", len(archive), at.Size)
	}
	old, err := nonZero(image, at)
	if err != nil {
		return fmt.Errorf("reading the seed that is there: %w", err)
	}
	fresh := map[int64][]byte{}
	for offset := range old {
		fresh[offset] = make([]byte, len(old[offset]))
	}
	for from := 0; from < len(archive); from += grain {
		offset := at.Offset + int64(from)
		if fresh[offset] == nil {
			fresh[offset] = make([]byte, min(grain, at.Size-int64(from)))
		}
		copy(fresh[offset], archive[from:])
	}
	if old[at.Offset] == nil {
		old[at.Offset] = make([]byte, min(grain, at.Size))
	}
	err = replace(image, at.Offset, fresh)
	if err == nil {
		err = same(image, at.Offset, archive)
	}
	if err == nil {
		return nil
	}
	if undo := replace(image, at.Offset, old); undo != nil {
		return fmt.Errorf("writing the seed: %w; and the old one could not be put back, so that nodes refuse this medium until a seed is written: %w", err, undo)
	}
	return fmt.Errorf("writing the seed: %w; the old one was put back", err)
}

// nonZero reads the pieces of a region that hold something, by offset.
func nonZero(r io.ReaderAt, at Region) (map[int64][]byte, error) {
	found := map[int64][]byte{}
	for from := int64(0); from < at.Size; from += grain {
		piece := make([]byte, min(grain, at.Size-from))
		if err := readAt(r, piece, at.Offset+from); err != nil {
			return nil, err
		}
		if !isZero(piece) {
			found[at.Offset+from] = piece
		}
	}
	return found, nil
}

// replace writes pieces so that the first block of the archive, at start, comes last.
func replace(image Target, start int64, pieces map[int64][]byte) error {
	write := func(data []byte, offset int64) error {
		if _, err := image.WriteAt(data, offset); err != nil {
			return fmt.Errorf("writing %d bytes at %d: %w", len(data), offset, err)
		}
		return nil
	}
	if err := errors.Join(write(halfWritten(), start), image.Sync()); err != nil {
		return err
	}
	for _, offset := range slices.Sorted(maps.Keys(pieces)) {
		data := pieces[offset]
		if offset == start {
			offset, data = offset+block, data[block:]
		}
		if err := write(data, offset); err != nil {
			return err
		}
	}
	if err := image.Sync(); err != nil {
		return err
	}
	return errors.Join(write(pieces[start][:block], start), image.Sync())
}

// same reads back what was written.
func same(r io.ReaderAt, offset int64, want []byte) error {
	got := make([]byte, len(want))
	if err := readAt(r, got, offset); err != nil {
		return err
	}
	if !bytes.Equal(got, want) {
		return errors.New("what was read back is not what was written: the medium may be worn out")
	}
	return nil
}

var zeros [64 << 10]byte

func isZero(data []byte) bool {
	for len(data) > 0 {
		n := min(len(data), len(zeros))
		if !bytes.Equal(data[:n], zeros[:n]) {
			return false
		}
		data = data[n:]
	}
	return true
}

// Rewrite is a piece of an image that changes on its way through Stream.
type Rewrite struct {
	Region
	// New gives what stands there instead; zeros fill the rest of the region.
	New func(old []byte) ([]byte, error)
}

// SeedRewrite is the Rewrite that changes the seed of an image with this table.
func SeedRewrite(t Table, change Change) (Rewrite, error) {
	at, err := SeedPlace(t)
	if err != nil {
		return Rewrite{}, err
	}
	return Rewrite{at, func(old []byte) ([]byte, error) { return change.Archive(bytes.NewReader(old)) }}, nil
}

// Plan says what changes in an image, from its table. The rewrites ascend and do not
// overlap. Size is the size of the result in bytes: more is cut off, zeros are added; 0 is
// that of the input.
type Plan struct {
	Rewrites []Rewrite
	Size     int64
}

// Stream copies an image and changes it on the way: it needs no space for a second copy
// where the image is packed. An image that ends before its table says so is ErrCut; out then
// has bytes that must be thrown away, as after every error.
func Stream(ctx context.Context, in io.Reader, out io.Writer, plan func(Table) (Plan, error)) (Table, error) {
	whole := &wholeReader{in: in}
	head, err := whole.begin()
	if err != nil {
		return Table{}, err
	}
	table := whole.table
	todo, err := plan(table)
	if err != nil {
		return Table{}, err
	}
	s := &stream{ctx: ctx, in: io.MultiReader(bytes.NewReader(head), whole), out: out, size: todo.Size}
	for _, r := range todo.Rewrites {
		if err := s.copyTo(r.Offset); err != nil {
			return Table{}, err
		}
		if s.at < r.Offset && todo.Size == 0 {
			return Table{}, fmt.Errorf("%w: it ends at byte %d", ErrNotImage, s.at)
		}
		if err := s.rewrite(r); err != nil {
			return Table{}, err
		}
	}
	return table, s.rest()
}

// headReader is an image of which only the beginning is known.
type headReader struct{ head []byte }

func (h *headReader) ReadAt(p []byte, offset int64) (int, error) {
	if offset >= int64(len(h.head)) {
		return 0, io.EOF
	}
	n := copy(p, h.head[offset:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

type stream struct {
	ctx  context.Context
	in   io.Reader
	out  io.Writer
	at   int64
	size int64
	over bool // the input has ended
}

// next fills data; beyond the end of the input of a plan with a size that is with zeros.
func (s *stream) next(data []byte) ([]byte, error) {
	if err := s.ctx.Err(); err != nil {
		return nil, err
	}
	if s.over {
		clear(data)
		return data, nil
	}
	got, err := io.ReadFull(s.in, data)
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		s.over = true
		clear(data[got:])
		if s.size == 0 {
			data = data[:got]
		}
	case err != nil:
		return nil, fmt.Errorf("reading the image at byte %d: %w", s.at, err)
	}
	return data, nil
}

func (s *stream) write(data []byte) error {
	n, err := s.out.Write(data)
	s.at += int64(n)
	if err != nil {
		return fmt.Errorf("writing the image: %w", err)
	}
	return nil
}

func (s *stream) copyTo(end int64) error {
	buffer := make([]byte, grain)
	for s.at < end && !(s.over && s.size == 0) {
		data, err := s.next(buffer[:min(grain, end-s.at)])
		if err != nil {
			return err
		}
		if err := s.write(data); err != nil {
			return err
		}
	}
	return nil
}

func (s *stream) rewrite(r Rewrite) error {
	old, err := s.next(make([]byte, r.Size))
	if err != nil {
		return err
	}
	if int64(len(old)) < r.Size {
		return fmt.Errorf("%w: it ends at byte %d, and %d are needed", ErrNotImage, s.at+int64(len(old)), r.Offset+r.Size)
	}
	fresh, err := r.New(old)
	if err != nil {
		return err
	}
	if int64(len(fresh)) > r.Size {
		return fmt.Errorf("writing %d bytes at %d: there is room for %d", len(fresh), r.Offset, r.Size)
	}
	clear(old[copy(old, fresh):])
	return s.write(old)
}

func (s *stream) rest() error {
	end := s.size
	if end == 0 {
		end = MaxImage
	}
	if err := s.copyTo(end); err != nil {
		return err
	}
	if s.size == 0 && !s.over {
		return fmt.Errorf("%w: it has more than %d bytes", ErrNotImage, int64(MaxImage))
	}
	// What follows is thrown away, but read: a packed image has its sum at the end.
	if _, err := io.Copy(io.Discard, s.in); err != nil {
		return fmt.Errorf("reading the end of the image: %w", err)
	}
	return nil
}

// ReadBeginning reads the table of an image of which only a stream is at hand. One that
// ends at once, before its table says so, is ErrCut.
func ReadBeginning(in io.Reader) (Table, error) {
	whole := &wholeReader{in: in}
	_, err := whole.begin()
	return whole.table, err
}

// Needs is how many bytes a disk must have for an image with this table: all of the image,
// and a second table behind its partitions.
func (t Table) Needs() int64 { return max(t.Length, t.end()+gptEntries*gptEntry+t.Sector) }
