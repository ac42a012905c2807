package update

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	osapi "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/update/window"
)

// CheckOptions say who asks.
type CheckOptions struct {
	// Manual is a check that a person asked for: windows do not hold, and what is known of
	// the server is asked anew.
	Manual bool
	// Startup is the check of a start: windows do not hold, and a staged release is booted
	// at once.
	Startup bool
	// Force takes a release also when it did not work before; only with Manual.
	Force bool
	// OSOnly leaves the applications alone.
	OSOnly bool
}

const statusSkipped = "Skipping update check outside of maintenance window(s)"

// Check looks for what is new and brings it as far as the other slot; then it restarts
// the machine where the owner has asked for that. ErrBusy, ErrOnTrial; the errors of
// Releases; ErrOlder, ErrChanged, ErrBadRelease, ErrSpace, ErrLocked.
func (a *Agent) Check(ctx context.Context, o CheckOptions) error {
	if !a.working.TryLock() {
		return ErrBusy
	}
	defer a.working.Unlock()
	m, err := a.look(ctx)
	if err != nil {
		return err
	}
	config := a.Settings.Update()
	if !o.Manual && !o.Startup {
		if open, words := a.open(config); !open {
			return a.note(func(d *Document) {
				d.Status = statusSkipped
				d.decide(a.decision("skipped", "outside window", words))
			})
		}
	}
	err = a.step(OnCheck, func(d *Document) { d.Status = "Running update check" })
	if errors.Is(err, errEdge) {
		return ErrOnTrial
	}
	if err != nil {
		return err
	}
	a.capture(ctx, m)
	a.hearApps()
	appErr := a.checkApps(ctx, o)
	staged, err := a.checkOS(ctx, config, o, m)
	err = errors.Join(err, appErr, a.endCheck(ctx, errors.Join(appErr, err), staged))
	if ctx.Err() != nil {
		return err
	}
	// An application that could not be updated does not hold up the restart.
	return errors.Join(err, a.rebootForKeys(ctx, config, o), a.rebootIfWanted(ctx, config, o))
}

// open tells whether a window is, and when the next one will be. Windows that cannot be
// read are never open: nothing happens by itself then, and a manual check works.
func (a *Agent) open(config osapi.UpdateConfig) (bool, string) {
	set, err := window.Parse(config.MaintenanceWindows)
	if err != nil {
		return false, err.Error()
	}
	now, loc := a.Clock.Now(), a.Settings.Location()
	return set.Open(now, loc), set.Words(now, loc)
}

// capture notes what runs, for the gate of a later boot.
func (a *Agent) capture(ctx context.Context, m Machine) {
	if m.onTrial() {
		return
	}
	before := a.Snapshot().Baseline
	baseline, err := a.Health.Capture(ctx, m.Running, before)
	_ = a.note(func(d *Document) { // a save that fails is met by the next step, and told there
		d.Baseline = baseline
		if err != nil {
			d.decide(a.decision("noted what runs, but not all of it", err.Error(), "the gate looks for what was known before"))
		}
	})
}

// hearApps takes over what applications decided by themselves.
func (a *Agent) hearApps() {
	for _, text := range a.Apps.News() {
		_ = a.note(func(d *Document) { // told by Snapshot also when it cannot be saved
			d.decide(a.decision("applications follow the OS", text, ""))
		})
	}
}

func (a *Agent) checkApps(ctx context.Context, o CheckOptions) error {
	if o.OSOnly {
		return nil
	}
	updated, err := a.Apps.CheckUpdates(ctx)
	for _, name := range updated {
		a.Events.Publish(Notice{Kind: NoticeApplications, State: Checking, Text: name})
	}
	if err != nil {
		err = fmt.Errorf("updating the applications: %w", err)
	}
	if len(updated) == 0 && err == nil {
		return nil
	}
	saveErr := a.note(func(d *Document) {
		if len(updated) > 0 {
			d.decide(a.decision("updated applications", strings.Join(updated, ", "), ""))
		}
		if err != nil {
			d.decide(a.decision("applications not updated", err.Error(), "tried again at the next check"))
		}
	})
	return errors.Join(err, saveErr)
}

// checkOS finds the newest release and stages it. staged is its version, empty when
// nothing changed. It ends in a state that rests.
func (a *Agent) checkOS(ctx context.Context, config osapi.UpdateConfig, o CheckOptions, m Machine) (staged string, err error) {
	found, err := a.Releases.Newest(ctx, config.Channel, o.Manual)
	if err != nil {
		return "", a.fail(ctx, fmt.Errorf("looking for the newest release of channel %q: %w", config.Channel, err))
	}
	if restart := a.checkKeys(ctx, found); restart != "" {
		return "", a.step(OnNothing, func(d *Document) { d.decide(a.decision("wrote Secure Boot keys", restart, "a restart comes first")) })
	}
	take, why, err := choose(found, a.Architecture, a.Snapshot().Document, m, o.Force && o.Manual)
	switch {
	case errors.Is(err, ErrOlder), errors.Is(err, ErrBadRelease):
		// Nothing is wrong with the node: the release is left out, and that is said.
		return "", errors.Join(err, a.step(OnNothing, func(d *Document) {
			d.decide(a.decision("skipped "+found.Manifest.Version, err.Error(), ""))
		}))
	case err != nil:
		return "", a.fail(ctx, err)
	case !take:
		return "", a.step(OnNothing, func(d *Document) { d.decide(a.decision("nothing to do", why, "")) })
	}
	return a.stage(ctx, found, config.Channel, m)
}

// stage brings a release into the other slot.
func (a *Agent) stage(ctx context.Context, found Found, channel string, m Machine) (string, error) {
	version := found.Manifest.Version
	parts, err := a.Stager.Prepare(ctx, found)
	if err != nil {
		return "", a.fail(ctx, fmt.Errorf("planning how to fetch %s: %w", version, err))
	}
	work := &Release{
		Version: version, Severity: found.Manifest.Severity, PublishedAt: found.Manifest.PublishedAt,
		Channel: channel, Digest: found.Digest, From: m.Running, Bytes: BuildPlan(PlanInput{Take: true, Parts: parts}).Bytes,
	}
	if err := a.step(OnFound, func(d *Document) {
		d.Work = work
		d.decide(a.decision("take "+version, fmt.Sprintf("newer than %s, %s to fetch", m.Running, mib(work.Bytes)), ""))
	}); err != nil {
		return "", a.fail(ctx, err)
	}
	if err := a.makeRoom(ctx, found); err != nil {
		return "", a.fail(ctx, err)
	}
	if err := a.step(OnFetch, nil); err != nil {
		return "", a.fail(ctx, err)
	}
	begun := a.Clock.Elapsed()
	if err := a.Stager.Fetch(ctx, found, a.progress(version)); err != nil {
		return "", a.fail(ctx, fmt.Errorf("fetching %s: %w", version, err))
	}
	took := a.Clock.Elapsed() - begun
	if err := a.step(OnFetched, func(d *Document) { d.Work.FetchTook = took }); err != nil {
		return "", a.fail(ctx, err)
	}
	if err := a.write(ctx, found); err != nil {
		return "", a.fail(ctx, err)
	}
	return version, nil
}

// makeRoom looks for space before anything is fetched, and tidies up where it is short.
func (a *Agent) makeRoom(ctx context.Context, found Found) error {
	for tidied := false; ; tidied = true {
		space, err := a.Stager.Space(ctx, found)
		if err != nil {
			return fmt.Errorf("looking for space for %s: %w", found.Manifest.Version, err)
		}
		short := space.problems()
		if len(short) == 0 {
			return nil
		}
		if tidied {
			return fmt.Errorf("%w %s: %s", ErrSpace, found.Manifest.Version, strings.Join(short, "; "))
		}
		if err := a.Stager.Tidy(ctx); err != nil {
			return fmt.Errorf("making space for %s: %w", found.Manifest.Version, err)
		}
	}
}

// write fills the other slot and, last, has the loader start it. From the removal of its
// boot entry until then the running release is the only one.
func (a *Agent) write(ctx context.Context, found Found) error {
	version := found.Manifest.Version
	m, err := a.look(ctx)
	if err != nil {
		return err
	}
	for _, e := range m.Entries {
		if e.Version == m.Running {
			continue
		}
		if err := a.Slots.Drop(ctx, e.Version); err != nil {
			return fmt.Errorf("removing the boot entry of %s: %w", e.Version, err)
		}
		if err := a.note(func(d *Document) { d.Armed = nil }); err != nil {
			return fmt.Errorf("saving that %s is gone: %w", e.Version, err)
		}
	}
	begun := a.Clock.Elapsed()
	if err := a.Stager.Write(ctx, found, a.progress(version)); err != nil {
		return fmt.Errorf("writing %s: %w", version, err)
	}
	if err := a.bind(ctx, found); err != nil {
		return err
	}
	if err := a.Slots.Arm(ctx, found); err != nil {
		return fmt.Errorf("making the boot entry of %s: %w", version, err)
	}
	if m, err = a.look(ctx); err != nil {
		return err
	}
	if e, ok := m.entry(version); !ok || !e.Counted || e.Bad() {
		return fmt.Errorf("making the boot entry of %s: it is not there with its tries afterwards", version)
	}
	took := a.Clock.Elapsed() - begun
	return a.step(OnStaged, func(d *Document) {
		d.Work.WriteTook = took
		d.Armed, d.Work = d.Work, nil
		d.decide(a.decision("staged "+version, "", "it runs after a restart"))
	})
}

// bind makes sure that the disk opens by itself under the release that is written.
func (a *Agent) bind(ctx context.Context, found Found) error {
	version := found.Manifest.Version
	p, err := a.TPM.Predict(ctx, found)
	if err != nil {
		return fmt.Errorf("predicting what the boot of %s measures: %w", version, err)
	}
	if p.Unlocks {
		return nil
	}
	if err := a.TPM.Rebind(ctx, found); err != nil {
		return fmt.Errorf("binding the disk to %s: %w", version, err)
	}
	if p, err = a.TPM.Predict(ctx, found); err != nil {
		return fmt.Errorf("predicting what the boot of %s measures: %w", version, err)
	}
	if !p.Unlocks {
		return fmt.Errorf("%w: %s: %s", ErrLocked, version, p.Note)
	}
	return nil
}

func (a *Agent) progress(version string) Progress {
	return func(done, total int64) {
		a.Events.Publish(Notice{Kind: NoticeProgress, State: a.Snapshot().Document.State, Version: version, Done: done, Total: total})
	}
}

// fail ends a check that came to nothing, and gives its error back. A daemon that is
// being stopped was interrupted, which is no failure.
func (a *Agent) fail(ctx context.Context, cause error) error {
	on, what := OnFail, "failed"
	if ctx.Err() != nil {
		on, what = OnInterrupted, "interrupted"
	}
	m, err := a.look(context.WithoutCancel(ctx))
	change := func(d *Document) {
		d.Reason = clip(cause.Error(), maxText)
		if on == OnFail {
			d.Work = nil
		}
		if err == nil && d.Armed != nil {
			if _, there := m.entry(d.Armed.Version); !there {
				d.Armed = nil
			}
		}
		if err == nil && d.Armed == nil && d.State == Staging {
			// The entry may have been made by a call that failed after that.
			if e, ok := waiting(Document{}, m); ok && !e.Bad() {
				d.Armed = &Release{Version: e.Version, From: m.Running}
			}
		}
		d.decide(a.decision(what, cause.Error(), "tried again at the next check"))
	}
	if state := a.Snapshot().Document.State; state == Staged || state == Failed || state == Idle {
		return cause // the last step was done, only saving it was not
	}
	return errors.Join(cause, a.advance(on, change, true))
}

// endCheck writes the status that clients know.
func (a *Agent) endCheck(ctx context.Context, failed error, staged string) error {
	if ctx.Err() != nil {
		return nil
	}
	return a.note(func(d *Document) {
		d.LastCheck = a.now()
		switch {
		case errors.Is(failed, ErrBadRelease), errors.Is(failed, ErrOlder):
			d.Status = "Update check completed: " + clip(failed.Error(), maxText)
		case failed != nil:
			d.Status = "Failed to check for updates: " + clip(failed.Error(), maxText)
		case staged != "":
			d.Status = fmt.Sprintf("%s has been updated to version %s", a.product(), staged)
		default:
			d.Status = "Update check completed"
		}
	})
}

// rebootIfWanted restarts into a staged release where the owner wants that by itself.
func (a *Agent) rebootIfWanted(ctx context.Context, config osapi.UpdateConfig, o CheckOptions) error {
	d := a.Snapshot().Document
	if d.State != Staged || d.Armed == nil {
		return nil
	}
	if !config.AutoReboot && !o.Startup {
		return a.note(func(d *Document) {
			d.decide(a.decision("waits for a restart", "auto_reboot is off", ""))
		})
	}
	if open, words := a.open(config); !open && !o.Manual && !o.Startup {
		return a.note(func(d *Document) {
			d.decide(a.decision("restart waits", "outside window", words))
		})
	}
	if d.Armed.Restarts >= maxRestarts {
		return a.note(func(d *Document) {
			d.decide(a.decision("waits for a restart", fmt.Sprintf("%d restarts did not lead to %s", d.Armed.Restarts, d.Armed.Version),
				"restart by hand, and look at the boot menu"))
		})
	}
	return a.reboot(ctx, "an update to "+d.Armed.Version)
}

// Reboot restarts the machine into the staged release. ErrBusy, ErrNothingStaged.
func (a *Agent) Reboot(ctx context.Context) error {
	if !a.working.TryLock() {
		return ErrBusy
	}
	defer a.working.Unlock()
	if a.Snapshot().Document.State != Staged {
		return ErrNothingStaged
	}
	return a.reboot(ctx, "asked for")
}

func (a *Agent) reboot(ctx context.Context, why string) error {
	m, err := a.look(ctx)
	if err != nil {
		return err
	}
	a.capture(ctx, m)
	if err := a.step(OnReboot, func(d *Document) {
		d.Armed.RebootAt = a.now()
		d.Armed.Restarts++
		d.decide(a.decision("restart into "+d.Armed.Version, why, "trial of "+d.Armed.Version))
	}); err != nil {
		return err
	}
	if err := a.Power.Reboot(ctx, why); err != nil {
		err = fmt.Errorf("restarting the machine: %w", err)
		return errors.Join(err, a.step(OnFail, func(d *Document) {
			d.decide(a.decision("restart failed", err.Error(), "tried again"))
		}))
	}
	return nil
}

// timing makes the record of an update that was found good.
func timing(r Release, t TrialRun, gate time.Duration) Timing {
	return Timing{Version: r.Version, From: r.From, Bytes: r.Bytes, Fetch: r.FetchTook, Write: r.WriteTook, Boot: t.BootTook, Gate: gate}
}
