package daemon

import "context"

// Rescues uses rescue media.
type Rescues interface {
	// Use looks for a rescue medium and does what is on it: it runs its script, updates the
	// system, and lets applications be taken from it until the channel is closed. Without a
	// medium it does nothing. It may restart the machine.
	Use(ctx context.Context, until <-chan struct{}) error
}

// useRescue comes before anything that may be what has to be rescued. What is wrong with a
// medium is told, and keeps no node from starting.
func (d *Daemon) useRescue(ctx context.Context) error {
	if d.machine.Rescue == nil {
		return nil
	}
	if err := d.machine.Rescue.Use(ctx, d.readied); err != nil {
		d.log.Error("the rescue medium cannot be used, or not all of it", "error", err)
		d.machine.Display.Message("error", "rescue medium: "+err.Error())
	}
	return ctx.Err()
}
