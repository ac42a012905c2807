package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/holdfast-os/holdfast/client"
	"github.com/holdfast-os/holdfast/internal/lab"
	"github.com/holdfast-os/holdfast/internal/release"
	"github.com/holdfast-os/holdfast/internal/system/run"
	"github.com/holdfast-os/holdfast/internal/system/tooltree"
)

const (
	// baseLab is the lab of the VM tests.
	baseLab = "test"
	// labPrefix begins the names of all labs that bench makes and removes.
	labPrefix = "bench-"
)

// bench is one run.
type bench struct {
	// root is the project's folder, absolute.
	root    string
	version string
	tools   tooltree.Tree
	runner  run.Runner
	// lab is nil in a run without machines.
	lab   *lab.Lab
	accel string
}

// open finds the build and removes the machines that an earlier run left.
func open(ctx context.Context, root string, chosen []measurement) (*bench, error) {
	abs, err := filepath.Abs(root)
	if err != nil {
		return nil, fmt.Errorf("finding the project's folder: %w", err)
	}
	b := &bench{root: abs, runner: run.Host}
	if len(chosen) == 0 {
		return b, nil
	}
	if b.version, err = release.BuildVersion(b.build()); err != nil {
		return nil, fmt.Errorf("%w\ntry:   make build", err)
	}
	if b.tools, err = tooltree.Default(); err != nil {
		return nil, fmt.Errorf("%w\ntry:   make build", err)
	}
	for _, m := range chosen {
		if !m.Machines || b.lab != nil {
			continue
		}
		if b.lab, err = lab.Open(abs); err != nil {
			return nil, fmt.Errorf("%w\ntry:   make build", err)
		}
		if err := b.close(ctx); err != nil {
			return nil, err
		}
	}
	return b, nil
}

func (b *bench) build() string { return filepath.Join(b.root, ".build", "out") }

func (b *bench) labDir(name string) string { return filepath.Join(b.root, ".lab", name) }

// close switches the base off and removes every other machine of bench.
func (b *bench) close(ctx context.Context) error {
	if b.lab == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Minute)
	defer cancel()
	failed := []error{endDebian(ctx, b.labDir(debianLab))}
	infos, err := b.lab.List()
	failed = append(failed, err)
	for _, info := range infos {
		switch {
		case strings.HasPrefix(info.Name, labPrefix):
			failed = append(failed, b.lab.Remove(ctx, info.Name))
		case info.Name == baseLab:
			failed = append(failed, b.lab.Power(ctx, baseLab, lab.Cut), b.lab.Down(ctx, baseLab))
		}
	}
	return errors.Join(failed...)
}

// take runs one measurement and completes its records.
func (b *bench) take(ctx context.Context, m measurement) ([]record, error) {
	fmt.Fprintf(os.Stderr, "measuring %s ...\n", m.Name)
	begun, load := time.Now(), loadAverage()
	records, err := m.Take(ctx, b)
	for i := range records {
		if records[i].Taken.IsZero() {
			records[i].Taken = begun.UTC().Truncate(time.Second)
		}
		if records[i].Conditions == "" {
			records[i].Conditions = b.conditions(m.Machines, load)
		}
	}
	if err != nil {
		return records, fmt.Errorf("measuring %s: %w", m.Name, err)
	}
	fmt.Fprintf(os.Stderr, "measuring %s: done in %s\n", m.Name, time.Since(begun).Round(time.Second))
	return records, nil
}

// conditions are the computer, what it had to do besides, and the release.
func (b *bench) conditions(machines bool, load string) string {
	if !machines {
		return "release " + b.version
	}
	return fmt.Sprintf("%d processors, load %s before, %s, release %s", runtime.NumCPU(), load, b.accel, b.version)
}

// loadAverage is how many processes wanted a processor in the last minute: times that
// were taken beside other work are upper bounds.
func loadAverage() string {
	raw, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	first, _, _ := strings.Cut(string(raw), " ")
	return first
}

// base makes sure that the base is installed from this build, has a snapshot, and is
// switched off.
func (b *bench) base(ctx context.Context) error {
	infos, err := b.lab.List()
	if err != nil {
		return err
	}
	for _, info := range infos {
		if info.Name == baseLab && info.Release == b.version && info.Snapshot {
			b.accel = string(info.Accel)
			return b.lab.Power(ctx, baseLab, lab.Cut)
		}
	}
	info, err := b.up(ctx, lab.Options{Name: baseLab, Fresh: true})
	if err != nil {
		return err
	}
	b.accel = string(info.Accel)
	return b.lab.Power(ctx, baseLab, lab.Cut)
}

func (b *bench) up(ctx context.Context, o lab.Options) (lab.Info, error) {
	o.BuildDir = b.build()
	o.ReleaseDir = filepath.Join(b.root, ".build", "release")
	o.Progress = os.Stderr
	info, err := b.lab.Up(ctx, o)
	if err != nil {
		return info, fmt.Errorf("bringing up the machine %s: %w", o.Name, err)
	}
	return info, nil
}

// remove deletes a machine, also after the run was cut; close tries once more.
func (b *bench) remove(ctx context.Context, name string) {
	if err := b.lab.Remove(context.WithoutCancel(ctx), name); err != nil {
		fmt.Fprintln(os.Stderr, "warning:", err)
	}
}

// node is a client of a machine that answers.
func (b *bench) node(info lab.Info) (*client.Client, error) {
	file := func(name string) string { return filepath.Join(info.Dir, name) }
	return client.New(client.Options{
		Endpoint: info.Endpoint, CertFile: file("client.crt"), KeyFile: file("client.key"), ServerCertFile: file("server.crt"),
	})
}

// exec runs a program in a guest; an exit code other than 0 is an error.
func (b *bench) exec(ctx context.Context, name string, argv ...string) (string, error) {
	result, err := b.lab.Exec(ctx, name, argv)
	if err != nil {
		return "", err
	}
	if result.Code != 0 {
		return "", fmt.Errorf("running %s in %s: it ended with %d: %.200s", strings.Join(argv, " "), name, result.Code, result.Stderr)
	}
	return string(result.Stdout), nil
}

// pause waits, unless the run ends before.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
