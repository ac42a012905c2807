// Package network turns a network configuration into what must be on the machine: the
// files that systemd-networkd and udev read, the rules of nftables, the configuration
// of the proxy, and names.
//
// It is pure: the caller hands in the configuration and the cards it found, and gets a
// Plan; Change says what going from one plan to another does. Writing files and
// restarting networkd is somebody else's.
//
// # Devices
//
// Each card or bond is a port of a VLAN-aware bridge that has the configured name, so
// that instances can be put on that network; the node's own addresses sit on a veth
// pair with the bridge. For an interface "lan" with the card 52:54:00:12:34:56:
//
//	_p525400123456  the card, with a random MAC address, port of "lan"
//	lan             the bridge, without addresses
//	_i525400123456  the bridge's end of the veth pair, port of "lan"
//	_vlan           the node's end: the card's MAC address, and all addresses
//
// The card gives its MAC address away because a bridge keeps frames for the addresses
// of its ports to itself: two devices with one address would cut the node off.
//
// For a bond "lan" the members are ports of _blan, and that is the port of "lan"; _blan
// has a MAC address that networkd makes of the machine-id and the name. A VLAN is a
// device on the parent's _v..., and its id is let through the bridge on _p... or _b...
// and on _i.... A WireGuard device stands alone. Both have the configured name.
//
// # What always holds
//
// A configuration is checked as a whole: Validate returns every problem with the path
// of the field and the name of the rule. Values that pass hold no control characters
// and cannot break out of the line of the file that they are written to. Keys are in
// files of their own (Plan.Secrets), never in one that everybody may read.
//
// A configuration without interface and bond gets an interface for each card, also when
// it has WireGuard devices: a tunnel needs something to go through, and a node that
// nobody can reach helps nobody. IncusOS refuses it instead.
//
// # What can fail
//
// A card may be missing: its files wait for it. All may be, on a new board: see
// WithStrangers. No cable may be in, no DHCP server may
// answer: the node then starts when the time to wait is over, see Plan.WaitAll. A
// firewall that lets nothing in cuts the owner off: Plan.Notes says so, and a change
// with a confirmation is taken back.
package network

import (
	"cmp"
	"slices"
	"strings"

	api "github.com/holdfast-os/holdfast/api/os"
)

// Card is one network card of the machine.
type Card struct {
	// Name is the kernel's name of it now.
	Name string `json:"name"`
	// Hwaddr is the permanent MAC address, or the present one where the card has no
	// permanent one.
	Hwaddr string `json:"hwaddr"`
	// Permanent is true when Hwaddr is burnt into the card.
	Permanent bool `json:"permanent"`
	// MaxMTU is the largest frame the card takes, in bytes; 0 when unknown.
	MaxMTU int `json:"max_mtu"`
}

// World is what a plan depends on beside the configuration.
type World struct {
	// Cards are the network cards that were found.
	Cards []Card `json:"cards"`
	// ProductUUID, MachineID and OSName name the node when the configuration does
	// not: the first that is not empty.
	ProductUUID string `json:"product_uuid"`
	MachineID   string `json:"machine_id"`
	OSName      string `json:"os_name"`
}

// Plan is what must be on the machine for a configuration to hold.
type Plan struct {
	// Files are the whole content of /run/systemd/network, by file name, together with
	// Secrets.
	Files map[string]string
	// Secrets are the files there that hold keys: mode 0640, owner root, group
	// systemd-network, as networkd does not run as root.
	Secrets map[string]string
	// Timesyncd is a drop-in for systemd-timesyncd; empty when there is none.
	Timesyncd string
	// Hosts is the content of /etc/hosts.
	Hosts string
	// Hostname is the node's name, with the domain where one is configured.
	Hostname string
	// Timezone is a name of the IANA database.
	Timezone string
	// Nftables is the text for `nft -f`. It replaces the tables "inet holdfast" and
	// "bridge holdfast" in one transaction and touches no others.
	Nftables string
	// Forwarding is true when a forwarding rule accepts something: then the kernel must
	// forward packets of both families.
	Forwarding bool
	// Proxy is nil when none is configured; then no proxy must run.
	Proxy *ProxyPlan
	// Environment is the content of /etc/environment; empty without a proxy.
	Environment string
	// Interfaces are the configured interfaces, in their order.
	Interfaces []Interface
	// Devices are all that is configured: interfaces, bonds, VLANs, WireGuard.
	Devices []Device
	// Cards are the names that network cards must have, by MAC address.
	Cards map[string]string
	// EEEOff are the cards whose Energy-Efficient Ethernet is to be off. The .link files
	// say so too, but udev before 258 does not read it.
	EEEOff []string
	// WaitAll is true when some device is required for the node to be online; then all
	// that are required must be.
	WaitAll bool
	// WaitAny are the devices of which one must get an address when no device is
	// required; empty when none has addresses. WireGuard is not among them: it has its
	// addresses without any network.
	WaitAny []string
	// Notes are what an owner should know, each a sentence.
	Notes []string
}

// Interface names the devices of one configured interface.
type Interface struct {
	// Name is the bridge, and the name in the configuration.
	Name string
	// Host is the device with the node's addresses.
	Host string
	// Card is the device of the card.
	Card string
	// Hwaddr is the card's MAC address, in lower case with colons.
	Hwaddr string
}

// Device is one configured device and what it is made of.
type Device struct {
	// Name is the name in the configuration; for interfaces and bonds that of the bridge.
	Name string
	// Type is "interface", "bond", "vlan" or "wireguard".
	Type string
	// Host is the device with the node's addresses.
	Host string
	// Bond is the bond device, as "_blan"; empty for other types.
	Bond string
	// Parent is the configured name below a VLAN; empty for other types.
	Parent string
	// Cards are the devices of the cards, in the configured order; empty for VLANs and
	// WireGuard.
	Cards []string
	// Hwaddr is the MAC address of Host, in lower case with colons; empty for VLANs and
	// WireGuard.
	Hwaddr string
	// Links are the virtual devices that are made for it, in the order in which they are.
	Links []string
	// Files are the names in Plan.Files and Plan.Secrets that belong to it.
	Files []string
	// Addresses is true when the node has addresses on it, or on a VLAN of it.
	Addresses bool
}

// WithDefaults fills what a configuration leaves out: interfaces when there is neither
// one nor a bond (each card then asks for addresses over DHCPv4 and IPv6 router
// advertisements, and none is required), and the time zone. The configuration given is not changed.
func WithDefaults(c api.NetworkConfig, cards []Card) api.NetworkConfig {
	filled := normalize(c)
	if len(filled.Interfaces) == 0 && len(filled.Bonds) == 0 {
		taken := map[string]bool{}
		for _, d := range devices(filled) {
			taken[d.name] = true
		}
		filled.Interfaces = defaultInterfaces(cards, taken)
	}
	return filled
}

// WithStrangers adds an interface, as WithDefaults has them, for each card of a machine that
// has none of the cards of a configuration, and gives the names of what it added: a disk that
// was moved, or a new board, must not be a node that nobody can reach. A configuration without
// cards, and a machine that has one of them, are left as they are.
func WithStrangers(c api.NetworkConfig, cards []Card) (api.NetworkConfig, []string) {
	filled := normalize(c)
	known := claims(filled)
	for _, claim := range known {
		if slices.ContainsFunc(cards, func(card Card) bool { return lowerMAC(card.Hwaddr) == *claim.value }) {
			return c, nil
		}
	}
	if len(known) == 0 {
		return c, nil
	}
	taken := map[string]bool{}
	for _, d := range devices(filled) {
		taken[d.name] = true
	}
	added := defaultInterfaces(cards, taken)
	if len(added) == 0 {
		return c, nil
	}
	names := make([]string, len(added))
	for i, n := range added {
		names[i] = n.Name
	}
	filled.Interfaces = append(filled.Interfaces, added...)
	return filled, names
}

func defaultInterfaces(cards []Card, taken map[string]bool) []api.NetworkInterface {
	var interfaces []api.NetworkInterface
	sorted := slices.Clone(cards)
	slices.SortFunc(sorted, func(a, b Card) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Hwaddr, b.Hwaddr))
	})
	seen := map[string]bool{}
	for _, card := range sorted {
		mac, ok := parseMAC(card.Hwaddr)
		if !ok || seen[mac] || len(interfaces) == maxDevices-len(taken) {
			continue
		}
		seen[mac] = true
		interfaces = append(interfaces, api.NetworkInterface{
			Name: defaultName(card.Name, mac, taken), Hwaddr: mac,
			Addresses: []string{"dhcp4", "slaac"}, RequiredForOnline: "no",
		})
	}
	return interfaces
}

// defaultName is the kernel's name of a card, or one made of its address where the
// kernel's cannot name a bridge.
func defaultName(name, mac string, taken map[string]bool) string {
	name = shortName(name)
	if nameProblem(name) != "" || taken[name] {
		return "n" + hex12(mac)
	}
	return name
}

// shortName strips the prefix from names made of a MAC address, which would be too
// long. networkd takes no name of digits alone, so such a name gets a letter.
func shortName(name string) string {
	digits, ok := strings.CutPrefix(name, "enx")
	if !ok || len(digits) != 12 || strings.Trim(digits, "0123456789abcdef") != "" {
		return name
	}
	if strings.Trim(digits, "0123456789") == "" {
		return "n" + digits
	}
	return digits
}

// normalize gives a copy in the one form that the planner reads.
func normalize(c api.NetworkConfig) api.NetworkConfig {
	clock := api.NetworkTime{}
	if c.Time != nil {
		clock = *c.Time
	}
	clock.Timezone = cmp.Or(clock.Timezone, "UTC")
	c.Time = &clock
	c.Interfaces, c.Bonds, c.VLANs = slices.Clone(c.Interfaces), slices.Clone(c.Bonds), slices.Clone(c.VLANs)
	c.ForwardingRules = slices.Clone(c.ForwardingRules)
	for i := range c.Interfaces {
		n := &c.Interfaces[i]
		n.Name, n.Hwaddr = shortName(n.Name), lowerMAC(n.Hwaddr)
	}
	for i := range c.Bonds {
		b := &c.Bonds[i]
		b.Hwaddr, b.Members = lowerMAC(b.Hwaddr), slices.Clone(b.Members)
		for j := range b.Members {
			b.Members[j] = lowerMAC(b.Members[j])
		}
	}
	for i := range c.VLANs {
		c.VLANs[i].Parent = shortName(c.VLANs[i].Parent)
	}
	for i := range c.ForwardingRules {
		r := &c.ForwardingRules[i]
		r.From, r.To = shortName(r.From), shortName(r.To)
	}
	return c
}

// AssignRoles adds the roles that nobody configured: when no device is for management,
// each that is routable is; when none is for the cluster, those for management are.
// States are keyed by the configured name and changed in place.
func AssignRoles(c api.NetworkConfig, states map[string]api.NetworkInterfaceState) {
	management, cluster := false, false
	for _, d := range devices(c) {
		management = management || slices.Contains(d.roles, "management")
		cluster = cluster || slices.Contains(d.roles, "cluster")
		if state, ok := states[d.name]; ok {
			state.Roles = slices.Clone(d.roles)
			states[d.name] = state
		}
	}
	for name, state := range states {
		if state.Type == "physical" {
			continue
		}
		if !management && state.State == "routable" {
			state.Roles = append(state.Roles, "management")
		}
		if !cluster && slices.Contains(state.Roles, "management") {
			state.Roles = append(state.Roles, "cluster")
		}
		states[name] = state
	}
}
