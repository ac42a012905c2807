package simulate

import (
	"context"
	"fmt"
	"maps"
	"slices"

	osapi "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/apps"
	"github.com/holdfast-os/holdfast/internal/daemon"
	"github.com/holdfast-os/holdfast/internal/state"
)

// friendly is what the simulated application calls itself.
const friendly = "7.0.2 [" + version + "]"

var applicationsDocument = state.Document{Name: "applications", Version: 1}

// applications is daemon.Apps and daemon.AppUpdates. What is installed is kept where a node
// keeps it.
type applications struct {
	*Node
	documents *state.Store
}

func (a applications) load() (apps.State, error) {
	found := apps.State{}
	_, err := a.documents.Load(applicationsDocument, &found)
	return found, err
}

// change loads, changes and saves, under the lock.
func (a applications) change(do func(apps.State) error) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	found, err := a.load()
	if err != nil {
		return err
	}
	if err := do(found); err != nil {
		return err
	}
	return a.documents.Save(applicationsDocument, found)
}

// List is part of daemon.Apps.
func (a applications) List(context.Context) ([]string, error) {
	found, err := a.load()
	return slices.Sorted(maps.Keys(found)), err
}

// Add is part of daemon.Apps.
func (a applications) Add(ctx context.Context, name string) error {
	if err := a.faults.hit(ctx, "apps.add"); err != nil {
		return err
	}
	return a.change(func(found apps.State) error {
		app, known := apps.Catalogue()[name]
		_, installed := found[name]
		switch {
		case !known:
			return fmt.Errorf("%w: there is no application %q", daemon.ErrInvalid, name)
		case installed:
			return fmt.Errorf("%w: application %s is already installed", daemon.ErrConflict, name)
		case !app.Installable:
			return fmt.Errorf("%w: application %s comes with a later release", daemon.ErrUnsupported, name)
		}
		found[name] = apps.Record{Version: version, Initialized: true}
		return a.ensure(name)
	})
}

func (a applications) one(name string) (apps.Record, error) {
	found, err := a.load()
	if err != nil {
		return apps.Record{}, err
	}
	record, installed := found[name]
	if !installed {
		return record, fmt.Errorf("%w: application %q is not installed", daemon.ErrNotFound, name)
	}
	return record, nil
}

// Show is part of daemon.Apps.
func (a applications) Show(_ context.Context, name string) (osapi.Application, error) {
	record, err := a.one(name)
	if err != nil {
		return osapi.Application{}, err
	}
	return osapi.Application{Config: record.Config, State: osapi.ApplicationState{
		Initialized: record.Initialized, IsPrimary: apps.Catalogue()[name].Primary, FriendlyVersion: friendly,
		Version: record.Version, AvailableVersions: []string{record.Version},
	}}, nil
}

// Configure is part of daemon.Apps.
func (a applications) Configure(ctx context.Context, name string, config osapi.ApplicationConfig) error {
	if err := a.faults.hit(ctx, "apps.configure"); err != nil {
		return err
	}
	return a.change(func(found apps.State) error {
		record, installed := found[name]
		if !installed {
			return fmt.Errorf("%w: application %q is not installed", daemon.ErrNotFound, name)
		}
		record.Config = config
		found[name] = record
		return nil
	})
}

// Restart is part of daemon.Apps.
func (a applications) Restart(ctx context.Context, name string) error {
	if _, err := a.one(name); err != nil {
		return err
	}
	return a.faults.hit(ctx, "apps.restart")
}

// Remove is part of daemon.Apps.
func (a applications) Remove(ctx context.Context, name string) error {
	if err := a.faults.hit(ctx, "apps.remove"); err != nil {
		return err
	}
	return a.change(func(found apps.State) error {
		_, installed := found[name]
		switch {
		case !installed:
			return fmt.Errorf("%w: application %q is not installed", daemon.ErrNotFound, name)
		case apps.Catalogue()[name].Primary:
			return fmt.Errorf("%w: %s: a primary application cannot be removed", daemon.ErrInvalid, name)
		}
		delete(found, name)
		return nil
	})
}

// StartAll is part of daemon.AppUpdates.
func (a applications) StartAll(ctx context.Context, judged string) error {
	return a.startAll(ctx, judged)
}

// Ensure is part of daemon.AppUpdates.
func (a applications) Ensure(ctx context.Context, seeded []string) error {
	names, err := a.List(ctx)
	if err != nil || len(names) > 0 {
		return err
	}
	for _, name := range seeded {
		if err := a.Add(ctx, name); err != nil {
			return err
		}
	}
	return nil
}

// Check is part of daemon.AppUpdates: the newest release is there.
func (a applications) Check(ctx context.Context, name string) error {
	if _, err := a.one(name); err != nil {
		return err
	}
	return a.faults.hit(ctx, "apps.check")
}

// FindVersion is part of daemon.AppUpdates: there is one version of everything.
func (a applications) FindVersion(_ context.Context, name, wanted string) (string, error) {
	found, err := a.one(name)
	if err != nil {
		return "", err
	}
	if wanted != found.Version {
		return "", fmt.Errorf("%w: this node has one version of %s only", daemon.ErrInvalid, name)
	}
	return wanted, nil
}

// SwitchVersion is part of daemon.AppUpdates.
func (a applications) SwitchVersion(ctx context.Context, _, _ string) error {
	return a.faults.hit(ctx, "apps.check")
}
