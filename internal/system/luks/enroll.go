package luks

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/holdfast-os/holdfast/internal/system/run"
)

// TPMPolicy is the state of the machine in which the TPM opens a volume.
type TPMPolicy struct {
	// PCRs are bound to exact SHA-256 values in hexadecimal; an empty value binds to
	// the present one.
	PCRs map[int]string
	// PublicKeyFile is the PEM key whose signed policy for PCR 11 is accepted; empty
	// for the one that systemd finds by itself.
	PublicKeyFile string
}

// AddPassword adds a keyslot that opens with a password. keyFile holds a key that
// opens the volume already.
func (h Host) AddPassword(ctx context.Context, device, keyFile, password string) error {
	if password == "" || strings.ContainsAny(password, "\n\x00") {
		return errors.New("adding a password to " + device + ": the password is empty or has a line break")
	}
	return h.do(ctx, "adding a password to "+device, run.Command{
		Name: "systemd-cryptenroll", Args: []string{"--unlock-key-file=" + keyFile, "--password", device},
		Env: []string{"NEWPASSWORD=" + password},
	})
}

// AddRecoveryKey has systemd-cryptenroll make a recovery key and returns it.
func (h Host) AddRecoveryKey(ctx context.Context, device, keyFile string) (string, error) {
	result, err := h.Run(ctx, run.Command{
		Name: "systemd-cryptenroll", Args: []string{"--unlock-key-file=" + keyFile, "--recovery-key", device},
	})
	if err != nil {
		return "", fmt.Errorf("adding a recovery key to %s: %w", device, err)
	}
	key := string(trim(result.Stdout))
	if !IsRecoveryKey(key) {
		return "", fmt.Errorf("adding a recovery key to %s: systemd-cryptenroll printed something else than a key", device)
	}
	return key, nil
}

// IsRecoveryKey is true for 8 groups of 8 modhex letters with dashes.
func IsRecoveryKey(text string) bool {
	groups := strings.Split(text, "-")
	return len(groups) == 8 && !slices.ContainsFunc(groups, func(group string) bool {
		return len(group) != 8 || strings.Trim(group, modhex) != ""
	})
}

// WipeSlot empties one keyslot. systemd-cryptenroll refuses to empty the last one.
func (h Host) WipeSlot(ctx context.Context, device string, slot int) error {
	return h.do(ctx, fmt.Sprintf("wiping keyslot %d of %s", slot, device), run.Command{
		Name: "systemd-cryptenroll", Args: []string{"--wipe-slot=" + strconv.Itoa(slot), device},
	})
}

// BindTPM binds a volume to the TPM and drops the bindings there were. PCR 11 is
// bound by signature whatever the policy says. keyFile holds a key that opens the
// volume already.
func (h Host) BindTPM(ctx context.Context, device, keyFile string, policy TPMPolicy) error {
	pcrs := make([]string, 0, len(policy.PCRs))
	for _, number := range slices.Sorted(maps.Keys(policy.PCRs)) {
		text := strconv.Itoa(number) + ":sha256"
		if value := policy.PCRs[number]; value != "" {
			text += "=" + value
		}
		pcrs = append(pcrs, text)
	}
	args := []string{
		"--unlock-key-file=" + keyFile, "--tpm2-device=" + cmp.Or(h.TPM, "auto"), "--wipe-slot=tpm2", "--tpm2-pcrlock=",
		"--tpm2-pcrs=" + strings.Join(pcrs, "+"), "--tpm2-public-key-pcrs=11",
	}
	if policy.PublicKeyFile != "" {
		args = append(args, "--tpm2-public-key="+policy.PublicKeyFile)
	}
	return h.do(ctx, "binding "+device+" to the TPM", run.Command{Name: "systemd-cryptenroll", Args: append(args, device)})
}
