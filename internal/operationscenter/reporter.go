package operationscenter

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"
)

// How often, and how far apart, a report is tried.
const (
	reportTries = 5
	reportPause = 30 * time.Second
)

// Reporter tells the manager in the background what happened on the node. Nobody waits for
// it: each cause stands in the queue once at most, and what cannot be told is given up
// after 5 tries 30 s apart.
type Reporter struct {
	send func(ctx context.Context, cause Cause) error
	wait func(ctx context.Context, d time.Duration) error
	wake chan struct{}

	mu    sync.Mutex
	queue []Cause
	state ReporterState
}

// ReporterState is how reporting goes.
type ReporterState struct {
	// Pending are the causes that wait, oldest first; the one that is being sent is left
	// out.
	Pending []Cause
	// Sent counts the reports that arrived, GivenUp those that did not.
	Sent, GivenUp int
	// LastError is of the newest try; nil when it went well or there was none.
	LastError error
}

// NewReporter makes one. send tells the manager once: it finds out where the node is
// reached and calls Client.Report. wait is for tests; nil waits by the clock.
func NewReporter(send func(ctx context.Context, cause Cause) error, wait func(ctx context.Context, d time.Duration) error) *Reporter {
	if wait == nil {
		wait = sleep
	}
	return &Reporter{send: send, wait: wait, wake: make(chan struct{}, 1)}
}

// Report queues a report and returns at once. A cause that waits already is not queued
// again; one that is being sent is, since the node may have changed in between.
func (r *Reporter) Report(cause Cause) {
	r.mu.Lock()
	if !slices.Contains(r.queue, cause) {
		r.queue = append(r.queue, cause)
	}
	r.mu.Unlock()
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// Now sends a report at once, past the queue, in one try: for a node that is about to go
// down, with a ctx that ends soon.
func (r *Reporter) Now(ctx context.Context, cause Cause) error {
	return r.note(r.send(ctx, cause))
}

// State is how reporting goes.
func (r *Reporter) State() ReporterState {
	r.mu.Lock()
	defer r.mu.Unlock()
	state := r.state
	state.Pending = slices.Clone(r.queue)
	return state
}

// Run sends what is queued until ctx ends. It is to run once at a time.
func (r *Reporter) Run(ctx context.Context) {
	for ctx.Err() == nil {
		cause, there := r.next()
		if !there {
			select {
			case <-r.wake:
			case <-ctx.Done():
			}
			continue
		}
		r.deliver(ctx, cause)
	}
}

func (r *Reporter) next() (Cause, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.queue) == 0 {
		return "", false
	}
	cause := r.queue[0]
	r.queue = r.queue[1:]
	return cause, true
}

// deliver tries one report until it arrives, is given up, or ctx ends.
func (r *Reporter) deliver(ctx context.Context, cause Cause) {
	for try := range reportTries {
		if try > 0 && r.wait(ctx, reportPause) != nil {
			return
		}
		if r.note(r.send(ctx, cause)) == nil {
			return
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.state.GivenUp++
	r.state.LastError = fmt.Errorf("given up after %d tries: %w", reportTries, r.state.LastError)
}

// note remembers how a try went.
func (r *Reporter) note(err error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.state.LastError = err
	if err == nil {
		r.state.Sent++
	}
	return err
}
