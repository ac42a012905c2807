package pcr

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
)

// SecureBoot is what register 7 depends on.
type SecureBoot struct {
	// Variables are whole contents by name: SecureBoot, PK, KEK, db, dbx, dbt, dbr. One
	// that does not exist is empty. A name left out is as it was measured at this start.
	Variables map[string][]byte
	// Authorities are the entries of db (16 bytes of owner, then the certificate or hash)
	// that let in the programs that change with a release, in the order in which they are
	// started: the boot loader, then the UKI. Empty while Secure Boot is off.
	Authorities [][]byte
}

// NextPolicy predicts register 7. before is what holds now, and must explain the log;
// after is what will hold at the next start. Errors are *Doubt, except for a name that is
// no variable of Secure Boot.
func NextPolicy(log []Event, actual Value, before, after SecureBoot) (Prediction, error) {
	for _, state := range []SecureBoot{before, after} {
		for name := range state.Variables {
			if _, known := vendors[name]; !known {
				return Prediction{}, fmt.Errorf("predicting PCR %d: %q is no variable of Secure Boot", Policy, name)
			}
		}
	}
	if err := Check(log, Policy, actual); err != nil {
		return Prediction{}, err
	}
	list, err := entries(log, Policy)
	if err != nil {
		return Prediction{}, err
	}
	now, err := policy(list, before.Variables, before.Authorities, before.Authorities)
	if err != nil {
		return Prediction{}, err
	}
	if changed := compare(now); len(changed) > 0 {
		return Prediction{}, &Doubt{PCR: Policy, Event: changed[0].Event, Reason: fmt.Sprintf(
			"%s is not what was measured; it was changed since this start, so restart first", changed[0].Object)}
	}
	next, err := policy(list, after.Variables, before.Authorities, after.Authorities)
	if err != nil {
		return Prediction{}, err
	}
	return Prediction{PCR: Policy, Present: actual, Next: extend(flatten(next)), Changes: compare(next)}, nil
}

// policy works out the events of a start with the given variables.
func policy(list []entry, variables map[string][]byte, before, after [][]byte) ([]made, error) {
	found := map[string]bool{}
	var result []made
	for _, e := range list {
		m := made{entry: e, object: "an event", digests: []Value{e.SHA256}}
		if e.Type == evVariable {
			// One that cannot be read is reused: it is none that changes, or that one is
			// missed below.
			if v, _, err := DecodeVariable(e.Data); err == nil && v.Vendor == vendors[v.Name] {
				found[v.Name] = true
				m.object = v.Name
				if m.digests, err = variableDigest(e, v, variables); err != nil {
					return nil, err
				}
			}
		}
		result = append(result, m)
	}
	for _, name := range slices.Sorted(maps.Keys(variables)) {
		if !found[name] {
			return nil, &Doubt{PCR: Policy, Reason: "the log has no event for the variable " + name}
		}
	}
	if slices.EqualFunc(before, after, bytes.Equal) {
		return result, nil
	}
	return result, authorities(result, before, after)
}

// variableDigest gives the digest of the event for the content the variable will have.
func variableDigest(e entry, logged Variable, variables map[string][]byte) ([]Value, error) {
	content, given := variables[logged.Name]
	if !given || bytes.Equal(content, logged.Data) {
		return []Value{e.SHA256}, nil
	}
	if sha256.Sum256(e.Data) != e.SHA256 && sha256.Sum256(logged.Encode()) != e.SHA256 {
		return nil, &Doubt{PCR: Policy, Event: e.number, Reason: fmt.Sprintf(
			"the firmware measures the variable %s in a way that is not known: its digest is not that of the event's data", logged.Name)}
	}
	if logged.Name == "SecureBoot" {
		// Turning it on or off adds or removes events that this log does not show.
		return nil, &Doubt{PCR: Policy, Event: e.number, Reason: "Secure Boot itself would be switched; what is measured then is not known before"}
	}
	logged.Data = content
	return []Value{sha256.Sum256(logged.Encode())}, nil
}

// authorities replaces the events that say who let in the boot loader and the UKI. The
// firmware measures each entry of db once, when it is first used. So an event of the log
// stands for its program and for those behind it that the same entry let in.
func authorities(list []made, before, after [][]byte) error {
	if len(before) != len(after) {
		return &Doubt{PCR: Policy, Reason: fmt.Sprintf("%d programs are started now and %d at the next start", len(before), len(after))}
	}
	measured := map[string]bool{}
	used := map[string]bool{}
	at := 0
	for i := range list {
		e := list[i].entry
		if e.Type != evAuthority {
			continue
		}
		v, _, err := DecodeVariable(e.Data)
		if err != nil || v.Vendor != imageSecurity || v.Name != "db" {
			continue
		}
		key := string(v.Data)
		if used[key] {
			return &Doubt{PCR: Policy, Event: e.number, Reason: "the firmware measured the same entry of db twice; in what order it will do so is not known"}
		}
		used[key] = true
		if !slices.ContainsFunc(before, func(b []byte) bool { return bytes.Equal(b, v.Data) }) {
			if measured[key] {
				list[i].digests = nil
			}
			measured[key] = true
			continue
		}
		if at == len(before) || !bytes.Equal(before[at], v.Data) {
			return &Doubt{PCR: Policy, Event: e.number, Reason: "the entry of db is not the one that lets in the next program"}
		}
		if sha256.Sum256(e.Data) != e.SHA256 {
			return &Doubt{PCR: Policy, Event: e.number, Reason: "the firmware measures entries of db in a way that is not known"}
		}
		list[i].object, list[i].digests = "the key of a program", nil
		for ; at < len(before) && used[string(before[at])]; at++ {
			next := string(after[at])
			if !measured[next] {
				list[i].digests = append(list[i].digests, sha256.Sum256(Variable{imageSecurity, "db", after[at]}.Encode()))
			}
			measured[next] = true
		}
	}
	if at < len(before) {
		sum := sha256.Sum256(before[at])
		return &Doubt{PCR: Policy, Reason: "the log has no event for the entry of db that lets in a program (SHA-256 " + hex.EncodeToString(sum[:4]) + "...)"}
	}
	return nil
}
