package networkd

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	api "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/system/run"
)

// Interface names the devices of one configured interface.
type Interface struct {
	// Name is the key in the answer.
	Name string
	// Host is the device with the node's addresses.
	Host string
	// Card is the device of the card.
	Card string
	// Hwaddr is the configured MAC address.
	Hwaddr string
}

// ReadState gives what is seen of the configured interfaces, and of network cards
// that belong to none. Addresses, routes, MTU and state are the node's own; speed
// and traffic are the card's, so instances' traffic is counted too. Roles are not
// filled in. An interface whose devices are missing has the state "missing".
func (h Host) ReadState(ctx context.Context, interfaces []Interface) (map[string]api.NetworkInterfaceState, error) {
	links, err := h.Links(ctx)
	if err != nil {
		return nil, err
	}
	operational, err := h.operational(ctx)
	if err != nil {
		return nil, err
	}
	routes, err := h.routes(ctx)
	if err != nil {
		return nil, err
	}
	speeds := map[string]string{}
	for _, link := range links {
		if link.Physical {
			speeds[link.Name] = speed(h.sysfs(link.Name, "speed"))
		}
	}
	return states(interfaces, links, operational, routes, speeds), nil
}

func states(interfaces []Interface, links []Link, operational map[string]string,
	routes map[string][]api.NetworkRoute, speeds map[string]string,
) map[string]api.NetworkInterfaceState {
	byName, used := map[string]Link{}, map[string]bool{}
	for _, link := range links {
		byName[link.Name] = link
	}
	all := map[string]api.NetworkInterfaceState{}
	for _, i := range interfaces {
		used[i.Card] = true
		host, there := byName[i.Host]
		state := api.NetworkInterfaceState{Type: "interface", State: "missing", Hwaddr: i.Hwaddr, Speed: "unknown"}
		if there {
			state.State = orUnknown(operational[i.Host])
			state.Addresses, state.MTU, state.Hwaddr, state.Routes = host.Addresses, host.MTU, host.Address, routes[i.Host]
		}
		if card, ok := byName[i.Card]; ok {
			state.Stats, state.Speed = card.Stats, orUnknown(speeds[i.Card])
		}
		all[i.Name] = state
	}
	for _, link := range links {
		if _, taken := all[link.Name]; !link.Physical || used[link.Name] || taken {
			continue
		}
		all[link.Name] = api.NetworkInterfaceState{
			Type: "physical", State: orUnknown(operational[link.Name]), Addresses: link.Addresses, Hwaddr: link.CardAddress(),
			MTU: link.MTU, Speed: orUnknown(speeds[link.Name]), Routes: routes[link.Name], Stats: link.Stats,
		}
	}
	return all
}

func orUnknown(text string) string {
	if text == "" {
		return "unknown"
	}
	return text
}

// speed is in Mbit/s; the kernel says -1 for a link that is down or has none.
func speed(text string) string {
	if n, err := strconv.Atoi(text); err != nil || n <= 0 {
		return "unknown"
	}
	return text
}

// operational asks networkd for the operational state of each device.
func (h Host) operational(ctx context.Context) (map[string]string, error) {
	result, err := h.Run(ctx, run.Command{Name: "networkctl", Args: []string{"--json=short", "list"}})
	if err != nil {
		return nil, fmt.Errorf("asking networkd for the state of the network: %w", err)
	}
	if len(bytes.TrimSpace(result.Stdout)) == 0 {
		return nil, errors.New("asking networkd for the state of the network: networkctl answered nothing")
	}
	states, err := parseOperational(result.Stdout)
	if err != nil {
		return nil, fmt.Errorf("asking networkd for the state of the network: reading its answer: %w", err)
	}
	return states, nil
}

func parseOperational(data []byte) (map[string]string, error) {
	var answer struct {
		Interfaces []struct {
			Name             string
			OperationalState string
		}
	}
	if err := json.Unmarshal(data, &answer); err != nil {
		return nil, err
	}
	states := map[string]string{}
	for _, i := range answer.Interfaces {
		states[i.Name] = i.OperationalState
	}
	return states, nil
}

func (h Host) routes(ctx context.Context) (map[string][]api.NetworkRoute, error) {
	all := map[string][]api.NetworkRoute{}
	for _, family := range []struct{ flag, defaultTo string }{{"-4", "0.0.0.0/0"}, {"-6", "::/0"}} {
		result, err := h.Run(ctx, run.Command{Name: "ip", Args: []string{"-json", family.flag, "route", "show"}})
		if err != nil {
			return nil, fmt.Errorf("listing routes: %w", err)
		}
		routes, err := parseRoutes(result.Stdout, family.defaultTo)
		if err != nil {
			return nil, fmt.Errorf("listing routes: reading the answer of ip: %w", err)
		}
		for device := range routes {
			all[device] = append(all[device], routes[device]...)
		}
	}
	return all, nil
}
