package daemon

import (
	"context"

	"github.com/holdfast-os/holdfast/internal/plan"
)

// Planned is a Setting made of a pure checker and planner, and of hands that carry plans
// out: C is the configuration, S the state, F what the machine is.
type Planned[C, S, F any] struct {
	// Facts looks at the machine.
	Facts func(ctx context.Context) (F, error)
	// CheckConfig fills defaults in and puts kept secrets in the place of references; its
	// error is a config.Problems.
	CheckConfig func(value, kept *C, facts F) error
	// PlanConfig says what leads from one configuration to another. Before is nil when
	// nothing is known of what is in effect: then the plan is everything.
	PlanConfig func(before *C, next C, facts F) (plan.Plan, error)
	// Do carries a plan out.
	Do func(ctx context.Context, p plan.Plan) error
	// HideConfig puts references in the place of secrets; nil where there are none.
	HideConfig func(C) C
	// Observe gives the state.
	Observe func(ctx context.Context, config C) (S, error)
}

// Check is part of Setting.
func (s Planned[C, S, F]) Check(ctx context.Context, value, kept *C) error {
	facts, err := s.Facts(ctx)
	if err != nil {
		return err
	}
	return s.CheckConfig(value, kept, facts)
}

// Plan is part of Setting.
func (s Planned[C, S, F]) Plan(ctx context.Context, before *C, next C) (plan.Plan, error) {
	facts, err := s.Facts(ctx)
	if err != nil {
		return plan.Plan{}, err
	}
	return s.PlanConfig(before, next, facts)
}

// Apply is part of Setting: it carries out what Plan shows.
func (s Planned[C, S, F]) Apply(ctx context.Context, before *C, next C) error {
	p, err := s.Plan(ctx, before, next)
	if err != nil {
		return err
	}
	return s.Do(ctx, p)
}

// Hide is part of Setting.
func (s Planned[C, S, F]) Hide(value C) C {
	if s.HideConfig == nil {
		return value
	}
	return s.HideConfig(value)
}

// State is part of Setting.
func (s Planned[C, S, F]) State(ctx context.Context, config C) (S, error) {
	return s.Observe(ctx, config)
}
