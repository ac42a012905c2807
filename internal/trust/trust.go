// Package trust says how far a node can be trusted: which parts of the chain from
// the firmware to the encrypted disk hold now, and whether one ever did not.
//
// It is pure. The caller gathers the inputs; Evaluate gives the answer of the API
// and says whether the fuse must be blown. The fuse is a file that is made the first
// time that a part of the chain is off, and that stays until the node is reinstalled:
// who once ran with a part off cannot know what was put in place then.
//
// What this cannot do: the node speaks for itself here. A changed system can say
// anything; proof to others needs a quote of the TPM.
package trust

import (
	"encoding/hex"
	"slices"
	"strings"
	"unicode"

	api "github.com/holdfast-os/holdfast/api/os"
)

// TPMKind says what sort of TPM the node has.
type TPMKind string

// The kinds of TPM.
const (
	NoTPM       TPMKind = "none"
	HardwareTPM TPMKind = "hardware"
	SoftwareTPM TPMKind = "software"
)

// Volume is one LUKS volume of the system disk.
type Volume struct {
	// Name is "root" or "swap".
	Name string
	// Open is true when it has been opened.
	Open bool
	// ByRecovery is true when a recovery key or a person opened it, not the TPM.
	ByRecovery bool
}

// Input is what the node knows of itself.
type Input struct {
	// SecureBoot is the firmware's SecureBoot variable.
	SecureBoot bool
	// Certificates are those of the firmware's variables.
	Certificates []api.SecureBootCertificate
	TPM          TPMKind
	// PCRMismatch is true when the firmware's event log does not give the value of register
	// 7 that the TPM has: what the next start measures cannot be known then.
	PCRMismatch bool
	// CommandLine is the content of /proc/cmdline.
	CommandLine string
	// FuseBlown is true when the fuse file is there.
	FuseBlown bool
	Volumes   []Volume
	// RecoveryKeysRetrieved is true once the owner has said that the keys are kept.
	RecoveryKeysRetrieved bool
	// DriveKeys and PoolKeys are base64 keys, by drive id and by pool name.
	DriveKeys, PoolKeys map[string]string
}

// Result is what Evaluate finds.
type Result struct {
	State api.SecurityState
	// BlowFuse is true when the caller must make the fuse file now.
	BlowFuse bool
}

// Evaluate says how far the node can be trusted.
func Evaluate(in Input) Result {
	reasons := Reasons(in)
	state := api.SecurityState{
		EncryptedVolumes:                volumes(in.Volumes),
		EncryptionRecoveryKeysRetrieved: in.RecoveryKeysRetrieved,
		DriveRecoveryKeys:               orEmpty(in.DriveKeys),
		PoolRecoveryKeys:                orEmpty(in.PoolKeys),
		SecureBootCertificates:          slices.Concat([]api.SecureBootCertificate{}, in.Certificates),
		SecureBootEnabled:               in.SecureBoot,
		SystemStateIsTrusted:            len(reasons) == 0 && !in.FuseBlown,
		TPMStatus:                       tpmStatus(in),
		UsrRootHash:                     UsrRootHash(in.CommandLine),
	}
	switch {
	case len(reasons) > 0:
		state.SystemStateStatus = strings.Join(reasons, ", ")
	case in.FuseBlown:
		state.SystemStateStatus = "no current issues, but system was previously in an untrusted state"
	default:
		state.SystemStateStatus = "system state is fully trusted"
	}
	return Result{State: state, BlowFuse: len(reasons) > 0 && !in.FuseBlown}
}

// Reasons are the parts of the chain that are off now, each in words; nil when all
// hold. A root hash that is missing counts: /usr could then be anything.
func Reasons(in Input) []string {
	var reasons []string
	switch in.TPM {
	case SoftwareTPM:
		reasons = append(reasons, "using swtpm")
	case HardwareTPM:
	default:
		reasons = append(reasons, "no TPM")
	}
	if !in.SecureBoot {
		reasons = append(reasons, "Secure Boot is disabled")
	}
	if IsTestVariant(in.CommandLine) {
		reasons = append(reasons, "test variant: its command line accepts credentials from outside")
	}
	if UsrRootHash(in.CommandLine) == "" {
		reasons = append(reasons, "the command line names no root hash of /usr")
	}
	if !slices.ContainsFunc(in.Volumes, func(v Volume) bool { return v.Name == "root" }) {
		reasons = append(reasons, "root is not encrypted")
	}
	return reasons
}

// tpmStatus: a root that took a recovery key means that the TPM refused, whatever the log
// says: after a change of keys it fits the TPM, and the volumes do not.
func tpmStatus(in Input) string {
	refused := slices.ContainsFunc(in.Volumes, func(v Volume) bool { return v.Name == "root" && v.ByRecovery })
	switch {
	case in.TPM == SoftwareTPM:
		return "swtpm"
	case in.TPM != HardwareTPM:
		return "missing"
	case in.PCRMismatch || refused:
		return "pcr mismatch"
	}
	return "ok"
}

func volumes(list []Volume) []api.EncryptedVolume {
	all := []api.EncryptedVolume{}
	for _, v := range list {
		state := "unlocked (TPM)"
		if v.ByRecovery {
			state = "unlocked (recovery passphrase)"
		}
		if !v.Open {
			state = "locked"
		}
		all = append(all, api.EncryptedVolume{Volume: v.Name, State: state})
	}
	return all
}

func orEmpty(keys map[string]string) map[string]string {
	if keys == nil {
		return map[string]string{}
	}
	return keys
}

// IsTestVariant is true when the kernel was started with holdfast.variant=test, the
// build for tests that takes credentials from outside.
func IsTestVariant(commandLine string) bool {
	// Any mention counts, not only the last: a false alarm is the smaller harm.
	return slices.Contains(words(commandLine), "holdfast.variant=test")
}

// UsrRootHash is the dm-verity root hash of /usr that the kernel was started with,
// 64 lower-case hexadecimal digits; empty when there is none.
func UsrRootHash(commandLine string) string {
	hash := ""
	for _, word := range words(commandLine) {
		// systemd takes the last one.
		if value, ok := strings.CutPrefix(word, "usrhash="); ok {
			hash = strings.ToLower(value)
		}
	}
	if raw, err := hex.DecodeString(hash); err != nil || len(raw) != 32 {
		return ""
	}
	return hash
}

// words splits a kernel command line; double quotes keep spaces together.
func words(line string) []string {
	var list []string
	var word strings.Builder
	quoted, started := false, false
	for _, r := range line {
		switch {
		case r == '"':
			quoted, started = !quoted, true
		case unicode.IsSpace(r) && !quoted:
			if started {
				list = append(list, word.String())
			}
			word.Reset()
			started = false
		default:
			word.WriteRune(r)
			started = true
		}
	}
	if started {
		list = append(list, word.String())
	}
	return list
}
