package update

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/holdfast-os/holdfast/internal/update/health"
)

// Judge looks whether the release on trial is good, and keeps it or leaves it. It returns
// at once when nothing is on trial. It returns nil also after it has begun a restart. An
// error means that it has to be called again.
func (a *Agent) Judge(ctx context.Context) error {
	a.working.Lock()
	defer a.working.Unlock()
	m, err := a.look(ctx)
	if err != nil {
		return err
	}
	d := a.Snapshot().Document
	switch {
	case d.State == Returning:
		return a.leave(ctx, m)
	case d.State == Failed && m.onTrial():
		return a.Power.StayUp(ctx)
	case d.State != Trial || d.Trial == nil:
		return nil
	case d.Trial.Starts > maxStarts:
		return a.condemn(ctx, m, health.Verdict{
			Reason: fmt.Sprintf("holdfastd was started %d times in one boot", d.Trial.Starts), Results: d.Trial.Results,
		})
	}
	v, err := a.Health.Run(ctx, d.Baseline, m.Uptime-d.Trial.Began, a.watch)
	if err != nil {
		return err
	}
	if v.Good {
		return a.keep(ctx, m, v)
	}
	return a.condemn(ctx, m, v)
}

// watch tells each change of a check, and remembers what is wrong, so that the older
// release can name it when this one does not get as far as a verdict.
func (a *Agent) watch(results []health.Result) {
	a.mu.Lock()
	a.checks = results
	version := a.machine.Running
	if a.doc.Trial != nil && answeredBadly(results) && unwell(results) != unwell(a.doc.Trial.Results) {
		doc := a.doc.clone()
		doc.Trial.Results = results
		a.doc = doc
		_ = a.Store.Save(doc) // a hint; a state that cannot be written is a check of its own
	}
	a.mu.Unlock()
	a.Events.Publish(Notice{Kind: NoticeChecks, State: Trial, Version: version, Checks: results})
}

func answeredBadly(results []health.Result) bool {
	return slices.ContainsFunc(results, func(r health.Result) bool { return !r.OK && r.Error != health.NotAnswered })
}

// keep makes the running release the one that the loader starts for good.
func (a *Agent) keep(ctx context.Context, m Machine, v health.Verdict) error {
	if err := a.Slots.Bless(ctx); err != nil {
		return fmt.Errorf("blessing %s: %w", m.Running, err)
	}
	if m, err := a.look(ctx); err != nil {
		return err
	} else if m.onTrial() {
		return fmt.Errorf("blessing %s: its boot entry still counts tries afterwards", m.Running)
	}
	stay := a.Power.StayUp(ctx)
	if err := a.step(OnGood, func(d *Document) { a.prove(d, m, v.Took) }); err != nil {
		return errors.Join(err, stay)
	}
	a.capture(ctx, a.seen())
	a.Events.Publish(Notice{Kind: NoticeOS, State: Good, Version: m.Running})
	return stay
}

func (a *Agent) seen() Machine {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.machine
}

// prove writes down that the running release is good.
func (a *Agent) prove(d *Document, m Machine, gate time.Duration) {
	is := Release{Version: m.Running}
	if isRelease(d.Armed, m.Running) {
		is = *d.Armed
		if d.Trial != nil {
			d.Timings = last(append(d.Timings, timing(is, *d.Trial, gate)), maxTimings)
		}
	}
	d.Proved = &is
	if isRelease(d.Armed, m.Running) || (d.Armed != nil && d.Armed.Version < m.Running) {
		d.Armed = nil
	}
	d.Work, d.Trial, d.Verdict = nil, nil, nil
	d.forgive(m.Running)
	d.Status = fmt.Sprintf("%s has been updated to version %s", a.product(), m.Running)
	d.decide(a.decision("kept "+m.Running, "every check of the health gate held", ""))
}

// condemn saves the verdict against the running release, and only then leaves it.
func (a *Agent) condemn(ctx context.Context, m Machine, v health.Verdict) error {
	journal, err := a.Journal.Tail(ctx, maxJournal)
	if err != nil {
		journal = []string{"the journal could not be read: " + err.Error()}
	}
	bad := BadRelease{Version: m.Running, Reason: v.Reason, At: a.now(), Checks: v.Results, Journal: tidyLines(journal)}
	// The verdict is worth more than its record: the node goes back also when the state
	// cannot be written, which may be what is wrong.
	saveErr := a.advance(OnBad, func(d *Document) {
		d.remember(bad)
		d.Reason = clip(v.Reason, maxText)
		if !m.canLeave() {
			d.Reason = clip("no other release can boot, so the node stays on one that is no good: "+v.Reason, maxText)
			d.Status = "Failed to return: " + d.Reason
			d.decide(a.decision("stays on "+m.Running, d.Reason, "a newer release is taken"))
			d.Trial, d.Verdict = nil, nil
			return
		}
		d.Verdict = &Verdict{Version: m.Running, Reason: bad.Reason, At: bad.At, Results: bad.Checks, Journal: bad.Journal}
		d.decide(a.decision("leave "+m.Running, v.Reason, "back to "+fallback(m)))
	}, true)
	if saveErr != nil && errors.Is(saveErr, errEdge) {
		return saveErr
	}
	if a.Snapshot().Document.State == Failed {
		return a.Power.StayUp(ctx)
	}
	return a.leave(ctx, m)
}

// leave marks the running release as bad and restarts the machine. The verdict is on the
// disk by now; a power cut anywhere in here leads to leave again, or to the older release.
func (a *Agent) leave(ctx context.Context, m Machine) error {
	d := a.Snapshot().Document
	reason := "it was found bad"
	if d.Verdict != nil {
		reason = d.Verdict.Reason
		if d.Verdict.Tries >= maxReturnTries {
			return a.giveUp(ctx, m)
		}
		// A save that fails costs the count, not the return.
		_ = a.note(func(d *Document) { d.Verdict.Tries++ })
	}
	// A mark that fails leaves the loader's own count, which ends by itself.
	markErr := a.Slots.MarkBad(ctx, m.Running)
	if err := a.Power.Reboot(ctx, fmt.Sprintf("going back from %s: %s", m.Running, reason)); err != nil {
		return errors.Join(fmt.Errorf("going back from %s: %w", m.Running, err), markErr)
	}
	return nil
}

// giveUp stays on a release that the loader starts again and again.
func (a *Agent) giveUp(ctx context.Context, m Machine) error {
	err := a.step(OnBlessed, func(d *Document) {
		d.Reason = clip(fmt.Sprintf("the boot loader started %s again %d times after it was found bad: %s",
			m.Running, d.Verdict.Tries, d.Verdict.Reason), maxText)
		d.decide(a.decision("stays on "+m.Running, d.Reason, "a newer release is taken"))
		d.Trial, d.Armed, d.Verdict = nil, nil, nil
	})
	return errors.Join(err, a.Power.StayUp(ctx))
}
