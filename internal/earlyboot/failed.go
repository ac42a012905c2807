package earlyboot

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode"

	"github.com/holdfast-os/holdfast/internal/system/run"
)

// FailureDelay is how long the reason of a failed start stays on the screen.
const FailureDelay = 30 * time.Second

// Failed writes why the start failed: the units that failed and the last errors of
// the journal. It returns after FailureDelay, and the unit that called it restarts
// the machine.
func Failed(ctx context.Context, runner run.Runner, out io.Writer) error {
	units, unitErr := runner(ctx, run.Command{Name: "systemctl", Args: []string{"--failed", "--plain", "--no-legend", "--no-pager"}})
	lines, logErr := runner(ctx, run.Command{Name: "journalctl", Args: []string{"--boot", "--priority=err", "--lines=12", "--output=cat", "--no-pager"}})
	text := failure(string(units.Stdout), string(lines.Stdout))
	for _, err := range []error{unitErr, logErr} {
		if err != nil {
			text += fmt.Sprintf("  (%v)\n", err)
		}
	}
	text += fmt.Sprintf("\n  The machine starts again in %s. While tries are left it starts this release,\n  then the one before it.\n\n", FailureDelay)
	if _, err := io.WriteString(out, text); err != nil {
		return fmt.Errorf("writing to the console: %w", err)
	}
	select {
	case <-ctx.Done():
	case <-time.After(FailureDelay):
	}
	return nil
}

func failure(units, lines string) string {
	var b strings.Builder
	b.WriteString("\n  Holdfast could not start.\n\n  What failed:\n")
	for line := range strings.Lines(units) {
		if words := strings.Fields(line); len(words) > 0 {
			b.WriteString("    " + printable(words[0]) + "\n")
		}
	}
	b.WriteString("  What was said last:\n")
	for line := range strings.Lines(lines) {
		if text := printable(strings.TrimSpace(line)); text != "" {
			b.WriteString("    " + text + "\n")
		}
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
