package updater

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"

	"github.com/holdfast-os/holdfast/api/release"
	"github.com/holdfast-os/holdfast/internal/apps"
	"github.com/holdfast-os/holdfast/internal/parts"
	"github.com/holdfast-os/holdfast/internal/update"
)

// Applications is where applications come from: apps.Provider on the System's source.
type Applications struct {
	*System
	// Channel gives the channel that the node follows now.
	Channel func() string
}

// Latest is part of apps.Provider.
func (a Applications) Latest(ctx context.Context, file, running string) (apps.Release, error) {
	source, err := a.Source()
	if err != nil {
		return apps.Release{}, err
	}
	found, err := source.Newest(ctx, a.Channel(), false)
	if errors.Is(err, update.ErrOlder) {
		return apps.Release{}, fmt.Errorf("%w: %w", apps.ErrOlder, err)
	}
	if err != nil {
		return apps.Release{}, err
	}
	if found.Manifest.Version < running {
		return apps.Release{}, fmt.Errorf("%w: %s is installed, the channel has %s", apps.ErrOlder, running, found.Manifest.Version)
	}
	if _, err := application(found, file); err != nil {
		return apps.Release{}, err
	}
	return apps.Release{Version: found.Manifest.Version, Handle: found}, nil
}

func application(found update.Found, file string) (release.Part, error) {
	i := slices.IndexFunc(found.Manifest.Parts, func(p release.Part) bool { return p.Type == release.TypeApplication && p.Name == file })
	if i < 0 {
		return release.Part{}, fmt.Errorf("%s in release %s: %w", file, found.Manifest.Version, apps.ErrNoFile)
	}
	return found.Manifest.Parts[i], nil
}

// Fetch is part of apps.Provider. A file that the node has from an earlier release is not
// fetched again; a patch that does not lead to the promised file costs the whole file.
func (a Applications) Fetch(ctx context.Context, chosen apps.Release, file, dst string, progress func(percent int)) (err error) {
	found, ok := chosen.Handle.(update.Found)
	if !ok {
		return fmt.Errorf("release %s did not come from this provider", chosen.Version)
	}
	part, err := application(found, file)
	if err != nil {
		return err
	}
	g, done, err := a.getter(found)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, done()) }()
	bases, err := a.imageBases(file)
	if err != nil {
		return err
	}
	if linked, err := link(ctx, part, bases, dst); err != nil || linked {
		return err
	}
	way, err := g.Plan(ctx, part, bases)
	if err != nil {
		return err
	}
	err = a.get(ctx, g, way, dst, progress)
	if parts.Wrong(err) && way.Kind != parts.Whole(part).Kind {
		err = a.get(ctx, g, parts.Whole(part), dst, progress)
	}
	if err != nil {
		return err
	}
	return g.Discard(part)
}

// link gives one of the bases the name dst as well, if it is the part. Most releases of the OS
// bring the same application once more.
func link(ctx context.Context, part release.Part, bases []parts.Base, dst string) (bool, error) {
	for _, base := range bases {
		same, err := base.Is(ctx, part)
		if err != nil {
			return false, fmt.Errorf("comparing %s with that of release %s: %w", part.Name, base.Version, err)
		}
		if !same || base.Path == "" {
			continue
		}
		if err := os.Remove(dst); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return false, fmt.Errorf("making room for %s: %w", part.Name, err)
		}
		if err := os.Link(base.Path, dst); err != nil {
			return false, nil // another file system: it is made as any other
		}
		return true, nil
	}
	return false, nil
}

// unpackedLimit bounds an application of which only the packed size is known, in bytes. An
// image of programs becomes two to four times as large when it is unpacked; gzip could make it
// a thousand times as large.
func unpackedLimit(packed int64) int64 {
	const smallest, largest, growth = 64 << 20, 8 << 30, 20
	return min(max(packed, smallest/growth)*growth, largest)
}

func (a Applications) get(ctx context.Context, g *parts.Getter, way parts.Way, dst string, progress func(int)) (err error) {
	hear := func(done, total int64) {
		if progress != nil {
			progress(int(100 * done / max(total, 1)))
		}
	}
	if err := g.Fetch(ctx, way, hear); err != nil {
		return err
	}
	if way.Part().SHA256 == "" {
		part, err := g.Measure(ctx, way.Part(), unpackedLimit(way.Part().Full.Size))
		if err != nil {
			return err
		}
		way = parts.Whole(part)
	}
	return write(ctx, g, way, dst)
}

// write makes a part as a file.
func write(ctx context.Context, g *parts.Getter, way parts.Way, dst string) (err error) {
	stream, err := g.Open(ctx, way)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stream.Close()) }()
	out, err := os.OpenFile(dst, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("writing %s: %w", dst, err)
	}
	_, err = io.Copy(out, stream)
	return errors.Join(err, out.Sync(), out.Close())
}
