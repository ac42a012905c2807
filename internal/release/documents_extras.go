package release

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/holdfast-os/holdfast/api/release"
)

// Extras makes the ways to get a part that are shorter than the whole file. The same input
// must give the same bytes.
type Extras interface {
	// Chunks cuts the file unpacked, which is the part, into pieces: it makes the files named
	// by to. from are those of the same part of an earlier release, of which pieces may be
	// taken as they are; empty for none. false means that they are not worth it, and that it
	// made neither.
	Chunks(ctx context.Context, part release.Part, unpacked string, from, to ChunkFiles) (bool, error)
	// Delta makes the file patch, by which baseUnpacked becomes unpacked. false means that
	// it is not worth it, and that there is no such file.
	Delta(ctx context.Context, part release.Part, unpacked string, base release.Part, baseUnpacked, patch string) (bool, error)
}

// ChunkFiles name the two files that hold the chunks of a part.
type ChunkFiles struct {
	// Index is the list of the chunks, Pack has them one behind the other.
	Index, Pack string
}

// addExtras has chunks and deltas made for the parts of the build that have none yet.
func (d describer) addExtras(ctx context.Context, m release.Manifest) (err error) {
	if d.extras == nil {
		return nil
	}
	work, err := os.MkdirTemp(d.tree.dir, staging)
	if err != nil {
		return fmt.Errorf("making a place for unpacked files: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	bases, err := d.earlier(m.Version)
	if err != nil {
		return err
	}
	for i := range m.Parts {
		part := &m.Parts[i]
		built := slices.IndexFunc(d.staged, func(s staged) bool { return s.file.SHA256 == part.Full.SHA256 && s.name == part.Name })
		if built < 0 || part.Type == release.TypeUpdateSecureBoot || part.Chunks != nil || len(part.Deltas) > 0 {
			continue
		}
		unpacked, err := d.unpacked(ctx, d.staged[built], work)
		if err != nil {
			return err
		}
		if err := d.addChunks(ctx, m.Version, part, unpacked, bases); err != nil {
			return err
		}
		for _, base := range bases {
			if err := d.addDelta(ctx, m.Version, part, unpacked, base, work); err != nil {
				return err
			}
		}
	}
	return nil
}

// unpacked is a file with exactly the bytes of a part: the build's own, or a copy where
// zeros at its end are left out.
func (d describer) unpacked(ctx context.Context, s staged, work string) (string, error) {
	in, length, err := openPlain(s.source, s.trim)
	if err != nil {
		return "", err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return "", fmt.Errorf("measuring %s: %w", s.source, err)
	}
	if info.Size() == length {
		return s.source, nil
	}
	name := filepath.Join(work, "part")
	return name, writeTo(name, func(w io.Writer) error {
		_, err := io.Copy(w, &contextReader{ctx, io.NewSectionReader(in, 0, length)})
		return err
	})
}

// writeTo makes or replaces a working file.
func writeTo(name string, write func(io.Writer) error) error {
	f, err := os.Create(name)
	if err != nil {
		return fmt.Errorf("making %s: %w", name, err)
	}
	if err := errors.Join(write(f), f.Close()); err != nil {
		return fmt.Errorf("writing %s: %w", name, err)
	}
	return nil
}

// earlier are the manifests of the releases before version, newest first: a node may run
// any of them.
func (d describer) earlier(version string) ([]release.Manifest, error) {
	all, err := d.tree.updates()
	if err != nil {
		return nil, err
	}
	var out []release.Manifest
	for _, u := range all {
		if u.Version >= version || len(out) == d.bases {
			continue
		}
		m, err := d.tree.readManifest(u.Version, d.arch)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		out = append(out, m)
	}
	return out, nil
}

func (d describer) addChunks(ctx context.Context, version string, part *release.Part, unpacked string, bases []release.Manifest) error {
	var from ChunkFiles
	for _, base := range bases {
		if i := samePart(base, *part); i >= 0 && base.Parts[i].Chunks != nil && from.Index == "" {
			from = ChunkFiles{Index: d.tree.path(base.Parts[i].Chunks.Index.Path), Pack: d.tree.path(base.Parts[i].Chunks.Pack.Path)}
		}
	}
	index, pack := part.Name+".chunks", part.Name+".pack"
	made, err := d.tree.shareChunks(d.arch, *part, d.staging(index), d.staging(pack))
	if err != nil {
		return err
	}
	if !made {
		made, err = d.extras.Chunks(ctx, *part, unpacked, from, ChunkFiles{Index: d.staging(index), Pack: d.staging(pack)})
	}
	if err != nil {
		return fmt.Errorf("cutting %s into chunks: %w", part.Name, err)
	}
	if !made {
		return nil
	}
	chunks := &release.Chunks{}
	if chunks.Index, err = d.blob(version, index); err != nil {
		return err
	}
	if chunks.Pack, err = d.blob(version, pack); err != nil {
		return err
	}
	part.Chunks = chunks
	return nil
}

// samePart is the place of a part in another release, below 0 when it has none like it.
func samePart(m release.Manifest, part release.Part) int {
	return slices.IndexFunc(m.Parts, func(p release.Part) bool {
		return p.Type == part.Type && p.Component == part.Component && (p.Type != release.TypeApplication || p.Name == part.Name)
	})
}

// addDelta has a patch made out of the same part of an earlier release. One that is the
// same needs none: the node has it. Nor does a base that an earlier delta names already.
func (d describer) addDelta(ctx context.Context, version string, part *release.Part, unpacked string, from release.Manifest, work string) error {
	i := samePart(from, *part)
	if i < 0 || from.Parts[i].SHA256 == part.SHA256 ||
		slices.ContainsFunc(part.Deltas, func(d release.Delta) bool { return d.BaseSHA256 == from.Parts[i].SHA256 }) {
		return nil
	}
	base, baseName := from.Parts[i], filepath.Join(work, "base")
	digest := sha256.New()
	err := writeTo(baseName, func(w io.Writer) error {
		_, err := unpackTo(ctx, d.tree.path(base.Full.Path), io.MultiWriter(w, digest))
		return err
	})
	if err != nil {
		return fmt.Errorf("unpacking %s: %w", base.Full.Path, err)
	}
	if sum := hex.EncodeToString(digest.Sum(nil)); sum != base.SHA256 {
		return fmt.Errorf("unpacking %s: %w: its sum is another (holdfast release verify --deep tells more)", base.Full.Path, ErrMismatch)
	}
	patch := part.Name + ".from-" + from.Version + ".delta"
	made, err := d.extras.Delta(ctx, *part, unpacked, base, baseName, d.staging(patch))
	if err != nil {
		return fmt.Errorf("making a delta of %s from %s: %w", part.Name, from.Version, err)
	}
	if !made {
		return nil
	}
	blob, err := d.blob(version, patch)
	if err != nil {
		return err
	}
	part.Deltas = append(part.Deltas, release.Delta{From: from.Version, BaseSize: base.Size, BaseSHA256: base.SHA256, Patch: blob})
	return nil
}

func (d describer) staging(name string) string { return filepath.Join(d.stage, d.arch, name) }

// blob measures a file in the stage that somebody else made, and brings it to the disk.
func (d describer) blob(version, name string) (release.Blob, error) {
	f, err := os.OpenFile(d.staging(name), os.O_RDWR, 0)
	if err != nil {
		return release.Blob{}, fmt.Errorf("reading what was made: %w", err)
	}
	digest := sha256.New()
	size, err := io.Copy(digest, f)
	if err := errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close()); err != nil {
		return release.Blob{}, fmt.Errorf("reading %s: %w", name, err)
	}
	return release.Blob{
		Path: version + "/" + d.arch + "/" + name, Size: size,
		SHA256: hex.EncodeToString(digest.Sum(nil)),
	}, nil
}
