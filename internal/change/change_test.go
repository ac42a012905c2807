package change_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/internal/change"
	"github.com/holdfast-os/holdfast/internal/config"
	"github.com/holdfast-os/holdfast/internal/plan"
	"github.com/holdfast-os/holdfast/internal/state"
)

// value is the document of both sections of the tests.
type value struct {
	Text   string `json:"text"`
	Secret string `json:"secret,omitempty"`
}

// world is a machine with two sections, "one" and "two", and a clock turned by hand.
type world struct {
	t      *testing.T
	dir    string
	engine *change.Engine

	mu       sync.Mutex
	machine  map[string]string // what is in effect, by section
	order    []string          // sections in the order in which they were applied
	failing  map[string]error  // what applying a text answers
	told     []string
	happened chan string
	now      time.Time
	timers   []chan time.Time
	cut      int // writes until the power is cut; 0 never
	dead     bool
}

var errCut = errors.New("the power is cut")

func newWorld(t *testing.T) *world {
	w := &world{t: t, dir: t.TempDir(), now: time.Date(2026, 11, 22, 6, 0, 0, 0, time.UTC), happened: make(chan string, 100)}
	w.start()
	return w
}

// start is a start of the machine: what was in effect is gone, documents stay.
func (w *world) start() {
	w.t.Helper()
	w.mu.Lock()
	w.machine, w.order, w.failing, w.cut, w.dead = map[string]string{}, nil, map[string]error{}, 0, false
	w.mu.Unlock()
	store, err := state.Open(w.dir)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = store.Close() })
	w.engine = change.New(change.Options{
		Sections: []change.Section{w.section("one"), w.section("two")},
		Now:      func() time.Time { return w.now }, After: w.after, Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
		Changed: func(what string, s change.Status, number int) {
			w.told = append(w.told, fmt.Sprintf("%s %v %d", what, s.Sections, number))
			w.happened <- what
		},
	})
	if err := w.engine.Load(cutStore{store, w}, func(err error) { w.t.Errorf("damaged: %v", err) }); err != nil {
		w.t.Fatal(err)
	}
	for _, name := range []string{"one", "two"} {
		if err := w.engine.Seed(context.Background(), name, raw(value{Text: "first"})); err != nil {
			w.t.Fatal(err)
		}
		if err := w.engine.Boot(context.Background(), name); err != nil {
			w.t.Fatal(err)
		}
	}
	if err := w.engine.Settle(); err != nil {
		w.t.Fatal(err)
	}
	w.order = nil
}

func (w *world) after(time.Duration) <-chan time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	timer := make(chan time.Time, 1)
	w.timers = append(w.timers, timer)
	return timer
}

func (w *world) section(name string) change.Section {
	return change.Typed[value]{
		Section: name,
		CheckConfig: func(_ context.Context, v, kept *value) error {
			var problems config.Problems
			if v.Text == "" {
				problems.Add("text", "required", "is empty")
			}
			var known string
			if kept != nil {
				known = kept.Secret
			}
			if !config.Keep(&v.Secret, known) {
				problems.Add("secret", "kept", "nothing is kept")
			}
			return problems.Err()
		},
		PlanConfig: func(_ context.Context, before *value, next value) (plan.Plan, error) {
			var p plan.Plan
			from := ""
			if before != nil {
				from = before.Text
			}
			p.File("/etc/"+name, from, next.Text)
			return p, nil
		},
		ApplyConfig: func(_ context.Context, _ *value, next value) error {
			w.mu.Lock()
			defer w.mu.Unlock()
			if w.dead {
				return errCut
			}
			w.order = append(w.order, name+"="+next.Text)
			if err := w.failing[next.Text]; err != nil {
				w.machine[name] = "half of " + next.Text
				return err
			}
			w.machine[name] = next.Text
			return nil
		},
		HideConfig: func(v value) value { config.Hide(&v.Secret); return v },
	}
}

// cutStore is a store whose power can be cut before a write.
type cutStore struct {
	change.Store
	w *world
}

func (s cutStore) Save(doc state.Document, value any) error {
	s.w.mu.Lock()
	if s.w.cut > 0 {
		s.w.cut--
		s.w.dead = s.w.dead || s.w.cut == 0
	}
	dead := s.w.dead
	s.w.mu.Unlock()
	if dead {
		return errCut
	}
	return s.Store.Save(doc, value)
}

func raw(v value) json.RawMessage {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return text
}

func both(one, two string) change.Request {
	return change.Request{Origin: change.Origin{Who: "sha256:aa", What: "PUT /1.0/system/config"}, Sections: map[string]json.RawMessage{
		"one": raw(value{Text: one}), "two": raw(value{Text: two}),
	}}
}

func (w *world) effective() map[string]string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return maps.Clone(w.machine)
}

func (w *world) kept() map[string]string {
	kept := map[string]string{}
	for _, name := range []string{"one", "two"} {
		text, err := w.engine.Get(name)
		if err != nil {
			w.t.Fatal(err)
		}
		var v value
		if err := json.Unmarshal(text, &v); err != nil {
			w.t.Fatal(err)
		}
		kept[name] = v.Text
	}
	return kept
}

func (w *world) is(want map[string]string) {
	w.t.Helper()
	if diff := cmp.Diff(want, w.effective()); diff != "" {
		w.t.Errorf("in effect (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(want, w.kept()); diff != "" {
		w.t.Errorf("kept (-want +got):\n%s", diff)
	}
}

var (
	first  = map[string]string{"one": "first", "two": "first"}
	second = map[string]string{"one": "second", "two": "second"}
)

func TestApply_TwoSections_InTheirOrderAndThereAfterARestart(t *testing.T) {
	w := newWorld(t)
	number, err := w.engine.Apply(context.Background(), both("second", "second"))
	if err != nil || number != 1 {
		t.Fatalf("number %d, error %v", number, err)
	}
	if diff := cmp.Diff([]string{"one=second", "two=second"}, w.order); diff != "" {
		t.Error(diff)
	}
	w.is(second)
	w.start()
	w.is(second)
}

func TestApply_SameAgain_IsNoChange(t *testing.T) {
	w := newWorld(t)
	number, err := w.engine.Apply(context.Background(), both("first", "first"))
	if err != nil || number != 0 || w.order != nil {
		t.Errorf("number %d, error %v, applied %v", number, err, w.order)
	}
}

// A change of two sections of which the second cannot be: the first one goes back.
func TestApply_SecondSectionFails_BothAreAsBefore(t *testing.T) {
	w := newWorld(t)
	w.failing["bad"] = errors.New("no such card")
	_, err := w.engine.Apply(context.Background(), both("second", "bad"))
	if !errors.Is(err, w.failing["bad"]) {
		t.Errorf("error %v", err)
	}
	if diff := cmp.Diff([]string{"one=second", "two=bad", "two=first", "one=first"}, w.order); diff != "" {
		t.Error(diff)
	}
	w.is(first)
	w.start()
	w.is(first)
}

func TestApply_Problems_AreToldTogetherWithTheirSection(t *testing.T) {
	w := newWorld(t)
	_, err := w.engine.Apply(context.Background(), both("", ""))
	want := "one.text: is empty (rule required)\ntwo.text: is empty (rule required)"
	if err == nil || err.Error() != want {
		t.Errorf("error %v", err)
	}
	if w.order != nil {
		t.Errorf("applied %v", w.order)
	}
}

func TestApply_WhileAnotherWaits_SaysWhose(t *testing.T) {
	w := newWorld(t)
	request := both("second", "first")
	request.Confirm = time.Minute
	if _, err := w.engine.Apply(context.Background(), request); err != nil {
		t.Fatal(err)
	}
	w.is(map[string]string{"one": "second", "two": "first"})
	_, err := w.engine.Apply(context.Background(), both("third", "third"))
	want := "another change is going on: PUT /1.0/system/config by sha256:aa since 2026-11-22T06:00:00Z waits to be confirmed for 1m0s more; confirm it, take it back, or wait"
	if !errors.Is(err, change.ErrBusy) || err.Error() != want {
		t.Errorf("error %v", err)
	}
}

func TestApply_Confirmed_Stays(t *testing.T) {
	w := newWorld(t)
	request := both("second", "second")
	request.Confirm = time.Minute
	if _, err := w.engine.Apply(context.Background(), request); err != nil {
		t.Fatal(err)
	}
	if number, err := w.engine.Confirm(); err != nil || number != 1 {
		t.Fatalf("number %d, error %v", number, err)
	}
	w.timers[0] <- time.Time{}
	if _, err := w.engine.Confirm(); !errors.Is(err, change.ErrNothingPending) {
		t.Errorf("error %v", err)
	}
	w.is(second)
	w.start()
	w.is(second)
}

// An owner who has cut off the way to the node gets it back.
func TestApply_NobodyConfirms_GoesBackByItself(t *testing.T) {
	w := newWorld(t)
	request := both("second", "second")
	request.Confirm = time.Minute
	if _, err := w.engine.Apply(context.Background(), request); err != nil {
		t.Fatal(err)
	}
	w.timers[0] <- time.Time{}
	if what := <-w.happened; what != "reverted" {
		t.Errorf("told %q", what)
	}
	w.is(first)
	w.start()
	w.is(first)
}

func TestApply_RestartBeforeConfirmation_GoesBack(t *testing.T) {
	w := newWorld(t)
	request := both("second", "second")
	request.Confirm = time.Minute
	if _, err := w.engine.Apply(context.Background(), request); err != nil {
		t.Fatal(err)
	}
	w.start()
	w.is(first)
	if _, err := w.engine.Confirm(); !errors.Is(err, change.ErrNothingPending) {
		t.Errorf("error %v", err)
	}
	if diff := cmp.Diff([]string{"reverted [one two] 0"}, w.told); diff != "" {
		t.Error(diff)
	}
}

// Power cut at every write of a change: all of it, or nothing of it.
func TestApply_PowerCutAtEveryWrite_IsWholeOrNot(t *testing.T) {
	for _, confirm := range []time.Duration{0, time.Minute} {
		for write := 1; ; write++ {
			w := newWorld(t)
			w.cut = write
			request := both("second", "second")
			request.Confirm = confirm
			_, err := w.engine.Apply(context.Background(), request)
			if err == nil && confirm > 0 {
				_, err = w.engine.Confirm()
			}
			if err == nil {
				if write < 3 {
					t.Errorf("a change takes %d writes only: it cannot have been noted before it was made", write-1)
				}
				w.start()
				w.is(second)
				break
			}
			w.start()
			w.is(first)
			if history, err := w.engine.History(); err != nil || len(history) != 0 {
				t.Errorf("cut before write %d: history %v, error %v", write, history, err)
			}
			// The next change works and its history has no hole.
			if number, err := w.engine.Apply(context.Background(), both("third", "third")); err != nil || number != 1 {
				t.Errorf("after a cut before write %d: number %d, error %v", write, number, err)
			}
		}
	}
}

func TestHistory_KeepsTheLastFifty_AndGoesBackToAny(t *testing.T) {
	w := newWorld(t)
	for i := 1; i <= 60; i++ {
		if _, err := w.engine.Apply(context.Background(), both(fmt.Sprint("v", i), "first")); err != nil {
			t.Fatal(err)
		}
	}
	history, err := w.engine.History()
	if err != nil || len(history) != 50 || history[0].Number != 60 || history[49].Number != 11 {
		t.Fatalf("%d changes, error %v", len(history), err)
	}
	number, err := w.engine.Rollback(context.Background(), 12, change.Request{Origin: change.Origin{Who: "local", What: "rollback to 12"}})
	if err != nil || number != 61 {
		t.Fatalf("number %d, error %v", number, err)
	}
	w.is(map[string]string{"one": "v12", "two": "first"})
	if _, err := w.engine.Rollback(context.Background(), 9, change.Request{}); !errors.Is(err, change.ErrNoSuch) {
		t.Errorf("error %v", err)
	}
}

func TestSecret_IsKeptByReference_AndHiddenFromReaders(t *testing.T) {
	w := newWorld(t)
	request := change.Request{Sections: map[string]json.RawMessage{"one": raw(value{Text: "a", Secret: "hunter2"})}}
	if _, err := w.engine.Apply(context.Background(), request); err != nil {
		t.Fatal(err)
	}
	request.Sections["one"] = raw(value{Text: "b", Secret: config.Secret})
	if _, err := w.engine.Apply(context.Background(), request); err != nil {
		t.Fatal(err)
	}
	is, err := w.engine.Get("one")
	if err != nil || string(is) != `{"text":"b","secret":"hunter2"}` {
		t.Errorf("%s, error %v", is, err)
	}
	shown, err := w.engine.HideSection("one", is)
	if err != nil || string(shown) != `{"text":"b","secret":"(kept secret)"}` {
		t.Errorf("%s, error %v", shown, err)
	}
}

// Many writers at once: every accepted change is in the history, nothing is half applied.
func TestApply_64Writers_NothingLostNothingHalf(t *testing.T) {
	w := newWorld(t)
	w.happened = make(chan string, 10000)
	var accepted, refused int
	var mu sync.Mutex
	var group sync.WaitGroup
	for i := range 64 {
		group.Go(func() {
			text := fmt.Sprint("writer ", i)
			number, err := w.engine.Apply(context.Background(), both(text, text))
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil && number > 0:
				accepted++
			case errors.Is(err, change.ErrBusy):
				refused++
			default:
				t.Errorf("number %d, error %v", number, err)
			}
		})
	}
	group.Wait()
	is := w.effective()
	if is["one"] != is["two"] {
		t.Errorf("half applied: %v", is)
	}
	if accepted+refused != 64 || w.engine.Number() != accepted || accepted == 0 {
		t.Errorf("%d accepted, %d refused, number %d", accepted, refused, w.engine.Number())
	}
}

func TestPlan_NamesOnlyWhatDiffers(t *testing.T) {
	w := newWorld(t)
	p, err := w.engine.Plan(context.Background(), both("second", "first").Sections)
	want := plan.Plan{Steps: []plan.Step{
		{Kind: plan.KeepDocument, Object: "one", Before: "{\n  \"text\": \"first\"\n}\n", After: "{\n  \"text\": \"second\"\n}\n"},
		{Kind: plan.WriteFile, Object: "/etc/one", Before: "first", After: "second"},
	}}
	if diff := cmp.Diff(want, p); err != nil || diff != "" {
		t.Errorf("error %v\n%s", err, diff)
	}
	w.is(first)
}

func TestDiff_BetweenAnyTwoChanges_WithoutSecrets(t *testing.T) {
	w := newWorld(t)
	for _, v := range []value{{Text: "a", Secret: "s1"}, {Text: "a", Secret: "s2"}, {Text: "b", Secret: "s2"}} {
		request := change.Request{Sections: map[string]json.RawMessage{"one": raw(v)}}
		if _, err := w.engine.Apply(context.Background(), request); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		from, to int
		want     string
	}{
		{1, 1, ""},
		{1, 2, "one: a secret differs\n"},
		{3, 1, "--- a/one\n+++ b/one\n@@ -1,4 +1,4 @@\n {\n-  \"text\": \"b\",\n+  \"text\": \"a\",\n   \"secret\": \"(kept secret)\"\n }\n"},
	} {
		got, err := w.engine.Diff(c.from, c.to)
		if diff := cmp.Diff(c.want, got); err != nil || diff != "" {
			t.Errorf("%d to %d: error %v\n%s", c.from, c.to, err, diff)
		}
	}
}

// A bundle for support leaves out every secret that was ever set and is still kept.
func TestSecrets_InEffectAndInTheHistory(t *testing.T) {
	w := newWorld(t)
	for _, secret := range []string{"first secret", "second secret", ""} {
		request := change.Request{Sections: map[string]json.RawMessage{"one": raw(value{Text: "a", Secret: secret})}}
		if _, err := w.engine.Apply(context.Background(), request); err != nil {
			t.Fatal(err)
		}
	}
	got, err := w.engine.Secrets()
	slices.Sort(got)
	if diff := cmp.Diff([]string{"first secret", "second secret"}, got); err != nil || diff != "" {
		t.Errorf("error %v\n%s", err, diff)
	}
}
