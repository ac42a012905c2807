package network_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	api "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/network"
)

var twoCards = network.World{Cards: []network.Card{
	{Name: "eth0", Hwaddr: mac, Permanent: true}, {Name: "eth1", Hwaddr: "02:00:00:00:00:02", Permanent: true}}}

// node is a configuration of each kind of device.
func node() api.NetworkConfig {
	return api.NetworkConfig{
		Interfaces: []api.NetworkInterface{{Name: "lan", Hwaddr: mac, Addresses: []string{"192.0.2.5/24"}}, {Name: "guests", Hwaddr: "eth1"}},
		VLANs:      []api.NetworkVLAN{{Name: "mgmt", Parent: "lan", ID: 10}},
		Wireguard: []api.NetworkWireguard{{Name: "vpn", PrivateKey: key, Peers: []api.NetworkWireguardPeer{
			{PublicKey: "XjkUN/8MinmbnJOBZgqORQ1heUVcRjw2zNWQowNGEEo=", PresharedKey: key}}}},
	}
}

func mustPlan(t testing.TB, c api.NetworkConfig) network.Plan {
	t.Helper()
	plan, err := network.NewPlan(c, twoCards)
	if err != nil {
		t.Fatal(err)
	}
	return plan
}

// A change does what it must and no more: each restart is felt, and "disconnects" makes
// people wait for a maintenance window.
func TestChange_OneThing_TouchesNothingElse(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*api.NetworkConfig)
		want   string
	}{
		"nothing": {func(*api.NetworkConfig) {}, "disconnects false\n"},
		"role":    {func(c *api.NetworkConfig) { c.Interfaces[0].Roles = []string{"cluster"} }, "disconnects false\n"},
		"address": {func(c *api.NetworkConfig) { c.Interfaces[0].Addresses = []string{"192.0.2.6/24"} },
			"disconnects true\nwrite-file /run/systemd/network/20-_vlan.network\nrestart-unit systemd-networkd.service\n"},
		"tag of guests": {func(c *api.NetworkConfig) { c.Interfaces[1].VLANTags = []int{7} },
			"disconnects false\nwrite-file /run/systemd/network/20-_i020000000002.network\nwrite-file /run/systemd/network/20-_p020000000002.network\n" +
				"restart-unit systemd-networkd.service\n"},
		"frames of the card below a VLAN": {func(c *api.NetworkConfig) { c.Interfaces[0].MTU = 9000 },
			`disconnects true
write-file /run/systemd/network/00-_p020000000001.link
write-file /run/systemd/network/10-_vlan.netdev
write-file /run/systemd/network/20-_i020000000001.network
write-file /run/systemd/network/20-_p020000000001.network
write-file /run/systemd/network/20-_vlan.network
write-file /run/systemd/network/20-lan.network
delete-device _vlan
use-tool network cards network-cards [02:00:00:00:00:01=_p020000000001 02:00:00:00:00:02=_p020000000002]
restart-unit systemd-networkd.service
create-device _vlan
create-device mgmt
`},
		"preshared key": {func(c *api.NetworkConfig) {
			c.Wireguard[0].Peers[0].PresharedKey = "TbdiDHZpxZ0q4Dvtm4vTQM0oegGNBs3UNiwQSR/awj4="
		}, `disconnects false
write-file /run/systemd/network/13-vpn-peer0.key mode 0640 secret
use-tool keys group [systemd-network /run/systemd/network/13-vpn-peer0.key]
delete-device vpn
restart-unit systemd-networkd.service
create-device vpn
`},
		"firewall": {func(c *api.NetworkConfig) { c.Firewall = &api.NetworkFirewall{InputPolicy: "drop"} },
			"disconnects true\nwrite-file /run/holdfast/network.nft\nuse-tool firewall nft [/run/holdfast/network.nft]\n" +
				"note The firewall drops what comes to TCP port 8443: nobody can reach the node's API over the network.\n"},
		"time servers": {func(c *api.NetworkConfig) { c.Time = &api.NetworkTime{Timezone: "Europe/Zurich"} },
			"disconnects false\nuse-tool time zone timezone [Europe/Zurich]\n"},
		"name": {func(c *api.NetworkConfig) { c.DNS = &api.NetworkDNS{Hostname: "node1"} },
			"disconnects false\nwrite-file /etc/hostname\nset-value /proc/sys/kernel/hostname\nwrite-file /etc/hosts\n"},
		"proxy": {func(c *api.NetworkConfig) { c.Proxy = &api.NetworkProxy{} },
			"disconnects false\nwrite-file /etc/environment\nwrite-file /run/holdfast/proxy.json mode 0600 secret\nrestart-unit holdfast-proxy.service\n"},
		"guests gone": {func(c *api.NetworkConfig) { c.Interfaces = c.Interfaces[:1] },
			`disconnects true
write-file /run/holdfast/network.nft
use-tool firewall nft [/run/holdfast/network.nft]
remove-file /run/systemd/network/00-_p020000000002.link
remove-file /run/systemd/network/10-_vguests.netdev
remove-file /run/systemd/network/10-guests.netdev
remove-file /run/systemd/network/20-_i020000000002.network
remove-file /run/systemd/network/20-_p020000000002.network
remove-file /run/systemd/network/20-_vguests.network
remove-file /run/systemd/network/20-guests.network
delete-device _vguests
delete-device guests
use-tool network cards network-cards [02:00:00:00:00:01=_p020000000001]
restart-unit systemd-networkd.service
`},
	} {
		t.Run(name, func(t *testing.T) {
			next := node()
			c.change(&next)
			if diff := cmp.Diff(c.want, planText(network.Change(mustPlan(t, node()), mustPlan(t, next)))); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// A bond takes its cards and gives them back; each of its devices goes once.
func TestStale_BondInPlaceOfInterface_OldDevicesGo(t *testing.T) {
	bond := api.NetworkConfig{Bonds: []api.NetworkBond{{Name: "lan", Mode: "broadcast", Members: []string{"eth0", "eth1"}}}}
	there := network.Stale(mustPlan(t, node()), mustPlan(t, bond))
	if diff := cmp.Diff([]string{"_vguests", "_vlan", "guests", "lan", "mgmt", "vpn"}, there); diff != "" {
		t.Error(diff)
	}
	mode := bond
	mode.Bonds = []api.NetworkBond{{Name: "lan", Mode: "balance-rr", Members: []string{"eth0", "eth1"}}}
	if diff := cmp.Diff([]string{"_blan"}, network.Stale(mustPlan(t, bond), mustPlan(t, mode))); diff != "" {
		t.Error(diff)
	}
}

// The start of a node waits for what is required alone: a tunnel has its addresses
// without any network, and what has none is never online.
func TestNewPlan_WhatToWaitFor(t *testing.T) {
	type wait struct {
		All bool
		Any []string
	}
	for name, c := range map[string]struct {
		change func(*api.NetworkConfig)
		want   wait
	}{
		"required by default": {func(*api.NetworkConfig) {}, wait{All: true}},
		"VLAN alone": {func(c *api.NetworkConfig) {
			c.Interfaces[0].Addresses, c.VLANs[0].Addresses = nil, []string{"dhcp4"}
		}, wait{All: true}},
		"none required": {func(c *api.NetworkConfig) {
			c.Interfaces[0].RequiredForOnline = "no"
			c.VLANs[0].Addresses, c.VLANs[0].RequiredForOnline = []string{"dhcp4"}, "no"
			c.Wireguard[0].Addresses = []string{"10.9.0.1/24"}
		}, wait{Any: []string{"_vlan", "mgmt"}}},
		"tunnel asked for": {func(c *api.NetworkConfig) {
			c.Interfaces[0].RequiredForOnline = "no"
			c.Wireguard[0].Addresses, c.Wireguard[0].RequiredForOnline = []string{"10.9.0.1/24"}, "ipv4"
		}, wait{All: true}},
		"tunnel alone has addresses": {func(c *api.NetworkConfig) {
			c.Interfaces[0].Addresses = nil
			c.Wireguard[0].Addresses = []string{"10.9.0.1/24"}
		}, wait{}},
	} {
		t.Run(name, func(t *testing.T) {
			config := node()
			c.change(&config)
			plan := mustPlan(t, config)
			if diff := cmp.Diff(c.want, wait{plan.WaitAll, plan.WaitAny}); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// Without a kept key a node would show its peers a new face at each start.
func TestNewPlan_NoPrivateKey_IsAProblem(t *testing.T) {
	c := node()
	c.Wireguard[0].PrivateKey = ""
	_, err := network.NewPlan(c, twoCards)
	want := network.Problems{{Path: "wireguard[0].private_key", Rule: "required", Text: "is missing, and none was made yet"}}
	if diff := cmp.Diff(error(want), err); diff != "" {
		t.Error(diff)
	}
}

// Planning is not allowed to change what it was given: the daemon keeps it.
func TestNewPlan_Configuration_StaysAsItWas(t *testing.T) {
	c := node()
	mustPlan(t, c)
	if diff := cmp.Diff(node(), c); diff != "" {
		t.Error(diff)
	}
}

// A tunnel has roles as others have.
func TestAssignRoles_OtherKinds_HaveTheirRoles(t *testing.T) {
	c := node()
	c.VLANs[0].Roles, c.Wireguard[0].Roles = []string{"management"}, []string{"cluster"}
	states := map[string]api.NetworkInterfaceState{"lan": {State: "routable"}, "mgmt": {}, "vpn": {State: "routable"}}
	network.AssignRoles(c, states)
	want := map[string]api.NetworkInterfaceState{"lan": {State: "routable"}, "mgmt": {Roles: []string{"management"}},
		"vpn": {State: "routable", Roles: []string{"cluster"}}}
	if diff := cmp.Diff(want, states); diff != "" {
		t.Error(diff)
	}
}
