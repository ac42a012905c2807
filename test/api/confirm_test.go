package api_test

import (
	"net/http"
	"testing"

	"github.com/google/go-cmp/cmp"

	osapi "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/simulate"
)

const networkPath = "/1.0/system/network"

// oneCard is a network that differs from what a new node has.
func oneCard() object {
	return object{"interfaces": list{object{"name": "lan", "hwaddr": "enp1s0", "addresses": list{"192.0.2.5/24"}, "required_for_online": "no"}}}
}

func (n *node) network() osapi.NetworkConfig {
	n.t.Helper()
	var shown osapi.Network
	n.get(networkPath, &shown)
	if shown.Config == nil {
		n.t.Fatal("there is no configuration of the network")
	}
	return *shown.Config
}

// waiting puts a network that waits to be confirmed, and looks whether it is in effect.
func (n *node) waiting(timeout string) {
	n.t.Helper()
	got := n.must(http.MethodPut, networkPath+"?confirmation_timeout="+timeout, object{"config": oneCard()})
	if got.code != http.StatusOK {
		n.t.Fatalf("%d %s", got.code, got.Error)
	}
	var shown osapi.Network
	n.get(networkPath, &shown)
	state, there := shown.State.Interfaces["lan"]
	if !there || len(shown.Config.Interfaces) != 1 || !shown.State.ConfigurationInProcess {
		n.t.Fatalf("the change is not in effect: %+v %+v", shown, state)
	}
	if diff := cmp.Diff([]string{"192.0.2.5"}, state.Addresses); diff != "" {
		n.t.Fatal(diff)
	}
}

// Who has cut himself off gets back in by waiting.
func TestConfirmation_NotGivenInTime_GoesBack(t *testing.T) {
	t.Parallel()
	n := start(t, simulate.Options{})
	before, events := n.network(), n.events("?type=lifecycle")
	n.waiting("1s")
	seen := until(t, events, "configuration-reverted")
	if diff := cmp.Diff(osapi.EventLifecycle{Action: "configuration-reverted", Source: "/1.0/system/config", Context: map[string]any{
		"number": 0.0, "sections": []any{"network"}, "who": "local",
	}}, seen); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(before, n.network()); diff != "" {
		t.Error(diff)
	}
	var shown osapi.Network
	n.get(networkPath, &shown)
	if _, there := shown.State.Interfaces["lan"]; there || shown.State.ConfigurationInProcess {
		t.Errorf("the machine has not gone back: %+v", shown.State)
	}
}

// Who has not cut himself off says so, and keeps what he has.
func TestConfirmation_Given_Stays(t *testing.T) {
	t.Parallel()
	n := start(t, simulate.Options{})
	events := n.events("?type=lifecycle")
	n.waiting("1m")
	if got := n.must(http.MethodPut, kernelPath, map[string]any{"config": counter(1)}); got.code != http.StatusConflict {
		t.Errorf("another change meanwhile: %d %s", got.code, got.Error)
	}
	if got := n.must(http.MethodPost, "/1.0/system/config/:confirm", nil); got.code != http.StatusOK {
		t.Fatalf("%d %s", got.code, got.Error)
	}
	until(t, events, "configuration-confirmed")
	if got := n.network(); len(got.Interfaces) != 1 {
		t.Errorf("%+v", got)
	}
	if got := n.must(http.MethodPost, "/1.0/system/config/:revert", nil); got.code != http.StatusBadRequest {
		t.Errorf("taking back what is confirmed: %d %s", got.code, got.Error)
	}
}

// A power cut must not make a change last that nobody has confirmed.
func TestConfirmation_NodeKilledBefore_GoesBack(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	p := run(t, dir, "--listen", "")
	p.untilReady()
	before := p.network()
	p.waiting("10m")
	p.kill()
	p = run(t, dir, "--listen", "")
	p.untilReady()
	if diff := cmp.Diff(before, p.network()); diff != "" {
		t.Error(diff)
	}
	var document osapi.ConfigurationDocument
	p.get("/1.0/system/config", &document)
	if document.State.Pending != nil || document.State.Number != 0 {
		t.Errorf("%+v", document.State)
	}
}
