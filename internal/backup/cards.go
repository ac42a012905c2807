package backup

import (
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"

	osapi "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/config"
)

// parseCards reads the parameter "cards"; see ParseChoice.
func parseCards(text string) (map[string]string, error) {
	pairs := map[string]string{}
	for pair := range strings.SplitSeq(text, ",") {
		if pair == "" {
			continue
		}
		old, card, ok := strings.Cut(pair, "=")
		if !ok || old == "" || card == "" {
			return nil, fmt.Errorf("cards: %q is not OLD=NEW, as eno1=enp1s0", pair)
		}
		if _, twice := pairs[old]; twice {
			return nil, fmt.Errorf("cards: %q is there twice", old)
		}
		pairs[old] = card
	}
	return pairs, nil
}

// macOf is a MAC address as cards have it; empty when the text is a name.
func macOf(text string) string {
	mac, err := net.ParseMAC(text)
	if err != nil || len(mac) != 6 {
		return ""
	}
	return mac.String()
}

// mapping brings a network configuration to other cards. A card is known there by its MAC
// address or by the kernel's name; the name is what two machines of a kind have in common.
type mapping struct {
	there, here []osapi.BackupCard
	notes       []string
}

func newMapping(there, here []osapi.BackupCard) *mapping { return &mapping{there: there, here: here} }

// find gives the card with a name or MAC address.
func find(cards []osapi.BackupCard, by string) (osapi.BackupCard, bool) {
	mac := macOf(by)
	i := slices.IndexFunc(cards, func(card osapi.BackupCard) bool {
		return card.Name == by || mac != "" && strings.ToLower(card.Hwaddr) == mac
	})
	if i < 0 {
		return osapi.BackupCard{}, false
	}
	return cards[i], true
}

// listed names cards for a person.
func listed(cards []osapi.BackupCard) string {
	var all []string
	for _, card := range cards[:min(len(cards), 20)] {
		all = append(all, card.Name+" ("+strings.ToLower(card.Hwaddr)+")")
	}
	if len(all) == 0 {
		return "none"
	}
	return strings.Join(all, ", ")
}

// same tells whether a place of the configuration means a card of the other machine.
func (m *mapping) same(u use, old string) bool {
	if u.value == old || u.mac() != "" && u.mac() == macOf(old) {
		return true
	}
	card, known := find(m.there, old)
	return known && (u.value == card.Name || u.mac() != "" && u.mac() == strings.ToLower(card.Hwaddr))
}

// rename puts the chosen cards in the place of others. It comes before all else, and gives
// what is wrong with the choice.
func (m *mapping) rename(network map[string]any, chosen map[string]string) config.Problems {
	var problems config.Problems
	all := uses(network)
	for _, old := range slices.Sorted(maps.Keys(chosen)) {
		if _, here := find(m.here, chosen[old]); !here {
			problems.Add("cards."+old, "card", "this machine has no card %q; its cards: %s", chosen[old], listed(m.here))
			continue
		}
		used := false
		for _, u := range all {
			if !m.same(u, old) {
				continue
			}
			used = true
			if u.own {
				u.set("")
				m.notes = append(m.notes, fmt.Sprintf("The bond %s gets the MAC address of its first member.", u.device))
				continue
			}
			u.set(chosen[old])
			m.notes = append(m.notes, fmt.Sprintf("The card %s takes the place of %s in network.%s.", chosen[old], u.value, u.path))
		}
		if !used {
			problems.Add("cards."+old, "card", "the backup's network does not use a card %q; the cards of its machine: %s", old, listed(m.there))
		}
	}
	return problems
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
func (u use) mac() string { return macOf(u.value) }

// missing are the places whose card this machine does not have.
func (m *mapping) missing(network map[string]any) []use {
	var all []use
	for _, u := range uses(network) {
		if _, here := find(m.here, u.value); !here && (!u.own || u.mac() == "") {
			all = append(all, u)
		}
	}
	return all
}

// apply puts the kernel's names in the place of MAC addresses that this machine lacks. The
// address of a bond is left out then: it gets that of its first member.
func (m *mapping) apply(network map[string]any) {
	for _, u := range uses(network) {
		mac := u.mac()
		if _, here := find(m.here, u.value); mac == "" || here {
			continue
		}
		card, _ := find(m.there, mac)
		name := card.Name
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
