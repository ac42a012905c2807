package release

import (
	"context"
	"crypto/x509"
	"fmt"
	"time"

	"github.com/holdfast-os/holdfast/api/release"
	"github.com/holdfast-os/holdfast/internal/fetch"
)

// Limits bound what a source accepts. A zero field gets its default.
type Limits struct {
	// MaxIndex is the size of index.sjson in bytes; default 8 MiB.
	MaxIndex int64
	// MaxExpanded is the size of an unpacked file in bytes; default 4 GiB.
	MaxExpanded int64
	// MaxRatio is how many times larger than its download an unpacked file may be,
	// beyond the first 64 MiB; default 16.
	MaxRatio int64
	// Header is the time until a server begins its answer; default 30 s.
	Header time.Duration
	// Stall is the longest time without a byte; default 60 s.
	Stall time.Duration
	// IndexTotal is the longest time for the index; default 2 min.
	IndexTotal time.Duration
	// FileTotal is the longest time for one file; default 6 h.
	FileTotal time.Duration
	// Attempts is how many failures in a row end a download; default 3.
	Attempts int
}

func (l Limits) withDefaults() Limits {
	fill(&l.MaxIndex, 8<<20)
	fill(&l.MaxExpanded, 4<<30)
	fill(&l.MaxRatio, 16)
	fill(&l.Attempts, 3)
	return l
}

func (l Limits) fetch() fetch.Limits {
	return fetch.Limits{Header: l.Header, Stall: l.Stall, SmallTotal: l.IndexTotal, FileTotal: l.FileTotal, Attempts: l.Attempts}
}

func fill[T int | int64](field *T, value T) {
	if *field == 0 {
		*field = value
	}
}

// Options make a Source.
type Options struct {
	// ServerURL is the tree's base, http or https; not with Downloads.
	ServerURL string
	// UpdateCA is PEM: the certificate that signed the index, or one it descends from.
	UpdateCA []byte
	// Downloads reach the tree, and stay the caller's; default a Downloader for ServerURL that
	// honours the proxy of the environment.
	Downloads *fetch.Downloader
	// UserAgent is sent along, as "Holdfast/202611220104"; default "Holdfast". Not with Downloads.
	UserAgent string
	// Limits bound what is accepted; those of the connection not with Downloads.
	Limits Limits
	// Now is the clock for the dates of certificates; default time.Now.
	Now func() time.Time
}

// Source reads a tree as a node does. It is the Provider named "images", and is
// safe for several goroutines.
type Source struct {
	anchors   []*x509.Certificate
	downloads *fetch.Downloader
	limits    Limits
	now       func() time.Time
}

var _ Provider = (*Source)(nil)

// NewSource checks the options and connects to nothing.
func NewSource(o Options) (*Source, error) {
	anchors, err := ParseCA(o.UpdateCA)
	if err != nil {
		return nil, err
	}
	source := &Source{anchors: anchors, downloads: o.Downloads, limits: o.Limits.withDefaults(), now: o.Now}
	if source.now == nil {
		source.now = time.Now
	}
	if source.downloads == nil {
		source.downloads, err = fetch.New(fetch.Options{Mirrors: []string{o.ServerURL}, UserAgent: o.UserAgent, Limits: source.limits.fetch()})
	}
	return source, err
}

// indexFile is the signed index.
const indexFile = "index.sjson"

// Index reads and verifies the whole index.
func (s *Source) Index(ctx context.Context) (release.Index, error) {
	data, err := s.downloads.Small(ctx, indexFile, s.limits.MaxIndex)
	if err != nil {
		return release.Index{}, fmt.Errorf("reading the index: %w", err)
	}
	text, err := Verify(data, s.anchors, s.now())
	if err != nil {
		return release.Index{}, fmt.Errorf("verifying %s: %w", indexFile, err)
	}
	index, err := parseIndex(text)
	if err != nil {
		return release.Index{}, fmt.Errorf("reading %s: %w", indexFile, err)
	}
	return index, nil
}

// Latest is described at Provider. It reads the index anew each time.
func (s *Source) Latest(ctx context.Context, channel, arch, running string) (release.Update, error) {
	index, err := s.Index(ctx)
	if err != nil {
		return release.Update{}, err
	}
	return choose(index, channel, arch, running)
}
