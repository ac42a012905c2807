package updater

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"

	"github.com/holdfast-os/holdfast/api/release"
	"github.com/holdfast-os/holdfast/internal/fetch"
	"github.com/holdfast-os/holdfast/internal/parts"
	node "github.com/holdfast-os/holdfast/internal/release"
	"github.com/holdfast-os/holdfast/internal/update"
)

// Indexed is a release tree as servers of IncusOS have it: one signature over an index, and
// whole files. It has no protection against a server that serves an old index, which is
// why the owner has to ask for it.
type Indexed struct {
	source    *node.Source
	downloads *fetch.Downloader
	arch      string
	running   string
}

// IndexedOptions are what OpenIndexed works with.
type IndexedOptions struct {
	Access
	// UpdateCA is the PEM certificate that must have signed the index.
	UpdateCA []byte
	// Architecture is "x86_64" or "aarch64".
	Architecture string
	// Running is the release that runs.
	Running string
}

// OpenIndexed prepares a source and asks nobody yet. It takes one server.
func OpenIndexed(o IndexedOptions) (*Indexed, error) {
	if len(o.Servers) != 1 {
		return nil, fmt.Errorf("a release tree without trusted metadata is read from one server, %d are given", len(o.Servers))
	}
	downloads, err := o.open(o.Servers, fetch.Limits{})
	if err != nil {
		return nil, err
	}
	source, err := node.NewSource(node.Options{UpdateCA: o.UpdateCA, Downloads: downloads})
	if err != nil {
		downloads.Close()
		return nil, err
	}
	return &Indexed{source: source, downloads: downloads, arch: o.Architecture, running: o.Running}, nil
}

// Close is part of Source.
func (x *Indexed) Close() error { x.downloads.Close(); return nil }

// Downloads is part of Source.
func (x *Indexed) Downloads() parts.Downloads { return x.downloads }

// Changelog is part of update.Releases: the index has none that is for programs.
func (x *Indexed) Changelog(context.Context, update.Found, string) (*release.Changelog, error) {
	return nil, nil
}

// Newest is part of update.Releases. Sizes and sums of the unpacked files are not known
// before they are here: the parts have 0 and "" there.
func (x *Indexed) Newest(ctx context.Context, channel string, _ bool) (update.Found, error) {
	found, err := x.source.Latest(ctx, channel, x.arch, x.running)
	switch {
	case errors.Is(err, node.ErrOlder):
		return update.Found{}, fmt.Errorf("%w: %w", update.ErrOlder, err)
	case errors.Is(err, node.ErrNoUpdate):
		return update.Found{}, fmt.Errorf("%w: %w", update.ErrNoRelease, err)
	case errors.Is(err, node.ErrUntrusted), errors.Is(err, node.ErrIndex):
		return update.Found{}, fmt.Errorf("%w: %w", update.ErrUntrusted, err)
	case err != nil:
		return update.Found{}, fmt.Errorf("%w: %w", update.ErrUnreachable, err)
	}
	manifest := x.manifest(found)
	digest, err := digestOf(manifest)
	return update.Found{Manifest: manifest, Digest: digest}, err
}

// manifest is what an index says, as a manifest.
func (x *Indexed) manifest(found release.Update) release.Manifest {
	m := release.Manifest{Format: release.ManifestFormat, Version: found.Version, Architecture: x.arch, PublishedAt: found.PublishedAt, Severity: found.Severity}
	for _, file := range found.Files {
		name, packed := strings.CutSuffix(path.Base(file.Filename), ".gz")
		if !packed || (file.Architecture != x.arch && file.Architecture != "") {
			continue
		}
		switch file.Type {
		case release.TypeUpdateEFI, release.TypeUpdateUsr, release.TypeUpdateUsrVerity, release.TypeUpdateUsrSignature, release.TypeApplication, release.TypeUpdateSecureBoot:
			m.Parts = append(m.Parts, release.Part{
				Name: name, Component: file.Component, Type: file.Type,
				Full: release.Blob{Path: found.Version + "/" + file.Filename, Size: file.Size, SHA256: file.SHA256},
			})
		}
	}
	return m
}
