package updater

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/holdfast-os/holdfast/api/release"
	"github.com/holdfast-os/holdfast/internal/fetch"
	"github.com/holdfast-os/holdfast/internal/secureboot"
	"github.com/holdfast-os/holdfast/internal/update"
)

// KeyPart gives the part of a release that has keys for the firmware; false when it brings
// none. A release with two is an error.
func KeyPart(m release.Manifest) (part release.Part, there bool, err error) {
	for _, p := range m.Parts {
		if p.Type != release.TypeUpdateSecureBoot {
			continue
		}
		if there {
			return release.Part{}, false, fmt.Errorf("release %s has two archives of Secure Boot keys", m.Version)
		}
		part, there = p, true
	}
	return part, there, nil
}

// KeyArchive fetches a part with keys, as it is packed; its sum is checked.
func (s *System) KeyArchive(ctx context.Context, found update.Found, part release.Part) (archive []byte, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("fetching the Secure Boot keys of %s: %w", found.Manifest.Version, err)
		}
	}()
	if part.Full.Size > secureboot.MaxArchive {
		return nil, fmt.Errorf("the archive has %d bytes, at most %d are read", part.Full.Size, secureboot.MaxArchive)
	}
	source, err := s.Source()
	if err != nil {
		return nil, err
	}
	g, done, err := s.getter(found)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, done()) }()
	const name = "secureboot-keys"
	dir := fetch.Folder(g.Dir)
	if err := source.Downloads().File(ctx, part.Full, dir, name, nil); err != nil {
		return nil, err
	}
	file, err := g.Dir.Open(name)
	if err != nil {
		return nil, err
	}
	archive, err = io.ReadAll(io.LimitReader(file, secureboot.MaxArchive+1))
	return archive, errors.Join(err, file.Close(), dir.Remove(name))
}
