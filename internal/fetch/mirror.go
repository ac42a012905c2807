package fetch

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"
)

// mirror is one server. The Downloader's lock guards all but base.
type mirror struct {
	base *url.URL
	// failures are those since the last success.
	failures int
	// behind is until when the other mirrors go first.
	behind time.Time
	// closed is until when the server has asked to be left alone.
	closed time.Time
	last   error
}

// MirrorState is what is known of a mirror.
type MirrorState struct {
	// URL is the mirror's base.
	URL string
	// Failures counts those since the last success.
	Failures int
	// Behind is until when the mirror is asked after the others; zero when it is not.
	Behind time.Time
	// Last is the newest error since the last success; nil without one.
	Last error
}

// State is what is known of the mirrors, in their order.
func (d *Downloader) State() []MirrorState {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := d.clock.Now()
	states := make([]MirrorState, 0, len(d.mirrors))
	for _, m := range d.mirrors {
		state := MirrorState{URL: m.base.String(), Failures: m.failures, Last: m.last}
		if until := later(m.behind, m.closed); until.After(now) {
			state.Behind = until
		}
		states = append(states, state)
	}
	return states
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// succeeded forgets a mirror's failures.
func (d *Downloader) succeeded(m *mirror) {
	d.mu.Lock()
	defer d.mu.Unlock()
	m.failures, m.last, m.behind = 0, nil, time.Time{}
}

// punish puts a mirror behind, and leaves it alone for as long as it has asked for. Both
// times end a little differently on each node.
func (d *Downloader) punish(m *mirror, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := d.clock.Now()
	span := d.limits.Behind << min(m.failures, 6)
	m.failures++
	m.last = err
	m.behind = now.Add(span/2 + d.random(span/2))
	var status *StatusError
	if errors.As(err, &status) && status.RetryAfter > 0 {
		span = min(status.RetryAfter, d.limits.MaxRetryAfter)
		m.closed = now.Add(span + d.random(max(span/2, time.Second)))
	}
}

// random is from 0 to below span.
func (d *Downloader) random(span time.Duration) time.Duration {
	return time.Duration(d.options.Rand(int64(max(span, 1))))
}

// backoff is the wait after a number of failures: full jitter, so from 0 on.
func (d *Downloader) backoff(failures int) time.Duration {
	span := d.limits.MaxBackoff
	if shift := max(failures-1, 0); shift < 32 && d.limits.Backoff<<shift>>shift == d.limits.Backoff {
		span = min(span, d.limits.Backoff<<shift)
	}
	return d.random(span)
}

// call is what one call has learned of the mirrors.
type call struct {
	d        *Downloader
	deadline time.Time
	// what is said before an error, as "fetching a/b".
	what string
	// mayMiss: that the file is missing is a good answer.
	mayMiss  bool
	failures int
	tried    map[*mirror]bool
	refused  map[*mirror]bool
	noRanges map[*mirror]bool
	etags    map[*mirror]string
	last     map[*mirror]error
}

func (d *Downloader) newCall(what string, total time.Duration) *call {
	return &call{
		d: d, what: what, deadline: d.clock.Now().Add(total), tried: map[*mirror]bool{}, refused: map[*mirror]bool{},
		noRanges: map[*mirror]bool{}, etags: map[*mirror]string{}, last: map[*mirror]error{}}
}

// next gives the mirror to ask, after the wait that is due.
func (c *call) next(ctx context.Context) (*mirror, error) {
	m, wait, closed := c.choose()
	if closed && c.d.clock.Now().Add(wait).After(c.deadline) {
		return nil, c.giveUp(fmt.Errorf("%w: %s asks to be left alone for %s more: try again then",
			&StatusError{Status: http.StatusServiceUnavailable, RetryAfter: wait}, m.base.Host, wait.Round(time.Second)))
	}
	if err := c.d.clock.wait(ctx, wait); err != nil {
		return nil, c.giveUp(err)
	}
	c.tried[m] = true
	return m, nil
}

// choose gives the first mirror that is not behind; else the one that is behind for the
// shortest time; else, when all have asked to be left alone, the one whose time ends first,
// and closed. There is always one: failed ends the call when the last was refused.
func (c *call) choose() (best *mirror, wait time.Duration, closed bool) {
	c.d.mu.Lock()
	defer c.d.mu.Unlock()
	now := c.d.clock.Now()
	rank := func(m *mirror) (int, time.Time) {
		switch {
		case m.closed.After(now):
			return 2, m.closed
		case m.behind.After(now):
			return 1, m.behind
		}
		return 0, time.Time{}
	}
	for _, m := range c.d.mirrors {
		if c.refused[m] {
			continue
		}
		if best == nil {
			best = m
			continue
		}
		was, until := rank(best)
		if is, end := rank(m); is < was || is == was && end.Before(until) {
			best = m
		}
	}
	switch class, until := rank(best); {
	case class == 2:
		return best, until.Sub(now), true
	case class == 1 && c.tried[best]:
		return best, c.d.backoff(c.failures), false
	}
	return best, 0, false
}

// permanent tells whether asking the same mirror again soon is of no use.
func permanent(err error) bool {
	var status *StatusError
	if errors.As(err, &status) {
		switch status.Status {
		case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests:
			return false
		}
		return status.Status < 500 && status.RetryAfter == 0
	}
	for _, known := range []error{ErrMismatch, ErrLimit, ErrServer, ErrRedirect, ErrAddress, ErrEncoding, ErrCertificate, ErrNoRanges} {
		if errors.Is(err, known) {
			return true
		}
	}
	return false
}

// failed notes a failure of a mirror. An error of its own ends the call.
func (c *call) failed(ctx context.Context, m *mirror, err error) error {
	if ctx.Err() != nil {
		return c.giveUp(context.Cause(ctx))
	}
	c.last[m] = fmt.Errorf("%s: %w", m.base, err)
	if permanent(err) {
		c.refused[m] = true
	} else {
		c.failures++
	}
	// A missing file is no fault: readers of metadata look for the next one until there is
	// none. Neither is a server without ranges.
	if !errors.Is(err, ErrNotFound) && !errors.Is(err, ErrNoRanges) {
		c.d.punish(m, err)
	}
	if len(c.refused) == len(c.d.mirrors) || c.failures >= c.d.limits.Attempts || c.missing() {
		return c.giveUp(nil)
	}
	return nil
}

// missing tells whether it is settled that a file is not there: one mirror says so, and
// the others were asked.
func (c *call) missing() bool {
	if !c.mayMiss || len(c.tried) < len(c.d.mirrors) {
		return false
	}
	for _, err := range c.last {
		if errors.Is(err, ErrNotFound) {
			return true
		}
	}
	return false
}

// giveUp makes the error of the call: why it ends, and the last error of each mirror.
func (c *call) giveUp(why error) error {
	var all failures
	if why != nil {
		all = append(all, why)
	}
	for _, m := range c.d.mirrors {
		if err := c.last[m]; err != nil {
			all = append(all, err)
		}
	}
	if len(all) == 1 {
		return fmt.Errorf("%s: %w", c.what, all[0])
	}
	return fmt.Errorf("%s: %w", c.what, all)
}
