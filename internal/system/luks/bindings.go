package luks

import (
	"bytes"
	"cmp"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/holdfast-os/holdfast/internal/system/run"
)

// Binding is one systemd-tpm2 token of a header, with what tells it from others. The
// header has no PCR values, but the hash of the policy, which stands for them and the key.
type Binding struct {
	// Slot is the keyslot that the TPM opens.
	Slot int
	// Policy is the hash of the policy that is sealed to; nil when it has several parts.
	Policy []byte
	// PublicKey is the key of the signed policy, PEM; nil without one.
	PublicKey []byte
}

// ErrAlreadyBound means that the volume has a binding with this policy and that none was added.
var ErrAlreadyBound = errors.New("the volume has this binding already")

// Bindings gives the bindings of a volume to the TPM in the order in which
// systemd-cryptsetup tries them: that of their tokens' numbers.
func (h Host) Bindings(ctx context.Context, device string) ([]Binding, error) {
	result, err := h.Run(ctx, run.Command{Name: "cryptsetup", Args: []string{"luksDump", "--dump-json-metadata", device}})
	if err != nil {
		return nil, fmt.Errorf("reading the LUKS header of %s: %w", device, err)
	}
	bindings, err := ParseBindings(result.Stdout)
	if err != nil {
		return nil, fmt.Errorf("reading the LUKS header of %s: %w", device, err)
	}
	return bindings, nil
}

// ParseBindings reads the bindings out of the JSON metadata of a LUKS2 header.
func ParseBindings(data []byte) ([]Binding, error) {
	var raw metadata
	if err := json.Unmarshal(data, &raw); err != nil {
		return nil, fmt.Errorf("reading its metadata: %w", err)
	}
	var list []Binding
	for _, id := range sortedKeys(raw.Tokens) {
		binding, is, err := parseBinding(raw.Tokens[id])
		if err != nil {
			return nil, fmt.Errorf("reading its token %s: %w", id, err)
		}
		if is {
			list = append(list, binding)
		}
	}
	return list, nil
}

func parseBinding(text json.RawMessage) (binding Binding, is bool, err error) {
	var t struct {
		token
		// Policy is text, or a list of texts for a policy in several parts.
		Policy json.RawMessage `json:"tpm2-policy-hash"`
	}
	if err := json.Unmarshal(text, &t); err != nil {
		return Binding{}, false, err
	}
	if t.Type != "systemd-tpm2" {
		return Binding{}, false, nil
	}
	if len(t.Keyslots) != 1 {
		return Binding{}, false, fmt.Errorf("it has %d keyslots, not one", len(t.Keyslots))
	}
	if binding.Slot, err = strconv.Atoi(t.Keyslots[0]); err != nil {
		return Binding{}, false, fmt.Errorf("keyslot %q has no number", t.Keyslots[0])
	}
	var policy string
	if len(t.Policy) > 0 && json.Unmarshal(t.Policy, &policy) != nil {
		policy = "" // a list
	}
	if binding.Policy, err = hex.DecodeString(policy); err != nil {
		return Binding{}, false, errors.New("the hash of its policy is not hexadecimal")
	}
	if len(binding.Policy) == 0 {
		binding.Policy = nil
	}
	binding.PublicKey = t.PublicKey
	return binding, true, nil
}

// AddBinding binds a volume to the TPM once more; the bindings that there are stay. It
// gives the keyslot of the new one, which the header has when it returns. keyFile holds a
// key that opens the volume. ErrAlreadyBound, wrapped, says that a binding with the same
// policy was there.
func (h Host) AddBinding(ctx context.Context, device, keyFile string, policy TPMPolicy) (slot int, err error) {
	fail := func(err error) (int, error) {
		return 0, fmt.Errorf("adding a binding of %s to the TPM: %w", device, err)
	}
	before, err := h.Bindings(ctx, device)
	if err != nil {
		return fail(err)
	}
	pcrs := make([]string, 0, len(policy.PCRs))
	for _, number := range slices.Sorted(maps.Keys(policy.PCRs)) {
		text := strconv.Itoa(number) + ":sha256"
		if value := policy.PCRs[number]; value != "" {
			text += "=" + value
		}
		pcrs = append(pcrs, text)
	}
	args := []string{
		"--unlock-key-file=" + keyFile, "--tpm2-device=" + cmp.Or(h.TPM, "auto"), "--tpm2-pcrlock=",
		"--tpm2-pcrs=" + strings.Join(pcrs, "+"), "--tpm2-public-key-pcrs=11",
	}
	if policy.PublicKeyFile != "" {
		args = append(args, "--tpm2-public-key="+policy.PublicKeyFile)
	}
	if _, err := h.Run(ctx, run.Command{Name: "systemd-cryptenroll", Args: append(args, device)}); err != nil {
		return fail(err)
	}
	after, err := h.Bindings(ctx, device)
	if err != nil {
		return fail(err)
	}
	added := slices.DeleteFunc(slices.Clone(after), func(b Binding) bool { return has(before, b) })
	lost := slices.DeleteFunc(slices.Clone(before), func(b Binding) bool { return has(after, b) })
	switch {
	case len(lost) > 0:
		return fail(fmt.Errorf("systemd-cryptenroll is done, and the binding of keyslot %d is gone: bind the volume anew", lost[0].Slot))
	case len(added) == 0:
		return fail(ErrAlreadyBound)
	case len(added) > 1:
		return fail(fmt.Errorf("systemd-cryptenroll is done, and there are %d bindings more", len(added)))
	}
	return added[0].Slot, nil
}

func has(list []Binding, b Binding) bool {
	return slices.ContainsFunc(list, func(o Binding) bool {
		return o.Slot == b.Slot && bytes.Equal(o.Policy, b.Policy) && bytes.Equal(o.PublicKey, b.PublicKey)
	})
}

// RemoveBinding removes the binding with a keyslot, and the keyslot. A slot that is no
// binding's is left alone: an error when it is something else's, nothing when it is empty.
func (h Host) RemoveBinding(ctx context.Context, device string, slot int) error {
	header, err := h.ReadHeader(ctx, device)
	if err != nil {
		return err
	}
	at := slices.IndexFunc(header.Slots, func(s Slot) bool { return s.Number == slot })
	if at < 0 {
		return nil
	}
	if kind := header.Slots[at].Kind; kind != TPM2 {
		return fmt.Errorf("removing a binding of %s to the TPM: keyslot %d is of the kind %s", device, slot, kind)
	}
	if err := h.WipeSlot(ctx, device, slot); err != nil {
		return err
	}
	left, err := h.Bindings(ctx, device)
	if err == nil && slices.ContainsFunc(left, func(b Binding) bool { return b.Slot == slot }) {
		err = fmt.Errorf("removing a binding of %s to the TPM: systemd-cryptenroll is done, and keyslot %d is still there", device, slot)
	}
	return err
}
