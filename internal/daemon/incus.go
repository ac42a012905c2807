package daemon

import (
	"context"

	"golang.org/x/sys/unix"

	"github.com/holdfast-os/holdfast/internal/system/incus"
)

// incusProgram is Incus as a running application.
type incusProgram struct {
	*incus.Client
	setup *incus.Setup
	seed  *nodeSeed
}

// Ready also brings to the disk what Incus made at its start. It does not do so itself,
// and a power cut in the next half minute would leave it with an empty certificate,
// with which it never starts again.
func (p incusProgram) Ready(ctx context.Context) error {
	if err := p.Client.Ready(ctx); err != nil {
		return err
	}
	unix.Sync()
	return nil
}

func (p incusProgram) Initialize(ctx context.Context) error {
	set, err := p.seed.Read(ctx)
	if err != nil {
		return err
	}
	wanted, err := incus.FromDocument(set.Incus)
	if err != nil {
		return err
	}
	if err := p.setup.Initialize(ctx, wanted); err != nil {
		return err
	}
	unix.Sync()
	return nil
}
