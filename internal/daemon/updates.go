package daemon

import (
	"context"
	"errors"
	"fmt"

	osapi "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/httpapi"
)

func (d *Daemon) getUpdateState() osapi.UpdateState {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.updateState
}

// checkUpdate starts one check. A second call while one runs is answered like the first,
// since what the caller wants is under way.
func (d *Daemon) checkUpdate(r *httpapi.Request) (any, error) {
	if httpapi.Body[osapi.UpdateCheckPost](r).OSOnly {
		return nil, httpapi.NotImplemented("os_only: updates of the OS itself come with a later release")
	}
	return d.behind("update check", d.checkApplications), nil
}

// checkApplications brings every application to the newest release. One that fails does
// not hold up the others.
func (d *Daemon) checkApplications(ctx context.Context) error {
	if !d.beginCheck() {
		return nil
	}
	var failures []error
	names, err := d.machine.Apps.List(ctx)
	if err != nil {
		failures = append(failures, err)
	}
	for _, name := range names {
		if err := d.machine.AppUpdates.Check(ctx, name); err != nil {
			failures = append(failures, fmt.Errorf("application %s: %w", name, err))
		}
	}
	err = errors.Join(failures...)
	d.endCheck(err)
	return err
}

func (d *Daemon) beginCheck() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.checking {
		return false
	}
	d.checking = true
	d.updateState.Status = "Running update check"
	return true
}

func (d *Daemon) endCheck(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.checking, d.checkFailed = false, err != nil
	d.updateState.LastCheck = d.clock.Now().UTC()
	d.updateState.Status = "Update check completed"
	if err != nil {
		d.updateState.Status = "Failed to check for updates: " + err.Error()
	}
}
