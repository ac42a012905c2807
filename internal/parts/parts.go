// Package parts gets the parts of a release onto a node in the cheapest way: as a patch
// for a file that is there, as the chunks that no file here has, or whole.
//
// It is done in two steps, so that nothing is written to a slot before all of it is here:
// Fetch downloads what is needed into a folder, checked; Open makes the part out of it
// as a stream, and of the files that the node has (bases). The names in the folder begin
// with the release, so that Tidy can tell what belongs to another one.
//
// What always holds: a stream that ends without an error had exactly the promised bytes.
//
// What can fail: a patch or a chunk may not lead to the promised part, since a base has
// changed or the publisher has erred. Open's stream then ends with one of delta's errors
// (Wrong tells), and the caller takes the part whole (Whole).
package parts

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/holdfast-os/holdfast/api/release"
	"github.com/holdfast-os/holdfast/internal/delta"
	"github.com/holdfast-os/holdfast/internal/fetch"
)

// Downloads is what Getter needs of a fetch.Downloader.
type Downloads interface {
	File(ctx context.Context, blob release.Blob, dir fetch.Dir, name string, progress func(fetch.Progress)) error
	Ranges(ctx context.Context, blob release.Blob, ranges []fetch.Range, progress func(fetch.Progress), each func(fetch.Range, io.Reader) error) error
}

// Content is a file that can be read anywhere.
type Content interface {
	io.ReaderAt
	io.Closer
}

// Base is a file of an earlier release that the node has.
type Base struct {
	// Version is the release that it belongs to.
	Version string
	// Size is how much can be read, in bytes; the file may be shorter than that.
	Size int64
	// Open gives the content.
	Open func() (Content, error)
	// Path is where the content lies as a file; empty for one that is no file, as a slot.
	Path string
}

// Is tells whether the base is the part already: nothing has to be fetched or made then. It
// reads a base of the same size to its end, and no other.
func (b Base) Is(ctx context.Context, part release.Part) (same bool, err error) {
	if b.Size != part.Size {
		return false, nil
	}
	content, err := b.Open()
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, content.Close()) }()
	stop := context.AfterFunc(ctx, func() { _ = content.Close() }) // ends the copy
	defer stop()
	digest := sha256.New()
	if _, err := io.Copy(digest, io.NewSectionReader(content, 0, b.Size)); err != nil {
		return false, errors.Join(ctx.Err(), err)
	}
	return hex.EncodeToString(digest.Sum(nil)) == part.SHA256, nil
}

// Getter gets parts of one release. It may be used by one goroutine at a time.
type Getter struct {
	// Downloads reaches the release tree.
	Downloads Downloads
	// Dir is the folder for what is fetched. It stays the caller's to close.
	Dir *os.Root
	// Version is the release.
	Version string
}

// Way is how a part is got.
type Way struct {
	delta.Choice
	part release.Part
	base *Base
	// index and places are known for KindChunks.
	index  delta.Index
	places map[delta.Sum]delta.Place
}

// smallest is the size below which no chunks are counted, in bytes: the list of chunks
// costs more than it saves.
const smallest = 1 << 20

// Plan chooses the cheapest way for a part. To count chunks it fetches their list, and
// reads the newest base to its end; it does neither when there is a patch.
func (g *Getter) Plan(ctx context.Context, part release.Part, bases []Base) (Way, error) {
	known, of := usable(part, bases)
	choice := delta.Cheapest(part, known, delta.UnknownChunks)
	if choice.Kind == delta.KindDelta {
		return Way{Choice: choice, part: part, base: of[choice.Delta.From]}, nil
	}
	if part.Chunks == nil || len(bases) == 0 || part.Size < smallest {
		return Way{Choice: choice, part: part}, nil
	}
	way, err := g.count(ctx, part, bases[0])
	if err != nil {
		return Way{}, fmt.Errorf("counting what %s has in common with %s: %w", part.Name, bases[0].Version, err)
	}
	return way, nil
}

// Whole is the way that needs nothing of the node.
func Whole(part release.Part) Way {
	part.Deltas, part.Chunks = nil, nil
	return Way{Choice: delta.Cheapest(part, nil, delta.UnknownChunks), part: part}
}

// Wrong is true for an error of a stream after which the part has to be taken whole.
func Wrong(err error) bool {
	return errors.Is(err, delta.ErrBase) || errors.Is(err, delta.ErrDamaged) || errors.Is(err, delta.ErrMismatch)
}

// usable are the bases that a patch of the part is for.
func usable(part release.Part, bases []Base) (files []delta.File, of map[string]*Base) {
	of = map[string]*Base{}
	for _, d := range part.Deltas {
		i := slices.IndexFunc(bases, func(b Base) bool { return b.Version == d.From && b.Size >= d.BaseSize })
		sum, err := delta.ParseSum(d.BaseSHA256)
		if i < 0 || err != nil {
			continue
		}
		files, of[d.From] = append(files, delta.File{Size: d.BaseSize, SHA256: sum}), &bases[i]
	}
	return files, of
}

// count finds out what the chunks that a base does not have would cost.
func (g *Getter) count(ctx context.Context, part release.Part, base Base) (way Way, err error) {
	if err := g.Downloads.File(ctx, part.Chunks.Index, fetch.Folder(g.Dir), g.name(part, "index"), nil); err != nil {
		return Way{}, err
	}
	index, err := g.readIndex(part)
	if err != nil {
		return Way{}, err
	}
	content, err := base.Open()
	if err != nil {
		return Way{}, err
	}
	defer func() { err = errors.Join(err, content.Close()) }()
	places, err := delta.Scan(ctx, io.NewSectionReader(content, 0, base.Size))
	if err != nil {
		return Way{}, err
	}
	local := delta.Local{Base: content, Places: places}
	fetched := delta.PlanChunks(index, local.Has)
	way = Way{part: part, base: &base, index: index, places: places}
	way.Choice = delta.Cheapest(part, nil, fetched.Bytes+part.Chunks.Index.Size)
	return way, nil
}

func (g *Getter) readIndex(part release.Part) (index delta.Index, err error) {
	f, err := g.Dir.Open(g.name(part, "index"))
	if err != nil {
		return delta.Index{}, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	index, err = delta.ReadIndex(f)
	if err != nil {
		return delta.Index{}, err
	}
	if index.Result.Size != part.Size || index.Result.SHA256.String() != part.SHA256 || index.PackSize != part.Chunks.Pack.Size {
		return delta.Index{}, fmt.Errorf("the list of chunks is of another file: %w", delta.ErrMismatch)
	}
	return index, nil
}

// name is that of a file in the folder.
func (g *Getter) name(part release.Part, kind string) string {
	return g.Version + "." + part.Name + "." + kind
}

// Fetch downloads what a way needs; it goes on where an earlier call ended. progress may
// be nil; it hears bytes of this part.
func (g *Getter) Fetch(ctx context.Context, way Way, progress func(done, total int64)) error {
	hear := func(p fetch.Progress) {
		if progress != nil {
			progress(p.Done, p.Total)
		}
	}
	dir, part := fetch.Folder(g.Dir), way.part
	switch way.Kind {
	case delta.KindDelta:
		return g.Downloads.File(ctx, way.Delta.Patch, dir, g.name(part, "patch"), hear)
	case delta.KindChunks:
		return g.fetchPieces(ctx, way, hear)
	}
	return g.Downloads.File(ctx, part.Full, dir, g.name(part, "gz"), hear)
}

// Have is how many bytes of a way an earlier Fetch has left in the folder. It reads what is
// there, to see whether it is right.
func (g *Getter) Have(way Way) (int64, error) {
	dir, part := fetch.Folder(g.Dir), way.part
	switch way.Kind {
	case delta.KindDelta:
		return fetch.Have(dir, g.name(part, "patch"), way.Delta.Patch)
	case delta.KindChunks:
		info, err := g.Dir.Stat(g.name(part, "pieces"))
		if errors.Is(err, fs.ErrNotExist) {
			return 0, nil
		}
		if err != nil {
			return 0, fmt.Errorf("looking at the chunks of %s: %w", part.Name, err)
		}
		return info.Size(), nil
	}
	return fetch.Have(dir, g.name(part, "gz"), part.Full)
}

// fetchPieces puts the ranges of the pack one behind the other into a file. A file that is
// there is of an earlier try, and is gone on with from its last whole range.
func (g *Getter) fetchPieces(ctx context.Context, way Way, hear func(fetch.Progress)) (err error) {
	f, err := g.Dir.OpenFile(g.name(way.part, "pieces"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("keeping the chunks of %s: %w", way.part.Name, err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	have, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return fmt.Errorf("keeping the chunks of %s: %w", way.part.Name, err)
	}
	var missing []fetch.Range
	var at int64
	for _, r := range delta.PlanChunks(way.index, delta.Local{Places: way.places}.Has).Ranges {
		if len(missing) == 0 && at+r.Length <= have {
			at += r.Length
			continue
		}
		missing = append(missing, fetch.Range{Offset: r.Offset, Length: r.Length})
	}
	if err := f.Truncate(at); err != nil {
		return fmt.Errorf("keeping the chunks of %s: %w", way.part.Name, err)
	}
	if len(missing) == 0 {
		return nil
	}
	err = g.Downloads.Ranges(ctx, way.part.Chunks.Pack, missing, hear, func(r fetch.Range, content io.Reader) error {
		n, err := io.Copy(io.NewOffsetWriter(f, at), content)
		if err == nil && n != r.Length {
			err = io.ErrUnexpectedEOF
		}
		if err == nil {
			at += n
		}
		return err
	})
	if err != nil {
		return err
	}
	return f.Sync()
}

// Discard removes what was fetched for a part.
func (g *Getter) Discard(part release.Part) error {
	var failed []error
	for _, kind := range []string{"patch", "index", "pieces", "gz"} {
		if err := g.Dir.Remove(g.name(part, kind)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			failed = append(failed, fmt.Errorf("removing what was fetched for %s: %w", part.Name, err))
		}
	}
	return errors.Join(failed...)
}

// Tidy removes what belongs to other releases, or to none.
func Tidy(dir *os.Root, version string) error {
	entries, err := fs.ReadDir(dir.FS(), ".")
	if err != nil {
		return fmt.Errorf("looking at what was fetched: %w", err)
	}
	var failed []error
	for _, entry := range entries {
		if version != "" && strings.HasPrefix(entry.Name(), version+".") {
			continue
		}
		if err := dir.RemoveAll(entry.Name()); err != nil {
			failed = append(failed, fmt.Errorf("removing what was fetched for another release: %w", err))
		}
	}
	return errors.Join(failed...)
}

// Part is the part that the way leads to.
func (w Way) Part() release.Part { return w.part }

// Measure unpacks a part that was fetched whole and gives it with its size and sum, which
// the publisher has not said. limit is the most that it may have, in bytes.
func (g *Getter) Measure(ctx context.Context, part release.Part, limit int64) (_ release.Part, err error) {
	packed, err := g.Dir.Open(g.name(part, "gz"))
	if err != nil {
		return release.Part{}, err
	}
	defer func() { err = errors.Join(err, packed.Close()) }()
	unpacked, err := gunzip(packed)
	if err != nil {
		return release.Part{}, fmt.Errorf("unpacking %s: %w", part.Name, err)
	}
	defer func() { err = errors.Join(err, unpacked.Close()) }()
	digest := sha256.New()
	stop := context.AfterFunc(ctx, func() { _ = packed.Close() }) // ends the copy
	defer stop()
	part.Size, err = io.Copy(digest, io.LimitReader(unpacked, limit+1))
	switch {
	case ctx.Err() != nil:
		return release.Part{}, ctx.Err()
	case err != nil:
		return release.Part{}, fmt.Errorf("unpacking %s: %w: %w", part.Name, delta.ErrDamaged, err)
	case part.Size > limit:
		return release.Part{}, fmt.Errorf("unpacking %s: more than %d bytes: %w", part.Name, limit, delta.ErrMismatch)
	}
	part.SHA256 = hex.EncodeToString(digest.Sum(nil))
	return part, nil
}
