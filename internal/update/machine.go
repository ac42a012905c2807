package update

import (
	"errors"
	"fmt"
)

// State is where an update is.
type State string

// The states.
const (
	// Idle: nothing to do.
	Idle State = "idle"
	// Checking: asking what is published, and updating applications.
	Checking State = "checking"
	// Planned: a release is wanted; nothing of it is on the node for sure.
	Planned State = "planned"
	// Fetching: its parts are being fetched.
	Fetching State = "fetching"
	// Staging: the other slot is being written.
	Staging State = "staging"
	// Staged: it waits for a restart.
	Staged State = "staged"
	// Rebooting: the restart has begun.
	Rebooting State = "rebooting"
	// Trial: it runs, and the health gate looks at it.
	Trial State = "trial"
	// Good: it has proved itself.
	Good State = "good"
	// Returning: it was found bad, and the node is on its way back.
	Returning State = "returning"
	// Returned: the node is back, and the reason is known.
	Returned State = "returned"
	// Failed: the last try came to nothing; what ran runs.
	Failed State = "failed"
	// Any stands in an edge for every state: the way in after a start of the daemon.
	Any State = "any"
)

// Event is what leads from one state to another.
type Event string

// The events.
const (
	OnCheck       Event = "check"
	OnNothing     Event = "nothing new"
	OnFound       Event = "newer release"
	OnFetch       Event = "room enough"
	OnFetched     Event = "parts checked"
	OnStaged      Event = "boot entry made"
	OnReboot      Event = "restart"
	OnFail        Event = "error"
	OnInterrupted Event = "interrupted"
	OnStayed      Event = "not started"
	OnBooted      Event = "runs on trial"
	OnBlessed     Event = "runs for good"
	OnGood        Event = "gate: good"
	OnBad         Event = "gate: bad"
	OnCameBack    Event = "older one runs"
	OnGone        Event = "boot entry gone"
	OnAdopted     Event = "boot entry met"
)

// Guard is a condition on an edge.
type Guard struct {
	// Text says it, for the documentation.
	Text string
	// Holds must be a function of its arguments alone.
	Holds func(Document, Machine) bool
}

var (
	proved       = &Guard{"the running release is not on trial", func(_ Document, m Machine) bool { return !m.onTrial() }}
	mayReplace   = &Guard{"what runs has proved itself, or is all there is", func(_ Document, m Machine) bool { return !m.onTrial() || !m.canLeave() }}
	onTrial      = &Guard{"the running release is on trial", func(_ Document, m Machine) bool { return m.onTrial() }}
	armed        = &Guard{"a release is staged", func(d Document, _ Machine) bool { return d.Armed != nil }}
	nothingArmed = &Guard{"none is staged", func(d Document, _ Machine) bool { return d.Armed == nil }}
	otherBoots   = &Guard{"another release can boot", func(_ Document, m Machine) bool { return m.canLeave() }}
	noOther      = &Guard{"no other can boot", func(_ Document, m Machine) bool { return !m.canLeave() }}
)

// Edge is one way from a state to another.
type Edge struct {
	From  State
	On    Event
	To    State
	Guard *Guard
	// Does says what is done on the way, for the documentation.
	Does string
}

// Edges are all ways there are. For a state and an event the first edge whose guard holds
// counts; one of the state itself comes before one of Any. Every other way is refused.
func Edges() []Edge {
	return []Edge{
		{Idle, OnCheck, Checking, mayReplace, ""},
		{Planned, OnCheck, Checking, mayReplace, ""},
		{Staged, OnCheck, Checking, mayReplace, "the staged release stays until a newer one is written"},
		{Good, OnCheck, Checking, mayReplace, ""},
		{Returned, OnCheck, Checking, mayReplace, ""},
		{Failed, OnCheck, Checking, mayReplace, ""},
		{Checking, OnNothing, Staged, armed, ""},
		{Checking, OnNothing, Failed, onTrial, "what runs is still no good"},
		{Checking, OnNothing, Idle, nothingArmed, ""},
		{Checking, OnFail, Staged, armed, "the error is reported"},
		{Checking, OnFail, Failed, nothingArmed, "the error is reported"},
		{Checking, OnInterrupted, Staged, armed, ""},
		{Checking, OnInterrupted, Idle, nothingArmed, ""},
		{Checking, OnFound, Planned, mayReplace, "says what will be fetched and why"},
		{Planned, OnFetch, Fetching, mayReplace, ""},
		{Planned, OnFail, Staged, armed, "the error is reported"},
		{Planned, OnFail, Failed, nothingArmed, "the error is reported"},
		{Planned, OnInterrupted, Staged, armed, ""},
		{Planned, OnInterrupted, Planned, nothingArmed, ""},
		{Fetching, OnFetched, Staging, mayReplace, ""},
		{Fetching, OnFail, Staged, armed, "what was fetched stays"},
		{Fetching, OnFail, Failed, nothingArmed, "what was fetched stays"},
		{Fetching, OnInterrupted, Staged, armed, "the next check goes on where this one ended"},
		{Fetching, OnInterrupted, Planned, nothingArmed, "the next check goes on where this one ended"},
		{Staging, OnStaged, Staged, armed, ""},
		{Staging, OnFail, Staged, armed, "the error is reported"},
		{Staging, OnFail, Failed, nothingArmed, "the other slot has no boot entry"},
		{Staging, OnInterrupted, Staged, armed, ""},
		{Staging, OnInterrupted, Planned, nothingArmed, "the other slot has no boot entry"},
		{Staged, OnReboot, Rebooting, armed, "notes what runs now"},
		{Rebooting, OnFail, Staged, armed, "the restart could not begin"},
		{Rebooting, OnStayed, Staged, armed, "the older release runs, the new one was not tried"},
		{Trial, OnGood, Good, nil, "the counter is removed from the boot entry first"},
		{Trial, OnBad, Returning, otherBoots, "reason and journal are saved; then the entry is marked; then a restart"},
		{Trial, OnBad, Failed, noOther, "nothing to go back to: the node stays, and answers"},
		{Returning, OnBooted, Returning, otherBoots, "the loader chose it once more: marked again, and a restart"},
		{Returning, OnBooted, Failed, noOther, "both slots are bad: the node stays, and answers"},
		{Returning, OnBlessed, Failed, nil, "the entry cannot be marked: the node stays, and answers"},
		{Any, OnBooted, Trial, onTrial, "the gate begins"},
		{Any, OnBlessed, Good, proved, "was found good before a power cut"},
		{Any, OnCameBack, Returned, proved, "the release is remembered as bad, with the reason"},
		{Any, OnGone, Failed, proved, "nobody is to rely on it"},
		{Any, OnAdopted, Staged, armed, "it was made before the document could be saved"},
	}
}

// errEdge is a way that is not in the table: a fault of the program.
var errEdge = errors.New("the update agent has no such way")

// next gives the state that an event leads to.
func next(from State, on Event, d Document, m Machine) (State, error) {
	for _, start := range []State{from, Any} {
		for _, e := range Edges() {
			if e.From == start && e.On == on && (e.Guard == nil || e.Guard.Holds(d, m)) {
				return e.To, nil
			}
		}
	}
	return "", fmt.Errorf("%w: %q in the state %s", errEdge, on, from)
}
