package earlyboot

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"
)

// The note of failed starts lies on the ESP, beside the marks: the root volume may not open,
// and the firmware's memory wears out. It is written when a start has failed and at no other
// time, and it is a help for people and no more: one that is lost, torn or cannot be written
// changes nothing.

// noteFile is the note's name on the ESP.
const noteFile = "holdfast/failed-starts.json"

// Limits of the note: what it holds, and what is read of it in bytes.
const (
	maxNoted     = 4
	maxNotedLine = 160
	maxNotedText = 8
	maxNote      = 32 << 10
)

// inARow is how far apart two failed starts of a release may be to count as one after the
// other: in between, the machine may have waited ten minutes for a disk and ten for a person.
const inARow = time.Hour

// notedFailure is how a release last failed.
type notedFailure struct {
	Version string    `json:"version"`
	Last    time.Time `json:"last"`
	// InARow counts failed starts, 1 for the first.
	InARow int      `json:"in_a_row"`
	Lines  []string `json:"lines"`
	// Restored is true when the release was brought from a rescue medium before these.
	Restored bool `json:"restored,omitempty"`
}

// failureNote are the failures of the releases that are on the ESP.
type failureNote struct {
	Format   int            `json:"format"`
	Releases []notedFailure `json:"releases"`
}

// parseNote reads a note. What is no note counts as none.
func parseNote(data []byte) failureNote {
	var note failureNote
	if json.Unmarshal(data, &note) != nil || note.Format != 1 {
		return failureNote{Format: 1}
	}
	note.Releases = note.Releases[:min(len(note.Releases), maxNoted)]
	for i := range note.Releases {
		note.Releases[i].Lines = cutLines(note.Releases[i].Lines)
	}
	return note
}

// add notes a failed start, and drops releases that are not among those present.
func (n failureNote) add(version string, now time.Time, lines, present []string) failureNote {
	failed := notedFailure{Version: version, Last: now.UTC().Truncate(time.Second), InARow: 1, Lines: cutLines(lines)}
	if old, known := n.of(version); known && now.Sub(old.Last).Abs() <= inARow {
		failed.InARow = min(old.InARow, 1000) + 1
	}
	if old, known := n.of(version); known {
		failed.Restored = old.Restored
	}
	next := failureNote{Format: 1, Releases: []notedFailure{failed}}
	for _, other := range n.Releases {
		if other.Version != version && slices.Contains(present, other.Version) && len(next.Releases) < maxNoted {
			next.Releases = append(next.Releases, other)
		}
	}
	return next
}

// restored notes that a release was brought from a rescue medium: it begins anew.
func (n failureNote) restored(version string, now time.Time) failureNote {
	next := failureNote{Format: 1, Releases: []notedFailure{{Version: version, Last: now.UTC().Truncate(time.Second), Lines: []string{}, Restored: true}}}
	for _, other := range n.Releases {
		if other.Version != version && len(next.Releases) < maxNoted {
			next.Releases = append(next.Releases, other)
		}
	}
	return next
}

// of gives what is noted of a release.
func (n failureNote) of(version string) (notedFailure, bool) {
	at := slices.IndexFunc(n.Releases, func(f notedFailure) bool { return f.Version == version })
	if at < 0 {
		return notedFailure{}, false
	}
	return n.Releases[at], true
}

// inARow tells how often a release has failed in a row; 0 when nothing is noted.
func (n failureNote) inARow(version string) int {
	noted, _ := n.of(version)
	return noted.InARow
}

func (n failureNote) encode() ([]byte, error) {
	data, err := json.Marshal(n)
	if err == nil && len(data) > maxNote {
		err = fmt.Errorf("it has %d bytes, at most %d are kept", len(data), maxNote)
	}
	if err != nil {
		return nil, fmt.Errorf("noting a failed start: %w", err)
	}
	return data, nil
}

// cutLines keeps the last lines, each not too long and fit to be shown.
func cutLines(lines []string) []string {
	lines = lines[max(0, len(lines)-maxNotedText):]
	out := make([]string, 0, len(lines))
	for _, line := range lines {
		runes := []rune(printable(line))
		out = append(out, string(runes[:min(len(runes), maxNotedLine)]))
	}
	return out
}
