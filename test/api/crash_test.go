package api_test

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	osapi "github.com/holdfast-os/holdfast/api/os"
)

// A node is killed at any moment, and must come up with what it was told last, or with what
// it was told before that: never with less, with nothing, or with half of it.
func TestKill_DuringChanges_StartsWithOneOfTheLastTwo(t *testing.T) {
	rounds := 12
	switch {
	case *long:
		rounds = 200
	case testing.Short():
		rounds = 4
	}
	dir, seed := folder(t), uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	last := 0 // what is known to be accepted
	for round := range rounds {
		p := run(t, dir, "--listen", "")
		p.untilReady()
		now, _, err := p.count()
		if err != nil {
			t.Fatal(err)
		}
		if now != last && now != last+1 {
			t.Fatalf("round %d: the node comes up with %d, %d was accepted and at most %d was sent", round, now, last, last+1)
		}
		last = now
		var audit osapi.AuditVerification
		checked := p.must(http.MethodPost, "/1.0/audit/:verify", nil)
		if err := json.Unmarshal(checked.Metadata, &audit); err != nil || checked.code != http.StatusOK || !audit.Good {
			t.Fatalf("round %d: the audit log: %d %s %+v %v", round, checked.code, checked.Error, audit, err)
		}
		p.historyCounts(last)
		death := time.AfterFunc(time.Duration(random.IntN(60_000))*time.Microsecond, func() { _ = p.cmd.Process.Kill() })
		for {
			got, err := p.ask(http.MethodPut, kernelPath, map[string]any{"config": counter(last + 1)})
			if err != nil {
				break // it is dead
			}
			if got.code != http.StatusOK {
				t.Fatalf("round %d: %d %s", round, got.code, got.Error)
			}
			last++
		}
		death.Stop()
		p.kill()
	}
	t.Logf("%d changes in %d lives", last, rounds)
}

// Going back to an older release must not destroy what only the newer one can read.
func TestState_OfANewerRelease_IsToldAndNotTouched(t *testing.T) {
	dir := folder(t)
	path := filepath.Join(dir, "state", "configuration.json")
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	want := []byte("{\"version\": 99, \"data\": {\"number\": 7, \"sections\": {\"kernel\": {\"from\": \"the future\"}}}}\n")
	if err := os.WriteFile(path, want, 0o600); err != nil {
		t.Fatal(err)
	}
	p := run(t, dir, "--listen", "")
	var boot osapi.DebugBoot
	p.get("/1.0/debug/boot", &boot)
	if got := boot.Phases[0]; got.Name != "state" || got.State != "failed" || !strings.Contains(got.Error, "newer release") || !strings.Contains(got.Error, "99") {
		t.Errorf("%+v", got)
	}
	for _, c := range []struct {
		method, path string
		body         any
		code         int
	}{
		{http.MethodGet, "/1.0", nil, http.StatusOK},
		{http.MethodGet, "/1.0/debug/log", nil, http.StatusOK},
		{http.MethodGet, kernelPath, nil, http.StatusServiceUnavailable},
		{http.MethodPut, kernelPath, map[string]any{"config": counter(1)}, http.StatusServiceUnavailable},
		{http.MethodPost, "/1.0/system/config/:confirm", nil, http.StatusServiceUnavailable},
		{http.MethodGet, "/1.0/system/history", nil, http.StatusServiceUnavailable},
	} {
		if got := p.must(c.method, c.path, c.body); got.code != c.code {
			t.Errorf("%s %s: %d %s, want %d", c.method, c.path, got.code, got.Error, c.code)
		}
	}
	p.kill()
	got, err := os.ReadFile(path)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("the document is now %q (%v)", got, err)
	}
	names, err := filepath.Glob(filepath.Join(dir, "state", "configuration*"))
	if diff := cmp.Diff([]string{path}, names); diff != "" || err != nil {
		t.Error(diff, err)
	}
}
