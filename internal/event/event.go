// Package event tells listeners what happens on the node, as it happens.
//
// The Hub takes events from publishers (the registry of operations, the log, the
// handlers of the API) and hands each to every listener of its type. A listener has a
// queue of bounded length; an event is encoded once, and all queues share its text.
//
// Invariants:
//
//   - A publisher never waits for a listener. A listener whose queue is full loses its
//     connection at that moment, rather than events without knowing: it connects again
//     and reads what it missed where that is kept (operations, the log).
//   - The events of one listener are in the order in which they were published.
//   - There are at most MaxListeners, and an event has at most MaxSize bytes.
//
// Nothing in this package logs: a line of the log is an event, and would come back.
package event

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	osapi "github.com/holdfast-os/holdfast/api/os"
)

// Errors of a Hub.
var (
	// ErrType is 400: no such type of event.
	ErrType = errors.New("unknown type of event")
	// ErrTooMany is 503: there are as many listeners as there may be.
	ErrTooMany = errors.New("too many listeners")
	// ErrSlow ends a subscription that did not read fast enough.
	ErrSlow = errors.New("too slow: events were lost, connect again")
	// ErrClosed ends a subscription when the daemon stops.
	ErrClosed = errors.New("the node is stopping")
	// ErrTooLarge is an event of more than MaxSize bytes; nobody gets it.
	ErrTooLarge = errors.New("event is too large")
)

const (
	// DefaultQueue is how many events may wait for one listener.
	DefaultQueue = 256
	// DefaultMaxListeners is how many listeners there may be.
	DefaultMaxListeners = 1100
	// MaxSize is the largest event in bytes of JSON.
	MaxSize = 64 << 10
)

// Types are all types of events, in the order of the documentation.
func Types() []string {
	return []string{osapi.EventTypeLogging, osapi.EventTypeOperation, osapi.EventTypeLifecycle}
}

// Options are what a Hub is made of.
type Options struct {
	// Now is the present; default time.Now.
	Now func() time.Time
	// Queue is how many events may wait for one listener; default DefaultQueue.
	Queue int
	// MaxListeners is how many listeners there may be; default DefaultMaxListeners.
	MaxListeners int
	// PingEvery is how often a listener on a websocket is asked whether it is there, and
	// how long its answer may take; default DefaultPingEvery.
	PingEvery time.Duration
}

// Hub hands events to listeners. Its methods may be called at the same time.
type Hub struct {
	o Options

	mu        sync.Mutex
	listeners map[*Subscription]struct{}
	held      int // places taken: open subscriptions, and those not yet released
	closed    bool
}

// New makes a hub without listeners.
func New(o Options) *Hub {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Queue <= 0 {
		o.Queue = DefaultQueue
	}
	if o.MaxListeners <= 0 {
		o.MaxListeners = DefaultMaxListeners
	}
	if o.PingEvery <= 0 {
		o.PingEvery = DefaultPingEvery
	}
	return &Hub{o: o, listeners: map[*Subscription]struct{}{}}
}

// Subscription is one listener.
type Subscription struct {
	hub    *Hub
	types  []string
	events chan []byte
	done   chan struct{}
	err    error // why it ended; set before done is closed
	once   sync.Once
}

// Events gives each event as the JSON text of an api.Event, which nobody may change.
// The channel is never closed: see Done.
func (s *Subscription) Events() <-chan []byte { return s.events }

// Done is closed when no more events come. What is in Events by then may be read.
func (s *Subscription) Done() <-chan struct{} { return s.done }

// Err says why the subscription ended, when Done is closed: ErrSlow, ErrClosed, or nil
// after Close.
func (s *Subscription) Err() error {
	<-s.done
	return s.err
}

// Close ends the subscription and frees its place.
func (s *Subscription) Close() {
	s.once.Do(func() {
		s.hub.mu.Lock()
		defer s.hub.mu.Unlock()
		s.hub.held--
		s.hub.end(s, nil)
	})
}

// end takes a listener out, with the lock held.
func (h *Hub) end(s *Subscription, err error) {
	if _, there := h.listeners[s]; there {
		delete(h.listeners, s)
		s.err = err
		close(s.done)
	}
}

// Subscribe begins to listen to types of events; none means all. Who subscribes must
// call Close, also after Done. The error is ErrType, ErrTooMany or ErrClosed.
func (h *Hub) Subscribe(types ...string) (*Subscription, error) {
	if len(types) == 0 {
		types = Types()
	}
	for _, t := range types {
		if !slices.Contains(Types(), t) {
			return nil, fmt.Errorf("%w: %.32q, known are %q", ErrType, t, Types())
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return nil, ErrClosed
	}
	if h.held >= h.o.MaxListeners {
		return nil, fmt.Errorf("%w: the limit is %d, close one of them", ErrTooMany, h.o.MaxListeners)
	}
	s := &Subscription{hub: h, types: slices.Clone(types), events: make(chan []byte, h.o.Queue), done: make(chan struct{})}
	h.listeners[s] = struct{}{}
	h.held++
	return s, nil
}

// Publish hands an event to every listener of its type, without waiting for any. The
// metadata is what belongs to the type: an EventLogging, an Operation or an
// EventLifecycle. The error is ErrType, ErrTooLarge, or that of encoding; nobody gets
// the event then.
func (h *Hub) Publish(kind string, metadata any) error {
	if !slices.Contains(Types(), kind) {
		return fmt.Errorf("publishing an event: %w: %.32q", ErrType, kind)
	}
	if !h.wanted(kind) {
		return nil
	}
	body, err := json.Marshal(metadata)
	if err != nil {
		return fmt.Errorf("publishing an event of type %s: %w", kind, err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	text, err := json.Marshal(osapi.Event{Type: kind, Timestamp: h.o.Now().UTC(), Metadata: body})
	if err != nil {
		return fmt.Errorf("publishing an event of type %s: %w", kind, err)
	}
	if len(text) > MaxSize {
		return fmt.Errorf("publishing an event of type %s: %w: %d bytes, the limit is %d", kind, ErrTooLarge, len(text), MaxSize)
	}
	for s := range h.listeners {
		if !slices.Contains(s.types, kind) {
			continue
		}
		select {
		case s.events <- text:
		default:
			h.end(s, ErrSlow)
		}
	}
	return nil
}

// wanted tells whether anybody listens to a type.
func (h *Hub) wanted(kind string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	for s := range h.listeners {
		if slices.Contains(s.types, kind) {
			return true
		}
	}
	return false
}

// Listeners is how many places are taken.
func (h *Hub) Listeners() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.held
}

// Close ends all subscriptions with ErrClosed, and refuses new ones.
func (h *Hub) Close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	for s := range h.listeners {
		h.end(s, ErrClosed)
	}
}
