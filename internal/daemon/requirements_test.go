package daemon

import (
	"strings"
	"testing"

	"github.com/holdfast-os/holdfast/internal/install"
)

// Whoever switched Secure Boot off, or whose TPM has died, and opened the disk with the
// recovery key must find the API there; a machine with neither is not started. The machines
// are judged by the installer's own rules, so that none can be renamed alone.
func TestNodeProblems_APartOfTheChainIsGone_DoesNotKeepTheNodeDown(t *testing.T) {
	whole := install.Machine{UEFI: true, SecureBoot: true, TPMPresent: true, TPMVersion: 2}
	for _, c := range []struct {
		name   string
		change func(*install.Machine)
		want   []string
	}{
		{"nothing", func(*install.Machine) {}, nil},
		{"the TPM", func(m *install.Machine) { m.TPMPresent, m.TPMVersion = false, 0 }, nil},
		{"Secure Boot", func(m *install.Machine) { m.SecureBoot = false }, nil},
		{"the keys", func(m *install.Machine) { m.SecureBoot, m.SetupMode = false, true }, nil},
		{"both", func(m *install.Machine) { m.SecureBoot, m.TPMPresent, m.TPMVersion = false, false, 0 }, []string{"neither a TPM 2.0 nor Secure Boot"}},
		{"the notes", func(m *install.Machine) { m.AuditMode = true }, []string{"audit mode"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			machine := whole
			c.change(&machine)
			_, found := install.Check(machine)
			got := nodeProblems(found)
			if len(got) != len(c.want) || len(got) == 1 && !strings.Contains(got[0], c.want[0]) {
				t.Errorf("%q keeps the node down, want %q", got, c.want)
			}
		})
	}
}
