package network

import (
	"fmt"
	"net/netip"
	"strings"

	api "github.com/holdfast-os/holdfast/api/os"
)

func (p *checker) dns(dns api.NetworkDNS) {
	if dns.Hostname != "" && !label(dns.Hostname) {
		p.Add("dns.hostname", "label", "%q is not a host name of letters, digits and dashes, at most 63", dns.Hostname)
	}
	if dns.Domain != "" && !domain(dns.Domain) {
		p.Add("dns.domain", "domain", "%q is not a domain name", dns.Domain)
	}
	if dns.Domain != "" && dns.Hostname == "" {
		p.Add("dns.domain", "required", "needs dns.hostname beside it")
	}
	if len(dns.Hostname)+1+len(dns.Domain) > 64 {
		p.Add("dns.hostname", "limit", "is with its domain longer than the 64 bytes of a host name")
	}
	if p.limit("dns.nameservers", len(dns.Nameservers), maxEntries) {
		for i, server := range dns.Nameservers {
			if !nameserver(server) {
				p.Add(fmt.Sprintf("dns.nameservers[%d]", i), "address",
					"%q is not an address, with a port or a #name for DNS over TLS where needed", server)
			}
		}
	}
	if p.limit("dns.search_domains", len(dns.SearchDomains), maxEntries) {
		for i, name := range dns.SearchDomains {
			if name != "~." && !domain(strings.TrimPrefix(name, "~")) {
				p.Add(fmt.Sprintf("dns.search_domains[%d]", i), "domain", "%q is not a domain name", name)
			}
		}
	}
}

func (p *checker) time(clock api.NetworkTime) {
	if p.limit("time.ntp_servers", len(clock.NTPServers), maxEntries) {
		for i, server := range clock.NTPServers {
			if !hostOrAddress(server) {
				p.Add(fmt.Sprintf("time.ntp_servers[%d]", i), "host", "%q is neither a host name nor an address", server)
			}
		}
	}
	if !timezone(clock.Timezone) {
		p.Add("time.timezone", "timezone", "%q is not a name of the IANA database, as Europe/Zurich", clock.Timezone)
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
