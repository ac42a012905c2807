package apps

import (
	"context"
	"fmt"
	"slices"
)

// start starts the units of an application and waits until it answers.
func (m *Manager) start(ctx context.Context, name string) error {
	app := m.Catalogue[name]
	m.helpers(ctx, name, app.Before, m.Units.Start)
	for _, unit := range app.Sockets {
		if err := m.Units.Start(ctx, unit); err != nil {
			return fmt.Errorf("starting %s of application %s: %w", unit, name, err)
		}
	}
	if app.Service != "" {
		if err := m.Units.Start(ctx, app.Service); err != nil {
			return fmt.Errorf("starting %s of application %s: %w", app.Service, name, err)
		}
	}
	if err := m.ready(ctx, name); err != nil {
		return err
	}
	m.helpers(ctx, name, app.After, m.Units.Start)
	return nil
}

// restart restarts the main service alone, so that what it manages goes on running.
func (m *Manager) restart(ctx context.Context, name string) error {
	app := m.Catalogue[name]
	if app.Service == "" {
		return nil
	}
	m.helpers(ctx, name, app.Before, m.Units.Start)
	for _, unit := range app.Sockets {
		if err := m.Units.Start(ctx, unit); err != nil {
			return fmt.Errorf("starting %s of application %s: %w", unit, name, err)
		}
	}
	if err := m.Units.Restart(ctx, app.Service); err != nil {
		return fmt.Errorf("restarting %s of application %s: %w", app.Service, name, err)
	}
	return m.ready(ctx, name)
}

// stop stops the units in reverse order.
func (m *Manager) stop(ctx context.Context, name string) error {
	app := m.Catalogue[name]
	m.helpers(ctx, name, app.After, m.Units.Stop)
	units := slices.Clone(app.Sockets)
	if app.Service != "" {
		units = append([]string{app.Service}, units...)
	}
	for _, unit := range units {
		if err := m.Units.Stop(ctx, unit); err != nil {
			return fmt.Errorf("stopping %s of application %s: %w", unit, name, err)
		}
	}
	m.helpers(ctx, name, app.Before, m.Units.Stop)
	return nil
}

// ready waits until the application answers, and then looks at its service: one that
// was started by its socket and died again is not ready.
func (m *Manager) ready(ctx context.Context, name string) error {
	if program, ok := m.Programs[name]; ok {
		ctx, cancel := context.WithTimeout(ctx, readyTimeout)
		defer cancel()
		if err := program.Ready(ctx); err != nil {
			return fmt.Errorf("waiting for application %s to answer: %w", name, err)
		}
	}
	service := m.Catalogue[name].Service
	if service == "" {
		return nil
	}
	active, err := m.Units.IsActive(ctx, service)
	if err != nil {
		return fmt.Errorf("asking for the state of %s: %w", service, err)
	}
	if !active {
		return fmt.Errorf("%s of application %s is not active after its start", service, name)
	}
	return nil
}

func (m *Manager) helpers(ctx context.Context, name string, units []string, do func(context.Context, ...string) error) {
	for _, unit := range units {
		if err := do(ctx, unit); err != nil {
			m.Log.Warn("helper unit of an application", "application", name, "unit", unit, "error", err)
		}
	}
}
