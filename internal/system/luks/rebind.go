package luks

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/holdfast-os/holdfast/internal/system/run"
)

// publicKey is where systemd-stub's copy of the key lies that signs the policy for
// PCR 11 of this and later releases.
const publicKey = "run/systemd/tpm2-pcr-public-key.pem"

// Rebind binds volumes to the TPM as early boot did at the first start, with the present
// value of PCR 7: PCR 15 at zero, and PCR 11 by signature. keyFile holds a key that opens
// every one of them. With programs they are bound to the present value of PCR 4 too: where
// Secure Boot is off nothing else tells which programs were started.
//
// The old bindings are removed first. systemd-cryptenroll takes a binding with the same
// policy for the one that is wanted, although a TPM that was cleared cannot use it any
// more. When this is cut short, the recovery keys open the volumes as they did before,
// and Rebind can be called again.
func (h Host) Rebind(ctx context.Context, keyFile string, programs bool, devices ...string) error {
	key := filepath.Join(h.Root, publicKey)
	if _, err := os.Stat(key); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = errors.New("this release was started without it, so its start is not measured; start a signed release")
		}
		return fmt.Errorf("looking for the key of the PCR policy %s: %w", key, err)
	}
	for _, device := range devices {
		opens, err := h.CheckKey(ctx, device, keyFile)
		if err == nil && !opens {
			err = fmt.Errorf("binding %s to the TPM: the key of this node: %w", device, ErrNoKey)
		}
		if err == nil {
			err = h.rebind(ctx, device, keyFile, key, programs)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (h Host) rebind(ctx context.Context, device, keyFile, publicKey string, programs bool) error {
	err := h.do(ctx, "removing the bindings of "+device+" to a TPM", run.Command{
		Name: "systemd-cryptenroll", Args: []string{"--wipe-slot=tpm2", device},
	})
	if err != nil {
		return err
	}
	policy := TPMPolicy{PCRs: map[int]string{7: "", 15: strings.Repeat("0", 64)}, PublicKeyFile: publicKey}
	want := []int{7, 15}
	if programs {
		policy.PCRs[4], want = "", []int{4, 7, 15}
	}
	if err := h.BindTPM(ctx, device, keyFile, policy); err != nil {
		return err
	}
	header, err := h.ReadHeader(ctx, device)
	if err != nil {
		return err
	}
	if len(header.TPM) != 1 || !slices.Equal(header.TPM[0].PCRs, want) || !slices.Equal(header.TPM[0].SignedPCRs, []int{11}) {
		return fmt.Errorf("binding %s to the TPM: its header has %s", device, cmp.Or(describe(header.TPM), "no binding"))
	}
	return nil
}

func describe(tokens []TPMToken) string {
	var list []string
	for _, token := range tokens {
		list = append(list, fmt.Sprintf("PCRs %v, signed %v", token.PCRs, token.SignedPCRs))
	}
	return strings.Join(list, "; ")
}
