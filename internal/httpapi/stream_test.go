package httpapi_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/internal/httpapi"
)

// The audit log says what came of a download, not that one began: half of a backup is none.
// Who gets half must notice, too.
func TestObserve_Stream_IsToldTheRealOutcome(t *testing.T) {
	errDisk := errors.New("reading the spool: input/output error")
	write := func(w http.ResponseWriter, text string) {
		_, _ = io.WriteString(w, text) // the test's client stays
	}
	streams := map[string]httpapi.Stream{
		"whole":   func(w http.ResponseWriter, _ *http.Request) error { write(w, "all of it"); return nil },
		"created": func(w http.ResponseWriter, _ *http.Request) error { w.WriteHeader(http.StatusCreated); return nil },
		"empty":   func(http.ResponseWriter, *http.Request) error { return nil },
		"refused": func(http.ResponseWriter, *http.Request) error { return httpapi.Conflict("busy") },
		"refuses": func(w http.ResponseWriter, _ *http.Request) error {
			w.WriteHeader(http.StatusBadRequest)
			return errDisk
		},
		"broken": func(w http.ResponseWriter, _ *http.Request) error { write(w, "half of"); return errDisk },
		"panics": func(w http.ResponseWriter, _ *http.Request) error { write(w, "half of"); panic("a mistake") },
		"taken over": func(w http.ResponseWriter, _ *http.Request) error {
			w.WriteHeader(http.StatusSwitchingProtocols)
			conn, _, err := http.NewResponseController(w).Hijack()
			return errors.Join(err, conn.Close(), errDisk)
		},
	}
	type outcome struct {
		Told  int
		Error string
		// Got is the status that the client saw, Cut whether it saw that the answer has no end.
		Got int
		Cut bool
	}
	const mistake = "the node made a mistake in POST /1.0/stream: see /1.0/debug/log"
	want := map[string]outcome{
		"whole":      {Told: 200, Got: 200},
		"created":    {Told: 201, Got: 201},
		"empty":      {Told: 200, Got: 200},
		"refused":    {Told: 409, Error: "busy", Got: 409},
		"refuses":    {Told: 400, Error: errDisk.Error(), Got: 400},
		"broken":     {Told: 500, Error: errDisk.Error(), Cut: true},
		"panics":     {Told: 500, Error: mistake, Cut: true},
		"taken over": {Told: 101, Got: 101},
	}
	got := map[string]outcome{}
	for name, stream := range streams {
		s, err := httpapi.New(context.Background(), []httpapi.Route{
			{Method: "POST", Path: "/1.0/stream", Doc: "stream", Handler: func(*httpapi.Request) (any, error) { return stream, nil }},
		}, quiet())
		if err != nil {
			t.Fatal(err)
		}
		told := make(chan httpapi.Seen, 1)
		s.Observe = func(seen httpapi.Seen) { told <- seen }
		server := httptest.NewServer(s)
		var one outcome
		answer, err := http.Post(server.URL+"/1.0/stream", "", nil)
		if err == nil {
			one.Got = answer.StatusCode
			_, err = io.Copy(io.Discard, answer.Body)
			err = errors.Join(err, answer.Body.Close())
		}
		one.Cut = err != nil
		seen := <-told
		if one.Told = seen.Code; seen.Err != nil {
			one.Error = seen.Err.Error()
		}
		got[name] = one
		server.Close()
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
