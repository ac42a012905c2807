package customizer

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	api "github.com/holdfast-os/holdfast/api/release"
	"github.com/holdfast-os/holdfast/internal/media"
)

// maxIndex bounds the index of a tree, in bytes.
const maxIndex = 64 << 20

// tree reads a release tree that others write.
type tree struct {
	dir  string
	root *os.Root

	mu   sync.Mutex
	last fs.FileInfo
	have api.Index
}

func openTree(dir string) (*tree, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("opening the release tree: %w", err)
	}
	return &tree{dir: dir, root: root}, nil
}

func (t *tree) close() error { return t.root.Close() }

// index is the tree's, read again when the file is another one. A publisher replaces it.
func (t *tree) index() (api.Index, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	info, err := t.root.Stat("index.json")
	if err != nil {
		return api.Index{}, fmt.Errorf("reading the index of the release tree: %w", err)
	}
	if t.last != nil && os.SameFile(t.last, info) && t.last.ModTime().Equal(info.ModTime()) && t.last.Size() == info.Size() {
		return t.have, nil
	}
	text, err := t.read("index.json", maxIndex)
	if err != nil {
		return api.Index{}, fmt.Errorf("reading the index of the release tree: %w", err)
	}
	var index api.Index
	if err := json.Unmarshal(text, &index); err != nil {
		return api.Index{}, fmt.Errorf("reading the index of the release tree: %w", err)
	}
	if index.Format != api.Format {
		return api.Index{}, fmt.Errorf("reading the index of the release tree: format %q, %s is known", index.Format, api.Format)
	}
	slices.SortStableFunc(index.Updates, func(a, b api.Update) int { return cmp.Compare(b.Version, a.Version) })
	t.last, t.have = info, index
	return index, nil
}

// read reads a file of the tree. No link leads out of it.
func (t *tree) read(name string, limit int64) ([]byte, error) {
	f, err := t.root.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(text)) > limit {
		return nil, fmt.Errorf("%s is longer than %d bytes", name, limit)
	}
	return text, nil
}

// path is where a file of a release lies, once it is sure that it does.
func (t *tree) path(version, filename string) (string, error) {
	name := path.Join(version, filename)
	if !media.IsWord(version) || version == "" || !filepath.IsLocal(filename) {
		return "", fmt.Errorf("looking for %q of the release %q: these are no names of files", filename, version)
	}
	info, err := t.root.Stat(name)
	if err != nil {
		return "", fmt.Errorf("looking for a file of the release: %w", err)
	}
	if !info.Mode().IsRegular() {
		return "", fmt.Errorf("looking for %s of the release: it is not a file", name)
	}
	return filepath.Join(t.dir, name), nil
}

// published is an image of a release.
type published struct {
	version string
	file    api.File
	// madeCD is set when the file is a disk image, and a CD is made of it while it is sent.
	madeCD bool
}

// name is the unpacked image's, as "Holdfast_202611220104.iso".
func (p published) name() string {
	name := strings.TrimSuffix(path.Base(p.file.Filename), ".gz")
	if p.madeCD {
		name = strings.TrimSuffix(name, path.Ext(name)) + ".iso"
	}
	return name
}

// errNoRelease is a choice that the tree does not have.
var errNoRelease = errors.New("there is no such release")

// find gives the release and the image of a choice: the exact version, or the highest of the
// channel that has this kind of image. A CD can be made of a disk image.
func find(index api.Index, c Choice) (published, error) {
	for _, u := range index.Updates {
		if c.Version != "" && u.Version != c.Version || c.Version == "" && !slices.Contains(u.Channels, c.Channel) {
			continue
		}
		if f, ok := imageOf(u, c.Architecture, imageType(c.Type)); ok {
			return published{u.Version, f, false}, nil
		}
		if f, ok := imageOf(u, c.Architecture, api.TypeImageRaw); ok {
			return published{u.Version, f, true}, nil
		}
	}
	if c.Version != "" {
		return published{}, fmt.Errorf("%w: version %s has no %s image for %s", errNoRelease, c.Version, c.Type, c.Architecture)
	}
	return published{}, fmt.Errorf("%w: channel %s has no %s image for %s", errNoRelease, c.Channel, c.Type, c.Architecture)
}

// imageOf is the image of a type in a release.
func imageOf(u api.Update, architecture string, kind api.Type) (api.File, bool) {
	i := slices.IndexFunc(u.Files, func(f api.File) bool {
		return f.Architecture == architecture && f.Type == kind && path.Ext(f.Filename) == ".gz"
	})
	if i < 0 {
		return api.File{}, false
	}
	return u.Files[i], true
}

func imageType(kind string) api.Type {
	if kind == TypeISO {
		return api.TypeImageISO
	}
	return api.TypeImageRaw
}

// newest are the files of the images that people will ask for, the newest release first.
func newest(index api.Index) (all []published) {
	for _, channel := range channels(index) {
		for _, architecture := range media.Architectures {
			for _, kind := range []string{TypeRaw, TypeISO} {
				one, err := find(index, Choice{Architecture: architecture, Type: kind, Channel: channel})
				if err == nil && !one.madeCD && !slices.Contains(all, one) {
					all = append(all, one)
				}
			}
		}
	}
	return all
}

func channels(index api.Index) (all []string) {
	for _, u := range index.Updates {
		all = append(all, u.Channels...)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// sums are those of all images of the tree.
func sums(index api.Index) (all []string) {
	for _, u := range index.Updates {
		for _, f := range u.Files {
			if f.Type == api.TypeImageRaw || f.Type == api.TypeImageISO {
				all = append(all, f.SHA256)
			}
		}
	}
	return all
}
