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

// port is a bridge with the node's end, for a card or a bond.
type port struct {
	// netdev and network begin the names of its files.
	netdev, network string
	// hostMAC is the MAC address of the node's end; peer is the bridge's.
	hostMAC, peer string
	// tags are the VLANs that are let through; mtu is in bytes.
	tags []int
	mtu  int
}

func (p port) size() string { return fmt.Sprintf("MTUBytes=%d", p.mtu) }

func (p *planner) addInterface(d device, n api.NetworkInterface, made *Device) error {
	mtu, err := p.size(n.MTU, []string{n.Hwaddr})
	if err != nil {
		return err
	}
	card := p.card(n.Hwaddr)
	made.Hwaddr = hostMAC(card, n.Hwaddr)
	to := port{netdev: "10-", network: "20-", hostMAC: made.Hwaddr, peer: "_i" + hex12(n.Hwaddr), mtu: mtu,
		tags: p.tags(n.Name, n.VLANTags)}
	name := p.addCard(n.Hwaddr, n.Ethernet, cardLink("00-", card, to.size()), made)
	p.plan.Interfaces = append(p.plan.Interfaces, Interface{Name: n.Name, Host: d.host(), Card: name, Hwaddr: n.Hwaddr})
	if n.StrictHwaddr {
		p.strict[name] = made.Hwaddr
	}
	p.addPort(name, n.Name, to, lldpLines(n.LLDP)...)
	p.addBridge(d, to, made)
	return nil
}

func (p *planner) addBond(d device, b api.NetworkBond, made *Device) error {
	mtu, err := p.size(b.MTU, b.Members)
	if err != nil {
		return err
	}
	made.Bond, made.Hwaddr = "_b"+b.Name, cmp.Or(b.Hwaddr, b.Members[0])
	to := port{netdev: "11-", network: "21-", hostMAC: made.Hwaddr, peer: "_i" + hex12(made.Hwaddr), mtu: mtu,
		tags: p.tags(b.Name, b.VLANTags)}
	for i, mac := range b.Members {
		name := p.addCard(mac, b.Ethernet, cardLink("01-", p.card(mac), to.size()), made)
		lines := append([]string{"Bond=" + made.Bond}, lldpLines(b.LLDP)...)
		p.write(fmt.Sprintf("21-%s-dev%d.network", made.Bond, i), file(
			section("Match", "Name="+name),
			section("Link", "RequiredForOnline=no"),
			section("Network", append(lines, "LinkLocalAddressing=no", "IPv6AcceptRA=false", "ConfigureWithoutCarrier=true")...)))
	}
	// Without it a member whose cable is out would still be sent to, in some modes.
	lines := []string{"Mode=" + b.Mode, "MIIMonitorSec=100ms"}
	if b.Mode == "802.3ad" {
		lines = append(lines, "TransmitHashPolicy=layer3+4", "LACPTransmitRate=fast")
	}
	p.write("11-"+made.Bond+".netdev", file(section("NetDev", "Name="+made.Bond, "Kind=bond"), section("Bond", lines...)))
	made.Links = append(made.Links, made.Bond)
	p.addPort(made.Bond, b.Name, to)
	p.addBridge(d, to, made)
	return nil
}

func lldpLines(emit bool) []string { return []string{"LLDP=true", fmt.Sprintf("EmitLLDP=%t", emit)} }

// tags are the VLANs that a bridge lets through beside the one without a tag: those
// asked for, and those of all VLANs on it. Frames with the id 0 count as without.
func (p *planner) tags(name string, asked []int) []int {
	tags := slices.Clone(asked)
	for _, child := range p.children[name] {
		if child.ID != 0 {
			tags = append(tags, child.ID)
		}
	}
	slices.Sort(tags)
	return slices.Compact(tags)
}

func (p *planner) card(mac string) Card {
	if card, ok := p.cards[mac]; ok {
		return card
	}
	return Card{Hwaddr: mac, Permanent: true}
}

// addCard names a card and sets its options; it gives the name.
func (p *planner) addCard(mac string, e *api.NetworkEthernet, link linkFile, made *Device) string {
	name := "_p" + hex12(mac)
	p.plan.Cards[mac] = name
	made.Cards = append(made.Cards, name)
	lines, secret := ethernetLines(e)
	sections := []string{link.match, section("Link", append(link.lines, lines...)...)}
	if e != nil && e.DisableEnergyEfficient {
		sections = append(sections, section("EnergyEfficientEthernet", "Enable=false"))
		p.plan.EEEOff = append(p.plan.EEEOff, name)
	}
	if secret {
		p.secret(link.name, file(sections...))
	} else {
		p.write(link.name, file(sections...))
	}
	return name
}

// ethernetLines are the options of a card, and whether a password is among them.
func ethernetLines(e *api.NetworkEthernet) (lines []string, secret bool) {
	if e == nil {
		return nil, false
	}
	for _, option := range []struct {
		off   bool
		names []string
	}{
		{e.DisableGRO, []string{"GenericReceiveOffload", "GenericReceiveOffloadHardware"}},
		{e.DisableGSO, []string{"GenericSegmentationOffload"}},
		{e.DisableIPv4TSO, []string{"TCPSegmentationOffload"}},
		{e.DisableIPv6TSO, []string{"TCP6SegmentationOffload"}},
	} {
		for _, name := range option.names {
			if option.off {
				lines = append(lines, name+"=false")
			}
		}
	}
	if !e.WakeOnLAN {
		return lines, false
	}
	modes := e.WakeOnLANModes
	if len(modes) == 0 {
		modes = []string{"magic"}
	}
	lines = append(lines, "WakeOnLan="+strings.Join(modes, " "))
	if password, ok := wolPassword(e.WakeOnLANPassword); ok && slices.Contains(modes, "secureon") {
		return append(lines, "WakeOnLanPassword="+password), true
	}
	return lines, false
}

// linkFile is the beginning of a .link file.
type linkFile struct {
	name, match string
	lines       []string
}

// cardLink finds a card and names it. The card of an interface gets a random MAC
// address; a member of a bond keeps its own, as the bond sets it.
func cardLink(prefix string, card Card, size string) linkFile {
	mac := lowerMAC(card.Hwaddr)
	name := "_p" + hex12(mac)
	link := linkFile{name: prefix + name + ".link", match: section("Match", "PermanentMACAddress="+mac, "Kind=!*")}
	policy := "random"
	if !card.Permanent {
		link.match, policy = section("Match", "MACAddress="+mac, "Kind=!*"), "none"
	}
	if prefix == "01-" {
		policy = "none"
	}
	link.lines = []string{"NamePolicy=", "Name=" + name, "MACAddressPolicy=" + policy, size}
	return link
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

// addPort makes a device a port of a bridge.
func (p *planner) addPort(name, bridge string, to port, more ...string) {
	lines := append([]string{"Bridge=" + bridge}, more...)
	sections := []string{
		section("Match", "Name="+name),
		section("Link", to.size(), "RequiredForOnline=no"),
		section("Network", append(lines, "LinkLocalAddressing=no", "IPv6AcceptRA=false", "ConfigureWithoutCarrier=true")...),
	}
	p.write(to.network+name+".network", file(append(sections, vlanSections(to.tags)...)...))
	p.untracked = append(p.untracked, name)
}

// vlanSections let VLANs through a port; ids in a row are one section.
func vlanSections(tags []int) []string {
	var sections []string
	for i := 0; i < len(tags); {
		end := i
		for end+1 < len(tags) && tags[end+1] == tags[end]+1 {
			end++
		}
		line := fmt.Sprintf("VLAN=%d", tags[i])
		if end > i {
			line += fmt.Sprintf("-%d", tags[end])
		}
		sections = append(sections, section("BridgeVLAN", line))
		i = end + 1
	}
	return sections
}

// addBridge adds the bridge and the node's end of it. The size stays out of the
// bridge's netdev file: Stale would delete the bridge under the instances that use it.
func (p *planner) addBridge(d device, to port, made *Device) {
	made.Links = append(made.Links, d.name, d.host())
	p.mtus[d.name] = to.mtu
	p.write(to.netdev+d.name+".netdev", file(
		section("NetDev", "Name="+d.name, "Kind=bridge"),
		section("Bridge", "VLANFiltering=true")))
	p.write(to.netdev+d.host()+".netdev", file(
		section("NetDev", "Name="+d.host(), "Kind=veth", "MACAddress="+to.hostMAC, to.size()),
		section("Peer", "Name="+to.peer)))
	p.addPort(to.peer, d.name, to)
	p.write(to.network+d.name+".network", file(
		section("Match", "Name="+d.name),
		section("Link", to.size(), "RequiredForOnline=no"),
		section("Network", "LinkLocalAddressing=no", "IPv6AcceptRA=false", "ConfigureWithoutCarrier=true")))
	p.write(to.network+d.host()+".network", p.hostFile(d, to.mtu))
}

func (p *planner) addVLAN(d device, v api.NetworkVLAN, made *Device) {
	mtu := min(cmp.Or(v.MTU, defaultMTU), p.mtus[v.Parent])
	made.Parent, made.Links = v.Parent, []string{v.Name}
	p.write("12-"+v.Name+".netdev", file(
		section("NetDev", "Name="+v.Name, "Kind=vlan", fmt.Sprintf("MTUBytes=%d", mtu)),
		section("VLAN", fmt.Sprintf("Id=%d", v.ID))))
	p.write("22-"+v.Name+".network", p.hostFile(d, mtu))
}

// wireguardMTU is what fits into 1500 bytes with the headers of WireGuard over IPv6.
const wireguardMTU = 1420

// keyDir is where Plan.Secrets are.
const keyDir = "/run/systemd/network/"

func (p *planner) addWireguard(d device, w api.NetworkWireguard, made *Device) {
	mtu := cmp.Or(w.MTU, wireguardMTU)
	made.Links = []string{w.Name}
	key := "13-" + w.Name + ".key"
	p.secret(key, w.PrivateKey+"\n")
	lines := []string{"PrivateKeyFile=" + keyDir + key}
	if w.Port != 0 {
		lines = append(lines, fmt.Sprintf("ListenPort=%d", w.Port))
	}
	sections := []string{
		section("NetDev", "Name="+w.Name, "Kind=wireguard", fmt.Sprintf("MTUBytes=%d", mtu)),
		section("WireGuard", lines...),
	}
	for i, peer := range w.Peers {
		sections = append(sections, p.peer(w.Name, i, peer))
	}
	p.write("13-"+w.Name+".netdev", file(sections...))
	p.write("23-"+w.Name+".network", p.hostFile(d, mtu))
}

func (p *planner) peer(device string, index int, peer api.NetworkWireguardPeer) string {
	lines := []string{"PublicKey=" + peer.PublicKey}
	if peer.PresharedKey != "" {
		name := fmt.Sprintf("13-%s-peer%d.key", device, index)
		p.secret(name, peer.PresharedKey+"\n")
		lines = append(lines, "PresharedKeyFile="+keyDir+name)
	}
	for _, text := range peer.AllowedIPs {
		lines = append(lines, "AllowedIPs="+netip.MustParsePrefix(text).Masked().String())
	}
	if at, ok := endpoint(peer.Endpoint); ok {
		lines = append(lines, "Endpoint="+at)
	}
	if peer.PersistentKeepalive > 0 {
		lines = append(lines, fmt.Sprintf("PersistentKeepalive=%d", peer.PersistentKeepalive))
	}
	return section("WireGuardPeer", lines...)
}

// hostFile is for a device with the node's addresses.
func (p *planner) hostFile(d device, mtu int) string {
	link := []string{"RequiredForOnline=no"}
	if d.isRequired() {
		link = []string{"RequiredForOnline=yes", "RequiredFamilyForOnline=" + cmp.Or(d.required, "any")}
	}
	if d.mtu != 0 {
		link = append(link, fmt.Sprintf("MTUBytes=%d", mtu))
	}
	sections := []string{section("Match", "Name="+d.host()), section("Link", link...), section("Network", p.networkLines(d)...)}
	if slices.Contains(d.addresses, "dhcp4") {
		// The MAC address as identifier gives a reinstalled node its old address back.
		lease := []string{"ClientIdentifier=mac", "RouteMetric=100", "UseHostname=false"}
		if d.mtu == 0 {
			lease = append(lease, "UseMTU=true")
		}
		sections = append(sections, section("DHCPv4", lease...))
	}
	if slices.Contains(d.addresses, "dhcp6") {
		sections = append(sections, section("DHCPv6", "WithoutRA=solicit", "UseHostname=false"))
	}
	for _, route := range d.routes {
		lines := routeLines(route)
		if d.kind == kindWireguard {
			// Behind a tunnel there are no neighbours to look for.
			lines = append(lines, "GatewayOnLink=true")
		}
		sections = append(sections, section("Route", lines...))
	}
	return file(sections...)
}

func (p *planner) networkLines(d device) []string {
	var lines []string
	dhcp4, dhcp6 := slices.Contains(d.addresses, "dhcp4"), slices.Contains(d.addresses, "dhcp6")
	switch {
	case len(d.addresses) == 0 || d.kind == kindWireguard:
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
	lines = append(lines, fmt.Sprintf("IPv6AcceptRA=%t", dhcp6 || slices.Contains(d.addresses, "slaac")))
	for _, address := range d.addresses {
		if !automatic(address) {
			lines = append(lines, "Address="+netip.MustParsePrefix(address).String())
		}
	}
	if d.kind == kindInterface || d.kind == kindBond {
		for _, child := range p.children[d.name] {
			lines = append(lines, "VLAN="+child.Name)
		}
	}
	if len(d.addresses) > 0 && d.kind != kindWireguard {
		lines = append(lines, resolverLines(p.config)...)
	}
	return lines
}

// resolverLines go to each device that has addresses. A tunnel has none of them: the
// servers are seldom behind it.
func resolverLines(c api.NetworkConfig) []string {
	var lines []string
	if dns := c.DNS; dns != nil {
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
	for _, server := range c.Time.NTPServers {
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

// anyCardFile is for a machine whose cards have all still to appear, as one on USB or with a slow
// driver may: whatever comes asks for an address by itself, so that the owner gets in.
const anyCardFile = "90-any-card.network"

var anyCard = file(
	section("Match", "Type=ether", "Kind=!*"), // a card has no kind, each virtual device has one
	section("Link", "RequiredForOnline=no"),
	section("Network", "DHCP=ipv4", "IPv6AcceptRA=true"),
	section("DHCPv4", "ClientIdentifier=mac", "UseHostname=false"),
)
