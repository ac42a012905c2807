package networkd

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"

	api "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/system/run"
)

// Link is one network device as the kernel sees it.
type Link struct {
	// Name is the kernel's name now.
	Name string
	// Kind is the kind of a virtual device, as "veth"; empty for a card.
	Kind string
	// Type is the link layer, as "ether" or "loopback".
	Type string
	// Address is the present MAC address, in lower case.
	Address string
	// Permanent is the MAC address burnt into the card; empty when there is none.
	Permanent string
	// Physical is true for a wired network card; not for a virtual function that is
	// handed on, and not for a wireless card.
	Physical bool
	// MTU and MaxMTU are in bytes; MaxMTU is 0 when unknown.
	MTU, MaxMTU int
	// Addresses are without prefix length, those of the link alone left out.
	Addresses []string
	Stats     api.NetworkStatistic
}

// CardAddress is the permanent address, or the present one where there is none.
func (l Link) CardAddress() string {
	if l.Permanent != "" {
		return l.Permanent
	}
	return l.Address
}

// ipLink is what `ip -json -details -stats address` says of one device.
type ipLink struct {
	Name      string `json:"ifname"`
	Type      string `json:"link_type"`
	Address   string `json:"address"`
	Permanent string `json:"permaddr"`
	MTU       int    `json:"mtu"`
	MaxMTU    int    `json:"max_mtu"`
	LinkInfo  struct {
		Kind string `json:"info_kind"`
	} `json:"linkinfo"`
	AddrInfo []struct {
		Local string `json:"local"`
	} `json:"addr_info"`
	Stats struct {
		RX, TX struct{ Bytes, Errors uint64 }
	} `json:"stats64"`
}

// Links are the network devices, in the kernel's order, loopback included.
func (h Host) Links(ctx context.Context) ([]Link, error) {
	result, err := h.Run(ctx, run.Command{Name: "ip", Args: []string{"-json", "-details", "-stats", "address", "show"}})
	if err != nil {
		return nil, fmt.Errorf("listing network devices: %w", err)
	}
	links, err := parseLinks(result.Stdout)
	if err != nil {
		return nil, fmt.Errorf("listing network devices: reading the answer of ip: %w", err)
	}
	for i := range links {
		h.addSysfs(&links[i])
	}
	return links, nil
}

func parseLinks(data []byte) ([]Link, error) {
	var raw []ipLink
	if err := json.Unmarshal(data, &raw); err != nil {
		return nil, err
	}
	var links []Link
	for _, r := range raw {
		if r.Name == "" {
			continue
		}
		link := Link{
			Name: r.Name, Kind: r.LinkInfo.Kind, Type: r.Type, MTU: r.MTU, MaxMTU: r.MaxMTU,
			Address: strings.ToLower(r.Address), Permanent: strings.ToLower(r.Permanent),
			Stats: api.NetworkStatistic{
				RXBytes: r.Stats.RX.Bytes, RXErrors: r.Stats.RX.Errors,
				TXBytes: r.Stats.TX.Bytes, TXErrors: r.Stats.TX.Errors,
			},
		}
		for _, a := range r.AddrInfo {
			if addr, err := netip.ParseAddr(a.Local); err == nil && !addr.IsLinkLocalUnicast() {
				link.Addresses = append(link.Addresses, addr.String())
			}
		}
		links = append(links, link)
	}
	return links, nil
}

// OwnName is the name that a card has of itself: the one that udev derives from where it
// is plugged in. A card that the node has taken has another one from then on, and an owner
// who names a card means this one. Where udev knows none it is the present name.
func (h Host) OwnName(link Link) string {
	if !strings.HasPrefix(link.Name, "_") {
		return link.Name
	}
	index, err := os.ReadFile(h.path("sys/class/net", link.Name, "ifindex"))
	if err != nil {
		return link.Name
	}
	known, err := os.ReadFile(h.path("run/udev/data", "n"+strings.TrimSpace(string(index))))
	if err != nil {
		return link.Name
	}
	// In the order of systemd's own policy for names.
	for _, property := range []string{"ID_NET_NAME_ONBOARD", "ID_NET_NAME_SLOT", "ID_NET_NAME_PATH"} {
		for line := range strings.Lines(string(known)) {
			if name, ok := strings.CutPrefix(strings.TrimSpace(line), "E:"+property+"="); ok && name != "" {
				return name
			}
		}
	}
	return link.Name
}

// addSysfs adds what ip does not say: whether a real device is behind the link, and
// whether its present address is the permanent one.
func (h Host) addSysfs(link *Link) {
	exists := func(name string) bool {
		_, err := os.Stat(h.path("sys/class/net", link.Name, name))
		return err == nil
	}
	link.Physical = link.Type == "ether" && link.Kind == "" && exists("device") &&
		!exists("device/physfn") && !exists("phy80211")
	// ip leaves the permanent address out when the present one is the same; 0 says
	// that the kernel took the present one from the card.
	if link.Permanent == "" && h.sysfs(link.Name, "addr_assign_type") == "0" {
		link.Permanent = link.Address
	}
}

// sysfs is one attribute of a device, empty when the device does not have it.
func (h Host) sysfs(device, attribute string) string {
	data, err := os.ReadFile(h.path("sys/class/net", device, attribute))
	if err != nil {
		// An attribute such as speed cannot be read while the link is down.
		return ""
	}
	return strings.TrimSpace(string(data))
}

// ipRoute is what `ip -json route` says of one route.
type ipRoute struct {
	To      string `json:"dst"`
	Gateway string `json:"gateway"`
	Device  string `json:"dev"`
}

// parseRoutes gives the routes through a gateway by device. defaultTo stands for
// "default", which ip writes for both families.
func parseRoutes(data []byte, defaultTo string) (map[string][]api.NetworkRoute, error) {
	var raw []ipRoute
	// Without any route some versions of ip write nothing at all.
	if len(bytes.TrimSpace(data)) > 0 {
		if err := json.Unmarshal(data, &raw); err != nil {
			return nil, err
		}
	}
	routes := map[string][]api.NetworkRoute{}
	for _, r := range raw {
		if r.Gateway == "" {
			continue
		}
		to := r.To
		if to == "default" {
			to = defaultTo
		} else if addr, err := netip.ParseAddr(to); err == nil {
			to = netip.PrefixFrom(addr, addr.BitLen()).String()
		}
		route := api.NetworkRoute{To: to, Via: r.Gateway}
		if !slices.Contains(routes[r.Device], route) {
			routes[r.Device] = append(routes[r.Device], route)
		}
	}
	return routes, nil
}
