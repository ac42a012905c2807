package network

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	api "github.com/holdfast-os/holdfast/api/os"
)

// Limits on one configuration; a person's is far below them.
const (
	maxInterfaces = 256
	maxEntries    = 256
	maxName       = 13
	minMTU        = 1280
	maxMTU        = 9000
)

// Problem is one rule that a configuration breaks.
type Problem struct {
	// Path names the field, as "interfaces[0].name".
	Path string
	// Rule is a short word for the rule, as "unique".
	Rule string
	// Text says what is wrong and what would be right.
	Text string
}

// Problems are all that is wrong with a configuration. It is an error when it is
// not empty.
type Problems []Problem

func (p Problems) Error() string {
	lines := make([]string, 0, len(p))
	for _, problem := range p {
		lines = append(lines, fmt.Sprintf("%s: %s (rule %s)", problem.Path, problem.Text, problem.Rule))
	}
	return "checking the network configuration: " + strings.Join(lines, "; ")
}

func (p *Problems) add(path, rule, format string, args ...any) {
	*p = append(*p, Problem{Path: path, Rule: rule, Text: fmt.Sprintf(format, args...)})
}

// Validate gives all problems of a configuration that can be seen without the
// machine, in the order of the fields; nil when there is none.
func Validate(config api.NetworkConfig) Problems {
	var p Problems
	if config.DNS != nil {
		p.dns(*config.DNS)
	}
	if config.Time != nil {
		p.time(*config.Time)
	}
	p.limit("interfaces", len(config.Interfaces), maxInterfaces)
	names, cards := map[string]int{}, map[string]int{}
	for i, n := range normalize(config).Interfaces {
		path := fmt.Sprintf("interfaces[%d]", i)
		p.one(path, n)
		p.unique(path+".name", n.Name, i, names)
		p.unique(path+".hwaddr", n.Hwaddr, i, cards)
	}
	return p
}

func (p *Problems) limit(path string, got, most int) {
	if got > most {
		p.add(path, "limit", "has %d entries; at most %d are taken", got, most)
	}
}

func (p *Problems) unique(path, value string, at int, seen map[string]int) {
	if value == "" {
		return
	}
	if first, again := seen[value]; again {
		p.add(path, "unique", "%q is used by interfaces[%d] already", value, first)
		return
	}
	seen[value] = at
}

func (p *Problems) one(path string, n api.NetworkInterface) {
	if text := nameProblem(n.Name); text != "" {
		p.add(path+".name", "name", "%q %s", n.Name, text)
	}
	switch _, ok := parseMAC(n.Hwaddr); {
	case n.Hwaddr == "":
		p.add(path+".hwaddr", "required", "is missing; give the MAC address of a card, or its kernel name")
	case !ok && !kernelName(n.Hwaddr):
		p.add(path+".hwaddr", "mac", "%q is neither a MAC address nor the name of a card", n.Hwaddr)
	}
	p.addresses(path+".addresses", n.Addresses)
	p.limit(path+".routes", len(n.Routes), maxEntries)
	for i, route := range n.Routes {
		p.route(fmt.Sprintf("%s.routes[%d]", path, i), route, n.Addresses)
	}
	p.words(path+".roles", n.Roles, "management", "cluster", "instances", "storage")
	if n.MTU != 0 && (n.MTU < minMTU || n.MTU > maxMTU) {
		p.add(path+".mtu", "range", "%d is outside %d to %d; leave it out for 1500", n.MTU, minMTU, maxMTU)
	}
	if !slices.Contains([]string{"", "ipv4", "ipv6", "both", "any", "no"}, n.RequiredForOnline) {
		p.add(path+".required_for_online", "word", "%q is none of ipv4, ipv6, both, any, no", n.RequiredForOnline)
	}
}

// words checks a list that may hold each of the allowed words once.
func (p *Problems) words(path string, list []string, allowed ...string) {
	p.limit(path, len(list), maxEntries)
	for i, word := range list {
		switch {
		case !slices.Contains(allowed, word):
			p.add(fmt.Sprintf("%s[%d]", path, i), "word", "%q is none of %s", word, strings.Join(allowed, ", "))
		case slices.Index(list, word) < i:
			p.add(fmt.Sprintf("%s[%d]", path, i), "unique", "%q is given twice", word)
		}
	}
}

func (p *Problems) addresses(path string, list []string) {
	p.limit(path, len(list), maxEntries)
	for i, address := range list {
		switch {
		case !automatic(address) && !prefix(address):
			p.add(fmt.Sprintf("%s[%d]", path, i), "address",
				"%q is neither dhcp4, dhcp6, slaac nor an address with its prefix length, as 192.0.2.5/24", address)
		case slices.Index(list, address) < i:
			p.add(fmt.Sprintf("%s[%d]", path, i), "unique", "%q is given twice", address)
		}
	}
}

func (p *Problems) route(path string, route api.NetworkRoute, addresses []string) {
	to, err := netip.ParsePrefix(route.To)
	if err != nil {
		p.add(path+".to", "cidr", "%q is not a network, as 198.51.100.0/24", route.To)
	}
	if automatic(route.Via) {
		if err == nil && to.Addr().Is4() != (route.Via == "dhcp4") {
			p.add(path+".via", "family", "%q gives no gateway for %s", route.Via, to)
		}
		// Both ways of IPv6 learn the gateway from router advertisements.
		learnt := slices.ContainsFunc(addresses, func(a string) bool {
			return automatic(a) && (a == "dhcp4") == (route.Via == "dhcp4")
		})
		if !learnt {
			p.add(path+".via", "source", "%q needs the same word among the addresses", route.Via)
		}
		return
	}
	via, viaErr := netip.ParseAddr(route.Via)
	switch {
	case viaErr != nil || via.Zone() != "":
		p.add(path+".via", "address", "%q is neither an address nor dhcp4, dhcp6, slaac", route.Via)
	case err == nil && via.Is4() && to.Addr().Is6():
		p.add(path+".via", "family", "%s cannot be the gateway for %s", via, to)
	}
}

func (p *Problems) dns(dns api.NetworkDNS) {
	if dns.Hostname != "" && !label(dns.Hostname) {
		p.add("dns.hostname", "label", "%q is not a host name of letters, digits and dashes, at most 63", dns.Hostname)
	}
	if dns.Domain != "" && !domain(dns.Domain) {
		p.add("dns.domain", "domain", "%q is not a domain name", dns.Domain)
	}
	if dns.Domain != "" && dns.Hostname == "" {
		p.add("dns.domain", "required", "needs dns.hostname beside it")
	}
	if len(dns.Hostname)+1+len(dns.Domain) > 64 {
		p.add("dns.hostname", "limit", "is with its domain longer than the 64 bytes of a host name")
	}
	p.limit("dns.nameservers", len(dns.Nameservers), maxEntries)
	for i, server := range dns.Nameservers {
		if !nameserver(server) {
			p.add(fmt.Sprintf("dns.nameservers[%d]", i), "address",
				"%q is not an address, with a port or a #name for DNS over TLS where needed", server)
		}
	}
	p.limit("dns.search_domains", len(dns.SearchDomains), maxEntries)
	for i, name := range dns.SearchDomains {
		if name != "~." && !domain(strings.TrimPrefix(name, "~")) {
			p.add(fmt.Sprintf("dns.search_domains[%d]", i), "domain", "%q is not a domain name", name)
		}
	}
}

func (p *Problems) time(clock api.NetworkTime) {
	p.limit("time.ntp_servers", len(clock.NTPServers), maxEntries)
	for i, server := range clock.NTPServers {
		if _, err := netip.ParseAddr(server); err != nil && !domain(server) {
			p.add(fmt.Sprintf("time.ntp_servers[%d]", i), "host", "%q is neither a host name nor an address", server)
		}
	}
	if !timezone(clock.Timezone) {
		p.add("time.timezone", "timezone", "%q is not a name of the IANA database, as Europe/Zurich", clock.Timezone)
	}
}

// nameProblem says what is wrong with the name of an interface; empty when nothing.
func nameProblem(name string) string {
	switch {
	case name == "":
		return "is missing"
	case len(name) > maxName:
		return fmt.Sprintf("has more than %d characters", maxName)
	case name[0] == '_':
		return "starts with an underscore; such names are the node's own"
	case !kernelName(name) || strings.Trim(name, "0123456789") == "":
		return "is not a name of letters, digits, dot, dash and underscore with at least one letter"
	case name == "lo" || name == "all" || name == "default":
		return "is a name of the kernel's own"
	}
	return ""
}

func kernelName(name string) bool {
	return len(name) <= 15 && only(name, "._-") && !strings.HasPrefix(name, ".") && !strings.HasPrefix(name, "-") && name != ""
}

func automatic(word string) bool { return word == "dhcp4" || word == "dhcp6" || word == "slaac" }

func prefix(text string) bool {
	p, err := netip.ParsePrefix(text)
	return err == nil && !p.Addr().IsUnspecified() && !p.Addr().IsMulticast()
}

func nameserver(text string) bool {
	address, name, named := strings.Cut(text, "#")
	if named && !domain(name) {
		return false
	}
	if addr, err := netip.ParseAddr(address); err == nil {
		return addr.Zone() == ""
	}
	addr, err := netip.ParseAddrPort(address)
	return err == nil && addr.Port() != 0 && addr.Addr().Zone() == ""
}

func timezone(name string) bool {
	if name == "" {
		return true
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == "" || part == "." || part == ".." || !only(part, "_+-") {
			return false
		}
	}
	return len(name) <= 64
}

func domain(name string) bool {
	name = strings.TrimSuffix(name, ".")
	if len(name) > 253 {
		return false
	}
	for part := range strings.SplitSeq(name, ".") {
		if !label(part) {
			return false
		}
	}
	return true
}

func label(text string) bool {
	return text != "" && len(text) <= 63 && only(text, "-") && text[0] != '-' && text[len(text)-1] != '-'
}

// only is true when a text holds letters, digits and the given characters alone.
func only(text, others string) bool {
	for _, r := range text {
		letter := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
		if !letter && !strings.ContainsRune(others, r) {
			return false
		}
	}
	return true
}
