package earlyboot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/holdfast-os/holdfast/internal/system/run"
)

// FailureDelay is how long the reason of a failed start stays on the screen.
const FailureDelay = 30 * time.Second

// Failing is what a failed start needs of the machine.
type Failing interface {
	// Note keeps on the ESP that this start has failed, and tells what there is to start. An
	// error means that it cannot be told what a restart leads to.
	Note(ctx context.Context, lines []string) (Situation, error)
	// GiveUp takes all tries from the release that runs.
	GiveUp(ctx context.Context) error
	// Rescuer is what waiting for a medium needs.
	Rescuer() Rescuer
	// After is time.After.
	After(d time.Duration) <-chan time.Time
}

// Screens are where a failed start is told.
type Screens struct {
	// Log keeps what is said.
	Log io.Writer
	// Consoles are what people look at; they get what goes to Log too, and the countdown.
	Consoles io.Writer
}

func (s Screens) say(text string) error {
	_, logErr := io.WriteString(s.Log, text)
	if _, err := io.WriteString(s.Consoles, text); err != nil {
		return errors.Join(fmt.Errorf("writing to the console: %w", err), logErr)
	}
	return logErr
}

// Failed says why the start failed: the units that failed and the last errors of the journal.
// It returns after FailureDelay, and the unit that called it restarts the machine; or it stays,
// where no restart leads anywhere else, until a rescue medium or a person has helped.
func Failed(ctx context.Context, runner run.Runner, machine Failing, out Screens) error {
	why := gather(ctx, runner)
	// What is wrong with a console must not keep the machine from starting again.
	failed := out.say("\n  Holdfast could not start.\n\n" + why.text())
	situation, err := machine.Note(ctx, why.all())
	outcome := StartAgain
	if err == nil {
		situation.why = why
		outcome = AfterFailure(situation.Entries, situation.note.inARow(situation.running()))
	}
	switch {
	case err != nil:
		failed = errors.Join(failed, out.say(fmt.Sprintf("  (what else could be started is not known: %s)\n", printable(err.Error()))))
	case outcome == Recover && situation.Node:
		return errors.Join(failed, waitForMedium(ctx, machine.Rescuer(), situation, out))
	case outcome == GiveUp:
		if err := machine.GiveUp(ctx); err != nil {
			failed = errors.Join(failed, out.say(fmt.Sprintf("  (release %s is not given up: %s)\n", situation.running(), printable(err.Error()))))
			break
		}
		failed = errors.Join(failed, out.say(fmt.Sprintf("\n  Release %s has failed %d times in a row and is given up: the other one is next.\n", situation.running(), failuresInARow)))
	}
	failed = errors.Join(failed, out.say(fmt.Sprintf("\n  The machine starts again in %s. While tries are left it starts this release,\n  then the one before it.\n\n", FailureDelay)))
	select {
	case <-ctx.Done():
	case <-machine.After(FailureDelay):
	}
	return failed
}

// failedStart is why a start failed.
type failedStart struct {
	// units failed, lines were said last; problems are what kept these from being known.
	units, lines []string
	problems     []error
}

func gather(ctx context.Context, runner run.Runner) (f failedStart) {
	units, err := runner(ctx, run.Command{Name: "systemctl", Args: []string{"--failed", "--plain", "--no-legend", "--no-pager"}})
	if err != nil {
		f.problems = append(f.problems, err)
	}
	for line := range strings.Lines(string(units.Stdout)) {
		if words := strings.Fields(line); len(words) > 0 {
			f.units = append(f.units, printable(words[0]))
		}
	}
	lines, err := runner(ctx, run.Command{Name: "journalctl", Args: []string{"--boot", "--priority=err", "--lines=12", "--output=cat", "--no-pager"}})
	if err != nil {
		f.problems = append(f.problems, err)
	}
	for line := range strings.Lines(string(lines.Stdout)) {
		if text := printable(strings.TrimSpace(line)); text != "" {
			f.lines = append(f.lines, text)
		}
	}
	return f
}

// all are the units that failed and what was said last.
func (f failedStart) all() []string { return slices.Concat(f.units, f.lines) }

func (f failedStart) text() string {
	var b strings.Builder
	b.WriteString("  What failed:\n" + indented(f.units) + "  What was said last:\n" + indented(f.lines))
	for _, err := range f.problems {
		fmt.Fprintf(&b, "  (%s)\n", printable(err.Error()))
	}
	return b.String()
}

func indented(lines []string) string {
	var b strings.Builder
	for _, line := range lines {
		b.WriteString("    " + line + "\n")
	}
	return b.String()
}

// maxFailureLine is how much of a line of the journal is shown, in characters.
const maxFailureLine = 300

// printable takes away what could move the cursor or colour the screen: the journal
// holds text from devices and file systems.
func printable(line string) string {
	var b strings.Builder
	count := 0
	for _, r := range line {
		if !unicode.IsPrint(r) {
			r = '?'
		}
		if count++; count > maxFailureLine {
			b.WriteString("...")
			break
		}
		b.WriteRune(r)
	}
	return b.String()
}
