package change

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/holdfast-os/holdfast/internal/plan"
	"github.com/holdfast-os/holdfast/internal/state"
)

// Entry is an accepted change, with its secrets.
type Entry struct {
	Number int       `json:"number"`
	Time   time.Time `json:"time"`
	Origin
	Sections []string                   `json:"sections"`
	Before   map[string]json.RawMessage `json:"before"`
	After    map[string]json.RawMessage `json:"after"`
}

func entryDocument(number int) state.Document {
	return state.Document{Name: fmt.Sprintf("change-%d", number), Version: 1}
}

// History gives the kept changes, the newest first. A damaged one is left out and told.
func (e *Engine) History() ([]Entry, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.store == nil {
		return nil, ErrNotLoaded
	}
	entries := []Entry{}
	for number := e.doc.Number; number > 0 && number > e.doc.Number-MaxHistory; number-- {
		entry, err := e.entry(number)
		if err != nil {
			e.o.Log.Error("reading a change of the history", "change", number, "error", err)
			continue
		}
		entries = append(entries, entry)
	}
	return entries, nil
}

// Show gives one change; ErrNoSuch when it is not kept.
func (e *Engine) Show(number int) (Entry, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.store == nil {
		return Entry{}, ErrNotLoaded
	}
	return e.entry(number)
}

// entry reads a change. The lock is held.
func (e *Engine) entry(number int) (Entry, error) {
	if number < 1 || number > e.doc.Number || number <= e.doc.Number-MaxHistory {
		return Entry{}, fmt.Errorf("change %d: %w: those from %d to %d are kept",
			number, ErrNoSuch, max(1, e.doc.Number-MaxHistory+1), e.doc.Number)
	}
	if entry, ok := e.read[number]; ok {
		return entry, nil
	}
	var entry Entry
	found, err := e.store.Load(entryDocument(number), &entry)
	if err == nil && !found.Found {
		err = fmt.Errorf("change %d: %w", number, ErrNoSuch)
	}
	if err == nil {
		e.remember(entry)
	}
	return entry, err
}

// maxRemembered is how large a change may be to stay in memory, in bytes.
const maxRemembered = 64 << 10

// remember keeps a change that was read or made, as people look at the history again and
// again. The lock is held.
func (e *Engine) remember(entry Entry) {
	size := 0
	for _, sections := range []map[string]json.RawMessage{entry.Before, entry.After} {
		for _, raw := range sections {
			size += len(raw)
		}
	}
	if e.read == nil {
		e.read = map[int]Entry{}
	}
	delete(e.read, entry.Number-MaxHistory)
	if size <= maxRemembered {
		e.read[entry.Number] = entry
	}
}

// At gives every section as it was after a change, with secrets. 0 is before the first
// one; ErrNoSuch when a change on the way back is not kept any more.
func (e *Engine) At(number int) (map[string]json.RawMessage, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.store == nil {
		return nil, ErrNotLoaded
	}
	if number < max(0, e.doc.Number-MaxHistory) || number > e.doc.Number {
		return nil, fmt.Errorf("change %d: %w: those from %d to %d can be gone back to",
			number, ErrNoSuch, max(0, e.doc.Number-MaxHistory), e.doc.Number)
	}
	sections := map[string]json.RawMessage{}
	for name, raw := range e.doc.Sections {
		sections[name] = raw
	}
	for n := e.doc.Number; n > number; n-- {
		entry, err := e.entry(n)
		if err != nil {
			return nil, err
		}
		for _, name := range entry.Sections {
			sections[name] = entry.Before[name]
		}
	}
	return sections, nil
}

// Diff is the difference between the configuration after one change and after another,
// without secrets; 0 is before the first change.
func (e *Engine) Diff(from, to int) (string, error) {
	before, err := e.At(from)
	if err != nil {
		return "", err
	}
	after, err := e.At(to)
	if err != nil {
		return "", err
	}
	var text strings.Builder
	for _, section := range e.o.Sections {
		name := section.Name()
		if bytes.Equal(before[name], after[name]) {
			continue
		}
		step, err := keeping(section, before[name], after[name])
		if err != nil {
			return "", err
		}
		difference := plan.Diff(name, step.Before, step.After)
		if difference == "" {
			difference = name + ": a secret differs\n"
		}
		text.WriteString(difference)
	}
	return text.String(), nil
}

// Rollback makes the configuration what it was after a change. It is a change of its own
// and can be undone like any other.
func (e *Engine) Rollback(ctx context.Context, number int, r Request) (int, error) {
	sections, err := e.At(number)
	if err != nil {
		return 0, err
	}
	r.Sections = sections
	return e.Apply(ctx, r)
}

// HideSection gives a section's document with references in the place of secrets.
func (e *Engine) HideSection(name string, raw json.RawMessage) (json.RawMessage, error) {
	section, err := e.section(name)
	if err != nil || len(raw) == 0 {
		return raw, err
	}
	return section.Hide(raw)
}
