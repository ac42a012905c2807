package update

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	osapi "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/update/health"
)

// Ports are what the agent touches.
type Ports struct {
	Store    Store
	Releases Releases
	Stager   Stager
	Slots    Slots
	TPM      TPM
	Power    Power
	Apps     Apps
	Settings Settings
	Journal  Journal
	Events   Events
	// Keys may be nil: the firmware's keys are then left alone.
	Keys Keys
}

// Agent carries updates out, one step at a time. All fields are set before the first
// call; the methods may be called at the same time.
type Agent struct {
	Ports
	// Clock is the time; health.NewClock on a node.
	Clock health.Clock
	// Health looks at a release on trial.
	Health health.Gate
	// Name is the product's, for the status; default "Holdfast".
	Name string
	// Architecture is this machine's, as "x86_64".
	Architecture string
	// Ready is closed when the node has started: updates are not looked for before. Nil does
	// not wait.
	Ready <-chan struct{}
	// Random gives a number from 0 up to but not including 1, to spread checks; default 0.
	Random func() float64

	working sync.Mutex // held by the operation that is under way

	mu      sync.Mutex
	doc     Document
	machine Machine
	checks  []health.Result
	loop    pace
	// keysRestart is why the firmware's keys need a restart; empty when they do not.
	keysRestart string
}

// Snapshot is everything about updates that can be shown.
type Snapshot struct {
	Document
	// Running is the release that runs; empty before Boot.
	Running string
	// Entries are the boot entries as they were last seen.
	Entries []Entry
	// Checks are those of the gate that runs, or of the last one in this boot.
	Checks []health.Result
}

// Snapshot gives what can be shown.
func (a *Agent) Snapshot() Snapshot {
	a.mu.Lock()
	defer a.mu.Unlock()
	return Snapshot{Document: a.doc.clone(), Running: a.machine.Running, Entries: a.machine.Entries, Checks: a.checks}
}

// State gives what every client of IncusOS knows of updates.
func (a *Agent) State() osapi.UpdateState {
	a.mu.Lock()
	defer a.mu.Unlock()
	return osapi.UpdateState{LastCheck: a.doc.LastCheck, Status: a.doc.Status, NeedsReboot: a.doc.Armed != nil}
}

func (a *Agent) product() string {
	if a.Name == "" {
		return "Holdfast"
	}
	return a.Name
}

func (a *Agent) now() time.Time { return a.Clock.Now().UTC() }

// look asks what is installed, and keeps it.
func (a *Agent) look(ctx context.Context) (Machine, error) {
	m, err := a.Slots.Look(ctx)
	if err != nil {
		return Machine{}, fmt.Errorf("looking at the boot entries: %w", err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.machine = m
	return m, nil
}

// step goes one way of the table: the new state and what changes with it are saved
// before anything else is done. On an error nothing has changed.
func (a *Agent) step(on Event, change func(*Document)) error {
	return a.advance(on, change, false)
}

// advance is step; with regardless the agent goes on when the document cannot be saved,
// because what follows matters more.
func (a *Agent) advance(on Event, change func(*Document), regardless bool) error {
	a.mu.Lock()
	doc := a.doc.clone()
	m := a.machine
	a.mu.Unlock()
	from := doc.State
	if !from.known() {
		from = Idle
	}
	if change != nil {
		change(&doc)
	}
	to, err := next(from, on, doc, m)
	if err != nil {
		return err
	}
	if to != from {
		doc.Since = a.now()
	}
	doc.State = to
	if to != Failed && to != Returned && to != Checking {
		doc.Reason = ""
	}
	err = a.Store.Save(doc)
	if err != nil {
		err = fmt.Errorf("going from %s to %s: %w", from, to, err)
		if !regardless {
			return err
		}
	}
	a.mu.Lock()
	a.doc = doc
	a.mu.Unlock()
	a.Events.Publish(Notice{Kind: NoticeState, State: to, Version: aboutVersion(doc), Text: doc.Status})
	return err
}

func aboutVersion(d Document) string {
	if d.Work != nil {
		return d.Work.Version
	}
	return subject(d)
}

// note saves a change that is no step, as a decision.
func (a *Agent) note(change func(*Document)) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	doc := a.doc.clone()
	change(&doc)
	a.doc = doc
	return a.Store.Save(doc)
}

// decision makes one of now.
func (a *Agent) decision(what, why, next string) Decision {
	return Decision{At: a.now(), What: what, Why: why, Next: next}
}

// Boot reads what is remembered, looks at what runs, and settles what lies between. It is
// called once at each start of the daemon, before anything else. An error means that it
// has to be called again.
func (a *Agent) Boot(ctx context.Context) error {
	a.working.Lock()
	defer a.working.Unlock()
	doc, damage, err := a.Store.Load()
	if err != nil {
		doc, damage = Document{}, err
	}
	if damage != nil {
		doc.decide(a.decision("went on from the boot entries", damage.Error(), ""))
	}
	if !doc.State.known() {
		doc.State, doc.Since = Idle, a.now()
	}
	a.mu.Lock()
	a.doc = doc
	a.mu.Unlock()
	m, err := a.look(ctx)
	if err != nil {
		return err
	}
	return a.settle(ctx, resume(doc, m), m)
}

// settle does what a start of the daemon found to be done.
func (a *Agent) settle(ctx context.Context, r Resume, m Machine) error {
	if r.Mark {
		if err := a.Slots.MarkBad(ctx, r.Version); err != nil {
			return fmt.Errorf("marking %s as bad: %w", r.Version, err)
		}
		if _, err := a.look(ctx); err != nil {
			return err
		}
	}
	switch r.On {
	case "":
		if !r.Unarmed {
			return nil
		}
		return a.note(func(d *Document) { d.Armed = nil })
	case OnBooted:
		// A state that cannot be written is the gate's to find, not a reason to stop here.
		err := a.advance(OnBooted, func(d *Document) { a.beginTrial(d, m) }, true)
		if err != nil && errors.Is(err, errEdge) {
			return err
		}
		return nil
	case OnBlessed:
		return a.settleBlessed(ctx, r, m)
	case OnCameBack:
		return a.settleCameBack(r)
	}
	return a.step(r.On, func(d *Document) {
		switch r.On {
		case OnAdopted:
			d.Armed = &Release{Version: r.Version, From: m.Running}
			d.Work = nil
		case OnGone:
			d.Armed, d.Trial, d.Verdict = nil, nil, nil
			d.Reason = r.Reason
		case OnInterrupted:
			if r.Unarmed {
				d.Armed = nil
			}
			d.decide(a.decision("interrupted", "the daemon ended while "+string(d.State), "the next check goes on"))
		case OnStayed:
			d.decide(a.decision("still on "+m.Running, "the restart did not lead to "+r.Version, "it stays staged"))
		}
	})
}

// beginTrial notes a boot, or one more start of the daemon in it.
func (a *Agent) beginTrial(d *Document, m Machine) {
	t := d.Trial
	if !names(t, m.Running) {
		t = &TrialRun{Version: m.Running, From: fallback(m)}
		if isRelease(d.Work, m.Running) {
			d.Armed = d.Work
		}
		if isRelease(d.Armed, m.Running) && !d.Armed.RebootAt.IsZero() {
			if took := a.now().Sub(d.Armed.RebootAt); took > 0 && took < longestBelieved {
				t.BootTook = took
			}
		}
		d.decide(a.decision("trial of "+m.Running, "it was started for the first time", "the health gate decides"))
	}
	if t.BootID != m.BootID {
		t.BootID, t.Starts, t.Began = m.BootID, 0, m.Uptime
		t.Boots++
	}
	t.Starts++
	d.Trial, d.Work = t, nil
}

// fallback is the release that the loader would start instead.
func fallback(m Machine) string {
	for _, e := range m.Entries {
		if e.Version != m.Running && !e.Bad() {
			return e.Version
		}
	}
	return ""
}

// settleBlessed is for a release that was found good just before a power cut, and for one
// that was found bad and cannot be left.
func (a *Agent) settleBlessed(ctx context.Context, r Resume, m Machine) error {
	if r.Reason != "" {
		err := a.step(OnBlessed, func(d *Document) {
			d.Reason = "stays on a release that was found bad, since its boot entry counts no tries: " + r.Reason
			d.Trial, d.Armed, d.Verdict = nil, nil, nil
			d.decide(a.decision("stays on "+m.Running, d.Reason, ""))
		})
		return errors.Join(err, a.Power.StayUp(ctx))
	}
	err := a.step(OnBlessed, func(d *Document) { a.prove(d, m, 0) })
	return errors.Join(err, a.Power.StayUp(ctx))
}

// settleCameBack is the old release's view of one that did not prove itself.
func (a *Agent) settleCameBack(r Resume) error {
	err := a.step(OnCameBack, func(d *Document) {
		bad := BadRelease{Version: r.Version, Reason: r.Reason, At: a.now()}
		if v := d.Verdict; v != nil && v.Version == r.Version {
			bad.At, bad.Checks, bad.Journal = v.At, v.Results, v.Journal
		} else if names(d.Trial, r.Version) {
			bad.Checks = d.Trial.Results
		}
		d.remember(bad)
		d.Reason = clip(r.Version+": "+r.Reason, maxText)
		d.Status = fmt.Sprintf("Failed to update %s to version %s: %s", a.product(), r.Version, clip(r.Reason, maxText))
		d.Armed, d.Work, d.Trial, d.Verdict = nil, nil, nil, nil
		d.decide(a.decision("returned from "+r.Version, r.Reason, "the next release is taken"))
	})
	if err == nil {
		a.Events.Publish(Notice{Kind: NoticeReturned, State: Returned, Version: r.Version, Text: r.Reason})
	}
	return err
}

// Plan says what a check would do now. It changes nothing.
func (a *Agent) Plan(ctx context.Context) (Plan, error) {
	config := a.Settings.Update()
	found, err := a.Releases.Newest(ctx, config.Channel, true)
	if err != nil {
		return Plan{}, fmt.Errorf("looking for the newest release of channel %q: %w", config.Channel, err)
	}
	m, err := a.look(ctx)
	if err != nil {
		return Plan{}, err
	}
	doc := a.Snapshot().Document
	in := PlanInput{Found: found, Channel: config.Channel, Running: m.Running, Timings: doc.Timings}
	if doc.Armed != nil {
		in.Staged = doc.Armed.Version
	}
	in.Take, in.Why, err = choose(found, a.Architecture, doc, m, false)
	if err != nil {
		in.Why = err.Error()
	}
	if !in.Take {
		return BuildPlan(in), nil
	}
	if in.Parts, err = a.Stager.Prepare(ctx, found); err != nil {
		return Plan{}, fmt.Errorf("planning how to fetch %s: %w", found.Manifest.Version, err)
	}
	space, err := a.Stager.Space(ctx, found)
	if err != nil {
		return Plan{}, fmt.Errorf("looking for space for %s: %w", found.Manifest.Version, err)
	}
	in.Problems = space.problems()
	if in.Changelog, err = a.Releases.Changelog(ctx, found, config.Channel); err != nil {
		in.Problems = append(in.Problems, "no changelog: "+err.Error())
	}
	if prediction, err := a.TPM.Predict(ctx, found); err != nil {
		in.PredictionError = err.Error()
	} else {
		in.Prediction = &prediction
	}
	return BuildPlan(in), nil
}
