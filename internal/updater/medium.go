package updater

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"path"

	"github.com/holdfast-os/holdfast/api/release"
	"github.com/holdfast-os/holdfast/internal/fetch"
	"github.com/holdfast-os/holdfast/internal/parts"
	"github.com/holdfast-os/holdfast/internal/update"
)

// Medium is a Source whose one release lies in a folder: that of a rescue medium. Whoever
// opens it has checked the signature of the release; files are compared with its sums.
type Medium struct {
	files   fs.FS
	release release.Update
	arch    string
}

// OpenMedium takes a folder, and the release whose files are in it by their names.
func OpenMedium(files fs.FS, u release.Update, architecture string) *Medium {
	return &Medium{files: files, release: u, arch: architecture}
}

// Close is part of Source.
func (*Medium) Close() error { return nil }

// Downloads is part of Source.
func (m *Medium) Downloads() parts.Downloads { return m }

// Changelog is part of update.Releases: a medium has none.
func (*Medium) Changelog(context.Context, update.Found, string) (*release.Changelog, error) {
	return nil, nil
}

// Newest is part of update.Releases: there is one release, whatever the channel.
func (m *Medium) Newest(context.Context, string, bool) (update.Found, error) {
	manifest := (&Indexed{arch: m.arch}).manifest(m.release)
	digest, err := digestOf(manifest)
	return update.Found{Manifest: manifest, Digest: digest}, err
}

// Ranges is part of parts.Downloads. An index lists no chunks, so nobody asks for any.
func (*Medium) Ranges(_ context.Context, blob release.Blob, _ []fetch.Range, _ func(fetch.Progress), _ func(fetch.Range, io.Reader) error) error {
	return fmt.Errorf("reading pieces of %s: %w", blob.Path, fetch.ErrNoRanges)
}

// File is part of parts.Downloads. The file gets its name when its bytes are right and on
// the disk.
func (m *Medium) File(ctx context.Context, blob release.Blob, dir fetch.Dir, name string, progress func(fetch.Progress)) (err error) {
	fail := func(err error) error { return fmt.Errorf("copying %s from the medium: %w", blob.Path, err) }
	have, err := holds(dir, name, blob)
	if err != nil {
		return fail(err)
	}
	if have {
		tell(progress, blob.Size, blob.Size)
		return nil
	}
	free, err := dir.Free()
	if err != nil {
		return fail(err)
	}
	if need := blob.Size + managedReserve; free < need {
		return fail(&fetch.NoSpaceError{Need: need, Free: free})
	}
	// The manifest puts the version before the name; the medium has one release.
	_, inside := path.Split(blob.Path)
	for _, file := range m.release.Files {
		if m.release.Version+"/"+file.Filename == blob.Path {
			inside = file.Filename
		}
	}
	from, err := m.files.Open(inside)
	if err != nil {
		return fail(err)
	}
	defer func() { err = errors.Join(err, from.Close()) }()
	if err := fetch.Discard(dir, name); err != nil {
		return fail(err)
	}
	sum := &checked{r: io.LimitReader(from, blob.Size+1), ctx: ctx, sum: sha256.New()}
	err = keep(dir, name+managedPart, sum, func(done int64) { tell(progress, done, blob.Size) })
	if err == nil && (sum.size != blob.Size || hex.EncodeToString(sum.sum.Sum(nil)) != blob.SHA256) {
		err = errors.New("it is not what the release promises: the medium is damaged, or was changed")
	}
	if err != nil {
		return fail(errors.Join(err, dir.Remove(name+managedPart)))
	}
	if err := errors.Join(dir.Rename(name+managedPart, name), dir.Sync()); err != nil {
		return fail(err)
	}
	return nil
}

// checked counts and sums what is read, until its context ends.
type checked struct {
	r    io.Reader
	ctx  context.Context
	size int64
	sum  hash.Hash
}

func (c *checked) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := c.r.Read(p)
	c.size += int64(n)
	c.sum.Write(p[:n]) // never fails
	return n, err
}
