package tuf

import (
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/holdfast-os/holdfast/api/release"
)

// Bounds of what a manifest may promise.
const (
	maxFile      = 16 << 30
	maxParts     = 128
	maxDeltas    = 64
	maxDocuments = 1024
	maxPath      = 256
)

// CheckManifest refuses a manifest that could lead outside the tree, promises more than
// 16 GiB for one file, or says two things of one file. Words that it does not know
// (types, components, severities) are left alone: they are a newer publisher's. The
// error wraps ErrManifest.
func CheckManifest(m release.Manifest) error {
	if err := checkManifest(m); err != nil {
		return fmt.Errorf("%w: %w", ErrManifest, err)
	}
	return nil
}

func checkManifest(m release.Manifest) error {
	switch {
	case m.Format != release.ManifestFormat:
		return fmt.Errorf("format %.16q, %q is understood", m.Format, release.ManifestFormat)
	case !versionForm.MatchString(m.Version):
		return fmt.Errorf("version %.32q is not 12 digits", m.Version)
	case !slices.Contains(architectures, m.Architecture):
		return fmt.Errorf("architecture %.32q", m.Architecture)
	case len(m.Parts) == 0 || len(m.Parts) > maxParts:
		return fmt.Errorf("it has %d parts, 1 to %d are accepted", len(m.Parts), maxParts)
	case len(m.Documents) > maxDocuments:
		return fmt.Errorf("it has %d documents, at most %d", len(m.Documents), maxDocuments)
	}
	blobs, names := blobs{}, map[string]bool{}
	for _, part := range m.Parts {
		if names[part.Name] {
			return fmt.Errorf("the part %q stands in it twice", part.Name)
		}
		names[part.Name] = true
		if err := checkPart(part, m.Version, blobs); err != nil {
			return fmt.Errorf("part %.80q: %w", part.Name, err)
		}
	}
	for _, document := range m.Documents {
		if document.From != "" && !versionForm.MatchString(document.From) {
			return fmt.Errorf("document against release %.32q", document.From)
		}
		if err := blobs.check(document.Blob); err != nil {
			return fmt.Errorf("document: %w", err)
		}
	}
	return nil
}

func checkPart(part release.Part, version string, blobs blobs) error {
	if len(part.Name) > maxPath || !nameForm.MatchString(part.Name) {
		return fmt.Errorf("the name is no file name")
	}
	if err := checkSum(part.Size, part.SHA256); err != nil {
		return err
	}
	if err := blobs.check(part.Full); err != nil {
		return err
	}
	if part.Chunks != nil {
		for _, blob := range []release.Blob{part.Chunks.Index, part.Chunks.Pack} {
			if err := blobs.check(blob); err != nil {
				return err
			}
		}
	}
	if len(part.Deltas) > maxDeltas {
		return fmt.Errorf("it has %d deltas, at most %d", len(part.Deltas), maxDeltas)
	}
	seen := map[string]bool{}
	for _, delta := range part.Deltas {
		if !versionForm.MatchString(delta.From) || delta.From >= version || seen[delta.From] {
			return fmt.Errorf("a delta from %.32q: bases are earlier releases, each once", delta.From)
		}
		seen[delta.From] = true
		if err := checkSum(delta.BaseSize, delta.BaseSHA256); err != nil {
			return fmt.Errorf("base of the delta from %s: %w", delta.From, err)
		}
		if err := blobs.check(delta.Patch); err != nil {
			return fmt.Errorf("delta from %s: %w", delta.From, err)
		}
	}
	return nil
}

// blobs are the files of the tree that a manifest names, by their path.
type blobs map[string]release.Blob

func (b blobs) check(blob release.Blob) error {
	parts := strings.Split(blob.Path, "/")
	outside := func(p string) bool { return !nameForm.MatchString(p) }
	if len(blob.Path) > maxPath || !fs.ValidPath(blob.Path) || slices.ContainsFunc(parts, outside) || parts[0]+"/" == folder {
		return fmt.Errorf("path %.80q is not one of the tree's files", blob.Path)
	}
	if err := checkSum(blob.Size, blob.SHA256); err != nil {
		return fmt.Errorf("file %s: %w", blob.Path, err)
	}
	if other, ok := b[blob.Path]; ok && other != blob {
		return fmt.Errorf("file %s has two sizes or sums", blob.Path)
	}
	b[blob.Path] = blob
	return nil
}

func checkSum(size int64, sum string) error {
	if size <= 0 || size > maxFile {
		return fmt.Errorf("%d bytes, 1 to %d are accepted", size, int64(maxFile))
	}
	if !sumForm.MatchString(sum) {
		return fmt.Errorf("the sum is not 64 small hexadecimal digits")
	}
	return nil
}
