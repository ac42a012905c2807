package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/holdfast-os/holdfast/internal/system/qemu"
)

// PowerDownLimit is how long a guest may take to switch itself off.
const PowerDownLimit = 2 * time.Minute

// Action is something done to a machine's power.
type Action string

// The actions.
const (
	// On starts a stopped machine from its disk.
	On Action = "on"
	// Off presses the power button and waits; after PowerDownLimit it cuts.
	Off Action = "off"
	// Reset presses the reset button.
	Reset Action = "reset"
	// Cycle is Off, then On.
	Cycle Action = "cycle"
	// Cut takes the power away at once.
	Cut Action = "cut"
)

// Actions are all actions, for help and completion.
func Actions() []Action { return []Action{On, Off, Reset, Cycle, Cut} }

// Power does an action and returns when it is done; On and Cycle do not wait for
// the guest to be up.
func (l *Lab) Power(ctx context.Context, name string, action Action) error {
	if !slices.Contains(Actions(), action) {
		return fmt.Errorf("power %q: use one of %v", action, Actions())
	}
	d, err := l.dir(name)
	if err != nil {
		return err
	}
	s, err := loadState(d.file("state.json"))
	if err != nil {
		return err
	}
	switch action {
	case On:
		return l.start(ctx, d, s, "")
	case Off:
		return l.powerOff(ctx, d)
	case Cycle:
		if err := l.powerOff(ctx, d); err != nil {
			return err
		}
		return l.start(ctx, d, s, "")
	case Cut:
		limited, cancel := context.WithTimeout(ctx, controlLimit)
		defer cancel()
		if err := qemu.Kill(limited, d.file("qemu.pid")); err != nil {
			return err
		}
		return stopTPM(limited, d)
	}
	client, done, err := connect(ctx, d)
	if err != nil {
		return err
	}
	defer done()
	return client.Reset(ctx)
}

func (l *Lab) powerOff(ctx context.Context, d dir) error {
	client, done, err := connect(ctx, d)
	if errors.Is(err, ErrNotRunning) {
		return nil
	}
	if err != nil {
		return err
	}
	err = client.PowerDown(ctx)
	done()
	if err != nil {
		return err
	}
	limited, cancel := context.WithTimeout(ctx, PowerDownLimit)
	defer cancel()
	if err := qemu.WaitEnd(limited, d.file("qemu.pid")); err != nil && ctx.Err() != nil {
		return err
	}
	return l.stopHard(ctx, d)
}

// Down switches the machine off and ends its release server. The disk, the snapshot
// and the certificates stay.
func (l *Lab) Down(ctx context.Context, name string) error {
	d, err := l.dir(name)
	if err != nil {
		return err
	}
	s, err := loadState(d.file("state.json"))
	if err != nil {
		return err
	}
	if err := l.powerOff(ctx, d); err != nil {
		return err
	}
	return endProcess(d.file("release.pid"), orText(s.ReleaseDir, "release"))
}

func orText(value, fallback string) string {
	if value == "" {
		return fallback
	}
	return value
}

// Refit gives a machine that is off other hardware: what h names is another one or there
// besides, the rest stays. Its disks, firmware variables and TPM are not touched.
func (l *Lab) Refit(name string, h Hardware) error {
	d, err := l.dir(name)
	if err != nil {
		return err
	}
	s, err := loadState(d.file("state.json"))
	if err != nil {
		return err
	}
	if _, runs := qemu.Running(d.file("qemu.pid")); runs {
		return fmt.Errorf("changing the hardware of the lab %s: it runs; `holdfast lab power cut %s` first", name, name)
	}
	s.Machine = changedMachine(d, s.Machine, h)
	return s.save(d.file("state.json"))
}

// Remove ends the machine at once and deletes all of it, its certificates included.
func (l *Lab) Remove(ctx context.Context, name string) error {
	d, err := l.dir(name)
	if err != nil {
		return err
	}
	if err := l.remove(ctx, d); err != nil {
		return err
	}
	if err := os.RemoveAll(string(d)); err != nil {
		return fmt.Errorf("removing the lab %s: %w", name, err)
	}
	return nil
}

// remove ends the machine and deletes all but what a new one takes over: the client
// certificate and the ports.
func (l *Lab) remove(ctx context.Context, d dir) error {
	if err := l.stopHard(ctx, d); err != nil {
		return err
	}
	if s, err := loadState(d.file("state.json")); err == nil {
		if err := endProcess(d.file("release.pid"), orText(s.ReleaseDir, "release")); err != nil {
			return err
		}
	}
	entries, err := os.ReadDir(string(d))
	if err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("removing the old machine: %w", err)
	}
	keep := []string{"client.crt", "client.key", "api.port", "release.port", "lock"}
	for _, entry := range entries {
		if slices.Contains(keep, entry.Name()) {
			continue
		}
		if err := os.RemoveAll(d.file(entry.Name())); err != nil {
			return fmt.Errorf("removing the old machine: %w", err)
		}
	}
	return nil
}

// List describes all labs, by name.
func (l *Lab) List() ([]Info, error) {
	files, err := filepath.Glob(filepath.Join(l.root, ".lab", "*", "state.json"))
	if err != nil {
		return nil, fmt.Errorf("listing the labs: %w", err)
	}
	infos := make([]Info, 0, len(files))
	for _, file := range files {
		info, err := l.info(dir(filepath.Dir(file)))
		if err != nil {
			return nil, err
		}
		infos = append(infos, info)
	}
	return infos, nil
}

func (l *Lab) info(d dir) (Info, error) {
	s, err := loadState(d.file("state.json"))
	if err != nil {
		return Info{}, err
	}
	_, running := qemu.Running(d.file("qemu.pid"))
	return Info{
		Name: filepath.Base(string(d)), Dir: string(d), Release: s.Release, Variant: s.Variant,
		Endpoint: s.endpoint(), Stage: string(s.Stage), Running: running,
		Snapshot: exists(d.file("snapshot/state.bin")), Accel: s.Machine.Accel, APIPort: s.APIPort,
	}, nil
}

// Log writes the serial log of all boots to w; with follow it goes on until ctx ends
// or the machine does.
func (l *Lab) Log(ctx context.Context, name string, w io.Writer, follow bool) error {
	d, err := l.dir(name)
	if err != nil {
		return err
	}
	file, err := os.Open(d.file("serial.log"))
	if err != nil {
		return fmt.Errorf("reading the serial log: %w (`holdfast lab up` starts a machine)", err)
	}
	defer func() { _ = file.Close() }() // only read
	ticker := time.NewTicker(askEvery)
	defer ticker.Stop()
	for {
		_, running := qemu.Running(d.file("qemu.pid"))
		if _, err := io.Copy(w, file); err != nil {
			return fmt.Errorf("reading the serial log: %w", err)
		}
		if !follow || !running {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// Screenshot writes the screen of a running machine to path as PNG.
func (l *Lab) Screenshot(ctx context.Context, name, path string) error {
	d, err := l.dir(name)
	if err != nil {
		return err
	}
	if path, err = filepath.Abs(path); err != nil {
		return fmt.Errorf("taking a screenshot: %w", err)
	}
	client, done, err := connect(ctx, d)
	if err != nil {
		return err
	}
	defer done()
	limited, cancel := context.WithTimeout(ctx, controlLimit)
	defer cancel()
	return client.Screenshot(limited, path)
}
