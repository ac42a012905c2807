package networkd

import (
	"context"
	"fmt"
	"slices"

	api "github.com/holdfast-os/holdfast/api/os"
)

// Types of a Device, the same in the answer.
const (
	TypeInterface = "interface"
	TypeBond      = "bond"
	TypeVLAN      = "vlan"
	TypeWireguard = "wireguard"
)

// Device names the kernel's devices of one configured device.
type Device struct {
	// Type is one of the Type constants.
	Type string
	// Name is the key in the answer.
	Name string
	// Host is the device with the node's addresses: the node's end of the veth pair of
	// an interface or bond, and the device itself of a VLAN or WireGuard.
	Host string
	// Bond is the bond device itself, for a bond.
	Bond string
	// Cards are the devices of the cards: one of an interface, the members of a bond,
	// none of others.
	Cards []string
	// Hwaddr is the configured MAC address, shown while the device is missing.
	Hwaddr string
}

// seen is all that ReadDevices gathers, by device name.
type seen struct {
	links       map[string]Link
	order       []string
	operational map[string]string
	routes      map[string][]api.NetworkRoute
	speeds      map[string]string
	lldp        map[string][]api.NetworkLLDP
	lacp        map[string]api.NetworkLACP
	wireguard   map[string]api.NetworkWireguardState
}

// ReadDevices gives what is seen of the configured devices, and of network cards that
// belong to none. Addresses, routes, MTU and state are those of the node's own device;
// speed, traffic and neighbours are those of the card or bond, so instances' traffic is
// counted too. Roles are not filled in. A device that is missing has the state
// "missing". The number of programs started does not depend on that of devices.
func (h Host) ReadDevices(ctx context.Context, devices []Device) (map[string]api.NetworkInterfaceState, error) {
	found, err := h.look(ctx, devices)
	if err != nil {
		return nil, err
	}
	all, used := map[string]api.NetworkInterfaceState{}, map[string]bool{}
	for _, d := range devices {
		all[d.Name] = found.device(d)
		for _, card := range d.Cards {
			used[card] = true
		}
	}
	for _, name := range found.order {
		link := found.links[name]
		if _, taken := all[name]; !link.Physical || used[name] || taken {
			continue
		}
		all[name] = found.card("physical", name)
	}
	return all, nil
}

func (h Host) look(ctx context.Context, devices []Device) (seen, error) {
	links, err := h.Links(ctx)
	if err != nil {
		return seen{}, err
	}
	found := seen{links: map[string]Link{}, speeds: map[string]string{}, lacp: map[string]api.NetworkLACP{}}
	for _, link := range links {
		found.links[link.Name] = link
		found.order = append(found.order, link.Name)
	}
	if found.operational, err = h.operational(ctx); err != nil {
		return seen{}, err
	}
	if found.routes, err = h.routes(ctx); err != nil {
		return seen{}, err
	}
	if found.lldp, err = h.Neighbours(ctx); err != nil {
		return seen{}, err
	}
	for _, link := range links {
		if link.Physical || link.Kind == "bond" {
			found.speeds[link.Name] = speed(h.sysfs(link.Name, "speed"))
		}
		if link.Kind == "bond" {
			if err := h.readLACP(link.Name, found.lacp); err != nil {
				return seen{}, fmt.Errorf("reading the state of the bond %s: %w", link.Name, err)
			}
		}
	}
	if slices.ContainsFunc(devices, func(d Device) bool { return d.Type == TypeWireguard }) {
		found.wireguard, err = h.Wireguard(ctx)
	}
	return found, err
}

// device is the state of one configured device.
func (s seen) device(d Device) api.NetworkInterfaceState {
	state := api.NetworkInterfaceState{Type: d.Type, State: "missing", Hwaddr: d.Hwaddr, Speed: "unknown"}
	if host, ok := s.links[d.Host]; ok {
		state.State = orUnknown(s.operational[d.Host])
		state.Addresses, state.MTU, state.Routes = host.Addresses, host.MTU, s.routes[d.Host]
		state.Hwaddr, state.Stats = host.Address, host.Stats
	}
	switch d.Type {
	case TypeInterface:
		state.Stats = api.NetworkStatistic{}
		for _, card := range d.Cards {
			state.Stats, state.Speed, state.LLDP = s.links[card].Stats, orUnknown(s.speeds[card]), s.lldp[card]
		}
	case TypeBond:
		state.Stats, state.Speed = s.links[d.Bond].Stats, orUnknown(s.speeds[d.Bond])
		for _, card := range d.Cards {
			if state.Members == nil {
				state.Members = map[string]api.NetworkInterfaceState{}
			}
			state.Members[card] = s.card("bond_member", card)
		}
	case TypeWireguard:
		if wg, ok := s.wireguard[d.Host]; ok {
			state.Wireguard = &wg
		}
	}
	return state
}

// card is the state of a card, which may be missing.
func (s seen) card(kind, name string) api.NetworkInterfaceState {
	link, ok := s.links[name]
	if !ok {
		return api.NetworkInterfaceState{Type: kind, State: "missing", Speed: "unknown"}
	}
	state := api.NetworkInterfaceState{
		Type: kind, State: orUnknown(s.operational[name]), Addresses: link.Addresses, Hwaddr: link.CardAddress(),
		MTU: link.MTU, Speed: orUnknown(s.speeds[name]), Routes: s.routes[name], Stats: link.Stats, LLDP: s.lldp[name],
	}
	if lacp, ok := s.lacp[name]; ok {
		state.LACP = &lacp
	}
	return state
}
