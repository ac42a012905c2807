package tuf

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata/trustedmetadata"

	"github.com/holdfast-os/holdfast/internal/state"
)

// Fetcher reads files of one mirror of a release tree.
type Fetcher interface {
	// Fetch gives a whole file. path is relative to the tree, with slashes. It reads at
	// most max+1 bytes (an answer longer than max is refused) and ends when ctx does. A
	// file that the mirror does not have is an error that wraps fs.ErrNotExist.
	Fetch(ctx context.Context, path string, max int64) ([]byte, error)
}

// Clock gives the system's time, and whether a time server has set it since boot.
type Clock func() (now time.Time, confirmed bool)

// Options are what a Client works with.
type Options struct {
	// Root is the root document of the image.
	Root []byte
	// Dir is a directory of its own for what the node remembers; made when it is missing,
	// and 0700.
	Dir string
	// Mirrors are asked in this order; one to sixteen.
	Mirrors []Fetcher
	// Clock is needed.
	Clock Clock
	// Built is the time of the running release (its version).
	Built time.Time
	// FileTimeout bounds a single file from a single mirror; default one minute. The whole
	// is bounded by the context.
	FileTimeout time.Duration
}

// Status is what the node knows about its metadata.
type Status struct {
	// Root, Timestamp, Snapshot and Targets are the versions in force.
	Root, Timestamp, Snapshot, Targets int64
	// Expires is when the first of the four ends.
	Expires time.Time
	// Reference is the time at which expiry was judged.
	Reference time.Time
	// ClockConfirmed says whether the clock took part in that.
	ClockConfirmed bool
	// Stale says that the metadata have expired by a clock that nobody has confirmed.
	// They are used all the same; a person should look at the clock, or at who holds
	// newer metadata back.
	Stale bool
	// Changed says that this refresh brought something new.
	Changed bool
	// Warnings say what mirrors gave that was refused, and that the remembered state was
	// damaged, while the refresh went well.
	Warnings []error
}

// Client is the node's side. Its methods may be called at the same time.
type Client struct {
	mu      sync.Mutex
	options Options
	store   *state.Store
	// set is what the last refresh accepted; nil before the first.
	set *trustedmetadata.TrustedMetadata
}

// Open prepares a client; it reads nothing from the mirrors. It fails when the image's
// root document is no valid one.
func Open(o Options) (*Client, error) {
	if len(o.Mirrors) == 0 || len(o.Mirrors) > maxMirrors {
		return nil, fmt.Errorf("opening the trusted metadata: %d mirrors, 1 to %d are accepted", len(o.Mirrors), maxMirrors)
	}
	if o.Clock == nil {
		return nil, errors.New("opening the trusted metadata: a clock is needed")
	}
	if o.FileTimeout <= 0 {
		o.FileTimeout = time.Minute
	}
	if _, err := selfSigned(o.Root); err != nil {
		return nil, fmt.Errorf("reading the root document of the image: %w", err)
	}
	store, err := state.Open(o.Dir)
	if err != nil {
		return nil, fmt.Errorf("opening the trusted metadata: %w", err)
	}
	if err := os.Chmod(o.Dir, 0o700); err != nil {
		return nil, errors.Join(fmt.Errorf("closing %s to others: %w", o.Dir, err), store.Close())
	}
	return &Client{options: o, store: store}, nil
}

// Close gives the directory back.
func (c *Client) Close() error { return c.store.Close() }

// Refresh brings the newest metadata, those of the named channels with it: nothing is
// remembered before all of it is verified. A channel that the tree does not have is no
// error here. On an error what was accepted before stays in
// force and remembered. A newer root document is kept all the same once its chain is
// verified: what it revoked stays revoked, and what was accepted under an older one is
// no longer in force.
func (c *Client) Refresh(ctx context.Context, channels ...string) (Status, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, channel := range channels {
		if err := CheckChannel(channel); err != nil {
			return Status{}, fmt.Errorf("refreshing the metadata: %w", err)
		}
	}
	return c.refresh(ctx, channels)
}

// fetch asks one mirror for one file.
func (c *Client) fetch(ctx context.Context, mirror int, path string, max int64) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, c.options.FileTimeout)
	defer cancel()
	data, err := c.options.Mirrors[mirror].Fetch(ctx, folder+path, max)
	if err != nil {
		return nil, fmt.Errorf("fetching %s from mirror %d: %w", folder+path, mirror+1, err)
	}
	if int64(len(data)) > max {
		return nil, fmt.Errorf("fetching %s from mirror %d: %w of %d bytes", folder+path, mirror+1, ErrLimit, max)
	}
	return data, nil
}

// each asks the mirrors in turn until accept likes what one gave; the errors are those
// of the mirrors before, or of all.
func (c *Client) each(ctx context.Context, path string, max int64, accept func([]byte) error) (found bool, refused []error) {
	for mirror := range c.options.Mirrors {
		if err := ctx.Err(); err != nil {
			return false, append(refused, fmt.Errorf("fetching %s: %w", folder+path, err))
		}
		data, err := c.fetch(ctx, mirror, path, max)
		if err == nil {
			if err = accept(data); err == nil {
				return true, refused
			}
			err = fmt.Errorf("checking %s of mirror %d: %w", folder+path, mirror+1, err)
		}
		refused = append(refused, err)
	}
	return false, refused
}
