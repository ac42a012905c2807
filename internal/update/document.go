package update

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-os/holdfast/api/release"
	"github.com/holdfast-os/holdfast/internal/state"
	"github.com/holdfast-os/holdfast/internal/update/health"
)

// Limits of what is remembered.
const (
	maxDecisions    = 20
	maxBad          = 20
	maxTimings      = 10
	maxJournal      = 100 // lines
	maxLine         = 400 // bytes
	keepJournals    = 3   // bad releases whose lines are kept
	maxStarts       = 5   // starts of the daemon in one boot on trial
	maxReturnTries  = 3   // restarts out of one bad release
	maxRestarts     = 2   // restarts into one staged release, by the agent itself
	maxText         = 600 // bytes of a reason
	longestBelieved = 24 * time.Hour
)

// Document is all that the agent remembers. Both releases of a node read and write it in
// turn, so its format grows by fields alone, and stays at version 1.
type Document struct {
	State State `json:"state"`
	// Since is when State began, UTC.
	Since time.Time `json:"since,omitzero"`
	// Reason says why State is failed or returned; else empty.
	Reason string `json:"reason,omitempty"`
	// LastCheck is when the last check ended, UTC.
	LastCheck time.Time `json:"last_check,omitzero"`
	// Status is a line for a person.
	Status string `json:"status,omitempty"`
	// Proved is the release that was last found good.
	Proved *Release `json:"proved,omitempty"`
	// Work is the release that is being planned, fetched or written.
	Work *Release `json:"work,omitempty"`
	// Armed is the release whose boot entry was made and that has not proved itself.
	Armed *Release `json:"armed,omitempty"`
	// Trial is the trial under way.
	Trial *TrialRun `json:"trial,omitempty"`
	// Verdict is the one against the release that the node is returning from.
	Verdict *Verdict `json:"verdict,omitempty"`
	// Bad are the releases that did not work here, newest last.
	Bad []BadRelease `json:"bad,omitempty"`
	// Baseline is what ran before the last restart.
	Baseline health.Baseline `json:"baseline,omitzero"`
	// Timings are how long updates took, newest last.
	Timings []Timing `json:"timings,omitempty"`
	// Decisions are the newest ones, newest last.
	Decisions []Decision `json:"decisions,omitempty"`
}

// KnownGood is the newest release that is known to be good here: the one that runs, or a newer
// one that was found good and was not found bad since.
func (d Document) KnownGood(running string) string {
	if d.Proved == nil || slices.ContainsFunc(d.Bad, func(b BadRelease) bool { return b.Version == d.Proved.Version }) {
		return running
	}
	return max(running, d.Proved.Version)
}

// Release is a release on its way into the node.
type Release struct {
	Version     string           `json:"version"`
	Severity    release.Severity `json:"severity,omitempty"`
	PublishedAt time.Time        `json:"published_at,omitzero"`
	Channel     string           `json:"channel,omitempty"`
	Digest      string           `json:"digest,omitempty"`
	// From is the release that ran when it was taken.
	From string `json:"from,omitempty"`
	// Bytes is what had to be fetched.
	Bytes int64 `json:"bytes,omitempty"`
	// FetchTook and WriteTook are in nanoseconds.
	FetchTook time.Duration `json:"fetch_took,omitempty"`
	WriteTook time.Duration `json:"write_took,omitempty"`
	// Restarts is how often the agent has begun a restart into it.
	Restarts int `json:"restarts,omitempty"`
	// RebootAt is when the agent last began one, UTC.
	RebootAt time.Time `json:"reboot_at,omitzero"`
}

// TrialRun is a release on trial.
type TrialRun struct {
	Version string `json:"version"`
	// From is the release to go back to.
	From string `json:"from,omitempty"`
	// BootID is that of the present boot.
	BootID string `json:"boot_id"`
	// Boots counts the boots, Starts the starts of the daemon in the present one.
	Boots  int `json:"boots"`
	Starts int `json:"starts"`
	// Began is how long the kernel had run when the gate of this boot began.
	Began time.Duration `json:"began"`
	// BootTook is the time from the restart to the first trial; 0 when not known.
	BootTook time.Duration `json:"boot_took,omitempty"`
	// Results are the checks as they were last.
	Results []health.Result `json:"results,omitempty"`
}

// Verdict is what was found of a release that is no good.
type Verdict struct {
	Version string          `json:"version"`
	Reason  string          `json:"reason"`
	At      time.Time       `json:"at"`
	Results []health.Result `json:"results,omitempty"`
	Journal []string        `json:"journal,omitempty"`
	// Tries is how often the node has begun to leave it.
	Tries int `json:"tries"`
}

// BadRelease is a release that did not work on this node.
type BadRelease struct {
	Version string `json:"version"`
	// Reason says what was wrong, for a person.
	Reason string `json:"reason"`
	// At is when that was known, UTC.
	At time.Time `json:"at"`
	// Checks are those of the health gate; none when nothing was heard of it.
	Checks []health.Result `json:"checks,omitempty"`
	// Journal are the last lines of the log of its boot; kept for the newest three.
	Journal []string `json:"journal,omitempty"`
}

// Timing is how long an update took, in nanoseconds.
type Timing struct {
	Version string        `json:"version"`
	From    string        `json:"from,omitempty"`
	Bytes   int64         `json:"bytes"`
	Fetch   time.Duration `json:"fetch"`
	Write   time.Duration `json:"write"`
	// Boot is from the restart to the start of the gate; 0 when not known.
	Boot time.Duration `json:"boot,omitempty"`
	Gate time.Duration `json:"gate"`
}

// Decision is one thing that the agent decided.
type Decision struct {
	// At is when, UTC; of the last time when it was decided again.
	At time.Time `json:"at"`
	// What was decided, as "skipped" or "staged 202611220104".
	What string `json:"what"`
	// Why, as "outside window".
	Why string `json:"why,omitempty"`
	// Next is what comes then, as "next Sun 02:00 CET".
	Next string `json:"next,omitempty"`
	// Times is how often in a row; 0 stands for once.
	Times int `json:"times,omitempty"`
}

func (d Decision) String() string {
	text := d.What
	if d.Why != "" {
		text += ": " + d.Why
	}
	if d.Next != "" {
		text += ", " + d.Next
	}
	return text
}

// decide keeps a decision; the same one again is counted.
func (d *Document) decide(one Decision) {
	one.Why = clip(one.Why, maxText)
	if n := len(d.Decisions) - 1; n >= 0 && d.Decisions[n].What == one.What && d.Decisions[n].Why == one.Why {
		one.Times = max(d.Decisions[n].Times, 1) + 1
		d.Decisions[n] = one
		return
	}
	d.Decisions = last(append(d.Decisions, one), maxDecisions)
}

// bad gives what is remembered against a release.
func (d *Document) bad(version string) (BadRelease, bool) {
	for _, b := range d.Bad {
		if b.Version == version {
			return b, true
		}
	}
	return BadRelease{}, false
}

// remember keeps a release as bad, once.
func (d *Document) remember(b BadRelease) {
	d.forgive(b.Version)
	b.Reason = clip(b.Reason, maxText)
	d.Bad = last(append(d.Bad, b), maxBad)
	for i := range max(len(d.Bad)-keepJournals, 0) {
		d.Bad[i].Journal = nil
	}
}

// forgive forgets what is remembered against a release.
func (d *Document) forgive(version string) {
	d.Bad = slices.DeleteFunc(slices.Clone(d.Bad), func(b BadRelease) bool { return b.Version == version })
}

// clone is deep enough for changes through the fields of a Document.
func (d Document) clone() Document {
	d.Bad, d.Timings, d.Decisions = slices.Clone(d.Bad), slices.Clone(d.Timings), slices.Clone(d.Decisions)
	d.Proved, d.Work, d.Armed = copyOf(d.Proved), copyOf(d.Work), copyOf(d.Armed)
	d.Trial, d.Verdict = copyOf(d.Trial), copyOf(d.Verdict)
	return d
}

func copyOf[T any](p *T) *T {
	if p == nil {
		return nil
	}
	v := *p
	return &v
}

func last[T any](all []T, n int) []T { return all[max(len(all)-n, 0):] }

// clip bounds a text that comes from elsewhere.
func clip(text string, limit int) string {
	text = strings.ToValidUTF8(text, "?")
	if len(text) > limit {
		text = strings.ToValidUTF8(text[:limit], "") + "..."
	}
	return text
}

// tidyLines bounds lines of a journal.
func tidyLines(lines []string) []string {
	kept := slices.Clone(last(lines, maxJournal))
	for i := range kept {
		kept[i] = clip(kept[i], maxLine)
	}
	return kept
}

// Store keeps the Document.
type Store interface {
	// Load gives the zero Document when none was saved. damage says that the last one
	// could not be read and an older one stands in for it.
	Load() (doc Document, damage, err error)
	// Save has the document on the disk when it returns; on an error the one of before
	// is there.
	Save(Document) error
}

// FileStore is the Store in the node's directory of documents.
type FileStore struct{ State *state.Store }

var updateDocument = state.Document{Name: "update-agent", Version: 1}

// Load reads the document.
func (s FileStore) Load() (Document, error, error) {
	var doc Document
	loaded, err := s.State.Load(updateDocument, &doc)
	if err != nil {
		return Document{}, nil, fmt.Errorf("reading what the update agent remembers: %w", err)
	}
	return doc, loaded.Damage, nil
}

// Save writes the document.
func (s FileStore) Save(doc Document) error {
	if err := s.State.Save(updateDocument, doc); err != nil {
		return fmt.Errorf("saving what the update agent remembers: %w", err)
	}
	return nil
}
