package daemon

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	osapi "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/config"
)

const pemCertificate = "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n"

// Whoever mistypes a provider learns of every mistake at once, and where it is.
func TestCheckProvider_Configurations_AllProblemsWithTheirPath(t *testing.T) {
	cases := map[string]struct {
		config osapi.ProviderConfig
		want   config.Problems
	}{
		"nothing yet": {osapi.ProviderConfig{Name: "images"}, nil},
		"complete": {osapi.ProviderConfig{Name: "images", Config: map[string]string{
			"server_url": "https://releases.example.org/os", "update_ca": pemCertificate}}, nil},
		"everything wrong": {osapi.ProviderConfig{Name: "debug", Config: map[string]string{
			"server_url": "releases", "update_ca": "none", "token": "x"}}, config.Problems{
			{Path: "name", Rule: "known", Text: `"debug" is not a provider of this release, which has "images"`},
			{Path: "config.token", Rule: "known", Text: `unknown, the provider "images" has server_url and update_ca`},
			{Path: "config.server_url", Rule: "url", Text: `it is not a URL, as "https://releases.example.org/os"`},
			{Path: "config.update_ca", Rule: "certificate", Text: "it is not a certificate in PEM form"},
		}},
		"half": {osapi.ProviderConfig{Name: "images", Config: map[string]string{"server_url": "https://a.example"}}, config.Problems{
			{Path: "config", Rule: "together", Text: "server_url and update_ca go together: set both or none"}}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, checkProvider(c.config)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// A server without a screen has a serial line, and a machine without either still starts.
func TestConsoleDevices_KernelConsoles_AreTheScreens(t *testing.T) {
	for text, want := range map[string][]string{
		"tty0 ttyS0\n": {"tty1", "ttyS0"},
		"ttyS0\n":      {"ttyS0", "tty1"},
		"hvc0 ../sda":  {"hvc0", "tty1"},
	} {
		root := t.TempDir()
		dir := filepath.Join(root, "sys/class/tty/console")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "active"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		got, err := consoleDevices(root)
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("%q: %v %s", text, err, diff)
		}
	}
	if got, err := consoleDevices(t.TempDir()); got != nil || err != nil {
		t.Errorf("without consoles: %q, %v", got, err)
	}
}

// The fingerprint on the screen is what an administrator compares by eye.
func TestCertificateFingerprint_FirstThatIsThere_IsItsSha256(t *testing.T) {
	path := filepath.Join(t.TempDir(), "server.crt")
	if err := os.WriteFile(path, []byte(pemCertificate), 0o600); err != nil {
		t.Fatal(err)
	}
	// printf '\060\000' | sha256sum
	const want = "e4f60d0aa6d7f3d3b6a6494b1c861b99f649c6f9ec51abaf201b20f297327c95"
	if got, err := certificateFingerprint(path+".missing", path); err != nil || got != want {
		t.Errorf("got %s, %v", got, err)
	}
	if got, err := certificateFingerprint(path + ".missing"); err != nil || got != "" {
		t.Errorf("without a certificate: %q, %v", got, err)
	}
}
