//go:build linux

package host

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	api "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/network"
	"github.com/holdfast-os/holdfast/internal/proxy"
	"github.com/holdfast-os/holdfast/internal/system/networkd"
	"github.com/holdfast-os/holdfast/internal/system/nft"
	"github.com/holdfast-os/holdfast/internal/system/run"
	"github.com/holdfast-os/holdfast/test/needs"
)

// plannedRules are the rules for a node with one card that lets one port in for all, one
// for a neighbour, and nothing else.
func plannedRules(t *testing.T) string {
	t.Helper()
	plan, err := network.NewPlan(api.NetworkConfig{
		Interfaces: []api.NetworkInterface{{Name: "lan", Hwaddr: "02:00:00:00:00:01", Addresses: []string{"10.9.0.1/24", "fd09::1/64"},
			FirewallRules: []api.NetworkFirewallRule{
				{Action: "accept", Protocol: "tcp", Port: 8001},
				{Action: "accept", Protocol: "tcp", Port: 8002, Source: "10.9.0.2"},
				{Action: "reject", Protocol: "tcp", Port: 8003},
				{Action: "drop"},
			}}},
	}, network.World{Cards: []network.Card{{Name: "eth0", Hwaddr: "02:00:00:00:00:01", Permanent: true}}})
	if err != nil {
		t.Fatal(err)
	}
	return plan.Nftables
}

// What the owner opened is open, what he closed is closed, and IPv6 lives on, which
// needs neighbour discovery through all that is dropped.
func TestNft_PlannedRules_HoldAgainstANeighbour(t *testing.T) {
	if !inNetwork(t, "nft") {
		return
	}
	ip(t, "netns add peer")
	ip(t, "link add _vlan type veth peer name eth0 netns peer")
	for _, address := range []string{"10.9.0.1/24", "fd09::1/64"} {
		ip(t, "address add "+address+" dev _vlan nodad")
	}
	for _, address := range []string{"10.9.0.2/24", "10.9.0.3/24", "fd09::2/64"} {
		ip(t, "-n peer address add "+address+" dev eth0 nodad")
	}
	ip(t, "link set _vlan up")
	ip(t, "-n peer link set eth0 up")
	for port := 8001; port <= 8004; port++ {
		listener, err := net.Listen("tcp", fmt.Sprintf("[::]:%d", port))
		if err != nil {
			t.Fatal(err)
		}
		defer listener.Close()
	}
	try := func() map[string]string {
		type answer struct{ address, outcome string }
		answers := make(chan answer)
		asked := 0
		for _, host := range []string{"10.9.0.1", "fd09::1"} {
			for port := 8001; port <= 8004; port++ {
				address := net.JoinHostPort(host, fmt.Sprint(port))
				// Linux believes a refusal over ICMPv6 the second time, after a second.
				go func() { answers <- answer{address, outcome(dialFrom("peer", address, 3*time.Second))} }()
				asked++
			}
		}
		got := map[string]string{}
		for range asked {
			a := <-answers
			got[a.address] = a.outcome
		}
		return got
	}
	open := map[string]string{}
	for address := range try() {
		open[address] = "accepted"
	}
	if diff := cmp.Diff(open, try()); diff != "" {
		t.Fatalf("without rules: %s", diff)
	}
	rules := plannedRules(t)
	host := nft.Host{Run: run.Host}
	// Twice: the second time replaces what is there.
	for range 2 {
		if err := host.Apply(t.Context(), rules); err != nil {
			t.Fatal(err)
		}
	}
	ip(t, "-n peer neighbour flush all")
	ip(t, "neighbour flush all")
	want := map[string]string{
		"10.9.0.1:8001": "accepted", "10.9.0.1:8002": "accepted", "10.9.0.1:8003": "refused", "10.9.0.1:8004": "dropped",
		"[fd09::1]:8001": "accepted", "[fd09::1]:8002": "dropped", "[fd09::1]:8003": "refused", "[fd09::1]:8004": "dropped",
	}
	if diff := cmp.Diff(want, try()); diff != "" {
		t.Error(diff)
	}
	if text, err := runTool(t, run.Command{Name: "nft", Args: []string{"list", "table", "inet", "holdfast"}}); err != nil || !strings.Contains(text, "8001") {
		t.Errorf("got %q, %v", text, err)
	}
}

// A wrong rule leaves the firewall as it was, and says where it is wrong.
func TestNft_BrokenRules_ChangeNothing(t *testing.T) {
	if !inNetwork(t, "nft") {
		return
	}
	host := nft.Host{Run: run.Host}
	if err := host.Apply(t.Context(), "table inet holdfast {\n chain input { }\n}\n"); err != nil {
		t.Fatal(err)
	}
	err := host.Apply(t.Context(), "delete table inet holdfast\ntable inet other {\n chain input { tcp dport oops; }\n}\n")
	var wrong *nft.SyntaxError
	if !errors.As(err, &wrong) || wrong.Line != 3 || wrong.Text != "chain input { tcp dport oops; }" {
		t.Errorf("got %v", err)
	}
	tables, err := runTool(t, run.Command{Name: "nft", Args: []string{"list", "tables"}})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff("table inet holdfast\n", tables); diff != "" {
		t.Error(diff)
	}
}

const (
	lanBridge = "[NetDev]\nName=lan\nKind=bridge\n"
	lanVeth   = "[NetDev]\nName=_vlan\nKind=veth\n[Peer]\nName=_ilan\n"
	lanPort   = "[Match]\nName=_ilan\n[Network]\nBridge=lan\nLinkLocalAddressing=no\nConfigureWithoutCarrier=yes\n"
	lanSelf   = "[Match]\nName=lan\n[Network]\nLinkLocalAddressing=no\nConfigureWithoutCarrier=yes\n"
)

func lanHost(address string) string {
	return "[Match]\nName=_vlan\n[Network]\nAddress=" + address + "\nLinkLocalAddressing=no\nConfigureWithoutCarrier=yes\n"
}

// The package comment of networkd promises what a reload is enough for. This is the
// promise, against the real program.
func TestNetworkd_Reload_IsEnoughForAllButLinks(t *testing.T) {
	if !inNetwork(t) {
		return
	}
	n := newNetworkd(t)
	host := n.host()
	files := map[string]string{"10-lan.netdev": lanBridge, "10-_vlan.netdev": lanVeth, "20-_ilan.network": lanPort, "20-lan.network": lanSelf,
		"20-_vlan.network": lanHost("10.9.0.1/24")}
	apply := func(stale ...string) {
		t.Helper()
		if _, err := host.Apply(t.Context(), networkd.Change{Files: files, Stale: stale}); err != nil {
			t.Fatal(err)
		}
	}
	has := func(address string) func() bool {
		return func() bool {
			states, err := host.ReadDevices(t.Context(), []networkd.Device{{Type: networkd.TypeInterface, Name: "lan", Host: "_vlan"}})
			if err != nil {
				t.Fatal(err)
			}
			return cmp.Equal(states["lan"].Addresses, []string{address}) && states["lan"].State == "routable"
		}
	}
	index := func(device string) int {
		t.Helper()
		found, err := net.InterfaceByName(device)
		if err != nil {
			t.Fatal(err)
		}
		return found.Index
	}
	apply()
	await(t, "the first address", has("10.9.0.1"))
	bridge, veth := index("lan"), index("_vlan")

	files["20-_vlan.network"] = lanHost("10.9.0.2/24")
	files["12-more.netdev"] = "[NetDev]\nName=more\nKind=bridge\n"
	apply()
	await(t, "the second address", has("10.9.0.2"))
	await(t, "the new device", func() bool { _, err := net.InterfaceByName("more"); return err == nil })

	files["10-_vlan.netdev"] = lanVeth + "\n[NetDev]\nMTUBytes=1400\n"
	apply("_vlan")
	await(t, "the address on the device that was made again", has("10.9.0.2"))
	if index("_vlan") == veth || index("lan") != bridge {
		t.Errorf("_vlan has index %d, had %d; lan has %d, had %d", index("_vlan"), veth, index("lan"), bridge)
	}
	// Somebody deletes a device; its file stays the same.
	ip(t, "link delete dev more")
	apply()
	await(t, "the device that was gone", func() bool { _, err := net.InterfaceByName("more"); return err == nil })
	if diff := cmp.Diff([]string{"restart", "ip link delete dev _vlan"}, n.ran); diff != "" {
		t.Error(diff)
	}
	ports, err := os.ReadDir("/sys/class/net/lan/brif")
	if err != nil || len(ports) != 1 || ports[0].Name() != "_ilan" {
		t.Errorf("the bridge has %v, %v", ports, err)
	}
}

// The owner sees which cable of a bond is out.
func TestNetworkd_Bond_ShowsItsMembers(t *testing.T) {
	if !inNetwork(t) {
		return
	}
	needKind(t, "bond")
	n := newNetworkd(t)
	for i, name := range []string{"_p1", "_p2"} {
		ip(t, fmt.Sprintf("link add %s address 02:00:00:00:00:0%d type veth peer name far%d", name, i+1, i+1))
	}
	ip(t, "link set far1 up")
	files := map[string]string{
		"11-_bstor.netdev":  "[NetDev]\nName=_bstor\nKind=bond\n[Bond]\nMode=active-backup\nMIIMonitorSec=100ms\n",
		"21-_bstor.network": "[Match]\nName=_bstor\n[Network]\nAddress=10.9.0.1/24\nLinkLocalAddressing=no\n",
		"21-p.network":      "[Match]\nName=_p1 _p2\n[Network]\nBond=_bstor\n",
	}
	if _, err := n.host().Apply(t.Context(), networkd.Change{Files: files}); err != nil {
		t.Fatal(err)
	}
	device := networkd.Device{Type: networkd.TypeBond, Name: "stor", Host: "_bstor", Bond: "_bstor", Cards: []string{"_p1", "_p2"}}
	got := map[string]string{}
	await(t, "the bond", func() bool {
		states, err := n.host().ReadDevices(t.Context(), []networkd.Device{device})
		if err != nil {
			t.Fatal(err)
		}
		stor := states["stor"]
		got = map[string]string{"stor": stor.Type + " " + stor.State + " " + strings.Join(stor.Addresses, " ")}
		for name, member := range stor.Members {
			got[name] = member.Type + " " + member.State
		}
		return stor.State == "routable" && stor.Members["_p1"].State == "enslaved"
	})
	want := map[string]string{"stor": "bond routable 10.9.0.1", "_p1": "bond_member enslaved", "_p2": "bond_member no-carrier"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// wgKey has wg make a key; it gives the private and the public one.
func wgKey(t *testing.T) (private, public string) {
	t.Helper()
	out, err := exec.Command("wg", "genkey").Output()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("wg", "pubkey")
	cmd.Stdin = strings.NewReader(string(out))
	key, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out)), strings.TrimSpace(string(key))
}

// The owner sees that a peer answers, and where it is.
func TestNetworkd_Wireguard_ShowsItsPeer(t *testing.T) {
	if !inNetwork(t, "wg") {
		return
	}
	needKind(t, "wireguard")
	n := newNetworkd(t)
	private, public := wgKey(t)
	peerPrivate, peerPublic := wgKey(t)
	ip(t, "netns add peer")
	ip(t, "link add out0 type veth peer name eth0 netns peer")
	ip(t, "address add 10.9.0.1/24 dev out0")
	ip(t, "link set out0 up")
	ip(t, "-n peer address add 10.9.0.2/24 dev eth0")
	ip(t, "-n peer link set eth0 up")
	ip(t, "-n peer link add wg0 type wireguard")
	key := filepath.Join(t.TempDir(), "key")
	writeFile(t, key, peerPrivate)
	if out, err := exec.Command("ip", "netns", "exec", "peer", "wg", "set", "wg0", "listen-port", "5002", "private-key", key,
		"peer", public, "allowed-ips", "10.3.0.0/24").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	ip(t, "-n peer address add 10.3.0.2/24 dev wg0")
	ip(t, "-n peer link set wg0 up")
	files := map[string]string{
		"13-wg0.netdev": "[NetDev]\nName=wg0\nKind=wireguard\n[WireGuard]\nPrivateKey=" + private + "\nListenPort=5001\n[WireGuardPeer]\nPublicKey=" +
			peerPublic + "\nAllowedIPs=10.3.0.2/32\nEndpoint=10.9.0.2:5002\nPersistentKeepalive=1\n",
		"23-wg0.network": "[Match]\nName=wg0\n[Network]\nAddress=10.3.0.1/24\n",
		"20-out.network": "[Match]\nName=out0\n[Link]\nUnmanaged=yes\n",
	}
	access := map[string]networkd.Access{"13-wg0.netdev": {Mode: 0o640, Group: networkd.KeyGroup}}
	if _, err := n.host().Apply(t.Context(), networkd.Change{Files: files, Access: access}); err != nil {
		t.Fatal(err)
	}
	var state api.NetworkInterfaceState
	await(t, "a handshake", func() bool {
		states, err := n.host().ReadDevices(t.Context(), []networkd.Device{{Type: networkd.TypeWireguard, Name: "wg0", Host: "wg0"}})
		if err != nil {
			t.Fatal(err)
		}
		state = states["wg0"]
		return state.Wireguard != nil && len(state.Wireguard.Peers) == 1 && state.Wireguard.Peers[0].LatestHandshake != ""
	})
	peer := &state.Wireguard.Peers[0]
	if peer.Stats.RXBytes == 0 || peer.Stats.TXBytes == 0 {
		t.Errorf("no traffic was counted: %+v", peer.Stats)
	}
	peer.Stats, peer.LatestHandshake = api.NetworkStatistic{}, ""
	want := &api.NetworkWireguardState{ListeningPort: 5001, PublicKey: public, Peers: []api.NetworkWireguardPeerState{
		{PublicKey: peerPublic, Endpoint: "10.9.0.2:5002", AllowedIPs: []string{"10.3.0.2/32"}, PersistentKeepalive: "1"}}}
	if diff := cmp.Diff(want, state.Wireguard); diff != "" {
		t.Error(diff)
	}
}

// serveProxy serves the node's proxy, and gives a client that goes through it.
func serveProxy(t *testing.T, server api.NetworkProxyServer, options proxy.Options) *http.Client {
	t.Helper()
	data, err := json.Marshal(api.NetworkProxy{Servers: map[string]api.NetworkProxyServer{"corp": server}})
	if err != nil {
		t.Fatal(err)
	}
	config, err := proxy.Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	p, err := proxy.New(config, options)
	if err != nil {
		t.Fatal(err)
	}
	node := httptest.NewServer(p)
	t.Cleanup(node.Close)
	address, err := url.Parse(node.URL)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{Proxy: http.ProxyURL(address)}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// statusOf asks through a client, and gives the code of the answer.
func statusOf(t *testing.T, client *http.Client, address string) int {
	t.Helper()
	resp, err := client.Get(address)
	if err != nil {
		t.Fatal(err)
	}
	if err := resp.Body.Close(); err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode
}

// A proxy as companies have it takes the password that the owner configured.
func TestProxy_RealProxyWithPassword_LetsThrough(t *testing.T) {
	needs.Programs(t, "tinyproxy")
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := free.Addr().(*net.TCPAddr)
	if err := free.Close(); err != nil {
		t.Fatal(err)
	}
	conf := filepath.Join(t.TempDir(), "tinyproxy.conf")
	writeFile(t, conf, fmt.Sprintf("Port %d\nListen 127.0.0.1\nTimeout 30\nMaxClients 20\nBasicAuth node hunter2\n", address.Port))
	upstream := exec.Command("tinyproxy", "-d", "-c", conf)
	if err := upstream.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop(upstream) })
	await(t, "tinyproxy", func() bool {
		conn, err := net.Dial("tcp", address.String())
		return err == nil && conn.Close() == nil
	})
	handler := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) })
	plain, secure := httptest.NewServer(handler), httptest.NewTLSServer(handler)
	t.Cleanup(plain.Close)
	t.Cleanup(secure.Close)
	got := map[string]int{}
	for _, password := range []string{"hunter2", "wrong"} {
		client := serveProxy(t, api.NetworkProxyServer{Auth: "basic", Host: address.String(), Username: "node", Password: password}, proxy.Options{})
		got["http "+password] = statusOf(t, client, plain.URL)
		client.Transport.(*http.Transport).TLSClientConfig = secure.Client().Transport.(*http.Transport).TLSClientConfig
		if password == "hunter2" {
			got["https "+password] = statusOf(t, client, secure.URL)
		}
	}
	// tinyproxy has an answer of its own for what other proxies answer with 407.
	want := map[string]int{"http hunter2": http.StatusTeapot, "https hunter2": http.StatusTeapot, "http wrong": http.StatusUnauthorized}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
