package network

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	api "github.com/holdfast-os/holdfast/api/os"
)

// NewPlan makes the plan for a configuration on a machine. What the configuration
// leaves out is filled as WithDefaults does. A configuration that breaks a rule is
// an error of type Problems. A card that is configured but not there is none: its
// files wait for it.
func NewPlan(config api.NetworkConfig, world World) (Plan, error) {
	if problems := Validate(config); len(problems) > 0 {
		return Plan{}, problems
	}
	config, problems := resolve(WithDefaults(config, world.Cards), world.Cards)
	if len(problems) > 0 {
		return Plan{}, problems
	}
	plan := Plan{Files: map[string]string{}, Timezone: config.Time.Timezone, Hostname: hostname(config, world)}
	plan.Hosts = hosts(plan.Hostname)
	if servers := config.Time.NTPServers; len(servers) > 0 {
		plan.Timesyncd = file(section("Time", "FallbackNTP="+strings.Join(servers, " ")))
	}
	for _, n := range config.Interfaces {
		names := Interface{Name: n.Name, Host: "_v" + n.Name, Card: "_p" + hex12(n.Hwaddr), Hwaddr: n.Hwaddr}
		plan.Interfaces = append(plan.Interfaces, names)
		card := findCard(world.Cards, n.Hwaddr)
		if err := plan.add(config, n, names, card); err != nil {
			return Plan{}, fmt.Errorf("planning interface %s: %w", n.Name, err)
		}
		if len(n.Addresses) == 0 {
			continue
		}
		if required(n) {
			plan.WaitAll = true
		}
		plan.WaitAny = append(plan.WaitAny, names.Host)
	}
	if plan.WaitAll {
		plan.WaitAny = nil
	}
	return plan, nil
}

func findCard(cards []Card, mac string) Card {
	for _, card := range cards {
		if found, ok := parseMAC(card.Hwaddr); ok && found == mac {
			return card
		}
	}
	return Card{Hwaddr: mac, Permanent: true}
}

func required(n api.NetworkInterface) bool {
	return len(n.Addresses) > 0 && n.RequiredForOnline != "no"
}

// hostname is the configured one, or one that no other node has.
func hostname(config api.NetworkConfig, world World) string {
	if config.DNS != nil && config.DNS.Hostname != "" {
		if config.DNS.Domain != "" {
			return config.DNS.Hostname + "." + strings.TrimSuffix(config.DNS.Domain, ".")
		}
		return config.DNS.Hostname
	}
	for _, name := range []string{world.ProductUUID, world.MachineID, world.OSName} {
		if name = strings.ToLower(strings.TrimSpace(name)); label(name) {
			return name
		}
	}
	return "holdfast"
}

func hosts(hostname string) string {
	names := hostname
	if short, _, ok := strings.Cut(hostname, "."); ok {
		names += " " + short
	}
	return "127.0.0.1 localhost\n127.0.1.1 " + names + "\n" +
		"::1 localhost ip6-localhost ip6-loopback\nff02::1 ip6-allnodes\nff02::2 ip6-allrouters\n"
}

// add writes the files of one interface.
func (p *Plan) add(config api.NetworkConfig, n api.NetworkInterface, names Interface, card Card) error {
	mtu := cmp.Or(n.MTU, 1500)
	if card.MaxMTU > 0 && card.MaxMTU < mtu {
		mtu = card.MaxMTU
	}
	if mtu < minMTU {
		return fmt.Errorf("the card %s takes frames of %d bytes at most; IPv6 needs %d", n.Hwaddr, mtu, minMTU)
	}
	// The size stays out of the bridge's netdev file: Stale would delete the bridge
	// under the instances that use it.
	peer := "_i" + hex12(n.Hwaddr)
	size := fmt.Sprintf("MTUBytes=%d", mtu)

	p.Files["00-"+names.Card+".link"] = cardLink(names.Card, size, card)
	p.Files["10-"+n.Name+".netdev"] = file(
		section("NetDev", "Name="+n.Name, "Kind=bridge"),
		section("Bridge", "VLANFiltering=true"))
	p.Files["10-"+names.Host+".netdev"] = file(
		section("NetDev", "Name="+names.Host, "Kind=veth", "MACAddress="+hostMAC(card, n.Hwaddr), size),
		section("Peer", "Name="+peer))
	for _, port := range []string{names.Card, peer} {
		lines := []string{"Bridge=" + n.Name}
		if port == names.Card {
			lines = append(lines, "LLDP=true", "EmitLLDP=false")
		}
		lines = append(lines, "LinkLocalAddressing=no", "IPv6AcceptRA=false", "ConfigureWithoutCarrier=true")
		p.Files["20-"+port+".network"] = file(
			section("Match", "Name="+port),
			section("Link", size, "RequiredForOnline=no"),
			section("Network", lines...))
	}
	p.Files["20-"+n.Name+".network"] = file(
		section("Match", "Name="+n.Name),
		section("Link", size, "RequiredForOnline=no"),
		section("Network", "LinkLocalAddressing=no", "IPv6AcceptRA=false", "ConfigureWithoutCarrier=true"))
	p.Files["20-"+names.Host+".network"] = hostNetwork(config, n, names.Host, mtu)
	return nil
}

// hostMAC is the card's address for the node's end. A card without a permanent
// address keeps its own, as nothing else can name it, so the node gets that address
// with the bit for "locally administered" flipped.
func hostMAC(card Card, mac string) string {
	parsed, err := net.ParseMAC(mac)
	if card.Permanent || err != nil {
		return mac
	}
	parsed[0] ^= 2
	return parsed.String()
}

func cardLink(name, size string, card Card) string {
	if !card.Permanent {
		return file(
			section("Match", "MACAddress="+card.Hwaddr, "Kind=!*"),
			section("Link", "NamePolicy=", "Name="+name, "MACAddressPolicy=none", size))
	}
	return file(
		section("Match", "PermanentMACAddress="+card.Hwaddr, "Kind=!*"),
		section("Link", "NamePolicy=", "Name="+name, "MACAddressPolicy=random", size))
}

func hostNetwork(config api.NetworkConfig, n api.NetworkInterface, name string, mtu int) string {
	link := []string{"RequiredForOnline=no"}
	if required(n) {
		link = []string{"RequiredForOnline=yes", "RequiredFamilyForOnline=" + cmp.Or(n.RequiredForOnline, "any")}
	}
	if n.MTU != 0 {
		link = append(link, fmt.Sprintf("MTUBytes=%d", mtu))
	}
	network, routes := networkLines(config, n), []string{}
	for _, route := range n.Routes {
		routes = append(routes, section("Route", routeLines(route)...))
	}
	sections := []string{section("Match", "Name="+name), section("Link", link...), section("Network", network...)}
	if slices.Contains(n.Addresses, "dhcp4") {
		// The MAC address as identifier gives a reinstalled node its old address back.
		lease := []string{"ClientIdentifier=mac", "RouteMetric=100", "UseHostname=false"}
		if n.MTU == 0 {
			lease = append(lease, "UseMTU=true")
		}
		sections = append(sections, section("DHCPv4", lease...))
	}
	if slices.Contains(n.Addresses, "dhcp6") {
		sections = append(sections, section("DHCPv6", "WithoutRA=solicit", "UseHostname=false"))
	}
	return file(append(sections, routes...)...)
}

func networkLines(config api.NetworkConfig, n api.NetworkInterface) []string {
	var lines []string
	dhcp4, dhcp6 := slices.Contains(n.Addresses, "dhcp4"), slices.Contains(n.Addresses, "dhcp6")
	switch {
	case len(n.Addresses) == 0:
		lines = append(lines, "LinkLocalAddressing=no", "ConfigureWithoutCarrier=true")
	default:
		lines = append(lines, "LinkLocalAddressing=ipv6")
	}
	switch {
	case dhcp4 && dhcp6:
		lines = append(lines, "DHCP=yes")
	case dhcp4:
		lines = append(lines, "DHCP=ipv4")
	case dhcp6:
		lines = append(lines, "DHCP=ipv6")
	}
	lines = append(lines, fmt.Sprintf("IPv6AcceptRA=%t", dhcp6 || slices.Contains(n.Addresses, "slaac")))
	for _, address := range n.Addresses {
		if !automatic(address) {
			lines = append(lines, "Address="+netip.MustParsePrefix(address).String())
		}
	}
	return append(lines, resolverLines(config, len(n.Addresses) > 0)...)
}

// resolverLines go to each device that has addresses.
func resolverLines(config api.NetworkConfig, addresses bool) []string {
	if !addresses {
		return nil
	}
	var lines []string
	if dns := config.DNS; dns != nil {
		domains := slices.Clone(dns.SearchDomains)
		if dns.Domain != "" && !slices.Contains(domains, dns.Domain) {
			domains = append([]string{dns.Domain}, domains...)
		}
		if len(domains) > 0 {
			lines = append(lines, "Domains="+strings.Join(domains, " "))
		}
		for _, server := range dns.Nameservers {
			lines = append(lines, "DNS="+server)
		}
		if dns.DNSOverTLS {
			lines = append(lines, "DNSOverTLS=true")
		}
	}
	for _, server := range config.Time.NTPServers {
		lines = append(lines, "NTP="+server)
	}
	return lines
}

func routeLines(route api.NetworkRoute) []string {
	gateway := route.Via
	switch route.Via {
	case "dhcp4":
		gateway = "_dhcp4"
	case "dhcp6", "slaac":
		gateway = "_ipv6ra"
	}
	return []string{"Destination=" + netip.MustParsePrefix(route.To).Masked().String(), "Gateway=" + gateway}
}

func section(name string, lines ...string) string {
	return "[" + name + "]\n" + strings.Join(lines, "\n") + "\n"
}

func file(sections ...string) string { return strings.Join(sections, "\n") }
