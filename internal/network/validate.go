package network

import (
	"fmt"
	"time"

	api "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/config"
)

// Limits on one configuration; a person's is far below them.
const (
	// maxDevices is for interfaces, bonds, VLANs and WireGuard together, and for cards.
	maxDevices = 256
	// maxEntries is for each list of something else.
	maxEntries = 256
	maxName    = 13
	minMTU     = 1280
	maxMTU     = 9000
	defaultMTU = 1500
	maxVLAN    = 4094
)

// Problem is one rule that a configuration breaks.
type Problem = config.Problem

// Problems are all that is wrong with a configuration. It is an error when it is not
// empty.
type Problems = config.Problems

// checker collects problems.
type checker struct{ Problems }

var (
	actions   = []string{"accept", "drop", "reject"}
	bondModes = []string{"balance-rr", "active-backup", "balance-xor", "broadcast", "802.3ad", "balance-tlb", "balance-alb"}
	roleNames = []string{"management", "cluster", "instances", "storage"}
	families  = []string{"ipv4", "ipv6", "both", "any", "no"}
	wolModes  = []string{"phy", "unicast", "multicast", "broadcast", "arp", "magic", "secureon"}
)

// Validate gives all problems of a configuration that can be seen without the
// machine, in the order of the fields; nil when there is none.
func Validate(c api.NetworkConfig) Problems {
	var p checker
	if c.ConfirmationTimeout != "" {
		if d, err := time.ParseDuration(c.ConfirmationTimeout); err != nil || d <= 0 {
			p.Add("confirmation_timeout", "duration", "%q is not a duration above zero, as 2m", c.ConfirmationTimeout)
		}
	}
	if c.DNS != nil {
		p.dns(*c.DNS)
	}
	if c.Time != nil {
		p.time(*c.Time)
	}
	if c.Proxy != nil {
		p.proxy(*c.Proxy)
	}
	if c.Firewall != nil {
		p.word("firewall.input_policy", c.Firewall.InputPolicy, true, []string{"accept", "drop"})
	}
	// What is too much is not looked at: an answer with ten thousand problems helps nobody.
	if p.tooMany(c) {
		return p.Problems
	}
	c = normalize(c)
	p.forwarding(c)
	p.devices(c)
	return p.Problems
}

// tooMany checks how many devices and cards there are.
func (p *checker) tooMany(c api.NetworkConfig) bool {
	total, members := 0, len(c.Interfaces)
	for _, kind := range []struct {
		path  string
		count int
	}{{"interfaces", len(c.Interfaces)}, {"bonds", len(c.Bonds)}, {"vlans", len(c.VLANs)}, {"wireguard", len(c.Wireguard)}} {
		if total += kind.count; total > maxDevices {
			p.Add(kind.path, "limit", "has %d entries, and with those before there are %d devices; at most %d are taken",
				kind.count, total, maxDevices)
			return true
		}
	}
	for i, b := range c.Bonds {
		if members += len(b.Members); members > maxDevices {
			p.Add(fmt.Sprintf("bonds[%d].members", i), "limit",
				"has %d entries, and with those before there are %d cards; at most %d are taken", len(b.Members), members, maxDevices)
			return true
		}
	}
	return false
}

func (p *checker) devices(c api.NetworkConfig) {
	names, cards := map[string]string{}, map[string]string{}
	claimed := map[string][]claim{}
	for _, claim := range claims(c) {
		claimed[claim.device] = append(claimed[claim.device], claim)
	}
	vlans, ports := map[string]string{}, map[int]string{}
	for _, d := range devices(c) {
		p.common(d)
		if first, again := names[d.name]; again && d.name != "" {
			p.Add(d.path+".name", "unique", "%q is used by %s already", d.name, first)
		} else {
			names[d.name] = d.path
		}
		i := d.index
		switch d.kind {
		case kindInterface:
			p.card(d.path+".hwaddr", c.Interfaces[i].Hwaddr, true)
			p.tags(d.path+".vlan_tags", c.Interfaces[i].VLANTags)
			p.ethernet(d.path+".ethernet", c.Interfaces[i].Ethernet)
		case kindBond:
			p.bond(d.path, c.Bonds[i])
		case kindVLAN:
			p.vlan(d.path, c.VLANs[i], c, vlans)
		case kindWireguard:
			p.wireguard(d.path, c.Wireguard[i], ports)
		}
		for _, claim := range claimed[d.path] {
			if first := claim.again(cards); first != "" {
				p.Add(claim.path, "unique", "%q is used by %s already", *claim.value, first)
			}
		}
	}
}
