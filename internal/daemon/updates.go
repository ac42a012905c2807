package daemon

import (
	"context"
	"errors"
	"fmt"

	osapi "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/httpapi"
	"github.com/holdfast-os/holdfast/internal/listener"
	"github.com/holdfast-os/holdfast/internal/operation"
	"github.com/holdfast-os/holdfast/internal/operationscenter"
	"github.com/holdfast-os/holdfast/internal/update"
)

// Updates keeps the releases of a node current.
type Updates interface {
	// Run settles what the last start has left, judges a release on trial, and once the
	// channel is closed looks for updates at their times. It returns when ctx ends.
	Run(ctx context.Context, ready <-chan struct{}, tell func(update.Notice)) error
	State() osapi.UpdateState
	// Plan says what a check would do. It changes nothing.
	Plan(ctx context.Context) (osapi.UpdatePlan, error)
	// Check looks for updates now, windows or not: ErrConflict while the running release is
	// on trial. One that is under way already is no error.
	Check(ctx context.Context, post osapi.UpdateCheckPost) error
}

// startUpdates lets the update agent begin. It works beside the phases: the release that
// it judges may be one under which a phase never ends.
func (d *Daemon) startUpdates(ctx context.Context) error {
	if !d.updating.CompareAndSwap(false, true) {
		return nil
	}
	// The phase's own context ends with it.
	go func() {
		err := d.machine.Updates.Run(d.lifetime, d.readied, d.noticed)
		if err != nil && d.lifetime.Err() == nil {
			d.log.Error("the update agent has ended", "error", err)
			d.machine.Display.Message("error", "updates: "+err.Error())
		}
	}()
	return ctx.Err()
}

// noticed tells everybody of what the update agent does.
func (d *Daemon) noticed(n update.Notice) {
	switch n.Kind {
	case update.NoticeProgress:
		d.progress.Load().Set(string(n.State), n.Done, n.Total, fmt.Sprintf("%s %s", n.State, n.Version))
		if d.ready.Load() {
			d.machine.Display.Progress("downloading "+n.Version, n.Done, n.Total)
		}
		return
	case update.NoticeReturned:
		d.machine.Display.Message("warning", "back from release "+n.Version+": "+n.Text)
	case update.NoticeOS, update.NoticeApplications:
		d.report(operationscenter.Cause(n.Kind))
	case update.NoticeChecks:
		for _, check := range n.Checks {
			d.log.Info("health gate", "release", n.Version, "check", check.Name, "ok", check.OK, "error", check.Error)
		}
	}
	d.log.Info("update", "what", n.Kind, "state", n.State, "release", n.Version, "text", n.Text)
	d.lifecycle(n.Kind, "/1.0/system/update", map[string]any{"state": n.State, "version": n.Version, "text": n.Text})
}

// olderRelease is true on a node that came back from a release that was no good.
func (d *Daemon) olderRelease() bool {
	return d.machine.Updates.State().State == string(update.Returned)
}

// checkUpdate starts one check. A second call while one runs is answered like the first,
// since what the caller wants is under way.
func (d *Daemon) checkUpdate(r *httpapi.Request) (any, error) {
	post := httpapi.Body[osapi.UpdateCheckPost](r)
	if post.OSOnly {
		return d.operate(r, "update check", nil, func(ctx context.Context, p *operation.Progress) error {
			return d.check(ctx, p, *post)
		})
	}
	return httpapi.After{Do: func(ctx context.Context) {
		if !d.clock.wait(ctx, graceTime) {
			return
		}
		_, err := d.operations.Start("update check", nil, false, func(ctx context.Context, p *operation.Progress) error {
			return d.check(ctx, p, *post)
		})
		if err != nil {
			d.log.Error("starting the update check", "error", err)
		}
	}}, nil
}

// check is a check that somebody has asked for, and can watch.
func (d *Daemon) check(ctx context.Context, p *operation.Progress, post osapi.UpdateCheckPost) error {
	d.progress.Store(p)
	defer d.progress.CompareAndSwap(p, nil)
	err := d.machine.Updates.Check(ctx, post)
	if err != nil {
		d.log.Error("update check failed", "error", err)
		d.machine.Display.Message("error", "update check: "+err.Error())
	}
	return err
}

func (d *Daemon) planUpdate(r *httpapi.Request) (any, error) {
	return failable(d.machine.Updates.Plan(r.Context()))
}

// codedUpdate gives an error of the agent the daemon's name for it.
func codedUpdate(err error) error {
	for _, conflict := range []error{update.ErrBusy, update.ErrOnTrial, update.ErrNothingStaged, update.ErrBadRelease, update.ErrOlder} {
		if errors.Is(err, conflict) {
			return fmt.Errorf("%w: %w", ErrConflict, err)
		}
	}
	return err
}

// needsFallback says why the listener for emergencies has to be open.
func (d *Daemon) needsFallback(failed bool) string {
	_, err := d.machine.Identity.Certificate()
	return listener.Needed(listener.Situation{Initialized: err == nil, Failed: failed, OlderRelease: d.olderRelease()})
}
