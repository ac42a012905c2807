package network

import (
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/holdfast-os/holdfast/internal/plan"
)

// Where a plan is on the machine, and the units that read it.
const (
	// UnitDir holds Plan.Files and Plan.Secrets.
	UnitDir = "/run/systemd/network"
	// SecretMode is that of Plan.Secrets, whose group is SecretGroup.
	SecretMode  = 0o640
	SecretGroup = "systemd-network"
	// NftablesFile holds Plan.Nftables.
	NftablesFile = "/run/holdfast/network.nft"
	// ProxyFile holds Plan.Proxy.Document; mode 0600. The unit hands it to
	// holdfast-proxy as a credential.
	ProxyFile = "/run/holdfast/proxy.json"
	// EnvironmentFile holds Plan.Environment.
	EnvironmentFile = "/etc/environment"
	// TimesyncdFile holds Plan.Timesyncd.
	TimesyncdFile = "/run/systemd/timesyncd.conf.d/10-holdfast.conf"

	hostsFile    = "/etc/hosts"
	hostnameFile = "/etc/hostname"

	networkdUnit  = "systemd-networkd.service"
	timesyncdUnit = "systemd-timesyncd.service"
	// ProxyUnit runs holdfast-proxy.
	ProxyUnit = "holdfast-proxy.service"
)

// Tools of a network plan: functions of the adapters that its UseTool steps name.
const (
	// ToolTimezone sets the time zone; one argument, its name.
	ToolTimezone = "timezone"
	// ToolGroup gives files to a group; arguments are the group and the paths.
	ToolGroup = "group"
	// ToolCards has udev read the .link files and names the cards; arguments are
	// "MAC=name".
	ToolCards = "network-cards"
	// ToolEEE turns Energy-Efficient Ethernet off; arguments are devices.
	ToolEEE = "eee-off"
	// ToolNftables loads a file with nft; one argument, its path.
	ToolNftables = "nft"
)

// Stale names the devices of an earlier plan that must be deleted before the next one
// is applied, because it has no such device or one with other settings. Of a veth pair
// only the node's end is named; the other goes with it.
func Stale(before, next Plan) []string {
	var names []string
	for _, file := range slices.Sorted(maps.Keys(before.Files)) {
		name, isNetdev := strings.CutSuffix(file, ".netdev")
		// The number before the first dash says the kind.
		if _, after, ok := strings.Cut(name, "-"); ok && isNetdev {
			name = after
		}
		if isNetdev && (before.Files[file] != next.Files[file] || keysDiffer(before, next, name)) {
			names = append(names, name)
		}
	}
	return names
}

// keysDiffer is true when a WireGuard device has other keys, which are not in its
// netdev file.
func keysDiffer(before, next Plan, name string) bool {
	keys := func(p Plan) map[string]string {
		found := map[string]string{}
		for _, file := range deviceFiles(p, name) {
			if strings.HasSuffix(file, ".key") {
				found[file] = p.Secrets[file]
			}
		}
		return found
	}
	return !maps.Equal(keys(before), keys(next))
}

func deviceFiles(p Plan, name string) []string {
	if i := slices.IndexFunc(p.Devices, func(d Device) bool { return d.Name == name }); i >= 0 {
		return p.Devices[i].Files
	}
	return nil
}

// Change is what going from one plan to the next does, in the order in which it is
// done: names, firewall, files, devices that go, cards, then what reads the files. The
// firewall knows devices by their names, so it can stand before they are there, and no
// address is ever without it. The zero plan is a machine on which nothing was done.
func Change(before, next Plan) plan.Plan {
	var p plan.Plan
	changeNames(&p, before, next)
	proxy := changeProxy(&p, before, next)
	firewall := p.File(NftablesFile, before.Nftables, next.Nftables)
	if firewall {
		p.Add(plan.Step{Kind: plan.UseTool, Object: "firewall", Tool: ToolNftables, Args: []string{NftablesFile}})
	}
	if next.Forwarding && !before.Forwarding {
		for _, value := range []string{"/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv6/conf/all/forwarding"} {
			p.Add(plan.Step{Kind: plan.SetValue, Object: value, After: "1", Why: "a forwarding rule accepts packets"})
		}
	}
	files := changeFiles(&p, before, next)
	stale := Stale(before, next)
	for _, name := range stale {
		p.Add(plan.Step{Kind: plan.DeleteDevice, Object: name})
	}
	if linksDiffer(before, next) {
		var cards []string
		for _, mac := range slices.Sorted(maps.Keys(next.Cards)) {
			cards = append(cards, mac+"="+next.Cards[mac])
		}
		p.Add(plan.Step{Kind: plan.UseTool, Object: "network cards", Tool: ToolCards, Args: cards})
	}
	if files {
		p.Add(plan.Step{Kind: plan.RestartUnit, Object: networkdUnit})
	}
	// systemd-networkd makes the devices when it reads its files.
	for _, name := range created(before, next, stale) {
		p.Add(plan.Step{Kind: plan.CreateDevice, Object: name})
	}
	if len(next.EEEOff) > 0 && !slices.Equal(before.EEEOff, next.EEEOff) {
		p.Add(plan.Step{Kind: plan.UseTool, Object: "network cards", Tool: ToolEEE, Args: next.EEEOff, Optional: true,
			Why: "udev does not set it in all versions"})
	}
	switch {
	case proxy && next.Proxy == nil:
		p.Add(plan.Step{Kind: plan.StopUnit, Object: ProxyUnit})
	case proxy:
		p.Add(plan.Step{Kind: plan.RestartUnit, Object: ProxyUnit})
	}
	if p.File(TimesyncdFile, before.Timesyncd, next.Timesyncd) {
		p.Add(plan.Step{Kind: plan.RestartUnit, Object: timesyncdUnit})
	}
	p.Disconnects = firewall || disconnects(before, next)
	if !p.Empty() {
		p.Notes = slices.Clone(next.Notes)
	}
	return p
}

func changeNames(p *plan.Plan, before, next Plan) {
	if next.Timezone != before.Timezone && next.Timezone != "" {
		p.Add(plan.Step{Kind: plan.UseTool, Object: "time zone", Before: before.Timezone, After: next.Timezone,
			Tool: ToolTimezone, Args: []string{next.Timezone}})
	}
	line := func(name string) string {
		if name == "" {
			return ""
		}
		return name + "\n"
	}
	if p.File(hostnameFile, line(before.Hostname), line(next.Hostname)) && next.Hostname != "" {
		p.Add(plan.Step{Kind: plan.SetValue, Object: "/proc/sys/kernel/hostname", Before: before.Hostname, After: next.Hostname})
	}
	p.File(hostsFile, before.Hosts, next.Hosts)
}

// changeProxy writes what the proxy reads; it reports whether it has to start again.
func changeProxy(p *plan.Plan, before, next Plan) bool {
	old, now := before.Proxy.text(), next.Proxy.text()
	p.File(EnvironmentFile, before.Environment, next.Environment)
	return secretFile(p, ProxyFile, old, now, 0o600)
}

// text is the document of a proxy, empty for none. Texts that were checked can always
// be written.
func (p *ProxyPlan) text() string {
	if p == nil {
		return ""
	}
	document, err := p.Document()
	if err != nil {
		return ""
	}
	return document
}

// secretFile is plan.File for a file whose text is not shown.
func secretFile(p *plan.Plan, path, before, after string, mode fs.FileMode) bool {
	switch {
	case before == after:
		return false
	case after == "":
		p.Add(plan.Step{Kind: plan.RemoveFile, Object: path, Before: before, Secret: true})
	default:
		p.Add(plan.Step{Kind: plan.WriteFile, Object: path, Before: before, After: after, Mode: mode, Secret: true})
	}
	return true
}

// changeFiles reports whether anything that networkd or udev reads changes.
func changeFiles(p *plan.Plan, before, next Plan) bool {
	changed := false
	var keys []string
	for _, name := range unitNames(before, next) {
		at, old, now := path.Join(UnitDir, name), before.unit(name), next.unit(name)
		_, wasSecret := before.Secrets[name]
		_, isSecret := next.Secrets[name]
		switch {
		case old == now:
			continue
		case isSecret:
			secretFile(p, at, old, now, SecretMode)
			keys = append(keys, at)
		case wasSecret:
			// The old text stays hidden; the new one may be read by everybody.
			secretFile(p, at, old, now, 0)
		default:
			p.File(at, old, now)
		}
		changed = true
	}
	if len(keys) > 0 {
		p.Add(plan.Step{Kind: plan.UseTool, Object: "keys", Tool: ToolGroup, Args: append([]string{SecretGroup}, keys...),
			Why: "systemd-networkd does not run as root"})
	}
	return changed
}

// unit is the text of a file, secret or not; empty where there is none.
func (p Plan) unit(name string) string { return p.Files[name] + p.Secrets[name] }

// unitNames are the names of all files of both plans, sorted.
func unitNames(before, next Plan) []string {
	var all []string
	for _, files := range []map[string]string{before.Files, before.Secrets, next.Files, next.Secrets} {
		all = slices.AppendSeq(all, maps.Keys(files))
	}
	slices.Sort(all)
	return slices.Compact(all)
}

func linksDiffer(before, next Plan) bool {
	return !maps.Equal(before.Cards, next.Cards) || slices.ContainsFunc(unitNames(before, next), func(name string) bool {
		return strings.HasSuffix(name, ".link") && before.unit(name) != next.unit(name)
	})
}

// created are the devices that are made new, or again after they were deleted.
func created(before, next Plan, stale []string) []string {
	had := map[string]bool{}
	for _, d := range before.Devices {
		for _, name := range d.Links {
			had[name] = true
		}
	}
	for _, name := range stale {
		delete(had, name)
	}
	var list []string
	for _, d := range next.Devices {
		// A VLAN goes with the device that it is on.
		below := d.Parent != "" && slices.Contains(stale, "_v"+d.Parent)
		for _, name := range d.Links {
			if !had[name] || below {
				list = append(list, name)
			}
		}
	}
	return list
}

// disconnects is true when something of a device changes on which the node has
// addresses.
func disconnects(before, next Plan) bool {
	for _, p := range []Plan{before, next} {
		for _, d := range p.Devices {
			if !d.Addresses {
				continue
			}
			for _, name := range d.Files {
				if before.unit(name) != next.unit(name) {
					return true
				}
			}
		}
	}
	return false
}
