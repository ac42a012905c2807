package update_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	osapi "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/state"
	"github.com/holdfast-os/holdfast/internal/update"
)

// checkOnce boots and does one check with options, and gives its error.
func (w *world) checkOnce(o update.CheckOptions) (err error) {
	w.live(func(ctx context.Context, a *update.Agent) { err = a.Check(ctx, o) })
	return err
}

// lastDecision is the newest one, as a person reads it.
func (w *world) lastDecision() string {
	d := w.document().Decisions
	if len(d) == 0 {
		return ""
	}
	return d[len(d)-1].String()
}

// Fault 3. A version that was published twice, with other content the second time, is not
// what the node has: neither is fetched again, nor is what is there trusted less.
func TestFault3_SameVersionWithOtherContent_IsRefusedAndWhatIsThereStays(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		w.config.AutoReboot = false
		w.published = []string{verB}
		check := func(ctx context.Context, a *update.Agent) error {
			return a.Check(ctx, update.CheckOptions{Manual: true})
		}
		w.boot()
		if err := w.act(check); err != nil {
			t.Fatal(err)
		}
		w.digest[verB] = " again"
		if err := w.act(check); !errors.Is(err, update.ErrChanged) || w.document().State != update.Staged {
			t.Errorf("staged: got %v, want %v; %s", err, update.ErrChanged, w.document().State)
		}
		w.digest[verB] = ""
		w.live(w.check)
		w.digest[verB] = " again"
		if err := w.act(check); !errors.Is(err, update.ErrChanged) {
			t.Errorf("running: got %v, want %v", err, update.ErrChanged)
		}
		if w.running != verB || w.document().Proved.Digest != "digest "+verB {
			t.Errorf("%s runs, %+v", w.running, w.document().Proved)
		}
	})
}

// Fault 3. A node that was away for a release takes the newest at once.
func TestFault3_SkippedVersion_IsNotMissed(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		w.published = []string{verB, verC}
		w.live(w.check)
		if diff := cmp.Diff([]string{verA, verC}, w.boots); diff != "" {
			t.Error(diff)
		}
	})
}

// A server that was set back must not take the node back.
func TestCheck_OlderRelease_IsRefused(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		w.published = []string{"202610010000"}
		if err := w.checkOnce(update.CheckOptions{Manual: true, Force: true}); !errors.Is(err, update.ErrOlder) {
			t.Errorf("got %v, want %v", err, update.ErrOlder)
		}
		want := "Update check completed: the newest release is older than what the node has: " +
			"version 202611010000 is newer than available update 202610010000, skipping"
		if diff := cmp.Diff(want, w.document().Status); diff != "" || w.document().State != update.Idle {
			t.Errorf("%s %s", w.document().State, diff)
		}
	})
}

// Fault 5, what is left of it here: a manifest of another machine.
func TestCheck_ManifestThatIsNotForThisNode_IsRefused(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		w.published = []string{"2026110200"}
		if err := w.checkOnce(update.CheckOptions{}); !errors.Is(err, update.ErrUntrusted) {
			t.Errorf("got %v, want %v", err, update.ErrUntrusted)
		}
		w.live(func(ctx context.Context, a *update.Agent) {
			w.published, a.Architecture = []string{verB}, "aarch64"
			if err := a.Check(ctx, update.CheckOptions{}); !errors.Is(err, update.ErrUntrusted) {
				t.Errorf("got %v, want %v", err, update.ErrUntrusted)
			}
		})
	})
}

// Fault 15 is about who owns a node, not about releases: see the provider's tests.

// Fault 19. What is full is found before anything is fetched, junk of the file checker is
// cleared away, and what cannot be cleared is named.
func TestFault19_FullESP_JunkIsClearedElseRefused(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		w.published, w.junk = []string{verB}, true
		w.live(w.check)
		if w.running != verB {
			t.Errorf("with junk: %s runs", w.running)
		}
		w.published, w.espFree = []string{verB, verC}, 10<<20
		if err := w.checkOnce(update.CheckOptions{}); !errors.Is(err, update.ErrSpace) {
			t.Errorf("got %v, want %v", err, update.ErrSpace)
		}
		want := "failed: not enough space for the release 202611030000: the ESP lacks 58 MiB: " +
			"remove what does not belong there, tried again at the next check"
		if diff := cmp.Diff(want, w.lastDecision()); diff != "" {
			t.Error(diff)
		}
		if _, fetched := w.disk.current["stage/"+verC]; fetched || w.document().State != update.Failed {
			t.Errorf("fetched %v, %s", fetched, w.document().State)
		}
	})
}

// Faults 19 and 20. A disk that refuses a write, wherever it does, costs the update and
// nothing else; when it is well again, the next check goes through.
func TestFault19And20_WriteErrorAnywhere_KeepsTheRunningRelease(t *testing.T) {
	for _, where := range []string{"stage/", "slot1/label", "slot1/usr", "slot1/sig", "tpm", "esp/"} {
		t.Run(where, func(t *testing.T) {
			in(t, func(t *testing.T, w *world) {
				w.published = []string{verB}
				w.disk.fail = map[string]error{where: syscall.EIO}
				if err := w.checkOnce(update.CheckOptions{}); !errors.Is(err, syscall.EIO) {
					t.Errorf("got %v, want %v", err, syscall.EIO)
				}
				if d := w.document(); d.State != update.Failed || d.Armed != nil || len(d.Bad) != 0 {
					t.Errorf("got %+v", d)
				}
				w.boots, w.disk.fail = nil, nil
				w.live(w.check)
				if diff := cmp.Diff([]string{verA, verB}, w.boots); diff != "" {
					t.Error(diff)
				}
			})
		})
	}
}

// Faults 19 and 33. A state that the new release cannot write is a reason to go back,
// though that reason cannot be written either.
func TestFault19_StateNotWritableOnTrial_ReturnsAllTheSame(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		w.published = []string{verB}
		w.boot()
		if out := w.session(w.check); out != again {
			t.Fatalf("first session: %s", out)
		}
		w.boot()
		w.disk.fail = map[string]error{"state/": syscall.ENOSPC}
		if out := w.session(w.check); out != again {
			t.Fatalf("trial: %s", out)
		}
		w.disk.fail = nil
		w.live(w.check)
		d := w.document()
		if diff := cmp.Diff([]string{verA, verB, verA}, w.boots); diff != "" || len(d.Bad) != 1 {
			t.Errorf("%s, %+v", diff, d.Bad)
		}
	})
}

// Fault 21. A disk that says it has written what it has not, until the machine restarts in
// order: whatever a power cut during the update then loses, and in whatever order, the older
// release starts, or the new one does and is whole. At most the update is lost: the node may
// blame the release that it found in pieces, and takes the next one.
func TestFault21_DiskThatFlushesNothing_CostsTheUpdateAtMost(t *testing.T) {
	in(t, func(t *testing.T, _ *world) {
		for _, mode := range cuts {
			for at := 1; ; at++ {
				w := newWorld(t)
				w.published = []string{verB}
				w.disk.lies, w.disk.cutAt, w.disk.mode = true, at, mode
				w.boot()
				out := w.session(w.check)
				w.disk.lies, w.disk.cutAt = false, 0
				w.disk.flush()
				if out != wasCut {
					if at < 20 {
						t.Errorf("the update has %d steps", at)
					}
					break
				}
				w.live(w.check)
				if w.running != verA && w.running != verB {
					t.Errorf("cut at %d, %s: %s runs", at, mode, w.running)
				}
				w.published = append(w.published, verC)
				w.live(w.check)
				if w.running != verC || w.disk.current["data/container"] != "precious" {
					t.Errorf("cut at %d, %s: ends on %s", at, mode, w.running)
				}
			}
		}
	})
}

// Fault 20, on what is being written: the slot that runs is read through its hash tree, and
// one that has rotted before it was ever found good is left after its tries.
func TestFault20_NewSlotRotsBeforeItsTrial_ReturnsToTheOlder(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		w.published = []string{verB}
		w.boot()
		if out := w.session(w.check); out != again {
			t.Fatalf("the update ended with %s", out)
		}
		w.disk.current["slot1/usr"] = "usr with a sector that cannot be read"
		w.boots = nil
		w.live(w.check)
		d := w.document()
		if diff := cmp.Diff([]string{verB, verB, verB, verA}, w.boots); diff != "" || len(d.Bad) != 1 || d.Bad[0].Version != verB {
			t.Errorf("%s, %+v", diff, d.Bad)
		}
	})
}

// Fault 24. A release that has outgrown the slot is refused before a byte is written.
func TestFault24_SlotTooSmall_IsRefused(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		w.published, w.slotSize = []string{verB}, 900<<20
		if err := w.checkOnce(update.CheckOptions{}); !errors.Is(err, update.ErrSpace) {
			t.Errorf("got %v, want %v", err, update.ErrSpace)
		}
		want := "failed: not enough space for the release 202611020000: usr needs 1024 MiB, its partition has 900 MiB: " +
			"this release needs a new installation, tried again at the next check"
		if diff := cmp.Diff(want, w.lastDecision()); diff != "" || w.disk.current["slot1/label"] != "" {
			t.Error(diff)
		}
	})
}

// Fault 25. Whatever has become of the document, the boot entries tell enough to go on:
// a release on trial is judged, one that is staged is started, one without tries is bad.
func TestFault25_DocumentLost_GoesOnFromTheBootEntries(t *testing.T) {
	for _, row := range []struct {
		name   string
		damage func(dir string, text []byte) []byte
	}{
		{"truncated", func(_ string, text []byte) []byte { return text[:len(text)/2] }},
		{"empty", func(string, []byte) []byte { return nil }},
		{"from a newer release", func(string, []byte) []byte { return []byte(`{"version":7,"data":{"state":"orbit"}}`) }},
		{"unknown state", func(string, []byte) []byte { return []byte(`{"version":1,"data":{"state":"orbit"}}`) }},
		{"state of an older boot", func(string, []byte) []byte { return []byte(`{"version":1,"data":{"state":"fetching"}}`) }},
	} {
		for entry, want := range map[string]update.State{"+2-1": update.Good, "+3-0": update.Staged, "+0-3": update.Returned} {
			t.Run(row.name+" "+entry, func(t *testing.T) {
				in(t, func(t *testing.T, w *world) {
					dir := t.TempDir()
					text := []byte(`{"version":1,"data":{"state":"staged","armed":{"version":"202611020000"}}}`)
					if err := os.WriteFile(filepath.Join(dir, "update-agent.json"), row.damage(dir, text), 0o600); err != nil {
						t.Fatal(err)
					}
					store, err := state.Open(dir)
					if err != nil {
						t.Fatal(err)
					}
					w.disk.current["esp/"+verB+entry+".efi"] = "uki " + verB
					w.running = map[bool]string{true: verB, false: verA}[entry == "+2-1"]
					a := w.agent()
					a.Store = update.FileStore{State: store}
					if err := errors.Join(a.Boot(t.Context()), a.Judge(t.Context())); err != nil {
						t.Fatal(err)
					}
					if got := a.Snapshot().State; got != want {
						t.Errorf("got %s, want %s", got, want)
					}
					again := w.agent()
					again.Store = a.Store
					if err := again.Boot(t.Context()); err != nil || again.Snapshot().State != want {
						t.Errorf("after a start of the daemon: %v, %s", err, again.Snapshot().State)
					}
				})
			})
		}
	}
}

// Fault 34. When the other slot is no good either, the node stays where the API answers,
// says why, does not restart for ever, and takes a release that mends it.
func TestFault34_BothSlotsBad_StaysUpAndTakesTheNext(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		w.kinds[verB], w.published = kindNoPool, []string{verB}
		w.boot()
		w.session(w.check)
		if err := w.disk.rename("esp/"+verA+".efi", "esp/"+verA+"+0-3.efi"); err != nil { // A is gone too
			t.Fatal(err)
		}
		w.disk.flush()
		w.live(func(context.Context, *update.Agent) {})
		d := w.document()
		want := "no other release can boot, so the node stays on one that is no good: pools: pool local was imported before and is not"
		if diff := cmp.Diff(want, d.Reason); diff != "" || d.State != update.Failed || !w.stay || len(d.Bad) != 1 || d.Verdict != nil {
			t.Errorf("got %s, stays %v, %+v, %s", d.State, w.stay, d.Bad, diff)
		}
		w.live(func(context.Context, *update.Agent) {}) // again after a restart, not a loop
		w.published = append(w.published, verC)
		w.live(w.check)
		if diff := cmp.Diff([]string{verA, verB, verB, verB, verC}, w.boots); diff != "" {
			t.Error(diff)
		}
	})
}

// Fault 35. What a newer release has written beside what this one knows is kept, so that
// going back and forth loses nothing of either.
func TestFault35_FieldsOfANewerRelease_AreKeptByTheOlder(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		dir := t.TempDir()
		path := filepath.Join(dir, "update-agent.json")
		text := `{"version":1,"data":{"state":"trial","later":{"x":1},"trial":{"version":"202611020000","boot_id":"boot 1","boots":2,"starts":1,"began":0,"newer":true}}}`
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		store, err := state.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		w.disk.current["esp/"+verB+"+0-3.efi"], w.running = "uki", verA
		a := w.agent()
		a.Store = update.FileStore{State: store}
		if err := a.Boot(t.Context()); err != nil {
			t.Fatal(err)
		}
		var got struct {
			State update.State
			Later map[string]int
		}
		if _, err := store.Load(state.Document{Name: "update-agent", Version: 1}, &got); err != nil {
			t.Fatal(err)
		}
		if got.State != update.Returned || got.Later["x"] != 1 {
			t.Errorf("got %+v", got)
		}
		want := "202611020000: started, but was not found good in 3 tries"
		if diff := cmp.Diff(want, a.Snapshot().Reason); diff != "" {
			t.Error(diff)
		}
	})
}

// Faults 13 and 43. The wall clock may jump by years, and the window may open, close and
// come twice around a change of clocks: a node checks in its windows, and only there.
func TestFault13And43_ClockAndWindows(t *testing.T) {
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Skip("the time zone database is missing")
	}
	night := []osapi.MaintenanceWindow{{StartHour: 2, EndHour: 2, EndMinute: 59}}
	for _, row := range []struct {
		name, from, to string // UTC
		windows        []osapi.MaintenanceWindow
		step           time.Duration // of the wall clock, after the first hour
		want           int64         // checks by then
	}{
		{"no windows: every 6 h", "2026-11-22 00:00:00", "2026-11-23 00:01:00", nil, 0, 4},
		{"once a night", "2026-11-22 12:00:00", "2026-11-25 12:00:00", night, 0, 3},
		{"the hour comes twice: one long window, one check", "2026-10-24 12:00:00", "2026-10-25 12:00:00", night, 0, 1},
		{"the hour is left out: an hour later", "2026-03-28 12:00:00", "2026-03-29 12:00:00", night, 0, 1},
		{"a clock at 1970 is set while the window is open", "1970-01-01 12:00:00", "1970-01-01 14:00:00", night,
			time.Date(2026, 11, 22, 1, 5, 0, 0, time.UTC).Sub(time.Date(1970, 1, 1, 13, 0, 0, 0, time.UTC)), 1},
		{"a clock ten years ahead is set back", "2036-11-22 00:00:00", "2036-11-22 12:01:00", nil, -87600 * time.Hour, 2},
	} {
		t.Run(row.name, func(t *testing.T) {
			in(t, func(t *testing.T, w *world) {
				from, err := time.Parse(time.DateTime, row.from)
				to, err2 := time.Parse(time.DateTime, row.to)
				if err != nil || err2 != nil {
					t.Fatal(err, err2)
				}
				w.clock.offset.Store(int64(time.Until(from)))
				w.location, w.config.MaintenanceWindows = berlin, row.windows
				w.boot()
				a := w.agent()
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan error)
				go func() { done <- a.Run(ctx) }()
				synctest.Wait()
				w.appChecks.Store(0) // but for the check of the start
				<-w.clock.After(time.Hour)
				synctest.Wait()
				w.clock.offset.Add(int64(row.step))
				<-w.clock.After(to.Sub(from) - time.Hour)
				synctest.Wait()
				if got := w.appChecks.Load(); got != row.want {
					t.Errorf("%d checks, want %d: %v", got, row.want, w.document().Decisions)
				}
				cancel()
				if err := <-done; !errors.Is(err, context.Canceled) {
					t.Error(err)
				}
			})
		})
	}
}
