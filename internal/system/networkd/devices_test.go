package networkd_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	api "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/system/networkd"
)

const (
	askLLDP = "networkctl --json=short lldp"
	askWG   = "wg show all dump"
)

// bonding is what the kernel says of a bond with LACP, shortened.
const bonding = `Ethernet Channel Bonding Driver: v6.12.0

Bonding Mode: IEEE 802.3ad Dynamic link aggregation
MII Status: up

802.3ad info
LACP active: on
System MAC address: 02:00:00:00:00:0a
Active Aggregator Info:
	Partner Mac Address: 00:1b:21:aa:bb:cc

Slave Interface: _p02000000000a
MII Status: up
Permanent HW addr: 02:00:00:00:00:0a
details actor lacp pdu:
    system priority: 65535
    system mac address: 02:00:00:00:00:0a
    port key: 15
details partner lacp pdu:
    system priority: 127
    system mac address: 00:1b:21:aa:bb:cc

Slave Interface: _p02000000000b
MII Status: down
details actor lacp pdu:
    system mac address: 02:00:00:00:00:0a
details partner lacp pdu:
    system mac address: 00:00:00:00:00:00
`

// cluster is a node with a bond, a VLAN on it and a WireGuard device.
func cluster(t *testing.T) (string, *programs) {
	t.Helper()
	root := t.TempDir()
	write(t, root, map[string]string{
		"sys/class/net/_p02000000000a/device/vendor": "", "sys/class/net/_p02000000000a/speed": "10000\n",
		"sys/class/net/_p02000000000b/device/vendor": "", "sys/class/net/_p02000000000b/speed": "-1\n",
		"sys/class/net/enp9s0/device/vendor": "", "sys/class/net/enp9s0/speed": "2500\n", "sys/class/net/enp9s0/addr_assign_type": "0\n",
		"sys/class/net/_bstor/speed": "10000\n", "proc/net/bonding/_bstor": bonding,
	})
	return root, &programs{answers: map[string]string{
		askLinks: `[
{"ifname":"_p02000000000a","link_type":"ether","address":"02:00:00:00:00:0a","permaddr":"02:00:00:00:00:0a","mtu":9000,"stats64":{"rx":{"bytes":1},"tx":{"bytes":2}}},
{"ifname":"_p02000000000b","link_type":"ether","address":"02:00:00:00:00:0a","permaddr":"02:00:00:00:00:0b","mtu":9000,"stats64":{"rx":{"errors":3},"tx":{"errors":4}}},
{"ifname":"enp9s0","link_type":"ether","address":"02:00:00:00:00:99","mtu":1500},
{"ifname":"_bstor","link_type":"ether","address":"02:00:00:00:00:0a","mtu":9000,"linkinfo":{"info_kind":"bond"},"stats64":{"rx":{"bytes":5},"tx":{"bytes":6}}},
{"ifname":"_vstor","link_type":"ether","address":"02:00:00:00:00:0a","mtu":8000,"linkinfo":{"info_kind":"veth"},"addr_info":[{"local":"10.1.0.2"},{"local":"fe80::1"}],"stats64":{"rx":{"bytes":77},"tx":{"bytes":77}}},
{"ifname":"guests","link_type":"ether","address":"02:00:00:00:00:0a","mtu":1500,"linkinfo":{"info_kind":"vlan"},"addr_info":[{"local":"10.2.0.2"}],"stats64":{"rx":{"bytes":7},"tx":{"bytes":8}}},
{"ifname":"wg0","link_type":"none","mtu":1420,"linkinfo":{"info_kind":"wireguard"},"addr_info":[{"local":"10.3.0.2"}],"stats64":{"rx":{"bytes":9},"tx":{"bytes":10}}}]`,
		"networkctl --json=short list": `{"Interfaces":[{"Name":"_vstor","OperationalState":"routable"},{"Name":"guests","OperationalState":"routable"},
{"Name":"wg0","OperationalState":"routable"},{"Name":"_p02000000000a","OperationalState":"enslaved"},{"Name":"_p02000000000b","OperationalState":"no-carrier"}]}`,
		"ip -json -4 route show": `[{"dst":"default","gateway":"10.2.0.1","dev":"guests"}]`, "ip -json -6 route show": `[]`,
		askLLDP: `{"Neighbors":[{"InterfaceIndex":3,"InterfaceName":"_p02000000000a","Neighbors":[{"ChassisID":"00:1b:21:aa:bb:cc","RawChassisID":[1],"SystemName":"switch\u001b[1m","PortID":"Te1/1","PortDescription":"rack 4","EnabledCapabilities":4}]}]}`,
		askWG: "wg0\tPRIVATE\tPUBLIC=\t51820\toff\n" +
			"wg0\tPEER1=\t(none)\t198.51.100.7:51820\t10.3.0.0/24,fd00::/64\t1700000000\t123\t456\t25\n" +
			"wg0\tPEER2=\tPRESHARED\t(none)\t(none)\t0\t0\t0\toff\n",
	}, fail: map[string]error{}}
}

var clusterDevices = []networkd.Device{
	{Type: networkd.TypeBond, Name: "stor", Host: "_vstor", Bond: "_bstor", Cards: []string{"_p02000000000a", "_p02000000000b", "_p02000000000c"}, Hwaddr: "02:00:00:00:00:0a"},
	{Type: networkd.TypeVLAN, Name: "guests", Host: "guests"},
	{Type: networkd.TypeWireguard, Name: "wg0", Host: "wg0"},
	{Type: networkd.TypeInterface, Name: "lan", Host: "_vlan", Cards: []string{"_p02000000000d"}, Hwaddr: "02:00:00:00:00:0d"},
}

// The owner sees each device with what belongs to it: which cable of a bond is out,
// which switch it ends in, and which peer answered last.
func TestReadDevices_AllTypes_GiveTheirState(t *testing.T) {
	root, p := cluster(t)
	got, err := networkd.Host{Root: root, Run: p.run}.ReadDevices(t.Context(), clusterDevices)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]api.NetworkInterfaceState{
		"stor": {
			Type: "bond", State: "routable", Addresses: []string{"10.1.0.2"}, Hwaddr: "02:00:00:00:00:0a", MTU: 8000, Speed: "10000",
			Stats: api.NetworkStatistic{RXBytes: 5, TXBytes: 6},
			Members: map[string]api.NetworkInterfaceState{
				"_p02000000000a": {
					Type: "bond_member", State: "enslaved", Hwaddr: "02:00:00:00:00:0a", MTU: 9000, Speed: "10000",
					Stats: api.NetworkStatistic{RXBytes: 1, TXBytes: 2},
					LLDP:  []api.NetworkLLDP{{ChassisID: "00:1b:21:aa:bb:cc", Name: "switch\ufffd[1m", PortID: "Te1/1", Port: "rack 4"}},
					LACP:  &api.NetworkLACP{LocalMAC: "02:00:00:00:00:0a", RemoteMAC: "00:1b:21:aa:bb:cc"},
				},
				"_p02000000000b": {
					Type: "bond_member", State: "no-carrier", Hwaddr: "02:00:00:00:00:0b", MTU: 9000, Speed: "unknown",
					Stats: api.NetworkStatistic{RXErrors: 3, TXErrors: 4},
					LACP:  &api.NetworkLACP{LocalMAC: "02:00:00:00:00:0a", RemoteMAC: "00:00:00:00:00:00"},
				},
				"_p02000000000c": {Type: "bond_member", State: "missing", Speed: "unknown"},
			},
		},
		"guests": {
			Type: "vlan", State: "routable", Addresses: []string{"10.2.0.2"}, Hwaddr: "02:00:00:00:00:0a", MTU: 1500, Speed: "unknown",
			Routes: []api.NetworkRoute{{To: "0.0.0.0/0", Via: "10.2.0.1"}}, Stats: api.NetworkStatistic{RXBytes: 7, TXBytes: 8},
		},
		"wg0": {
			Type: "wireguard", State: "routable", Addresses: []string{"10.3.0.2"}, MTU: 1420, Speed: "unknown",
			Stats: api.NetworkStatistic{RXBytes: 9, TXBytes: 10},
			Wireguard: &api.NetworkWireguardState{ListeningPort: 51820, PublicKey: "PUBLIC=", Peers: []api.NetworkWireguardPeerState{
				{PublicKey: "PEER1=", Endpoint: "198.51.100.7:51820", AllowedIPs: []string{"10.3.0.0/24", "fd00::/64"}, LatestHandshake: "2023-11-14T22:13:20Z",
					PersistentKeepalive: "25", Stats: api.NetworkStatistic{RXBytes: 123, TXBytes: 456}},
				{PublicKey: "PEER2="},
			}},
		},
		"lan":    {Type: "interface", State: "missing", Hwaddr: "02:00:00:00:00:0d", Speed: "unknown"},
		"enp9s0": {Type: "physical", State: "unknown", Hwaddr: "02:00:00:00:00:99", MTU: 1500, Speed: "2500"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	programs := []string{askLinks, "networkctl --json=short list", "ip -json -4 route show", "ip -json -6 route show", askLLDP, askWG}
	if diff := cmp.Diff(programs, p.got); diff != "" {
		t.Error(diff)
	}
}

// A node without WireGuard need not have its program, nor a kernel that knows it.
func TestReadDevices_NoWireguard_DoesNotAskForIt(t *testing.T) {
	root, p := cluster(t)
	p.fail[askWG] = errors.New("no such program")
	host := networkd.Host{Root: root, Run: p.run}
	if _, err := host.ReadDevices(t.Context(), clusterDevices[:2]); err != nil {
		t.Error(err)
	}
	if _, err := host.ReadDevices(t.Context(), clusterDevices); !errors.Is(err, p.fail[askWG]) {
		t.Errorf("got %v", err)
	}
}

// The answer of wg holds keys. An answer that cannot be read must not put them into a
// log.
func TestWireguard_UnknownAnswer_IsAnErrorWithoutKeys(t *testing.T) {
	for answer, want := range map[string]string{
		"wg0\tPRIVATE\n": "line 1: 2 fields",
		"wg0\tPRIVATE\tPUBLIC\t1\toff\nwg1\tK\tPSK\t(none)\t(none)\t0\t0\t0\toff\n": "line 2: 9 fields",
	} {
		p := programs{answers: map[string]string{askWG: answer}}
		_, err := networkd.Host{Run: p.run}.Wireguard(t.Context())
		if want := "listing WireGuard devices: reading the answer of wg: " + want; err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	p := programs{answers: map[string]string{askWG: "wg0\tPRIVATE\tPUBLIC\tx\toff\n"}}
	if _, err := (networkd.Host{Run: p.run}).Wireguard(t.Context()); err == nil || strings.Contains(err.Error(), "PRIVATE") {
		t.Errorf("got %v", err)
	}
}

// Anybody on the wire can send LLDP.
func FuzzNeighbours(f *testing.F) {
	f.Add(`{"Neighbors":[{"InterfaceName":"a","Neighbors":[{"ChassisID":"x","SystemName":"\u001b"}]}]}`)
	f.Fuzz(func(t *testing.T, answer string) {
		p := programs{answers: map[string]string{askLLDP: answer}}
		all, err := networkd.Host{Run: p.run}.Neighbours(t.Context())
		if err != nil {
			return
		}
		for _, neighbours := range all {
			if len(neighbours) > 64 {
				t.Errorf("%d neighbours of one card", len(neighbours))
			}
			for _, n := range neighbours {
				for _, text := range []string{n.ChassisID, n.Name, n.PortID, n.Port} {
					if len([]rune(text)) > 255 || strings.ContainsAny(text, "\x00\x07\x1b\n\r\u009b\u202e") {
						t.Errorf("got %q", text)
					}
				}
			}
		}
	})
}
