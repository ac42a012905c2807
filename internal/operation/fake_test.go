package operation_test

import (
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"
	"time"

	osapi "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/operation"
)

// clock is time that a test moves.
type clock struct {
	mu   sync.Mutex
	now  time.Time
	due  []alarm
	next int
}

type alarm struct {
	id int
	at time.Time
	do func()
}

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) AfterFunc(d time.Duration, do func()) func() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.next++
	id := c.next
	c.due = append(c.due, alarm{id, c.now.Add(d), do})
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.due = slices.DeleteFunc(c.due, func(a alarm) bool { return a.id == id })
	}
}

// advance moves time and calls what became due.
func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	c.now = c.now.Add(d)
	var now []alarm
	c.due = slices.DeleteFunc(c.due, func(a alarm) bool {
		if a.at.After(c.now) {
			return false
		}
		now = append(now, a)
		return true
	})
	c.mu.Unlock()
	for _, a := range now {
		a.do()
	}
}

// alarms is how many are set.
func (c *clock) alarms() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.due)
}

// world is a registry with its clock and what it has published.
type world struct {
	clock  *clock
	o      operation.Options
	mu     sync.Mutex
	events []osapi.Operation
}

func newWorld() *world {
	w := &world{clock: &clock{now: noon}}
	n := 0
	w.o = operation.Options{
		Clock: operation.Clock{Now: w.clock.Now, AfterFunc: w.clock.AfterFunc},
		Log:   slog.New(slog.NewTextHandler(io.Discard, nil)),
		NewID: func() string { n++; return fmt.Sprintf("op-%d", n) },
		Publish: func(op osapi.Operation) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.events = append(w.events, op)
		},
	}
	return w
}

// told gives what was published so far, one line each.
func (w *world) told() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	lines := []string{}
	for _, op := range w.events {
		line := fmt.Sprintf("%s %s", op.ID, op.Status)
		if p := op.Metadata.Progress; p != nil {
			line += fmt.Sprintf(" %s %d/%d %s", p.Stage, p.Done, p.Total, p.Text)
		}
		lines = append(lines, line)
	}
	return lines
}
