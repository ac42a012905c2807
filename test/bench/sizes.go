package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	api "github.com/holdfast-os/holdfast/api/release"
)

// Sizes of the full downloads of IncusOS, in bytes, as its releases of July 2025 had
// them (gzip).
const (
	incusosPayload     = 477_000_000
	incusosApplication = 235_000_000
)

func sizes() []measurement {
	return []measurement{{
		Name: "sizes", Take: takeSizes,
		Rows: []metric{
			{ID: "size-payload", What: "OS payload, compressed, with firmware", Unit: inBytes, Limit: 280e6, Against: "IncusOS"},
			{ID: "size-incus", What: "application incus, compressed", Unit: inBytes, Limit: 160e6, Against: "IncusOS"},
		},
	}}
}

// takeSizes looks at the release that was built last.
func takeSizes(ctx context.Context, b *bench) ([]record, error) {
	raw, err := os.ReadFile(filepath.Join(b.root, ".build", "release", b.version, "update.json"))
	if err != nil {
		return nil, fmt.Errorf("reading the release: %w", err)
	}
	var update api.Update
	if err := json.Unmarshal(raw, &update); err != nil {
		return nil, fmt.Errorf("reading the release %s: %w", b.version, err)
	}
	room, err := b.room(ctx)
	if err != nil {
		return nil, err
	}
	return sizeRecords(update, room), nil
}

// sizeRecords counts what a node downloads: not the medium, and not the application
// into the system.
func sizeRecords(update api.Update, room string) []record {
	var payload, application int64
	var files []string
	for _, f := range update.Files {
		switch f.Type {
		case api.TypeUpdateEFI, api.TypeUpdateUsr, api.TypeUpdateUsrVerity, api.TypeUpdateUsrSignature:
			payload += f.Size
			files = append(files, fmt.Sprintf("%s %s", f.Type, megabytes(f.Size)))
		case api.TypeApplication:
			if f.Component == api.ComponentIncus {
				application = f.Size
			}
		}
	}
	return []record{
		{ID: "size-payload", Value: float64(payload), Other: incusosPayload,
			How: "gzip: " + strings.Join(files, ", ") + ". Most room in /usr, before compression: " + room + "."},
		{ID: "size-incus", Value: float64(application), Other: incusosApplication, How: "gzip, as it is published."},
	}
}

// room names the largest folders of the image's /usr as it is shipped: what is in its
// file system, after everything that the build removes.
func (b *bench) room(ctx context.Context) (largestFolders string, err error) {
	images, err := filepath.Glob(filepath.Join(b.build(), "*_"+b.version+".usr-x86-64.*.raw"))
	if err != nil || len(images) != 1 {
		return "", fmt.Errorf("looking for the image of /usr in %s: %d found, want 1", b.build(), len(images))
	}
	folder, err := os.MkdirTemp("", "holdfast-bench-")
	if err != nil {
		return "", fmt.Errorf("making a folder for the content of /usr: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(folder)) }()
	usr := filepath.Join(folder, "usr")
	if _, err := b.runner(ctx, b.tools.Command("fsck.erofs", "--extract="+usr, images[0])); err != nil {
		return "", fmt.Errorf("reading the image of /usr: %w", err)
	}
	sizes, err := folderSizes(usr)
	if err != nil {
		return "", err
	}
	return largest(sizes), nil
}

// folderSizes adds up the files of a folder, two levels deep.
func folderSizes(root string) (map[string]int64, error) {
	sizes := map[string]int64{}
	err := filepath.WalkDir(root, func(name string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(root, name)
		if err != nil {
			return err
		}
		sizes[folder(relative)] += info.Size()
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("measuring the folders of %s: %w", root, err)
	}
	return sizes, nil
}

// folder is the part of a path that its size is counted for.
func folder(relative string) string {
	parts := strings.SplitN(filepath.ToSlash(relative), "/", 3)
	return path.Join(parts[:max(1, min(2, len(parts)-1))]...)
}

// foldersNamed is how many of the largest folders are named.
const foldersNamed = 6

func largest(sizes map[string]int64) string {
	var names []string
	for name := range sizes {
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b string) int {
		return cmp.Or(cmp.Compare(sizes[b], sizes[a]), cmp.Compare(a, b))
	})
	names = names[:min(len(names), foldersNamed)]
	for i, name := range names {
		names[i] = "/usr/" + name + " " + megabytes(sizes[name])
	}
	return strings.Join(names, ", ")
}
