package release

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/holdfast-os/holdfast/api/release"
)

// ErrNotNewest means that no channel has the release as its newest.
var ErrNotNewest = errors.New("no channel has this release as its newest")

// Export copies one release of a tree into a folder, a USB stick perhaps, with index and
// metadata as they were signed; version is empty for the newest one of all. A node follows
// the signatures to the newest release of its channel, and so that one alone is of use:
// ErrNotNewest for others. What the folder has already in the same size is not copied again;
// the index comes last.
func Export(ctx context.Context, dir, to, version string) (release.Update, error) {
	index, err := List(dir)
	if err != nil {
		return release.Update{}, fmt.Errorf("exporting: %w", err)
	}
	update, err := exported(index, version)
	if err != nil {
		return release.Update{}, fmt.Errorf("exporting from %s: %w", dir, err)
	}
	for _, name := range []string{update.Version, "tuf", "index.json", "index.sjson"} {
		err := copyTree(ctx, dir, to, name)
		if err = ignoreMissing(err, name == "tuf"); err != nil {
			return release.Update{}, fmt.Errorf("exporting %s: %w", update.Version, err)
		}
	}
	return update, nil
}

func ignoreMissing(err error, may bool) error {
	if may {
		return ignore(err, os.ErrNotExist)
	}
	return err
}

func exported(index release.Index, version string) (release.Update, error) {
	seen := map[string]bool{}
	for _, update := range index.Updates {
		if err := checkUpdate(update); err != nil {
			return release.Update{}, err
		}
		newest := slices.ContainsFunc(update.Channels, func(c string) bool { return !seen[c] })
		for _, channel := range update.Channels {
			seen[channel] = true
		}
		switch {
		case update.Version == version && !newest:
			return release.Update{}, ErrNotNewest
		case update.Version == version, version == "" && newest:
			return update, nil
		}
	}
	return release.Update{}, ErrNoRelease
}

// copyTree copies a file, or a folder with all in it but hidden names. The timestamp of the
// metadata, by which alone a node sees the rest, is the last of its folder.
func copyTree(ctx context.Context, from, to, name string) error {
	var names []string
	err := filepath.WalkDir(filepath.Join(from, name), func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case strings.HasPrefix(entry.Name(), ".") && entry.IsDir():
			return fs.SkipDir
		case entry.Type().IsRegular() && !strings.HasPrefix(entry.Name(), "."):
			names = append(names, path)
		}
		return nil
	})
	if err != nil {
		return err
	}
	last := func(path string) bool { return filepath.Base(path) == "timestamp.json" }
	slices.SortStableFunc(names, func(a, b string) int {
		switch {
		case last(a) == last(b):
			return 0
		case last(a):
			return 1
		}
		return -1
	})
	for _, path := range names {
		relative, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		if err := copyFile(ctx, path, filepath.Join(to, relative)); err != nil {
			return err
		}
	}
	return nil
}

func copyFile(ctx context.Context, from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return err
	}
	// Only packed files never change; documents are small.
	if have, err := os.Stat(to); err == nil && have.Size() == info.Size() && filepath.Ext(to) == ".gz" {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	if err := writePart(to, func(w io.Writer) error {
		_, err := io.Copy(w, &contextReader{ctx, in})
		return err
	}); err != nil {
		return err
	}
	// A FAT stick has no modes, and needs none.
	return ignore(os.Chmod(to, 0o644), fs.ErrPermission)
}
