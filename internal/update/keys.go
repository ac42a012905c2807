package update

import (
	"context"
	"errors"
	"fmt"

	osapi "github.com/holdfast-os/holdfast/api/os"
)

// Keys brings the keys of the firmware up to date before a release is taken: a later one may
// be signed by the next key.
type Keys interface {
	// Apply does what this start allows with the keys that a release brings, or with those
	// that are under way. restart says why the machine has to restart before anything else
	// is done; empty when it need not.
	Apply(ctx context.Context, found Found) (restart string, err error)
}

// checkKeys says why the machine has to restart. Keys that cannot be updated do not hold a
// release up: what the firmware would not start is refused when the kernel image is here.
func (a *Agent) checkKeys(ctx context.Context, found Found) (restart string) {
	if a.Keys == nil {
		return ""
	}
	restart, err := a.Keys.Apply(ctx, found)
	if err != nil && ctx.Err() == nil {
		_ = a.note(func(d *Document) { // told by Snapshot also when it cannot be saved
			d.decide(a.decision("Secure Boot keys not updated", err.Error(), "tried again at the next check"))
		})
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.keysRestart = restart
	return restart
}

// rebootForKeys restarts for the firmware's keys where the owner wants that by itself, by
// the rules that hold for a release.
func (a *Agent) rebootForKeys(ctx context.Context, config osapi.UpdateConfig, o CheckOptions) error {
	a.mu.Lock()
	why := a.keysRestart
	a.keysRestart = ""
	a.mu.Unlock()
	if why == "" || a.Snapshot().Document.State == Staged {
		return nil // a restart into the staged release serves both
	}
	text, next := "auto_reboot is off", ""
	open, words := a.open(config)
	switch {
	case !config.AutoReboot && !o.Startup:
	case !open && !o.Manual && !o.Startup:
		text, next = "outside window", words
	default:
		if err := a.note(func(d *Document) { d.decide(a.decision("restart for Secure Boot keys", why, "then the check goes on")) }); err != nil {
			return err
		}
		if err := a.Power.Reboot(ctx, "Secure Boot keys: "+why); err != nil {
			err = fmt.Errorf("restarting the machine for Secure Boot keys: %w", err)
			return errors.Join(err, a.note(func(d *Document) { d.decide(a.decision("restart failed", err.Error(), "tried again")) }))
		}
		return nil
	}
	return a.note(func(d *Document) { d.decide(a.decision("Secure Boot keys wait for a restart", text, next)) })
}
