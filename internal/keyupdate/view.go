package keyupdate

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"

	"github.com/holdfast-os/holdfast/internal/pcr"
	"github.com/holdfast-os/holdfast/internal/secureboot"
)

// view is the node as it is now, with what follows from it.
type view struct {
	Facts
	state secureboot.State
	// measured are the variables as this start measured them.
	measured map[string][]byte
	// have are the bindings of root in the order of its header, each once. policies leads
	// back to the header, keys from a fingerprint to the key.
	have     []secureboot.Binding
	policies map[secureboot.Binding]Policy
	keys     map[string][]byte
	// present is the running release as it started; starts are all that this start could
	// have been, with the variables that were measured.
	present secureboot.Start
	starts  []secureboot.Start
	// doubt is why nothing can be predicted; nil when it can.
	doubt error
}

// look makes a view. That nothing can be predicted is no error of it.
func (u *Updater) look(ctx context.Context, doc Document) (*view, error) {
	facts, err := u.Machine.Look(ctx)
	if err != nil {
		return nil, err
	}
	v := &view{Facts: facts, state: facts.State}
	v.state.Failed = doc.Failed
	v.measured = measured(facts.Log, facts.State.Variables)
	v.state.Written = v.written(doc)
	v.starts, v.doubt = v.predict(v.measured)
	for _, s := range v.starts {
		if s.Name == startName(v.Loader, v.UKI) {
			v.present = s
		}
	}
	if v.doubt == nil && v.present.PCR7 != facts.PCR7 {
		v.doubt = fmt.Errorf("how this node was started (%s) is not among what it may start as", startName(v.Loader, v.UKI))
	}
	if v.doubt == nil && len(facts.Unknown) > 0 {
		v.doubt = fmt.Errorf("predicting PCR %d: %s on the ESP cannot be read, and might start: remove or repair that file", pcr.Policy, facts.Unknown[0])
	}
	tokens, err := u.Disk.Tokens(ctx)
	if err != nil {
		return nil, err
	}
	known, err := u.Disk.Keys(ctx)
	if err != nil {
		return nil, err
	}
	v.identify(tokens, known, doc.Known)
	return v, nil
}

// variableEvent is the type of an event that measures a variable of Secure Boot.
const variableEvent = 0x80000001

// measured gives the variables as the log has them. What the log does not show is taken
// from the variables themselves; the prediction finds out when that is wrong.
func measured(log []pcr.Event, live map[string][]byte) map[string][]byte {
	contents := maps.Clone(live)
	for _, e := range log {
		if e.PCR != pcr.Policy || e.Type != variableEvent {
			continue
		}
		variable, _, err := pcr.DecodeVariable(e.Data)
		if err != nil {
			continue
		}
		if _, asked := live[variable.Name]; asked {
			contents[variable.Name] = variable.Data
		}
	}
	return contents
}

// written are the variables that are not what was measured, and what this node wrote in
// this start, whatever came of it.
func (v *view) written(doc Document) []secureboot.Name {
	var names []secureboot.Name
	for _, name := range []secureboot.Name{secureboot.PK, secureboot.KEK, secureboot.DB, secureboot.DBX} {
		ours := doc.Written != nil && doc.Written.BootID == v.BootID && doc.Written.Variable == name
		if ours || !bytes.Equal(v.measured[string(name)], v.State.Variables[string(name)]) {
			names = append(names, name)
		}
	}
	return names
}

func startName(loader, uki string) string { return uki + " by " + loader }

// predict gives the starts that can be with some variables: each boot loader with each UKI
// that the firmware would let in. Without Secure Boot no key is measured, so all are as this
// start was.
func (v *view) predict(variables map[string][]byte) ([]secureboot.Start, error) {
	if !v.state.Enabled {
		return v.unchecked(variables)
	}
	running, err := v.authorities(v.measured)
	if err != nil {
		return nil, err
	}
	next, err := v.authorities(variables)
	if err != nil {
		return nil, err
	}
	before, there := running[startName(v.Loader, v.UKI)]
	if !there {
		return nil, fmt.Errorf("predicting PCR %d: nothing in db lets in what this node was started with (%s)", pcr.Policy, startName(v.Loader, v.UKI))
	}
	var starts []secureboot.Start
	for _, uki := range v.UKIs {
		for _, loader := range v.Loaders {
			name := startName(loader.Image.Name, uki.Image.Name)
			after, there := next[name]
			if !there {
				continue
			}
			p, err := pcr.NextPolicy(v.Log, v.PCR7, pcr.SecureBoot{Variables: v.measured, Authorities: before},
				pcr.SecureBoot{Variables: variables, Authorities: after})
			if err != nil {
				return nil, err
			}
			starts = append(starts, secureboot.Start{Name: name, PCR7: p.Next, Signed: uki.Signed})
		}
	}
	return starts, nil
}

// unchecked is predict for a node without Secure Boot.
func (v *view) unchecked(variables map[string][]byte) ([]secureboot.Start, error) {
	for name, content := range variables {
		if !bytes.Equal(content, v.measured[name]) {
			return nil, fmt.Errorf("predicting PCR %d: the variable %s is not what was measured: restart first", pcr.Policy, name)
		}
	}
	var starts []secureboot.Start
	for _, uki := range v.UKIs {
		for _, loader := range v.Loaders {
			starts = append(starts, secureboot.Start{Name: startName(loader.Image.Name, uki.Image.Name), PCR7: v.PCR7, Signed: uki.Signed})
		}
	}
	return starts, nil
}

// authorities gives the entries of db that let in each pair that can start.
func (v *view) authorities(variables map[string][]byte) (map[string][][]byte, error) {
	db, err := secureboot.ParseDatabase(variables[string(secureboot.DB)])
	if err != nil {
		return nil, fmt.Errorf("reading db: %w", err)
	}
	dbx, err := secureboot.ParseDatabase(variables[string(secureboot.DBX)])
	if err != nil {
		return nil, fmt.Errorf("reading dbx: %w", err)
	}
	entry := func(p Program) ([]byte, bool) {
		e, in := db.Authority(p.Image)
		_, revoked := dbx.Revokes(p.Image)
		return e.Signature(), in && !revoked
	}
	pairs := map[string][][]byte{}
	for _, loader := range v.Loaders {
		for _, uki := range v.UKIs {
			first, in := entry(loader)
			second, inToo := entry(uki)
			if in && inToo {
				pairs[startName(loader.Image.Name, uki.Image.Name)] = [][]byte{first, second}
			}
		}
	}
	return pairs, nil
}

// identify finds out what the tokens of the header are bound to. One that is bound to
// nothing that is known opens no start, and may hide others: it gets values that no start has.
func (v *view) identify(tokens []Token, keys [][]byte, known []Values) {
	v.keys, v.policies = map[string][]byte{}, map[secureboot.Binding]Policy{}
	for _, key := range keys {
		v.learn(key)
	}
	for _, t := range tokens {
		v.learn(t.PublicKey)
	}
	candidates := []secureboot.Binding{{PCR7: v.PCR7}}
	for _, s := range v.starts {
		candidates = append(candidates, secureboot.Binding{PCR7: s.PCR7, PCR4: s.PCR4})
	}
	if next, err := v.predict(v.State.Variables); err == nil {
		for _, s := range next {
			candidates = append(candidates, secureboot.Binding{PCR7: s.PCR7, PCR4: s.PCR4})
		}
	}
	for _, k := range known {
		if b, ok := k.binding(); ok {
			candidates = append(candidates, b)
		}
	}
	for _, t := range tokens {
		b := secureboot.Binding{PCR7: sha256.Sum256(append([]byte("unknown"), t.Policy[:]...)), Key: "unknown"}
		if key, err := secureboot.KeyFingerprint(t.PublicKey); err == nil {
			b.Key = key
			for _, c := range candidates {
				c.Key = key
				if policy, err := PolicyOf(c, t.PublicKey); err == nil && policy == t.Policy {
					b = c
					break
				}
			}
		}
		if _, twice := v.policies[b]; !twice {
			v.have = append(v.have, b)
			v.policies[b] = t.Policy
		}
	}
}

func (v *view) learn(key []byte) {
	if name, err := secureboot.KeyFingerprint(key); err == nil {
		v.keys[name] = key
	}
}

func (k Values) binding() (secureboot.Binding, bool) {
	var b secureboot.Binding
	for _, field := range []struct {
		text string
		into *pcr.Value
	}{{k.PCR7, &b.PCR7}, {k.PCR4, &b.PCR4}} {
		raw, err := hex.DecodeString(field.text)
		if err != nil || len(raw) != 0 && len(raw) != len(field.into) {
			return secureboot.Binding{}, false
		}
		copy(field.into[:], raw)
	}
	return b, k.PCR7 != ""
}

// maxKnown bounds the values that are remembered; a header has at most 32 keyslots.
const maxKnown = 64

// know remembers the values of a binding.
func (d *Document) know(b secureboot.Binding) {
	values := Values{PCR7: hex.EncodeToString(b.PCR7[:])}
	if b.PCR4 != (pcr.Value{}) {
		values.PCR4 = hex.EncodeToString(b.PCR4[:])
	}
	if slices.Contains(d.Known, values) {
		return
	}
	d.Known = append(slices.Clone(d.Known), values)
	d.Known = d.Known[max(0, len(d.Known)-maxKnown):]
}

// writeSteps are the steps for a decision to write.
func (v *view) writeSteps(d secureboot.Decision) ([]secureboot.Step, error) {
	if v.doubt != nil {
		return nil, v.doubt
	}
	next := maps.Clone(v.State.Variables)
	next[string(d.Update.Variable)] = d.After
	starts, err := v.predict(next)
	if err != nil {
		return nil, err
	}
	return secureboot.WriteSteps(d, v.have, v.starts, secureboot.Forecast{Content: d.After, Starts: starts})
}
