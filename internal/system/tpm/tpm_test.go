package tpm_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/holdfast-os/holdfast/internal/system/tpm"
)

// machine makes a /sys with a TPM at a place in the device tree.
func machine(t *testing.T, place string, files map[string]string) tpm.Host {
	t.Helper()
	root := t.TempDir()
	dir := filepath.Join(root, "sys/devices", place, "tpm/tpm0")
	for _, d := range []string{filepath.Join(dir, "pcr-sha256"), filepath.Join(root, "sys/class/tpm")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("../../devices/"+place+"/tpm/tpm0", filepath.Join(root, "sys/class/tpm/tpm0")); err != nil {
		t.Fatal(err)
	}
	return tpm.Host{Root: root}
}

// An emulator on the same disk protects nothing; the node must say so.
func TestKind_DeviceTree_TellsTheEmulatorFromTheChip(t *testing.T) {
	for place, want := range map[string]tpm.Kind{
		"platform/MSFT0101:00": tpm.Hardware, "pnp0/00:05": tpm.Hardware, "virtual": tpm.Software,
	} {
		got, err := machine(t, place, nil).Kind()
		if err != nil || got != want {
			t.Errorf("%s: got %q, %v; want %q", place, got, err, want)
		}
	}
	if got, err := (tpm.Host{Root: t.TempDir()}).Kind(); err != nil || got != tpm.None {
		t.Errorf("no device: got %q, %v", got, err)
	}
}

func TestVersion_Machine_IsTheMajorNumber(t *testing.T) {
	got, err := machine(t, "pnp0/00:05", map[string]string{"tpm_version_major": "2\n"}).Version()
	if err != nil || got != 2 {
		t.Errorf("got %d, %v", got, err)
	}
	if got, err := (tpm.Host{Root: t.TempDir()}).Version(); err != nil || got != 0 {
		t.Errorf("no device: got %d, %v", got, err)
	}
}

// The kernel writes upper case; a value that is cut short must not pass for one.
func TestPCR_Files_GiveWholeValuesAlone(t *testing.T) {
	host := machine(t, "pnp0/00:05", map[string]string{
		"pcr-sha256/7": strings.Repeat("A1", 32) + "\n", "pcr-sha256/8": "A1\n", "pcr-sha256/9": strings.Repeat("G1", 32),
		"pcr-sha256/10": strings.Repeat("A1", 33),
	})
	got, err := host.PCR(7)
	if err != nil || got[0] != 0xa1 || got[31] != 0xa1 {
		t.Errorf("got %x, %v", got, err)
	}
	for number, want := range map[int]string{
		8: `reading PCR 8: "A1" is not a SHA-256 value`, 24: "reading PCR 24: a bank has PCRs 0 to 23",
		9:  `reading PCR 9: "` + strings.Repeat("G1", 32) + `" is not a SHA-256 value`,
		10: `reading PCR 10: "` + strings.Repeat("A1", 33) + `" is not a SHA-256 value`,
	} {
		if _, err := host.PCR(number); err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}
