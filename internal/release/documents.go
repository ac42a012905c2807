package release

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/holdfast-os/holdfast/api/release"
	"github.com/holdfast-os/holdfast/internal/packages"
)

const (
	manifestName = "manifest.json"
	// maxDocument bounds a document of a tree or a build, unpacked, in bytes.
	maxDocument = 64 << 20

	packagesSuffix = ".packages.json.gz"
	spdxSuffix     = ".spdx.json.gz"
)

// Metadata is what a node trusts about a tree: which manifests a channel has.
type Metadata interface {
	// Publish says that the channel has these manifests, those of every architecture,
	// newest release first. Saying it again changes nothing.
	Publish(ctx context.Context, channel string, manifests ...release.Manifest) error
	// Withdraw takes a release out of a channel, in every architecture. One that is not
	// in it, or a channel that is not known, is no error.
	Withdraw(ctx context.Context, channel, version string) error
}

// describer writes what there is to know about one architecture of a release.
type describer struct {
	tree *tree
	// stage is where new files wait; they lie in its folder arch.
	stage string
	arch  string
	// staged are the files of the build; nil when there is none.
	staged []staged
	extras Extras
	bases  int
	// leaves is a channel that the release is taken out of, with its changelog; default none.
	leaves string
}

// describe makes the manifest of a release and the documents that it lacks, in the stage,
// and gives the release with the changelogs among its files. What the tree has already
// stays as it is.
func (d describer) describe(ctx context.Context, update release.Update, lists []release.PackageList) (release.Update, error) {
	old, err := d.tree.readManifest(update.Version, d.arch)
	isNew := errors.Is(err, os.ErrNotExist)
	if err != nil && !isNew {
		return update, err
	}
	m := release.Manifest{
		Format: release.ManifestFormat, Version: update.Version, Architecture: d.arch,
		PublishedAt: update.PublishedAt, Severity: update.Severity, Documents: slices.Clone(old.Documents),
	}
	if d.leaves != "" {
		gone := update.Version + "/" + changelogFile(d.arch, d.leaves)
		m.Documents = slices.DeleteFunc(m.Documents, func(d release.Document) bool { return d.Blob.Path == gone })
	}
	if m.Parts, err = d.parts(ctx, update, old.Parts); err != nil {
		return update, err
	}
	if err := same(old.Parts, m.Parts); err != nil && !isNew {
		return update, err
	}
	if err := d.addExtras(ctx, m); err != nil {
		return update, err
	}
	if err := d.addLists(&m, lists); err != nil {
		return update, err
	}
	if err := d.addChangelogs(&m, &update); err != nil {
		return update, err
	}
	sortDocuments(m.Documents)
	text, err := manifestText(m)
	if err != nil {
		return update, err
	}
	before, err := readFileAtMost(d.tree.path(update.Version, d.arch, manifestName), maxDocument)
	if ignore(err, os.ErrNotExist) != nil {
		return update, fmt.Errorf("reading the manifest: %w", err)
	}
	if bytes.Equal(before, text) {
		return update, nil
	}
	return update, d.write(manifestName, text)
}

func manifestText(m release.Manifest) ([]byte, error) {
	text, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encoding the manifest of %s: %w", m.Version, err)
	}
	return append(text, '\n'), nil
}

func sortDocuments(all []release.Document) {
	slices.SortFunc(all, func(a, b release.Document) int { return cmp.Compare(a.Blob.Path, b.Blob.Path) })
}

// write puts a file into the stage.
func (d describer) write(name string, data []byte) error {
	if err := os.Mkdir(filepath.Join(d.stage, d.arch), 0o755); ignore(err, os.ErrExist) != nil {
		return fmt.Errorf("making a place for %s: %w", name, err)
	}
	return replaceFile(filepath.Join(d.stage, d.arch, name), data)
}

// addBlob puts a document into the stage, packed.
func (d describer) addBlob(version, name string, text []byte) (release.Blob, error) {
	var out bytes.Buffer
	w, err := gzip.NewWriterLevel(&out, gzip.BestCompression)
	if err == nil {
		_, err = w.Write(text)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		return release.Blob{}, fmt.Errorf("compressing %s: %w", name, err)
	}
	sum := sha256.Sum256(out.Bytes())
	blob := release.Blob{Path: strings.Join([]string{version, d.arch, name}, "/"), Size: int64(out.Len()), SHA256: hex.EncodeToString(sum[:])}
	return blob, d.write(name, out.Bytes())
}

// addLists brings in the package lists of a build, each with its bill of materials.
func (d describer) addLists(m *release.Manifest, lists []release.PackageList) error {
	for _, list := range lists {
		text, err := json.Marshal(list)
		if err != nil {
			return fmt.Errorf("encoding the packages of %s: %w", list.Component, err)
		}
		text = append(text, '\n')
		if old, ok := find(m.Documents, release.DocumentPackages, list.Component); ok {
			before, err := d.tree.readBlob(old.Blob)
			if err != nil {
				return err
			}
			if !bytes.Equal(before, text) {
				return fmt.Errorf("%w: build a new version (the packages of %s differ)", ErrPublished, list.Component)
			}
			continue
		}
		blob, err := d.addBlob(m.Version, string(list.Component)+packagesSuffix, text)
		if err != nil {
			return err
		}
		spdx, err := packages.SPDX(*m, list)
		if err != nil {
			return err
		}
		bill, err := d.addBlob(m.Version, string(list.Component)+spdxSuffix, spdx)
		if err != nil {
			return err
		}
		m.Documents = append(m.Documents,
			release.Document{Kind: release.DocumentPackages, Component: list.Component, Blob: blob},
			release.Document{Kind: release.DocumentSBOM, Component: list.Component, Blob: bill})
	}
	return nil
}

func find(all []release.Document, kind release.DocumentKind, component release.Component) (release.Document, bool) {
	i := slices.IndexFunc(all, func(d release.Document) bool { return d.Kind == kind && d.Component == component })
	if i < 0 {
		return release.Document{}, false
	}
	return all[i], true
}

// changelogFile is the name of a channel's changelog, as foreign clients know it.
func changelogFile(arch, channel string) string { return arch + "/changelog-" + channel + ".yaml.gz" }

// addChangelogs compares the release with the one before it in each of its channels. There
// is no changelog for the first of a channel, nor where one of the two has no list of its
// packages: everything would look new.
func (d describer) addChangelogs(m *release.Manifest, update *release.Update) error {
	now, err := d.lists(*m)
	if err != nil || len(now) == 0 {
		return err
	}
	all, err := d.tree.updates()
	if err != nil {
		return err
	}
	for _, channel := range update.Channels {
		name := changelogFile(d.arch, channel)
		if slices.ContainsFunc(update.Files, func(f release.File) bool { return f.Filename == name }) {
			continue
		}
		prior, before, err := d.prior(all, update.Version, channel)
		if err != nil {
			return err
		}
		if len(before) == 0 {
			continue
		}
		log := packages.Compare(before, now)
		log.CurrentVersion, log.PriorVersion, log.Channel = update.Version, prior, channel
		text, err := yaml.Marshal(log)
		if err != nil {
			return fmt.Errorf("encoding the changelog of %s: %w", channel, err)
		}
		blob, err := d.addBlob(m.Version, filepath.Base(name), text)
		if err != nil {
			return err
		}
		m.Documents = append(m.Documents, release.Document{Kind: release.DocumentChangelog, From: prior, Blob: blob})
		update.Files = append(update.Files, release.File{
			Architecture: d.arch, Component: release.ComponentOS, Filename: name,
			SHA256: blob.SHA256, Size: blob.Size, Type: release.TypeChangelog,
		})
	}
	slices.SortFunc(update.Files, func(a, b release.File) int { return cmp.Compare(a.Filename, b.Filename) })
	return nil
}

// prior is the release before version in a channel, with its package lists.
func (d describer) prior(all []release.Update, version, channel string) (string, []release.PackageList, error) {
	for _, u := range all {
		if u.Version >= version || !slices.Contains(u.Channels, channel) || !hasSystem(u, d.arch) {
			continue
		}
		m, err := d.tree.readManifest(u.Version, d.arch)
		if err != nil {
			return u.Version, nil, ignore(err, os.ErrNotExist)
		}
		lists, err := d.tree.lists(m)
		return u.Version, lists, err
	}
	return "", nil, nil
}

// lists are the package lists of the release in hand: those in the stage and those in the
// tree.
func (d describer) lists(m release.Manifest) ([]release.PackageList, error) {
	staged := *d.tree
	staged.read = func(path string) ([]byte, error) {
		inStage := filepath.Join(d.stage, strings.TrimPrefix(path, m.Version+"/"))
		data, err := readFileAtMost(inStage, maxDocument)
		if errors.Is(err, os.ErrNotExist) {
			return readFileAtMost(d.tree.path(path), maxDocument)
		}
		return data, err
	}
	return staged.lists(m)
}

// path is that of a file in the tree.
func (t *tree) path(parts ...string) string {
	return filepath.Join(append([]string{t.dir}, parts...)...)
}

// lists are the package lists that a manifest names.
func (t *tree) lists(m release.Manifest) ([]release.PackageList, error) {
	var lists []release.PackageList
	for _, document := range m.Documents {
		if document.Kind != release.DocumentPackages {
			continue
		}
		text, err := t.readBlob(document.Blob)
		if err != nil {
			return nil, err
		}
		list, err := parseList(text)
		if err != nil {
			return nil, fmt.Errorf("reading %s: %w", document.Blob.Path, err)
		}
		lists = append(lists, list)
	}
	return lists, nil
}

func parseList(text []byte) (release.PackageList, error) {
	var list release.PackageList
	if err := json.Unmarshal(text, &list); err != nil {
		return release.PackageList{}, err
	}
	return list, packages.Check(list)
}

// readBlob reads a packed document of the tree, if it is what its manifest says.
func (t *tree) readBlob(b release.Blob) ([]byte, error) {
	read := t.read
	if read == nil {
		read = func(path string) ([]byte, error) { return readFileAtMost(t.path(path), maxDocument) }
	}
	data, err := read(b.Path)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", b.Path, err)
	}
	if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) != b.SHA256 {
		return nil, fmt.Errorf("reading %s: %w: its sum is another (holdfast release verify tells more)", b.Path, ErrMismatch)
	}
	r, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("unpacking %s: %w", b.Path, err)
	}
	text, err := readAtMost(r, maxDocument)
	if err != nil {
		return nil, fmt.Errorf("unpacking %s: %w", b.Path, err)
	}
	return text, nil
}

// packageLists reads the files packages-<component>.json of a build; none is no error.
func packageLists(dir string) ([]release.PackageList, error) {
	names, err := filepath.Glob(filepath.Join(dir, "packages-*.json"))
	if err != nil {
		return nil, fmt.Errorf("reading the build: %w", err)
	}
	slices.Sort(names)
	var lists []release.PackageList
	for _, name := range names {
		text, err := readFileAtMost(name, maxDocument)
		if err != nil {
			return nil, fmt.Errorf("reading the build: %w", err)
		}
		list, err := parseList(text)
		if err == nil && filepath.Base(name) != "packages-"+string(list.Component)+".json" {
			err = fmt.Errorf("it is about %q", list.Component)
		}
		if err == nil && !applicationForm.MatchString(string(list.Component)) {
			err = fmt.Errorf("component %q", list.Component)
		}
		if err != nil {
			return nil, fmt.Errorf("reading %s: %w", name, err)
		}
		lists = append(lists, list)
	}
	return lists, nil
}

func readFileAtMost(name string, limit int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readAtMost(io.Reader(f), limit)
}
