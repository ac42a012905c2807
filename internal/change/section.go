package change

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/holdfast-os/holdfast/internal/plan"
)

// Section is one part of the configuration, as the engine sees it: documents as JSON.
// A document that Check has let through is a whole one, with every default in it.
type Section interface {
	// Name is the section's name in paths and documents, as "network".
	Name() string
	// Check gives the document with its defaults, and with the kept secrets in the place
	// of references to them. kept is nil before the first change. What is wrong is a
	// config.Problems.
	Check(ctx context.Context, raw, kept json.RawMessage) (json.RawMessage, error)
	// Plan says what going from one document to another would do; before is nil when
	// nothing is known of what is in effect.
	Plan(ctx context.Context, before, next json.RawMessage) (plan.Plan, error)
	// Apply does it. It may be called again, and after a call that was cut short.
	Apply(ctx context.Context, before, next json.RawMessage) error
	// Hide gives the document with references in the place of secrets.
	Hide(raw json.RawMessage) (json.RawMessage, error)
}

// Typed is a Section of a Go type. Functions that are nil do nothing.
type Typed[T any] struct {
	// Section is the name.
	Section string
	// CheckConfig fills defaults in and puts kept secrets (nil: none) in the place of
	// references; its error is a config.Problems.
	CheckConfig func(ctx context.Context, value, kept *T) error
	// PlanConfig and ApplyConfig are Plan and Apply.
	PlanConfig  func(ctx context.Context, before *T, next T) (plan.Plan, error)
	ApplyConfig func(ctx context.Context, before *T, next T) error
	// HideConfig puts references in the place of secrets. It must not change what its
	// argument points to.
	HideConfig func(T) T
}

// Name is part of Section.
func (t Typed[T]) Name() string { return t.Section }

// Check is part of Section.
func (t Typed[T]) Check(ctx context.Context, raw, kept json.RawMessage) (json.RawMessage, error) {
	value, err := t.decode(raw)
	if err != nil {
		return nil, err
	}
	before, err := t.decode(kept)
	if err != nil {
		return nil, err
	}
	if value == nil {
		value = new(T)
	}
	if t.CheckConfig != nil {
		if err := t.CheckConfig(ctx, value, before); err != nil {
			return nil, err
		}
	}
	return json.Marshal(value)
}

// Plan is part of Section.
func (t Typed[T]) Plan(ctx context.Context, before, next json.RawMessage) (plan.Plan, error) {
	from, to, err := t.both(ctx, before, next)
	if err != nil || t.PlanConfig == nil {
		return plan.Plan{}, err
	}
	return t.PlanConfig(ctx, from, *to)
}

// Apply is part of Section.
func (t Typed[T]) Apply(ctx context.Context, before, next json.RawMessage) error {
	from, to, err := t.both(ctx, before, next)
	if err != nil || t.ApplyConfig == nil {
		return err
	}
	return t.ApplyConfig(ctx, from, *to)
}

// Hide is part of Section.
func (t Typed[T]) Hide(raw json.RawMessage) (json.RawMessage, error) {
	if t.HideConfig == nil {
		return raw, nil
	}
	value, err := t.decode(raw)
	if err != nil || value == nil {
		return raw, err
	}
	return json.Marshal(t.HideConfig(*value))
}

// both decodes two documents. No next document is one of defaults.
func (t Typed[T]) both(ctx context.Context, before, next json.RawMessage) (from, to *T, err error) {
	if from, err = t.decode(before); err != nil {
		return nil, nil, err
	}
	if to, err = t.decode(next); err != nil {
		return nil, nil, err
	}
	if to == nil {
		to = new(T)
		if t.CheckConfig != nil {
			err = t.CheckConfig(ctx, to, nil)
		}
	}
	return from, to, err
}

// decode gives nil for no document.
func (t Typed[T]) decode(raw json.RawMessage) (*T, error) {
	if len(raw) == 0 || string(raw) == "null" {
		return nil, nil
	}
	value := new(T)
	if err := json.Unmarshal(raw, value); err != nil {
		return nil, fmt.Errorf("reading the configuration of %s: %w", t.Section, err)
	}
	return value, nil
}
