package earlyboot

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var failedAt = time.Date(2026, 11, 22, 16, 52, 0, 0, time.UTC)

// Three failed starts in a row mean something, three in a year do not; and the note of a
// release that is gone goes with it.
func TestFailureNote_StartsThatFail_AreCountedWhileTheyFollowEachOther(t *testing.T) {
	note := failureNote{Format: 1, Releases: []notedFailure{
		{Version: "202611220104", Last: failedAt, InARow: 2, Lines: []string{"old"}},
		{Version: "202611210104", Last: failedAt, InARow: 3, Lines: []string{"other"}},
		{Version: "202611200104", Last: failedAt, InARow: 1, Lines: []string{"gone"}},
	}}
	other := note.Releases[1]
	for name, c := range map[string]struct {
		version string
		after   time.Duration
		want    notedFailure
	}{
		"soon after":               {"202611220104", time.Hour, notedFailure{Version: "202611220104", Last: failedAt.Add(time.Hour), InARow: 3, Lines: []string{"new"}}},
		"much later":               {"202611220104", time.Hour + time.Second, notedFailure{Version: "202611220104", Last: failedAt.Add(time.Hour + time.Second), InARow: 1, Lines: []string{"new"}}},
		"with a clock set back":    {"202611220104", -time.Minute, notedFailure{Version: "202611220104", Last: failedAt.Add(-time.Minute), InARow: 3, Lines: []string{"new"}}},
		"with a clock of long ago": {"202611220104", -48 * time.Hour, notedFailure{Version: "202611220104", Last: failedAt.Add(-48 * time.Hour), InARow: 1, Lines: []string{"new"}}},
	} {
		got := note.add(c.version, failedAt.Add(c.after), []string{"new"}, []string{"202611220104", "202611210104"})
		if diff := cmp.Diff(failureNote{Format: 1, Releases: []notedFailure{c.want, other}}, got); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
	first := failureNote{Format: 1}.add("202611230104", failedAt, nil, nil)
	if diff := cmp.Diff(failureNote{Format: 1, Releases: []notedFailure{{Version: "202611230104", Last: failedAt, InARow: 1, Lines: []string{}}}}, first); diff != "" {
		t.Error(diff)
	}
}

// The ESP must not fill up with it, whatever has failed and however often.
func TestFailureNote_AnyNumberOfFailures_StaysSmall(t *testing.T) {
	note, present := failureNote{Format: 1}, []string{}
	for i := range 100 {
		version := fmt.Sprintf("2026112201%02d", i)
		present = append(present, version)
		lines := make([]string, 1000)
		for j := range lines {
			lines[j] = strings.Repeat("ä\x00", 5000)
		}
		note = note.add(version, failedAt, lines, present)
	}
	data, err := note.encode()
	if err != nil || len(data) > 32<<10 {
		t.Fatalf("%d bytes, %v", len(data), err)
	}
	if diff := cmp.Diff(note, parseNote(data)); diff != "" {
		t.Error(diff)
	}
}

// FAT has no journal, and anybody can write to the ESP.
func FuzzParseNote_AnyBytes_AreANoteOrNone(f *testing.F) {
	f.Add([]byte(`{"format":1,"releases":[{"version":"202611220104","last":"2026-11-22T16:52:00Z","in_a_row":2,"lines":["a"]}]}`))
	f.Add([]byte(`{"format":2}`))
	f.Add([]byte(`{"format":1,"releases":[{"lines":["\u001b[2J"]}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		note := parseNote(data)
		if note.Format != 1 || len(note.Releases) > 4 {
			t.Errorf("%d releases, format %d", len(note.Releases), note.Format)
		}
		for _, r := range note.Releases {
			if len(r.Lines) > 8 || strings.ContainsFunc(strings.Join(r.Lines, ""), func(r rune) bool { return r < ' ' }) {
				t.Errorf("lines %q", r.Lines)
			}
		}
	})
}
