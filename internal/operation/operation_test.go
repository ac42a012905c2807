package operation_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	incus "github.com/lxc/incus/v6/shared/api"

	osapi "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/operation"
)

const forever = -1

// finish waits for the end of an operation.
func finish(t *testing.T, r *operation.Registry, id string) osapi.Operation {
	t.Helper()
	op, err := r.Wait(t.Context(), id, forever)
	if err != nil {
		t.Fatal(err)
	}
	return op
}

func start(t *testing.T, r *operation.Registry, cancellable bool, work func(context.Context, *operation.Progress) error) osapi.Operation {
	t.Helper()
	op, err := r.Start("Updating the OS", map[string][]string{"updates": {"/1.0/system/update"}}, cancellable, work)
	if err != nil {
		t.Fatal(err)
	}
	return op
}

// A client of Incus must understand what we send, field by field.
func TestOperation_AsJSON_IsThatOfIncus(t *testing.T) {
	w := newWorld()
	w.o.NewID = func() string { return "6916c8a6-9b7d-4abd-90b3-aedfec7ec7da" }
	r := operation.New(t.Context(), w.o)
	id := start(t, r, false, func(_ context.Context, p *operation.Progress) error {
		p.Set("download", 3, 10, "os.img")
		return errors.New("disk is gone")
	}).ID
	text, err := json.Marshal(finish(t, r, id))
	if err != nil {
		t.Fatal(err)
	}
	var got incus.Operation
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&got); err != nil {
		t.Fatal(err)
	}
	want := incus.Operation{
		ID: "6916c8a6-9b7d-4abd-90b3-aedfec7ec7da", Class: incus.OperationClassTask, Description: "Updating the OS",
		CreatedAt: noon, UpdatedAt: noon, Status: incus.Failure.String(), StatusCode: incus.Failure,
		Resources: map[string][]string{"updates": {"/1.0/system/update"}},
		Metadata:  map[string]any{"progress": map[string]any{"stage": "download", "done": 3.0, "total": 10.0, "text": "os.img"}},
		Err:       "disk is gone",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	var fields map[string]any
	if err := json.Unmarshal(text, &fields); err != nil || len(fields) != 12 {
		t.Errorf("%d fields, want the 12 of Incus: %s (%v)", len(fields), text, err)
	}
}

// Names and codes are what clients compare.
func TestStatus_EachCode_HasTheNameOfIncus(t *testing.T) {
	cancelled := func(ctx context.Context, _ *operation.Progress) error { <-ctx.Done(); return ctx.Err() }
	cases := map[string]struct {
		work   func(context.Context, *operation.Progress) error
		cancel bool
		want   incus.StatusCode
		err    string
		told   []string
	}{
		"success":   {func(context.Context, *operation.Progress) error { return nil }, false, incus.Success, "", []string{"op-1 Pending", "op-1 Running", "op-1 Success"}},
		"failure":   {func(context.Context, *operation.Progress) error { return errors.New("no space") }, false, incus.Failure, "no space", []string{"op-1 Pending", "op-1 Running", "op-1 Failure"}},
		"panic":     {func(context.Context, *operation.Progress) error { panic("oh") }, false, incus.Failure, `the node made a mistake in "Updating the OS": see /1.0/debug/log`, []string{"op-1 Pending", "op-1 Running", "op-1 Failure"}},
		"cancelled": {cancelled, true, incus.Cancelled, "context canceled", []string{"op-1 Pending", "op-1 Running", "op-1 Cancelling", "op-1 Cancelled"}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			w := newWorld()
			r := operation.New(t.Context(), w.o)
			running := make(chan struct{})
			id := start(t, r, c.cancel, func(ctx context.Context, p *operation.Progress) error {
				close(running)
				return c.work(ctx, p)
			}).ID
			<-running
			if c.cancel {
				if err := r.Cancel(id); err != nil {
					t.Fatal(err)
				}
			}
			want := osapi.Operation{ID: "op-1", Class: "task", Description: "Updating the OS", CreatedAt: noon, UpdatedAt: noon,
				Status: c.want.String(), StatusCode: int(c.want), Err: c.err, Resources: map[string][]string{"updates": {"/1.0/system/update"}}}
			if diff := cmp.Diff(want, finish(t, r, id)); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(c.told, w.told()); diff != "" {
				t.Errorf("events: %s", diff)
			}
		})
	}
}

// A download that reports each block must not flood the listeners, and its last word
// must not be lost.
func TestProgress_MoreOftenThanTheLimit_IsPublishedWhenItsTimeComes(t *testing.T) {
	w := newWorld()
	r := operation.New(t.Context(), w.o)
	begun, end := make(chan *operation.Progress), make(chan struct{})
	id := start(t, r, false, func(_ context.Context, p *operation.Progress) error { begun <- p; <-end; return nil }).ID
	p := <-begun
	for i := range int64(100) {
		p.Set("download", i, 100, "")
	}
	w.clock.advance(250 * time.Millisecond)
	p.Set("verify", 0, 0, "checking the signature")
	p.Set("verify", 0, 0, "checking the signature")
	w.clock.advance(100 * time.Millisecond)
	w.clock.advance(150 * time.Millisecond)
	w.clock.advance(time.Hour)
	p.Set("write", 1, 2, "slot B")
	p.Set("write", 2, 2, "slot B")
	close(end)
	finish(t, r, id)
	want := []string{
		"op-1 Pending", "op-1 Running", "op-1 Running download 99/100 ", "op-1 Running verify 0/0 checking the signature",
		"op-1 Running write 1/2 slot B", "op-1 Success write 2/2 slot B",
	}
	if diff := cmp.Diff(want, w.told()); diff != "" {
		t.Error(diff)
	}
	if n := w.clock.alarms(); n != 0 {
		t.Errorf("%d alarms are still set", n)
	}
}

func TestWait_TimeoutIsOver_GivesTheOperationAsItIs(t *testing.T) {
	w := newWorld()
	r := operation.New(t.Context(), w.o)
	end := make(chan struct{})
	running := make(chan struct{})
	id := start(t, r, false, func(context.Context, *operation.Progress) error { close(running); <-end; return nil }).ID
	<-running
	got := make(chan osapi.Operation)
	go func() {
		op, err := r.Wait(context.Background(), id, 5*time.Second)
		if err != nil {
			t.Error(err)
		}
		got <- op
	}()
	for w.clock.alarms() == 0 {
		runtime.Gosched()
	}
	w.clock.advance(5 * time.Second)
	if op := <-got; op.Status != "Running" {
		t.Errorf("after the timeout: %s", op.Status)
	}
	if op, err := r.Wait(t.Context(), id, 0); err != nil || op.Status != "Running" {
		t.Errorf("timeout 0: %s, %v", op.Status, err)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.Wait(gone, id, forever); !errors.Is(err, context.Canceled) {
		t.Errorf("a caller that is gone: %v", err)
	}
	close(end)
	if op := finish(t, r, id); op.Status != "Success" {
		t.Errorf("after the end: %s", op.Status)
	}
}

func TestWait_TooManyCallers_IsRefused(t *testing.T) {
	w := newWorld()
	w.o.MaxWaiters = 1
	r := operation.New(t.Context(), w.o)
	end := make(chan struct{})
	id := start(t, r, false, func(context.Context, *operation.Progress) error { <-end; return nil }).ID
	first := make(chan error)
	go func() {
		_, err := r.Wait(context.Background(), id, time.Minute)
		first <- err
	}()
	for w.clock.alarms() == 0 {
		runtime.Gosched()
	}
	if _, err := r.Wait(t.Context(), id, time.Minute); !errors.Is(err, operation.ErrTooMany) {
		t.Errorf("the second: %v", err)
	}
	close(end)
	if err := <-first; err != nil {
		t.Errorf("the first: %v", err)
	}
	finish(t, r, id)
}

func TestCancel_EachState_IsAnsweredAsDocumented(t *testing.T) {
	r := operation.New(t.Context(), newWorld().o)
	end := make(chan struct{})
	must := start(t, r, false, func(context.Context, *operation.Progress) error { <-end; return nil }).ID
	running := make(chan struct{})
	may := start(t, r, true, func(context.Context, *operation.Progress) error { close(running); <-end; return nil }).ID
	<-running
	done := start(t, r, true, func(context.Context, *operation.Progress) error { return nil }).ID
	finish(t, r, done)
	for _, c := range []struct {
		id   string
		want error
	}{{"nothing", operation.ErrNotFound}, {must, operation.ErrNotCancellable}, {may, nil}, {may, nil}, {done, operation.ErrFinished}} {
		if err := r.Cancel(c.id); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", c.id, err, c.want)
		}
	}
	close(end)
	// The work did not stop for it: what is done is done.
	if op := finish(t, r, may); op.Status != "Success" {
		t.Errorf("cancelled, but done: %s", op.Status)
	}
}

// A caller that comes back after a while finds out how it ended; memory is bounded.
func TestKeep_FinishedOnes_AreTheLastAndYoung(t *testing.T) {
	w := newWorld()
	w.o.Keep = 3
	r := operation.New(t.Context(), w.o)
	end := make(chan struct{})
	start(t, r, false, func(context.Context, *operation.Progress) error { <-end; return nil })
	for range 5 {
		finish(t, r, start(t, r, false, func(context.Context, *operation.Progress) error { return nil }).ID)
		w.clock.advance(20 * time.Minute)
	}
	ids := func() string {
		var all []string
		for _, op := range r.List() {
			all = append(all, op.ID)
		}
		return strings.Join(all, " ")
	}
	// op-2 and op-3 are too many; op-4 finished an hour ago.
	if got := ids(); got != "op-1 op-5 op-6" {
		t.Errorf("kept %s", got)
	}
	if _, err := r.Show("op-4"); !errors.Is(err, operation.ErrNotFound) {
		t.Errorf("op-4: %v", err)
	}
	for range 5 {
		finish(t, r, start(t, r, false, func(context.Context, *operation.Progress) error { return nil }).ID)
	}
	if got := ids(); got != "op-1 op-9 op-10 op-11" {
		t.Errorf("five in a moment: kept %s", got)
	}
	w.clock.advance(time.Hour)
	if got := ids(); got != "op-1" {
		t.Errorf("an hour later: kept %s, want the one that runs", got)
	}
	close(end)
}

func TestStart_TooManyOpen_IsRefused(t *testing.T) {
	w := newWorld()
	w.o.MaxOpen = 2
	r := operation.New(t.Context(), w.o)
	end := make(chan struct{})
	wait := func(context.Context, *operation.Progress) error { <-end; return nil }
	start(t, r, false, wait)
	start(t, r, false, wait)
	if _, err := r.Start("one more", nil, false, wait); !errors.Is(err, operation.ErrTooMany) {
		t.Errorf("got %v", err)
	}
	close(end)
	if err := r.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	start(t, r, false, wait)
	want := map[string]int{"pending": 0, "running": 0, "cancelling": 0, "success": 3, "failure": 0, "cancelled": 0}
	if err := r.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, r.Counts()); diff != "" {
		t.Error(diff)
	}
}

// When the daemon ends, work hears of it, and nothing new begins.
func TestRegistry_ContextEnds_EndsTheWork(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	r := operation.New(ctx, newWorld().o)
	running := make(chan struct{})
	id := start(t, r, false, func(ctx context.Context, _ *operation.Progress) error {
		close(running)
		<-ctx.Done()
		return ctx.Err()
	}).ID
	<-running
	stop()
	if op := finish(t, r, id); op.Status != "Failure" || op.Err != "context canceled" {
		t.Errorf("got %s, %s", op.Status, op.Err)
	}
	if _, err := r.Start("late", nil, false, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestShow_ChangedByTheCaller_StaysAsItWas(t *testing.T) {
	r := operation.New(t.Context(), newWorld().o)
	resources := map[string][]string{"pools": {"/1.0/a"}}
	op, err := r.Start("x", resources, false, func(_ context.Context, p *operation.Progress) error { p.Set("a", 1, 2, "b"); return nil })
	if err != nil {
		t.Fatal(err)
	}
	before := finish(t, r, op.ID)
	resources["pools"][0] = "changed"
	prefixed := operation.WithPrefix(before, "/os")
	before.Resources["pools"][0], before.Metadata.Progress.Stage = "changed", "changed"
	after := finish(t, r, op.ID)
	if after.Resources["pools"][0] != "/1.0/a" || after.Metadata.Progress.Stage != "a" || prefixed.Resources["pools"][0] != "/os/1.0/a" {
		t.Errorf("got %+v, with a prefix %+v", after, prefixed)
	}
}

func TestByStatus_SeveralStatuses_AreSortedAsIncusDoes(t *testing.T) {
	list := []osapi.Operation{{ID: "a", Status: "Running"}, {ID: "b", Status: "Success"}, {ID: "c", Status: "Running"}}
	if diff := cmp.Diff(map[string][]osapi.Operation{"running": {list[0], list[2]}, "success": {list[1]}}, operation.ByStatus(list)); diff != "" {
		t.Error(diff)
	}
	want := map[string][]string{"running": {"/os/1.0/operations/a", "/os/1.0/operations/c"}, "success": {"/os/1.0/operations/b"}}
	if diff := cmp.Diff(want, operation.URLsByStatus(list, "/os")); diff != "" {
		t.Error(diff)
	}
}

func TestParseTimeout_EachText_IsReadAsIncusDoes(t *testing.T) {
	type result struct {
		Timeout time.Duration
		Err     string
	}
	cases := map[string]result{
		"": {-1, ""}, "-1": {-1, ""}, "-7": {-1, ""}, "0": {0, ""}, "30": {30 * time.Second, ""}, "86400": {24 * time.Hour, ""},
		"86401": {0, "timeout: 86401 seconds are more than the limit of 86400; -1 waits without limit"},
		"1s":    {0, `timeout: "1s" is not a whole number of seconds`},
		"9e9":   {0, `timeout: "9e9" is not a whole number of seconds`},
	}
	for text, want := range cases {
		var got result
		var err error
		if got.Timeout, err = operation.ParseTimeout(text); err != nil {
			got.Err = err.Error()
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%q: %s", text, diff)
		}
	}
}

func TestProgress_LongTexts_AreCut(t *testing.T) {
	r := operation.New(t.Context(), newWorld().o)
	id := start(t, r, false, func(_ context.Context, p *operation.Progress) error {
		p.Set(strings.Repeat("s", 100), 0, 0, strings.Repeat("t", 300)+"\xff")
		return errors.New(strings.Repeat("e", 1<<20))
	}).ID
	op := finish(t, r, id)
	got := [3]int{len(op.Metadata.Progress.Stage), len(op.Metadata.Progress.Text), len(op.Err)}
	if got != [3]int{64, 256, 8192} {
		t.Errorf("lengths %v", got)
	}
	var none *operation.Progress
	none.Set("without an operation", 0, 0, "")
}

func TestNewID_EachOne_IsARandomUUID(t *testing.T) {
	w := newWorld()
	w.o.NewID = nil
	r := operation.New(t.Context(), w.o)
	nothing := func(context.Context, *operation.Progress) error { return nil }
	a, b := start(t, r, false, nothing).ID, start(t, r, false, nothing).ID
	form := regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`)
	if a == b || !form.MatchString(a) || !form.MatchString(b) {
		t.Errorf("got %s and %s", a, b)
	}
}

// 64 callers at the same time, under the race detector.
func TestRegistry_ManyCallers_AllGetTheirAnswers(t *testing.T) {
	w := newWorld()
	w.o.NewID, w.o.Clock, w.o.MaxWaiters = nil, operation.Clock{}, 10000
	w.o.EventsPerSecond = 1000
	r := operation.New(t.Context(), w.o)
	var callers sync.WaitGroup
	for i := range 64 {
		callers.Go(func() {
			op, err := r.Start(fmt.Sprint(i), nil, true, func(ctx context.Context, p *operation.Progress) error {
				for n := range int64(50) {
					p.Set("work", n, 50, "")
				}
				if i%2 == 0 {
					<-ctx.Done()
				}
				return ctx.Err()
			})
			if err != nil {
				t.Error(err)
				return
			}
			r.List()
			if err := r.Cancel(op.ID); err != nil && !errors.Is(err, operation.ErrFinished) {
				t.Error(err)
			}
			if got, err := r.Wait(context.Background(), op.ID, forever); err != nil || !operation.Final(got.StatusCode) {
				t.Errorf("got %+v, %v", got, err)
			}
		})
	}
	callers.Wait()
}
