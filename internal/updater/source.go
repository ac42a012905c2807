// Package updater is the update agent (internal/update) on a real machine: where releases
// come from, and the hands that bring one into the other slot.
//
// Parties: a Source reads a release tree, either by its trusted metadata (Trusted) or, when
// the owner says so, by the signed index alone that servers of IncusOS have (Indexed);
// Stager fetches parts and has systemd-sysupdate write them; Slots is systemd-boot's view.
//
// What always holds: nothing is written to a slot before every part is on this node; a
// part that was made out of a patch is compared with the promised sum by the feed and once
// more by systemd-pull; the boot entry is made last, by a run of systemd-sysupdate of its
// own.
package updater

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"go.yaml.in/yaml/v4"

	"github.com/holdfast-os/holdfast/api/release"
	"github.com/holdfast-os/holdfast/internal/fetch"
	"github.com/holdfast-os/holdfast/internal/parts"
	"github.com/holdfast-os/holdfast/internal/tuf"
	"github.com/holdfast-os/holdfast/internal/update"
)

// Source is a release tree.
type Source interface {
	update.Releases
	// Downloads reaches the files of the tree.
	Downloads() parts.Downloads
	// Close ends its use.
	Close() error
}

// Access is how a release tree is reached.
type Access struct {
	// Servers are base URLs of the same tree, best first.
	Servers []string
	// UserAgent is sent along, as "Holdfast/202611220104".
	UserAgent string
	// Authorize adds to each request who the node is; nil for a server that does not ask. Its
	// errors hold no secret; it is safe for several goroutines.
	Authorize func(*http.Request) error
	// Proxy and Roots are asked for at each connection; nil is the environment's.
	Proxy func(*http.Request) (*url.URL, error)
	Roots func() (*x509.CertPool, error)
	// BandwidthLimit is in bytes a second; 0 is without limit.
	BandwidthLimit func() int64
}

func (a Access) open(servers []string, limits fetch.Limits) (*fetch.Downloader, error) {
	return fetch.New(fetch.Options{
		Mirrors: servers, UserAgent: a.UserAgent, Authorize: a.Authorize, Proxy: a.Proxy, Roots: a.Roots, Limits: limits, BandwidthLimit: a.BandwidthLimit,
	})
}

// metadataLimits are for files of which there may be several sources: one that does not
// answer is left early.
var metadataLimits = fetch.Limits{Attempts: 3, SmallTotal: time.Minute}

// TrustedOptions are what OpenTrusted works with.
type TrustedOptions struct {
	Access
	// Root is the root document that the node trusts.
	Root []byte
	// StateDir is where the node remembers what it has seen; each Root has a folder there.
	StateDir string
	// Architecture is "x86_64" or "aarch64".
	Architecture string
	// Built is the time of the running release.
	Built time.Time
	// Clock gives the system's time, and whether a time server has set it.
	Clock tuf.Clock
}

// Trusted is a release tree that is trusted by its metadata, whoever serves it.
type Trusted struct {
	client    *tuf.Client
	downloads *fetch.Downloader
	metadata  []*fetch.Downloader
	arch      string

	mu sync.Mutex
	// asked is when the metadata were last brought.
	asked time.Time
	now   func() time.Time
}

// remembered is how long an answer of the server serves when no fresh one is wanted.
const remembered = time.Hour

// OpenTrusted prepares a source and asks nobody yet.
func OpenTrusted(o TrustedOptions) (_ *Trusted, err error) {
	t := &Trusted{arch: o.Architecture, now: time.Now}
	defer func() {
		if err != nil {
			err = errors.Join(err, t.Close())
		}
	}()
	var mirrors []tuf.Fetcher
	for _, server := range o.Servers {
		d, err := o.open([]string{server}, metadataLimits)
		if err != nil {
			return nil, err
		}
		t.metadata = append(t.metadata, d)
		mirrors = append(mirrors, mirror{d})
	}
	if t.downloads, err = o.open(o.Servers, fetch.Limits{}); err != nil {
		return nil, err
	}
	sum := sha256.Sum256(o.Root)
	t.client, err = tuf.Open(tuf.Options{
		Root: o.Root, Dir: filepath.Join(o.StateDir, hex.EncodeToString(sum[:8])), Mirrors: mirrors, Clock: o.Clock, Built: o.Built,
	})
	return t, err
}

// mirror lets the metadata be read from one server.
type mirror struct{ *fetch.Downloader }

func (m mirror) Fetch(ctx context.Context, path string, limit int64) ([]byte, error) {
	data, err := m.Small(ctx, path, limit)
	if errors.Is(err, fetch.ErrNotFound) {
		err = fmt.Errorf("%w: %w", fs.ErrNotExist, err)
	}
	return data, err
}

// Close is part of Source.
func (t *Trusted) Close() error {
	for _, d := range t.metadata {
		d.Close()
	}
	if t.downloads != nil {
		t.downloads.Close()
	}
	if t.client == nil {
		return nil
	}
	return t.client.Close()
}

// Downloads is part of Source.
func (t *Trusted) Downloads() parts.Downloads { return t.downloads }

// Newest is part of update.Releases.
func (t *Trusted) Newest(ctx context.Context, channel string, fresh bool) (update.Found, error) {
	if err := t.refresh(ctx, channel, fresh); err != nil {
		return update.Found{}, err
	}
	manifest, err := t.client.Newest(ctx, channel, t.arch)
	if err != nil {
		return update.Found{}, named(err)
	}
	digest, err := digestOf(manifest)
	return update.Found{Manifest: manifest, Digest: digest}, err
}

func (t *Trusted) refresh(ctx context.Context, channel string, fresh bool) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !fresh && !t.asked.IsZero() && t.now().Sub(t.asked) < remembered {
		return nil
	}
	if _, err := t.client.Refresh(ctx, channel); err != nil {
		return named(err)
	}
	t.asked = t.now()
	return nil
}

// named gives an error of the metadata the agent's name for it.
func named(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, tuf.ErrNoRelease):
		return fmt.Errorf("%w: %w", update.ErrNoRelease, err)
	}
	for _, cause := range []error{tuf.ErrUntrusted, tuf.ErrExpired, tuf.ErrVersion, tuf.ErrMismatch, tuf.ErrLimit, tuf.ErrMetadata, tuf.ErrManifest} {
		if errors.Is(err, cause) {
			return fmt.Errorf("%w: %w", update.ErrUntrusted, err)
		}
	}
	return fmt.Errorf("%w: %w", update.ErrUnreachable, err)
}

func digestOf(manifest release.Manifest) (string, error) {
	text, err := json.Marshal(manifest.Parts)
	if err != nil {
		return "", fmt.Errorf("summing up the manifest of %s: %w", manifest.Version, err)
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:]), nil
}

// maxChangelog bounds a changelog, packed and unpacked, in bytes.
const maxChangelog = 8 << 20

// Changelog is part of update.Releases.
func (t *Trusted) Changelog(ctx context.Context, found update.Found, channel string) (*release.Changelog, error) {
	return changelog(ctx, t.downloads, found.Manifest, channel)
}

func changelog(ctx context.Context, from *fetch.Downloader, manifest release.Manifest, channel string) (*release.Changelog, error) {
	for _, document := range manifest.Documents {
		if document.Kind != release.DocumentChangelog || !strings.HasSuffix(document.Blob.Path, "/changelog-"+channel+".yaml.gz") {
			continue
		}
		if document.Blob.Size > maxChangelog {
			return nil, fmt.Errorf("the changelog has %d bytes, at most %d are read", document.Blob.Size, maxChangelog)
		}
		packed, err := from.Checked(ctx, document.Blob.Path, document.Blob.Size, func(data []byte) error {
			if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) != document.Blob.SHA256 {
				return fetch.ErrMismatch
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		return parseChangelog(packed)
	}
	return nil, nil
}

func parseChangelog(packed []byte) (*release.Changelog, error) {
	unpacked, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil, fmt.Errorf("unpacking the changelog: %w", err)
	}
	text, err := io.ReadAll(io.LimitReader(unpacked, maxChangelog+1))
	if err != nil {
		return nil, fmt.Errorf("unpacking the changelog: %w", err)
	}
	if len(text) > maxChangelog {
		return nil, fmt.Errorf("the changelog has more than %d bytes", maxChangelog)
	}
	var found release.Changelog
	if err := yaml.Unmarshal(text, &found); err != nil {
		return nil, fmt.Errorf("reading the changelog: %w", err)
	}
	return &found, nil
}
