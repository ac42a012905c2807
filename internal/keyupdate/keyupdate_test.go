package keyupdate_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/internal/keyupdate"
	"github.com/holdfast-os/holdfast/internal/secureboot"
)

// whole has an update for each variable: three restarts.
func whole(t *testing.T) []byte {
	return archive(t, "KEK+next by PK", "db+next by KEK", "dbx+stranger by KEK")
}

// finish restarts as long as the node asks for it, and gives what opened the disk each time.
func (w *world) finish(t *testing.T, outcome keyupdate.Outcome) (opened []string) {
	t.Helper()
	for outcome.Restart {
		if len(opened) == 10 {
			t.Fatal("the node restarts for ever")
		}
		opened = append(opened, w.start())
		var err error
		if outcome, err = w.updater().Start(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	return opened
}

func (w *world) result(t *testing.T) string {
	t.Helper()
	doc, err := w.Load()
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%s, KEK %t, db %t, dbx %t, %d bindings, archive %t", doc.Stage, has(t, w.variables["KEK"], "next"),
		has(t, w.variables["db"], "next"), has(t, w.variables["dbx"], "stranger"), len(w.tokens), w.archive != nil)
}

// An archive for three variables takes three restarts; the TPM opens the disk at each, and
// no binding of before is left.
func TestApply_WholeArchive_OneVariablePerStart(t *testing.T) {
	w := newWorld()
	outcome, err := w.updater().Apply(t.Context(), whole(t), "202611220104")
	if err != nil || !outcome.Restart {
		t.Fatalf("got %+v, %v", outcome, err)
	}
	got := []string{w.result(t)}
	got = append(got, w.finish(t, outcome)...)
	got = append(got, w.result(t))
	want := []string{
		"restart, KEK true, db false, dbx false, 2 bindings, archive true",
		"TPM", "TPM", "TPM",
		"done, KEK true, db true, dbx true, 1 bindings, archive false",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	doc, err := w.updater().Document()
	if err != nil || !doc.FullyApplied() || doc.Version != "202611220104" {
		t.Errorf("got %+v, %v", doc, err)
	}
}

// The power may go before anything that changes what lasts. The disk opens by itself at the
// next start, and the update ends as if nothing had been.
func TestApply_PowerCutAnywhere_TPMOpensTheDiskAndTheUpdateEnds(t *testing.T) {
	const want = "done, KEK true, db true, dbx true, 1 bindings, archive false"
	var table []string
	for at := 0; ; at++ {
		w := newWorld()
		w.at = at
		outcome, err, gone := w.until(func() (keyupdate.Outcome, error) { return w.updater().Apply(t.Context(), whole(t), "") })
		for restarts := 0; !gone && outcome.Restart && restarts < 10; restarts++ {
			if opened := w.start(); opened != "TPM" || err != nil {
				t.Errorf("before the cut at %d: %s, %v", at, opened, err)
			}
			outcome, err, gone = w.until(func() (keyupdate.Outcome, error) { return w.updater().Start(t.Context()) })
		}
		if !gone {
			if at < 20 {
				t.Errorf("the whole update has %d steps", at)
			}
			break
		}
		after := w.did
		w.at = -1
		opened := w.start()
		outcome, err = w.updater().Start(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if at == 0 || after == "keep archive" {
			// Nobody was told that the archive was taken: it is sent again.
			if outcome, err = w.updater().Apply(t.Context(), whole(t), ""); err != nil {
				t.Fatal(err)
			}
		}
		for _, o := range w.finish(t, outcome) {
			if o != "TPM" {
				t.Errorf("after the cut at %d (behind %s): %s", at, after, o)
			}
		}
		if got := w.result(t); opened != "TPM" || got != want {
			t.Errorf("cut at %d, behind %q: opened by %s; %s", at, after, opened, got)
		}
		table = append(table, fmt.Sprintf("%s | %s", after, opened))
	}
	// What was done last | what opens the disk at the next start.
	variable := func(name string) []string {
		return []string{"bind | TPM", "save bound | TPM", "save writing | TPM", "write " + name + " | TPM", "save restart | TPM"}
	}
	// Then the restart; what is remembered of it is cleared, and the old binding removed.
	restart := []string{"save restart | TPM", "unbind | TPM", "save restart | TPM"}
	expected := slices.Concat([]string{" | TPM", "keep archive | TPM", "save pending | TPM", "save pending | TPM"},
		variable("KEK"), restart, variable("db"), restart, variable("dbx"), restart[:2], []string{"save done | TPM"})
	if diff := cmp.Diff(expected, table); diff != "" {
		t.Error(diff)
	}
}

// The daemon may end at the same places while the machine goes on. What was written in this
// start still counts, and nothing is written twice.
func TestApply_DaemonEndsAnywhere_OneVariablePerStart(t *testing.T) {
	for at := 0; ; at++ {
		w := newWorld()
		w.at = at
		_, _, gone := w.until(func() (keyupdate.Outcome, error) { return w.updater().Apply(t.Context(), whole(t), "") })
		if !gone {
			break
		}
		w.at = -1
		if _, err := w.updater().Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		if has(t, w.variables["db"], "next") {
			t.Errorf("ended at %d: db is written in the start of KEK", at)
		}
		if opened := w.start(); opened != "TPM" {
			t.Errorf("ended at %d: %s", at, opened)
		}
	}
}

// Firmware that stores something else than was asked for must not lock the node out: what it
// has is bound before the restart.
func TestApply_FirmwareStoresOtherContent_IsBoundBeforeTheRestart(t *testing.T) {
	w := newWorld()
	w.store = func(old, added []byte) []byte { return append(append([]byte{}, added...), old...) }
	outcome, err := w.updater().Apply(t.Context(), archive(t, "db+next by KEK"), "")
	if err != nil {
		t.Fatal(err)
	}
	got := append([]string{fmt.Sprint(len(w.tokens), " bindings")}, w.finish(t, outcome)...)
	got = append(got, w.result(t))
	want := []string{"3 bindings", "TPM", "done, KEK false, db true, dbx false, 1 bindings, archive false"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// Firmware that takes an update and forgets it would make the node restart for ever.
func TestApply_FirmwareForgets_EndsAfterTwoStarts(t *testing.T) {
	w := newWorld()
	text := archive(t, "db+next by KEK")
	outcome, err := w.updater().Apply(t.Context(), text, "")
	for starts := 0; outcome.Restart && err == nil; starts++ {
		if starts == 3 {
			t.Fatal("the node restarts for ever")
		}
		w.variables["db"] = content("release")
		if opened := w.start(); opened != "TPM" {
			t.Errorf("start %d: %s", starts, opened)
		}
		outcome, err = w.updater().Start(t.Context())
	}
	if !errors.Is(err, keyupdate.ErrRefused) {
		t.Errorf("got %v", err)
	}
	if diff := cmp.Diff("failed, KEK false, db false, dbx false, 1 bindings, archive false", w.result(t)); diff != "" {
		t.Error(diff)
	}
}

// A machine with a platform key of its owner's own refuses KEK, and gets the rest.
func TestApply_FirmwareRefusesKEK_GoesOnWithDB(t *testing.T) {
	w := newWorld()
	w.refuse["KEK"] = fmt.Errorf("writing KEK: %w", keyupdate.ErrFirmware)
	outcome, err := w.updater().Apply(t.Context(), archive(t, "KEK+next by PK", "db+next by KEK"), "")
	if err != nil {
		t.Fatal(err)
	}
	got := append(w.finish(t, outcome), w.result(t))
	want := []string{"TPM", "done, KEK false, db true, dbx false, 1 bindings, archive false"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	doc, err := w.Load()
	if err != nil || doc.FullyApplied() || len(doc.Notes) != 1 {
		t.Errorf("got %+v, %v", doc, err)
	}
}

// An error that came behind the change counts as a change.
func TestApply_ErrorBehindTheChange_IsReadBack(t *testing.T) {
	w := newWorld()
	w.refuse["after db"] = errors.New("input/output error")
	outcome, err := w.updater().Apply(t.Context(), archive(t, "db+next by KEK"), "")
	if err != nil {
		t.Fatal(err)
	}
	got := append(w.finish(t, outcome), w.result(t))
	if diff := cmp.Diff([]string{"TPM", "done, KEK false, db true, dbx false, 1 bindings, archive false"}, got); diff != "" {
		t.Error(diff)
	}
}

// What cannot be carried out changes neither firmware nor header.
func TestApply_NotPossible_WritesNothing(t *testing.T) {
	full := errors.New("the firmware's memory is full")
	for name, c := range map[string]struct {
		archive []string
		change  func(w *world)
		want    error
	}{
		"Secure Boot off":         {[]string{"db+next by KEK"}, func(w *world) { w.variables["SecureBoot"] = []byte{0}; w.start() }, keyupdate.ErrRefused},
		"signed by a stranger":    {[]string{"db+next by stranger"}, func(*world) {}, keyupdate.ErrRefused},
		"dbx needs the release":   {[]string{"dbx+release by KEK"}, func(*world) {}, keyupdate.ErrRefused},
		"on trial":                {[]string{"db+next by KEK"}, func(w *world) { w.trial = true }, keyupdate.ErrOnTrial},
		"no room":                 {[]string{"db+next by KEK"}, func(w *world) { w.refuse["room"] = full }, full},
		"opened by recovery key":  {[]string{"db+next by KEK"}, func(w *world) { w.tokens = map[int]token{} }, secureboot.ErrNotBound},
		"the firmware refuses db": {[]string{"db+next by KEK"}, func(w *world) { w.refuse["db"] = keyupdate.ErrFirmware }, keyupdate.ErrFirmware},
		"no archive":              {nil, func(*world) {}, keyupdate.ErrRefused},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld()
			c.change(w)
			before := len(w.tokens)
			_, err := w.updater().Apply(t.Context(), archive(t, c.archive...), "")
			if !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
			if has(t, w.variables["db"], "next") || has(t, w.variables["dbx"], "release") {
				t.Error("it is written")
			}
			// The firmware refuses after the binding is there; the next start removes it.
			if got := len(w.tokens); got != before && !errors.Is(err, keyupdate.ErrFirmware) {
				t.Errorf("%d bindings", got)
			}
			w.start()
			if _, err := w.updater().Start(t.Context()); err != nil && !errors.Is(err, c.want) {
				t.Error(err)
			}
		})
	}
}

// A log that does not fit the TPM predicts nothing, and so nothing is written or removed.
func TestApply_LogDoesNotFit_WritesNothing(t *testing.T) {
	w := newWorld()
	w.log = w.log[:len(w.log)-1]
	if _, err := w.updater().Apply(t.Context(), archive(t, "db+next by KEK"), ""); err == nil || has(t, w.variables["db"], "next") {
		t.Errorf("got %v", err)
	}
	if len(w.tokens) != 1 {
		t.Errorf("%d bindings", len(w.tokens))
	}
}

// A UKI that cannot be read may start all the same: what it would measure is not known.
func TestApply_ProgramCannotBeRead_WritesNothing(t *testing.T) {
	w := newWorld()
	w.unknown = []string{"EFI/Linux/x.efi"}
	if _, err := w.updater().Apply(t.Context(), archive(t, "db+next by KEK"), ""); err == nil || has(t, w.variables["db"], "next") || len(w.tokens) != 1 {
		t.Errorf("got %v, %d bindings", err, len(w.tokens))
	}
}

// dbx that came from elsewhere while the node ran (firmware tools, another system): nothing
// is written, what comes of it is bound, and the node does not restart by itself.
func TestStart_VariableChangedByOthers_IsBoundAndNotRestarted(t *testing.T) {
	w := newWorld()
	w.archive = archive(t, "db+next by KEK")
	w.variables["dbx"] = content("stranger")
	outcome, err := w.updater().Start(t.Context())
	if err != nil || outcome.Restart || has(t, w.variables["db"], "next") {
		t.Errorf("got %+v, %v", outcome, err)
	}
	if opened := w.start(); opened != "TPM" {
		t.Error(opened)
	}
}

// The document is lost or was restored from another machine: the header is what counts.
func TestStart_DocumentLost_GoesOn(t *testing.T) {
	w := newWorld()
	outcome, err := w.updater().Apply(t.Context(), whole(t), "")
	if err != nil {
		t.Fatal(err)
	}
	w.document = nil
	got := append(w.finish(t, outcome), w.result(t))
	if diff := cmp.Diff([]string{"TPM", "TPM", "TPM", "done, KEK true, db true, dbx true, 1 bindings, archive false"}, got); diff != "" {
		t.Error(diff)
	}
}

// A person who opened the disk proves nothing about its bindings: none is removed.
func TestStart_OpenedByRecoveryKey_RemovesNothing(t *testing.T) {
	w := newWorld()
	if _, err := w.updater().Apply(t.Context(), archive(t, "db+next by KEK"), ""); err != nil {
		t.Fatal(err)
	}
	w.start()
	w.opened = false
	if _, err := w.updater().Start(t.Context()); err != nil || len(w.tokens) != 2 {
		t.Errorf("%d bindings, %v", len(w.tokens), err)
	}
}

// The daemon starts anew between a change and the restart, and the archive is gone: the
// binding for the next start is not one that nobody needs.
func TestStart_SameStartAsTheChange_RemovesNothing(t *testing.T) {
	w := newWorld()
	if _, err := w.updater().Apply(t.Context(), archive(t, "db+next by KEK"), ""); err != nil {
		t.Fatal(err)
	}
	w.archive = nil
	if _, err := w.updater().Start(t.Context()); err != nil || len(w.tokens) != 2 {
		t.Errorf("%d bindings, %v", len(w.tokens), err)
	}
}

// Both slots are bound: a node that returns to the older release after a change opens too.
// A UKI that the firmware would not start is none of them.
func TestApply_TwoReleases_BothAreBound(t *testing.T) {
	w := newWorld()
	// R2 is let in by the next key, once db has it: another start with a value of its own.
	w.others = []keyupdate.Program{{Image: image("R2", "next"), Signed: w.signed}, {Image: image("X", "stranger"), Signed: w.signed}}
	outcome, err := w.updater().Apply(t.Context(), archive(t, "db+next by KEK"), "")
	if err != nil || !outcome.Restart || len(w.tokens) != 3 {
		t.Fatalf("%d bindings, %+v, %v", len(w.tokens), outcome, err)
	}
	w.finish(t, outcome)
	if len(w.tokens) != 2 {
		t.Errorf("%d bindings are left", len(w.tokens))
	}
}

func TestApply_OneGoesOn_SecondIsRefused(t *testing.T) {
	w := newWorld()
	u := w.updater()
	inside := make(chan error, 1)
	u.Machine = asking{w, func() {
		if len(inside) == 0 {
			_, err := u.Continue(t.Context())
			inside <- err
		}
	}}
	if _, err := u.Apply(t.Context(), archive(t, "db+next by KEK"), ""); err != nil {
		t.Fatal(err)
	}
	if err := <-inside; !errors.Is(err, keyupdate.ErrBusy) {
		t.Errorf("got %v", err)
	}
}

type asking struct {
	*world
	ask func()
}

func (a asking) Look(ctx context.Context) (keyupdate.Facts, error) {
	a.ask()
	return a.world.Look(ctx)
}

// A person sees what would be done before it is.
func TestPlan_Archive_ShowsStepsAndChangesNothing(t *testing.T) {
	w := newWorld()
	p, err := w.updater().Plan(t.Context(), whole(t))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, s := range p.Steps {
		got = append(got, s.Tool)
	}
	want := []string{"secureboot.bind", "secureboot.check-bindings", "secureboot.append-variable", "secureboot.read-back"}
	if diff := cmp.Diff(want, got); diff != "" || p.Reboot == "" || w.ops != 0 {
		t.Errorf("%s, reboot %q, %d changes", diff, p.Reboot, w.ops)
	}
}

// A header that does not have what was bound ends everything before the firmware is asked.
func TestApply_HeaderLacksTheBinding_WritesNothing(t *testing.T) {
	w := newWorld()
	u := w.updater()
	u.Disk = forgetful{w}
	if _, err := u.Apply(t.Context(), archive(t, "db+next by KEK"), ""); err == nil || has(t, w.variables["db"], "next") {
		t.Errorf("got %v", err)
	}
}

// forgetful is a disk that keeps no binding.
type forgetful struct{ *world }

func (forgetful) Bind(context.Context, keyupdate.Wanted) error { return nil }
