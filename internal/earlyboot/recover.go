package earlyboot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-os/holdfast/internal/rescue"
	"github.com/holdfast-os/holdfast/internal/system/bootloader"
)

// A node that no restart helps waits here for a rescue medium. It also starts again by itself
// now and then: what keeps it from starting may be a cable.

const (
	// RetryAfter is how long it waits before it starts again by itself.
	RetryAfter = 10 * time.Minute
	// retryStep is how often the time that is left is shown.
	retryStep = 10 * time.Second
	// settleSteps are the steps in which a medium may appear that was in from the beginning.
	settleSteps = 3
	// rescuedDelay is how long it can be read that a medium has helped.
	rescuedDelay = 5 * time.Second
)

// Situation is what there is to start on a machine that could not start.
type Situation struct {
	// Entries are the kernel images on the ESP.
	Entries []bootloader.Entry
	// Node is false for a disk that is not a node's, as an install medium.
	Node bool
	note failureNote
	why  failedStart
}

// running is the release of this start; "" when that is not known.
func (s Situation) running() string {
	at := slices.IndexFunc(s.Entries, func(e bootloader.Entry) bool { return e.Booted })
	if at < 0 {
		return ""
	}
	return s.Entries[at].Version
}

// text is what is shown: the same words each time, so that they can be looked for.
func (s Situation) text() string {
	var b strings.Builder
	b.WriteString("\n  Holdfast could not start, and there is no other release to start.\n\n")
	alone := true
	for _, entry := range s.Entries {
		if entry.Booted {
			fmt.Fprintf(&b, "  Release %s (this start; %s):\n%s", entry.Version, triesOf(entry), indented(s.why.all()))
			continue
		}
		alone = false
		fmt.Fprintf(&b, "  Release %s (%s):\n", entry.Version, triesOf(entry))
		noted, known := s.note.of(entry.Version)
		if !known {
			b.WriteString("    how it failed is not known\n")
			continue
		}
		fmt.Fprintf(&b, "    %s, %d in a row:\n%s", noted.Last.Format("2006-01-02 15:04 UTC"), noted.InARow, indented(noted.Lines))
	}
	if alone {
		b.WriteString("  The other slot has no release to start.\n")
	}
	fmt.Fprintf(&b, "\n  Put in a medium with the label %s and a signed release: it is used at once, and\n"+
		"  the data of this node stays as it is. See docs/how-to/use-a-rescue-medium.md\n"+
		"  Ctrl-Alt-Del or the power button starts the machine again.\n\n", rescue.Label)
	return b.String()
}

func triesOf(e bootloader.Entry) string {
	switch {
	case e.TriesLeft < 0:
		return "it has proved itself before"
	case e.TriesLeft == 0:
		return fmt.Sprintf("no tries left, %d done", max(e.TriesDone, 0))
	}
	return fmt.Sprintf("%d tries left, %d done", e.TriesLeft, max(e.TriesDone, 0))
}

// Medium is a rescue medium that is in the machine.
type Medium struct {
	// Device is its path; "" for none.
	Device string
	// Sequence changes when another medium is put into the same place.
	Sequence string
}

// Rescuer is what waiting for a rescue medium needs of the machine.
type Rescuer interface {
	// Changes gets a value when the devices of the machine have changed, and is closed when
	// no more is heard of that.
	Changes(ctx context.Context) (<-chan struct{}, error)
	// Presses gets a value when a person wants a restart.
	Presses(ctx context.Context) (<-chan struct{}, error)
	// Medium gives the one that is in now.
	Medium() (Medium, error)
	// Use brings the release of a medium into a slot, and gives its version. Without again, a
	// release that was brought so before, and has failed since, is refused.
	Use(ctx context.Context, m Medium, again bool, say func(string)) (version string, err error)
	// After is time.After.
	After(d time.Duration) <-chan time.Time
}

// waiting is one wait for a medium.
type waiting struct {
	Rescuer
	situation Situation
	out       Screens
	// useless is the medium that was used last, and did not help.
	useless Medium
	// tried is true once a medium was used; passed counts steps of time.
	tried  bool
	passed int
	// trouble was said last of a medium that cannot be looked at.
	trouble string
	left    time.Duration
	// shown is the countdown that stands on the console.
	shown  string
	failed []error
}

// waitForMedium returns when the machine is to start again: a medium has helped, a person
// wants it, or RetryAfter has passed without either.
func waitForMedium(ctx context.Context, machine Rescuer, situation Situation, out Screens) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w := &waiting{Rescuer: machine, situation: situation, out: out, left: RetryAfter}
	w.say(situation.text())
	changes, err := machine.Changes(ctx)
	if err != nil {
		w.line(fmt.Sprintf("Media are looked for every %s: %v", retryStep, err))
	}
	presses, err := machine.Presses(ctx)
	if err != nil {
		w.line(fmt.Sprintf("The power button is not heard: %v", err))
	}
	tick := machine.After(retryStep)
	for {
		helped := w.look(ctx)
		if helped || ctx.Err() != nil {
			return errors.Join(w.failed...)
		}
		w.countdown()
		select {
		case <-ctx.Done():
			return errors.Join(w.failed...)
		case <-presses:
			w.line("The machine starts again.")
			return errors.Join(w.failed...)
		case _, open := <-changes:
			if !open {
				changes = nil // the clock looks too
			}
		case <-tick:
			w.passed++
			if w.left -= retryStep; w.left <= 0 {
				w.line("The machine starts again, to see whether it can now.")
				return errors.Join(w.failed...)
			}
			tick = machine.After(retryStep)
		}
	}
}

// look uses the medium that is in, unless it was used before; true when it has helped.
func (w *waiting) look(ctx context.Context) bool {
	medium, err := w.Medium()
	if err != nil {
		if w.trouble != err.Error() {
			w.trouble = err.Error()
			w.line("A medium cannot be used: " + w.trouble)
		}
		return false
	}
	if medium == w.useless {
		return false
	}
	if w.useless = medium; medium.Device == "" {
		return false
	}
	w.line("Found the medium " + medium.Device + ".")
	// What was in from the beginning must not be written for ever, start after start. A stick
	// takes some seconds to appear.
	again := w.tried || w.passed >= settleSteps
	w.tried = true
	version, err := w.Use(ctx, medium, again, w.line)
	if err == nil {
		w.line(fmt.Sprintf("Release %s is written. The machine starts it now; the medium can stay in.", version))
		select {
		case <-ctx.Done():
		case <-w.After(rescuedDelay):
		}
		return true
	}
	w.say(w.situation.text())
	w.line(fmt.Sprintf("The medium %s did not help: %v", medium.Device, err))
	w.line("Take it out, and put in another one.")
	w.left = RetryAfter
	return false
}

func (w *waiting) say(text string) {
	// A console that is gone must not end the wait; it is told when that ends.
	if err := w.out.say(text); err != nil && len(w.failed) == 0 {
		w.failed = append(w.failed, err)
	}
}

func (w *waiting) line(text string) {
	var b strings.Builder
	for line := range strings.Lines(text) { // errors that were joined
		b.WriteString("  " + printable(strings.TrimRight(line, "\n")) + "\n")
	}
	w.say("\r" + b.String())
	w.shown = ""
}

// countdown is written over itself, and not kept; each step once, however many events there
// are in it.
func (w *waiting) countdown() {
	text := fmt.Sprintf("\r  The machine starts again by itself in %02d:%02d. ", int(w.left.Minutes()), int(w.left.Seconds())%60)
	if text != w.shown {
		_, _ = io.WriteString(w.out.Consoles, text)
	}
	w.shown = text
}
