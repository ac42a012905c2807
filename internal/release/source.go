package release

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/holdfast-os/holdfast/api/release"
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
	// IndexTotal is the longest time for the index; default 5 min.
	IndexTotal time.Duration
	// FileTotal is the longest time for one file; default 6 h.
	FileTotal time.Duration
}

func (l Limits) withDefaults() Limits {
	fill(&l.MaxIndex, 8<<20)
	fill(&l.MaxExpanded, 4<<30)
	fill(&l.MaxRatio, 16)
	fill(&l.Header, 30*time.Second)
	fill(&l.Stall, 60*time.Second)
	fill(&l.IndexTotal, 5*time.Minute)
	fill(&l.FileTotal, 6*time.Hour)
	return l
}

func fill[T int64 | time.Duration](field *T, value T) {
	if *field == 0 {
		*field = value
	}
}

// Options make a Source.
type Options struct {
	// ServerURL is the tree's base, http or https.
	ServerURL string
	// UpdateCA is PEM: the certificate that signed the index, or one it descends from.
	UpdateCA []byte
	// HTTPClient replaces the connection, its own redirect rule excepted; default one
	// that honours the proxy of the environment and refuses link-local addresses.
	HTTPClient *http.Client
	// Proxy chooses a proxy for a request; default that of the environment.
	Proxy func(*http.Request) (*url.URL, error)
	// Roots are the certificates that a server's must descend from, asked for at each
	// connection; default those that the system had when the program started.
	Roots func() (*x509.CertPool, error)
	// UserAgent is sent along, as "Holdfast/202611220104"; default "Holdfast".
	UserAgent string
	// Limits bound what is accepted.
	Limits Limits
	// Now is the clock for the dates of certificates; default time.Now.
	Now func() time.Time
}

// Source reads a tree as a node does. It is the Provider named "images", and is
// safe for several goroutines.
type Source struct {
	base      *url.URL
	anchors   []*x509.Certificate
	client    *http.Client
	userAgent string
	limits    Limits
	now       func() time.Time
}

var _ Provider = (*Source)(nil)

// NewSource checks the options and connects to nothing.
func NewSource(o Options) (*Source, error) {
	base, err := url.Parse(strings.TrimRight(o.ServerURL, "/"))
	if err != nil {
		return nil, fmt.Errorf("reading the server's URL: %w", err)
	}
	if (base.Scheme != "http" && base.Scheme != "https") || base.Hostname() == "" {
		return nil, fmt.Errorf("reading the server's URL %q: it must begin with https:// or http://", base.Redacted())
	}
	if base.User != nil {
		return nil, errors.New("reading the server's URL: it has a user name in it, which everybody who reads the configuration would see: leave it out")
	}
	if base.RawQuery != "" || base.Fragment != "" {
		return nil, fmt.Errorf("reading the server's URL %q: it must end with its path", base.Redacted())
	}
	if err := checkHost(base.Hostname()); err != nil {
		return nil, fmt.Errorf("reading the server's URL %q: %w", base.Redacted(), err)
	}
	anchors, err := ParseCA(o.UpdateCA)
	if err != nil {
		return nil, err
	}
	source := &Source{base: base, anchors: anchors, userAgent: o.UserAgent, limits: o.Limits.withDefaults(), now: o.Now}
	if source.userAgent == "" {
		source.userAgent = "Holdfast"
	}
	if source.now == nil {
		source.now = time.Now
	}
	source.client = newClient(o)
	return source, nil
}

// Index reads and verifies the whole index.
func (s *Source) Index(ctx context.Context) (release.Index, error) {
	address := s.base.JoinPath("index.sjson")
	body, err := s.get(ctx, address, s.limits.IndexTotal)
	if err != nil {
		return release.Index{}, fmt.Errorf("reading %s: %w", address.Redacted(), err)
	}
	defer body.Close()
	data, err := readAtMost(body, s.limits.MaxIndex)
	if err != nil {
		return release.Index{}, fmt.Errorf("reading %s: %w", address.Redacted(), err)
	}
	text, err := Verify(data, s.anchors, s.now())
	if err != nil {
		return release.Index{}, fmt.Errorf("verifying %s: %w", address.Redacted(), err)
	}
	index, err := parseIndex(text)
	if err != nil {
		return release.Index{}, fmt.Errorf("reading %s: %w", address.Redacted(), err)
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
