package daemon

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/internal/install"
)

// Somebody who switched Secure Boot off and opened the disk with the recovery key must
// find the API there; somebody whose TPM is gone must be told.
func TestNodeProblems_SecureBootOff_DoesNotKeepTheNodeDown(t *testing.T) {
	found := install.Problems{
		{Rule: "secure-boot", Where: "Secure Boot", What: "it is off", Do: "switch it on"},
		{Rule: "no-tpm", Where: "TPM", What: "there is none", Do: "switch it on"},
		{Rule: "setup-mode", Where: "Secure Boot", What: "the firmware has no keys", Do: "enrol them"},
	}
	want := []string{found[1].Error()}
	if diff := cmp.Diff(want, nodeProblems(found)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
