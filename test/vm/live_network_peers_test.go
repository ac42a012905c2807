package vm

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	api "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/client"
	"github.com/holdfast-os/holdfast/internal/lab"
	"github.com/holdfast-os/holdfast/internal/system/qemu"
	"github.com/holdfast-os/holdfast/test/needs"
	"github.com/holdfast-os/holdfast/test/vm/peers"
)

// networkName is the clone with two cards more than the base machine, on a switch with
// servers. Its first card leads to this computer as that of every lab.
func networkName() string { return baseName + "-network" }

// Where things are. The node's own addresses are those that the tests give it.
const (
	peerV4, peerV6       = "192.0.2.1", "2001:db8::1"
	nodeV4, nodeV6       = "192.0.2.10", "2001:db8::10"
	peerVLAN, nodeVLAN   = "198.51.100.1", "198.51.100.10"
	peerTunnel           = "203.0.113.1"
	nodeTunnel           = "203.0.113.10"
	vlanID, tunnelPort   = 42, 51820
	apiPort, proxyPort   = "8443", "3128"
	proxyName, logsName  = "proxy.example.test", "logs.example.test"
	realm                = "EXAMPLE.TEST"
	basicUser, basicWord = "node", "swordfish"
	realmUser, realmWord = "node1", "hunter2"

	// The servers have these addresses as well: rules of the node's firewall speak of them.
	droppedV4, rejectedV4 = "192.0.2.66", "192.0.2.67"
	// The proxy alone knows these names; both are the server of releases.
	releasesBasic, releasesKerberos = "releases.example.test", "kerberos.example.test"
)

const (
	// changeLimit bounds one change of the network, reachLimit waiting for a way to the
	// node; a packet without an answer for dialLimit counts as dropped.
	changeLimit = 2 * time.Minute
	reachLimit  = time.Minute
	dialLimit   = 3 * time.Second
)

// rig is that node with all that is around it.
type rig struct {
	*node
	side *peers.Side
	room *peers.Switch
	// lan is the computer with all servers; it is behind the switch, on the plain network
	// (eth0) and on the VLAN (eth42).
	lan  *peers.Namespace
	taps []string
	// base is the configuration of the network that each test begins with, number the
	// change that made it.
	base   api.NetworkConfig
	number int
	keytab string
	logs   peers.Authority
}

// needPeers skips a test where no networks with servers can be made.
func needPeers(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("this test makes networks: run it as root")
	}
	if missing := peers.Missing(); missing != "" {
		needs.Missing(t, missing)
	}
}

// newRig starts switch and servers and then the node.
func newRig(t *testing.T) *rig {
	t.Helper()
	needPeers(t)
	r := &rig{}
	var err error
	if r.side, err = peers.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			r.keepSide(t)
		}
		if err := r.side.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := r.cable(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := r.serve(t.Context()); err != nil {
		t.Fatal(err)
	}
	// It runs until the switch is gone: what is put off runs last in, first out.
	t.Cleanup(func() {
		if t.Failed() && r.node != nil {
			r.keepNode(t)
		}
		removeClone(t, networkName())
	})
	restore(t, lab.Options{Name: networkName(), From: baseName, Variant: lab.VariantTest, NoSnapshot: true, Hardware: lab.Hardware{Taps: r.taps}})
	r.node = watched(t, newNode(t, networkName()))
	return r
}

// keepSide shows the end of what each server wrote.
func (r *rig) keepSide(t *testing.T) {
	t.Helper()
	for name, text := range r.side.Outputs() {
		t.Logf("%s: %s", name, text)
	}
}

// keepNode shows the node's own view, from inside: over the network it may not answer.
func (r *rig) keepNode(t *testing.T) {
	t.Helper()
	for _, argv := range [][]string{
		{"ip", "address"}, {"networkctl", "--no-pager"}, {"bridge", "vlan"}, {"nft", "list", "ruleset"},
		{"journalctl", "-b", "-n", "400", "--no-pager", "-o", "short-monotonic", "-u", "holdfastd", "-u", "systemd-networkd"},
	} {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		result, err := machines.lab.Exec(ctx, r.name, argv)
		cancel()
		t.Logf("on the node, %s: %v\n%s%s", strings.Join(argv, " "), err, result.Stdout, result.Stderr)
	}
}

// cable makes the switch with the computer of the servers and the node's cards.
func (r *rig) cable(ctx context.Context) (err error) {
	if r.room, err = r.side.Switch(ctx); err != nil {
		return err
	}
	if r.lan, err = r.side.Namespace(ctx, "lan"); err != nil {
		return err
	}
	err = r.room.Attach(ctx, r.lan, "eth0", 0, peerV4+"/24", droppedV4+"/24", rejectedV4+"/24", peerV6+"/64")
	if err == nil {
		err = r.room.Attach(ctx, r.lan, "eth42", vlanID, peerVLAN+"/24")
	}
	for _, end := range []string{"t0", "t1"} {
		if err == nil {
			var tap string
			tap, err = r.room.Tap(ctx, end)
			r.taps = append(r.taps, tap)
		}
	}
	return err
}

// serve starts the servers.
func (r *rig) serve(ctx context.Context) (err error) {
	err = r.lan.Dnsmasq(ctx, peerV4, "dhcp-range=192.0.2.100,192.0.2.120,255.255.255.0,1h", "dhcp-option=option:router",
		"enable-ra", "dhcp-range=2001:db8::,ra-only,64,1h", "ra-param=eth0,10,0", "interface=eth0", "dhcp-authoritative",
		"host-record="+proxyName+","+peerV4, "host-record=kdc.example.test,"+peerV4,
		"srv-host=_kerberos._tcp."+realm+",kdc.example.test,88", "srv-host=_kerberos._udp."+realm+",kdc.example.test,88")
	if err != nil {
		return err
	}
	if err := r.lan.Chrony(ctx, peerV4); err != nil {
		return err
	}
	now := time.Now()
	if r.logs, err = peers.NewAuthority("logs", now); err != nil {
		return err
	}
	identity, err := r.logs.Issue(r.side, logsName, now)
	if err != nil {
		return err
	}
	if err := r.lan.Rsyslog(ctx, peers.Syslog{UDP: peerV4 + ":514", TCP: peerV4 + ":601", TLS: peerV4 + ":6514", Identity: identity}); err != nil {
		return err
	}
	service := "HTTP/" + proxyName
	r.keytab, err = r.lan.KDC(ctx, peers.Realm{Name: realm, Address: peerV4, Users: map[string]string{realmUser: realmWord}, Service: service})
	if err != nil {
		return err
	}
	err = r.lan.Squid(ctx, peers.Proxy{Address: peerV4 + ":" + proxyPort, User: basicUser, Password: basicWord, Keytab: r.keytab,
		Principal: service + "@" + realm, Hosts: map[string]string{releasesBasic: "127.0.0.1", releasesKerberos: "127.0.0.1"}})
	if err != nil {
		return err
	}
	return r.lan.Serve(ctx, "127.0.0.1:8081", machines.tree)
}

// step runs one part of the test on the node that they share. What comes behind one that
// failed is tried all the same, from the same configuration.
func (r *rig) step(t *testing.T, claim string, work func(*testing.T)) {
	t.Helper()
	t.Run(claim, func(t *testing.T) {
		if r.number > 0 {
			t.Cleanup(func() { r.goBack(t) })
		}
		work(t)
	})
}

// goBack rolls back to the configuration that each part begins with, all of it.
func (r *rig) goBack(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), changeLimit)
	defer cancel()
	err := poll(ctx, changeLimit, func(ctx context.Context) (bool, error) {
		_, err := r.api.Rollback(ctx, r.number, 0)
		if client.IsCode(err, 409) {
			err = errors.Join(err, r.api.RevertConfig(ctx)) // a part that failed has left it behind
		}
		return err == nil, err
	})
	if err != nil {
		t.Errorf("rolling back to change %d: %v", r.number, err)
		return
	}
	got, err := r.api.Network(ctx)
	if err != nil {
		t.Error(err)
		return
	}
	if diff := cmp.Diff(&r.base, got.Config); diff != "" {
		t.Errorf("the network after rolling back to change %d (-want +got):\n%s", r.number, diff)
	}
}

// set changes the network, and fails when the node refuses.
func (r *rig) set(t *testing.T, c api.NetworkConfig) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), changeLimit)
	defer cancel()
	if err := r.api.SetSection(ctx, client.SectionNetwork, c, client.ChangeOptions{}); err != nil {
		t.Fatal(err)
	}
}

// network is what the node says about its network.
func (r *rig) network(t *testing.T) api.Network {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), shortLimit)
	defer cancel()
	got, err := r.api.Network(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// with is the base configuration with changes.
func (r *rig) with(change func(*api.NetworkConfig)) api.NetworkConfig {
	c := r.base
	c.Interfaces, c.Bonds, c.VLANs = slices.Clone(c.Interfaces), slices.Clone(c.Bonds), slices.Clone(c.VLANs)
	change(&c)
	return c
}

// card is the node's card at a tap, by its MAC address.
func card(i int) string { return qemu.TapHwaddr(i) }

// lanInterface is the first of the two cards with fixed addresses.
func lanInterface() api.NetworkInterface {
	return api.NetworkInterface{Name: "lan", Hwaddr: card(0), Addresses: []string{nodeV4 + "/24", nodeV6 + "/64"}, RequiredForOnline: "no"}
}

// outcome is what came of dialing, in one word.
func outcome(err error) string {
	var timeout net.Error
	switch {
	case err == nil:
		return "accepted"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "refused"
	case errors.As(err, &timeout) && timeout.Timeout():
		return "dropped"
	}
	return err.Error()
}

// dial tries the node's API from an address of the servers; empty means any.
func (r *rig) dial(ctx context.Context, from, to string) error {
	ctx, cancel := context.WithTimeout(ctx, dialLimit)
	defer cancel()
	var local net.Addr
	if from != "" {
		local = net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(from), 0))
	}
	conn, err := r.lan.DialFrom(ctx, local, "tcp", net.JoinHostPort(to, apiPort))
	if err != nil {
		return err
	}
	return conn.Close()
}

// reach waits until the node's API can be dialed at an address.
func (r *rig) reach(t *testing.T, to string) {
	t.Helper()
	until(t, reachLimit, "waiting for the node at "+to, func(ctx context.Context) (bool, error) {
		err := r.dial(ctx, "", to)
		return err == nil, err
	})
}

// over is a client that goes to the node by one of its addresses on the switch.
func (r *rig) over(t *testing.T, to string) *client.Client {
	t.Helper()
	address, err := r.lan.Forward(t.Context(), net.JoinHostPort(to, apiPort))
	if err != nil {
		t.Fatal(err)
	}
	c, err := client.New(client.Options{Endpoint: "https://" + address, CertFile: r.file("client.crt"), KeyFile: r.file("client.key"), ServerCertFile: r.file("server.crt")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// unplug takes the cable out of a card, or puts it in again.
func (r *rig) unplug(t *testing.T, i int, plugged bool) {
	t.Helper()
	control, err := r.control(t.Context(), "qmp.sock")
	if err != nil {
		t.Fatal(err)
	}
	defer control.Close()
	ctx, cancel := context.WithTimeout(t.Context(), shortLimit)
	defer cancel()
	if err := control.Execute(ctx, "set_link", map[string]any{"name": fmt.Sprintf("tap%d", i), "up": plugged}, nil); err != nil {
		t.Fatal(err)
	}
}

// inGuest runs a program on the node, which the test variant allows, and gives its output.
func (r *rig) inGuest(t *testing.T, argv ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	result, err := machines.lab.Exec(ctx, r.name, argv)
	if err != nil {
		t.Fatal(err)
	}
	if result.Code != 0 {
		t.Fatalf("%s ended with %d: %s", strings.Join(argv, " "), result.Code, result.Stderr)
	}
	return string(result.Stdout)
}
