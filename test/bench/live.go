package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/holdfast-os/holdfast/client"
	"github.com/holdfast-os/holdfast/internal/lab"
	"github.com/holdfast-os/holdfast/internal/layout"
)

// liveNumbers are taken from running machines. A zero number was not taken; Why says
// the reason.
type liveNumbers struct {
	Why   string
	Accel string
	// Restore is from the call to the first ready answer, Boot from the kernel's start
	// to the end of the last phase.
	Restore, Boot time.Duration
	// Daemon is holdfastd's proportional share of memory, Node what is not available
	// of the node's memory, ARC what ZFS' cache has of it; in bytes.
	Daemon, Node, ARC int64
	// DD is the time of a plain copy of DDBytes.
	DD      time.Duration
	DDBytes int64
}

// Names of the labs; the first two are those of the VM tests.
const (
	baseLab = "test"
	execLab = "test-exec"
	copyLab = "test-bench"
)

// bench is one run with machines.
type bench struct {
	lab  *lab.Lab
	root string
}

func measure(ctx context.Context, root string) (n liveNumbers, err error) {
	n.Why = "it was not taken in this run"
	l, err := lab.Open(root)
	if err != nil {
		return n, fmt.Errorf("%w\ntry:   make build", err)
	}
	b := bench{lab: l, root: root}
	base, err := b.up(ctx, lab.Options{Name: baseLab})
	if err != nil {
		return n, err
	}
	n.Accel = string(base.Accel)
	if err := l.Power(ctx, baseLab, lab.Cut); err != nil {
		return n, err
	}
	begun := time.Now()
	if _, err := b.up(ctx, lab.Options{Name: baseLab}); err != nil {
		return n, err
	}
	n.Restore = time.Since(begun)
	if err := l.Power(ctx, baseLab, lab.Cut); err != nil {
		return n, err
	}
	if err := b.idle(ctx, &n); err != nil {
		return n, err
	}
	return n, b.copy(ctx, &n)
}

func (b bench) up(ctx context.Context, o lab.Options) (lab.Info, error) {
	o.BuildDir = filepath.Join(b.root, ".build", "out")
	o.ReleaseDir = filepath.Join(b.root, ".build", "release")
	o.Progress = os.Stderr
	info, err := b.lab.Up(ctx, o)
	if err != nil {
		return info, fmt.Errorf("bringing up the machine %s: %w", o.Name, err)
	}
	return info, nil
}

// settle is how long a node is left alone before its memory is looked at.
const settle = 2 * time.Minute

// idle measures a node that does nothing.
func (b bench) idle(ctx context.Context, n *liveNumbers) error {
	info, err := b.up(ctx, lab.Options{Name: execLab, From: baseLab, Variant: lab.VariantTest})
	if err != nil {
		return err
	}
	defer func() { _ = b.lab.Power(context.WithoutCancel(ctx), execLab, lab.Cut) }() // a machine that is off is fine
	if n.Boot, err = bootTime(ctx, info); err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(settle):
	}
	pid, err := b.exec(ctx, execLab, "systemctl", "show", "--property=MainPID", "--value", "holdfastd.service")
	if err != nil {
		return err
	}
	texts := map[string]string{"/proc/" + strings.TrimSpace(pid) + "/smaps_rollup": "", "/proc/meminfo": "", "/proc/spl/kstat/zfs/arcstats": ""}
	for file := range texts {
		if texts[file], err = b.exec(ctx, execLab, "cat", file); err != nil {
			return err
		}
	}
	return n.memory(texts["/proc/"+strings.TrimSpace(pid)+"/smaps_rollup"], texts["/proc/meminfo"], texts["/proc/spl/kstat/zfs/arcstats"])
}

// memory fills the numbers in from the kernel's tables.
func (n *liveNumbers) memory(rollup, meminfo, arcstats string) error {
	share, err := tableNumber(rollup, "Pss:", 1)
	if err != nil {
		return err
	}
	total, err := tableNumber(meminfo, "MemTotal:", 1)
	if err != nil {
		return err
	}
	available, err := tableNumber(meminfo, "MemAvailable:", 1)
	if err != nil {
		return err
	}
	if n.ARC, err = tableNumber(arcstats, "size", 2); err != nil {
		return err
	}
	n.Daemon, n.Node = share<<10, (total-available)<<10-n.ARC
	return nil
}

// tableNumber is a column of the line that begins with a word.
func tableNumber(text, first string, column int) (int64, error) {
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) > column && fields[0] == first {
			number, err := strconv.ParseInt(fields[column], 10, 64)
			if err != nil {
				return 0, fmt.Errorf("reading %s from the guest: %w", first, err)
			}
			return number, nil
		}
	}
	return 0, fmt.Errorf("reading %s from the guest: there is no such line", first)
}

func bootTime(ctx context.Context, info lab.Info) (time.Duration, error) {
	file := func(name string) string { return filepath.Join(info.Dir, name) }
	c, err := client.New(client.Options{Endpoint: info.Endpoint, CertFile: file("client.crt"), KeyFile: file("client.key"), ServerCertFile: file("server.crt")})
	if err != nil {
		return 0, err
	}
	defer c.Close()
	boot, err := c.DebugBoot(ctx)
	if err != nil {
		return 0, fmt.Errorf("asking for the phases of boot: %w", err)
	}
	last := 0.0
	for _, phase := range boot.Phases {
		last = max(last, phase.StartedAt+phase.Duration)
	}
	return time.Duration(last * float64(time.Second)), nil
}

// exec runs a program in a guest; an exit code other than 0 is an error.
func (b bench) exec(ctx context.Context, name string, argv ...string) (string, error) {
	result, err := b.lab.Exec(ctx, name, argv)
	if err != nil {
		return "", err
	}
	if result.Code != 0 {
		return "", fmt.Errorf("running %s in %s: it ended with %d: %.200s", strings.Join(argv, " "), name, result.Code, result.Stderr)
	}
	return string(result.Stdout), nil
}

// copy times a plain copy of what an installation writes: everything up to the end of
// the first slot.
func (b bench) copy(ctx context.Context, n *liveNumbers) error {
	if err := b.lab.Remove(ctx, copyLab); err != nil {
		return err
	}
	_, err := b.up(ctx, lab.Options{
		Name: copyLab, From: baseLab, Variant: lab.VariantTest, NoSnapshot: true, Hardware: lab.Hardware{DiskGiB: []int{0, 6}},
	})
	if err != nil {
		return err
	}
	defer func() { _ = b.lab.Remove(context.WithoutCancel(ctx), copyLab) }() // the next run removes what is left
	const block = 4 << 20
	count := (layout.Start(layout.UsrA) + layout.Size(layout.UsrA)) / block
	begun := time.Now()
	_, err = b.exec(ctx, copyLab, "dd", "if=/dev/vda", "of=/dev/vdb", fmt.Sprintf("bs=%d", block), fmt.Sprintf("count=%d", count), "conv=fsync")
	if err != nil {
		return err
	}
	n.DD, n.DDBytes = time.Since(begun), count*block
	return nil
}

func liveRows(n liveNumbers) []row {
	const daemon, node = "memory of holdfastd, idle", "memory of the node, idle, no instances, ARC apart"
	if n.Node == 0 {
		return []row{notMeasured(daemon, "40 MB", "", n.Why), notMeasured(node, "600 MB", "", n.Why)}
	}
	how := fmt.Sprintf("test variant, %s after its start", settle)
	return []row{
		{What: daemon, Value: megabytes(n.Daemon), Target: "40 MB", How: how + ", proportional set size"},
		{What: node, Value: megabytes(n.Node), Target: "600 MB", How: how + ", MemTotal less MemAvailable less ARC (" + megabytes(n.ARC) + ")"},
	}
}
