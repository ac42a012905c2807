package trust_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	api "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/trust"
)

var hash = strings.Repeat("0a", 32)

// good is a node on which every part of the chain holds.
func good() trust.Input {
	return trust.Input{
		SecureBoot: true, TPM: trust.HardwareTPM, CommandLine: "rw usrhash=" + hash + " quiet",
		Volumes:               []trust.Volume{{Name: "root", Open: true}, {Name: "swap", Open: true}},
		Certificates:          []api.SecureBootCertificate{{Type: "PK", Fingerprint: "ff"}},
		RecoveryKeysRetrieved: true, PoolKeys: map[string]string{"local": "a2V5"},
	}
}

// The answer of the API as a whole: a client reads each of these fields.
func TestEvaluate_WholeChain_IsTrusted(t *testing.T) {
	want := trust.Result{State: api.SecurityState{
		EncryptedVolumes:                []api.EncryptedVolume{{Volume: "root", State: "unlocked (TPM)"}, {Volume: "swap", State: "unlocked (TPM)"}},
		EncryptionRecoveryKeysRetrieved: true, DriveRecoveryKeys: map[string]string{}, PoolRecoveryKeys: map[string]string{"local": "a2V5"},
		SecureBootCertificates: []api.SecureBootCertificate{{Type: "PK", Fingerprint: "ff"}}, SecureBootEnabled: true,
		SystemStateIsTrusted: true, SystemStateStatus: "system state is fully trusted", TPMStatus: "ok", UsrRootHash: hash,
	}}
	if diff := cmp.Diff(want, trust.Evaluate(good())); diff != "" {
		t.Error(diff)
	}
}

// A node that calls itself trusted while a part is off is worse than none: each part
// by itself must show, and must blow the fuse.
func TestEvaluate_OnePartOff_SaysWhichAndBlowsTheFuse(t *testing.T) {
	for name, c := range map[string]struct {
		change      func(*trust.Input)
		status, tpm string
		blow        bool
	}{
		"swtpm":       {func(in *trust.Input) { in.TPM = trust.SoftwareTPM }, "using swtpm", "swtpm", true},
		"no TPM":      {func(in *trust.Input) { in.TPM = trust.NoTPM }, "no TPM", "missing", true},
		"secure boot": {func(in *trust.Input) { in.SecureBoot = false }, "Secure Boot is disabled", "ok", true},
		"test build": {func(in *trust.Input) { in.CommandLine += " holdfast.variant=test" },
			"test variant: its command line accepts credentials from outside", "ok", true},
		"no root hash": {func(in *trust.Input) { in.CommandLine = "rw" }, "the command line names no root hash of /usr", "ok", true},
		"plain root":   {func(in *trust.Input) { in.Volumes = in.Volumes[1:] }, "root is not encrypted", "ok", true},
		"log":          {func(in *trust.Input) { in.PCRMismatch, in.SecureBoot = true, false }, "Secure Boot is disabled", "pcr mismatch", true},
		"two":          {func(in *trust.Input) { in.TPM, in.SecureBoot = trust.SoftwareTPM, false }, "using swtpm, Secure Boot is disabled", "swtpm", true},
		"once before": {func(in *trust.Input) { in.FuseBlown = true },
			"no current issues, but system was previously in an untrusted state", "ok", false},
		"again": {func(in *trust.Input) { in.FuseBlown, in.SecureBoot = true, false }, "Secure Boot is disabled", "ok", false},
	} {
		t.Run(name, func(t *testing.T) {
			in := good()
			c.change(&in)
			got := trust.Evaluate(in)
			if got.State.SystemStateIsTrusted {
				t.Error("trusted")
			}
			if diff := cmp.Diff([]any{c.status, c.tpm, c.blow},
				[]any{got.State.SystemStateStatus, got.State.TPMStatus, got.BlowFuse}); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// An owner must see that the next start will ask for the key again.
func TestEvaluate_RootTookRecoveryKey_TPMMismatches(t *testing.T) {
	in := good()
	in.Volumes = []trust.Volume{{Name: "root", Open: true, ByRecovery: true}, {Name: "swap", ByRecovery: true}}
	got := trust.Evaluate(in).State
	want := []api.EncryptedVolume{{Volume: "root", State: "unlocked (recovery passphrase)"}, {Volume: "swap", State: "locked"}}
	if diff := cmp.Diff(want, got.EncryptedVolumes); diff != "" {
		t.Error(diff)
	}
	if got.TPMStatus != "pcr mismatch" {
		t.Errorf("got %q", got.TPMStatus)
	}
}

// The kernel's own rules for words: a look-alike must not hide the test build.
func TestUsrRootHash_CommandLine_GivesTheHashOfTheKernel(t *testing.T) {
	other := strings.Repeat("0b", 32)
	for line, want := range map[string]string{
		"":                                      "",
		"usrhash=" + hash + "\n":                hash,
		"usrhash=" + strings.ToUpper(hash):      hash,
		"usrhash=" + hash + " usrhash=" + other: other,
		"usrhash=" + hash[:62]:                  "",
		"usrhash=" + hash + "00":                "",
		"x.usrhash=" + hash:                     "",
		`a="b usrhash=` + hash + `" c`:          "",
		`"usrhash=` + hash + `"`:                hash,
	} {
		if got := trust.UsrRootHash(line); got != want {
			t.Errorf("%q: got %q, want %q", line, got, want)
		}
	}
}

// A log that does not fit the TPM is a matter of predicting the next start: what runs is as
// trusted as before.
func TestEvaluate_LogDoesNotFit_MismatchesAndStaysTrusted(t *testing.T) {
	in := good()
	in.PCRMismatch = true
	got := trust.Evaluate(in)
	if diff := cmp.Diff([]any{"pcr mismatch", true, false}, []any{got.State.TPMStatus, got.State.SystemStateIsTrusted, got.BlowFuse}); diff != "" {
		t.Error(diff)
	}
}
