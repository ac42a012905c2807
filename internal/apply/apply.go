// Package apply carries plans out.
//
// An Executor takes the steps of a plan in their order. Files are replaced in one step and
// only below the root it was given; values of the kernel are written as they are; units
// are systemd's; what only a tool can do is done by the function of that name.
//
// Every step may be taken again, so a plan that was cut short is simply carried out
// again, or the plan in the other direction is. The executor does not undo: whoever made
// the plan knows the way back (internal/change).
//
// What can fail: the kernel may refuse a value, under lockdown or because the machine
// cannot; the error names the step and what the machine said.
package apply

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/holdfast-os/holdfast/internal/plan"
)

// Units starts and stops units of systemd.
type Units interface {
	Start(ctx context.Context, unit string) error
	Stop(ctx context.Context, unit string) error
	Restart(ctx context.Context, unit string) error
	Reload(ctx context.Context, unit string) error
}

// Tool is what an adapter does for a UseTool step.
type Tool func(ctx context.Context, args []string) error

// Executor carries plans out on one machine.
type Executor struct {
	// Root is the directory that stands for "/".
	Root  string
	Units Units
	// Tools are the functions of UseTool steps by name.
	Tools map[string]Tool
	// Log gets the failures of optional steps.
	Log *slog.Logger
}

// Do carries a plan out. Steps behind one that fails are not taken.
func (e Executor) Do(ctx context.Context, p plan.Plan) error {
	for _, step := range p.Steps {
		if err := ctx.Err(); err != nil {
			return err
		}
		err := e.one(ctx, step)
		switch {
		case err == nil:
		case step.Optional:
			e.Log.Warn("a step that may fail has failed", "step", step.Kind, "object", step.Object, "error", err)
		default:
			return fmt.Errorf("%s %s: %w", words(step.Kind), step.Object, err)
		}
	}
	return nil
}

func words(kind plan.Kind) string { return strings.ReplaceAll(string(kind), "-", " ") }

func (e Executor) one(ctx context.Context, step plan.Step) error {
	switch step.Kind {
	case plan.WriteFile:
		return e.write(step)
	case plan.RemoveFile:
		if err := os.Remove(e.path(step.Object)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	case plan.SetValue:
		return e.set(step)
	case plan.StartUnit:
		return e.Units.Start(ctx, step.Object)
	case plan.StopUnit:
		return e.Units.Stop(ctx, step.Object)
	case plan.RestartUnit:
		return e.Units.Restart(ctx, step.Object)
	case plan.ReloadUnit:
		return e.Units.Reload(ctx, step.Object)
	case plan.UseTool:
		tool := e.Tools[step.Tool]
		if tool == nil {
			return fmt.Errorf("there is no tool %q", step.Tool)
		}
		return tool(ctx, step.Args)
	default:
		return fmt.Errorf("the step %q is not for this executor", step.Kind)
	}
}

// path gives a path below the root; ".." does not lead out of it.
func (e Executor) path(object string) string {
	return filepath.Join(e.Root, filepath.Clean("/"+object))
}

// write replaces a file in one step: after a power cut the old or the new text is there.
func (e Executor) write(step plan.Step) error {
	path, mode := e.path(step.Object), step.Mode
	if mode == 0 {
		mode = 0o644
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	_, err = f.WriteString(step.After)
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

// set writes a value of the kernel in one write, as the kernel wants it.
func (e Executor) set(step plan.Step) error {
	path := e.path(step.Object)
	if !strings.HasPrefix(step.Object, "/proc/sys/") && !strings.HasPrefix(step.Object, "/sys/") {
		return fmt.Errorf("%s is not a value of the kernel", step.Object)
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(step.After)
	return errors.Join(err, f.Close())
}
