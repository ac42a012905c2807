package network_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	api "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/network"
)

const mac = "02:00:00:00:00:01"

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
		}), append([]string{"interfaces[0].addresses limit"}, repeated("interfaces[0].addresses[%d] address", 257)...)},
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
	want := `checking the network configuration: interfaces[0].name: "" is missing (rule name); ` +
		`interfaces[0].mtu: 90 is outside 1280 to 9000; leave it out for 1500 (rule range)`
	if diff := cmp.Diff(want, err.Error()); diff != "" {
		t.Error(diff)
	}
}

func repeated(format string, n int) []string {
	list := make([]string, 0, n)
	for i := range n {
		list = append(list, fmt.Sprintf(format, i))
	}
	return list
}
