package sign_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/holdfast-os/holdfast/internal/release"
	"github.com/holdfast-os/holdfast/internal/sign"
	"github.com/holdfast-os/holdfast/test/needs"
)

// The signature is made by openssl and checked by Go: both must mean the same bytes.
func TestSignSMIME_WithOpenSSL_IsVerifiedByTheNode(t *testing.T) {
	needs.Programs(t, "openssl")
	dir := t.TempDir()
	key, certificate := filepath.Join(dir, "key.pem"), filepath.Join(dir, "cert.pem")
	command := exec.Command("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", certificate, "-subj", "/CN=update", "-days", "2")
	if out, err := command.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	signer := sign.OpenSSL{Key: key, Certificate: certificate}
	for _, text := range []string{"{\n  \"a\": 1\n}\n", "no newline at the end", "\n\n"} {
		message, err := signer.SignSMIME(t.Context(), []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		ca, err := os.ReadFile(certificate)
		if err != nil {
			t.Fatal(err)
		}
		anchors, err := release.ParseCA(ca)
		if err != nil {
			t.Fatal(err)
		}
		got, err := release.Verify(message, anchors, time.Now())
		if err != nil || string(got) != text {
			t.Errorf("got %q, %v, want %q", got, err, text)
		}
		got, err = release.Verify(bytes.ReplaceAll(message, []byte("\r\n"), []byte("\n")), anchors, time.Now())
		if err != nil || string(got) != text {
			t.Errorf("after a text transfer: got %q, %v, want %q", got, err, text)
		}
	}
}
