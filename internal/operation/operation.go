// Package operation runs work behind an answer, and says how far it is.
//
// A Registry owns every operation of the node. Start gives one its ID and a goroutine;
// the work gets a context, which ends when the operation is cancelled or the daemon
// stops, and a Progress to say how far it is. Who asks gets copies.
//
// The states, with the codes of Incus; every other way from one to another is refused:
//
//	Pending 105 -> Running 103 -> Success 200 | Failure 400
//	Pending, Running -> Cancelling 104 -> Cancelled 401 | Success 200
//
// An operation that was cancelled and has done its work all the same is a Success. Work
// that panics is a Failure, and the log has the place.
//
// Limits: MaxOpen operations that are not finished, MaxWaiters callers that wait for
// one. Finished ones are kept for a while, so that a caller that comes back finds out:
// the last Keep of them, for KeepFor (Incus keeps them for 5 seconds). Nothing is kept
// over a restart of the daemon.
//
// Each change of a status is published, and progress at most EventsPerSecond times a
// second; what stood still in between is published at the end of that span, so the last
// word of a stage is never lost. Publishing happens in order, with the registry's lock
// held: it must not block and must not come back here.
package operation

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	osapi "github.com/holdfast-os/holdfast/api/os"
)

// Errors of a Registry, to choose the HTTP code.
var (
	// ErrNotFound is 404: no such operation, or it finished long ago.
	ErrNotFound = errors.New("operation not found")
	// ErrNotCancellable is 400: this operation has to run to its end.
	ErrNotCancellable = errors.New("operation cannot be cancelled")
	// ErrFinished is 400: there is nothing left to cancel.
	ErrFinished = errors.New("operation is finished")
	// ErrTooMany is 503: a limit is reached, try again later.
	ErrTooMany = errors.New("too many operations")
)

// Defaults of Options.
const (
	// DefaultKeep is how many finished operations are kept.
	DefaultKeep = 100
	// DefaultKeepFor is for how long.
	DefaultKeepFor = time.Hour
	// DefaultMaxOpen is how many operations may be unfinished at a time.
	DefaultMaxOpen = 64
	// DefaultMaxWaiters is how many callers may wait for operations at a time.
	DefaultMaxWaiters = 1024
	// DefaultEventsPerSecond is how often the progress of one operation is published.
	DefaultEventsPerSecond = 4
)

// Longest texts that are kept, in bytes.
const (
	maxStage = 64
	maxText  = 256
	maxErr   = 8 << 10
)

// Clock is time. The zero value is the real one.
type Clock struct {
	// Now is the present; default time.Now.
	Now func() time.Time
	// AfterFunc calls a function later, and gives what calls it off; default
	// time.AfterFunc.
	AfterFunc func(time.Duration, func()) (stop func())
}

// Options are what a Registry is made of.
type Options struct {
	// Publish gets each operation that has changed; default nobody. It must not block.
	Publish func(osapi.Operation)
	// Log gets panics of work; default slog.Default.
	Log *slog.Logger
	// Clock is time; default the real one.
	Clock Clock
	// NewID gives a new ID; default a random UUID.
	NewID func() string
	// Keep is how many finished operations are kept; default DefaultKeep.
	Keep int
	// KeepFor is for how long they are kept; default DefaultKeepFor.
	KeepFor time.Duration
	// MaxOpen is how many may be unfinished; default DefaultMaxOpen.
	MaxOpen int
	// MaxWaiters is how many callers may wait at a time; default DefaultMaxWaiters.
	MaxWaiters int
	// EventsPerSecond limits the events of progress of one operation; default
	// DefaultEventsPerSecond.
	EventsPerSecond int
}

// Registry owns all operations. Its methods may be called at the same time.
type Registry struct {
	ctx context.Context
	o   Options

	mu      sync.Mutex
	all     []*entry // in the order of creation
	waiters int
}

// entry is one operation; the registry's lock guards it.
type entry struct {
	op        osapi.Operation
	ctx       context.Context
	cancel    context.CancelFunc
	done      chan struct{}
	published time.Time // when an event was last published
	later     func()    // calls off the event that is due; nil when none is
}

// New makes an empty registry. When the context ends, so do the contexts of all
// operations.
func New(ctx context.Context, o Options) *Registry {
	setDefault(&o.Keep, DefaultKeep)
	setDefault(&o.KeepFor, DefaultKeepFor)
	setDefault(&o.MaxOpen, DefaultMaxOpen)
	setDefault(&o.MaxWaiters, DefaultMaxWaiters)
	setDefault(&o.EventsPerSecond, DefaultEventsPerSecond)
	if o.Publish == nil {
		o.Publish = func(osapi.Operation) {}
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	if o.NewID == nil {
		o.NewID = newID
	}
	if o.Clock.Now == nil {
		o.Clock.Now = time.Now
	}
	if o.Clock.AfterFunc == nil {
		o.Clock.AfterFunc = func(d time.Duration, f func()) func() {
			timer := time.AfterFunc(d, f)
			return func() { timer.Stop() }
		}
	}
	return &Registry{ctx: ctx, o: o}
}

func setDefault[T int | time.Duration](value *T, to T) {
	if *value <= 0 {
		*value = to
	}
}

// Start begins work in the background and gives its operation, which is Pending then.
// Resources are the paths of what is worked on, by kind; they may be nil. The work of an
// operation that is not cancellable gets a context that only the end of the daemon ends.
// The error is ErrTooMany, or that of a registry whose context has ended.
func (r *Registry) Start(description string, resources map[string][]string, cancellable bool, work func(context.Context, *Progress) error) (osapi.Operation, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.ctx.Err(); err != nil {
		return osapi.Operation{}, fmt.Errorf("starting %q: the node is stopping: %w", description, err)
	}
	r.prune()
	if open := r.open(); open >= r.o.MaxOpen {
		return osapi.Operation{}, fmt.Errorf("starting %q: %w: %d are not finished, wait for one of them", description, ErrTooMany, open)
	}
	now := r.o.Clock.Now().UTC()
	e := &entry{done: make(chan struct{}), op: osapi.Operation{
		ID: r.o.NewID(), Class: "task", Description: description, CreatedAt: now, UpdatedAt: now,
		Resources: cloneResources(resources), MayCancel: cancellable,
	}}
	e.ctx, e.cancel = context.WithCancel(r.ctx)
	r.all = append(r.all, e)
	r.setStatus(e, osapi.OperationPending)
	go r.run(e, work)
	return snapshot(e), nil
}

func (r *Registry) run(e *entry, work func(context.Context, *Progress) error) {
	r.mu.Lock()
	if e.op.StatusCode == osapi.OperationPending {
		r.setStatus(e, osapi.OperationRunning)
	}
	r.mu.Unlock()
	err := r.safely(e, work)
	e.cancel()
	r.mu.Lock()
	defer r.mu.Unlock()
	code := osapi.OperationSuccess
	if err != nil {
		code = osapi.OperationFailure
		if e.op.StatusCode == osapi.OperationCancelling {
			code = osapi.OperationCancelled
		}
		e.op.Err = cut(err.Error(), maxErr)
	}
	e.op.MayCancel = false
	r.setStatus(e, code)
	close(e.done)
	r.prune()
}

// safely turns a panic into an error. Work that was cancelled before it began does not
// begin.
func (r *Registry) safely(e *entry, work func(context.Context, *Progress) error) (err error) {
	if err := e.ctx.Err(); err != nil {
		return fmt.Errorf("not begun: %w", err)
	}
	defer func() {
		if cause := recover(); cause != nil {
			r.o.Log.Error("operation panicked", "id", e.op.ID, "description", e.op.Description, "cause", cause, "stack", string(debug.Stack()))
			err = fmt.Errorf("the node made a mistake in %q: see /1.0/debug/log", e.op.Description)
		}
	}()
	return work(e.ctx, &Progress{registry: r, entry: e})
}

var statusNames = map[int]string{
	osapi.OperationPending: "Pending", osapi.OperationRunning: "Running", osapi.OperationCancelling: "Cancelling",
	osapi.OperationSuccess: "Success", osapi.OperationFailure: "Failure", osapi.OperationCancelled: "Cancelled",
}

// Final is true for a status code after which nothing changes.
func Final(code int) bool { return code >= osapi.OperationSuccess }

func (r *Registry) setStatus(e *entry, code int) {
	e.op.StatusCode, e.op.Status = code, statusNames[code]
	e.op.UpdatedAt = r.o.Clock.Now().UTC()
	r.publish(e)
}

func (r *Registry) publish(e *entry) {
	if e.later != nil {
		e.later()
		e.later = nil
	}
	e.published = r.o.Clock.Now()
	r.o.Publish(snapshot(e))
}

// List gives all operations, the oldest first; never nil.
func (r *Registry) List() []osapi.Operation {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.prune()
	list := make([]osapi.Operation, 0, len(r.all))
	for _, e := range r.all {
		list = append(list, snapshot(e))
	}
	return list
}

// Show gives one operation. The error is ErrNotFound.
func (r *Registry) Show(id string) (osapi.Operation, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.prune()
	e, err := r.find(id)
	if err != nil {
		return osapi.Operation{}, err
	}
	return snapshot(e), nil
}

// Wait gives an operation when it is finished, or as it is when the timeout is over; a
// negative timeout is none. The error is ErrNotFound, ErrTooMany, or that of the
// caller's context.
func (r *Registry) Wait(ctx context.Context, id string, timeout time.Duration) (osapi.Operation, error) {
	r.mu.Lock()
	r.prune()
	e, err := r.find(id)
	if err == nil && r.waiters >= r.o.MaxWaiters {
		err = fmt.Errorf("waiting for operation %s: %w: %d callers wait already", id, ErrTooMany, r.waiters)
	}
	if err != nil {
		r.mu.Unlock()
		return osapi.Operation{}, err
	}
	r.waiters++
	r.mu.Unlock()
	over := make(chan struct{})
	if timeout == 0 {
		close(over)
	} else if timeout > 0 {
		stop := r.o.Clock.AfterFunc(timeout, sync.OnceFunc(func() { close(over) }))
		defer stop()
	}
	select {
	case <-e.done:
	case <-over:
	case <-ctx.Done():
		err = fmt.Errorf("waiting for operation %s: %w", id, ctx.Err())
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.waiters--
	return snapshot(e), err
}

// Cancel asks an operation to end. It does not wait for that; cancelling again does
// nothing. The error is ErrNotFound, ErrNotCancellable or ErrFinished.
func (r *Registry) Cancel(id string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	e, err := r.find(id)
	switch {
	case err != nil:
		return err
	case Final(e.op.StatusCode):
		return fmt.Errorf("cancelling operation %s (%s): %w with %s", id, e.op.Description, ErrFinished, e.op.Status)
	case e.op.StatusCode == osapi.OperationCancelling:
		return nil
	case !e.op.MayCancel:
		return fmt.Errorf("cancelling operation %s (%s): %w, wait for its end", id, e.op.Description, ErrNotCancellable)
	}
	e.op.MayCancel = false
	r.setStatus(e, osapi.OperationCancelling)
	e.cancel()
	return nil
}

// Drain waits until no operation is open. The error is that of the context.
func (r *Registry) Drain(ctx context.Context) error {
	for {
		r.mu.Lock()
		i := slices.IndexFunc(r.all, func(e *entry) bool { return !Final(e.op.StatusCode) })
		if i < 0 {
			r.mu.Unlock()
			return nil
		}
		e := r.all[i]
		r.mu.Unlock()
		select {
		case <-e.done:
		case <-ctx.Done():
			return fmt.Errorf("waiting for operation %s (%s): %w", e.op.ID, e.op.Description, ctx.Err())
		}
	}
}

// Counts gives how many operations there are of each status, by the name of the status
// in lower case. All six are there.
func (r *Registry) Counts() map[string]int {
	counts := map[string]int{}
	for _, name := range statusNames {
		counts[strings.ToLower(name)] = 0
	}
	for _, op := range r.List() {
		counts[strings.ToLower(op.Status)]++
	}
	return counts
}

func (r *Registry) find(id string) (*entry, error) {
	for _, e := range r.all {
		if e.op.ID == id {
			return e, nil
		}
	}
	return nil, fmt.Errorf("%w: %q is not there, or finished more than %s ago", ErrNotFound, cut(id, maxText), r.o.KeepFor)
}

func (r *Registry) open() int {
	n := 0
	for _, e := range r.all {
		if !Final(e.op.StatusCode) {
			n++
		}
	}
	return n
}

// prune forgets finished operations that are too old or too many, the oldest first.
func (r *Registry) prune() {
	finished := len(r.all) - r.open()
	limit := r.o.Clock.Now().Add(-r.o.KeepFor)
	r.all = slices.DeleteFunc(r.all, func(e *entry) bool {
		if !Final(e.op.StatusCode) || (finished <= r.o.Keep && e.op.UpdatedAt.After(limit)) {
			return false
		}
		finished--
		return true
	})
}

// snapshot is a copy that nobody changes any more.
func snapshot(e *entry) osapi.Operation {
	op := e.op
	op.Resources = cloneResources(op.Resources)
	if op.Metadata.Progress != nil {
		progress := *op.Metadata.Progress
		op.Metadata.Progress = &progress
	}
	return op
}

func cloneResources(resources map[string][]string) map[string][]string {
	clone := make(map[string][]string, len(resources))
	for kind, paths := range resources {
		clone[kind] = slices.Clone(paths)
	}
	return clone
}

// cut shortens a text to at most limit bytes, in valid UTF-8.
func cut(text string, limit int) string {
	if len(text) > limit {
		text = text[:limit]
	}
	return strings.ToValidUTF8(text, "?")
}

// newID gives a random UUID (version 4).
func newID() string {
	var b [16]byte
	rand.Read(b[:]) // never fails: see crypto/rand
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
