package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/holdfast-os/holdfast/internal/system/tooltree"
)

// phases are the mean times of the lab's phases in seconds, as "tcg install".
type phases map[string]float64

// readTimes reads what the lab noted about its phases; nothing when it never ran.
func readTimes() (phases, error) {
	cache, err := tooltree.CacheDir()
	if err != nil {
		return nil, err
	}
	raw, err := os.ReadFile(filepath.Join(cache, "lab-times.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the times of the lab: %w", err)
	}
	var file struct {
		Seconds phases `json:"seconds"`
	}
	if err := json.Unmarshal(raw, &file); err != nil {
		return nil, fmt.Errorf("reading the times of the lab: %w", err)
	}
	return file.Seconds, nil
}

// of is the time of a phase under one accelerator, 0 when it is not known.
func (p phases) of(accel, phase string) time.Duration {
	return time.Duration(p[accel+" "+phase] * float64(time.Second))
}

// coldPhases are what `make up` goes through on a computer without a machine.
var coldPhases = []string{"Secure Boot keys", "install", "first boot", "API ready", "snapshot"}

func timeRows(times phases, live liveNumbers) []row {
	accel := live.Accel
	if accel == "" {
		accel = "tcg"
	}
	return []row{coldRow(times, accel), warmRow(live), installRow(times, accel, live), bootRow(live)}
}

func coldRow(times phases, accel string) row {
	const what, target = "`make up` from nothing: the machine's part", "35 min with the build"
	var sum time.Duration
	var parts []string
	for _, name := range coldPhases {
		took := times.of(accel, name)
		if took == 0 {
			return notMeasured(what, target, "", "the lab has no time for the phase \""+name+"\": run `make up FRESH=1`")
		}
		sum += took
		parts = append(parts, name+" "+seconds(took))
	}
	return row{
		What: what, Value: seconds(sum), Target: target,
		How: strings.Join(parts, ", ") + "; means of this computer's runs. The build's own time is not in it: its steps keep no times",
	}
}

func warmRow(live liveNumbers) row {
	const what, target = "warm start: the API answers from the snapshot", "10 s"
	if live.Restore == 0 {
		return notMeasured(what, target, "", live.Why)
	}
	return row{What: what, Value: seconds(live.Restore), Target: target, How: "one restore, from the call to the first ready answer"}
}

func installRow(times phases, accel string, live liveNumbers) row {
	const what, target, against = "install to disk", "1.5 times", "`dd` of the same bytes"
	took := times.of(accel, "install")
	switch {
	case took == 0:
		return notMeasured(what, target, against, "the lab has no time for an installation: run `make up FRESH=1`")
	case live.DD == 0:
		return row{What: what, Value: seconds(took), Target: target, Against: against + ", not measured", How: live.Why}
	}
	return row{
		What: what, Value: seconds(took), Target: target, Against: against + ", " + seconds(live.DD),
		Ratio: ratio(took.Seconds(), live.DD.Seconds()),
		How: fmt.Sprintf("the installation is the lab's whole phase, so it has the start of the medium's kernel and userland in it; "+
			"dd copied %s in a node of the same shape, from one virtual disk to another, with fsync", megabytes(live.DDBytes)),
	}
}

func bootRow(live liveNumbers) row {
	const what, target, against = "kernel start to API ready", "1.5 times", "minimal Debian 13, same kernel and machine, to multi-user: not measured yet"
	const why = "the Debian image to compare with is not built yet"
	if live.Boot == 0 {
		return notMeasured(what, target, against, live.Why+"; "+why)
	}
	return row{What: what, Value: seconds(live.Boot), Target: target, Against: against, How: "the phases of /1.0/debug/boot, second boot, test variant; " + why}
}
