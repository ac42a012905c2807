package network

import (
	"fmt"
	"net"
	"slices"
	"strings"

	api "github.com/holdfast-os/holdfast/api/os"
)

// Kinds of devices, as the API has them in a state's type.
const (
	kindInterface = "interface"
	kindBond      = "bond"
	kindVLAN      = "vlan"
	kindWireguard = "wireguard"
)

// device is what devices of all kinds have in common.
type device struct {
	// path names it in the configuration, as "interfaces[0]"; index counts in its kind.
	path, kind string
	index      int
	name       string
	addresses  []string
	routes     []api.NetworkRoute
	roles      []string
	mtu        int
	required   string
	rules      []api.NetworkFirewallRule
}

// devices are all of a configuration, interfaces first.
func devices(c api.NetworkConfig) []device {
	list := make([]device, 0, len(c.Interfaces)+len(c.Bonds)+len(c.VLANs)+len(c.Wireguard))
	for i, n := range c.Interfaces {
		list = append(list, device{fmt.Sprintf("interfaces[%d]", i), kindInterface, i, n.Name,
			n.Addresses, n.Routes, n.Roles, n.MTU, n.RequiredForOnline, n.FirewallRules})
	}
	for i, n := range c.Bonds {
		list = append(list, device{fmt.Sprintf("bonds[%d]", i), kindBond, i, n.Name,
			n.Addresses, n.Routes, n.Roles, n.MTU, n.RequiredForOnline, n.FirewallRules})
	}
	for i, n := range c.VLANs {
		list = append(list, device{fmt.Sprintf("vlans[%d]", i), kindVLAN, i, n.Name,
			n.Addresses, n.Routes, n.Roles, n.MTU, n.RequiredForOnline, n.FirewallRules})
	}
	for i, n := range c.Wireguard {
		list = append(list, device{fmt.Sprintf("wireguard[%d]", i), kindWireguard, i, n.Name,
			n.Addresses, n.Routes, n.Roles, n.MTU, n.RequiredForOnline, n.FirewallRules})
	}
	return list
}

// host is the device that has the node's addresses.
func (d device) host() string {
	if d.kind == kindInterface || d.kind == kindBond {
		return "_v" + d.name
	}
	return d.name
}

// isRequired is true when the node is not online without the device. WireGuard has its
// addresses whether or not there is a network, so it only is when that is asked for.
func (d device) isRequired() bool {
	if d.kind == kindWireguard && d.required == "" {
		return false
	}
	return len(d.addresses) > 0 && d.required != "no"
}

// parseMAC gives a MAC address of six bytes in lower case with colons.
func parseMAC(text string) (string, bool) {
	mac, err := net.ParseMAC(text)
	if err != nil || len(mac) != 6 || mac[0]&1 != 0 || mac.String() == "00:00:00:00:00:00" {
		return "", false
	}
	return mac.String(), true
}

// lowerMAC gives a MAC address in its one form, and anything else as it is.
func lowerMAC(text string) string {
	if mac, ok := parseMAC(text); ok {
		return mac
	}
	return text
}

func hex12(mac string) string { return strings.ReplaceAll(mac, ":", "") }

// claim is the use of one card, or of its MAC address.
type claim struct {
	// path names the field, device what it belongs to.
	path, device string
	value        *string
	// own is true for the MAC address of a bond, which may be that of a member.
	own bool
}

// claims are all uses of cards; the values can be written through them.
func claims(c api.NetworkConfig) []claim {
	var list []claim
	for i := range c.Interfaces {
		device := fmt.Sprintf("interfaces[%d]", i)
		list = append(list, claim{device + ".hwaddr", device, &c.Interfaces[i].Hwaddr, false})
	}
	for i := range c.Bonds {
		device := fmt.Sprintf("bonds[%d]", i)
		for j := range c.Bonds[i].Members {
			list = append(list, claim{fmt.Sprintf("%s.members[%d]", device, j), device, &c.Bonds[i].Members[j], false})
		}
		if c.Bonds[i].Hwaddr != "" {
			list = append(list, claim{device + ".hwaddr", device, &c.Bonds[i].Hwaddr, true})
		}
	}
	return list
}

// again says by which device a claim's card is taken already; empty when by none.
func (c claim) again(seen map[string]string) string {
	first, taken := seen[*c.value]
	switch {
	case *c.value == "" || taken && c.own && first == c.device:
		return ""
	case taken:
		return first
	}
	seen[*c.value] = c.device
	return ""
}

// resolve replaces kernel names of cards by their MAC addresses, in place.
func resolve(c api.NetworkConfig, cards []Card) Problems {
	var p checker
	byName := map[string]Card{}
	for _, card := range cards {
		byName[card.Name] = card
	}
	seen := map[string]string{}
	for _, claim := range claims(c) {
		if _, ok := parseMAC(*claim.value); !ok {
			card, found := byName[*claim.value]
			if !found {
				p.Add(claim.path, "card", "no network card has the name %q; name one of %s, or give a MAC address",
					*claim.value, cardNames(cards))
				continue
			}
			mac, ok := parseMAC(card.Hwaddr)
			if !ok {
				p.Add(claim.path, "card", "the card %q has no usable MAC address", *claim.value)
				continue
			}
			*claim.value = mac
		}
		if first := claim.again(seen); first != "" {
			p.Add(claim.path, "unique", "is the card of %s already", first)
		}
	}
	return p.Problems
}

func cardNames(cards []Card) string {
	names := make([]string, 0, len(cards))
	for _, c := range cards {
		names = append(names, fmt.Sprintf("%q", c.Name))
	}
	slices.Sort(names)
	return "(" + strings.Join(names, ", ") + ")"
}
