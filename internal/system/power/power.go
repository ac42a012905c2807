// Package power turns the machine off, restarts it or lets it sleep, through systemd,
// which stops services and unmounts in order.
package power

import (
	"context"
	"fmt"

	"github.com/holdfast-os/holdfast/internal/system/run"
)

// Power runs systemctl.
type Power struct {
	// Run starts programs; on a machine run.Host.
	Run run.Runner
}

// Poweroff begins the shutdown and returns before it ends.
func (p Power) Poweroff(ctx context.Context) error { return p.do(ctx, "poweroff") }

// Reboot begins the restart and returns before it ends.
func (p Power) Reboot(ctx context.Context) error { return p.do(ctx, "reboot") }

// Suspend lets the machine sleep and returns after it was woken up.
func (p Power) Suspend(ctx context.Context) error { return p.do(ctx, "suspend") }

func (p Power) do(ctx context.Context, verb string) error {
	if _, err := p.Run(ctx, run.Command{Name: "systemctl", Args: []string{verb, "--no-ask-password"}}); err != nil {
		return fmt.Errorf("%s of this machine: %w", verb, err)
	}
	return nil
}
