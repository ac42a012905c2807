package earlyboot

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/internal/system/bootloader"
)

// fakeRescuer is a machine with a hand: each step is what a person, or time, does next.
type fakeRescuer struct {
	steps []string
	// media are what can be put in, with what becomes of them.
	media   map[string]error
	in      string
	changes chan struct{}
	presses chan struct{}
	deaf    error
	// later is a step of time that comes after an event was heard.
	later chan time.Time
	log   []string
}

func (f *fakeRescuer) Changes(context.Context) (<-chan struct{}, error) {
	f.changes = make(chan struct{}, 1)
	return f.changes, f.deaf
}

func (f *fakeRescuer) Presses(context.Context) (<-chan struct{}, error) {
	f.presses = make(chan struct{}, 1)
	return f.presses, f.deaf
}

func (f *fakeRescuer) Medium() (Medium, error) {
	if f.later != nil && len(f.changes) == 0 {
		f.later <- failedAt
		f.later = nil
	}
	if f.in == "broken drive" {
		return Medium{}, errors.New("the drive is broken")
	}
	if f.in == "" {
		return Medium{}, nil
	}
	return Medium{Device: "/dev/sdb1", Sequence: f.in}, nil
}

func (f *fakeRescuer) Use(_ context.Context, m Medium, again bool, say func(string)) (string, error) {
	f.log = append(f.log, fmt.Sprintf("use %s, again: %t", m.Sequence, again))
	say("Reading it.")
	return "202611230104", f.media[m.Sequence]
}

// After does the next step when the loop has nothing else to wait for; pauses pass at once.
func (f *fakeRescuer) After(d time.Duration) <-chan time.Time {
	now := make(chan time.Time, 1)
	if d != retryStep {
		now <- failedAt
		return now
	}
	step := "time"
	if len(f.steps) > 0 {
		step, f.steps = f.steps[0], f.steps[1:]
	}
	switch step {
	case "time":
		now <- failedAt
		return now
	case "press":
		f.presses <- struct{}{}
		return nil
	case "end of events":
		close(f.changes)
		now <- failedAt
		return now
	}
	f.in, _ = strings.CutPrefix(step, "in ")
	if step == "out" {
		f.in = ""
	}
	if f.deaf != nil {
		now <- failedAt
		return now
	}
	f.changes <- struct{}{}
	f.later = now
	return now
}

var bothBad = Situation{
	Node: true,
	Entries: []bootloader.Entry{
		{Version: "202611230104", TriesLeft: 0, TriesDone: 3},
		{Version: "202611220104", TriesLeft: -1, TriesDone: -1, Booted: true},
	},
	note: failureNote{Format: 1, Releases: []notedFailure{{Version: "202611230104", Last: failedAt, InARow: 3, Lines: []string{"initrd-switch-root.service", "error: no root"}}}},
	why:  failedStart{units: []string{"sysusr-usr.mount"}, lines: []string{"device-mapper: verity: 254:5: data block 0 is corrupted"}},
}

// What is shown is complete, and the same each time.
func TestSituation_Text_SaysWhatIsWrongWithBothAndWhatToDo(t *testing.T) {
	const end = `
  Put in a medium with the label RESCUE_DATA and a signed release: it is used at once, and
  the data of this node stays as it is. See docs/how-to/use-a-rescue-medium.md
  Ctrl-Alt-Del or the power button starts the machine again.

`
	want := `
  Holdfast could not start, and there is no other release to start.

  Release 202611230104 (no tries left, 3 done):
    2026-11-22 16:52 UTC, 3 in a row:
    initrd-switch-root.service
    error: no root
  Release 202611220104 (this start; it has proved itself before):
    sysusr-usr.mount
    device-mapper: verity: 254:5: data block 0 is corrupted
` + end
	if diff := cmp.Diff(want, bothBad.text()); diff != "" {
		t.Error(diff)
	}
	alone := bothBad
	alone.Entries, alone.note = alone.Entries[1:], failureNote{}
	want = `
  Holdfast could not start, and there is no other release to start.

  Release 202611220104 (this start; it has proved itself before):
    sysusr-usr.mount
    device-mapper: verity: 254:5: data block 0 is corrupted
  The other slot has no release to start.
` + end
	if diff := cmp.Diff(want, alone.text()); diff != "" {
		t.Error(diff)
	}
}

// shown is what a person reads, without the countdown and without the long text.
func shown(s Situation, text string) []string {
	text = regexp.MustCompile(`\r  The machine starts again by itself in [0-9:]+\. `).ReplaceAllString(text, "")
	text = strings.ReplaceAll(text, s.text(), "THE SITUATION\n")
	return strings.Split(strings.TrimSuffix(strings.ReplaceAll(text, "\r", ""), "\n"), "\n")
}

// A medium is used when it is put in, one that does not help can be changed, and nothing else
// ends the wait but a person and the time.
func TestWaitForMedium_WhatPeopleDo_LeadsToARestartInTheEnd(t *testing.T) {
	bad := map[string]error{"bad": errors.New("it is not signed\nby anybody"), "worse": errors.New("it is older")}
	found, reading := "  Found the medium /dev/sdb1.", "  Reading it."
	written := "  Release 202611230104 is written. The machine starts it now; the medium can stay in."
	useless := []string{found, reading, "THE SITUATION", "  The medium /dev/sdb1 did not help: it is not signed", "  by anybody", "  Take it out, and put in another one."}
	for name, c := range map[string]struct {
		machine fakeRescuer
		log     []string
		says    []string
	}{
		"in from the beginning": {fakeRescuer{in: "good"}, []string{"use good, again: false"}, []string{"THE SITUATION", found, reading, written}},
		"appears late":          {fakeRescuer{steps: []string{"time", "time", "in good"}}, []string{"use good, again: false"}, []string{"THE SITUATION", found, reading, written}},
		"put in":                {fakeRescuer{steps: []string{"time", "time", "time", "in good"}}, []string{"use good, again: true"}, []string{"THE SITUATION", found, reading, written}},
		"changed": {fakeRescuer{steps: []string{"in bad", "time", "in good"}}, []string{"use bad, again: false", "use good, again: true"},
			append(append([]string{"THE SITUATION"}, useless...), found, reading, written)},
		"taken out and put in": {fakeRescuer{steps: []string{"in bad", "time", "out", "in bad", "press"}}, []string{"use bad, again: false", "use bad, again: true"},
			append(append(append([]string{"THE SITUATION"}, useless...), useless...), "  The machine starts again.")},
		"left in": {fakeRescuer{in: "bad", steps: []string{"time", "time", "press"}}, []string{"use bad, again: false"},
			append(append([]string{"THE SITUATION"}, useless...), "  The machine starts again.")},
		"a person": {fakeRescuer{steps: []string{"press"}}, nil, []string{"THE SITUATION", "  The machine starts again."}},
		"nobody":   {fakeRescuer{}, nil, []string{"THE SITUATION", "  The machine starts again, to see whether it can now."}},
		"no events": {fakeRescuer{steps: []string{"end of events", "in good"}, deaf: errors.New("no sockets")}, []string{"use good, again: false"},
			[]string{"THE SITUATION", "  Media are looked for every 10s: no sockets", "  The power button is not heard: no sockets", found, reading, written}},
		"a broken drive": {fakeRescuer{in: "broken drive", steps: []string{"time", "time", "press"}}, nil,
			[]string{"THE SITUATION", "  A medium cannot be used: the drive is broken", "  The machine starts again."}},
	} {
		t.Run(name, func(t *testing.T) {
			c.machine.media = bad
			var log, screen bytes.Buffer
			if err := waitForMedium(t.Context(), &c.machine, bothBad, Screens{Log: &log, Consoles: &screen}); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.log, c.machine.log); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff([][]string{c.says, c.says}, [][]string{shown(bothBad, screen.String()), shown(bothBad, log.String())}); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// Nobody has to guess how long it takes, and a medium that did not help gives the full time.
func TestWaitForMedium_Countdown_BeginsAnewAfterAMedium(t *testing.T) {
	machine := &fakeRescuer{steps: []string{"time", "time", "in bad", "press"}, media: map[string]error{"bad": errors.New("no")}}
	var log, screen bytes.Buffer
	if err := waitForMedium(t.Context(), machine, bothBad, Screens{Log: &log, Consoles: &screen}); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, match := range regexp.MustCompile(`in ([0-9:]+)\. `).FindAllStringSubmatch(screen.String(), -1) {
		got = append(got, match[1])
	}
	if diff := cmp.Diff([]string{"10:00", "09:50", "10:00", "09:50"}, got); diff != "" {
		t.Error(diff)
	}
}
