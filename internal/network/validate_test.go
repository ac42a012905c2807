package network_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	api "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/config"
	"github.com/holdfast-os/holdfast/internal/network"
)

const (
	mac = "02:00:00:00:00:01"
	// key is one of WireGuard.
	key = "CNM1A+4n1MEwVdDO/sXnML5O8uQc1s/OQ0k27B58nUs="
)

func two() []api.NetworkInterface {
	return []api.NetworkInterface{{Name: "a", Hwaddr: "02:00:00:00:00:0a"}, {Name: "enx02000000000b", Hwaddr: "02:00:00:00:00:0b"}}
}

func one(change func(*api.NetworkInterface)) api.NetworkConfig {
	n := api.NetworkInterface{Name: "lan", Hwaddr: mac}
	change(&n)
	return api.NetworkConfig{Interfaces: []api.NetworkInterface{n}}
}

// A refused configuration costs its owner one round: each rule must name its field,
// and a good value must pass. Values with a line break would forge networkd settings.
func TestValidate_BrokenRule_NamesFieldAndRule(t *testing.T) {
	for name, c := range map[string]struct {
		config api.NetworkConfig
		want   []string
	}{
		"good":           {one(func(n *api.NetworkInterface) {}), nil},
		"empty":          {api.NetworkConfig{}, nil},
		"13 characters":  {one(func(n *api.NetworkInterface) { n.Name = "abcdefghijklm" }), nil},
		"14 characters":  {one(func(n *api.NetworkInterface) { n.Name = "abcdefghijklmn" }), []string{"interfaces[0].name name"}},
		"made of a MAC":  {one(func(n *api.NetworkInterface) { n.Name = "enx0200000000ab" }), nil},
		"no name":        {one(func(n *api.NetworkInterface) { n.Name = "" }), []string{"interfaces[0].name name"}},
		"own name":       {one(func(n *api.NetworkInterface) { n.Name = "_vlan" }), []string{"interfaces[0].name name"}},
		"name with dir":  {one(func(n *api.NetworkInterface) { n.Name = "../lan" }), []string{"interfaces[0].name name"}},
		"name with line": {one(func(n *api.NetworkInterface) { n.Name = "a\nb" }), []string{"interfaces[0].name name"}},
		"digits":         {one(func(n *api.NetworkInterface) { n.Name = "12" }), []string{"interfaces[0].name name"}},
		"loopback":       {one(func(n *api.NetworkInterface) { n.Name = "lo" }), []string{"interfaces[0].name name"}},
		"no card":        {one(func(n *api.NetworkInterface) { n.Hwaddr = "" }), []string{"interfaces[0].hwaddr required"}},
		"card by name":   {one(func(n *api.NetworkInterface) { n.Hwaddr = "enp0s2" }), nil},
		"multicast MAC":  {one(func(n *api.NetworkInterface) { n.Hwaddr = "01:00:5e:00:00:01" }), []string{"interfaces[0].hwaddr mac"}},
		"addresses": {one(func(n *api.NetworkInterface) {
			n.Addresses = []string{"dhcp4", "dhcp6", "slaac", "192.0.2.1/24", "2001:db8::1/64"}
		}), nil},
		"bad addresses": {one(func(n *api.NetworkInterface) {
			n.Addresses = []string{"dhcp", "192.0.2.1", "192.0.2.1/33", "fe80::1%lan/64", "dhcp4", "dhcp4", "0.0.0.0/0"}
		}), []string{"interfaces[0].addresses[0] address", "interfaces[0].addresses[1] address", "interfaces[0].addresses[2] address",
			"interfaces[0].addresses[3] address", "interfaces[0].addresses[5] unique", "interfaces[0].addresses[6] address"}},
		"too many addresses": {one(func(n *api.NetworkInterface) {
			n.Addresses = strings.Fields(strings.Repeat("x ", 257))
		}), []string{"interfaces[0].addresses limit"}},
		"routes": {one(func(n *api.NetworkInterface) {
			n.Addresses = []string{"dhcp4", "dhcp6"}
			n.Routes = []api.NetworkRoute{{To: "0.0.0.0/0", Via: "dhcp4"}, {To: "::/0", Via: "slaac"}, {To: "192.0.2.0/24", Via: "2001:db8::1"}}
		}), nil},
		"route without source": {one(func(n *api.NetworkInterface) {
			n.Addresses = []string{"dhcp4"}
			n.Routes = []api.NetworkRoute{{To: "::/0", Via: "slaac"}}
		}), []string{"interfaces[0].routes[0].via source"}},
		"bad routes": {one(func(n *api.NetworkInterface) {
			n.Addresses = []string{"dhcp4", "slaac"}
			n.Routes = []api.NetworkRoute{{To: "default", Via: "192.0.2.1"}, {To: "::/0", Via: "dhcp4"}, {To: "::/0", Via: "192.0.2.1"},
				{To: "0.0.0.0/0", Via: "gw"}, {To: "0.0.0.0/0", Via: "slaac"}}
		}), []string{"interfaces[0].routes[0].to cidr", "interfaces[0].routes[1].via family", "interfaces[0].routes[2].via family",
			"interfaces[0].routes[3].via address", "interfaces[0].routes[4].via family"}},
		"roles": {one(func(n *api.NetworkInterface) { n.Roles = []string{"management", "boss", "management"} }),
			[]string{"interfaces[0].roles[1] word", "interfaces[0].roles[2] unique"}},
		"smallest MTU": {one(func(n *api.NetworkInterface) { n.MTU = 1280 }), nil},
		"small MTU":    {one(func(n *api.NetworkInterface) { n.MTU = 1279 }), []string{"interfaces[0].mtu range"}},
		"large MTU":    {one(func(n *api.NetworkInterface) { n.MTU = 9001 }), []string{"interfaces[0].mtu range"}},
		"online":       {one(func(n *api.NetworkInterface) { n.RequiredForOnline = "yes" }), []string{"interfaces[0].required_for_online word"}},
		"twice": {api.NetworkConfig{Interfaces: []api.NetworkInterface{{Name: "a", Hwaddr: "02:00:00:00:00:0a"}, {Name: "a", Hwaddr: "02:00:00:00:00:0A"}}},
			[]string{"interfaces[1].name unique", "interfaces[1].hwaddr unique"}},
		"names": {api.NetworkConfig{DNS: &api.NetworkDNS{Hostname: "node-1", Domain: "example.org", SearchDomains: []string{"~.", "~corp", "a.b."},
			Nameservers: []string{"192.0.2.1", "2001:db8::1", "192.0.2.1:5353", "192.0.2.1#dns.example.org", "[2001:db8::1]:53#a"}}}, nil},
		"bad names": {api.NetworkConfig{DNS: &api.NetworkDNS{Hostname: "a.b", Domain: "x\ny", SearchDomains: []string{"a b"},
			Nameservers: []string{"dns.example.org", "192.0.2.1\nDomains=~."}}},
			[]string{"dns.hostname label", "dns.domain domain", "dns.nameservers[0] address", "dns.nameservers[1] address", "dns.search_domains[0] domain"}},
		"domain alone": {api.NetworkConfig{DNS: &api.NetworkDNS{Domain: "example.org"}}, []string{"dns.domain required"}},
		"long name":    {api.NetworkConfig{DNS: &api.NetworkDNS{Hostname: strings.Repeat("a", 60), Domain: "a.org"}}, []string{"dns.hostname limit"}},
		"time":         {api.NetworkConfig{Time: &api.NetworkTime{Timezone: "America/Port-au-Prince", NTPServers: []string{"ntp.example.org", "2001:db8::1"}}}, nil},
		"bad time": {api.NetworkConfig{Time: &api.NetworkTime{Timezone: "../../shadow", NTPServers: []string{"a b"}}},
			[]string{"time.ntp_servers[0] host", "time.timezone timezone"}},
		"time with a zone": {api.NetworkConfig{Time: &api.NetworkTime{NTPServers: []string{"fe80::1%a\nDNS=192.0.2.66"}}},
			[]string{"time.ntp_servers[0] host"}},
		"confirmation":     {api.NetworkConfig{ConfirmationTimeout: "90s"}, nil},
		"no confirmation":  {api.NetworkConfig{ConfirmationTimeout: "0s"}, []string{"confirmation_timeout duration"}},
		"odd confirmation": {api.NetworkConfig{ConfirmationTimeout: "soon"}, []string{"confirmation_timeout duration"}},
		"input policy":     {api.NetworkConfig{Firewall: &api.NetworkFirewall{InputPolicy: "reject"}}, []string{"firewall.input_policy word"}},
		"VLAN tags":        {one(func(n *api.NetworkInterface) { n.VLANTags = []int{1, 4094} }), nil},
		"bad VLAN tags":    {one(func(n *api.NetworkInterface) { n.VLANTags = []int{0, 4095, 7, 7} }), []string{"interfaces[0].vlan_tags[0] range", "interfaces[0].vlan_tags[1] range", "interfaces[0].vlan_tags[3] unique"}},
		"too many tags":    {one(func(n *api.NetworkInterface) { n.VLANTags = make([]int, 4095) }), []string{"interfaces[0].vlan_tags limit"}},
		"wake on LAN": {one(func(n *api.NetworkInterface) {
			n.Ethernet = &api.NetworkEthernet{WakeOnLAN: true, WakeOnLANModes: []string{"phy", "arp"}}
		}), nil},
		"odd wake on LAN": {one(func(n *api.NetworkInterface) {
			n.Ethernet = &api.NetworkEthernet{WakeOnLANModes: []string{"phy", "g", "phy"}}
		}), []string{"interfaces[0].ethernet.wakeonlan_modes[1] word", "interfaces[0].ethernet.wakeonlan_modes[2] unique"}},
		"secureon alone": {one(func(n *api.NetworkInterface) {
			n.Ethernet = &api.NetworkEthernet{WakeOnLAN: true, WakeOnLANModes: []string{"secureon"}}
		}), []string{"interfaces[0].ethernet.wakeonlan_password required"}},
		"password in words": {one(func(n *api.NetworkInterface) { n.Ethernet = &api.NetworkEthernet{WakeOnLANPassword: "open sesame"} }), []string{"interfaces[0].ethernet.wakeonlan_password mac"}},
		"firewall": {one(func(n *api.NetworkInterface) {
			n.FirewallRules = []api.NetworkFirewallRule{{Action: "accept"}, {Action: "drop", Source: "192.0.2.1"}, {Action: "reject", Source: "2001:db8::/32", Protocol: "udp", Port: 65535}}
		}), nil},
		"bad firewall": {one(func(n *api.NetworkInterface) {
			n.FirewallRules = []api.NetworkFirewallRule{{}, {Action: "drop", Source: "example.org"}, {Action: "drop", Protocol: "tcp"}, {Action: "drop", Port: 22},
				{Action: "drop", Protocol: "icmp", Port: 65536}, {Action: "drop", Source: "fe80::1%lan"}}
		}), []string{"interfaces[0].firewall_rules[0].action word", "interfaces[0].firewall_rules[1].source cidr", "interfaces[0].firewall_rules[2].port together",
			"interfaces[0].firewall_rules[3].port together", "interfaces[0].firewall_rules[4].protocol word", "interfaces[0].firewall_rules[4].port range",
			"interfaces[0].firewall_rules[5].source cidr"}},
		"forwarding": {api.NetworkConfig{Interfaces: two(), ForwardingRules: []api.NetworkForwardingRule{{Action: "accept", From: "a", To: "enx02000000000b", Source: "192.0.2.0/24"}}}, nil},
		"bad forwarding": {api.NetworkConfig{Interfaces: two(), ForwardingRules: []api.NetworkForwardingRule{
			{Action: "allow", From: "a", To: "incusbr0", Protocol: "tcp"}, {Action: "accept", From: "a", To: "a", Source: "192.0.2.0/24", Destination: "2001:db8::1"}}},
			[]string{"forwarding_rules[0].action word", "forwarding_rules[0].to device", "forwarding_rules[0].port together", "forwarding_rules[1].destination family"}},
		"bond": {api.NetworkConfig{Bonds: []api.NetworkBond{{Name: "b", Mode: "802.3ad", Members: []string{mac, "enp1s0"}, Hwaddr: mac}}}, nil},
		"bad bond": {api.NetworkConfig{Bonds: []api.NetworkBond{{Name: "b", Mode: "4"}, {Name: "c", Mode: "broadcast", Members: []string{"", "a b"}, Hwaddr: "01:00:5e:00:00:01"}}},
			[]string{"bonds[0].mode word", "bonds[0].members required", "bonds[1].members[0] required", "bonds[1].members[1] mac", "bonds[1].hwaddr mac"}},
		"cards twice": {api.NetworkConfig{Interfaces: two(), Bonds: []api.NetworkBond{
			{Name: "c", Mode: "broadcast", Members: []string{"02:00:00:00:00:0A", "eth3", "eth3"}, Hwaddr: "02:00:00:00:00:0b"},
			{Name: "d", Mode: "broadcast", Members: []string{"eth4"}, Hwaddr: "eth3"}}},
			[]string{"bonds[0].members[0] unique", "bonds[0].members[2] unique", "bonds[0].hwaddr unique", "bonds[1].hwaddr unique"}},
		"names twice": {api.NetworkConfig{Interfaces: two(), Bonds: []api.NetworkBond{{Name: "a", Mode: "broadcast", Members: []string{"eth3"}}},
			VLANs: []api.NetworkVLAN{{Name: "02000000000b", Parent: "a", ID: 1}}, Wireguard: []api.NetworkWireguard{{Name: "a"}}},
			[]string{"bonds[0].name unique", "vlans[0].name unique", "wireguard[0].name unique"}},
		"VLANs": {api.NetworkConfig{Interfaces: two(), VLANs: []api.NetworkVLAN{{Name: "c", Parent: "a"}, {Name: "d", Parent: "enx02000000000b", ID: 4094}}}, nil},
		"bad VLANs": {api.NetworkConfig{Interfaces: two(), VLANs: []api.NetworkVLAN{{Name: "c", Parent: "a", ID: 4095}, {Name: "d", Parent: "c", ID: 1},
			{Name: "e", Parent: "a", ID: 7}, {Name: "f", Parent: "a", ID: 7}, {Name: "g", Parent: "a", ID: 8, MTU: 9000}}},
			[]string{"vlans[0].id range", "vlans[1].parent parent", "vlans[3].id unique", "vlans[4].mtu parent"}},
		"WireGuard": {api.NetworkConfig{Wireguard: []api.NetworkWireguard{{Name: "w", PrivateKey: key, Peers: []api.NetworkWireguardPeer{
			{PublicKey: key, AllowedIPs: []string{"0.0.0.0/0"}, Endpoint: "[2001:db8::1]:51820", PersistentKeepalive: 65535}}}}}, nil},
		"bad WireGuard": {api.NetworkConfig{Wireguard: []api.NetworkWireguard{
			{Name: "w", PrivateKey: "AAAA", Port: 51820, Addresses: []string{"dhcp4"}, Peers: []api.NetworkWireguardPeer{
				{AllowedIPs: []string{"10.0.0.1"}, Endpoint: "example.org", PresharedKey: key + "\n", PersistentKeepalive: -1},
				{PublicKey: key, AllowedIPs: []string{"10.0.0.1/8"}, Endpoint: "exa mple:1"},
				{PublicKey: key, AllowedIPs: []string{"10.0.0.0/8"}, Endpoint: "a:65536"}}},
			{Name: "v", PrivateKey: config.Secret, Port: 51820}, {Name: "u", Port: 65536}}},
			[]string{"wireguard[0].addresses[0] address", "wireguard[0].private_key key", "wireguard[0].peers[0].public_key required",
				"wireguard[0].peers[0].allowed_ips[0] cidr", "wireguard[0].peers[0].endpoint endpoint", "wireguard[0].peers[0].preshared_key key",
				"wireguard[0].peers[0].persistent_keepalive range", "wireguard[0].peers[1].endpoint endpoint", "wireguard[0].peers[2].public_key unique",
				"wireguard[0].peers[2].allowed_ips[0] unique", "wireguard[0].peers[2].endpoint endpoint",
				"wireguard[1].private_key secret", "wireguard[1].port unique", "wireguard[2].port range"}},
		"proxy": {api.NetworkConfig{Proxy: &api.NetworkProxy{
			Servers: map[string]api.NetworkProxyServer{"a": {Auth: "anonymous", Host: "http://[2001:db8::1]:8080/"}, "b": {Auth: "basic", Host: "192.0.2.1", Username: "u", Password: "p"},
				"c": {Auth: "kerberos", Host: "proxy:1", Username: "u", Password: "p", Realm: "EXAMPLE.ORG"}},
			Rules: []api.NetworkProxyRule{{Destination: "*.a|b", Target: "a"}, {Destination: "*", Target: "direct"}, {Destination: "[2001:db8::*]", Target: "none"}}}}, nil},
		"bad proxy": {api.NetworkConfig{Proxy: &api.NetworkProxy{
			Servers: map[string]api.NetworkProxyServer{"direct": {Auth: "anonymous", Host: "a"}, "a\nb": {Auth: "ntlm", Host: ""}, "b": {Auth: "basic", Host: "ftp://a", Username: "u:v", Password: "p\nq"},
				"c": {Auth: "kerberos", Host: "proxy:0", Password: config.Secret}},
			Rules: []api.NetworkProxyRule{{Destination: "", Target: "gone"}, {Destination: "a b", Target: "c"}, {Destination: "a|", Target: "none"}}}},
			[]string{`proxy.servers["a\nb"] name`, `proxy.servers["a\nb"].auth word`, `proxy.servers["a\nb"].host host`,
				"proxy.servers.b.host host", "proxy.servers.b.password text", "proxy.servers.b.username text",
				"proxy.servers.c.host host", "proxy.servers.c.password secret", "proxy.servers.c.username required", "proxy.servers.c.realm realm",
				"proxy.servers.direct name", "proxy.rules[0].destination pattern", "proxy.rules[0].target target", "proxy.rules[1].destination pattern", "proxy.rules[2].destination pattern"}},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, p := range network.Validate(c.config) {
				got = append(got, p.Path+" "+p.Rule)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// A problem is read by a person, in one line of an API error.
func TestProblems_Error_SaysPathTextAndRule(t *testing.T) {
	err := network.Validate(one(func(n *api.NetworkInterface) { n.MTU = 90; n.Name = "" }))
	want := `interfaces[0].name: "" is missing (rule name); ` +
		`interfaces[0].mtu: 90 is outside 1280 to 9000; leave it out for the default (rule range)`
	if diff := cmp.Diff(want, err.Error()); diff != "" {
		t.Error(diff)
	}
}

// A document that a program made too long must be refused at once, and in few words.
func TestValidate_TooManyDevices_OneProblem(t *testing.T) {
	config := api.NetworkConfig{Interfaces: two(), VLANs: make([]api.NetworkVLAN, 10_000)}
	for i := range config.VLANs {
		config.VLANs[i] = api.NetworkVLAN{Name: fmt.Sprintf("v%d", i), Parent: "a", ID: i}
	}
	members := make([]string, 200)
	for i := range members {
		members[i] = fmt.Sprintf("02:00:00:00:01:%02x", i)
	}
	for name, c := range map[string]struct {
		config api.NetworkConfig
		want   network.Problems
	}{
		"devices": {config, network.Problems{{Path: "vlans", Rule: "limit",
			Text: "has 10000 entries, and with those before there are 10002 devices; at most 256 are taken"}}},
		"cards": {api.NetworkConfig{Bonds: []api.NetworkBond{{Name: "a", Members: members}, {Name: "b", Members: members}}},
			network.Problems{{Path: "bonds[1].members", Rule: "limit",
				Text: "has 200 entries, and with those before there are 400 cards; at most 256 are taken"}}},
	} {
		if diff := cmp.Diff(c.want, network.Validate(c.config)); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}
