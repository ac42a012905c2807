package daemon

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"

	osapi "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/config"
	"github.com/holdfast-os/holdfast/internal/console"
	"github.com/holdfast-os/holdfast/internal/httpapi"
	"github.com/holdfast-os/holdfast/internal/operation"
	"github.com/holdfast-os/holdfast/internal/plan"
	"github.com/holdfast-os/holdfast/internal/reset"
)

// Resets is what a factory reset needs of the machine.
type Resets interface {
	// Hands do the steps.
	Hands() reset.Hands
	// Seed opens the seed partition to read it.
	Seed(ctx context.Context) (io.ReadCloser, error)
	// HasTPM tells whether there is a TPM to clear.
	HasTPM() (bool, error)
}

// resetSystem makes a new node of this one. Up to the TPM everything can still go back, and
// that is done before the answer; the rest comes behind it, and the next start carries on
// with it if need be.
func (d *Daemon) resetSystem(r *httpapi.Request) (any, error) {
	if d.machine.Resets == nil {
		return nil, noBackups()
	}
	request := *httpapi.Body[osapi.FactoryResetPost](r)
	var archive []byte
	err := d.withSeed(r.Context(), func(present io.Reader) (err error) {
		archive, err = reset.NewSeed(present, request)
		return err
	})
	var problems config.Problems
	if errors.As(err, &problems) {
		return nil, httpapi.BadRequest("%w", problems)
	}
	if err != nil {
		return nil, err
	}
	if r.Query("dry-run") != "" {
		return d.dryRun(r, func() (p plan.Plan, err error) {
			has, err := d.machine.Resets.HasTPM()
			if err != nil {
				return p, err
			}
			err = d.withSeed(r.Context(), func(present io.Reader) error {
				p = reset.NewPlan(request, has, present, archive)
				return nil
			})
			return p, err
		})
	}
	release, err := d.alone()
	if err != nil {
		return nil, err
	}
	hands, ctx := d.machine.Resets.Hands(), context.WithoutCancel(r.Context())
	journal := reset.Journal{Started: d.clock.Now().UTC(), By: r.Caller(), AllowTPMFailure: request.AllowTPMResetFailure}
	if err := reset.Begin(hands, journal, archive); err != nil {
		release()
		return nil, err
	}
	if err := reset.Commit(ctx, hands); err != nil {
		release()
		return nil, err
	}
	d.lifecycle("system-reset", "/1.0/system", nil)
	return d.behindAlone("Resetting the node", release, d.shownReset(hands)), nil
}

func (d *Daemon) withSeed(ctx context.Context, use func(io.Reader) error) error {
	present, err := d.machine.Resets.Seed(ctx)
	if err != nil {
		return fmt.Errorf("opening the seed of now: %w", err)
	}
	return errors.Join(use(bufio.NewReaderSize(present, 1<<20)), present.Close())
}

// shownReset ends a reset, and restarts.
func (d *Daemon) shownReset(hands reset.Hands) func(context.Context, *operation.Progress) error {
	return func(ctx context.Context, _ *operation.Progress) error {
		ctx = context.WithoutCancel(ctx)
		return d.shownAs(console.Rebooting, func(ctx context.Context) error {
			if err := reset.Finish(ctx, hands); err != nil {
				return fmt.Errorf("%w; ask for the reset again, or restart the node: its start carries on", err)
			}
			return d.machine.Power.Reboot(ctx)
		})(ctx)
	}
}
