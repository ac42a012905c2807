package update_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	osapi "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/api/release"
	"github.com/holdfast-os/holdfast/internal/update"
)

// Without auto_reboot a release waits, and a newer one takes its place in the other slot;
// one restart leads to the newest, never over the slot that runs.
func TestCheck_SeveralReleasesBeforeOneRestart_TheNewestIsStarted(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		w.config.AutoReboot = false
		for _, version := range []string{verB, verC} {
			w.published = append(w.published, version)
			w.boot0(t)
			if err := w.act(func(ctx context.Context, a *update.Agent) error { return a.Check(ctx, update.CheckOptions{}) }); err != nil {
				t.Fatal(err)
			}
			if d := w.document(); d.State != update.Staged || d.Armed.Version != version {
				t.Errorf("after %s: %s, %+v", version, d.State, d.Armed)
			}
		}
		if key, _ := w.entry(verB); key != "" || w.lastDecision() != "waits for a restart: auto_reboot is off" {
			t.Errorf("%s is still there; %s", key, w.lastDecision())
		}
		w.live(w.check)
		if diff := cmp.Diff([]string{verA, verC}, w.boots); diff != "" {
			t.Error(diff)
		}
	})
}

// boot0 boots unless a release runs already.
func (w *world) boot0(t *testing.T) {
	t.Helper()
	if w.running == "" {
		w.boot()
	}
}

// act starts the daemon anew in the present boot and has it do one thing.
func (w *world) act(do func(context.Context, *update.Agent) error) (err error) {
	out := w.session(func(ctx context.Context, a *update.Agent) { err = do(ctx, a) })
	if out != settled {
		return errors.New("the session ended with " + string(out))
	}
	return err
}

// What was fetched or staged before a failure is still there after it.
func TestCheck_ProblemsOnTheWay_KeepWhatIsThere(t *testing.T) {
	for _, row := range []struct {
		name   string
		break_ func(*world)
		want   error
	}{
		{"server away", func(w *world) { w.newest = update.ErrUnreachable }, update.ErrUnreachable},
		{"metadata refused", func(w *world) { w.newest = update.ErrUntrusted }, update.ErrUntrusted},
		{"download cut", func(w *world) { w.fetch = context.DeadlineExceeded }, context.DeadlineExceeded},
		{"no space", func(w *world) { w.espFree = 0 }, update.ErrSpace},
	} {
		t.Run(row.name, func(t *testing.T) {
			in(t, func(t *testing.T, w *world) {
				w.config.AutoReboot, w.published = false, []string{verB}
				w.boot()
				check := func(ctx context.Context, a *update.Agent) error { return a.Check(ctx, update.CheckOptions{}) }
				if err := w.act(check); err != nil {
					t.Fatal(err)
				}
				w.published = append(w.published, verC)
				row.break_(w)
				if err := w.act(check); !errors.Is(err, row.want) {
					t.Errorf("got %v, want %v", err, row.want)
				}
				if d := w.document(); d.State != update.Staged || d.Armed == nil || d.Armed.Version != verB || d.Work != nil {
					t.Errorf("got %s, armed %+v, work %+v", d.State, d.Armed, d.Work)
				}
			})
		})
	}
}

// Better no update than a machine that asks for its recovery key.
func TestCheck_DiskWouldNotOpen_IsNotArmed(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		w.published, w.locked = []string{verB}, true
		if err := w.checkOnce(update.CheckOptions{}); !errors.Is(err, update.ErrLocked) {
			t.Errorf("got %v, want %v", err, update.ErrLocked)
		}
		if key, _ := w.entry(verB); key != "" || w.document().State != update.Failed {
			t.Errorf("%q, %s", key, w.document().State)
		}
	})
}

// An owner who knows better may have a release tried again.
func TestCheck_BadRelease_OnlyWithForceByHand(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		w.kinds[verB], w.published = kindNoPool, []string{verB}
		w.live(w.check)
		w.kinds[verB] = kindGood
		for _, o := range []update.CheckOptions{{}, {Manual: true}, {Startup: true}, {Force: true}} {
			if err := w.act(func(ctx context.Context, a *update.Agent) error { return a.Check(ctx, o) }); !errors.Is(err, update.ErrBadRelease) {
				t.Errorf("%+v: got %v, want %v", o, err, update.ErrBadRelease)
			}
		}
		w.boots = nil
		if out := w.session(func(ctx context.Context, a *update.Agent) {
			_ = a.Check(ctx, update.CheckOptions{Manual: true, Force: true})
		}); out != again {
			t.Fatalf("the session ended with %s", out)
		}
		w.live(w.check)
		if d := w.document(); w.running != verB || len(d.Bad) != 0 {
			t.Errorf("%s runs, %+v", w.running, d.Bad)
		}
	})
}

// The words and the status that a person and foreign clients read.
func TestCheck_OutsideWindow_IsSkippedAndSaysWhenNext(t *testing.T) {
	in(t, func(t *testing.T, w *world) { // the bubble's time is Saturday, 2000-01-01 00:00
		w.config.MaintenanceWindows = []osapi.MaintenanceWindow{{StartDayOfWeek: "Sunday", StartHour: 2, EndDayOfWeek: "Sunday", EndHour: 4}}
		w.published = []string{verB}
		w.live(w.check)
		w.live(w.check)
		d := w.document()
		if diff := cmp.Diff("Skipping update check outside of maintenance window(s)", d.Status); diff != "" {
			t.Error(diff)
		}
		want := []update.Decision{{At: time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC), What: "skipped", Why: "outside window", Next: "next Sun 02:00 UTC", Times: 2}}
		if diff := cmp.Diff(want, d.Decisions); diff != "" || d.Decisions[0].String() != "skipped: outside window, next Sun 02:00 UTC" {
			t.Error(diff)
		}
		w.boots = nil // by hand it is done now, restart and all
		w.boot()
		if out := w.session(func(ctx context.Context, a *update.Agent) { _ = a.Check(ctx, update.CheckOptions{Manual: true}) }); out != again {
			t.Errorf("the session ended with %s", out)
		}
	})
}

// A window that closes during a long download does not bring a restart in the daytime.
func TestCheck_WindowClosedMeanwhile_RestartWaitsForTheNext(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		w.config.MaintenanceWindows = []osapi.MaintenanceWindow{{StartHour: 0, EndHour: 0, EndMinute: 30}}
		w.published = []string{verB}
		w.boot()
		a := w.agent()
		a.Stager = slow{simStager{w}}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		if err := a.Boot(ctx); err != nil {
			t.Fatal(err)
		}
		if err := a.Check(ctx, update.CheckOptions{}); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff("restart waits: outside window, next Sun 00:00 UTC", w.lastDecision()); diff != "" {
			t.Error(diff)
		}
		w.config.CheckFrequency = "never"
		ended := make(chan outcome)
		go func() {
			ended <- w.session(func(ctx context.Context, a *update.Agent) { _ = a.Run(ctx) })
		}()
		if out := <-ended; out != again {
			t.Fatalf("the session ended with %s", out)
		}
		if got := w.clock.Now().UTC().Format(time.DateTime); got < "2000-01-02 00:00:00" || got > "2000-01-02 00:02:00" {
			t.Errorf("restarted at %s", got)
		}
	})
}

// slow takes an hour to fetch.
type slow struct{ simStager }

func (s slow) Fetch(ctx context.Context, f update.Found, p update.Progress) error {
	<-s.w.clock.After(time.Hour)
	return s.simStager.Fetch(ctx, f, p)
}

// "never" holds once the node is what it is to be; until then it has to look.
func TestRun_Never_ChecksOnlyUntilThereIsAPrimaryApplication(t *testing.T) {
	for _, row := range []struct {
		primary string
		want    int64
	}{{"incus", 0}, {"", 5}} { // at the start and every 6 h
		t.Run("primary "+row.primary, func(t *testing.T) {
			in(t, func(t *testing.T, w *world) {
				w.config.CheckFrequency, w.primary = "never", row.primary
				w.boot()
				ctx, cancel := context.WithTimeout(t.Context(), 24*time.Hour+time.Minute)
				defer cancel()
				if err := w.agent().Run(ctx); !errors.Is(err, context.DeadlineExceeded) {
					t.Fatal(err)
				}
				if got := w.appChecks.Load(); got != row.want {
					t.Errorf("%d checks, want %d", got, row.want)
				}
			})
		})
	}
}

// Many nodes that share a window do not all ask in its first minutes.
func TestRun_WindowOpens_ChecksSpreadAfterwards(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		w.config.MaintenanceWindows = []osapi.MaintenanceWindow{{StartHour: 2, EndHour: 2, EndMinute: 59}}
		w.config.CheckFrequency = "24h"
		w.boot()
		a := w.agent()
		a.Random = func() float64 { return 0.9 } // of 10 min, after the first one
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- a.Run(ctx) }()
		got := []int64{}
		for _, wait := range []time.Duration{time.Hour, 65 * time.Minute, 6 * time.Minute} { // 01:00, 02:05, 02:11
			<-w.clock.After(wait)
			synctest.Wait()
			got = append(got, w.appChecks.Load())
		}
		if diff := cmp.Diff([]int64{1, 1, 2}, got); diff != "" { // the first is the check of the start
			t.Error(diff)
		}
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}

// The check of a start restarts at once, as IncusOS does; but not twice in a row, and not
// for ever where the boot loader does not choose the new release.
func TestRun_Startup_RestartsAtOnceButNotForEver(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		w.config.AutoReboot, w.published = false, []string{verB}
		life := func(ctx context.Context, a *update.Agent) {
			ctx, cancel := context.WithTimeout(ctx, time.Minute)
			defer cancel()
			_ = a.Run(ctx)
		}
		for range 5 { // somebody has pinned the old release in the boot menu
			w.running, w.bootID, w.started = verA, w.bootID+1, w.clock.Elapsed()
			w.boots = append(w.boots, verA)
			if w.session(life) == settled {
				break
			}
		}
		if diff := cmp.Diff([]string{verA, verA, verA}, w.boots); diff != "" {
			t.Error(diff)
		}
		if diff := cmp.Diff("waits for a restart: 2 restarts did not lead to 202611020000, restart by hand, and look at the boot menu", w.lastDecision()); diff != "" {
			t.Error(diff)
		}
		w.boots = nil
		w.live(life)
		w.published = append(w.published, verC) // B was started just now: C waits for its time
		w.live(life)
		if diff := cmp.Diff([]string{verB, verB}, w.boots); diff != "" {
			t.Error(diff)
		}
	})
}

// Two people who press the button get one update.
func TestCheck_WhileOneRuns_IsBusy(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		w.published, w.config.AutoReboot = []string{verB}, false
		w.boot()
		a := w.agent()
		a.Stager = slow{simStager{w}}
		if err := a.Boot(t.Context()); err != nil {
			t.Fatal(err)
		}
		done := make(chan error)
		go func() { done <- a.Check(t.Context(), update.CheckOptions{}) }()
		synctest.Wait()
		if err := a.Check(t.Context(), update.CheckOptions{Manual: true}); !errors.Is(err, update.ErrBusy) {
			t.Errorf("got %v, want %v", err, update.ErrBusy)
		}
		if got := a.Snapshot().State; got != update.Fetching {
			t.Errorf("got %s", got)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
		if diff := cmp.Diff(osapi.UpdateState{LastCheck: a.Clock.Now(), Status: "Holdfast has been updated to version " + verB, NeedsReboot: true}, a.State()); diff != "" {
			t.Error(diff)
		}
	})
}

// Until it has proved itself, the running release must not take away the one to go back to.
func TestCheck_OnTrial_IsRefused(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		w.published = []string{verB}
		w.boot()
		w.session(w.check)
		w.boot()
		a := w.agent()
		if err := a.Boot(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := a.Check(t.Context(), update.CheckOptions{Manual: true, Force: true}); !errors.Is(err, update.ErrOnTrial) {
			t.Errorf("got %v, want %v", err, update.ErrOnTrial)
		}
		if err := a.Reboot(t.Context()); !errors.Is(err, update.ErrNothingStaged) {
			t.Errorf("got %v, want %v", err, update.ErrNothingStaged)
		}
	})
}

// A daemon that is stopped while it fetches has not failed.
func TestCheck_Stopped_IsInterruptedAndGoesOn(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		w.published = []string{verB}
		w.boot()
		a := w.agent()
		if err := a.Boot(t.Context()); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		a.Stager = stopping{simStager{w}, cancel}
		if err := a.Check(ctx, update.CheckOptions{}); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		if d := w.document(); d.State != update.Planned || d.Work == nil || d.Work.Version != verB {
			t.Errorf("got %s, %+v", d.State, d.Work)
		}
	})
}

type stopping struct {
	simStager
	stop func()
}

func (s stopping) Fetch(ctx context.Context, _ update.Found, _ update.Progress) error {
	s.stop()
	return ctx.Err()
}

// An application that cannot be updated is told, and does not hold up the OS.
func TestCheck_ApplicationFails_TheOSGoesOn(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		w.published, w.appErr = []string{verB}, update.ErrUnreachable
		w.boot()
		if out := w.session(func(ctx context.Context, a *update.Agent) { _ = a.Check(ctx, update.CheckOptions{}) }); out != again {
			t.Errorf("the session ended with %s", out)
		}
		if err := w.checkOnce(update.CheckOptions{OSOnly: true}); err != nil || w.running != verB {
			t.Errorf("%s runs, %v", w.running, err)
		}
	})
}

// An application that gave way to an older version is in the list of decisions.
func TestCheck_ApplicationFollowedTheOS_IsADecision(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		w.published = []string{verA}
		w.boot()
		w.appNews = []string{"incus went back"}
		if err := w.checkOnce(update.CheckOptions{Manual: true}); err != nil {
			t.Fatal(err)
		}
		var told []string
		for _, d := range w.document().Decisions {
			if d.What == "applications follow the OS" {
				told = append(told, d.String())
			}
		}
		if diff := cmp.Diff([]string{"applications follow the OS: incus went back"}, told); diff != "" {
			t.Error(diff)
		}
	})
}

// Before an owner says yes, everything that would happen can be read.
func TestPlan_SaysWhatWouldBeDone(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		w.published = []string{verB}
		w.live(w.check)
		w.published = append(w.published, verC)
		var got update.Plan
		if err := w.act(func(ctx context.Context, a *update.Agent) (err error) { got, err = a.Plan(ctx); return err }); err != nil {
			t.Fatal(err)
		}
		want := update.Plan{
			Version: verC, Severity: release.SeverityLow, Channel: "stable", Running: verB, Needed: true,
			Parts: []update.PartPlan{
				{Name: "usr", Component: "os", Type: release.TypeUpdateUsr, Bytes: 19922944, FullBytes: 147849216, How: "delta", Why: "from the running release"},
				{Name: "uki", Component: "os", Type: release.TypeUpdateEFI, Bytes: 52428800, FullBytes: 52428800, How: "full", Why: "no delta from the running release"},
			},
			Bytes: 72351744, FullBytes: 200278016,
			Changes: map[release.Component]release.ComponentChanges{
				"os":    {Updated: []string{"openssl 3.5.1-1 to 3.5.1-2"}, CVEs: []string{"CVE-2026-0002", "CVE-2026-0001"}},
				"incus": {CVEs: []string{"CVE-2026-0001"}},
			},
			ChangesFrom: verA, CVEs: []string{"CVE-2026-0001", "CVE-2026-0002"}, Reboot: true,
			PCR:  "PCR 7 stays; the disk is bound to it before the restart",
			Last: &update.Timing{Version: verB, From: verA, Bytes: 72351744, Gate: 10 * time.Second},
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
		w.published = w.published[:1]
		if err := w.act(func(ctx context.Context, a *update.Agent) (err error) { got, err = a.Plan(ctx); return err }); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(update.Plan{Version: verB, Severity: release.SeverityLow, Channel: "stable", Running: verB,
			Why: verB + " runs and is the newest", Last: want.Last}, got); diff != "" {
			t.Error(diff)
		}
	})
}

// Applications restart while the node runs; the OS needs the whole machine to.
func TestBuildPlan_ApplicationsAlone_NeedNoRestartOfTheMachine(t *testing.T) {
	got := update.BuildPlan(update.PlanInput{Take: true, Parts: []update.PartPlan{
		{Name: "openfga.raw", Component: "openfga", Type: release.TypeApplication, How: update.ByPresent, FullBytes: 5},
		{Name: "incus.raw", Component: "incus", Type: release.TypeApplication, How: update.ByDelta, Bytes: 2, FullBytes: 9},
	}, PredictionError: "the TPM does not answer"})
	want := update.Plan{Needed: true, Parts: got.Parts, Bytes: 2, FullBytes: 14, Restarts: []string{"incus"},
		PCR: "not known yet: the TPM does not answer"}
	if diff := cmp.Diff(want, got); diff != "" || len(got.Parts) != 2 {
		t.Error(diff)
	}
}
