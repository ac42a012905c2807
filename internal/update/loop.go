package update

import (
	"context"
	"errors"
	"time"

	"github.com/holdfast-os/holdfast/internal/update/window"
)

// tick is how often the agent looks at the clock, the windows and the settings: a change
// of any of them holds after this time at the latest.
const tick = time.Minute

// pace is what the loop remembers; lengths of time are on the clock that nobody sets.
type pace struct {
	last    time.Duration // the last look
	wasOpen bool          // whether a window was open then
	opened  time.Duration // when the open window was first seen
	open    bool
	spread  float64
}

// Run is the agent's life: it settles what a start of the daemon found, judges a release
// on trial, checks, and then checks again at its times. It returns when ctx ends.
func (a *Agent) Run(ctx context.Context) error {
	if err := a.insist(ctx, a.Boot); err != nil {
		return err
	}
	fromUpdate := a.freshStart()
	if err := a.insist(ctx, a.Judge); err != nil {
		return err
	}
	if a.Ready != nil {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-a.Ready:
		}
	}
	a.hearApps()
	a.beginPace()
	if err := a.startupCheck(ctx, fromUpdate); err != nil && ctx.Err() != nil {
		return err
	}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-a.Clock.After(tick):
		}
		a.Tick(ctx)
	}
}

// insist calls until it works or ctx ends.
func (a *Agent) insist(ctx context.Context, call func(context.Context) error) error {
	for {
		err := call(ctx)
		if err == nil {
			return nil
		}
		_ = a.note(func(d *Document) { // told by Snapshot also when it cannot be saved
			d.decide(a.decision("cannot go on", err.Error(), "tried again in 10 s"))
		})
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-a.Clock.After(10 * time.Second):
		}
	}
}

// freshStart tells whether this boot is the end of an update: then nothing new is looked
// for at once, which could restart the machine a second time.
func (a *Agent) freshStart() bool {
	switch d := a.Snapshot().Document; d.State {
	case Trial, Returning, Good, Returned:
		return a.now().Sub(d.Since) < time.Hour
	}
	return false
}

// startupCheck is the check of a start.
func (a *Agent) startupCheck(ctx context.Context, fromUpdate bool) error {
	_, never, err := window.Frequency(a.Settings.Update().CheckFrequency)
	why := ""
	switch {
	case err != nil:
		why = err.Error()
	case a.mayNever(never):
		why = "check_frequency is \"never\""
	case fromUpdate:
		why = "this start came from an update"
	default:
		return a.Check(ctx, CheckOptions{Startup: true})
	}
	return a.note(func(d *Document) { d.decide(a.decision("left out the check of the start", why, "")) })
}

// mayNever is true where "never" holds: only once the node has a primary application,
// which it may have to fetch first.
func (a *Agent) mayNever(never bool) bool {
	if !never {
		return false
	}
	name, err := a.Apps.Primary()
	return err == nil && name != ""
}

func (a *Agent) beginPace() {
	open, _ := a.open(a.Settings.Update())
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.Clock.Elapsed()
	a.loop = pace{last: now, wasOpen: open, open: open, opened: now, spread: a.draw()}
}

func (a *Agent) draw() float64 {
	if a.Random == nil {
		return 0
	}
	return a.Random()
}

// Tick is one look at the clock: it checks when it is time, and restarts into a staged
// release when a window opens. What goes wrong is in the decisions and the status.
func (a *Agent) Tick(ctx context.Context) {
	config := a.Settings.Update()
	open, _ := a.open(config)
	every, never, err := window.Frequency(config.CheckFrequency)
	set, setErr := window.Parse(config.MaintenanceWindows)
	if a.mayNever(never) || err != nil || setErr != nil {
		a.rebootAtWindow(ctx, open)
		return
	}
	if never {
		every = window.DefaultFrequency
	}
	a.mu.Lock()
	now := a.Clock.Elapsed()
	if open && !a.loop.open {
		a.loop.opened = now
	}
	a.loop.open = open
	p := window.Pace{Every: every, Spread: a.loop.spread, Shortest: set.Shortest()}
	due := p.Due(now-a.loop.last, a.loop.wasOpen, open, now-a.loop.opened)
	if due {
		a.loop.last, a.loop.wasOpen, a.loop.spread = now, open, a.draw()
	}
	a.mu.Unlock()
	if due {
		a.report(a.Check(ctx, CheckOptions{}))
		return
	}
	a.rebootAtWindow(ctx, open)
}

// rebootAtWindow restarts into a release that was staged outside of a window.
func (a *Agent) rebootAtWindow(ctx context.Context, open bool) {
	d := a.Snapshot().Document
	if d.State != Staged || !open || !a.Settings.Update().AutoReboot {
		return
	}
	if d.Armed == nil || d.Armed.Restarts >= maxRestarts {
		return
	}
	a.report(a.Reboot(ctx))
}

// report keeps an error of the loop that no check has kept.
func (a *Agent) report(err error) {
	if err == nil || errors.Is(err, ErrBusy) || errors.Is(err, context.Canceled) {
		return
	}
	_ = a.note(func(d *Document) { // the state cannot be written: Snapshot still tells it
		d.decide(a.decision("not done", err.Error(), "tried again at its time"))
	})
}
