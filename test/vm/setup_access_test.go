package vm

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-os/holdfast/internal/lab"
	"github.com/holdfast-os/holdfast/internal/system/run"
)

// Every client certificate that a node trusts is lost. The script of the documentation, signed
// with the image's key and on a rescue medium, lets a new one in; one that nobody signed for
// stays outside.
func TestRecovery_LostClientCertificate_ASignedScriptLetsANewOneIn(t *testing.T) {
	slow(t)
	longOnly(t)
	name := baseName + "-access"
	n := clone(t, name, lab.Hardware{DiskGiB: []int{lab.DefaultDiskGiB, stickGiB}})
	lost, fresh := newCertificate(t), newCertificate(t)
	makeScriptMedium(t, n.file("disk1.raw"), fresh+".crt")

	n.powerOn(t)
	want := "/1.0 trusted, /os/1.0 answers"
	var got string
	until(t, 2*bootLimit, "waiting until the node takes the new certificate", func(ctx context.Context) (bool, error) {
		if ok, err := n.ready(ctx); !ok || err != nil {
			return false, err
		}
		got = n.asks(t, fresh+".crt", fresh+".key")
		return got == want, errors.New(got)
	})
	if got := n.asks(t, lost+".crt", lost+".key"); got != "/1.0 untrusted, /os/1.0 refuses with 403" {
		t.Errorf("a certificate that nobody signed for gets: %s", got)
	}
}

// newCertificate makes a client certificate, and gives its file without .crt and .key.
func newCertificate(t *testing.T) string {
	t.Helper()
	cert, key, err := lab.NewClientCert(time.Now())
	file := filepath.Join(t.TempDir(), "client")
	if err := errors.Join(err, os.WriteFile(file+".crt", cert, 0o600), os.WriteFile(file+".key", key, 0o600)); err != nil {
		t.Fatal(err)
	}
	return file
}

// makeScriptMedium does what the documentation says, with its own script.
func makeScriptMedium(t *testing.T, disk, certificate string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	page, err := os.ReadFile(filepath.Join(machines.root, "docs/how-to/regain-access.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, script, found := strings.Cut(string(page), "```bash\n")
	script, _, ended := strings.Cut(script, "```\n")
	cert, err := os.ReadFile(certificate)
	if err != nil || !found || !ended {
		t.Fatalf("the page has no script for bash, or there is no certificate: %v", err)
	}
	begin, end := strings.Index(script, "-----BEGIN"), strings.Index(script, "END\nsystemd-run")
	if begin < 0 || end < begin {
		t.Fatal("the script of the page has no place for the certificate")
	}
	dir := t.TempDir()
	plain, signed := filepath.Join(dir, "trust-client.sh"), filepath.Join(dir, "hotfix.sh.sig")
	if err := os.WriteFile(plain, []byte(script[:begin]+string(cert)+script[end:]), 0o600); err != nil {
		t.Fatal(err)
	}
	keys := filepath.Join(machines.root, ".keys")
	for _, c := range []run.Command{
		{Name: "openssl", Args: []string{"smime", "-sign", "-text", "-in", plain,
			"-signer", filepath.Join(keys, "update.crt"), "-inkey", filepath.Join(keys, "update.key"), "-out", signed}},
		machines.tools.Command("mformat", "-i", disk, "-F", "-v", "RESCUE_DATA", "::"),
		machines.tools.Command("mcopy", "-i", disk, signed, "::"),
	} {
		if _, err := run.Host(ctx, c); err != nil {
			t.Fatal(err)
		}
	}
}
