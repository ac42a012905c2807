package release

import (
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

	"github.com/holdfast-os/holdfast/api/release"
)

// runs tells whether a node takes files of the type: they are the parts of a manifest.
func runs(kind release.Type) bool {
	switch kind {
	case release.TypeUpdateEFI, release.TypeUpdateUsr, release.TypeUpdateUsrVerity, release.TypeUpdateUsrSignature, release.TypeApplication, release.TypeUpdateSecureBoot:
		return true
	}
	return false
}

// readManifest reads the manifest of a release; os.ErrNotExist when it has none, as
// releases of earlier publishers.
func (t *tree) readManifest(version, arch string) (release.Manifest, error) {
	name := t.path(version, arch, manifestName)
	text, err := readFileAtMost(name, maxDocument)
	if err != nil {
		return release.Manifest{}, fmt.Errorf("reading the manifest: %w", err)
	}
	var m release.Manifest
	if err := json.Unmarshal(text, &m); err != nil {
		return release.Manifest{}, fmt.Errorf("reading %s: %w", name, err)
	}
	if m.Format != release.ManifestFormat || m.Version != version || m.Architecture != arch {
		return release.Manifest{}, fmt.Errorf("reading %s: it is of format %q and describes %q for %q", name, m.Format, m.Version, m.Architecture)
	}
	for _, b := range Blobs(m) {
		if err := checkBlob(b, version, arch); err != nil {
			return release.Manifest{}, fmt.Errorf("reading %s: %w", name, err)
		}
	}
	return m, nil
}

// Blobs are all files of the tree that a manifest names.
func Blobs(m release.Manifest) []release.Blob {
	var all []release.Blob
	for _, p := range m.Parts {
		all = append(all, p.Full)
		if p.Chunks != nil {
			all = append(all, p.Chunks.Index, p.Chunks.Pack)
		}
		for _, delta := range p.Deltas {
			all = append(all, delta.Patch)
		}
	}
	for _, d := range m.Documents {
		all = append(all, d.Blob)
	}
	return all
}

func checkBlob(b release.Blob, version, arch string) error {
	name, ok := strings.CutPrefix(b.Path, version+"/"+arch+"/")
	if keys := keysName(version); b.Path == version+"/"+keys {
		name, ok = keys, true
	}
	if !ok || !nameForm.MatchString(name) {
		return fmt.Errorf("%w: the file %q is not of %s for %s", ErrIndex, b.Path, version, arch)
	}
	if !sumForm.MatchString(b.SHA256) || b.Size <= 0 || b.Size > maxFile {
		return fmt.Errorf("%w: the file %s has %d bytes and the sum %q", ErrIndex, b.Path, b.Size, b.SHA256)
	}
	return nil
}

// parts are the files that a node runs, ordered by name. What the old manifest knows is
// taken over; for files of the build their sums are known; others are unpacked once.
func (d describer) parts(ctx context.Context, update release.Update, old []release.Part) ([]release.Part, error) {
	out := []release.Part{}
	for _, f := range update.Files {
		if f.Architecture != d.arch && f.Architecture != "" || !runs(f.Type) {
			continue
		}
		part := release.Part{
			Name: strings.TrimSuffix(filepath.Base(f.Filename), ".gz"), Component: f.Component, Type: f.Type,
			Full: release.Blob{Path: update.Version + "/" + f.Filename, Size: f.Size, SHA256: f.SHA256},
		}
		known := slices.IndexFunc(old, func(p release.Part) bool { return p.Full == part.Full })
		built := slices.IndexFunc(d.staged, func(s staged) bool { return s.file == f })
		switch {
		case known >= 0:
			part = old[known]
		case built >= 0:
			part.Size, part.SHA256 = d.staged[built].plain.plainSize, d.staged[built].plain.plainSum
		default:
			var err error
			if part.Size, part.SHA256, err = d.tree.unpackedSum(ctx, part.Full); err != nil {
				return nil, err
			}
		}
		out = append(out, part)
	}
	slices.SortFunc(out, func(a, b release.Part) int { return cmp.Compare(a.Name, b.Name) })
	return out, nil
}

// unpackedSum unpacks a file of the tree, to see what comes out.
func (t *tree) unpackedSum(ctx context.Context, b release.Blob) (size int64, sum string, err error) {
	digest := sha256.New()
	size, err = unpackTo(ctx, t.path(b.Path), digest)
	if err != nil {
		return 0, "", fmt.Errorf("unpacking %s: %w", b.Path, err)
	}
	return size, hex.EncodeToString(digest.Sum(nil)), nil
}

// unpackTo writes what is packed in a file, and at most maxFile bytes of it.
func unpackTo(ctx context.Context, name string, w io.Writer) (int64, error) {
	f, err := os.Open(name)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	r, err := gzip.NewReader(&contextReader{ctx, f})
	if err != nil {
		return 0, err
	}
	size, err := io.Copy(w, io.LimitReader(r, maxFile+1))
	if err == nil && size > maxFile {
		err = fmt.Errorf("%w: more than %d bytes", ErrLimit, int64(maxFile))
	}
	return size, err
}

// publishMetadata tells each channel's manifests. A release without a manifest for an
// architecture is of an earlier publisher, and only in the index.
func (t *tree) publishMetadata(ctx context.Context, updates []release.Update) error {
	if t.metadata == nil {
		return nil
	}
	channels := map[string][]release.Manifest{}
	for _, update := range updates {
		for _, arch := range archesOf(update) {
			m, err := t.readManifest(update.Version, arch)
			if errors.Is(err, os.ErrNotExist) {
				continue
			}
			if err != nil {
				return err
			}
			for _, channel := range update.Channels {
				channels[channel] = append(channels[channel], m)
			}
		}
	}
	for _, channel := range sortedChannels(channels) {
		if err := t.step("metadata of " + channel); err != nil {
			return err
		}
		if err := t.metadata.Publish(ctx, channel, channels[channel]...); err != nil {
			return fmt.Errorf("publishing the metadata of the channel %s: %w", channel, err)
		}
	}
	return nil
}

func sortedChannels[T any](channels map[string]T) []string {
	names := make([]string, 0, len(channels))
	for name := range channels {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// archesOf are the architectures that a release has a system for.
func archesOf(update release.Update) []string {
	var out []string
	for _, arch := range architectures {
		if hasSystem(update, arch) {
			out = append(out, arch)
		}
	}
	return out
}
