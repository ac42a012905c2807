//go:build linux

package host

import (
	"bytes"
	"errors"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/internal/release"
	"github.com/holdfast-os/holdfast/internal/sign"
	"github.com/holdfast-os/holdfast/test/needs"
)

// newSigner has openssl make a key and its certificate.
func newSigner(t *testing.T) (sign.OpenSSL, []byte) {
	t.Helper()
	dir := t.TempDir()
	signer := sign.OpenSSL{Key: filepath.Join(dir, "update.key"), Certificate: filepath.Join(dir, "update.crt")}
	out, err := exec.Command("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-sha256", "-days", "2",
		"-subj", "/O=Holdfast development/CN=Holdfast update", "-keyout", signer.Key, "-out", signer.Certificate).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	certificate, err := os.ReadFile(signer.Certificate)
	if err != nil {
		t.Fatal(err)
	}
	return signer, certificate
}

// What a publisher signs with openssl is what a node accepts and unpacks, file by
// file; and nobody else's signature will do.
func TestRelease_SignedByOpenSSL_EveryFileArrivesAsItWasBuilt(t *testing.T) {
	needs.Programs(t, "openssl")
	const uuid = "11111111-2222-3333-4444-555555555555"
	prefix := "Holdfast_" + installVersion
	built := map[string][]byte{
		prefix + ".efi":                                    bytes.Repeat([]byte("kernel"), 1<<16),
		prefix + ".usr-x86-64." + uuid + ".raw":            bytes.Repeat([]byte("usr."), 1<<18),
		prefix + ".usr-x86-64-verity." + uuid + ".raw":     bytes.Repeat([]byte("hash"), 1<<12),
		prefix + ".usr-x86-64-verity-sig." + uuid + ".raw": bytes.Repeat([]byte(`{"rootHash":"00"}`+"\n"), 64),
		prefix + ".manifest.json":                          []byte(`{"packages":[]}`),
		"incus.raw":                                        bytes.Repeat([]byte("incus..."), 1<<10),
	}
	dir, tree := t.TempDir(), filepath.Join(t.TempDir(), "tree")
	writeFile(t, filepath.Join(dir, "version"), installVersion+"\n")
	for name, data := range built {
		writeFile(t, filepath.Join(dir, name), string(data))
	}
	signer, certificate := newSigner(t)
	if _, err := release.Publish(t.Context(), release.PublishOptions{Tree: tree, BuildDir: dir, Signer: signer, Now: time.Now()}); err != nil {
		t.Fatal(err)
	}
	handler, err := release.Serve(tree)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(handler) // on 127.0.0.1
	t.Cleanup(func() {
		server.Close()
		if err := handler.Close(); err != nil {
			t.Error(err)
		}
	})

	source, err := release.NewSource(release.Options{ServerURL: server.URL, UpdateCA: certificate})
	if err != nil {
		t.Fatal(err)
	}
	update, err := source.Latest(t.Context(), "stable", "x86_64", "202601010000")
	if err != nil {
		t.Fatal(err)
	}
	got, target := map[string][]byte{}, filepath.Join(t.TempDir(), "file")
	for _, file := range update.Files {
		if err := source.Fetch(t.Context(), update, file, target, nil); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(target)
		if err != nil {
			t.Fatal(err)
		}
		name := filepath.Base(file.Filename)
		got[name[:len(name)-len(".gz")]] = data
	}
	if diff := cmp.Diff(built, got); diff != "" {
		t.Error(diff)
	}

	_, other := newSigner(t)
	stranger, err := release.NewSource(release.Options{ServerURL: server.URL, UpdateCA: other})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stranger.Latest(t.Context(), "stable", "x86_64", "202601010000"); !errors.Is(err, release.ErrUntrusted) {
		t.Errorf("with another update CA: got %v, want ErrUntrusted", err)
	}
}
