package secureboot

import (
	"encoding/hex"
	"errors"
	"fmt"
	"slices"

	"github.com/holdfast-os/holdfast/internal/pcr"
)

// Start is one way in which the node may start next, as far as the TPM can tell.
type Start struct {
	// Name says which, for people, as "release 202611220104 with the old boot loader".
	Name string
	// PCR7 is what register 7 will have.
	PCR7 pcr.Value
	// PCR4 is what register 4 will have; zero while Secure Boot is on, when no volume is
	// bound to it.
	PCR4 pcr.Value
	// Signed are the keys whose signatures for register 11 the UKI carries (its section
	// .pcrsig), as SignedKeys gives them.
	Signed []string
}

// Binding is one way in which the TPM opens the root volume: a systemd-tpm2 token.
// Register 15 at zero belongs to all of them.
type Binding struct {
	// PCR7 and PCR4 are exact values; PCR4 is zero for a binding without it.
	PCR7, PCR4 pcr.Value
	// Key is the key whose signatures for register 11 are taken, as SignedKeys names it.
	Key string
}

func (b Binding) String() string {
	text := "PCR 7 " + hex.EncodeToString(b.PCR7[:4])
	if b.PCR4 != (pcr.Value{}) {
		text += ", PCR 4 " + hex.EncodeToString(b.PCR4[:4])
	}
	return text + ", key " + b.Key[:min(8, len(b.Key))]
}

// needs is the binding that opens the volume at this start, for the first of the keys.
func (s Start) needs(key string) Binding { return Binding{PCR7: s.PCR7, PCR4: s.PCR4, Key: key} }

// fits is true when the registers and the key are right.
func (b Binding) fits(s Start) bool {
	return b.PCR7 == s.PCR7 && b.PCR4 == s.PCR4 && slices.Contains(s.Signed, b.Key)
}

// Opens gives the binding that opens the volume at a start, by its place in the header;
// false when the recovery key is needed.
//
// systemd-cryptsetup tries the bindings in their order. One with other registers is passed
// over. But one whose key has no signature in the UKI ends the search, with the error that
// the signature was not found. So a binding with another key hides all those behind it.
func Opens(bindings []Binding, s Start) (int, bool) {
	for i, b := range bindings {
		if b.fits(s) {
			return i, true
		}
		if !slices.Contains(s.Signed, b.Key) {
			return 0, false
		}
	}
	return 0, false
}

// opensAll is an error that names the first of the starts that no binding opens.
func opensAll(bindings []Binding, starts []Start) error {
	for _, s := range starts {
		if _, open := Opens(bindings, s); !open {
			return fmt.Errorf("the TPM would not open the disk for %s", s.Name)
		}
	}
	return nil
}

// ErrNotBound means that the TPM would not open the disk as it is.
var ErrNotBound = errors.New("the disk is not bound to what the node may start as now: bind it to the TPM anew first")

// prepare gives the bindings that open every start, in the order in which the header will
// have them, and the steps that lead there from those there are. At every one of the steps
// the present starts are opened.
func prepare(have []Binding, present, coming []Start) ([]Binding, []Step, error) {
	if err := opensAll(have, present); err != nil {
		return nil, nil, fmt.Errorf("%w (%w)", ErrNotBound, err)
	}
	all := append(slices.Clone(present), coming...)
	bindings, steps, err := unhide(have, present, all)
	if err != nil {
		return nil, nil, err
	}
	for _, s := range coming {
		if _, open := Opens(bindings, s); open {
			continue
		}
		b, err := bindingFor(bindings, s, all)
		if err != nil {
			return nil, nil, err
		}
		bindings = append(bindings, b)
		steps = append(steps, Step{Kind: Bind, Object: b.String(), Binding: &b, Why: "so that the TPM opens the disk for " + s.Name})
	}
	// This holds by now. It is looked at once more, because a mistake locks a node out.
	if err := opensAll(bindings, all); err != nil {
		return nil, nil, err
	}
	return bindings, append(steps, Step{
		Kind: CheckBindings, Object: "root", Bindings: bindings,
		Why: "nothing is switched before the header of the disk has all of them",
	}), nil
}

// unhide removes the bindings whose key some start has no signature of: they would end the
// search before the right one. A present start that needs one gets another first, by a key
// that all starts have.
func unhide(have []Binding, present, all []Start) ([]Binding, []Step, error) {
	bindings := slices.Clone(have)
	var steps []Step
	for _, b := range have {
		if !slices.ContainsFunc(all, func(s Start) bool { return !slices.Contains(s.Signed, b.Key) }) {
			continue
		}
		for _, s := range present {
			if !b.fits(s) {
				continue
			}
			common, found := commonKey(s, all)
			if !found {
				return nil, nil, fmt.Errorf("the disk is bound to the PCR key %s for %s, and not every release that may start has a signature of it: take a release first that carries the signatures of both keys", b.Key, s.Name)
			}
			if other := s.needs(common); !slices.Contains(bindings, other) {
				bindings = append(bindings, other)
				steps = append(steps, Step{Kind: Bind, Object: other.String(), Binding: &other, Why: "so that the TPM opens the disk for " + s.Name + " by the newer key"})
			}
		}
		bindings = slices.DeleteFunc(bindings, func(o Binding) bool { return o == b })
		steps = append(steps, Step{Kind: Unbind, Object: b.String(), Binding: &b, Why: "its key would end the search before the right binding"})
		if err := opensAll(bindings, present); err != nil {
			return nil, nil, fmt.Errorf("putting the bindings to the TPM in order: %w", err)
		}
	}
	return bindings, steps, nil
}

// commonKey gives the newest key of a start that all starts have.
func commonKey(s Start, all []Start) (string, bool) {
	for _, key := range slices.Backward(s.Signed) {
		if !slices.ContainsFunc(all, func(o Start) bool { return !slices.Contains(o.Signed, key) }) {
			return key, true
		}
	}
	return "", false
}

// bindingFor finds the key of a new binding. One that all starts have comes first: it hides
// no other binding, whatever is added later.
func bindingFor(bindings []Binding, s Start, all []Start) (Binding, error) {
	var keys []string
	if common, found := commonKey(s, all); found {
		keys = append(keys, common)
	}
	for _, key := range append(keys, s.Signed...) {
		b := s.needs(key)
		if _, open := Opens(append(slices.Clone(bindings), b), s); open {
			return b, nil
		}
	}
	return Binding{}, fmt.Errorf("no binding can open the disk for %s: it has no signature for PCR 11 of a key that the disk can be bound to; take a release first that carries the signatures of both keys", s.Name)
}
