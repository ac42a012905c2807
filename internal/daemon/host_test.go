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
			"server_url": "releases", "update_ca": "none", "colour": "x"}}, config.Problems{
			{Path: "name", Rule: "known", Text: `"debug" is not a provider of this release, which has "images" and "operations-center"`},
			{Path: "config.colour", Rule: "known", Text: `unknown, the provider "images" has server_url, mirrors, metadata, update_root, update_ca, bandwidth_limit, token, authentication_by_query_param`},
			{Path: "config.server_url", Rule: "url", Text: `"releases" is not the URL of a release tree, as "https://releases.example.org/os"`},
			{Path: "config.update_ca", Rule: "certificate", Text: "it is not a certificate in PEM form"},
		}},
		"by trusted metadata": {osapi.ProviderConfig{Name: "images", Config: map[string]string{"server_url": "https://a.example",
			"mirrors": "https://b.example/os http://10.0.0.1:8080", "bandwidth_limit": "1048576"}}, nil},
		"by an index that nobody signs": {osapi.ProviderConfig{Name: "images", Config: map[string]string{"server_url": "https://a.example", "metadata": "index"}}, config.Problems{
			{Path: "config.update_ca", Rule: "required", Text: "a tree that is trusted by its index needs the certificate that has signed it"}}},
		"numbers and more that do not fit": {osapi.ProviderConfig{Name: "images", Config: map[string]string{"mirrors": "https://b.example",
			"bandwidth_limit": "fast", "update_root": "{", "metadata": "none"}}, config.Problems{
			{Path: "config.mirrors", Rule: "together", Text: "mirrors are more servers beside server_url, which is not set"},
			{Path: "config.metadata", Rule: "known", Text: `"none" is neither "tuf" nor "index"`},
			{Path: "config.update_root", Rule: "json", Text: "it is not a root document, which is JSON"},
			{Path: "config.bandwidth_limit", Rule: "number", Text: `"fast" is not a number of bytes a second, at least 1024`}}},
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
