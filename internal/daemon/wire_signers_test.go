package daemon

import (
	"encoding/pem"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Without Secure Boot the firmware tells of nobody, and Incus would never be taken.
func TestTrustOwn_CertificateOfTheImage_IsTakenAndToldToSystemd(t *testing.T) {
	dir := t.TempDir()
	from, to := filepath.Join(dir, "secureboot.crt"), filepath.Join(dir, "verity.d/holdfast.crt")
	if list, err := trustOwn(from, to); list != nil || err != nil {
		t.Errorf("without a file: %v, %v", list, err)
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("der")})
	if err := os.WriteFile(from, text, 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 { // at each merge
		list, err := trustOwn(from, to)
		if diff := cmp.Diff([][]byte{[]byte("der")}, list); diff != "" || err != nil {
			t.Errorf("%v\n%s", err, diff)
		}
	}
	if told, err := os.ReadFile(to); err != nil || string(told) != string(text) {
		t.Errorf("systemd was told %q, %v", told, err)
	}
	if err := os.WriteFile(from, []byte("nobody"), 0o600); err != nil {
		t.Fatal(err)
	}
	if list, err := trustOwn(from, to); err == nil {
		t.Errorf("got %v", list)
	}
}
