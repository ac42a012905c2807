package update_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/internal/update"
)

// in runs a test in a bubble with its own clock.
func in(t *testing.T, test func(t *testing.T, w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { test(t, newWorld(t)) })
}

// The plain case: a node goes from A to B to C, each once, each found good.
func TestUpdate_GoodReleases_AreTakenOneAfterTheOther(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		w.published = []string{verB}
		w.live(w.check)
		if !w.stay {
			t.Error("the watch over the trial was not ended: the machine will restart")
		}
		w.published = append(w.published, verC)
		w.live(w.check)
		w.live(w.check)
		if diff := cmp.Diff([]string{verA, verB, verB, verC, verC}, w.boots); diff != "" {
			t.Error(diff)
		}
		if diff := cmp.Diff([]string{update.NoticeOS + " " + verB, update.NoticeOS + " " + verC}, w.notices); diff != "" {
			t.Error(diff)
		}
		if d := w.document(); d.Bad != nil || d.Proved == nil || d.Proved.Version != verC || d.Armed != nil || len(d.Timings) != 2 {
			t.Errorf("got %+v", d)
		}
	})
}

// Fault 33. A release that is no good, however it is, is left by itself, after at most the
// counted tries; the reason can be read; it is not taken again; and the next one is taken.
func TestUpdate_BadRelease_ReturnsByItselfOnceAndTakesTheNext(t *testing.T) {
	b, c := verB, verC
	for _, row := range []struct {
		kind   kind
		boots  []string // until the older release runs again
		reason string
	}{
		{kindCrash, []string{verA, b, b, b, verA}, "did not start (no word from it after 3 tries)"},
		{kindCrashLate, []string{verA, b, verA}, "holdfastd was started 6 times in one boot"},
		{kindSilent, []string{verA, b, verA}, "api: no answer in 20s"},
		{kindNoNetwork, []string{verA, b, verA}, "network: interface enp1s0 had an address before and has none"},
		{kindNoPool, []string{verA, b, verA}, "pools: pool local was imported before and is not"},
		{kindNoApp, []string{verA, b, verA}, "applications: application incus ran before and is not there"},
		{kindPanic, []string{verA, b, b, b, verA}, "did not start (no word from it after 3 tries)"},
	} {
		t.Run(string(row.kind), func(t *testing.T) {
			in(t, func(t *testing.T, w *world) {
				w.kinds[verB], w.published = row.kind, []string{verB}
				w.live(w.check)
				if diff := cmp.Diff(row.boots, w.boots); diff != "" {
					t.Error(diff)
				}
				d := w.document()
				if len(d.Bad) != 1 || d.Bad[0].Version != verB || d.Bad[0].Reason != row.reason {
					t.Errorf("remembered as %+v, want %q", d.Bad, row.reason)
				}
				if row.kind != kindCrash && row.kind != kindPanic {
					if diff := cmp.Diff(w.journal, d.Bad[0].Journal); diff != "" {
						t.Error(diff)
					}
				}
				w.boots = nil
				w.live(w.check) // it is still the newest, and stays where it is
				w.published = append(w.published, c)
				w.live(w.check)
				if diff := cmp.Diff([]string{verA, verA, c}, w.boots); diff != "" {
					t.Error(diff)
				}
				if diff := cmp.Diff([]string{update.NoticeReturned + " " + verB, update.NoticeOS + " " + verC}, w.notices); diff != "" {
					t.Error(diff)
				}
			})
		})
	}
}

// A release that never gets as far as a verdict still leaves a hint of what was wrong.
func TestUpdate_TrialCutShortThreeTimes_TheOlderNamesTheLastCheck(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		w.kinds[verB], w.published = kindNoPool, []string{verB}
		w.boot()
		w.session(w.check)
		for range 3 {
			w.boot()
			a := w.agent()
			short, cancel := context.WithTimeout(t.Context(), time.Minute) // then the power goes
			if err := a.Boot(short); err != nil {
				t.Fatal(err)
			}
			if err := a.Judge(short); !errors.Is(err, context.DeadlineExceeded) {
				t.Fatal(err)
			}
			cancel()
		}
		w.live(w.check)
		want := verB + ": started, but was not found good in 3 tries; last: pools: pool local was imported before and is not"
		d := w.document()
		if diff := cmp.Diff(want, verB+": "+d.Bad[0].Reason); diff != "" || w.running != verA || d.Bad[0].Checks == nil {
			t.Errorf("%s runs, %s", w.running, diff)
		}
	})
}

// A boot loader that insists on a bad release must not make the node restart for ever.
func TestJudge_LoaderInsistsOnABadRelease_GivesUpAndStaysUp(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		w.kinds[verB], w.published = kindNoPool, []string{verB}
		w.boot()
		w.session(w.check)
		n := 0
		for range 9 {
			w.running, w.bootID, w.started, w.stay = verB, w.bootID+1, w.clock.Elapsed(), false
			if n++; w.session(func(context.Context, *update.Agent) {}) == settled {
				break
			}
		}
		if d := w.document(); d.State != update.Failed || !w.stay || n != 4 || len(d.Bad) != 1 {
			t.Errorf("after %d boots: %s, stays %v, %+v", n, d.State, w.stay, d.Bad)
		}
	})
}

// Whoever chooses the old release in the boot menu does not want the new one back.
func TestBoot_LeftInTheBootMenu_IsMarkedAndRemembered(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		w.published = []string{verB}
		w.boot()
		w.session(w.check)
		w.must(w.disk.rename("esp/"+verB+"+3-0.efi", "esp/"+verB+"+1-2.efi"))
		w.running, w.bootID = verA, w.bootID+1
		if err := w.act(func(context.Context, *update.Agent) error { return nil }); err != nil {
			t.Fatal(err)
		}
		if key, _ := w.entry(verB); key != "esp/"+verB+"+0-2.efi" || w.document().State != update.Returned {
			t.Errorf("%s, %s", key, w.document().State)
		}
	})
}

// A release that was kept just before a power cut is not put on trial a second time.
func TestBoot_CutAfterTheBlessing_IsGoodAtOnce(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		w.published = []string{verB}
		w.boot()
		w.session(w.check)
		w.boot()
		a := w.agent()
		if err := a.Boot(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.must(simSlots{w}.Bless(t.Context()))
		w.kinds[verB] = kindSilent // the gate would not let it pass
		next := w.agent()
		if err := next.Boot(t.Context()); err != nil {
			t.Fatal(err)
		}
		d := next.Snapshot().Document
		if d.State != update.Good || d.Armed != nil || d.Trial != nil || d.Proved == nil || d.Proved.Version != verB || !w.stay {
			t.Errorf("got %+v", d)
		}
	})
}
