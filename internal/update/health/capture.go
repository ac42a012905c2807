package health

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

// Capture looks at what runs now, as the Baseline of a later boot. What cannot be looked
// at keeps the value of before, and is told in the error.
func (g Gate) Capture(ctx context.Context, version string, before Baseline) (Baseline, error) {
	s := g.Settings.withDefaults()
	now := Baseline{Version: version, At: g.Clock.Now().UTC(), Applications: before.Applications, Pools: before.Pools,
		Interfaces: before.Interfaces, Instances: before.Instances}
	r := &running{gate: g, begun: g.Clock.Elapsed()}
	r.gate.Settings = s
	o := g.Observer
	look := func(what string, ask func(context.Context) error) error {
		if err := r.try(ctx, check{what, ask}); err != nil {
			return fmt.Errorf("noting what runs now, %s: %w", what, err)
		}
		return nil
	}
	var apps, pools, interfaces, instances []string
	failed := []error{
		look(CheckApplications, func(ctx context.Context) error {
			all, err := o.Applications(ctx)
			for _, a := range all {
				if a.Ready {
					apps = append(apps, a.Name)
				}
			}
			return err
		}),
		look(CheckPools, func(ctx context.Context) (err error) { pools, err = o.Pools(ctx); return err }),
		look(CheckNetwork, func(ctx context.Context) error {
			n, err := o.Network(ctx)
			interfaces = n.Interfaces
			return err
		}),
	}
	if g.Settings.Instances {
		failed = append(failed, look(CheckInstances, func(ctx context.Context) (err error) { instances, err = o.Instances(ctx); return err }))
	}
	for i, found := range []struct{ to, from *[]string }{
		{&now.Applications, &apps}, {&now.Pools, &pools}, {&now.Interfaces, &interfaces}, {&now.Instances, &instances},
	} {
		if i < len(failed) && failed[i] == nil {
			*found.to = slices.Sorted(slices.Values(*found.from))
		}
	}
	return now, errors.Join(failed...)
}
