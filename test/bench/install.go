package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/holdfast-os/holdfast/internal/install"
	"github.com/holdfast-os/holdfast/internal/installer"
	"github.com/holdfast-os/holdfast/internal/lab"
	"github.com/holdfast-os/holdfast/internal/layout"
	"github.com/holdfast-os/holdfast/internal/system/qemu"
	"github.com/holdfast-os/holdfast/internal/system/swtpm"
)

// installCuts is at how many writes of an installation the power is cut.
const installCuts = 10

func installs() []measurement {
	return []measurement{{
		Name: "interrupt", Take: takeInstallCuts, Apart: "it installs a machine for each cut, which takes an hour", Rows: []metric{
			{ID: "install-powercut", What: "power cuts during an installation after which the machine does not end the same", Unit: inPieces, Limit: 0, Missed: "see its parts"},
		},
	}, {
		Name: "install", Machines: true, Take: takeInstall,
		Rows: []metric{{
			ID: "install", What: "install to disk", Unit: inSeconds, Limit: 1.5, Times: true,
			Against: "`dd` of the same bytes in the same machine",
			Missed: "the installer reads each part back and hashes it twice with SHA-256, on one emulated processor and after it was written, which dd does not; " +
				"the way to close it is to hash on another processor while the next part is copied.",
		}},
	}, {
		Name: "medium", Machines: true, Take: takeMedium,
		Rows: []metric{{
			ID: "medium-to-api", What: "power-on of the install medium to API ready of the installed node", Unit: inSeconds, Limit: 3.5, Times: true,
			Against: "a start of the same machine",
		}},
	}}
}

// takeInstallCuts installs a virtual machine and starts it again as a power cut at each of some
// writes would have left it.
func takeInstallCuts(ctx context.Context, b *bench) ([]record, error) {
	lost, all, outcomes, err := b.campaign(ctx, "campaign-installcut", installCuts, "install_power_cuts")
	if err != nil {
		return nil, err
	}
	return []record{{ID: "install-powercut", Value: lost, How: fmt.Sprintf("TestInstall_Interrupted_EndsTheSame in test/vm: %s cuts of one recorded installation, right before, amid and right behind the "+
		"partition table, the others evenly by the bytes written, with what was not flushed torn, lost or kept in turn. How the machine went on, with table, slots, seed and ESP as without a cut: %s.", all, outcomes)}}, nil
}

// takeMedium makes a machine from a blank disk and a medium to its ready API, with nobody at
// hand, and starts it twice more, each time from power-on to ready.
func takeMedium(ctx context.Context, b *bench) ([]record, error) {
	const name = labPrefix + "medium"
	defer b.remove(ctx, name)
	options := lab.Options{Name: name, Fresh: true, NoSnapshot: true}
	begun := time.Now()
	if _, err := b.up(ctx, options); err != nil {
		return nil, err
	}
	took := time.Since(begun).Seconds()
	options.Fresh = false
	var starts []float64
	for range bootCount {
		if err := b.lab.Power(ctx, name, lab.Off); err != nil {
			return nil, err
		}
		begun := time.Now()
		if _, err := b.up(ctx, options); err != nil {
			return nil, err
		}
		starts = append(starts, time.Since(begun).Seconds())
	}
	return []record{{ID: "medium-to-api", Value: took, Other: median(starts),
		How: fmt.Sprintf("keys enrolled, restart, installation, restart, first start with the application fetched, until system_is_ready; "+
			"making the medium is in it. Then median of %d starts of that machine (%s).", bootCount, each(starts))}}, nil
}

// takeInstall installs a machine and copies the same bytes with dd: from a disk on the
// bus of the medium to one on the bus of the target, on an installed node.
func takeInstall(ctx context.Context, b *bench) ([]record, error) {
	if err := b.base(ctx); err != nil {
		return nil, err
	}
	steps, err := b.install(ctx)
	if err != nil {
		return nil, err
	}
	dd, size, err := b.plainCopy(ctx)
	if err != nil {
		return nil, err
	}
	return []record{{ID: "install", Value: steps.Total, Other: dd.Seconds(), How: fmt.Sprintf(
		"from the installer's first line on the serial port to its last; %.1f s of it copy %d MiB, each part read back from the disk and compared by its sum (%s). "+
			"dd: %s with fsync, not read back. Both read from USB and write to virtio.",
		steps.Copying, steps.MiB, strings.Join(steps.Parts, ", "), megabytes(size))}}, nil
}

// installLimit bounds an installation with the start of its medium.
const installLimit = 20 * time.Minute

// install installs a machine, which is removed, and reads from its serial port how the
// installer went on.
func (b *bench) install(ctx context.Context) (installTimes, error) {
	const name = labPrefix + "install"
	defer b.remove(ctx, name)
	if _, err := b.up(ctx, lab.Options{Name: name, Fresh: true, NoWait: true}); err != nil {
		return installTimes{}, err
	}
	limited, cancel := context.WithTimeout(ctx, installLimit)
	defer cancel()
	var lines []line
	if err := watchSerial(limited, filepath.Join(b.labDir(name), "serial.log"), 0, func(l line) bool {
		lines = append(lines, l)
		_, err := readInstall(lines)
		return err != nil
	}); err != nil {
		return installTimes{}, err
	}
	return readInstall(lines)
}

// installTimes is how long an installation took, in seconds.
type installTimes struct {
	Total, Copying float64
	// MiB is how much was to be copied; Parts are the steps that copied, with their times.
	MiB   int
	Parts []string
}

var (
	installBegins = regexp.MustCompile(`installing release .*: ([0-9]+) MiB to copy`)
	installStep   = regexp.MustCompile(`\b([0-9]+) of ([0-9]+): ([a-z-]+)(?: ([^:]+))?`)
)

// firmwareWords begin what the firmware says when it starts something.
const firmwareWords = "BdsDxe: starting"

// errUnfinished says that the end of the installation is not there (yet).
var errUnfinished = errors.New("reading what the installer said on the serial port: its first line, a step that copies, the table and the next start are not all there")

// readInstall finds the installer's lines: "installing release ...: 750 MiB to copy",
// then one before each step, as "3 of 12: copy esp: 101 MiB of 2 GiB at 1048576". The
// last one of them before the firmware starts again is the end. The very last may be
// missing, since the machine does not wait for its console; those after the table take
// no time.
func readInstall(lines []line) (installTimes, error) {
	var times installTimes
	var begun, since time.Time
	copying, committed := "", false
	for _, l := range lines {
		if match := installBegins.FindStringSubmatch(l.Text); match != nil {
			mib, err := strconv.Atoi(match[1])
			if err != nil {
				return installTimes{}, fmt.Errorf("reading what the installer said: %w", err)
			}
			times, begun, copying = installTimes{MiB: mib}, l.At, ""
			continue
		}
		if begun.IsZero() {
			continue
		}
		if committed && times.Copying > 0 && strings.HasPrefix(l.Text, firmwareWords) {
			return times, nil
		}
		match := installStep.FindStringSubmatch(l.Text)
		if match == nil {
			continue
		}
		times.Total = l.At.Sub(begun).Seconds()
		if copying != "" {
			took := l.At.Sub(since).Seconds()
			times.Copying += took
			times.Parts = append(times.Parts, fmt.Sprintf("%s %.1f s", copying, took))
			copying = ""
		}
		switch install.Action(match[3]) {
		case install.Copy:
			copying, since = match[4], l.At
		case install.WriteTab:
			committed = true
		}
	}
	return installTimes{}, errUnfinished
}

// ddLimit bounds a copy of less than a gigabyte.
const ddLimit = 10 * time.Minute

// plainCopy copies what an installation copies with dd, in a machine of the same shape.
func (b *bench) plainCopy(ctx context.Context) (took time.Duration, size int64, err error) {
	const name = labPrefix + "copy"
	if err := b.lab.Clone(ctx, baseLab, name, lab.VariantTest, b.build()); err != nil {
		return 0, 0, err
	}
	defer b.remove(ctx, name)
	dir := b.labDir(name)
	m, err := labMachine(dir)
	if err != nil {
		return 0, 0, err
	}
	source := qemu.Disk{ID: "source", Path: filepath.Join(dir, "source.raw"), Format: "raw", Serial: "bench-source", Bus: qemu.USB, BootIndex: -1}
	target := qemu.Disk{ID: "target", Path: filepath.Join(dir, "target.raw"), Format: "raw", Serial: "bench-target", Bus: m.Disks[0].Bus, BootIndex: -1}
	if size, err = b.copiedBytes(source.Path); err != nil {
		return 0, 0, err
	}
	if err := errors.Join(os.WriteFile(target.Path, nil, 0o600), os.Truncate(target.Path, lab.DefaultDiskGiB<<30)); err != nil {
		return 0, 0, fmt.Errorf("making the disk that dd writes: %w", err)
	}
	m.Disks = append(slices.Clone(m.Disks), source, target)
	if err := swtpm.Start(ctx, b.runner, b.tools, tpmOf(dir)); err != nil {
		return 0, 0, err
	}
	// The lab finds the machine by its pid file, whoever started it.
	if err := qemu.Start(ctx, b.runner, b.tools, m); err != nil {
		return 0, 0, err
	}
	// A machine that runs is waited for until its API is ready; before that, the firmware
	// could take what is meant for the guest.
	if _, err := b.up(ctx, lab.Options{Name: name, NoSnapshot: true}); err != nil {
		return 0, 0, err
	}
	limited, cancel := context.WithTimeout(ctx, ddLimit)
	defer cancel()
	begun := time.Now()
	_, err = b.exec(limited, name, "bash", "-c",
		"exec dd if=$(ls /dev/disk/by-id/usb-*bench-source* | head -n 1) of=/dev/disk/by-id/virtio-bench-target bs=4M conv=fsync")
	return time.Since(begun), size, err
}

// copiedBytes writes what an installation copies from the medium into one file, end to
// end, and gives its size.
func (b *bench) copiedBytes(path string) (size int64, err error) {
	medium := filepath.Join(b.build(), layout.Name+"_"+b.version+".raw")
	described, err := installer.ReadMedium(medium, b.version)
	if err != nil {
		return 0, err
	}
	from, err := os.Open(medium)
	if err != nil {
		return 0, fmt.Errorf("reading the medium: %w", err)
	}
	defer func() { _ = from.Close() }() // only read
	used, problems := install.Used(from, described.Parts)
	if err := errors.Join(problems...); err != nil {
		return 0, err
	}
	plan, err := install.NewPlan(install.Input{
		Arch: layout.X86_64, Medium: described, Used: used, NewGUID: func() string { return "00000000-0000-4000-8000-000000000000" },
		Target: install.Disk{Path: "bench", Size: lab.DefaultDiskGiB << 30, Sector: 512},
	})
	if err != nil {
		return 0, err
	}
	to, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return 0, fmt.Errorf("making the disk that dd reads: %w", err)
	}
	defer func() { err = errors.Join(err, to.Close()) }()
	for _, r := range copiedRanges(plan) {
		if _, err := io.Copy(to, io.NewSectionReader(from, r.Offset, r.Size)); err != nil {
			return 0, fmt.Errorf("making the disk that dd reads: %w", err)
		}
		size += r.Size
	}
	return size, nil
}

// copiedRanges are the pieces of the medium that a plan copies.
func copiedRanges(plan install.Plan) []install.Range {
	var ranges []install.Range
	for _, step := range plan.Steps {
		switch {
		case step.Action != install.Copy:
		case step.Used == nil:
			ranges = append(ranges, install.Range{Offset: step.Offset, Size: step.Size})
		default:
			ranges = append(ranges, step.Used...)
		}
	}
	return ranges
}
