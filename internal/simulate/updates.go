package simulate

import (
	"context"
	"errors"

	osapi "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/update"
)

// updates is daemon.Updates of a machine that has the newest release, whatever the channel.
type updates struct {
	*Node
	apps applications
}

// Run waits for the end.
func (u updates) Run(ctx context.Context, _ <-chan struct{}, _ func(update.Notice)) error {
	<-ctx.Done()
	return ctx.Err()
}

// State is that of a node which has nothing to do.
func (u updates) State() osapi.UpdateState {
	return osapi.UpdateState{State: string(update.Idle), RunningVersion: version, Slots: []osapi.UpdateSlot{{Version: version, Running: true}}}
}

// Plan has nothing to do.
func (u updates) Plan(ctx context.Context) (osapi.UpdatePlan, error) {
	return osapi.UpdatePlan{Why: "it is the newest release", Channel: "stable", Version: version, RunningVersion: version}, u.faults.hit(ctx, "updates.plan")
}

// Check looks at every application.
func (u updates) Check(ctx context.Context, post osapi.UpdateCheckPost) error {
	if post.OSOnly {
		return u.faults.hit(ctx, "updates.check")
	}
	names, err := u.apps.List(ctx)
	for _, name := range names {
		err = errors.Join(err, u.apps.Check(ctx, name))
	}
	return errors.Join(err, u.faults.hit(ctx, "updates.check"))
}
