//go:build linux

package host

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/internal/keyupdate"
	"github.com/holdfast-os/holdfast/internal/pcr"
	"github.com/holdfast-os/holdfast/internal/secureboot"
	"github.com/holdfast-os/holdfast/internal/system/luks"
	"github.com/holdfast-os/holdfast/internal/system/run"
	"github.com/holdfast-os/holdfast/test/needs"
)

// Two bindings stand in one header while a key of Secure Boot changes. Each is found again
// by what is worked out of its values alone, each opens the disk at its start, and removing
// one leaves the other.
func TestBindings_TwoInOneHeader_AreFoundAndRemovedOneByOne(t *testing.T) {
	tree := needs.Tree(t, "swtpm", "systemd-cryptenroll", "cryptsetup")
	needs.Programs(t, "unshare")
	dir := t.TempDir()
	signer := keyFiles(t, dir, "A", 1)
	state, volume, unlock := filepath.Join(dir, "tpm"), filepath.Join(dir, "volume"), filepath.Join(dir, "unlock")
	if err := os.Mkdir(state, 0o700); err != nil {
		t.Fatal(err)
	}
	writeFile(t, unlock, "the recovery key")
	writeFile(t, volume, "")
	if err := os.Truncate(volume, 32<<20); err != nil {
		t.Fatal(err)
	}
	mustRun(t, tree, "cryptsetup", "luksFormat", "--type=luks2", "--batch-mode", "--pbkdf=pbkdf2", "--pbkdf-force-iterations=1000", volume, unlock)
	device, _ := bootTPM(t, tree, state)
	host := luks.Host{Root: t.TempDir(), TPM: device, Run: func(ctx context.Context, c run.Command) (run.Result, error) {
		return run.Host(ctx, tree.Command(c.Name, c.Args...))
	}}
	public, err := os.ReadFile(filepath.Join(dir, "A.pub"))
	if err != nil {
		t.Fatal(err)
	}
	// Register 7 of the emulator is zero: this start. The other one is another start.
	here := secureboot.Binding{Key: pcrKey(t, dir, "A")}
	other := secureboot.Binding{PCR7: pcr.Value(bytes.Repeat([]byte{0x22}, 32)), Key: here.Key}
	withPrograms := secureboot.Binding{PCR7: other.PCR7, PCR4: pcr.Value(bytes.Repeat([]byte{0x44}, 32)), Key: here.Key}
	slots := map[secureboot.Binding]int{}
	add := func(b secureboot.Binding) error {
		policy := luks.TPMPolicy{PCRs: map[int]string{7: hex.EncodeToString(b.PCR7[:]), 15: strings.Repeat("0", 64)}, PublicKeyFile: filepath.Join(dir, "A.pub")}
		if b.PCR4 != (pcr.Value{}) {
			policy.PCRs[4] = hex.EncodeToString(b.PCR4[:])
		}
		slot, err := host.AddBinding(t.Context(), volume, unlock, policy)
		slots[b] = slot
		return err
	}
	for _, b := range []secureboot.Binding{other, here} {
		if err := add(b); err != nil {
			t.Fatal(err)
		}
	}
	first := slots[other]
	if err := add(other); !errors.Is(err, luks.ErrAlreadyBound) {
		t.Errorf("a second time: %v", err)
	}
	slots[other] = first
	check := func(want ...secureboot.Binding) {
		t.Helper()
		var wanted []luks.Binding
		for _, b := range want {
			policy, err := keyupdate.PolicyOf(b, public)
			if err != nil {
				t.Fatal(err)
			}
			wanted = append(wanted, luks.Binding{Slot: slots[b], Policy: policy[:], PublicKey: public})
		}
		found, err := host.Bindings(t.Context(), volume)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(wanted, found); diff != "" {
			t.Error(diff)
		}
	}
	remove := func(slot int) error { return host.RemoveBinding(t.Context(), volume, slot) }
	signatures := pcrSignature(t, signer)
	check(other, here)
	if !unlocks(t, tree, device, volume, signatures) {
		t.Error("with both, the TPM does not open the disk")
	}
	if err := remove(slots[other]); err != nil {
		t.Fatal(err)
	}
	check(here)
	// A token takes the lowest number that is free: what is added later may be tried first.
	if err := add(withPrograms); err != nil {
		t.Fatal(err)
	}
	check(withPrograms, here)
	if !unlocks(t, tree, device, volume, signatures) {
		t.Error("with another start's before it, the TPM does not open the disk")
	}
	if err := remove(slots[here]); err != nil {
		t.Fatal(err)
	}
	if unlocks(t, tree, device, volume, signatures) {
		t.Error("a binding that was removed opens the disk")
	}
	if err := remove(0); err == nil {
		t.Error("the keyslot of the recovery key is removed as a binding")
	}
	if err := remove(9); err != nil {
		t.Errorf("an empty keyslot: %v", err)
	}
}
