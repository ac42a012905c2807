package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"

	osapi "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/console"
	"github.com/holdfast-os/holdfast/internal/httpapi"
	"github.com/holdfast-os/holdfast/internal/keyupdate"
	"github.com/holdfast-os/holdfast/internal/pcr"
	"github.com/holdfast-os/holdfast/internal/plan"
	"github.com/holdfast-os/holdfast/internal/secureboot"
)

// SecureBoot keeps the firmware's keys current.
type SecureBoot interface {
	// Keys are the certificates in the firmware's variables.
	Keys() (osapi.SecureBootKeys, error)
	// State is how far the last archive has come; nil when there never was one.
	State() (*osapi.SecureBootState, error)
	// Start is called once at each start of the node, when the node's own key can be read: it
	// goes on with an archive that is under way.
	Start(ctx context.Context) (keyupdate.Outcome, error)
	// Plan says what Update would do in this start. It changes nothing.
	Plan(ctx context.Context, archive []byte) (plan.Plan, error)
	// Update begins with an archive that a person sends.
	Update(ctx context.Context, archive []byte) (keyupdate.Outcome, error)
}

// noSecureBoot is for a machine that has none of this.
func noSecureBoot() error {
	return httpapi.NotImplemented("this machine has no Secure Boot keys that could be changed")
}

// secureBootKeys answers GET /internal/secureboot.
func (d *Daemon) secureBootKeys(*httpapi.Request) (any, error) {
	if d.machine.SecureBoot == nil {
		return nil, noSecureBoot()
	}
	return failable(d.machine.SecureBoot.Keys())
}

// secureBootState is for /1.0/system/security. One that cannot be read is told in it: it
// must not hide the rest.
func (d *Daemon) secureBootState() *osapi.SecureBootState {
	if d.machine.SecureBoot == nil {
		return nil
	}
	state, err := d.machine.SecureBoot.State()
	if err != nil {
		return &osapi.SecureBootState{Stage: string(keyupdate.Failed), Status: err.Error()}
	}
	return state
}

// updateSecureBoot takes an archive of signed updates as the body.
func (d *Daemon) updateSecureBoot(r *httpapi.Request) (any, error) {
	if d.machine.SecureBoot == nil {
		return nil, noSecureBoot()
	}
	archive, err := io.ReadAll(io.LimitReader(r.HTTP.Body, secureboot.MaxArchive+1))
	if err != nil {
		return nil, httpapi.BadRequest("reading the archive of Secure Boot keys: %w", err)
	}
	if len(archive) > secureboot.MaxArchive {
		return nil, httpapi.WithCode(http.StatusRequestEntityTooLarge, fmt.Errorf("the archive of Secure Boot keys is larger than %d bytes", secureboot.MaxArchive))
	}
	if r.Query("dry-run") != "" {
		return d.dryRun(r, func() (plan.Plan, error) {
			p, err := d.machine.SecureBoot.Plan(r.Context(), archive)
			return p, codedKeys(err)
		})
	}
	// Whoever goes away in the middle must not leave half of it.
	outcome, err := d.machine.SecureBoot.Update(context.WithoutCancel(r.Context()), archive)
	if err != nil {
		return nil, coded(codedKeys(err))
	}
	d.lifecycle("secure-boot-update-applied", "/1.0/system/security", map[string]any{"needs_reboot": outcome.Restart, "text": outcome.Why})
	if outcome.Restart {
		d.machine.Display.Message("warning", "Secure Boot keys: restart this node: "+outcome.Why)
	}
	return failable(d.machine.SecureBoot.State())
}

// codedKeys gives an error of an update of keys the daemon's name for it.
func codedKeys(err error) error {
	if errors.Is(err, keyupdate.ErrRefused) {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	var doubt *pcr.Doubt
	conflict := errors.As(err, &doubt)
	for _, cause := range []error{keyupdate.ErrBusy, keyupdate.ErrOnTrial, secureboot.ErrNotBound} {
		conflict = conflict || errors.Is(err, cause)
	}
	if conflict {
		return fmt.Errorf("%w: %w", ErrConflict, err)
	}
	return err
}

// startSecureBoot goes on with an update of keys that a restart was for. Each variable needs
// a start of its own, and no application runs yet that a restart would disturb. What goes wrong is
// told, and keeps no node from starting.
func (d *Daemon) startSecureBoot(ctx context.Context) error {
	if d.machine.SecureBoot == nil {
		return nil
	}
	outcome, err := d.machine.SecureBoot.Start(ctx)
	if err != nil {
		d.log.Error("updating the Secure Boot keys", "error", err)
		d.machine.Display.Message("error", "Secure Boot keys: "+err.Error())
	}
	if !outcome.Restart {
		return ctx.Err()
	}
	d.log.Warn("restarting the machine", "why", "an update of Secure Boot keys: "+outcome.Why)
	d.machine.Display.Message("info", "restarting to go on with Secure Boot keys: "+outcome.Why)
	err = d.shownAs(console.Rebooting, func(ctx context.Context) error { return d.machine.Power.Reboot(ctx) })(ctx)
	if err != nil {
		d.log.Error("restarting for an update of Secure Boot keys", "error", err)
		d.machine.Display.Message("error", "Secure Boot keys: the restart failed: "+err.Error())
		return ctx.Err()
	}
	<-ctx.Done() // nothing is to begin that the restart would cut short
	return ctx.Err()
}
