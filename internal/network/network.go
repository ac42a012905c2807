// Package network turns a network configuration into the files that
// systemd-networkd reads.
//
// It is pure: the caller hands in the configuration and the cards it found, and
// gets a Plan; writing the files and restarting networkd is somebody else's.
//
// Each card is a port of a VLAN-aware bridge that has the configured name, so that
// instances can be put on that network; the node's own addresses sit on a veth pair
// with the bridge. For an interface "lan" with the card 52:54:00:12:34:56:
//
//	_p525400123456  the card, with a random MAC address, port of "lan"
//	lan             the bridge, without addresses
//	_i525400123456  the bridge's end of the veth pair, port of "lan"
//	_vlan           the node's end: the card's MAC address, and all addresses
//
// The card gives its MAC address away because a bridge keeps frames for the
// addresses of its ports to itself: two devices with one address would cut the
// node off.
//
// A configuration is checked as a whole: Validate returns every problem with the
// path of the field and the name of the rule. Names and addresses that pass cannot
// break out of the line of the file that they are written to.
package network

import (
	"cmp"
	"fmt"
	"maps"
	"net"
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
	Cards []Card `json:"cards"`
	// ProductUUID, MachineID and OSName name the node when the configuration does
	// not: the first that is not empty.
	ProductUUID string `json:"product_uuid"`
	MachineID   string `json:"machine_id"`
	OSName      string `json:"os_name"`
}

// Plan is what must be on the machine for a configuration to hold.
type Plan struct {
	// Files are the whole content of /run/systemd/network, by file name.
	Files map[string]string
	// Timesyncd is a drop-in for systemd-timesyncd; empty when there is none.
	Timesyncd string
	// Hosts is the content of /etc/hosts.
	Hosts string
	// Hostname is the node's name, with the domain where one is configured.
	Hostname string
	// Timezone is a name of the IANA database.
	Timezone string
	// Interfaces are the configured interfaces, in their order.
	Interfaces []Interface
	// WaitAll is true when some interface is required for the node to be online;
	// then all that are required must be.
	WaitAll bool
	// WaitAny are the devices of which one must get an address when no interface is
	// required; empty when none has addresses.
	WaitAny []string
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

// Default is the configuration of a node that was given none: each card asks for
// addresses over DHCPv4 and IPv6 router advertisements, and none is required.
func Default(cards []Card) api.NetworkConfig {
	config := api.NetworkConfig{Time: &api.NetworkTime{Timezone: "UTC"}}
	sorted := slices.Clone(cards)
	slices.SortFunc(sorted, func(a, b Card) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Hwaddr, b.Hwaddr))
	})
	seen := map[string]bool{}
	for _, card := range sorted {
		mac, ok := parseMAC(card.Hwaddr)
		if !ok || seen[mac] {
			continue
		}
		seen[mac] = true
		config.Interfaces = append(config.Interfaces, api.NetworkInterface{
			Name: defaultName(card.Name, mac), Hwaddr: mac,
			Addresses: []string{"dhcp4", "slaac"}, RequiredForOnline: "no",
		})
	}
	return config
}

// WithDefaults fills what a configuration leaves out: interfaces when there are
// none, and the time zone. The configuration given is not changed.
func WithDefaults(config api.NetworkConfig, cards []Card) api.NetworkConfig {
	filled := normalize(config)
	if len(filled.Interfaces) == 0 {
		filled.Interfaces = Default(cards).Interfaces
	}
	return filled
}

// defaultName is the kernel's name of a card, or one made of its address where the
// kernel's cannot name a bridge.
func defaultName(name, mac string) string {
	name = shortName(name)
	if nameProblem(name) != "" {
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
func normalize(config api.NetworkConfig) api.NetworkConfig {
	clock := api.NetworkTime{}
	if config.Time != nil {
		clock = *config.Time
	}
	clock.Timezone = cmp.Or(clock.Timezone, "UTC")
	config.Time = &clock
	config.Interfaces = slices.Clone(config.Interfaces)
	for i := range config.Interfaces {
		n := &config.Interfaces[i]
		n.Name = shortName(n.Name)
		if mac, ok := parseMAC(n.Hwaddr); ok {
			n.Hwaddr = mac
		}
	}
	return config
}

// parseMAC gives a MAC address of six bytes in lower case with colons.
func parseMAC(text string) (string, bool) {
	mac, err := net.ParseMAC(text)
	if err != nil || len(mac) != 6 || mac[0]&1 != 0 || mac.String() == "00:00:00:00:00:00" {
		return "", false
	}
	return mac.String(), true
}

func hex12(mac string) string { return strings.ReplaceAll(mac, ":", "") }

// resolve replaces kernel names of cards by their MAC addresses.
func resolve(config api.NetworkConfig, cards []Card) (api.NetworkConfig, Problems) {
	var problems Problems
	seen := map[string]int{}
	for i := range config.Interfaces {
		n := &config.Interfaces[i]
		path := fmt.Sprintf("interfaces[%d].hwaddr", i)
		if _, ok := parseMAC(n.Hwaddr); !ok {
			at := slices.IndexFunc(cards, func(c Card) bool { return c.Name == n.Hwaddr })
			if at < 0 {
				problems.add(path, "card", "no network card has the name %q; name one of %s, or give a MAC address",
					n.Hwaddr, cardNames(cards))
				continue
			}
			mac, ok := parseMAC(cards[at].Hwaddr)
			if !ok {
				problems.add(path, "card", "the card %q has no usable MAC address", n.Hwaddr)
				continue
			}
			n.Hwaddr = mac
		}
		if first, again := seen[n.Hwaddr]; again {
			problems.add(path, "unique", "is the card of interfaces[%d] already", first)
			continue
		}
		seen[n.Hwaddr] = i
	}
	return config, problems
}

func cardNames(cards []Card) string {
	names := make([]string, 0, len(cards))
	for _, c := range cards {
		names = append(names, fmt.Sprintf("%q", c.Name))
	}
	slices.Sort(names)
	return "(" + strings.Join(names, ", ") + ")"
}

// Stale names the devices of an earlier plan that must be deleted before the next
// one is applied, because it has no such device or one with other settings. Of a
// veth pair only the node's end is named; the other goes with it.
func Stale(before, next Plan) []string {
	var names []string
	for _, file := range slices.Sorted(maps.Keys(before.Files)) {
		if !strings.HasSuffix(file, ".netdev") || before.Files[file] == next.Files[file] {
			continue
		}
		name := strings.TrimPrefix(strings.TrimSuffix(file, ".netdev"), "10-")
		names = append(names, name)
	}
	return names
}

// AssignRoles adds the roles that nobody configured: when no interface is for
// management, each that is routable is; when none is for the cluster, those for
// management are. States are keyed by the configured name and changed in place.
func AssignRoles(config api.NetworkConfig, states map[string]api.NetworkInterfaceState) {
	management, cluster := false, false
	for _, n := range config.Interfaces {
		state, ok := states[n.Name]
		management = management || slices.Contains(n.Roles, "management")
		cluster = cluster || slices.Contains(n.Roles, "cluster")
		if ok {
			state.Roles = slices.Clone(n.Roles)
			states[n.Name] = state
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
