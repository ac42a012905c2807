package network

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	api "github.com/holdfast-os/holdfast/api/os"
)

// NewPlan makes the plan for a configuration on a machine. What the configuration
// leaves out is filled as WithDefaults does; private keys must be there, see MakeKeys.
// A configuration that breaks a rule is an error of type Problems. A card that is
// configured but not there is none: its files wait for it.
func NewPlan(c api.NetworkConfig, world World) (Plan, error) {
	if problems := Validate(c); len(problems) > 0 {
		return Plan{}, problems
	}
	c = WithDefaults(c, world.Cards)
	problems := resolve(c, world.Cards)
	for i, w := range c.Wireguard {
		if w.PrivateKey == "" {
			problems.Add(fmt.Sprintf("wireguard[%d].private_key", i), "required", "is missing, and none was made yet")
		}
	}
	if len(problems) > 0 {
		return Plan{}, problems
	}
	p := planner{config: c, cards: map[string]Card{}, children: map[string][]api.NetworkVLAN{},
		hosts: map[string]string{}, mtus: map[string]int{}, strict: map[string]string{}}
	p.plan = Plan{Files: map[string]string{}, Secrets: map[string]string{}, Cards: map[string]string{},
		Timezone: c.Time.Timezone, Hostname: hostname(c, world)}
	p.plan.Hosts = hosts(p.plan.Hostname)
	if servers := c.Time.NTPServers; len(servers) > 0 {
		p.plan.Timesyncd = file(section("Time", "FallbackNTP="+strings.Join(servers, " ")))
	}
	p.plan.Proxy = planProxy(c.Proxy)
	p.plan.Environment = environment(p.plan.Proxy)
	for _, card := range world.Cards {
		if mac, ok := parseMAC(card.Hwaddr); ok {
			if _, again := p.cards[mac]; !again {
				p.cards[mac] = card
			}
		}
	}
	for _, v := range c.VLANs {
		p.children[v.Parent] = append(p.children[v.Parent], v)
	}
	if err := p.all(); err != nil {
		return Plan{}, err
	}
	p.firewall()
	return p.plan, nil
}

// planner holds what is known while a plan is made.
type planner struct {
	config api.NetworkConfig
	plan   Plan
	// cards are those found, by MAC address.
	cards map[string]Card
	// children are the VLANs by parent.
	children map[string][]api.NetworkVLAN
	// hosts are the devices with the node's addresses, and mtus the sizes of frames on
	// them, by configured name.
	hosts map[string]string
	mtus  map[string]int
	// strict are the cards that only one MAC address may leave, by device.
	strict map[string]string
	// untracked are the ports of bridges that come from outside, and the node's own.
	untracked []string
	// written are the files of the device that is being planned.
	written []string
}

// write adds a file that everybody may read.
func (p *planner) write(name, content string) {
	p.plan.Files[name] = content
	p.written = append(p.written, name)
}

// secret adds a file with a key.
func (p *planner) secret(name, content string) {
	p.plan.Secrets[name] = content
	p.written = append(p.written, name)
}

func (p *planner) all() error {
	list := devices(p.config)
	for _, d := range list {
		p.hosts[d.name] = d.host()
	}
	for _, d := range list {
		made := Device{Name: d.name, Type: d.kind, Host: d.host(), Addresses: len(d.addresses) > 0}
		p.written = nil
		var err error
		switch d.kind {
		case kindInterface:
			err = p.addInterface(d, p.config.Interfaces[d.index], &made)
		case kindBond:
			err = p.addBond(d, p.config.Bonds[d.index], &made)
		case kindVLAN:
			p.addVLAN(d, p.config.VLANs[d.index], &made)
		case kindWireguard:
			p.addWireguard(d, p.config.Wireguard[d.index], &made)
		}
		if err != nil {
			return fmt.Errorf("planning %s %s: %w", d.kind, d.name, err)
		}
		for _, child := range p.children[d.name] {
			made.Addresses = made.Addresses || len(child.Addresses) > 0
		}
		slices.Sort(p.written)
		made.Files = p.written
		p.plan.Devices = append(p.plan.Devices, made)
		if len(d.addresses) == 0 {
			continue
		}
		p.plan.WaitAll = p.plan.WaitAll || d.isRequired()
		if d.kind != kindWireguard {
			p.plan.WaitAny = append(p.plan.WaitAny, d.host())
		}
	}
	if p.plan.WaitAll {
		p.plan.WaitAny = nil
	}
	if len(p.config.Interfaces) == 0 && len(p.config.Bonds) == 0 {
		p.plan.Files[anyCardFile] = anyCard
		p.plan.Notes = append(p.plan.Notes, "No network card was found: each that appears asks for an address.")
	}
	return nil
}

// hostname is the configured one, or one that no other node has.
func hostname(c api.NetworkConfig, world World) string {
	if c.DNS != nil && c.DNS.Hostname != "" {
		if c.DNS.Domain != "" {
			return c.DNS.Hostname + "." + strings.TrimSuffix(c.DNS.Domain, ".")
		}
		return c.DNS.Hostname
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

// size is the largest frame of a device on some cards, or the default where none is
// configured; cards that cannot do IPv6 are an error.
func (p *planner) size(mtu int, cards []string) (int, error) {
	mtu = cmp.Or(mtu, defaultMTU)
	for _, mac := range cards {
		if most := p.cards[mac].MaxMTU; most > 0 && most < mtu {
			mtu = most
		}
		if mtu < minMTU {
			return 0, fmt.Errorf("the card %s takes frames of %d bytes at most; IPv6 needs %d", mac, mtu, minMTU)
		}
	}
	return mtu, nil
}
