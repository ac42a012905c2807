package release

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/holdfast-os/holdfast/api/release"
)

// share gives a file of a build the packed file that an earlier release has for the same
// name and content: most releases change the system and leave the applications alone.
func (t *tree) share(ctx context.Context, arch string, a artifact, target string) (p packed, shared bool, err error) {
	candidates, err := t.named(arch, a.name)
	if err != nil || len(candidates) == 0 {
		return packed{}, false, err
	}
	in, length, err := openPlain(a.source, a.trim)
	if err != nil {
		return packed{}, false, err
	}
	defer func() { err = errors.Join(err, in.Close()) }()
	digest := sha256.New()
	if _, err := io.Copy(digest, &contextReader{ctx, io.NewSectionReader(in, 0, length)}); err != nil {
		return packed{}, false, fmt.Errorf("reading %s: %w", a.source, err)
	}
	sum := hex.EncodeToString(digest.Sum(nil))
	for _, c := range candidates {
		if c.Size == length && c.SHA256 == sum && os.Link(t.path(c.Full.Path), target) == nil {
			return packed{c.Full.Size, c.Full.SHA256, length, sum}, true, nil
		}
	}
	return packed{}, false, nil
}

// shareChunks is share for the pieces of a part.
func (t *tree) shareChunks(arch string, part release.Part, index, pack string) (bool, error) {
	candidates, err := t.named(arch, part.Name)
	if err != nil {
		return false, err
	}
	for _, c := range candidates {
		if c.SHA256 != part.SHA256 || c.Chunks == nil || os.Link(t.path(c.Chunks.Index.Path), index) != nil {
			continue
		}
		if os.Link(t.path(c.Chunks.Pack.Path), pack) == nil {
			return true, nil
		}
		if err := os.Remove(index); err != nil {
			return false, fmt.Errorf("clearing the place for chunks: %w", err)
		}
	}
	return false, nil
}

// named are the parts of that name in all releases of the tree.
func (t *tree) named(arch, name string) ([]release.Part, error) {
	all, err := t.updates()
	if err != nil {
		return nil, err
	}
	var found []release.Part
	for _, u := range all {
		m, err := t.readManifest(u.Version, arch)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, p := range m.Parts {
			if p.Name == name {
				found = append(found, p)
			}
		}
	}
	return found, nil
}
