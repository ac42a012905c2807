package fetch

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
)

// Limits bound what a download may cost. A zero field gets its default.
type Limits struct {
	// MaxSize is the largest file, in bytes; default 64 GiB.
	MaxSize int64
	// MaxRepeat is how many times its size a file may cost in one call, because of servers
	// without ranges and wrong content; default 4.
	MaxRepeat int64
	// Reserve is what File leaves free on the disk, in bytes; default 32 MiB.
	Reserve int64
	// Checkpoint is how many bytes File writes between two notes of how far it is, which is
	// what a power cut costs; default 16 MiB.
	Checkpoint int64
	// Header is the time until a server begins its answer; default 30 s.
	Header time.Duration
	// Stall is the longest time without a byte; default 60 s.
	Stall time.Duration
	// MinRate is the slowest accepted rate in bytes a second, on the average of RateWindow;
	// default 1024.
	MinRate int64
	// RateWindow is the time over which MinRate is measured; default 60 s.
	RateWindow time.Duration
	// SmallTotal is the longest time for a call of Small or Checked; default 2 min.
	SmallTotal time.Duration
	// FileTotal is the longest time for a call of File, Stream or Ranges; default 6 h.
	FileTotal time.Duration
	// Attempts is how many failures in a row without progress end a call; default 8.
	Attempts int
	// Backoff is the upper end of the first wait; it doubles with each failure. Default 1 s.
	Backoff time.Duration
	// MaxBackoff is the upper end of every wait; default 1 min.
	MaxBackoff time.Duration
	// MaxRetryAfter is the longest time that a server may ask for; default 15 min.
	MaxRetryAfter time.Duration
	// Behind is how long a mirror is put behind after its first failure; it doubles with
	// each, up to 64 times. Default 30 s.
	Behind time.Duration
}

func (l Limits) withDefaults() Limits {
	fill(&l.MaxSize, 64<<30)
	fill(&l.MaxRepeat, 4)
	fill(&l.Reserve, 32<<20)
	fill(&l.Checkpoint, 16<<20)
	fill(&l.Header, 30*time.Second)
	fill(&l.Stall, time.Minute)
	fill(&l.MinRate, 1024)
	fill(&l.RateWindow, time.Minute)
	fill(&l.SmallTotal, 2*time.Minute)
	fill(&l.FileTotal, 6*time.Hour)
	fill(&l.Attempts, 8)
	fill(&l.Backoff, time.Second)
	fill(&l.MaxBackoff, time.Minute)
	fill(&l.MaxRetryAfter, 15*time.Minute)
	fill(&l.Behind, 30*time.Second)
	return l
}

func fill[T int | int64 | time.Duration](field *T, value T) {
	if *field == 0 {
		*field = value
	}
}

// Clock is time, as a value that a test can turn by hand. A nil field is that of package
// time.
type Clock struct {
	// Now is the time of day. It must hold a monotonic reading or never jump.
	Now func() time.Time
	// After gives a channel that gets a value when the time is over.
	After func(time.Duration) <-chan time.Time
}

// Peer is for a server that knows its nodes, as Operations Center does: TLS 1.3 or later,
// and no proxy on the way.
type Peer struct {
	// Certificate is what the node shows, asked for at each connection; nil shows none.
	Certificate func() (*tls.Certificate, error)
	// Pin is the very certificate that the server must show, under whatever name and date;
	// nil means that Roots decide.
	Pin *x509.Certificate
}

// Options make a Downloader.
type Options struct {
	// Mirrors are base URLs of the same tree, http or https, best first; at least one and
	// at most 32.
	Mirrors []string
	// UserAgent is sent along, as "Holdfast/202611220104"; default "Holdfast".
	UserAgent string
	// Authorize adds a token to a request, as header or query; default none. Its errors
	// must hold no secret. It is called for each request and must be safe for several
	// goroutines.
	Authorize func(*http.Request) error
	// Proxy chooses a proxy for a request; default that of the environment. Not with Peer.
	Proxy func(*http.Request) (*url.URL, error)
	// Roots are the certificates that a server's must descend from, asked for at each
	// connection; default those that the system had when the program started.
	Roots func() (*x509.CertPool, error)
	// Peer is set for a server that knows its nodes.
	Peer *Peer
	// Dial replaces the connection to a server or proxy, as for a unix socket, and with it
	// the check of addresses; default TCP that refuses link-local addresses.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Limits bound what is accepted.
	Limits Limits
	// BandwidthLimit is in bytes a second for all downloads of this Downloader together,
	// asked for all the time; 0, and the default, is without limit.
	BandwidthLimit func() int64
	// Clock is the time; default the real one.
	Clock Clock
	// Rand gives a number from 0 to n-1 for jitter; default math/rand/v2.
	Rand func(n int64) int64
}

// Downloader downloads from mirrors. It is safe for several goroutines; what it learns of
// the mirrors serves all calls.
type Downloader struct {
	options Options
	limits  Limits
	clock   Clock
	client  *http.Client
	bucket  *bucket

	mu      sync.Mutex
	mirrors []*mirror
}

// maxMirrors bounds the list.
const maxMirrors = 32

// New checks the options, all problems at once, and connects to nothing.
func New(o Options) (*Downloader, error) {
	d := &Downloader{options: o, limits: o.Limits.withDefaults(), clock: o.Clock}
	if d.clock.Now == nil {
		d.clock.Now = time.Now
	}
	if d.clock.After == nil {
		d.clock.After = time.After
	}
	if o.UserAgent == "" {
		d.options.UserAgent = "Holdfast"
	}
	if o.Rand == nil {
		d.options.Rand = rand.Int64N
	}
	var problems []error
	if len(o.Mirrors) == 0 {
		problems = append(problems, errors.New("no mirror is given"))
	}
	if len(o.Mirrors) > maxMirrors {
		problems = append(problems, fmt.Errorf("%d mirrors are given, at most %d are possible", len(o.Mirrors), maxMirrors))
	}
	for _, text := range o.Mirrors {
		base, err := parseBase(text)
		if err != nil {
			problems = append(problems, err)
			continue
		}
		d.mirrors = append(d.mirrors, &mirror{base: base})
	}
	if o.Peer != nil && o.Proxy != nil {
		problems = append(problems, errors.New("a server that knows its nodes is reached without a proxy: give Peer or Proxy"))
	}
	if err := errors.Join(problems...); err != nil {
		return nil, err
	}
	d.bucket = &bucket{limit: o.BandwidthLimit, clock: d.clock}
	d.client = newClient(d.options, d.clock)
	return d, nil
}

// Close gives idle connections back.
func (d *Downloader) Close() { d.client.CloseIdleConnections() }

// parseBase reads the base URL of a mirror. Its errors hold no password.
func parseBase(text string) (*url.URL, error) {
	base, err := url.Parse(strings.TrimRight(text, "/"))
	if err != nil {
		return nil, errors.New("reading a mirror's URL: it is not a URL, as \"https://releases.example.org/os\"")
	}
	if (base.Scheme != "http" && base.Scheme != "https") || base.Hostname() == "" {
		return nil, fmt.Errorf("reading the mirror's URL %q: it must begin with https:// or http:// and a host", base.Redacted())
	}
	if base.User != nil {
		return nil, fmt.Errorf("reading the mirror's URL of host %q: it has a user name in it, which everybody who reads the configuration would see: leave it out", base.Host)
	}
	if base.RawQuery != "" || base.Fragment != "" {
		return nil, fmt.Errorf("reading the mirror's URL of host %q: it must end with its path", base.Host)
	}
	if err := checkHost(base.Hostname()); err != nil {
		return nil, fmt.Errorf("reading the mirror's URL %q: %w", base, err)
	}
	return base, nil
}

// wait gives the context's cause when it ends first.
func (c Clock) wait(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return context.Cause(ctx)
	}
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-c.After(d):
		return nil
	}
}

// within ends the context with ErrSlow when the time is over. The function ends it at once.
func (c Clock) within(ctx context.Context, total time.Duration) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	after := c.After(total)
	go func() {
		select {
		case <-after:
			cancel(fmt.Errorf("%w: it takes longer than %s", ErrSlow, total))
		case <-ctx.Done():
		}
	}()
	return ctx, func() { cancel(context.Canceled) }
}
