package event_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	incus "github.com/lxc/incus/v6/shared/api"

	osapi "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/event"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func newHub(o event.Options) *event.Hub {
	o.Now = func() time.Time { return noon }
	return event.New(o)
}

func subscribe(t *testing.T, h *event.Hub, types ...string) *event.Subscription {
	t.Helper()
	s, err := h.Subscribe(types...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func publish(t *testing.T, h *event.Hub, kind string, metadata any) {
	t.Helper()
	if err := h.Publish(kind, metadata); err != nil {
		t.Fatal(err)
	}
}

// read gives the events that wait for a listener.
func read(s *event.Subscription) []string {
	texts := []string{}
	for {
		select {
		case text := <-s.Events():
			texts = append(texts, string(text))
		default:
			return texts
		}
	}
}

// A client of Incus must understand what we send, field by field.
func TestEvent_AsJSON_IsThatOfIncus(t *testing.T) {
	h := newHub(event.Options{})
	s := subscribe(t, h)
	publish(t, h, "lifecycle", osapi.EventLifecycle{
		Action: "application-restarted", Source: "/1.0/applications/incus", Context: map[string]any{"version": "6.17"}, Name: "incus",
		Requestor: &osapi.EventLifecycleRequestor{Username: "sha256:ab", Protocol: "tls", Address: "10.0.0.1"},
	})
	publish(t, h, "logging", osapi.EventLogging{Message: "up", Level: "info", Context: map[string]string{"phase": "api"}})
	var got []any
	for _, text := range read(s) {
		var e incus.Event
		strictly(t, text, &e)
		if e.Type != "logging" && e.Type != "lifecycle" || !e.Timestamp.Equal(noon) || e.Location != "" || e.Project != "" {
			t.Errorf("envelope %s", text)
		}
		if e.Type == incus.EventTypeLogging {
			var l incus.EventLogging
			strictly(t, string(e.Metadata), &l)
			got = append(got, l)
			continue
		}
		var l incus.EventLifecycle
		strictly(t, string(e.Metadata), &l)
		got = append(got, l)
	}
	want := []any{
		incus.EventLifecycle{
			Action: "application-restarted", Source: "/1.0/applications/incus", Context: map[string]any{"version": "6.17"}, Name: "incus",
			Requestor: &incus.EventLifecycleRequestor{Username: "sha256:ab", Protocol: "tls", Address: "10.0.0.1"},
		},
		incus.EventLogging{Message: "up", Level: "info", Context: map[string]string{"phase": "api"}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func strictly(t *testing.T, text string, into any) {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
}

func TestSubscribe_SomeTypes_GetsThoseInOrder(t *testing.T) {
	h := newHub(event.Options{})
	two, all := subscribe(t, h, "operation", "lifecycle"), subscribe(t, h)
	for i, kind := range []string{"logging", "operation", "lifecycle", "operation"} {
		publish(t, h, kind, i)
	}
	line := func(kind string, n int) string {
		return fmt.Sprintf(`{"type":"%s","timestamp":"2026-03-01T12:00:00Z","metadata":%d}`, kind, n)
	}
	if diff := cmp.Diff([]string{line("operation", 1), line("lifecycle", 2), line("operation", 3)}, read(two)); diff != "" {
		t.Errorf("two types: %s", diff)
	}
	if diff := cmp.Diff([]string{line("logging", 0), line("operation", 1), line("lifecycle", 2), line("operation", 3)}, read(all)); diff != "" {
		t.Errorf("all: %s", diff)
	}
}

func TestHub_EachLimit_IsRefused(t *testing.T) {
	h := newHub(event.Options{MaxListeners: 2})
	first := subscribe(t, h)
	subscribe(t, h)
	check := func(what string, err, want error) {
		if !errors.Is(err, want) {
			t.Errorf("%s: got %v, want %v", what, err, want)
		}
	}
	_, err := h.Subscribe()
	check("a third listener", err, event.ErrTooMany)
	_, err = h.Subscribe("metrics")
	check("an unknown type", err, event.ErrType)
	check("publishing an unknown type", h.Publish("metrics", 1), event.ErrType)
	check("a large event", h.Publish("logging", strings.Repeat("x", 64<<10)), event.ErrTooLarge)
	var unsupported *json.UnsupportedTypeError
	if err := h.Publish("logging", make(chan int)); !errors.As(err, &unsupported) {
		t.Errorf("what is not JSON: %v", err)
	}
	first.Close()
	first.Close()
	if err := first.Err(); err != nil {
		t.Errorf("closed by its owner: %v", err)
	}
	third := subscribe(t, h)
	h.Close()
	check("the end of the hub", third.Err(), event.ErrClosed)
	_, err = h.Subscribe()
	check("after the end", err, event.ErrClosed)
	third.Close()
	if n := h.Listeners(); n != 1 {
		t.Errorf("%d places are taken, want 1", n)
	}
}

// One administrator's forgotten terminal must not hold up the node: 1,000 listeners that
// never read lose their place in the stream, and one that reads gets every event.
func TestPublish_ThousandListenersThatNeverRead_HoldNobodyUp(t *testing.T) {
	h := newHub(event.Options{Queue: 16})
	var asleep []*event.Subscription
	for range 1000 {
		asleep = append(asleep, subscribe(t, h))
	}
	awake := subscribe(t, h)
	for i := range 5000 {
		publish(t, h, "operation", i)
		want := fmt.Sprintf(`{"type":"operation","timestamp":"2026-03-01T12:00:00Z","metadata":%d}`, i)
		if got := string(<-awake.Events()); got != want {
			t.Fatalf("got %s, want %s", got, want)
		}
	}
	for i, s := range asleep {
		if n := len(read(s)); n != 16 || !errors.Is(s.Err(), event.ErrSlow) {
			t.Fatalf("listener %d: %d events, then %v", i, n, s.Err())
		}
	}
	if n := h.Listeners(); n != 1001 {
		t.Errorf("%d places are taken before they are given back", n)
	}
}

// secret hides itself, as every secret that may get near the log does.
type secret string

func (secret) LogValue() slog.Value { return slog.StringValue("(hidden)") }

// What an event says is what the log says, and never a secret.
func TestHandler_EachLine_IsAnEventWithoutSecrets(t *testing.T) {
	h := newHub(event.Options{})
	s := subscribe(t, h, "logging")
	var text bytes.Buffer
	log := slog.New(event.NewHandler(h, slog.NewTextHandler(&text, nil)))
	log.Debug("not in the log")
	log.With("unit", "incus", "key", secret("hunter2")).WithGroup("request").With("id", 7).
		Warn("slow", "path", "/1.0", slog.Group("tls", "version", 13), "Recovery-Key", "hunter2", "", slog.GroupValue(slog.String("inline", "yes")))
	log.Error("bad", "error", errors.New("disk is gone"), "long", strings.Repeat("x", 10000))
	want := []osapi.EventLogging{
		{Message: "slow", Level: "warning", Context: map[string]string{
			"unit": "incus", "key": "(hidden)", "request.id": "7", "request.path": "/1.0", "request.tls.version": "13",
			"request.Recovery-Key": "(kept secret)", "request.inline": "yes",
		}},
		{Message: "bad", Level: "error", Context: map[string]string{"error": "disk is gone", "long": strings.Repeat("x", 4096)}},
	}
	var got []osapi.EventLogging
	for _, text := range read(s) {
		var e osapi.Event
		strictly(t, text, &e)
		var l osapi.EventLogging
		strictly(t, string(e.Metadata), &l)
		got = append(got, l)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if n := strings.Count(text.String(), "\n"); n != 2 {
		t.Errorf("the log has %d lines, want 2:\n%s", n, &text)
	}
}

func TestHandler_ManyAttributes_AreLimited(t *testing.T) {
	h := newHub(event.Options{})
	s := subscribe(t, h)
	var args []any
	for i := range 1000 {
		args = append(args, fmt.Sprint("k", i), "v")
	}
	slog.New(event.NewHandler(h, slog.NewTextHandler(io.Discard, nil))).Info("many", args...)
	texts := read(s)
	var e osapi.Event
	strictly(t, texts[0], &e)
	var l osapi.EventLogging
	strictly(t, string(e.Metadata), &l)
	if len(l.Context) != 64 || l.Context["k63"] != "v" {
		t.Errorf("%d attributes", len(l.Context))
	}
}

// 64 callers at the same time, under the race detector.
func TestHub_ManyCallers_EachGetsItsOwn(t *testing.T) {
	h := event.New(event.Options{Queue: 64 * 100})
	log := slog.New(event.NewHandler(h, slog.NewTextHandler(io.Discard, nil)))
	all, err := h.Subscribe("operation")
	if err != nil {
		t.Fatal(err)
	}
	var callers sync.WaitGroup
	for i := range 64 {
		callers.Go(func() {
			own, err := h.Subscribe("operation")
			if err != nil {
				t.Error(err)
				return
			}
			defer own.Close()
			for n := range 100 {
				log.InfoContext(context.Background(), "line", "caller", i)
				if err := h.Publish("operation", [2]int{i, n}); err != nil {
					t.Error(err)
				}
			}
			if n := len(read(own)); n < 100 {
				t.Errorf("caller %d got %d events", i, n)
			}
		})
	}
	callers.Wait()
	if n := len(read(all)); n != 6400 || h.Listeners() != 1 {
		t.Errorf("%d events, %d listeners", n, h.Listeners())
	}
}
