package network

import (
	"encoding/base64"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	api "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/config"
)

// limit is true when a list is short enough to be looked at.
func (p *checker) limit(path string, got, most int) bool {
	if got > most {
		p.Add(path, "limit", "has %d entries; at most %d are taken", got, most)
	}
	return got <= most
}

// word checks a value that must be one of some.
func (p *checker) word(path, value string, mayBeEmpty bool, allowed []string) {
	if !slices.Contains(allowed, value) && (value != "" || !mayBeEmpty) {
		p.Add(path, "word", "%q is none of %s", value, strings.Join(allowed, ", "))
	}
}

// words checks a list that may hold each of the allowed words once.
func (p *checker) words(path string, list, allowed []string) {
	if !p.limit(path, len(list), maxEntries) {
		return
	}
	for i, word := range list {
		at := fmt.Sprintf("%s[%d]", path, i)
		p.word(at, word, false, allowed)
		if slices.Index(list, word) < i {
			p.Add(at, "unique", "%q is given twice", word)
		}
	}
}

// common checks what devices of all kinds have.
func (p *checker) common(d device) {
	if text := nameProblem(d.name); text != "" {
		p.Add(d.path+".name", "name", "%q %s", d.name, text)
	}
	p.addresses(d)
	if p.limit(d.path+".routes", len(d.routes), maxEntries) {
		for i, route := range d.routes {
			p.route(fmt.Sprintf("%s.routes[%d]", d.path, i), route, d.addresses)
		}
	}
	p.words(d.path+".roles", d.roles, roleNames)
	if d.mtu != 0 && (d.mtu < minMTU || d.mtu > maxMTU) {
		p.Add(d.path+".mtu", "range", "%d is outside %d to %d; leave it out for the default", d.mtu, minMTU, maxMTU)
	}
	p.word(d.path+".required_for_online", d.required, true, families)
	if p.limit(d.path+".firewall_rules", len(d.rules), maxEntries) {
		for i, rule := range d.rules {
			at := fmt.Sprintf("%s.firewall_rules[%d]", d.path, i)
			p.word(at+".action", rule.Action, false, actions)
			p.source(at+".source", rule.Source)
			p.service(at, rule.Protocol, rule.Port)
		}
	}
}

func (p *checker) addresses(d device) {
	path := d.path + ".addresses"
	if !p.limit(path, len(d.addresses), maxEntries) {
		return
	}
	for i, address := range d.addresses {
		at := fmt.Sprintf("%s[%d]", path, i)
		switch {
		case automatic(address) && d.kind == kindWireguard:
			p.Add(at, "address", "%q does not work through WireGuard; give an address with its prefix length, as 192.0.2.5/24", address)
		case !automatic(address) && !prefix(address):
			p.Add(at, "address", "%q is neither dhcp4, dhcp6, slaac nor an address with its prefix length, as 192.0.2.5/24", address)
		case slices.Index(d.addresses, address) < i:
			p.Add(at, "unique", "%q is given twice", address)
		}
	}
}

func (p *checker) route(path string, route api.NetworkRoute, addresses []string) {
	to, err := netip.ParsePrefix(route.To)
	if err != nil {
		p.Add(path+".to", "cidr", "%q is not a network, as 198.51.100.0/24", route.To)
	}
	if automatic(route.Via) {
		if err == nil && to.Addr().Is4() != (route.Via == "dhcp4") {
			p.Add(path+".via", "family", "%q gives no gateway for %s", route.Via, to)
		}
		// Both ways of IPv6 learn the gateway from router advertisements.
		learnt := slices.ContainsFunc(addresses, func(a string) bool {
			return automatic(a) && (a == "dhcp4") == (route.Via == "dhcp4")
		})
		if !learnt {
			p.Add(path+".via", "source", "%q needs the same word among the addresses", route.Via)
		}
		return
	}
	via, viaErr := netip.ParseAddr(route.Via)
	switch {
	case viaErr != nil || via.Zone() != "":
		p.Add(path+".via", "address", "%q is neither an address nor dhcp4, dhcp6, slaac", route.Via)
	case err == nil && via.Is4() && to.Addr().Is6():
		p.Add(path+".via", "family", "%s cannot be the gateway for %s", via, to)
	}
}

// card checks the name or MAC address of a card.
func (p *checker) card(path, value string, needed bool) {
	switch _, ok := parseMAC(value); {
	case value == "" && needed:
		p.Add(path, "required", "is missing; give the MAC address of a card, or its kernel name")
	case value != "" && !ok && !kernelName(value):
		p.Add(path, "mac", "%q is neither a MAC address nor the name of a card", value)
	}
}

func (p *checker) bond(path string, b api.NetworkBond) {
	p.word(path+".mode", b.Mode, false, bondModes)
	if len(b.Members) == 0 {
		p.Add(path+".members", "required", "is empty; give at least one card")
	}
	for i, member := range b.Members {
		p.card(fmt.Sprintf("%s.members[%d]", path, i), member, true)
	}
	p.card(path+".hwaddr", b.Hwaddr, false)
	p.tags(path+".vlan_tags", b.VLANTags)
	p.ethernet(path+".ethernet", b.Ethernet)
}

func (p *checker) tags(path string, tags []int) {
	if !p.limit(path, len(tags), maxVLAN) {
		return
	}
	seen := map[int]bool{}
	for i, tag := range tags {
		at := fmt.Sprintf("%s[%d]", path, i)
		switch {
		case tag < 1 || tag > maxVLAN:
			p.Add(at, "range", "%d is outside 1 to %d", tag, maxVLAN)
		case seen[tag]:
			p.Add(at, "unique", "%d is given twice", tag)
		}
		seen[tag] = true
	}
}

func (p *checker) ethernet(path string, e *api.NetworkEthernet) {
	if e == nil {
		return
	}
	p.words(path+".wakeonlan_modes", e.WakeOnLANModes, wolModes)
	_, ok := wolPassword(e.WakeOnLANPassword)
	secure := e.WakeOnLAN && slices.Contains(e.WakeOnLANModes, "secureon")
	switch {
	case e.WakeOnLANPassword == config.Secret:
		p.kept(path + ".wakeonlan_password")
	case e.WakeOnLANPassword != "" && !ok:
		p.Add(path+".wakeonlan_password", "mac", "is not six bytes in the form 00:11:22:33:44:55")
	case e.WakeOnLANPassword == "" && secure:
		p.Add(path+".wakeonlan_password", "required", "is missing; the mode secureon needs one")
	}
}

// kept is for a reference to a secret that the node does not have.
func (p *checker) kept(path string) {
	p.Add(path, "secret", "refers to a kept secret, and none is kept; give it in clear")
}

// wolPassword gives six bytes in their one form.
func wolPassword(text string) (string, bool) {
	mac, err := net.ParseMAC(text)
	if err != nil || len(mac) != 6 {
		return "", false
	}
	return mac.String(), true
}

func (p *checker) vlan(path string, v api.NetworkVLAN, c api.NetworkConfig, seen map[string]string) {
	mtu := 0
	if i := slices.IndexFunc(c.Interfaces, func(n api.NetworkInterface) bool { return n.Name == v.Parent }); i >= 0 {
		mtu = c.Interfaces[i].MTU
	} else if i := slices.IndexFunc(c.Bonds, func(n api.NetworkBond) bool { return n.Name == v.Parent }); i >= 0 {
		mtu = c.Bonds[i].MTU
	} else {
		p.Add(path+".parent", "parent", "%q is not the name of an interface or bond of this configuration", v.Parent)
		return
	}
	if v.ID < 0 || v.ID > maxVLAN {
		p.Add(path+".id", "range", "%d is outside 0 to %d", v.ID, maxVLAN)
	}
	key := fmt.Sprintf("%s %d", v.Parent, v.ID)
	if first, again := seen[key]; again {
		p.Add(path+".id", "unique", "%d on %q is %s already", v.ID, v.Parent, first)
	} else {
		seen[key] = path
	}
	// The kernel takes no larger one than the device below has.
	if mtu == 0 {
		mtu = defaultMTU
	}
	if v.MTU > mtu && v.MTU <= maxMTU {
		p.Add(path+".mtu", "parent", "%d is above the %d of %q; give that one the same", v.MTU, mtu, v.Parent)
	}
}

func (p *checker) wireguard(path string, w api.NetworkWireguard, ports map[int]string) {
	p.key(path+".private_key", w.PrivateKey, false)
	p.portNumber(path+".port", w.Port)
	if first, again := ports[w.Port]; again && w.Port != 0 {
		p.Add(path+".port", "unique", "%d is used by %s already", w.Port, first)
	}
	ports[w.Port] = path
	if !p.limit(path+".peers", len(w.Peers), maxEntries) {
		return
	}
	keys, networks := map[string]int{}, map[netip.Prefix]int{}
	for i, peer := range w.Peers {
		at := fmt.Sprintf("%s.peers[%d]", path, i)
		p.key(at+".public_key", peer.PublicKey, true)
		if first, again := keys[peer.PublicKey]; again && peer.PublicKey != "" {
			p.Add(at+".public_key", "unique", "is that of peers[%d] already", first)
		} else {
			keys[peer.PublicKey] = i
		}
		p.allowed(at+".allowed_ips", peer.AllowedIPs, i, networks)
		if peer.Endpoint != "" {
			if _, ok := endpoint(peer.Endpoint); !ok {
				p.Add(at+".endpoint", "endpoint", "%q is not host:port, as vpn.example.org:51820", peer.Endpoint)
			}
		}
		p.key(at+".preshared_key", peer.PresharedKey, false)
		p.portNumber(at+".persistent_keepalive", peer.PersistentKeepalive)
	}
}

// allowed checks what is sent to one peer; the kernel would take from one peer what is
// given to another as well.
func (p *checker) allowed(path string, list []string, peer int, seen map[netip.Prefix]int) {
	if !p.limit(path, len(list), maxEntries) {
		return
	}
	for i, text := range list {
		at := fmt.Sprintf("%s[%d]", path, i)
		network, err := netip.ParsePrefix(text)
		if err != nil {
			p.Add(at, "cidr", "%q is not a network, as 198.51.100.0/24", text)
			continue
		}
		network = network.Masked()
		if first, again := seen[network]; again {
			p.Add(at, "unique", "%s is given to peers[%d] already", network, first)
			continue
		}
		seen[network] = peer
	}
}

// key checks a key of WireGuard. What is wrong never holds the key itself.
func (p *checker) key(path, value string, needed bool) {
	switch {
	case value == "" && needed:
		p.Add(path, "required", "is missing; give 32 bytes in base64")
	case value == config.Secret:
		p.kept(path)
	case value != "" && !wireguardKey(value):
		p.Add(path, "key", "is not 32 bytes in base64, as wg genkey makes them")
	}
}

// wireguardKey is true for 32 bytes in base64. The decoder skips line breaks, so the
// length is checked as well.
func wireguardKey(text string) bool {
	key, err := base64.StdEncoding.Strict().DecodeString(text)
	return err == nil && len(key) == 32 && len(text) == 44
}

// portNumber checks a number of 16 bits that may be left out.
func (p *checker) portNumber(path string, value int) {
	if value < 0 || value > 65535 {
		p.Add(path, "range", "%d is outside 1 to 65535", value)
	}
}

// service checks a protocol with its port.
func (p *checker) service(path, protocol string, port int) {
	p.word(path+".protocol", protocol, true, []string{"tcp", "udp"})
	p.portNumber(path+".port", port)
	if (protocol == "") != (port == 0) {
		p.Add(path+".port", "together", "a port needs a protocol and a protocol needs a port")
	}
}

// source checks an address or network that may be left out.
func (p *checker) source(path, text string) {
	if _, ok := network(text); text != "" && !ok {
		p.Add(path, "cidr", "%q is neither an address nor a network, as 192.0.2.0/24", text)
	}
}

// network reads an address or network; the bits behind the prefix are cleared.
func network(text string) (netip.Prefix, bool) {
	if addr, err := netip.ParseAddr(text); err == nil {
		return netip.PrefixFrom(addr, addr.BitLen()), addr.Zone() == ""
	}
	network, err := netip.ParsePrefix(text)
	return network.Masked(), err == nil
}

// endpoint gives host:port in the form that networkd reads.
func endpoint(text string) (string, bool) {
	host, port, err := net.SplitHostPort(text)
	if err != nil {
		return "", false
	}
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil || number == 0 || !hostOrAddress(host) {
		return "", false
	}
	return net.JoinHostPort(host, strconv.FormatUint(number, 10)), true
}

func hostOrAddress(text string) bool {
	if addr, err := netip.ParseAddr(text); err == nil {
		return addr.Zone() == ""
	}
	return domain(text)
}

func (p *checker) forwarding(c api.NetworkConfig) {
	if !p.limit("forwarding_rules", len(c.ForwardingRules), maxEntries) {
		return
	}
	names := map[string]bool{}
	for _, d := range devices(c) {
		names[d.name] = true
	}
	for i, rule := range c.ForwardingRules {
		at := fmt.Sprintf("forwarding_rules[%d]", i)
		p.word(at+".action", rule.Action, false, actions)
		for _, end := range []struct{ field, name string }{{".from", rule.From}, {".to", rule.To}} {
			if !names[end.name] {
				p.Add(at+end.field, "device", "%q is not the name of a device of this configuration", end.name)
			}
		}
		p.service(at, rule.Protocol, rule.Port)
		p.source(at+".source", rule.Source)
		p.source(at+".destination", rule.Destination)
		source, ok := network(rule.Source)
		destination, okToo := network(rule.Destination)
		if ok && okToo && source.Addr().Is4() != destination.Addr().Is4() {
			p.Add(at+".destination", "family", "%s and %s are of two families", source, destination)
		}
	}
}
