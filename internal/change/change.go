package change

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"runtime/debug"
	"slices"
	"time"

	"github.com/holdfast-os/holdfast/internal/config"
)

// Request is one change.
type Request struct {
	Origin
	// Sections are the new documents by the section's name; others stay.
	Sections map[string]json.RawMessage
	// Confirm is how long the change waits to be confirmed before it is taken back; 0
	// accepts it at once.
	Confirm time.Duration
	// Unchanged is asked once the change may begin, before anything is done; an error
	// ends it. It is where a caller's If-Match is looked at. Nil asks nobody.
	Unchanged func() error
}

// Apply makes a change, whole or not at all. It gives the number of the change, or 0 when
// nothing differs or the change waits for its confirmation. While another one is under
// way the error is an ErrBusy that says whose.
func (e *Engine) Apply(ctx context.Context, r Request) (int, error) {
	if r.Confirm < 0 || r.Confirm > MaxConfirm {
		problems := config.Problems{}
		problems.Add("confirmation_timeout", "range", "%s is not between 0 and %s", r.Confirm, MaxConfirm)
		return 0, problems
	}
	if err := e.begin(r); err != nil {
		return 0, err
	}
	waits := false
	defer func() {
		if !waits { // a panic too must not leave the engine reserved
			e.end()
		}
	}()
	number, err := e.make(ctx, r)
	waits = err == nil && r.Confirm > 0 && number != 0
	if r.Confirm > 0 {
		return 0, err
	}
	return number, err
}

// begin reserves the engine for one change.
func (e *Engine) begin(r Request) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.store == nil:
		return ErrNotLoaded
	case e.busy != nil:
		return busy(e.busy.Status, e.o.Now())
	}
	e.busy = &pending{Status: Status{Origin: r.Origin, Since: e.o.Now().UTC(), Sections: slices.Sorted(maps.Keys(r.Sections))}}
	return nil
}

func busy(s Status, now time.Time) error {
	if s.Deadline.IsZero() {
		return fmt.Errorf("%w: %s by %s since %s; try again when it has ended", ErrBusy, s.What, s.Who, s.Since.Format(time.RFC3339))
	}
	return fmt.Errorf("%w: %s by %s since %s waits to be confirmed for %s more; confirm it, take it back, or wait",
		ErrBusy, s.What, s.Who, s.Since.Format(time.RFC3339), s.Deadline.Sub(now).Round(time.Second))
}

func (e *Engine) end() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.busy = nil
}

// make carries a change out. The engine is reserved.
func (e *Engine) make(ctx context.Context, r Request) (int, error) {
	if r.Unchanged != nil {
		if err := r.Unchanged(); err != nil {
			return 0, err
		}
	}
	before, after, err := e.check(ctx, r.Sections)
	if err != nil || len(after) == 0 {
		return 0, err
	}
	// What has begun is brought to an end, whether or not the caller is still there.
	ctx = context.WithoutCancel(ctx)
	now := pending{Status: e.busy.Status, Before: before, After: after}
	now.Sections = slices.Sorted(maps.Keys(after))
	if err := e.keep(&now); err != nil {
		return 0, err
	}
	if err := e.applyAll(ctx, before, after); err != nil {
		e.tell("failed", now.Status, e.Number())
		return 0, err
	}
	if r.Confirm > 0 {
		return 1, e.await(ctx, now, r.Confirm)
	}
	number, err := e.accept(now)
	if err != nil {
		return 0, errors.Join(err, e.goBack(ctx, now.After, now.Before))
	}
	e.tell("accepted", now.Status, number)
	return number, nil
}

// keep writes the change under way down, or with nil that there is none.
func (e *Engine) keep(p *pending) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	doc := e.doc
	doc.Pending = p
	if err := e.store.Save(configurationDocument, doc); err != nil {
		return fmt.Errorf("keeping the configuration: %w", err)
	}
	return nil
}

// applyAll applies sections in their order; on an error those applied go back.
func (e *Engine) applyAll(ctx context.Context, before, after map[string]json.RawMessage) error {
	begun := map[string]json.RawMessage{}
	for _, section := range e.o.Sections {
		name := section.Name()
		next, ok := after[name]
		if !ok {
			continue
		}
		begun[name] = next
		err := e.applyOne(ctx, section, before[name], next)
		if err == nil {
			continue
		}
		err = fmt.Errorf("applying %s: %w", name, err)
		if back := e.goBack(ctx, begun, before); back != nil {
			return fmt.Errorf("%w; going back did not work either, restart the node to get the configuration of before: %w", err, back)
		}
		return fmt.Errorf("%w; the configuration of before is in effect again", err)
	}
	return nil
}

// A panic of the section is an error, so that what was begun goes back.
func (e *Engine) applyOne(ctx context.Context, section Section, before, next json.RawMessage) (err error) {
	ctx, cancel := context.WithTimeout(ctx, applyLimit)
	defer cancel()
	defer func() {
		if cause := recover(); cause != nil {
			e.o.Log.Error("applying a section panicked", "section", section.Name(), "cause", cause, "stack", string(debug.Stack()))
			err = errors.New("the node made a mistake: see /1.0/debug/log")
		}
	}()
	return section.Apply(ctx, before, next)
}

// goBack applies the documents of before to the sections that were changed, the last one
// first, and forgets the change. On an error the note of the change stays, so that the
// next start goes back.
func (e *Engine) goBack(ctx context.Context, changed, before map[string]json.RawMessage) error {
	var failures []error
	for _, section := range slices.Backward(e.o.Sections) {
		name := section.Name()
		if is, ok := changed[name]; ok {
			if err := e.applyOne(ctx, section, is, before[name]); err != nil {
				failures = append(failures, fmt.Errorf("%s: %w", name, err))
			}
		}
	}
	if len(failures) > 0 {
		return errors.Join(failures...)
	}
	return e.keep(nil)
}

// accept makes a change last.
func (e *Engine) accept(p pending) (int, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	doc := document{Number: e.doc.Number + 1, Sections: maps.Clone(e.doc.Sections)}
	for name, raw := range p.After {
		doc.Sections[name] = raw
	}
	entry := Entry{
		Number: doc.Number, Time: e.o.Now().UTC(), Origin: p.Origin, Sections: p.Sections, Before: p.Before, After: p.After,
	}
	if err := e.store.Save(entryDocument(doc.Number), entry); err != nil {
		return 0, fmt.Errorf("keeping the history: %w", err)
	}
	if err := e.store.Save(configurationDocument, doc); err != nil {
		return 0, fmt.Errorf("keeping the configuration: %w", err)
	}
	e.doc = doc
	e.remember(entry)
	if old := doc.Number - MaxHistory; old > 0 {
		if err := e.store.Remove(entryDocument(old)); err != nil {
			e.o.Log.Warn("removing an old change from the history", "change", old, "error", err)
		}
	}
	return doc.Number, nil
}

// await leaves a change in effect until it is confirmed or its time is over.
func (e *Engine) await(ctx context.Context, p pending, within time.Duration) error {
	p.Deadline = e.o.Now().Add(within).UTC()
	if err := e.keep(&p); err != nil {
		return errors.Join(err, e.goBack(ctx, p.After, p.Before))
	}
	e.mu.Lock()
	e.busy, e.decided = &p, make(chan struct{})
	decided := e.decided
	e.mu.Unlock()
	over := e.o.After(within)
	go func() {
		select {
		case <-decided:
		case <-over:
			if err := e.revert(ctx, decided); err != nil && !errors.Is(err, ErrNothingPending) {
				e.o.Log.Error("taking back a change that nobody confirmed; the next start does it", "error", err)
			}
		}
	}()
	return nil
}

// Confirm accepts the change that waits for it and gives its number.
func (e *Engine) Confirm() (int, error) {
	p, err := e.decide(nil)
	if err != nil {
		return 0, err
	}
	defer e.end()
	number, err := e.accept(p)
	if err != nil {
		return 0, errors.Join(err, e.goBack(context.Background(), p.After, p.Before))
	}
	e.tell("confirmed", p.Status, number)
	return number, nil
}

// Revert takes the change back that waits for its confirmation.
func (e *Engine) Revert(ctx context.Context) error { return e.revert(context.WithoutCancel(ctx), nil) }

func (e *Engine) revert(ctx context.Context, only chan struct{}) error {
	p, err := e.decide(only)
	if err != nil {
		return err
	}
	defer e.end()
	err = e.goBack(ctx, p.After, p.Before)
	e.tell("reverted", p.Status, e.Number())
	return err
}

// decide takes the waiting change, so that nobody else decides on it. With only it takes
// no other change than the one that waits there.
func (e *Engine) decide(only chan struct{}) (pending, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.store == nil {
		return pending{}, ErrNotLoaded
	}
	if e.busy == nil || e.decided == nil || (only != nil && only != e.decided) {
		return pending{}, ErrNothingPending
	}
	close(e.decided)
	e.decided = nil
	p := *e.busy
	// Until it is decided the change counts as under way.
	under := p
	under.Deadline = time.Time{}
	e.busy = &under
	return p, nil
}

// prefixed puts the section's name before each path when there are several sections.
func prefixed(name string, several bool, err error) error {
	var problems config.Problems
	if !several || !errors.As(err, &problems) {
		return err
	}
	named := make(config.Problems, len(problems))
	for i, p := range problems {
		p.Path = name + "." + p.Path
		named[i] = p
	}
	return named
}
