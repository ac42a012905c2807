package lab

import (
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"time"
)

// tailSize is how much of a log's end is looked at, in bytes.
const tailSize = 64 << 10

// failureLines is how many lines of the serial log a failure shows.
const failureLines = 15

// PhaseError is a phase of Up that did not come to its end.
type PhaseError struct {
	// Phase is its name, Elapsed how long it had been going on.
	Phase   string
	Elapsed time.Duration
	// Log is the end of the serial log.
	Log []string
	// Screenshot is a PNG of the screen; empty when none could be taken.
	Screenshot string
	// Next says how to go on.
	Next string
	Err  error
}

func (e *PhaseError) Error() string {
	var text strings.Builder
	fmt.Fprintf(&text, "%s, after %.0f s: %v", e.Phase, e.Elapsed.Seconds(), e.Err)
	if len(e.Log) > 0 {
		text.WriteString("\nthe last lines of the serial log:\n  " + strings.Join(e.Log, "\n  "))
	}
	if e.Screenshot != "" {
		text.WriteString("\nthe screen: " + e.Screenshot)
	}
	if e.Next != "" {
		text.WriteString("\n" + e.Next)
	}
	return text.String()
}

func (e *PhaseError) Unwrap() error { return e.Err }

// control matches the escape sequences of terminals, and other characters that a
// person does not want on the screen.
var control = regexp.MustCompile(`\x1b\[[0-9;?=]*[ -/]*[@-~]|\x1b[()][0-9A-Za-z]|\x1b.|[\x00-\x08\x0b-\x1f\x7f]`)

// plainLines turns what a serial port said into lines without escape sequences, NUL
// and blank lines.
func plainLines(raw string) []string {
	raw = strings.ReplaceAll(strings.ReplaceAll(raw, "\r\n", "\n"), "\r", "\n")
	var lines []string
	for line := range strings.SplitSeq(raw, "\n") {
		line = strings.TrimRight(control.ReplaceAllString(line, ""), " \t")
		if line != "" {
			lines = append(lines, line)
		}
	}
	return lines
}

// tailLines gives the last n plain lines of a file; nothing when it cannot be read.
func tailLines(path string, n int) []string {
	file, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer func() { _ = file.Close() }() // only read
	if info, err := file.Stat(); err == nil && info.Size() > tailSize {
		if _, err := file.Seek(-tailSize, io.SeekEnd); err != nil {
			return nil
		}
	}
	raw, err := io.ReadAll(io.LimitReader(file, tailSize))
	if err != nil {
		return nil
	}
	lines := plainLines(string(raw))
	return lines[max(0, len(lines)-n):]
}
