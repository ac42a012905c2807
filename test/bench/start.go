package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	api "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/client"
	"github.com/holdfast-os/holdfast/internal/lab"
)

func starts() []measurement {
	return []measurement{
		{
			Name: "warm", Machines: true, Take: takeWarm,
			Rows: []metric{{ID: "start-warm", What: "warm start: the API answers from the snapshot", Unit: inSeconds, Limit: 10}},
		},
		{
			Name: "boot", Machines: true, Take: takeBoot,
			Rows: []metric{{
				ID: "start-boot", What: "power-on to API ready", Unit: inSeconds, Limit: 1.5, Times: true,
				Against: "minimal Debian 13, same kernel and machine, power-on to multi-user.target",
				Missed: "the two stop at different points: Debian at multi-user.target with nothing to serve, Holdfast when Incus with its storage answers, " +
					"and what holdfastd does for that (opening swap behind udev's look at all devices, network, pools, and above all starting Incus) is about half of its start; " +
					"besides, firmware and stub read, hash and measure a UKI twice as large, on an emulated processor. " +
					"The way to close it: a smaller initrd, fewer modules loaded by udev, and Incus' own start.",
			}},
		},
	}
}

// warmCount is how often the snapshot is restored.
const warmCount = 3

func takeWarm(ctx context.Context, b *bench) ([]record, error) {
	if err := b.base(ctx); err != nil {
		return nil, err
	}
	var took []float64
	for range warmCount {
		begun := time.Now()
		if _, err := b.up(ctx, lab.Options{Name: baseLab}); err != nil {
			return nil, err
		}
		took = append(took, time.Since(begun).Seconds())
		if err := b.lab.Power(ctx, baseLab, lab.Cut); err != nil {
			return nil, err
		}
	}
	return []record{{ID: "start-warm", Value: median(took),
		How: fmt.Sprintf("median of %d restores (%s), each from the call to the first answer that says ready.", warmCount, each(took))}}, nil
}

// bootCount is how often each side is started for the record.
const bootCount = 2

// boots are the starts of one side, in seconds: from power-on, and what the system
// says of the parts after the firmware.
type boots struct {
	total []float64
	parts []startup
}

// takeBoot starts a clone of the base and the Debian in turn. Each has had one start
// before, so that none has to make what only a first start makes; each is switched off
// by its power button.
func takeBoot(ctx context.Context, b *bench) ([]record, error) {
	const name = labPrefix + "boot"
	if err := b.base(ctx); err != nil {
		return nil, err
	}
	image, err := b.debianImage(ctx)
	if err != nil {
		return nil, err
	}
	defer b.remove(ctx, name)
	if _, err := b.up(ctx, lab.Options{Name: name, From: baseLab, NoSnapshot: true}); err != nil {
		return nil, err
	}
	if err := b.lab.Power(ctx, name, lab.Off); err != nil {
		return nil, err
	}
	debian, err := b.newDebian(image, b.labDir(name))
	if err != nil {
		return nil, err
	}
	defer func() { _ = debian.remove(context.WithoutCancel(ctx)) }() // close tries again and says why
	if _, _, err := debian.boot(ctx); err != nil {
		return nil, err
	}
	var ours, theirs boots
	for range bootCount {
		took, parts, err := b.bootNode(ctx, name)
		if err != nil {
			return nil, err
		}
		ours.add(took, parts)
		if took, parts, err = debian.boot(ctx); err != nil {
			return nil, err
		}
		theirs.add(took, parts)
	}
	return []record{{ID: "start-boot", Value: median(ours.total), Other: median(theirs.total),
		How: fmt.Sprintf("medians of %d starts each, in turn, each after one that does not count. Holdfast until system_is_ready (UKI %s): %s. Debian (UKI %s): %s.",
			bootCount, fileMegabytes(filepath.Join(b.build(), "Holdfast_"+b.version+".efi")), ours, fileMegabytes(filepath.Join(image, "debian.efi")), theirs)}}, nil
}

// bootNode starts a machine that is off and waits for its API; it is off again then.
func (b *bench) bootNode(ctx context.Context, name string) (took float64, parts startup, err error) {
	begun := time.Now()
	info, err := b.up(ctx, lab.Options{Name: name, From: baseLab, NoSnapshot: true})
	if err != nil {
		return 0, startup{}, err
	}
	took = time.Since(begun).Seconds()
	c, err := b.node(info)
	if err != nil {
		return 0, startup{}, err
	}
	defer c.Close()
	if parts, err = nodeStartup(ctx, c); err != nil {
		return 0, startup{}, err
	}
	return took, parts, b.lab.Power(ctx, name, lab.Off)
}

func (s *boots) add(total float64, parts startup) {
	s.total, s.parts = append(s.total, total), append(s.parts, parts)
}

// String is "70.1, 72.3 s: firmware and loader 20.0 s, kernel 10.0 s, ...".
func (s boots) String() string {
	var firmware, kernel, initrd, userland []float64
	for i, p := range s.parts {
		// The kernel's clock begins with the kernel: what is left is before it. Userland
		// is what follows up to the moment that is waited for.
		kernel, initrd = append(kernel, p.Kernel), append(initrd, p.Initrd)
		before := s.total[i] - p.Ready
		firmware = append(firmware, before)
		userland = append(userland, p.Ready-p.Kernel-p.Initrd)
	}
	text := fmt.Sprintf("%s; before the kernel %.1f s, kernel %.1f s, initrd %.1f s, userland %.1f s",
		each(s.total), median(firmware), median(kernel), median(initrd), median(userland))
	if last := s.parts[len(s.parts)-1]; len(last.Phases) > 0 {
		text += fmt.Sprintf("; in the last start holdfastd began %.1f s after the kernel, and its phases of a second or more took: %s",
			last.Daemon, strings.Join(last.Phases, ", "))
	}
	return text
}

// startup are the parts of a start, in seconds of the kernel's clock.
type startup struct {
	Kernel, Initrd, Userspace float64
	// Ready is the moment that is waited for, since the kernel began.
	Ready float64
	// Daemon is when holdfastd began, and Phases are its phases that took a second or
	// more, with their times; nothing for another system.
	Daemon float64
	Phases []string
}

// startupWait bounds the wait for systemd to say how long the start took, which it does
// once nothing is left to be started.
const startupWait = 2 * time.Minute

// nodeStartup asks a node for the parts of its start.
func nodeStartup(ctx context.Context, c *client.Client) (startup, error) {
	ctx, cancel := context.WithTimeout(ctx, startupWait)
	defer cancel()
	boot, err := c.DebugBoot(ctx)
	if err != nil {
		return startup{}, fmt.Errorf("asking for the phases of the start: %w", err)
	}
	seen := phasesOf(boot)
	for {
		entries, err := c.DebugLog(ctx, client.LogQuery{Unit: "init.scope"})
		if err != nil {
			return startup{}, fmt.Errorf("asking for the log of the start: %w", err)
		}
		for _, raw := range entries {
			var entry struct {
				Message any `json:"MESSAGE"`
			}
			if err := json.Unmarshal(raw, &entry); err != nil {
				return startup{}, fmt.Errorf("reading the log of the start: %w", err)
			}
			if text, ok := entry.Message.(string); ok && strings.HasPrefix(text, startupWords) {
				parts, err := parseStartup(text)
				parts.Ready, parts.Daemon, parts.Phases = seen.Ready, seen.Daemon, seen.Phases
				return parts, err
			}
		}
		if err := pause(ctx, 2*time.Second); err != nil {
			return startup{}, fmt.Errorf("waiting for systemd to say how long the start took: %w", err)
		}
	}
}

// phasesOf reads the phases of holdfastd, which come in their order.
func phasesOf(boot api.DebugBoot) startup {
	var s startup
	for i, phase := range boot.Phases {
		if i == 0 {
			s.Daemon = phase.StartedAt
		}
		s.Ready = max(s.Ready, phase.StartedAt+phase.Duration)
		if phase.Duration >= 1 {
			s.Phases = append(s.Phases, fmt.Sprintf("%s %.1f s", phase.Name, phase.Duration))
		}
	}
	return s
}

// startupWords begin what systemd says when the start is over.
const startupWords = "Startup finished in "

var (
	startupPart = regexp.MustCompile(`((?:[0-9.]+(?:h|min|ms|us|s) )+)\((kernel|initrd|userspace)\)`)
	startupSpan = regexp.MustCompile(`([0-9.]+)(h|min|ms|us|s) `)
)

// parseStartup reads "Startup finished in 9.1s (kernel) + 1min 2s (initrd) + ...".
func parseStartup(text string) (startup, error) {
	seconds := map[string]float64{}
	for _, part := range startupPart.FindAllStringSubmatch(text, -1) {
		for _, span := range startupSpan.FindAllStringSubmatch(part[1], -1) {
			number, err := strconv.ParseFloat(span[1], 64)
			if err != nil {
				return startup{}, fmt.Errorf("reading %q: %w", text, err)
			}
			seconds[part[2]] += number * map[string]float64{"h": 3600, "min": 60, "s": 1, "ms": 1e-3, "us": 1e-6}[span[2]]
		}
	}
	s := startup{Kernel: seconds["kernel"], Initrd: seconds["initrd"], Userspace: seconds["userspace"]}
	if s.Kernel <= 0 || s.Initrd <= 0 || s.Userspace <= 0 {
		return startup{}, errors.New("reading the parts of the start: kernel, initrd and userspace are not all in: " + text)
	}
	return s, nil
}
