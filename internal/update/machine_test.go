package update

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const (
	picture = "../../docs/images/update-states.svg"
	page    = "../../docs/explanation/updates.md"
)

func writing() bool { return flag.Lookup("write").Value.String() == "true" }

// What the documentation draws is what the program does.
func TestSVG_IsTheOneInTheDocumentation(t *testing.T) {
	if writing() {
		if err := os.WriteFile(picture, []byte(SVG()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(picture)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), SVG()); diff != "" {
		t.Errorf("%s: run go test ./internal/update -write: %s", filepath.Base(picture), diff)
	}
}

func TestTable_IsTheOneInTheDocumentation(t *testing.T) {
	const begin, end = "<!-- states: begin -->\n", "<!-- states: end -->"
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, found := strings.Cut(string(text), begin)
	table, after, closed := strings.Cut(rest, end)
	if !found || !closed {
		t.Fatalf("%s has no marked place for the table", filepath.Base(page))
	}
	if writing() {
		table = Table()
		if err := os.WriteFile(page, []byte(before+begin+table+end+after), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(table, Table()); diff != "" {
		t.Errorf("%s: run go test ./internal/update -write: %s", filepath.Base(page), diff)
	}
}

// machines with every combination that a guard asks for.
var (
	provedOther = Machine{Running: "1", Entries: []Entry{{Version: "1"}, {Version: "2", Counted: true, TriesLeft: 3}}}
	provedAlone = Machine{Running: "1", Entries: []Entry{{Version: "1"}}}
	trialOther  = Machine{Running: "2", Entries: []Entry{{Version: "1"}, {Version: "2", Counted: true, TriesLeft: 2, TriesDone: 1}}}
	trialAlone  = Machine{Running: "2", Entries: []Entry{{Version: "2", Counted: true, TriesDone: 3}}}
	trialBad    = Machine{Running: "2", Entries: []Entry{{Version: "1", Counted: true}, {Version: "2", Counted: true}}}
)

func allStates() []State {
	return []State{Idle, Checking, Planned, Fetching, Staging, Staged, Rebooting, Trial, Good, Returning, Returned, Failed}
}

func allEvents() []Event {
	return []Event{OnCheck, OnNothing, OnFound, OnFetch, OnFetched, OnStaged, OnReboot, OnFail, OnInterrupted, OnStayed, OnBooted,
		OnBlessed, OnGood, OnBad, OnCameBack, OnGone, OnAdopted}
}

// A way that is not drawn is not gone: every state, event and situation leads to what the
// lines below say, and else nowhere.
func TestNext_EveryOtherWay_IsRefused(t *testing.T) {
	type situation struct {
		armed bool
		m     Machine
	}
	situations := map[string]situation{
		"proved, armed": {true, provedOther}, "proved": {false, provedAlone}, "trial, armed": {true, trialOther},
		"trial": {false, trialAlone}, "trial, other bad": {false, trialBad},
	}
	const ways = `
proved, armed: idle check checking; planned check checking; staged check checking; good check checking; returned check checking; failed check checking
proved, armed: checking nothing new staged; checking error staged; checking interrupted staged; checking newer release planned
proved, armed: planned room enough fetching; planned error staged; planned interrupted staged
proved, armed: fetching parts checked staging; fetching error staged; fetching interrupted staged
proved, armed: staging boot entry made staged; staging error staged; staging interrupted staged
proved, armed: staged restart rebooting; rebooting error staged; rebooting not started staged
proved, armed: trial gate: good good; returning runs for good failed
proved: idle check checking; planned check checking; staged check checking; good check checking; returned check checking; failed check checking
proved: checking nothing new idle; checking error failed; checking interrupted idle; checking newer release planned
proved: planned room enough fetching; planned error failed; planned interrupted planned
proved: fetching parts checked staging; fetching error failed; fetching interrupted planned
proved: staging error failed; staging interrupted planned
proved: trial gate: good good; trial gate: bad failed; returning runs for good failed; returning runs on trial failed
trial, armed: checking nothing new staged; checking error staged; checking interrupted staged
trial, armed: planned error staged; planned interrupted staged; fetching error staged; fetching interrupted staged
trial, armed: staging boot entry made staged; staging error staged; staging interrupted staged
trial, armed: staged restart rebooting; rebooting error staged; rebooting not started staged
trial, armed: trial gate: good good; trial gate: bad returning; returning runs on trial returning; returning runs for good failed
trial: idle check checking; planned check checking; staged check checking; good check checking; returned check checking; failed check checking
trial: checking nothing new failed; checking error failed; checking interrupted idle; checking newer release planned
trial: planned room enough fetching; planned error failed; planned interrupted planned
trial: fetching parts checked staging; fetching error failed; fetching interrupted planned
trial: staging error failed; staging interrupted planned
trial: trial gate: good good; trial gate: bad failed; returning runs on trial failed; returning runs for good failed
`
	want := map[string]bool{}
	for line := range strings.Lines(strings.ReplaceAll(ways, "trial: ", "trial# ")) {
		where, list, _ := strings.Cut(strings.TrimSpace(line), ": ")
		if head, tail, ok := strings.Cut(line, "# "); ok && strings.HasPrefix(line, "trial#") {
			where, list = head, strings.TrimSpace(tail)
		}
		if where == "" {
			continue
		}
		for way := range strings.SplitSeq(strings.ReplaceAll(list, "trial# ", "trial: "), "; ") {
			want[where+" | "+way] = true
			if where == "trial" {
				want["trial, other bad | "+way] = true
			}
		}
	}
	// The ways in after a start of the daemon, from every state that has none of its own.
	for _, s := range allStates() {
		for where, situation := range situations {
			on := map[Event]State{}
			if strings.HasPrefix(where, "trial") {
				on[OnBooted] = Trial
			} else {
				on[OnBlessed], on[OnCameBack], on[OnGone] = Good, Returned, Failed
			}
			if situation.armed {
				on[OnAdopted] = Staged
			}
			if s == Returning {
				delete(on, OnBlessed)
				delete(on, OnBooted)
			}
			for e, to := range on {
				want[where+" | "+string(s)+" "+string(e)+" "+string(to)] = true
			}
		}
	}
	// Without a release on trial these two do not come up; the table need not refuse them.
	want["proved, armed | trial gate: bad returning"] = true
	want["proved, armed | returning runs on trial returning"] = true
	got := map[string]bool{}
	for where, situation := range situations {
		d := Document{}
		if situation.armed {
			d.Armed = &Release{Version: "2"}
		}
		for _, s := range allStates() {
			for _, e := range allEvents() {
				to, err := next(s, e, d, situation.m)
				if err == nil {
					got[where+" | "+string(s)+" "+string(e)+" "+string(to)] = true
				} else if !errors.Is(err, errEdge) {
					t.Errorf("%s in %s: %v", e, s, err)
				}
			}
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// The lists of this file and the places of the drawing know every state and event.
func TestEdges_UseEveryStateAndEventAndHaveAPlace(t *testing.T) {
	used, events := map[State]bool{}, map[Event]bool{}
	for _, e := range Edges() {
		used[e.From], used[e.To], events[e.On] = true, true, true
	}
	delete(used, Any)
	if len(used) != len(allStates()) || len(events) != len(allEvents()) || len(spots()) != len(used)+1 {
		t.Errorf("%d states and %d events in the table, %d places", len(used), len(events), len(spots()))
	}
	for _, s := range allStates() {
		if !used[s] || !s.known() {
			t.Errorf("%s: used %v, known %v", s, used[s], s.known())
		}
	}
}
