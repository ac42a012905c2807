package vm

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	api "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/client"
	"github.com/holdfast-os/holdfast/test/vm/peers"
)

// What an owner writes about the network holds on the wire: each part is seen from a
// computer on the other side of the node's cards. The parts share one node, which is
// started twice; each begins with the network that only manages it, by going back in the
// node's history.
func TestNetwork_OnTheWire(t *testing.T) {
	longOnly(t)
	slow(t)
	r := newRig(t)
	r.step(t, "a card that nobody configured asks for an address", r.unconfigured)
	r.begin(t)
	r.step(t, "a change that cuts the caller off goes back by itself", r.cutOff)
	r.step(t, "fixed addresses that are confirmed over themselves stay", r.fixed)
	r.step(t, "the firewall accepts, drops and rejects by source", r.firewall)
	r.step(t, "log lines come over each transport", r.syslog)
	r.step(t, "the clock is set by the owner's server", r.clock)
	r.step(t, "releases come through a proxy that asks who comes", r.proxies)
	r.step(t, "bond that fails over, VLAN and tunnel", r.bondVLANTunnel)
	r.step(t, "bond that speaks LACP", r.lacp)
	r.step(t, "a change takes little longer than networkd", r.speed)
	r.step(t, "a power cut takes back what nobody confirmed", r.powerCut)
}

// begin makes the network that only manages the node a change to go back to.
func (r *rig) begin(t *testing.T) {
	t.Helper()
	c := *r.network(t).Config
	c.Interfaces = slices.DeleteFunc(slices.Clone(c.Interfaces), func(n api.NetworkInterface) bool {
		return n.Hwaddr == card(0) || n.Hwaddr == card(1)
	})
	if len(c.Interfaces) != 1 {
		t.Fatalf("the node has %d cards beside those on the switch, want one", len(c.Interfaces))
	}
	r.set(t, c)
	ctx, cancel := context.WithTimeout(t.Context(), shortLimit)
	defer cancel()
	history, err := r.api.History(ctx)
	if err != nil || len(history) == 0 {
		t.Fatalf("the history has %d changes after the first: %v", len(history), err)
	}
	r.base, r.number = *r.network(t).Config, history[0].Number
}

// A card in a rack that nobody has spoken of yet must not be a reason for a visit.
func (r *rig) unconfigured(t *testing.T) {
	prefixes := []string{"192.0.2.", "2001:db8:"}
	until(t, reachLimit, "waiting for addresses on both cards", func(ctx context.Context) (bool, error) {
		shown, err := r.api.Network(ctx)
		if err != nil {
			return false, err
		}
		found := 0
		for _, state := range shown.State.Interfaces {
			for _, prefix := range prefixes {
				if slices.ContainsFunc(state.Addresses, func(a string) bool { return strings.HasPrefix(a, prefix) }) {
					found++
				}
			}
		}
		return found == 2*len(prefixes), nil
	})
}

// moved takes the caller's way to the node away and gives it another.
func (r *rig) moved() api.NetworkConfig {
	return r.with(func(c *api.NetworkConfig) { c.Interfaces = []api.NetworkInterface{lanInterface()} })
}

// sentenced asks for a change that cuts the caller off, and waits until it is in effect.
func (r *rig) sentenced(t *testing.T, within time.Duration) {
	t.Helper()
	// The answer has no way back: the caller gives up.
	ctx, cancel := context.WithTimeout(t.Context(), changeLimit)
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		ended <- r.api.SetSection(ctx, client.SectionNetwork, r.moved(), client.ChangeOptions{ConfirmWithin: within})
	}()
	r.reach(t, nodeV4)
	cancel()
	if err := <-ended; err == nil {
		t.Error("the answer came over the card that the change took the addresses from")
	}
}

// Who has locked himself out by a slip gets back in by waiting, not by a visit.
func (r *rig) cutOff(t *testing.T) {
	const within = 30 * time.Second
	begun := time.Now()
	r.sentenced(t, within)
	seen := r.over(t, nodeV4)
	var pending *api.PendingChange
	until(t, within, "waiting for the change to be applied", func(ctx context.Context) (bool, error) {
		document, _, err := seen.Config(ctx)
		if err != nil || document.State.Pending == nil || document.State.Number != r.number {
			return false, fmt.Errorf("the change does not wait to be confirmed: %+v, %w", document.State, err)
		}
		pending = document.State.Pending
		return pending.Deadline != nil, nil
	})
	left := time.Until(*pending.Deadline)
	if left > within {
		t.Errorf("the change waits for %s more, want at most %s", left, within)
	}
	until(t, within+reachLimit, "waiting for the old network", func(ctx context.Context) (bool, error) {
		r.api.Close() // what was sent while it was cut off is not worth waiting for
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		_, err := r.api.Server(ctx)
		return err == nil, err
	})
	t.Logf("reachable again %s after the request, with %s to confirm", time.Since(begun).Round(time.Second), within)
	r.expectBefore(t)
	if got := outcome(r.dial(t.Context(), "", nodeV4)); got == "accepted" {
		t.Error("the address of the change that went back still answers")
	}
}

// expectBefore fails unless the network is the one that each part begins with.
func (r *rig) expectBefore(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), shortLimit)
	defer cancel()
	document, _, err := r.api.Config(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(api.ConfigurationState{Number: r.number}, api.ConfigurationState{Number: document.State.Number, Pending: document.State.Pending}); diff != "" {
		t.Errorf("the state of the configuration (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(&r.base, document.Config.Network); diff != "" {
		t.Errorf("the network (-before +now):\n%s", diff)
	}
}

// The owner moves the node to other addresses, sees that they work, and says so over them.
func (r *rig) fixed(t *testing.T) {
	const within = 40 * time.Second
	r.sentenced(t, within)
	r.reach(t, nodeV6)
	there := r.over(t, nodeV4)
	ctx, cancel := context.WithTimeout(t.Context(), within+shortLimit)
	defer cancel()
	number, err := there.ConfirmConfig(ctx)
	if err != nil {
		t.Fatal(err)
	}
	confirmed := time.NewTimer(within)
	defer confirmed.Stop()
	state, err := there.Network(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{nodeV4, nodeV6}, withoutLength(state.State.Interfaces["lan"].Addresses)); diff != "" {
		t.Errorf("addresses (-want +got):\n%s", diff)
	}
	select {
	case <-confirmed.C: // by now an unconfirmed change has gone back
	case <-ctx.Done():
		t.Fatal(ctx.Err())
	}
	document, _, err := there.Config(ctx)
	if err != nil {
		t.Fatal(err)
	}
	want := r.moved()
	if diff := cmp.Diff(&want, document.Config.Network); diff != "" {
		t.Errorf("the confirmed network (-want +got):\n%s", diff)
	}
	if document.State.Number != number || document.State.Pending != nil {
		t.Errorf("the state is %+v, want change %d and nothing pending", document.State, number)
	}
	// Going back must go over the new address as well: the old one is there afterwards.
	gone, cancelGone := context.WithTimeout(t.Context(), reachLimit)
	defer cancelGone()
	if _, err := there.Rollback(gone, r.number, 0); err != nil {
		t.Logf("the answer to going back: %v", err) // its way back is gone
	}
	r.reachAgain(t)
}

// reachAgain waits until the first card answers.
func (r *rig) reachAgain(t *testing.T) {
	t.Helper()
	until(t, reachLimit, "waiting for the first card", func(ctx context.Context) (bool, error) {
		r.api.Close()
		_, err := r.api.Server(ctx)
		return err == nil, err
	})
}

// withoutLength are addresses without prefix lengths, sorted.
func withoutLength(addresses []string) []string {
	var bare []string
	for _, a := range addresses {
		a, _, _ = strings.Cut(a, "/")
		bare = append(bare, a)
	}
	slices.Sort(bare)
	return bare
}

// onLAN is the base with the first card on the switch, and a resolver there.
func (r *rig) onLAN(change func(*api.NetworkConfig, *api.NetworkInterface)) api.NetworkConfig {
	return r.with(func(c *api.NetworkConfig) {
		lan := lanInterface()
		c.DNS = &api.NetworkDNS{Nameservers: []string{peerV4}}
		change(c, &lan)
		c.Interfaces = append(c.Interfaces, lan)
	})
}

// A rule means what it says to whoever knocks, and to nobody else.
func (r *rig) firewall(t *testing.T) {
	open := r.onLAN(func(*api.NetworkConfig, *api.NetworkInterface) {})
	r.set(t, open)
	r.reach(t, nodeV4)
	knock := func() map[string]string {
		got := map[string]string{}
		for _, from := range []string{peerV4, droppedV4, rejectedV4} {
			got[from] = outcome(r.dial(t.Context(), from, nodeV4))
		}
		return got
	}
	if diff := cmp.Diff(map[string]string{peerV4: "accepted", droppedV4: "accepted", rejectedV4: "accepted"}, knock()); diff != "" {
		t.Fatalf("without rules (-want +got):\n%s", diff)
	}
	r.set(t, r.onLAN(func(c *api.NetworkConfig, lan *api.NetworkInterface) {
		c.Firewall = &api.NetworkFirewall{InputPolicy: "drop"}
		management := &c.Interfaces[0]
		management.FirewallRules = []api.NetworkFirewallRule{{Action: "accept", Protocol: "tcp", Port: 8443}}
		lan.FirewallRules = []api.NetworkFirewallRule{
			{Action: "reject", Source: rejectedV4, Protocol: "tcp", Port: 8443},
			{Action: "accept", Source: peerV4 + "/32", Protocol: "tcp", Port: 8443},
		}
	}))
	if diff := cmp.Diff(map[string]string{peerV4: "accepted", droppedV4: "dropped", rejectedV4: "refused"}, knock()); diff != "" {
		t.Errorf("with rules (-want +got):\n%s", diff)
	}
}

// A node with two cables keeps its addresses, its VLANs and its tunnels when one is out.
func (r *rig) bondVLANTunnel(t *testing.T) {
	keys, err := peers.NewKeyPair()
	if err != nil {
		t.Fatal(err)
	}
	r.set(t, r.bonded("active-backup", func(c *api.NetworkConfig) {
		c.VLANs = []api.NetworkVLAN{{Name: "backup", Parent: "uplink", ID: vlanID, Addresses: []string{nodeVLAN + "/24"}, RequiredForOnline: "no"}}
		c.Wireguard = []api.NetworkWireguard{{Name: "tunnel", Port: tunnelPort, Addresses: []string{nodeTunnel + "/24"},
			Peers: []api.NetworkWireguardPeer{{PublicKey: keys.Public, AllowedIPs: []string{peerTunnel + "/32"}}}}}
	}))
	state := r.network(t).State.Interfaces
	if state["tunnel"].Wireguard == nil {
		t.Fatalf("the node shows no tunnel: %+v", state["tunnel"])
	}
	ctx, cancel := context.WithTimeout(t.Context(), changeLimit)
	defer cancel()
	err = r.lan.WireGuard(ctx, "wg", peers.Tunnel{PrivateKey: keys.Private, PeerKey: state["tunnel"].Wireguard.PublicKey, Port: tunnelPort,
		Endpoint: net.JoinHostPort(nodeV4, "51820"), Allowed: []string{nodeTunnel + "/32"}, Address: peerTunnel + "/24"})
	if err != nil {
		t.Fatal(err)
	}
	all := []string{nodeV4, nodeVLAN, nodeTunnel}
	for _, address := range all {
		r.reach(t, address)
	}
	state = r.network(t).State.Interfaces
	if got := state["tunnel"].Wireguard; len(got.Peers) != 1 || got.Peers[0].LatestHandshake == "" || got.Peers[0].PublicKey != keys.Public {
		t.Errorf("the node does not show its peer's handshake: %+v", got)
	}
	if diff := cmp.Diff(2, len(state["uplink"].Members)); diff != "" {
		t.Errorf("members of the bond: %s", diff)
	}
	for _, out := range []int{0, 1} {
		r.unplug(t, out, false)
		for _, address := range all {
			r.reach(t, address)
		}
		r.unplug(t, out, true)
		r.reach(t, nodeV4)
	}
}

// bonded is the base with both cards on the switch as one.
func (r *rig) bonded(mode string, change func(*api.NetworkConfig)) api.NetworkConfig {
	return r.with(func(c *api.NetworkConfig) {
		c.Bonds = []api.NetworkBond{{Name: "uplink", Mode: mode, Members: []string{card(0), card(1)}, Addresses: []string{nodeV4 + "/24"}, RequiredForOnline: "no"}}
		change(c)
	})
}

// With LACP the node and the switch agree that two cables are one.
func (r *rig) lacp(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	if err := r.room.Bond(ctx, "bond", r.taps...); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.room.Unbond(context.Background(), "bond", r.taps...); err != nil {
			t.Error(err)
		}
	})
	r.set(t, r.bonded("802.3ad", func(*api.NetworkConfig) {}))
	var shown string
	until(t, reachLimit, "waiting for LACP", func(ctx context.Context) (bool, error) {
		var err error
		shown, err = r.room.LACP(ctx, "bond")
		return err == nil && peers.Negotiated(shown), err
	})
	r.reach(t, nodeV4)
	members := r.network(t).State.Interfaces["uplink"].Members
	if len(members) != 2 {
		t.Fatalf("the bond has %d members, want 2: %+v", len(members), members)
	}
	for name, member := range members {
		if member.LACP == nil || !strings.Contains(shown, member.LACP.RemoteMAC) || !strings.Contains(shown, member.LACP.LocalMAC) {
			t.Errorf("member %s knows %+v, the switch says:\n%s", name, member.LACP, shown)
		}
	}
	r.unplug(t, 0, false)
	r.reach(t, nodeV4)
	r.unplug(t, 0, true)
}

// reloads is how often each way is measured.
const reloads = 5

// What the node does around networkd (looking at the machine, checking, planning, keeping
// the history, waiting) must not be what an owner waits for.
func (r *rig) speed(t *testing.T) {
	addresses := []string{nodeV4, "192.0.2.11"}
	configuration := func(address string) api.NetworkConfig {
		return r.onLAN(func(_ *api.NetworkConfig, lan *api.NetworkInterface) { lan.Addresses = []string{address + "/24"} })
	}
	r.set(t, configuration(addresses[0]))
	r.reach(t, addresses[0])
	for _, address := range addresses {
		// Looking for the card's address would be measured otherwise.
		if _, err := r.lan.Run(t.Context(), "ip", "neighbour", "replace", address, "lladdr", card(0), "dev", "eth0", "nud", "permanent"); err != nil {
			t.Fatal(err)
		}
	}
	var whole, bare []time.Duration
	for i := range 2 * reloads {
		from, to := addresses[i%2], addresses[(i+1)%2]
		if i < reloads {
			begun := time.Now()
			ended := make(chan error, 1)
			go func() {
				ended <- r.api.SetSection(t.Context(), client.SectionNetwork, configuration(to), client.ChangeOptions{})
			}()
			r.connected(t, to)
			whole = append(whole, time.Since(begun))
			if err := <-ended; err != nil {
				t.Fatal(err)
			}
			continue
		}
		bare = append(bare, r.reload(t, from, to))
	}
	// The node's own files are as networkd's again for what comes next.
	r.set(t, configuration(addresses[0]))
	ratio := float64(median(whole)) / float64(median(bare))
	t.Logf("from the request to a connection: %s (%v)", median(whole), whole)
	t.Logf("from networkctl reload to a connection: %s (%v)", median(bare), bare)
	t.Logf("NUMBER network_apply %.4f %.4f", median(whole).Seconds(), median(bare).Seconds())
	// The target is in docs/benchmarks.md; this is where something has gone wrong.
	if ratio > 2 {
		t.Errorf("a change takes %.2f times as long as networkd alone, want at most 2", ratio)
	}
}

// reload changes an address in networkd's file as the node would, and measures from the
// moment that the node itself says it begins.
func (r *rig) reload(t *testing.T, from, to string) time.Duration {
	t.Helper()
	packets, err := r.lan.ListenPacket(t.Context(), peerV4+":9999")
	if err != nil {
		t.Fatal(err)
	}
	defer packets.Close()
	script := fmt.Sprintf(`f=$(grep -l 'Address=%s/' /run/systemd/network/*.network) && sed -i 's/=%s\//=%s\//' $f && echo go >/dev/udp/%s/9999 && networkctl reload`,
		from, strings.ReplaceAll(from, ".", `\.`), to, peerV4)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		result, err := machines.lab.Exec(ctx, r.name, []string{"bash", "-c", script})
		if err != nil || result.Code != 0 {
			t.Errorf("reloading: %d %s %v", result.Code, result.Stderr, err)
		}
	}()
	if err := packets.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if _, _, err := packets.ReadFrom(make([]byte, 16)); err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	r.connected(t, to)
	took := time.Since(begun)
	<-ended
	return took
}

// connected dials again and again, a hundred times a second, until the node answers.
func (r *rig) connected(t *testing.T, to string) {
	t.Helper()
	limit := time.Now().Add(reachLimit)
	for time.Now().Before(limit) {
		ctx, cancel := context.WithTimeout(t.Context(), 40*time.Millisecond)
		conn, err := r.lan.DialFrom(ctx, nil, "tcp", net.JoinHostPort(to, apiPort))
		cancel()
		if err == nil {
			if err := conn.Close(); err != nil {
				t.Fatal(err)
			}
			return
		}
	}
	t.Fatalf("the node does not answer at %s", to)
}

func median(all []time.Duration) time.Duration {
	sorted := slices.Sorted(slices.Values(all))
	return sorted[len(sorted)/2]
}

// What nobody has confirmed when the power goes is not there when it comes back.
func (r *rig) powerCut(t *testing.T) {
	// What other parts have done, going back included, are changes too.
	ctx, cancel := context.WithTimeout(t.Context(), shortLimit)
	defer cancel()
	document, _, err := r.api.Config(ctx)
	if err != nil {
		t.Fatal(err)
	}
	r.number = document.State.Number
	r.sentenced(t, time.Hour)
	if err := machines.cut(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.powerOn(t)
	until(t, bootLimit, "waiting for the node over its first card", r.ready)
	r.expectBefore(t)
	if got := outcome(r.dial(t.Context(), "", nodeV4)); got == "accepted" {
		t.Error("the address of the change that went back still answers")
	}
}
