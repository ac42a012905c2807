package fetch

import (
	"context"
	"fmt"
	"math"
	"sync"
	"time"
)

// watch measures how long a server lets the transfer wait. It only counts the time between
// begin and end, which is when somebody waits for the network.
type watch struct {
	limits Limits

	mu       sync.Mutex
	answered bool
	busy     bool
	since    time.Time
	quiet    time.Duration // waited since the last byte
	waited   time.Duration // waited in this window
	got      int64         // bytes in this window
}

func (w *watch) begin(now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.busy, w.since = true, now
}

func (w *watch) end(now time.Time, n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.count(now)
	w.busy = false
	w.got += int64(n)
	if n > 0 {
		w.quiet = 0
	}
}

// answer is called when the header has come.
func (w *watch) answer(now time.Time) {
	w.end(now, 0)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.answered, w.quiet, w.waited = true, 0, 0
}

func (w *watch) count(now time.Time) {
	if w.busy {
		w.quiet += now.Sub(w.since)
		w.waited += now.Sub(w.since)
		w.since = now
	}
}

// check gives ErrSlow when the server is.
func (w *watch) check(now time.Time) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.count(now)
	switch {
	case !w.answered && w.quiet >= w.limits.Header:
		return fmt.Errorf("%w: no answer within %s", ErrSlow, w.limits.Header)
	case w.answered && w.quiet >= w.limits.Stall:
		return fmt.Errorf("%w: no byte for %s", ErrSlow, w.limits.Stall)
	case w.answered && w.waited >= w.limits.RateWindow:
		rate := float64(w.got) / w.waited.Seconds()
		if rate < float64(w.limits.MinRate) {
			return fmt.Errorf("%w: %.0f bytes a second, at least %d are expected", ErrSlow, rate, w.limits.MinRate)
		}
		w.waited, w.got = 0, 0
	}
	return nil
}

// run looks until the context ends, and ends it when the server is too slow.
func (w *watch) run(ctx context.Context, clock Clock, cancel context.CancelCauseFunc) {
	tick := max(min(w.limits.Header, w.limits.Stall, w.limits.RateWindow)/8, time.Millisecond)
	for clock.wait(ctx, tick) == nil {
		if err := w.check(clock.Now()); err != nil {
			cancel(err)
			return
		}
	}
}

// bucket is a token bucket in which a transfer pays after it has read. The limit is asked
// for at least ten times a second, so that a change takes effect at once.
type bucket struct {
	limit func() int64
	clock Clock

	mu     sync.Mutex
	tokens float64 // bytes; below zero is debt
	last   time.Time
}

// Steps of the bucket.
const (
	bucketStep = 100 * time.Millisecond
	bucketRead = 16 << 10
)

// size is how many bytes to read at once.
func (b *bucket) size(n int) int {
	if b.limit == nil || b.limit() <= 0 {
		return n
	}
	return min(n, bucketRead)
}

// refill gives the limit and how many bytes are owed.
func (b *bucket) refill(spent int) (limit, debt float64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.clock.Now()
	limit = float64(b.limit())
	if limit <= 0 {
		b.tokens, b.last = 0, now
		return 0, 0
	}
	if !b.last.IsZero() {
		b.tokens += now.Sub(b.last).Seconds() * limit
	}
	b.tokens = min(b.tokens, limit*bucketStep.Seconds()) - float64(spent)
	b.last = now
	return limit, -b.tokens
}

// pay waits until n bytes are paid for.
func (b *bucket) pay(ctx context.Context, n int) error {
	if b.limit == nil {
		return nil
	}
	for {
		limit, debt := b.refill(n)
		n = 0
		if debt <= 0 {
			return nil
		}
		wait := time.Duration(math.Ceil(debt / limit * float64(time.Second)))
		if err := b.clock.wait(ctx, min(max(wait, time.Millisecond), bucketStep)); err != nil {
			return err
		}
	}
}
