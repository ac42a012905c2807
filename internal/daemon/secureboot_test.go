package daemon_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	osapi "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/daemon"
	"github.com/holdfast-os/holdfast/internal/keyupdate"
	"github.com/holdfast-os/holdfast/internal/pcr"
	"github.com/holdfast-os/holdfast/internal/plan"
	"github.com/holdfast-os/holdfast/internal/secureboot"
)

// fakeSecureBoot is firmware that takes what is not "bad".
type fakeSecureBoot struct {
	*world
	state  *osapi.SecureBootState
	starts []keyupdate.Outcome
}

func (fakeSecureBoot) Keys() (osapi.SecureBootKeys, error) {
	return osapi.SecureBootKeys{PK: "a", KEK: []string{"b"}, DB: []string{"c", "d"}, DBX: []string{}}, nil
}

func (f *fakeSecureBoot) State() (*osapi.SecureBootState, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.state != nil && f.state.Stage == "lost" {
		return nil, errors.New("the document cannot be read")
	}
	return f.state, nil
}

func (f *fakeSecureBoot) Start(context.Context) (keyupdate.Outcome, error) {
	err := f.did("keys start")
	if len(f.starts) == 0 {
		return keyupdate.Outcome{}, err
	}
	return f.starts[0], err
}

func (f *fakeSecureBoot) Plan(context.Context, []byte) (plan.Plan, error) {
	return plan.Plan{Reboot: "one variable for each start"}, nil
}

func (f *fakeSecureBoot) Update(_ context.Context, archive []byte) (keyupdate.Outcome, error) {
	if err := f.did("keys update " + string(archive[:min(len(archive), 10)])); err != nil {
		return keyupdate.Outcome{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.state = &osapi.SecureBootState{NeedsReboot: true, Stage: "restart", Status: "db was written"}
	return keyupdate.Outcome{Restart: true, Why: "db was written"}, nil
}

// withKeys is a ready node whose firmware has keys.
func withKeys(t *testing.T) (*fixture, *fakeSecureBoot) {
	t.Helper()
	w := newWorld()
	keys := &fakeSecureBoot{world: w}
	f := startWith(t, w, nil, func(o *daemon.Options) { o.Machine.SecureBoot = keys })
	w.wait(t, "status ready")
	return f, keys
}

// What a person sends is written, and the answer and the state say that a restart is due.
func TestSecureBootUpdate_Archive_IsAppliedAndShown(t *testing.T) {
	f, _ := withKeys(t)
	if state := getAs[osapi.Security](t, f, "/1.0/system/security").State.SecureBoot; state != nil {
		t.Errorf("before: %+v", state)
	}
	want := `{"version":"","fully_applied":false,"needs_reboot":true,"stage":"restart","status":"db was written"}`
	code, message, answer := call(t, f, "POST", "/1.0/debug/secureboot/:update", "archive")
	if diff := cmp.Diff(want, string(answer)); diff != "" || code != 200 {
		t.Errorf("%d %s %s", code, message, diff)
	}
	state := getAs[osapi.Security](t, f, "/1.0/system/security").State.SecureBoot
	if diff := cmp.Diff(&osapi.SecureBootState{NeedsReboot: true, Stage: "restart", Status: "db was written"}, state); diff != "" {
		t.Error(diff)
	}
}

// Each refusal has the code by which a client knows whose turn it is.
func TestSecureBootUpdate_Refused_SaysWhoseFault(t *testing.T) {
	f, keys := withKeys(t)
	for name, c := range map[string]struct {
		err  error
		code int
	}{
		"Secure Boot off": {fmt.Errorf("%w: Secure Boot is off", keyupdate.ErrRefused), 400},
		"busy":            {keyupdate.ErrBusy, 409},
		"on trial":        {keyupdate.ErrOnTrial, 409},
		"not bound":       {fmt.Errorf("planning: %w", secureboot.ErrNotBound), 409},
		"no prediction":   {fmt.Errorf("planning: %w", &pcr.Doubt{PCR: 7, Reason: "x"}), 409},
		"a broken disk":   {errors.New("input/output error"), 500},
	} {
		keys.mu.Lock()
		keys.failures["keys update x"] = []error{c.err}
		keys.mu.Unlock()
		if code, message, _ := call(t, f, "POST", "/1.0/debug/secureboot/:update", "x"); code != c.code || message == "" {
			t.Errorf("%s: %d %s", name, code, message)
		}
	}
	if code, _, _ := call(t, f, "POST", "/1.0/debug/secureboot/:update", strings.Repeat("x", secureboot.MaxArchive+1)); code != 413 {
		t.Errorf("too large: %d", code)
	}
}

func TestSecureBootUpdate_DryRun_ChangesNothing(t *testing.T) {
	f, _ := withKeys(t)
	code, message, answer := call(t, f, "POST", "/1.0/debug/secureboot/:update?dry-run=1", "archive")
	if code != 200 || !strings.Contains(string(answer), "one variable for each start") {
		t.Errorf("%d %s %s", code, message, answer)
	}
	for _, event := range f.log() {
		if strings.HasPrefix(event, "keys update") {
			t.Error(event)
		}
	}
}

// The firmware's keys are for root on the node: which they are tells an attacker what to sign.
func TestSecureBootKeys_Socket_GivesCertificates(t *testing.T) {
	f, _ := withKeys(t)
	want := osapi.SecureBootKeys{PK: "a", KEK: []string{"b"}, DB: []string{"c", "d"}, DBX: []string{}}
	if diff := cmp.Diff(want, getAs[osapi.SecureBootKeys](t, f, "/internal/secureboot")); diff != "" {
		t.Error(diff)
	}
	if code, _, _ := call(t, f, "GET", "/internal/secureboot", "", "X-IncusOS-Proxy", "/os"); code == 200 {
		t.Error("answered over the network")
	}
}

// A machine without such keys says so, as before.
func TestSecureBoot_MachineWithout_Answers501(t *testing.T) {
	f := ready(t)
	for path, method := range map[string]string{"/1.0/debug/secureboot/:update": "POST", "/internal/secureboot": "GET"} {
		if code, _, _ := call(t, f, method, path, ""); code != 501 {
			t.Errorf("%s: %d", path, code)
		}
	}
}

// A state that cannot be read is told where it would stand, and hides nothing else.
func TestSecurity_KeyStateLost_RestIsShown(t *testing.T) {
	f, keys := withKeys(t)
	keys.mu.Lock()
	keys.state = &osapi.SecureBootState{Stage: "lost"}
	keys.mu.Unlock()
	state := getAs[osapi.Security](t, f, "/1.0/system/security").State.SecureBoot
	if diff := cmp.Diff(&osapi.SecureBootState{Stage: "failed", Status: "the document cannot be read"}, state); diff != "" {
		t.Error(diff)
	}
}

// A second variable needs a second restart. It comes before any application is started, so
// that no instance is stopped for it.
func TestStart_KeysUnderWay_RestartsBeforeAnyApplication(t *testing.T) {
	w := newWorld()
	keys := &fakeSecureBoot{world: w, starts: []keyupdate.Outcome{{Restart: true, Why: "dbx was written"}}}
	startWith(t, w, nil, func(o *daemon.Options) { o.Machine.SecureBoot = keys })
	w.wait(t, "reboot")
	for _, event := range w.log() {
		if event == "provider" || event == "applications" {
			t.Errorf("%s is started", event)
		}
	}
}

// Keys that cannot be updated, and a restart that cannot be had, keep no node from starting.
func TestStart_KeysFail_NodeGetsReady(t *testing.T) {
	w := newWorld()
	w.failures["keys start"] = []error{errors.New("predicting PCR 7")}
	w.failures["reboot"] = []error{errors.New("no service manager")}
	keys := &fakeSecureBoot{world: w, starts: []keyupdate.Outcome{{Restart: true}}}
	startWith(t, w, nil, func(o *daemon.Options) { o.Machine.SecureBoot = keys })
	w.wait(t, "status ready")
}
