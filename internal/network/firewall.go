package network

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	api "github.com/holdfast-os/holdfast/api/os"
)

// The firewall is two tables of the node's own: "inet holdfast" for what comes in and
// is forwarded, "bridge holdfast" for frames. Incus has tables of its own. A packet that
// one table accepts can still be dropped by another, so these only ever drop what goes
// through devices of this configuration: what Incus lets in on its own bridges, as DNS
// and DHCP for instances, must not be lost here, and neither what instances send through
// the bridges, which never comes to the node's ends of them.
//
// A rule with a source of one family is about that family alone. Names of devices were
// checked: they hold nothing that ends a quoted text.

// always is let in on each device that rules are for. Without neighbour discovery and
// router advertisements IPv6 ends, without packet-too-big connections hang. Neighbour
// discovery is not tracked, so it stands before what is invalid is dropped.
var always = []string{
	"meta l4proto icmp accept",
	"icmpv6 type { destination-unreachable, packet-too-big, time-exceeded, parameter-problem, echo-request, " +
		"nd-router-solicit, nd-router-advert, nd-neighbor-solicit, nd-neighbor-advert, mld-listener-query } accept",
	"ct state established,related accept",
	"ct state invalid drop",
}

// dhcp lets answers of DHCP servers in. Those that are not asked for by their address
// belong to no connection.
var dhcp = []string{
	"udp sport 67 udp dport 68 accept",
	"ip6 saddr fe80::/10 udp sport 547 udp dport 546 accept",
}

func (p *planner) firewall() {
	policy := "accept"
	if f := p.config.Firewall; f != nil && f.InputPolicy != "" {
		policy = f.InputPolicy
	}
	list := devices(p.config)
	hosts := make([]string, 0, len(list))
	for _, d := range list {
		hosts = append(hosts, d.host())
	}
	var t strings.Builder
	// Naming a table makes it, so that deleting it cannot fail; nft does all or nothing.
	for _, family := range []string{"inet", "bridge"} {
		fmt.Fprintf(&t, "table %s holdfast\ndelete table %s holdfast\n", family, family)
	}
	t.WriteString("\ntable inet holdfast {\n")
	if len(hosts) > 0 {
		slices.Sort(hosts)
		fmt.Fprintf(&t, "\tset managed {\n\t\ttype ifname\n\t\telements = { %s }\n\t}\n\n", quoted(hosts))
	}
	p.input(&t, list, policy)
	p.forward(&t, len(hosts) > 0)
	t.WriteString("}\n\ntable bridge holdfast {\n")
	var rules []string
	for _, card := range slices.Sorted(maps.Keys(p.strict)) {
		rules = append(rules, fmt.Sprintf("oifname %q ether saddr != %s drop", card, p.strict[card]))
	}
	chain(&t, "mac-filters", "type filter hook postrouting priority 0; policy accept;", rules)
	rules = nil
	if len(p.untracked) > 0 {
		slices.Sort(p.untracked)
		rules = []string{"iifname { " + quoted(p.untracked) + " } notrack"}
	}
	t.WriteString("\n")
	chain(&t, "conntrack-bypass", "type filter hook prerouting priority -300; policy accept;", rules)
	t.WriteString("}\n")
	p.plan.Nftables = t.String()
	p.notes(list, policy)
}

// input has a chain for each device with rules. With the policy "drop" all devices
// have what is always let in.
func (p *planner) input(t *strings.Builder, list []device, policy string) {
	var jumps []string
	for _, d := range list {
		if len(d.rules) == 0 {
			continue
		}
		var rules []string
		if policy == "accept" {
			rules = slices.Concat(always, dhcp)
		}
		for _, rule := range d.rules {
			rules = append(rules, strings.Join(append(match(rule.Source, "", rule.Protocol, rule.Port), rule.Action), " "))
		}
		chain(t, "input-"+d.name, "", rules)
		t.WriteString("\n")
		jumps = append(jumps, fmt.Sprintf("iifname %q jump input-%s", d.host(), d.name))
	}
	rules := jumps
	if policy == "drop" && len(list) > 0 {
		rules = append([]string{"iifname != @managed accept"}, always...)
		rules = slices.Concat(rules, dhcp, jumps, []string{"drop"})
	}
	// The policy of the chain itself stays accept: it is for devices of others.
	chain(t, "input", "type filter hook input priority 0; policy accept;", rules)
}

// forward drops what goes from one device of the configuration to another, unless a
// rule accepts it.
func (p *planner) forward(t *strings.Builder, managed bool) {
	t.WriteString("\n")
	var between []string
	for _, rule := range p.config.ForwardingRules {
		line := []string{fmt.Sprintf("iifname %q oifname %q", p.hosts[rule.From], p.hosts[rule.To])}
		line = append(line, match(rule.Source, rule.Destination, rule.Protocol, rule.Port)...)
		between = append(between, strings.Join(append(line, rule.Action), " "))
		p.plan.Forwarding = p.plan.Forwarding || rule.Action == "accept"
	}
	var rules []string
	switch {
	case len(between) > 0:
		between = append([]string{"ct state established,related accept", "ct state invalid drop"}, append(between, "drop")...)
		chain(t, "between", "", between)
		t.WriteString("\n")
		rules = []string{"iifname @managed oifname @managed jump between"}
	case managed:
		rules = []string{"iifname @managed oifname @managed drop"}
	}
	chain(t, "forward", "type filter hook forward priority 0; policy accept;", rules)
}

// match is the part of a rule that says on which packets it decides.
func match(source, destination, protocol string, port int) []string {
	var words []string
	for _, end := range []struct{ word, text string }{{"saddr", source}, {"daddr", destination}} {
		to, ok := network(end.text)
		if !ok {
			continue
		}
		family := "ip6"
		if to.Addr().Is4() {
			family = "ip"
		}
		words = append(words, fmt.Sprintf("%s %s %s", family, end.word, short(to)))
	}
	if protocol != "" {
		words = append(words, fmt.Sprintf("%s dport %d", protocol, port))
	}
	return words
}

// short writes one address without prefix length.
func short(to netip.Prefix) string {
	if to.IsSingleIP() {
		return to.Addr().String()
	}
	return to.String()
}

func chain(t *strings.Builder, name, hook string, rules []string) {
	fmt.Fprintf(t, "\tchain %s {\n", name)
	if hook != "" {
		fmt.Fprintf(t, "\t\t%s\n", hook)
	}
	for _, rule := range rules {
		fmt.Fprintf(t, "\t\t%s\n", rule)
	}
	t.WriteString("\t}\n")
}

func quoted(names []string) string {
	list := make([]string, len(names))
	for i, name := range names {
		list[i] = `"` + name + `"`
	}
	return strings.Join(list, ", ")
}

// notes tell what an owner of such a firewall would otherwise learn by being cut off.
func (p *planner) notes(list []device, policy string) {
	var tunnels []string
	for _, w := range p.config.Wireguard {
		if policy == "drop" && w.Port != 0 && !accepts(list, "udp", w.Port) {
			tunnels = append(tunnels, fmt.Sprintf("The firewall drops what comes to UDP port %d of the WireGuard device %s: "+
				"peers cannot call the node.", w.Port, w.Name))
		}
	}
	if policy == "drop" && !accepts(list, "tcp", apiPort) {
		p.plan.Notes = append(p.plan.Notes, fmt.Sprintf("The firewall drops what comes to TCP port %d: "+
			"nobody can reach the node's API over the network.", apiPort))
	}
	p.plan.Notes = append(p.plan.Notes, tunnels...)
}

// apiPort is where Incus is reached, and the node through it.
const apiPort = 8443

// accepts is true when a rule of some device lets something of a service in.
func accepts(list []device, protocol string, port int) bool {
	return slices.ContainsFunc(list, func(d device) bool {
		return slices.ContainsFunc(d.rules, func(r api.NetworkFirewallRule) bool {
			return r.Action == "accept" && (r.Protocol == "" || r.Protocol == protocol && r.Port == port)
		})
	})
}
