package main

import (
	"cmp"
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
	"github.com/holdfast-os/holdfast/internal/release"
)

// Sizes of the full downloads of IncusOS, in bytes, as its releases of July 2025 had
// them (gzip).
const (
	incusosPayload     = 477_000_000
	incusosApplication = 235_000_000
)

// sizeRows are the sizes of the release that was built last.
func sizeRows(root string) ([]row, error) {
	version, err := release.BuildVersion(filepath.Join(root, ".build", "out"))
	if err != nil {
		return nil, err
	}
	raw, err := os.ReadFile(filepath.Join(root, ".build", "release", version, "update.json"))
	if err != nil {
		return nil, fmt.Errorf("reading the release: %w", err)
	}
	var update api.Update
	if err := json.Unmarshal(raw, &update); err != nil {
		return nil, fmt.Errorf("reading the release %s: %w", version, err)
	}
	parts, err := biggest(filepath.Join(root, ".build", "image", "mkosi.output", "base", "usr"))
	if err != nil {
		return nil, err
	}
	return payloadRows(update, parts), nil
}

func payloadRows(update api.Update, parts string) []row {
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
	how := "gzip, release " + update.Version
	return []row{
		{
			What: "OS payload, compressed, with firmware", Value: megabytes(payload), Target: "280 MB",
			Against: "IncusOS, " + megabytes(incusosPayload), Ratio: ratio(float64(payload), incusosPayload),
			How: how + ": " + strings.Join(files, ", ") + ". " + parts,
		},
		{
			What: "application incus, compressed", Value: megabytes(application), Target: "160 MB",
			Against: "IncusOS, " + megabytes(incusosApplication), Ratio: ratio(float64(application), incusosApplication),
			How: how,
		},
	}
}

// biggestCount is how many of the largest folders are named.
const biggestCount = 6

// biggest names the largest folders of a /usr, two levels deep, before compression.
func biggest(usr string) (string, error) {
	sizes := map[string]int64{}
	err := filepath.WalkDir(usr, func(name string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(usr, name)
		if err != nil {
			return err
		}
		sizes[folder(relative)] += info.Size()
		return nil
	})
	if errors.Is(err, fs.ErrNotExist) {
		return "What takes the room was not measured: the folder of the image is not there.", nil
	}
	if err != nil {
		return "", fmt.Errorf("measuring the folders of %s: %w", usr, err)
	}
	return "Most room before compression: " + largest(sizes) + ".", nil
}

// folder is the part of a path that its size is counted for.
func folder(relative string) string {
	parts := strings.SplitN(filepath.ToSlash(relative), "/", 3)
	return path.Join(parts[:max(1, min(2, len(parts)-1))]...)
}

func largest(sizes map[string]int64) string {
	var names []string
	for name := range sizes {
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b string) int {
		return cmp.Or(cmp.Compare(sizes[b], sizes[a]), cmp.Compare(a, b))
	})
	for i, name := range names[:min(len(names), biggestCount)] {
		names[i] = "/usr/" + name + " " + megabytes(sizes[name])
	}
	return strings.Join(names[:min(len(names), biggestCount)], ", ")
}
