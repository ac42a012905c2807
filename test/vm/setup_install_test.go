package vm

import (
	"os"
	"testing"
	"time"

	"github.com/holdfast-os/holdfast/internal/lab"
)

// installName is the machine of the tests that install.
func installName() string { return baseName + "-install" }

// installLimit bounds an installation, the firmware's part included.
const installLimit = 20 * time.Minute

// startMedium starts a new machine from the install medium.
func startMedium(t *testing.T, hardware lab.Hardware, seed map[string]any) *node {
	t.Helper()
	t.Cleanup(func() { removeClone(t, installName()) })
	restore(t, lab.Options{Name: installName(), Hardware: hardware, Seed: seed, Fresh: true, NoWait: true, NoSnapshot: true})
	return watched(t, newNode(t, installName()))
}

// A machine that cannot be installed on must say why on its console, all at once and
// with the way on, and its disk must be left alone: there is no other way to see what
// is wrong with a machine in a rack.
func TestInstall_Refusals(t *testing.T) {
	slow(t)
	install := func(fields map[string]any) map[string]any {
		fields["version"] = "1"
		return map[string]any{"install": fields}
	}
	for _, c := range []struct {
		name     string
		long     bool
		hardware lab.Hardware
		seed     map[string]any
		says     []string
	}{
		{name: "no TPM", long: true, hardware: lab.Hardware{NoTPM: true}, says: []string{"TPM", "no TPM"}},
		{name: "disk too small", long: true, hardware: lab.Hardware{DiskGiB: []int{10}}, says: []string{"10 GiB", "20 GiB"}},
		{name: "two disks", hardware: lab.Hardware{DiskGiB: []int{20, 20}}, says: []string{"several disks", "target"}},
		{name: "no disk fits the target", long: true, seed: install(map[string]any{"target": map[string]any{"id": "nothing-like-it"}}), says: []string{"no disk meets"}},
		{name: "without a TPM that is there", long: true, seed: install(map[string]any{"security": map[string]any{"missing_tpm": true}}), says: []string{"missing_tpm", "the machine has a TPM"}},
		{name: "without both, asked for", long: true, seed: install(map[string]any{"security": map[string]any{"missing_tpm": true, "missing_secure_boot": true}}), says: []string{"leave nothing to trust"}},
		{name: "no Secure Boot", long: true, hardware: lab.Hardware{NoSecureBoot: true}, says: []string{"Secure Boot", "missing_secure_boot"}},
		{name: "neither TPM nor Secure Boot", long: true, hardware: lab.Hardware{NoSecureBoot: true, NoTPM: true}, says: []string{"neither a TPM 2.0 nor Secure Boot"}},
		{name: "no application", long: true, seed: map[string]any{"applications": map[string]any{"version": "1", "applications": []any{}}}, says: []string{"at least one application"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.long {
				longOnly(t)
			}
			n := startMedium(t, c.hardware, c.seed)
			n.saysOnSerial(t, 0, installLimit, c.says...)
			expectEmptyDisk(t, n.disk())
		})
	}
}

// expectEmptyDisk fails if the disk got a partition table.
func expectEmptyDisk(t *testing.T, path string) {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	header := make([]byte, 8)
	if _, err := file.ReadAt(header, 512); err != nil {
		t.Fatal(err)
	}
	if string(header) == "EFI PART" {
		t.Error("the disk has a partition table: it was written to")
	}
}

// Who forgets the medium in the machine must not lose the node: it says so and
// installs nothing a second time.
func TestInstall_MediumLeftIn_SaysSo(t *testing.T) {
	slow(t)
	longOnly(t)
	n := startMedium(t, lab.Hardware{MediumFirst: true}, nil)
	n.saysOnSerial(t, 0, installLimit, "already installed", "remove the medium")
}
