package simulate

import (
	"context"
	"crypto/sha256"
	"fmt"
	"maps"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	osapi "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/daemon"
	"github.com/holdfast-os/holdfast/internal/network"
)

// networkHands is daemon.NetworkHands. What it shows is read out of the files of the plan,
// as networkd reads them, and not out of the configuration.
type networkHands struct {
	n *Node

	mu      sync.Mutex
	carried network.Plan
	// seen are the devices as they are, but for their traffic; appeared is when each was made.
	seen     map[string]osapi.NetworkInterfaceState
	appeared map[string]time.Time
}

func (n *Node) networkSetting() daemon.Setting[osapi.NetworkConfig, osapi.NetworkState] {
	return daemon.NewNetworkSetting(&n.net)
}

// hostname is the node's name: that of the network, or the one of the machine.
func (h *networkHands) hostname(machineID string) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	name, _, _ := strings.Cut(h.carried.Hostname, ".")
	if name == "" {
		return machineID
	}
	return name
}

// World is part of daemon.NetworkHands.
func (h *networkHands) World(context.Context) (network.World, error) {
	return network.World{Cards: slices.Clone(h.n.o.Cards), MachineID: h.n.machineID, OSName: "Holdfast"}, nil
}

// Carry is part of daemon.NetworkHands. A fault in the middle leaves what a machine is left
// with: the new files, and the devices of before.
func (h *networkHands) Carry(ctx context.Context, before, next network.Plan) error {
	steps := network.Change(before, next).Steps
	for i, step := range steps {
		if err := h.n.faults.step(ctx, "network.apply", i); err != nil {
			return fmt.Errorf("%s %s: %w", step.Kind, step.Object, err)
		}
	}
	if err := h.n.faults.step(ctx, "network.apply", len(steps)); err != nil {
		return err
	}
	stale := network.Stale(before, next)
	h.mu.Lock()
	defer h.mu.Unlock()
	appeared := map[string]time.Time{}
	for _, d := range next.Devices {
		appeared[d.Name] = time.Now()
		if at, there := h.appeared[d.Name]; there && !slices.Contains(stale, d.Name) && !slices.Contains(stale, d.Host) {
			appeared[d.Name] = at
		}
	}
	h.carried, h.appeared, h.seen = next, appeared, map[string]osapi.NetworkInterfaceState{}
	used := map[string]bool{}
	for _, d := range next.Devices {
		h.seen[d.Name] = h.device(d)
		for _, card := range d.Cards {
			used[card] = true
		}
	}
	for _, card := range h.n.o.Cards {
		if _, taken := h.seen[card.Name]; !taken && !used[next.Cards[strings.ToLower(card.Hwaddr)]] {
			h.seen[card.Name] = osapi.NetworkInterfaceState{Type: "physical", State: "off", Hwaddr: card.Hwaddr, MTU: 1500, Speed: "unknown"}
		}
	}
	return nil
}

// WaitOnline is part of daemon.NetworkHands.
func (h *networkHands) WaitOnline(ctx context.Context, _ network.Plan, starting bool) error {
	err := h.n.faults.hit(ctx, "network.online")
	if starting && err != nil && ctx.Err() == nil {
		h.n.log.Warn("starting without a network", "error", err)
		return nil
	}
	return err
}

// Warn is part of daemon.NetworkHands.
func (h *networkHands) Warn(ctx context.Context, text string) { h.n.log.WarnContext(ctx, text) }

// Observe is part of daemon.NetworkHands.
func (h *networkHands) Observe(ctx context.Context, _ network.Plan) (map[string]osapi.NetworkInterfaceState, error) {
	if err := h.n.faults.hit(ctx, "network.state"); err != nil {
		return nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	states := make(map[string]osapi.NetworkInterfaceState, len(h.seen))
	for name, state := range h.seen {
		if state.Type != "physical" {
			state.Stats = h.traffic(name)
		}
		state.Members = maps.Clone(state.Members)
		for member, one := range state.Members {
			one.Stats = h.traffic(name + " " + member)
			state.Members[member] = one
		}
		states[name] = state
	}
	return states, nil
}

// device is one device as it is seen, without its traffic. The lock is held.
func (h *networkHands) device(d network.Device) osapi.NetworkInterfaceState {
	seen := osapi.NetworkInterfaceState{Type: d.Type, State: "carrier", Hwaddr: d.Hwaddr, MTU: 1500, Speed: "10000"}
	if d.Type == "wireguard" || d.Type == "vlan" {
		seen.Speed = "unknown"
	}
	for _, name := range d.Files {
		file := parseUnit(h.carried.Files[name])
		switch {
		case strings.HasSuffix(name, ".netdev") && file.value("NetDev", "Name") == d.Host:
			if mtu, err := strconv.Atoi(file.value("NetDev", "MTUBytes")); err == nil {
				seen.MTU = mtu
			}
			if d.Type == "wireguard" {
				seen.Wireguard = h.wireguard(file)
			}
		case strings.HasSuffix(name, ".network") && file.value("Match", "Name") == d.Host:
			seen.Addresses, seen.Routes = addresses(d, file), routes(file)
		}
	}
	if len(seen.Addresses) > 0 {
		seen.State = "routable"
	}
	if d.Type == "interface" && !slices.ContainsFunc(h.n.o.Cards, func(c network.Card) bool { return strings.EqualFold(c.Hwaddr, d.Hwaddr) }) {
		seen.State, seen.Addresses, seen.Routes = "no-carrier", nil, nil
	}
	if d.Type == "bond" {
		seen.Members = map[string]osapi.NetworkInterfaceState{}
		for _, card := range d.Cards {
			seen.Members[card] = osapi.NetworkInterfaceState{Type: "bond_member", State: "enslaved", MTU: seen.MTU, Speed: "10000"}
		}
	}
	return seen
}

// traffic is that of a device, or of a member of one behind a space. It grows with time, by
// 1 to 256 kB each second.
func (h *networkHands) traffic(name string) osapi.NetworkStatistic {
	device, _, _ := strings.Cut(name, " ")
	from := h.appeared[device]
	rate := uint64(sha256.Sum256([]byte(h.n.machineID + name))[0]) + 1
	milliseconds := uint64(time.Since(from).Milliseconds())
	return osapi.NetworkStatistic{RXBytes: milliseconds * rate, TXBytes: milliseconds * rate / 3}
}

// addresses are those of a file, and what would be learnt on a network of this node's own.
func addresses(d network.Device, file unitFile) []string {
	var list []string
	for _, text := range file.values("Network", "Address") {
		if prefix, err := netip.ParsePrefix(text); err == nil {
			list = append(list, prefix.Addr().String())
		}
	}
	sum := sha256.Sum256([]byte(d.Name + d.Hwaddr))
	dhcp := file.value("Network", "DHCP")
	if dhcp == "ipv4" || dhcp == "yes" {
		list = append(list, netip.AddrFrom4([4]byte{10, sum[0], sum[1], sum[2]%250 + 2}).String())
	}
	if dhcp == "ipv6" || dhcp == "yes" || file.value("Network", "IPv6AcceptRA") == "true" {
		bytes := [16]byte{0xfd, 0x5b}
		copy(bytes[8:], sum[:8])
		list = append(list, netip.AddrFrom16(bytes).String())
	}
	return list
}

func routes(file unitFile) []osapi.NetworkRoute {
	var list []osapi.NetworkRoute
	for _, s := range file {
		if to, via := s.value("Destination"), s.value("Gateway"); s.name == "Route" && to != "" && !strings.HasPrefix(via, "_") {
			list = append(list, osapi.NetworkRoute{To: to, Via: via})
		}
	}
	return list
}

func (h *networkHands) wireguard(file unitFile) *osapi.NetworkWireguardState {
	seen := &osapi.NetworkWireguardState{ListeningPort: 51820}
	if port, err := strconv.Atoi(file.value("WireGuard", "ListenPort")); err == nil {
		seen.ListeningPort = port
	}
	key := strings.TrimSpace(h.carried.Secrets[path.Base(file.value("WireGuard", "PrivateKeyFile"))])
	if public, err := network.PublicKey(key); err == nil {
		seen.PublicKey = public
	}
	for _, s := range file {
		if s.name == "WireGuardPeer" {
			seen.Peers = append(seen.Peers, osapi.NetworkWireguardPeerState{
				PublicKey: s.value("PublicKey"), Endpoint: s.value("Endpoint"), AllowedIPs: s.values("AllowedIPs"), PersistentKeepalive: s.value("PersistentKeepalive"),
			})
		}
	}
	return seen
}

// unitFile is a file of networkd: sections with lines.
type unitFile []unitSection

type unitSection struct {
	name  string
	lines [][2]string
}

func parseUnit(text string) unitFile {
	var file unitFile
	for one := range strings.Lines(text) {
		one = strings.TrimSpace(one)
		if strings.HasPrefix(one, "[") {
			file = append(file, unitSection{name: strings.Trim(one, "[]")})
			continue
		}
		if key, value, ok := strings.Cut(one, "="); ok && len(file) > 0 {
			last := &file[len(file)-1]
			last.lines = append(last.lines, [2]string{key, value})
		}
	}
	return file
}

func (s unitSection) values(key string) []string {
	var list []string
	for _, one := range s.lines {
		if one[0] == key {
			list = append(list, one[1])
		}
	}
	return list
}

func (s unitSection) value(key string) string { return strings.Join(s.values(key), " ") }

func (f unitFile) values(section, key string) []string {
	var list []string
	for _, s := range f {
		if s.name == section {
			list = append(list, s.values(key)...)
		}
	}
	return list
}

func (f unitFile) value(section, key string) string { return strings.Join(f.values(section, key), " ") }
