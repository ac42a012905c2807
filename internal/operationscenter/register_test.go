package operationscenter_test

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/internal/operationscenter"
	"github.com/holdfast-os/holdfast/internal/operationscenter/octest"
)

// What a server says of clients that hang up is nobody's concern here.
var quiet = log.New(io.Discard, "", 0)

func fingerprint(i *identity) string {
	sum := sha256.Sum256(i.leaf.Raw)
	return hex.EncodeToString(sum[:])
}

// A node with URL and token is listed at its manager, under its own certificate.
func TestRegister_Token_IsListedAndLearnsWhomToTrust(t *testing.T) {
	w := newWorld(t)
	got, err := w.client(t).Register(t.Context(), operationscenter.Membership{}, self)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(operationscenter.Membership{Server: w.url, Certificate: w.granted.pem}, got); diff != "" {
		t.Error(diff)
	}
	want := []octest.Node{{Name: "node1", ConnectionURL: "https://[2001:db8::7]:8443", MachineID: "0123456789abcdef0123456789abcdef",
		SystemUUID: "11111111-2222-3333-4444-555555555555", Certificate: fingerprint(w.node)}}
	if diff := cmp.Diff(want, w.Nodes()); diff != "" {
		t.Error(diff)
	}
	w.strict(t)
}

// An Operations Center manages the node that it runs on, without URL and token.
func TestRegister_ManagerOnTheNode_GoesOverItsSocket(t *testing.T) {
	manager := octest.New("")
	socket := filepath.Join(t.TempDir(), "s")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &httptest.Server{Listener: listener, Config: &http.Server{Handler: manager}}
	server.Start()
	t.Cleanup(server.Close)
	client := newClient(t, operationscenter.Options{Socket: socket})
	got, err := client.Register(t.Context(), operationscenter.Membership{}, self)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(operationscenter.Membership{Server: "local"}, got); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"POST /1.0/provisioning/servers/:self_register"}, manager.Requests()); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string(nil), manager.Complaints()); diff != "" {
		t.Error(diff)
	}
}

// Fault 15: two managers claim the host. The second one learns nothing of it.
func TestRegister_NodeOfAnotherManager_IsRefusedUntilItMovedAway(t *testing.T) {
	first, second := newWorld(t), newWorld(t)
	member, err := first.client(t).Register(t.Context(), operationscenter.Membership{}, self)
	if err != nil {
		t.Fatal(err)
	}
	got, err := second.client(t).Register(t.Context(), member, self)
	checkErr(t, err, operationscenter.ErrOtherManager)
	if !strings.Contains(err.Error(), first.url) || !strings.Contains(err.Error(), `set the provider to "images"`) {
		t.Errorf("the error does not say whose the node is and how to go on: %v", err)
	}
	if diff := cmp.Diff(member, got); diff != "" {
		t.Errorf("the membership changed: %s", diff)
	}
	if diff := cmp.Diff([]string(nil), second.Requests()); diff != "" {
		t.Errorf("the second manager was asked: %s", diff)
	}
	left := operationscenter.Leave(member)
	if _, err := second.client(t).Register(t.Context(), left.Membership, self); err != nil {
		t.Errorf("after moving away: %v", err)
	}
	if n := len(second.Nodes()); n != 1 {
		t.Errorf("the second manager has %d nodes", n)
	}
}

// Moving away works whatever the manager does, and says what is left for a person to do.
func TestLeave_ManagerThatKnowsNoDeregistration_IsAWarning(t *testing.T) {
	got := operationscenter.Leave(operationscenter.Membership{Server: "https://manager.example.org", Certificate: "PEM"})
	want := operationscenter.Departure{Distrust: "PEM",
		Warning: "an Operations Center does not support deregistration: the node is still listed at https://manager.example.org, remove it there"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(operationscenter.Departure{}, operationscenter.Leave(operationscenter.Membership{})); diff != "" {
		t.Errorf("a node of nobody: %s", diff)
	}
}

// The daemon may register at each start without being refused as known already.
func TestRegister_NodeOfThisManager_ReportsItself(t *testing.T) {
	w := newWorld(t)
	client := w.client(t)
	member, err := client.Register(t.Context(), operationscenter.Membership{}, self)
	if err != nil {
		t.Fatal(err)
	}
	moved := self
	moved.ConnectionURL = "https://192.0.2.9:8443"
	again, err := client.Register(t.Context(), member, moved)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(member, again); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]octest.Report{{ConnectionURL: "https://192.0.2.9:8443"}}, w.Nodes()[0].Reports); diff != "" {
		t.Error(diff)
	}
	w.strict(t)
}

// Each cause must be one that the manager knows.
func TestReport_EachCause_Arrives(t *testing.T) {
	w := newWorld(t)
	client := w.client(t)
	if _, err := client.Register(t.Context(), operationscenter.Membership{}, self); err != nil {
		t.Fatal(err)
	}
	var want []octest.Report
	for _, cause := range []operationscenter.Cause{"", "network-config-changed", "system-is-ready", "os-update-applied", "application-update-applied",
		"storage-config-changed", "system-reboot-triggered", "system-shutdown-triggered", "network-interface-state-changed",
		"secure-boot-update-applied", "suspend-triggered"} {
		if !cause.Valid() {
			t.Errorf("%q is not valid", cause)
		}
		if err := client.Report(t.Context(), self.ConnectionURL, cause); err != nil {
			t.Error(err)
		}
		want = append(want, octest.Report{ConnectionURL: "https://[2001:db8::7]:8443", Cause: string(cause)})
	}
	if diff := cmp.Diff(want, w.Nodes()[0].Reports); diff != "" {
		t.Error(diff)
	}
	if operationscenter.Cause("boredom").Valid() {
		t.Error("every cause is valid")
	}
	w.strict(t)
}

// A node that the manager does not know is told so, and does not try again by itself.
func TestReport_UnknownNode_IsARefusal(t *testing.T) {
	w := newWorld(t)
	err := w.client(t).Report(t.Context(), self.ConnectionURL, operationscenter.CauseReady)
	var got *operationscenter.Refusal
	if !errors.As(err, &got) {
		t.Fatalf("got %v", err)
	}
	if diff := cmp.Diff(&operationscenter.Refusal{Code: 403, Text: "not registered"}, got); diff != "" {
		t.Error(diff)
	}
}

// Errors are shown to everybody who may read a node's log, and the token lets a machine in.
func TestRegister_WhateverGoesWrong_ErrorHoldsNoToken(t *testing.T) {
	escaped := "7d0c2a9e-secret%2Btoken%2F5b1f"
	for name, change := range map[string]func(w *world, o *operationscenter.Options){
		"the server repeats it": func(_ *world, o *operationscenter.Options) { o.Token += "x" },
		"no such host":          func(_ *world, o *operationscenter.Options) { o.ServerURL = "https://127.0.0.1:1" },
		"another certificate":   func(w *world, o *operationscenter.Options) { o.Certificate = w.node.pem },
		"a redirect": func(w *world, _ *operationscenter.Options) {
			w.Fail(octest.Fault{Status: 307, Location: w.url + "/?token=" + escaped})
		},
		"an unreadable redirect": func(w *world, _ *operationscenter.Options) {
			w.Fail(octest.Fault{Status: 307, Location: "ht%tp://" + token})
		},
		"a page": func(w *world, _ *operationscenter.Options) { w.Fail(octest.Fault{Status: 200, Body: "<html>" + token}) },
		"an odd shape": func(w *world, _ *operationscenter.Options) {
			w.Fail(octest.Fault{Status: 200, Body: `{"type":"sync","status_code":200,"metadata":"` + token + `"}`})
		},
		"an error with the token": func(w *world, _ *operationscenter.Options) {
			w.Fail(octest.Fault{Status: 500, Body: `{"type":"error","error":"` + escaped + ` ` + token + `"}`})
		},
		"a cut connection": func(w *world, o *operationscenter.Options) {
			o.ClientCertificate = func() (*tls.Certificate, error) { return nil, errors.New("locked") }
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			o := w.options()
			change(w, &o)
			_, err := newClient(t, o).Register(t.Context(), operationscenter.Membership{}, self)
			if err == nil {
				t.Fatal("it went well")
			}
			if strings.Contains(err.Error(), token) || strings.Contains(err.Error(), escaped) {
				t.Errorf("the token is in it: %v", err)
			}
			if n := len(w.Nodes()); n != 0 {
				t.Errorf("%d nodes are registered", n)
			}
		})
	}
}

// A caller can still ask what an error was from which the token was taken.
func TestRegister_RedirectWithTheToken_IsARefusedRedirect(t *testing.T) {
	w := newWorld(t)
	w.Fail(octest.Fault{Status: 307, Location: "https://" + strings.NewReplacer("+", "", "/", "").Replace(token) + ".example.org"})
	o := w.options()
	o.Token = strings.NewReplacer("+", "", "/", "").Replace(token)
	_, err := newClient(t, o).Register(t.Context(), operationscenter.Membership{}, self)
	if err == nil || strings.Contains(err.Error(), o.Token) {
		t.Errorf("got %v", err)
	}
	checkErr(t, err, errRedirect)
}

// A registration that was perhaps granted is not asked for twice.
func TestRegister_ServerInTrouble_IsAskedOnce(t *testing.T) {
	w := newWorld(t)
	w.Fail(octest.Fault{Status: 503, Body: "busy"})
	_, err := w.client(t).Register(t.Context(), operationscenter.Membership{}, self)
	var refusal *operationscenter.Refusal
	if !errors.As(err, &refusal) || refusal.Code != 503 {
		t.Errorf("got %v", err)
	}
	if diff := cmp.Diff([]string{"POST /1.0/provisioning/servers"}, w.Requests()); diff != "" {
		t.Error(diff)
	}
}

func TestRegister_ContextEnded_IsNotRegistered(t *testing.T) {
	w := newWorld(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := w.client(t).Register(ctx, operationscenter.Membership{}, self)
	checkErr(t, err, context.Canceled)
}
