package update

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/internal/update/health"
)

// Whatever the document says and whatever runs, a start of the daemon knows what happened.
func TestResume_EveryPairOfDocumentAndMachine(t *testing.T) {
	const a, b, c = "202611010000", "202611020000", "202611030000"
	runs := func(version string, entries ...Entry) Machine { return Machine{Running: version, Entries: entries} }
	oldOnly, fresh, used := Entry{Version: a}, Entry{Version: b, Counted: true, TriesLeft: 3}, Entry{Version: b, Counted: true, TriesDone: 3}
	tried := Entry{Version: b, Counted: true, TriesLeft: 1, TriesDone: 2}
	armedB, trialB := &Release{Version: b, From: a}, &TrialRun{Version: b, Boots: 1}
	ill := &TrialRun{Version: b, Boots: 2, Results: []health.Result{{Name: "api", Error: "refused"}, {Name: "pools", OK: true}}}
	verdict := &Verdict{Version: b, Reason: "pools: gone"}
	never := "did not start (no word from it after 3 tries)"
	for _, row := range []struct {
		name string
		d    Document
		m    Machine
		want Resume
	}{
		{"a node that never had an update", Document{State: Idle}, runs(a, oldOnly), Resume{}},
		{"nothing remembered", Document{}, runs(a, oldOnly), Resume{}},
		{"cut while checking", Document{State: Checking}, runs(a, oldOnly), Resume{On: OnInterrupted}},
		{"cut while fetching", Document{State: Fetching, Work: armedB}, runs(a, oldOnly), Resume{On: OnInterrupted}},
		{"cut after the old entry was dropped", Document{State: Staging, Armed: armedB}, runs(a, oldOnly), Resume{On: OnInterrupted, Unarmed: true}},
		{"daemon ended between entry and document", Document{State: Staging, Work: armedB}, runs(a, oldOnly, fresh), Resume{On: OnAdopted, Version: b}},
		{"cut between entry and document", Document{State: Staging, Work: armedB}, runs(b, oldOnly, tried), Resume{On: OnBooted, Version: b}},
		{"staged, daemon restarted", Document{State: Staged, Armed: armedB}, runs(a, oldOnly, fresh), Resume{}},
		{"staged, machine restarted", Document{State: Staged, Armed: armedB}, runs(b, oldOnly, tried), Resume{On: OnBooted, Version: b}},
		{"staged, entry gone", Document{State: Staged, Armed: armedB}, runs(a, oldOnly), Resume{On: OnGone, Version: b, Reason: "the boot entry of " + b + " is gone"}},
		{"restart did not happen", Document{State: Rebooting, Armed: armedB}, runs(a, oldOnly, fresh), Resume{On: OnStayed, Version: b}},
		{"never came up", Document{State: Rebooting, Armed: armedB}, runs(a, oldOnly, used), Resume{On: OnCameBack, Version: b, Reason: never}},
		{"fetching the next when it never came up", Document{State: Fetching, Armed: armedB, Work: &Release{Version: c}}, runs(a, oldOnly, used), Resume{On: OnCameBack, Version: b, Reason: never}},
		{"left in the boot menu", Document{State: Rebooting, Armed: armedB}, runs(a, oldOnly, tried),
			Resume{On: OnCameBack, Version: b, Reason: "did not start (no word from it after 2 tries)", Mark: true}},
		{"came up and did not prove itself", Document{State: Trial, Armed: armedB, Trial: ill}, runs(a, oldOnly, used),
			Resume{On: OnCameBack, Version: b, Reason: "started, but was not found good in 3 tries; last: api: refused"}},
		{"one more boot of the trial", Document{State: Trial, Armed: armedB, Trial: trialB}, runs(b, oldOnly, tried), Resume{On: OnBooted, Version: b}},
		{"cut after the blessing", Document{State: Trial, Armed: armedB, Trial: trialB}, runs(b, oldOnly, Entry{Version: b}), Resume{On: OnBlessed, Version: b}},
		{"cut after the blessing, staging forgotten", Document{State: Trial, Trial: trialB}, runs(b, oldOnly, Entry{Version: b}), Resume{On: OnBlessed, Version: b}},
		{"cut after the verdict", Document{State: Returning, Armed: armedB, Trial: trialB, Verdict: verdict}, runs(b, oldOnly, tried), Resume{On: OnBooted, Version: b}},
		{"back, with the reason", Document{State: Returning, Armed: armedB, Trial: trialB, Verdict: verdict}, runs(a, oldOnly, used),
			Resume{On: OnCameBack, Version: b, Reason: "pools: gone"}},
		{"found bad, but its entry counts nothing", Document{State: Returning, Armed: armedB, Trial: trialB, Verdict: verdict}, runs(b, oldOnly, Entry{Version: b}),
			Resume{On: OnBlessed, Version: b, Reason: "pools: gone"}},
		{"remembered as bad long ago", Document{State: Idle, Bad: []BadRelease{{Version: b}}}, runs(a, oldOnly, used), Resume{}},
		{"bad, and nothing remembered", Document{}, runs(a, oldOnly, used), Resume{On: OnCameBack, Version: b, Reason: never}},
		{"on trial, and nothing remembered", Document{}, runs(b, oldOnly, tried), Resume{On: OnBooted, Version: b}},
		{"a proved release that was switched to", Document{State: Idle, Proved: armedB}, runs(a, oldOnly, Entry{Version: b}), Resume{}},
	} {
		t.Run(row.name, func(t *testing.T) {
			if diff := cmp.Diff(row.want, resume(row.d, row.m)); diff != "" {
				t.Error(diff)
			}
			if row.want.On == "" {
				return
			}
			if row.want.On == OnAdopted {
				row.d.Armed = armedB
			}
			if _, err := next(row.d.State, row.want.On, row.d, row.m); err != nil {
				t.Errorf("there is no way for it: %v", err)
			}
		})
	}
}

// The document stays small, whatever was decided and logged.
func TestDocument_Lists_AreBounded(t *testing.T) {
	var d Document
	for i := range 100 {
		version := string(rune('a'+i%26)) + string(rune('a'+i/26))
		d.decide(Decision{What: version})
		d.remember(BadRelease{Version: version, Journal: tidyLines([]string{"one", "two"})})
	}
	d.decide(Decision{What: "skipped", Why: "x", Next: "1"})
	d.decide(Decision{What: "skipped", Why: "x", Next: "2"})
	kept := 0
	for _, b := range d.Bad {
		if b.Journal != nil {
			kept++
		}
	}
	if len(d.Decisions) != 20 || len(d.Bad) != 20 || kept != 3 {
		t.Errorf("%d decisions, %d bad releases, %d journals", len(d.Decisions), len(d.Bad), kept)
	}
	if diff := cmp.Diff(Decision{What: "skipped", Why: "x", Next: "2", Times: 2}, d.Decisions[19]); diff != "" {
		t.Error(diff)
	}
	long := make([]string, 300)
	for i := range long {
		long[i] = string(make([]byte, 1000))
	}
	if lines := tidyLines(long); len(lines) != 100 || len(lines[0]) != 403 {
		t.Errorf("%d lines of %d bytes", len(lines), len(lines[0]))
	}
}

// What was found must be of a form that this program knows.
func TestChoose_OtherFormat_IsRefused(t *testing.T) {
	f := Found{}
	f.Manifest.Format, f.Manifest.Version, f.Manifest.Architecture = "2", "202611020000", "x86_64"
	if _, _, err := choose(f, "x86_64", Document{}, Machine{Running: "202611010000"}, false); !errors.Is(err, ErrUntrusted) {
		t.Errorf("got %v, want %v", err, ErrUntrusted)
	}
}

// A release whose tries are used up is bad also when nothing else is remembered of it.
func TestChoose_TriesUsedUpAndNothingRemembered_IsSkipped(t *testing.T) {
	f := Found{}
	f.Manifest.Format, f.Manifest.Version, f.Manifest.Architecture = "1", "202611020000", "x86_64"
	m := Machine{Running: "202611010000", Entries: []Entry{{Version: "202611020000", Counted: true, TriesDone: 3}}}
	if _, _, err := choose(f, "x86_64", Document{}, m, false); !errors.Is(err, ErrBadRelease) {
		t.Errorf("got %v, want %v", err, ErrBadRelease)
	}
}
