package backup

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	osapi "github.com/holdfast-os/holdfast/api/os"
)

var macForm = regexp.MustCompile(`^[0-9a-f]{2}(:[0-9a-f]{2}){5}$`)

// mapping brings a network configuration to other cards. A card is known there by its MAC
// address or by the kernel's name; the name is what two machines of a kind have in common.
type mapping struct {
	names map[string]string // name on the other machine, by MAC
	here  map[string]bool   // MACs of this machine
	notes []string
}

func newMapping(there, here []osapi.BackupCard) *mapping {
	m := &mapping{names: map[string]string{}, here: map[string]bool{}}
	for _, card := range there {
		m.names[strings.ToLower(card.Hwaddr)] = card.Name
	}
	for _, card := range here {
		m.here[strings.ToLower(card.Hwaddr)] = true
	}
	return m
}

// use is one place of a configuration that names a card.
type use struct {
	path, value string
	// device is the name of the interface or bond.
	device string
	set    func(string)
	// own is true for the address of a bond, which need not be that of a card.
	own bool
}

// uses are all places that name a card.
func uses(network map[string]any) []use {
	var all []use
	for i, one := range objects(network["interfaces"]) {
		all = append(all, field(one, "hwaddr", fmt.Sprintf("interfaces[%d]", i), false)...)
	}
	for i, bond := range objects(network["bonds"]) {
		at := fmt.Sprintf("bonds[%d]", i)
		all = append(all, field(bond, "hwaddr", at, true)...)
		members, _ := bond["members"].([]any)
		for j := range members {
			if text, ok := members[j].(string); ok {
				all = append(all, use{path: fmt.Sprintf("%s.members[%d]", at, j), value: text, set: func(to string) { members[j] = to }})
			}
		}
	}
	return all
}

func objects(list any) []map[string]any {
	var all []map[string]any
	members, _ := list.([]any)
	for _, member := range members {
		object, _ := member.(map[string]any)
		all = append(all, object) // nil where it is none, so that numbers stay
	}
	return all
}

func field(object map[string]any, name, at string, own bool) []use {
	text, ok := object[name].(string)
	if !ok || text == "" {
		return nil
	}
	device, _ := object["name"].(string)
	return []use{{path: at + "." + name, value: text, device: device, own: own, set: func(to string) {
		if to == "" {
			delete(object, name)
			return
		}
		object[name] = to
	}}}
}

// mac is the MAC address in a place; empty when a name stands there.
func (u use) mac() string {
	text := strings.ToLower(u.value)
	if !macForm.MatchString(text) {
		return ""
	}
	return text
}

// missing are the places whose card this machine does not have.
func (m *mapping) missing(network map[string]any) []string {
	var paths []string
	for _, u := range uses(network) {
		if mac := u.mac(); mac != "" && !m.here[mac] && !u.own {
			paths = append(paths, u.path)
		}
	}
	return paths
}

// apply puts the kernel's names in the place of MAC addresses that this machine lacks. The
// address of a bond is left out then: it gets that of its first member.
func (m *mapping) apply(network map[string]any) {
	for _, u := range uses(network) {
		mac := u.mac()
		if mac == "" || m.here[mac] {
			continue
		}
		name := m.names[mac]
		switch {
		case u.own:
			u.set("")
			m.notes = append(m.notes, fmt.Sprintf("The bond %s gets the MAC address of its first member.", u.device))
			continue
		case name == "":
			name = u.device // what IncusOS does; its interfaces often have the names of cards
		}
		if name == "" {
			continue
		}
		u.set(name)
		m.notes = append(m.notes, fmt.Sprintf("The card %s of network.%s is now found by its name %s.", mac, u.path, name))
	}
	m.notes = slices.Compact(m.notes)
}
