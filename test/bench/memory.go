package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/holdfast-os/holdfast/internal/lab"
)

func memories() []measurement {
	return []measurement{{
		Name: "memory", Machines: true, Take: takeMemory,
		Rows: []metric{
			{ID: "memory-daemon", What: "memory of holdfastd, idle", Unit: inBytes, Limit: 40e6},
			{ID: "memory-node", What: "memory of the node, idle, no instances, ARC apart", Unit: inBytes, Limit: 600e6},
		},
	}}
}

// settle is how long a node is left alone before its memory is looked at.
const settle = 2 * time.Minute

// usage is where a node's memory is, in bytes.
type usage struct {
	// Daemon is holdfastd's proportional share; Node what is not available, ARC apart;
	// ARC is ZFS' cache.
	Daemon, Node, ARC int64
}

// takeMemory looks at a node of the test variant, whose /usr is that of the release.
func takeMemory(ctx context.Context, b *bench) ([]record, error) {
	const name = labPrefix + "memory"
	if err := b.base(ctx); err != nil {
		return nil, err
	}
	defer b.remove(ctx, name)
	if _, err := b.up(ctx, lab.Options{Name: name, From: baseLab, Variant: lab.VariantTest, NoSnapshot: true}); err != nil {
		return nil, err
	}
	if err := pause(ctx, settle); err != nil {
		return nil, err
	}
	pid, err := b.exec(ctx, name, "systemctl", "show", "--property=MainPID", "--value", "holdfastd.service")
	if err != nil {
		return nil, err
	}
	var texts []string
	for _, file := range []string{"/proc/" + strings.TrimSpace(pid) + "/smaps_rollup", "/proc/meminfo", "/proc/spl/kstat/zfs/arcstats"} {
		text, err := b.exec(ctx, name, "cat", file)
		if err != nil {
			return nil, err
		}
		texts = append(texts, text)
	}
	u, err := readUsage(texts[0], texts[1], texts[2])
	if err != nil {
		return nil, err
	}
	largest, err := b.exec(ctx, name, "ps", "-eo", "pid,rss,comm", "--sort=-rss", "--no-headers")
	if err != nil {
		return nil, err
	}
	how := fmt.Sprintf("test variant, %s after its start", settle)
	return []record{
		{ID: "memory-daemon", Value: float64(u.Daemon), How: how + "; proportional set size."},
		{ID: "memory-node", Value: float64(u.Node), How: how + fmt.Sprintf("; MemTotal less MemAvailable less ARC (%s), which has Incus in it. Largest by resident set: %s.",
			megabytes(u.ARC), largestProcesses(largest))},
	}, nil
}

// readUsage reads the kernel's tables.
func readUsage(rollup, meminfo, arcstats string) (usage, error) {
	var numbers [4]int64
	for i, ask := range []struct {
		text, first string
		column      int
	}{{rollup, "Pss:", 1}, {meminfo, "MemTotal:", 1}, {meminfo, "MemAvailable:", 1}, {arcstats, "size", 2}} {
		number, err := tableNumber(ask.text, ask.first, ask.column)
		if err != nil {
			return usage{}, err
		}
		numbers[i] = number
	}
	return usage{Daemon: numbers[0] << 10, Node: (numbers[1]-numbers[2])<<10 - numbers[3], ARC: numbers[3]}, nil
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

// largestProcesses names the first lines of "PID KIB NAME".
func largestProcesses(text string) string {
	const count = 5
	var names []string
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) != 3 || len(names) == count {
			continue
		}
		kib, err := strconv.ParseInt(fields[1], 10, 64)
		if err != nil {
			continue
		}
		names = append(names, fields[2]+" "+megabytes(kib<<10))
	}
	return strings.Join(names, ", ")
}
