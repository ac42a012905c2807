// Package change is how the configuration of a node changes: planned first, made whole or
// not at all, taken back by itself when nobody confirms it, and undone next week.
//
// The configuration is a set of sections, each one JSON document that is replaced as a
// whole. Engine keeps them, makes one change at a time, and remembers the last
// MaxHistory accepted ones.
//
// On disk there are two kinds of documents. "configuration" holds every section as it
// was last accepted, the number of that change, and the change that is under way, if
// any. "change-N" holds an accepted change: when, by whom, and the sections before and
// after it.
//
// Invariants:
//
//   - The one write of "configuration" that raises the number is what accepts a change.
//     A power cut before it leaves the configuration of before, which the next start
//     applies; after it the new one holds.
//   - A change that waits for its confirmation is not accepted. A restart of the daemon or
//     of the machine takes it back as the end of its time does.
//   - "change-N" is written before the change N is accepted, so that the history has no
//     holes; one that is left by a power cut is written over by the next change N.
//   - When a section cannot be applied, those already applied go back, in reverse.
//   - Nothing here knows what is in a document; secrets are hidden by the section.
package change

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/holdfast-os/holdfast/internal/plan"
	"github.com/holdfast-os/holdfast/internal/state"
)

// MaxHistory is how many accepted changes are kept.
const MaxHistory = 50

// MaxConfirm is the longest time that a change may wait for its confirmation.
const MaxConfirm = 24 * time.Hour

// applyLimit is how long one section may take to be applied.
const applyLimit = 5 * time.Minute

var (
	// ErrBusy is the error while another change goes on or waits for its confirmation.
	ErrBusy = errors.New("another change is going on")
	// ErrNothingPending is the error when there is no change to confirm or to take back.
	ErrNothingPending = errors.New("no configuration is pending a confirmation")
	// ErrNotLoaded is the error before Load.
	ErrNotLoaded = errors.New("the configuration has not been read yet")
	// ErrNoSuch is the error for a section or a change that there is not.
	ErrNoSuch = errors.New("there is none")
)

// Store keeps documents; *state.Store is one.
type Store interface {
	Load(doc state.Document, into any) (state.Loaded, error)
	Save(doc state.Document, value any) error
	Remove(doc state.Document) error
}

// Origin says who makes a change.
type Origin struct {
	// Who is the fingerprint of a certificate, "local" or "application NAME".
	Who string `json:"who"`
	// What is the request in short, as "PUT /1.0/system/network".
	What string `json:"what"`
}

// Status is a change under way.
type Status struct {
	Origin
	Since time.Time `json:"since"`
	// Sections are those that it changes.
	Sections []string `json:"sections"`
	// Deadline is when the change is taken back unless it is confirmed; zero while it is
	// being applied.
	Deadline time.Time `json:"deadline,omitzero"`
}

// pending is the change under way, as it is on disk.
type pending struct {
	Status
	Before map[string]json.RawMessage `json:"before"`
	After  map[string]json.RawMessage `json:"after"`
}

// document is "configuration".
type document struct {
	Number   int                        `json:"number"`
	Sections map[string]json.RawMessage `json:"sections"`
	Pending  *pending                   `json:"pending,omitempty"`
}

var configurationDocument = state.Document{Name: "configuration", Version: 1}

// Options are what an Engine is made of.
type Options struct {
	// Sections in the order in which they are applied.
	Sections []Section
	Now      func() time.Time
	// After gives a channel that gets a value when the time is over.
	After func(time.Duration) <-chan time.Time
	Log   *slog.Logger
	// Changed is told when a change was accepted or taken back, with what happened as
	// "accepted", "confirmed", "reverted" or "failed"; nil tells nobody.
	Changed func(what string, status Status, number int)
}

// Engine keeps the configuration of one node. Its methods may be called at the same time.
type Engine struct {
	o Options

	mu    sync.Mutex
	store Store
	doc   document
	// interrupted is the change that a restart has cut short, until Settle.
	interrupted *pending
	// busy is the change under way or waiting; nil when there is none.
	busy *pending
	// read are changes of the history that are in memory.
	read map[int]Entry
	// decided ends the wait for a confirmation.
	decided chan struct{}
}

// New makes an engine that has no documents yet.
func New(o Options) *Engine { return &Engine{o: o} }

// Load reads the configuration. damaged is told of a document whose last copy had to be
// used. A change that was under way counts as taken back.
func (e *Engine) Load(store Store, damaged func(error)) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	var doc document
	found, err := store.Load(configurationDocument, &doc)
	if err != nil {
		return err
	}
	if found.Damage != nil {
		damaged(found.Damage)
	}
	if doc.Sections == nil {
		doc.Sections = map[string]json.RawMessage{}
	}
	e.interrupted, doc.Pending = doc.Pending, nil
	e.store, e.doc = store, doc
	return nil
}

// Settle notes that every section is applied, and with it that a change which a restart
// had cut short is undone.
func (e *Engine) Settle() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.interrupted == nil {
		return nil
	}
	if err := e.store.Save(configurationDocument, e.doc); err != nil {
		return fmt.Errorf("keeping the configuration: %w", err)
	}
	was := e.interrupted.Status
	e.interrupted = nil
	e.o.Log.Warn("a change that a restart cut short is taken back", "sections", was.Sections, "by", was.Who, "since", was.Since)
	e.tell("reverted", was, e.doc.Number)
	return nil
}

// Boot applies one section as it was last accepted.
func (e *Engine) Boot(ctx context.Context, name string) error {
	section, err := e.section(name)
	if err != nil {
		return err
	}
	e.mu.Lock()
	if e.store == nil {
		e.mu.Unlock()
		return ErrNotLoaded
	}
	next, before := e.doc.Sections[name], json.RawMessage(nil)
	if e.interrupted != nil {
		before = e.interrupted.After[name]
	}
	e.mu.Unlock()
	return section.Apply(ctx, before, next)
}

// Seed keeps a first document for a section that has none, without applying it.
func (e *Engine) Seed(ctx context.Context, name string, raw json.RawMessage) error {
	section, err := e.section(name)
	if err != nil {
		return err
	}
	next, err := section.Check(ctx, raw, nil)
	if err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.store == nil {
		return ErrNotLoaded
	}
	if _, there := e.doc.Sections[name]; there {
		return nil
	}
	doc := e.doc
	doc.Sections = maps.Clone(doc.Sections)
	doc.Sections[name] = next
	if err := e.store.Save(configurationDocument, doc); err != nil {
		return fmt.Errorf("keeping the configuration: %w", err)
	}
	e.doc = doc
	return nil
}

// Get gives a section as it is in effect, with its secrets; nil when nothing was ever
// said about it.
func (e *Engine) Get(name string) (json.RawMessage, error) {
	if _, err := e.section(name); err != nil {
		return nil, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.store == nil {
		return nil, ErrNotLoaded
	}
	return e.current(name), nil
}

// current is a section in effect. The lock is held.
func (e *Engine) current(name string) json.RawMessage {
	if e.busy != nil && !e.busy.Deadline.IsZero() {
		if raw, ok := e.busy.After[name]; ok {
			return raw
		}
	}
	return e.doc.Sections[name]
}

// Number is that of the last accepted change; 0 before the first.
func (e *Engine) Number() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.doc.Number
}

// Pending gives the change under way; false when there is none.
func (e *Engine) Pending() (Status, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.busy == nil {
		return Status{}, false
	}
	return e.busy.Status, true
}

// Plan checks new documents and says what they would change. The sections of the answer
// are in the order in which they are applied.
func (e *Engine) Plan(ctx context.Context, wanted map[string]json.RawMessage) (plan.Plan, error) {
	before, after, err := e.check(ctx, wanted)
	if err != nil {
		return plan.Plan{}, err
	}
	var whole plan.Plan
	for _, section := range e.o.Sections {
		next, ok := after[section.Name()]
		if !ok {
			continue
		}
		is := before[section.Name()]
		if len(is) == 0 {
			is = e.defaults(ctx, section)
		}
		keeps, err := keeping(section, is, next)
		if err != nil {
			return plan.Plan{}, err
		}
		p, err := section.Plan(ctx, before[section.Name()], next)
		if err != nil {
			return plan.Plan{}, fmt.Errorf("planning %s: %w", section.Name(), err)
		}
		whole.Add(keeps)
		whole.Append(p)
	}
	return whole, nil
}

// keeping is the step that every changed section begins with.
func keeping(section Section, before, next json.RawMessage) (plan.Step, error) {
	step := plan.Step{Kind: plan.KeepDocument, Object: section.Name()}
	var err error
	if step.Before, err = readable(section, before); err != nil {
		return step, err
	}
	step.After, err = readable(section, next)
	return step, err
}

// readable is a document for a person: without secrets, a line for each value.
func readable(section Section, raw json.RawMessage) (string, error) {
	if len(raw) == 0 || string(raw) == "null" {
		return "", nil
	}
	hidden, err := section.Hide(raw)
	if err != nil {
		return "", err
	}
	var lines bytes.Buffer
	if err := json.Indent(&lines, hidden, "", "  "); err != nil {
		return "", fmt.Errorf("reading the configuration of %s: %w", section.Name(), err)
	}
	return lines.String() + "\n", nil
}

// check gives the sections that would differ, before and after, as whole documents.
func (e *Engine) check(ctx context.Context, wanted map[string]json.RawMessage) (before, after map[string]json.RawMessage, err error) {
	for name := range wanted {
		if _, err := e.section(name); err != nil {
			return nil, nil, err
		}
	}
	before, after = map[string]json.RawMessage{}, map[string]json.RawMessage{}
	var problems []error
	for _, section := range e.o.Sections {
		name := section.Name()
		raw, ok := wanted[name]
		if !ok {
			continue
		}
		kept, err := e.Get(name)
		if err != nil {
			return nil, nil, err
		}
		next, err := section.Check(ctx, raw, kept)
		if err != nil {
			problems = append(problems, prefixed(name, len(wanted) > 1, err))
			continue
		}
		is := kept
		if len(is) == 0 {
			is = e.defaults(ctx, section)
		}
		if !bytes.Equal(next, is) {
			before[name], after[name] = kept, next
		}
	}
	return before, after, errors.Join(problems...)
}

// Effective gives a section as it is in effect, with its secrets: what was accepted or
// waits to be confirmed, or the defaults; nil for a section that has none.
func (e *Engine) Effective(ctx context.Context, name string) (json.RawMessage, error) {
	raw, err := e.Get(name)
	if err != nil || len(raw) > 0 {
		return raw, err
	}
	section, err := e.section(name)
	if err != nil {
		return nil, err
	}
	return e.defaults(ctx, section), nil
}

// defaults is what a section is when nobody has said anything; nil when that is nothing.
func (e *Engine) defaults(ctx context.Context, section Section) json.RawMessage {
	raw, err := section.Check(ctx, nil, nil)
	if err != nil {
		return nil
	}
	return raw
}

func (e *Engine) section(name string) (Section, error) {
	at := slices.IndexFunc(e.o.Sections, func(s Section) bool { return s.Name() == name })
	if at < 0 {
		return nil, fmt.Errorf("section %q: %w", name, ErrNoSuch)
	}
	return e.o.Sections[at], nil
}

func (e *Engine) tell(what string, status Status, number int) {
	if e.o.Changed != nil {
		e.o.Changed(what, status, number)
	}
}
