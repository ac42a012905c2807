package backup

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	osapi "github.com/holdfast-os/holdfast/api/os"
)

// Parts of a backup that a restore of the system may leave out, as IncusOS calls them.
const (
	// SkipRecoveryKeys keeps the recovery keys of this node.
	SkipRecoveryKeys = "encryption-recovery-keys"
	// SkipLocalKey keeps the key of this node's pool "local".
	SkipLocalKey = "local-data-encryption-key"
	// SkipMACs finds network cards by the kernel's names for them, not by MAC address.
	SkipMACs = "network-macs"
	// SkipNetwork keeps the network of this node. IncusOS does not have it.
	SkipNetwork = "network"
)

// Skips are all of them.
var Skips = []string{SkipRecoveryKeys, SkipLocalKey, SkipMACs, SkipNetwork}

// Choice is what whoever restores decides.
type Choice struct {
	// Skip are parts to leave out; see ParseChoice.
	Skip []string
	// Cards are cards of this machine by those of the backup's; see ParseChoice.
	Cards map[string]string
}

// ParseChoice reads the parameters "skip", names with commas, and "cards", pairs OLD=NEW with
// commas: OLD is a card of the machine that made the backup, NEW one of this machine, each by the
// kernel's name or the MAC address. Cards for a network that is left out are refused: one of the
// two is a mistake.
func ParseChoice(skip, cards string) (Choice, error) {
	var c Choice
	var err, wrong error
	c.Skip, err = parseSkip(skip)
	c.Cards, wrong = parseCards(cards)
	if err := errors.Join(err, wrong); err != nil {
		return Choice{}, err
	}
	if len(c.Cards) > 0 && slices.Contains(c.Skip, SkipNetwork) {
		return Choice{}, errors.New("cards: the network is left out by skip=network, so that no card of it is needed; leave one of the two away")
	}
	return c, nil
}

// parseSkip reads the parameter "skip"; see ParseChoice.
func parseSkip(text string) ([]string, error) {
	var parts []string
	for part := range strings.SplitSeq(text, ",") {
		switch {
		case part == "":
		case slices.Contains(Skips, part):
			parts = append(parts, part)
		default:
			return nil, fmt.Errorf("skip: %q is none of %s", part, strings.Join(Skips, ", "))
		}
	}
	return parts, nil
}

// Machine is what a restore has to know of the node that it is for.
type Machine struct {
	// ID is its machine id.
	ID string
	// Release is what it runs, as "202611220104"; empty takes a backup of any release.
	Release string
	// Cards are its network cards.
	Cards []osapi.BackupCard
	// Network is its section network; empty when it has none.
	Network json.RawMessage
	// RecoveryKeys are those that open its volumes; the first is the node's own.
	RecoveryKeys []string
	// Keys are its files zpool.NAME.key, by name.
	Keys map[string][]byte
	// Opens tells whether a key opens a pool that is imported; true for a pool that is not.
	Opens func(pool string, key []byte) (bool, error)
}

// Restore is a backup of the system made fit for one machine.
type Restore struct {
	// Files are what is to be kept, by name; without the keys of volumes.
	Files map[string][]byte
	// Sections are the sections of the configuration, with their secrets.
	Sections map[string]json.RawMessage
	// RecoveryKeys are the keys that are to open the volumes; nil leaves those of now.
	RecoveryKeys []string
	// SameMachine is true for a backup of this very node.
	SameMachine bool
	// Notes are what a person should know before.
	Notes []string
}

// For makes a backup fit for a machine. Refusals are a *Problem, or config.Problems.
func (s System) For(m Machine, choice Choice) (Restore, error) {
	if newer(s.Manifest.Release, m.Release) {
		return Restore{}, refuse(ManifestName, RuleNewer, "the release %s made it and this node runs %s, which may not know all that is in it: update the node first", s.Manifest.Release, m.Release)
	}
	fit := System{Manifest: s.Manifest, Files: maps.Clone(s.Files)}
	r := Restore{Files: fit.Files, SameMachine: s.Manifest.MachineID == m.ID}
	delete(fit.Files, recoveryKeyFile)
	if len(s.Ignored) > 0 {
		r.Notes = append(r.Notes, "Not taken from the backup, since it belongs to a machine or is not known here: "+strings.Join(s.Ignored[:min(len(s.Ignored), 20)], ", ")+".")
	}
	if !r.SameMachine {
		r.Notes = append(r.Notes, "The backup was made on the machine "+shown(s.Manifest.MachineID)+". This one keeps its own machine id.")
	}
	if err := fit.poolKeys(m, choice.Skip, &r); err != nil {
		return Restore{}, err
	}
	if err := fit.network(m, choice, &r); err != nil {
		return Restore{}, err
	}
	if err := fit.recoveryKeys(m, choice.Skip, &r); err != nil {
		return Restore{}, err
	}
	var err error
	r.Sections, err = fit.Sections()
	return r, err
}

var releaseForm = regexp.MustCompile(`^[0-9]{12}$`)

// newer compares two releases, which are times. What is no release is not newer.
func newer(release, than string) bool {
	return releaseForm.MatchString(release) && releaseForm.MatchString(than) && release > than
}

// poolKeys keeps the node from losing a pool: a key that does not open it takes no key's
// place.
func (s System) poolKeys(m Machine, skip []string, r *Restore) error {
	for _, name := range slices.Sorted(maps.Keys(s.Files)) {
		form := poolForm.FindStringSubmatch(name)
		present, has := m.Keys[name]
		if form == nil || has && string(present) == string(s.Files[name]) {
			continue
		}
		if name == localKeyFile && slices.Contains(skip, SkipLocalKey) {
			delete(s.Files, name)
			continue
		}
		opens, err := m.Opens(form[1], s.Files[name])
		switch {
		case err != nil:
			return fmt.Errorf("trying the key of pool %s: %w", form[1], err)
		case opens:
		case name == localKeyFile:
			return refuse(name, RuleMachine, "this key does not open the pool %q of this node, which would be lost: leave it out with skip=%s", form[1], SkipLocalKey)
		default:
			delete(s.Files, name)
			r.Notes = append(r.Notes, fmt.Sprintf("The backup's key of pool %s does not open the pool of that name here. The node's own key stays.", form[1]))
		}
	}
	return nil
}

// network maps the cards of the other machine to those of this one.
func (s System) network(m Machine, choice Choice, r *Restore) error {
	if slices.Contains(choice.Skip, SkipNetwork) {
		r.Notes = append(r.Notes, "The network of the backup is left out: this node keeps its own.")
		return s.setSection("network", m.Network)
	}
	sections, err := s.Sections()
	if err != nil {
		return err
	}
	var network map[string]any
	if raw := sections["network"]; len(raw) > 0 {
		if err := json.Unmarshal(raw, &network); err != nil {
			return refuse(configurationFile, RuleContent, "its section network cannot be read")
		}
	}
	mapping := newMapping(s.Manifest.Cards, m.Cards)
	problems := mapping.rename(network, choice.Cards)
	if slices.Contains(choice.Skip, SkipMACs) {
		mapping.apply(network)
	}
	for _, one := range mapping.missing(network) {
		problems.Add("network."+one.path, "card", "this machine has no network card %s; its cards: %s. %s", one.value, listed(m.Cards), waysOn)
	}
	if len(problems) > 0 {
		return problems
	}
	if len(mapping.notes) == 0 {
		return nil
	}
	text, err := json.Marshal(network)
	if err != nil {
		return err
	}
	r.Notes = append(r.Notes, mapping.notes...)
	return s.setSection("network", text)
}

// waysOn is what whoever moves a backup to other cards can do.
const waysOn = "Name one with cards=OLD=NEW, find cards by the names of before with skip=" + SkipMACs +
	", or keep the network of this machine with skip=" + SkipNetwork

// recoveryKeys decides which keys are to open the volumes.
func (s System) recoveryKeys(m Machine, skip []string, r *Restore) error {
	sections, err := s.Sections()
	if err != nil {
		return err
	}
	security := map[string]json.RawMessage{}
	if raw := sections["security"]; len(raw) > 0 {
		if err := json.Unmarshal(raw, &security); err != nil {
			return refuse(configurationFile, RuleContent, "its section security cannot be read")
		}
	}
	const field = "encryption_recovery_keys"
	var keys []string
	if raw := security[field]; len(raw) > 0 {
		if err := json.Unmarshal(raw, &keys); err != nil {
			return refuse(configurationFile, RuleContent, "its recovery keys cannot be read")
		}
	}
	if slices.Contains(skip, SkipRecoveryKeys) {
		if security[field], err = json.Marshal(m.RecoveryKeys); err != nil {
			return err
		}
		text, err := json.Marshal(security)
		if err != nil {
			return err
		}
		return s.setSection("security", text)
	}
	if len(keys) == 0 {
		return refuse(configurationFile, RuleContent, "it has no recovery key, and a node needs one: keep those of this node with skip=%s", SkipRecoveryKeys)
	}
	if !slices.Equal(keys, m.RecoveryKeys) {
		r.RecoveryKeys = keys
	}
	return nil
}
