package recovery

import "errors"

// BindFacts are what the node knows about its TPM and how it was started.
type BindFacts struct {
	// TPM is true when there is a TPM 2.0.
	TPM bool
	// Node is false on an install medium, whose root is in memory.
	Node bool
	// OpenedByTPM is true when the TPM opened root at this start.
	OpenedByTPM bool
	// PolicyKey is true when the key of the signed PCR policy is there.
	PolicyKey bool
}

// Reasons not to bind the volumes anew.
var (
	ErrNoTPM       = errors.New("this machine has no TPM 2.0 to bind its volumes to: switch it on in the firmware's setup")
	ErrNoVolumes   = errors.New("this machine runs from an install medium: there are no volumes to bind")
	ErrTPMWorks    = errors.New("the TPM opened the root volume at this start, so its binding is in order; nothing was changed")
	ErrNotMeasured = errors.New("this release was not started as a signed kernel image, so there is no policy to bind to: start a signed release")
)

// CheckRebind tells whether the volumes may be bound to the TPM in its present state; an
// error says why not. Somebody who could bind them anew while the TPM works would take a
// changed machine for the right one.
func CheckRebind(f BindFacts) error {
	switch {
	case !f.Node:
		return ErrNoVolumes
	case !f.TPM:
		return ErrNoTPM
	case f.OpenedByTPM:
		return ErrTPMWorks
	case !f.PolicyKey:
		return ErrNotMeasured
	}
	return nil
}
