// Package systemd is the adapter of systemctl: units are started, stopped and looked
// at, with typed results.
package systemd

import (
	"context"
	"fmt"
	"regexp"
	"strings"

	"github.com/holdfast-os/holdfast/internal/system/run"
)

var unitForm = regexp.MustCompile(`^[A-Za-z0-9:_.\\@][A-Za-z0-9:_.\\@-]{0,240}\.(service|socket|target|timer|mount|swap|path|slice|scope|device|automount)$`)

// Manager runs systemctl.
type Manager struct {
	// Run starts programs; on a machine run.Host.
	Run run.Runner
}

// State is what systemd says about a unit.
type State struct {
	// Load is "loaded", "not-found", "masked" and the like.
	Load string
	// Active is "active", "activating", "inactive", "failed" and the like.
	Active string
	// Sub is the finer state, as "running" or "exited".
	Sub string
	// Result is "success", or why the unit failed, as "exit-code".
	Result string
}

// Running is true for a unit that does its work.
func (s State) Running() bool { return s.Active == "active" || s.Active == "reloading" }

// Start starts units and waits until they run.
func (m Manager) Start(ctx context.Context, units ...string) error {
	return m.units(ctx, "start", units)
}

// Stop stops units and waits until they have ended.
func (m Manager) Stop(ctx context.Context, units ...string) error {
	return m.units(ctx, "stop", units)
}

// Restart stops and starts units, also those that do not run.
func (m Manager) Restart(ctx context.Context, units ...string) error {
	return m.units(ctx, "restart", units)
}

// Reload asks units to read their configuration again; one that cannot is restarted.
func (m Manager) Reload(ctx context.Context, units ...string) error {
	return m.units(ctx, "reload-or-restart", units)
}

// DaemonReload makes systemd read its unit files again.
func (m Manager) DaemonReload(ctx context.Context) error {
	if _, err := m.Run(ctx, run.Command{Name: "systemctl", Args: []string{"daemon-reload"}}); err != nil {
		return fmt.Errorf("reloading the unit files: %w", err)
	}
	return nil
}

// IsActive is true when the unit runs. A unit that does not exist does not run.
func (m Manager) IsActive(ctx context.Context, unit string) (bool, error) {
	state, err := m.Show(ctx, unit)
	return state.Running(), err
}

// Show gives the state of a unit. A unit that does not exist has Load "not-found".
func (m Manager) Show(ctx context.Context, unit string) (State, error) {
	if err := checkUnits([]string{unit}); err != nil {
		return State{}, err
	}
	result, err := m.Run(ctx, run.Command{Name: "systemctl", Args: []string{
		"show", "--property=LoadState,ActiveState,SubState,Result", "--", unit}})
	if err != nil {
		return State{}, fmt.Errorf("reading the state of unit %s: %w", unit, err)
	}
	return parseState(string(result.Stdout)), nil
}

func parseState(text string) State {
	var state State
	for line := range strings.Lines(text) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		switch key {
		case "LoadState":
			state.Load = value
		case "ActiveState":
			state.Active = value
		case "SubState":
			state.Sub = value
		case "Result":
			state.Result = value
		}
	}
	return state
}

func (m Manager) units(ctx context.Context, verb string, units []string) error {
	if err := checkUnits(units); err != nil {
		return err
	}
	args := append([]string{verb, "--no-ask-password", "--"}, units...)
	if _, err := m.Run(ctx, run.Command{Name: "systemctl", Args: args}); err != nil {
		return fmt.Errorf("%s of unit %s: %w", verb, strings.Join(units, ", "), err)
	}
	return nil
}

func checkUnits(units []string) error {
	if len(units) == 0 {
		return fmt.Errorf("no unit is named")
	}
	for _, unit := range units {
		if !unitForm.MatchString(unit) {
			return fmt.Errorf("%q is not the name of a unit, as \"incus.service\"", unit)
		}
	}
	return nil
}
