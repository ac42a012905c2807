package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	osapi "github.com/holdfast-os/holdfast/api/os"
)

// States of a phase, as the API names them.
const (
	phaseWaiting = "waiting"
	phaseRunning = "running"
	phaseDone    = "done"
	phaseFailed  = "failed"
)

const (
	// firstRetry is the pause before a failed phase is tried again; it doubles up to
	// lastRetry.
	firstRetry = time.Second
	lastRetry  = time.Minute
)

// phase is one named step of the start.
type phase struct {
	name string
	// limit is how long one try may take.
	limit time.Duration
	run   func(context.Context) error
	// begins says when: inTurn or together.
	begins begins
}

// begins is when a phase begins: after all before it have ended, or with the one before it.
type begins int

const (
	inTurn begins = iota
	together
)

// bootRecord is what has happened so far. It may be read while the phases run.
type bootRecord struct {
	mu     sync.Mutex
	phases []osapi.BootPhase
}

// Snapshot gives the phases in their order.
func (b *bootRecord) Snapshot() osapi.DebugBoot {
	b.mu.Lock()
	defer b.mu.Unlock()
	return osapi.DebugBoot{Phases: slices.Clone(b.phases)}
}

func (b *bootRecord) set(i int, change func(*osapi.BootPhase)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	change(&b.phases[i])
}

// runner takes phases in their order, each until it works.
type runner struct {
	clock Clock
	log   *slog.Logger
	boot  *bootRecord
	// began is told when a phase starts for the first time.
	began func(name string)
	// failed is told of each failed try and when the next one is.
	failed func(name string, err error, next time.Duration)
	// sooner gives a channel that is closed when a phase that has failed should be tried again
	// at once; nil when there is never a reason to.
	sooner func() <-chan struct{}
}

// all runs every phase; it ends early only with the context, whose error it gives.
func (r *runner) all(ctx context.Context, phases []phase) error {
	r.boot.mu.Lock()
	r.boot.phases = make([]osapi.BootPhase, len(phases))
	for i, p := range phases {
		r.boot.phases[i] = osapi.BootPhase{Name: p.name, State: phaseWaiting}
	}
	r.boot.mu.Unlock()
	for first := 0; first < len(phases); {
		next := first + 1
		for next < len(phases) && phases[next].begins == together {
			next++
		}
		failed := make(chan error, next-first)
		for i := first; i < next; i++ {
			go func() { failed <- r.one(ctx, i, phases[i]) }()
		}
		var ended error
		for range next - first {
			ended = errors.Join(ended, <-failed)
		}
		if ended != nil {
			return ended
		}
		first = next
	}
	return nil
}

// one runs a phase until it works. The times are those of the whole, with all tries.
func (r *runner) one(ctx context.Context, i int, p phase) error {
	started := r.clock.SinceBoot()
	r.began(p.name)
	pause := firstRetry
	var sooner <-chan struct{}
	for {
		if r.sooner != nil {
			sooner = r.sooner() // of before the try: what comes amid it counts
		}
		r.boot.set(i, func(b *osapi.BootPhase) { b.State, b.StartedAt = phaseRunning, seconds(started) })
		err := r.try(ctx, p)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		took := seconds(r.clock.SinceBoot() - started)
		if err == nil {
			r.boot.set(i, func(b *osapi.BootPhase) { b.State, b.Duration, b.Error = phaseDone, took, "" })
			r.log.Info("boot phase done", "phase", p.name, "seconds", took)
			return nil
		}
		r.boot.set(i, func(b *osapi.BootPhase) { b.State, b.Duration, b.Error = phaseFailed, took, err.Error() })
		r.log.Error("boot phase failed", "phase", p.name, "error", err, "again_in", pause)
		r.failed(p.name, err, pause)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-sooner:
		case <-r.clock.After(pause):
		}
		pause = min(2*pause, lastRetry)
	}
}

// try runs a phase once, within its limit. A panic is a failure like any other.
func (r *runner) try(ctx context.Context, p phase) (err error) {
	if p.limit > 0 {
		limited, cancel := context.WithTimeout(ctx, p.limit)
		defer cancel()
		ctx = limited
	}
	defer func() {
		if cause := recover(); cause != nil {
			r.log.Error("boot phase panicked", "phase", p.name, "cause", cause, "stack", string(debug.Stack()))
			err = fmt.Errorf("the phase made a mistake: %v", cause)
		}
	}()
	return p.run(ctx)
}

func seconds(d time.Duration) float64 { return d.Round(time.Millisecond).Seconds() }
