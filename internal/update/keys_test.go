package update_test

import (
	"context"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/internal/update"
)

// simKeys are the firmware's keys: so many variables are missing, one for each start.
type simKeys struct {
	missing int
	boot    int
	err     error
	asked   []string
}

func (k *simKeys) with(w *world) update.Keys { return keysOf{k, w} }

type keysOf struct {
	*simKeys
	w *world
}

func (k keysOf) Apply(_ context.Context, found update.Found) (string, error) {
	k.asked = append(k.asked, found.Manifest.Version)
	if k.err != nil {
		return "", k.err
	}
	if k.missing > 0 && k.boot != k.w.bootID {
		k.boot = k.w.bootID
		k.missing--
		return "db was written", nil
	}
	if k.boot == k.w.bootID {
		return "db was written", nil
	}
	return "", nil
}

// Keys come before the release that may need them, one variable for each start; then the
// release is taken.
func TestCheck_KeysMissing_RestartsForEachAndThenTakesTheRelease(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		keys := &simKeys{missing: 2}
		w.published = []string{verB}
		w.live(func(ctx context.Context, a *update.Agent) {
			a.Keys = keys.with(w)
			w.check(ctx, a)
		})
		if diff := cmp.Diff([]string{verA, verA, verA, verB}, w.boots); diff != "" {
			t.Error(diff)
		}
	})
}

// Without leave to restart nothing else is begun: two changes in one start are one too many.
func TestCheck_KeysWrittenNoAutoReboot_WaitsAndSaysSo(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		keys := &simKeys{missing: 1}
		w.config.AutoReboot, w.published = false, []string{verB}
		w.live(func(ctx context.Context, a *update.Agent) {
			a.Keys = keys.with(w)
			w.check(ctx, a)
			w.check(ctx, a)
		})
		doc := w.document()
		if diff := cmp.Diff([]any{update.Idle, []string{verA}, (*update.Release)(nil)}, []any{doc.State, w.boots, doc.Armed}); diff != "" {
			t.Error(diff)
		}
		last := doc.Decisions[len(doc.Decisions)-1]
		if diff := cmp.Diff([]string{"Secure Boot keys wait for a restart", "auto_reboot is off"}, []string{last.What, last.Why}); diff != "" {
			t.Error(diff)
		}
	})
}

// Firmware that does not let itself be predicted must not keep a node from its releases.
func TestCheck_KeysFail_TakesTheRelease(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		keys := &simKeys{err: errors.New("predicting PCR 7")}
		w.published = []string{verB}
		w.live(func(ctx context.Context, a *update.Agent) {
			a.Keys = keys.with(w)
			w.check(ctx, a)
		})
		if w.running != verB {
			t.Errorf("runs %s", w.running)
		}
	})
}
