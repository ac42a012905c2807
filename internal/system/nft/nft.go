// Package nft is the adapter for nftables: it puts a ruleset into force in one
// transaction.
//
// The text comes from the planner, which deletes and makes its own tables in it; what
// Incus and others have in other tables is not touched. nft and the kernel take the
// text as a whole or not at all, so the node is never without its rules in between.
//
// What can fail: the text may be wrong, or the kernel may not know what is asked of it.
// The error is then a *SyntaxError with the line of the text.
package nft

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/holdfast-os/holdfast/internal/system/run"
)

// MaxRuleset is the size of a ruleset at most, in bytes.
const MaxRuleset = 8 << 20

// Host is the machine whose rules are set.
type Host struct {
	// Run starts nft.
	Run run.Runner
}

// SyntaxError is a ruleset that nft or the kernel does not take.
type SyntaxError struct {
	// Line counts from 1; 0 when nft named none.
	Line int
	// Text is that line.
	Text string
	// Reason is what nft said first.
	Reason string
	Err    error
}

func (e *SyntaxError) Error() string {
	if e.Line == 0 {
		return "nft does not take the rules: " + e.Reason
	}
	return fmt.Sprintf("nft does not take line %d of the rules, %q: %s", e.Line, e.Text, e.Reason)
}

func (e *SyntaxError) Unwrap() error { return e.Err }

// Apply puts a ruleset into force, as a whole or not at all.
func (h Host) Apply(ctx context.Context, ruleset string) error {
	if err := h.feed(ctx, ruleset, "-f", "-"); err != nil {
		return fmt.Errorf("setting the firewall: %w", err)
	}
	return nil
}

func (h Host) feed(ctx context.Context, ruleset string, args ...string) error {
	if len(ruleset) > MaxRuleset {
		return fmt.Errorf("the rules are larger than %d bytes", MaxRuleset)
	}
	_, err := h.Run(ctx, run.Command{Name: "nft", Args: args, Stdin: strings.NewReader(ruleset)})
	if _, ended := run.ExitCode(err); !ended {
		return err
	}
	return syntaxError(ruleset, err)
}

// syntaxError finds the line in what nft wrote: "/dev/stdin:3:5-9: Error: ...", which
// is "-:3:5-9: ..." in other versions.
func syntaxError(ruleset string, err error) error {
	found := &SyntaxError{Err: err}
	var failed *run.Error
	if !errors.As(err, &failed) {
		return err
	}
	for line := range strings.Lines(failed.Stderr) {
		line = strings.TrimSpace(line)
		place, reason, ok := strings.Cut(line, ": ")
		if !ok {
			continue
		}
		if found.Reason == "" {
			found.Reason = line
		}
		parts := strings.Split(place, ":")
		if len(parts) < 3 {
			continue
		}
		number, bad := strconv.Atoi(parts[len(parts)-2])
		if bad != nil {
			continue
		}
		found.Line, found.Reason = number, strings.TrimPrefix(reason, "Error: ")
		found.Text = lineOf(ruleset, number)
		break
	}
	return found
}

// lineOf is one line of a text, shortened for a message.
func lineOf(text string, number int) string {
	lines := strings.Split(text, "\n")
	if number < 1 || number > len(lines) {
		return ""
	}
	line := strings.TrimSpace(lines[number-1])
	return line[:min(len(line), 200)]
}
