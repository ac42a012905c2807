package release_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io/fs"
	"math/big"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/smallstep/pkcs7"

	api "github.com/holdfast-os/holdfast/api/release"
	"github.com/holdfast-os/holdfast/internal/release"
)

// identity is a certificate with its key, and the certificate that issued it.
type identity struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
	parents     []*x509.Certificate
}

func newIdentity(t *testing.T, name string, parent *identity) *identity {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	issuer, issuerKey := template, key
	if parent != nil {
		issuer, issuerKey = parent.certificate, parent.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, issuer, key.Public(), issuerKey)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	out := &identity{certificate: certificate, key: key}
	if parent != nil {
		out.parents = []*x509.Certificate{parent.certificate}
	}
	return out
}

func (i *identity) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: i.certificate.Raw})
}

// SignSMIME signs as `openssl smime -sign -text` does.
func (i *identity) SignSMIME(_ context.Context, data []byte) ([]byte, error) {
	return smimeOf(data, i)
}

func smimeOf(data []byte, signers ...*identity) ([]byte, error) {
	content := append([]byte("Content-Type: text/plain\r\n\r\n"), bytes.ReplaceAll(data, []byte("\n"), []byte("\r\n"))...)
	signed, err := pkcs7.NewSignedData(content)
	if err != nil {
		return nil, err
	}
	signed.SetDigestAlgorithm(pkcs7.OIDDigestAlgorithmSHA256)
	for _, s := range signers {
		if err := signed.AddSignerChain(s.certificate, s.key, s.parents, pkcs7.SignerInfoConfig{}); err != nil {
			return nil, err
		}
	}
	signed.Detach()
	der, err := signed.Finish()
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	out.WriteString("MIME-Version: 1.0\nContent-Type: multipart/signed; protocol=\"application/x-pkcs7-signature\"; micalg=\"sha-256\"; boundary=\"----B0\"\n\n")
	fmt.Fprintf(&out, "This is an S/MIME signed message\n\n------B0\n%s\n------B0\n", content)
	out.WriteString("Content-Type: application/x-pkcs7-signature; name=\"smime.p7s\"\nContent-Transfer-Encoding: base64\n\n")
	fmt.Fprintf(&out, "%s\n\n------B0--\n\n", base64.StdEncoding.EncodeToString(der))
	return out.Bytes(), nil
}

const (
	uuidA = "11111111-2222-3333-4444-555555555555"
	v1    = "202611220104"
	v2    = "202611230104"
)

// writeBuild makes a small build directory.
func writeBuild(t *testing.T, version string) string {
	t.Helper()
	dir := t.TempDir()
	usr := append(bytes.Repeat([]byte("usr "+version), 1000), make([]byte, 1<<20)...)
	prefix := "Holdfast_" + version
	for name, data := range map[string][]byte{
		"version":                                []byte(version + "\n"),
		prefix + ".efi":                          []byte("kernel"),
		prefix + ".usr-x86-64." + uuidA + ".raw": usr,
		prefix + ".usr-x86-64-verity." + uuidA + ".raw":     append([]byte("tree"), make([]byte, 8192)...),
		prefix + ".usr-x86-64-verity-sig." + uuidA + ".raw": []byte("signature"),
		prefix + ".raw":           []byte("medium"),
		prefix + ".manifest.json": []byte("{}"),
		"incus.raw":               []byte("application"),
		"build.log":               []byte("not published"),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func publish(t *testing.T, tree, version string, signer release.Signer) api.Update {
	t.Helper()
	update, err := release.Publish(t.Context(), release.PublishOptions{
		Tree: tree, BuildDir: writeBuild(t, version), Signer: signer,
		Now: time.Date(2026, 11, 22, 1, 4, 5, 6, time.UTC),
	})
	if err != nil {
		t.Fatal(err)
	}
	return update
}

// snapshot is every file of a directory with its content.
func snapshot(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		name, _ := filepath.Rel(dir, path)
		out[name] = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func serve(t *testing.T, tree string) string {
	t.Helper()
	handler, err := release.Serve(tree)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(handler)
	t.Cleanup(func() {
		server.Close()
		if err := handler.Close(); err != nil {
			t.Error(err)
		}
	})
	return server.URL
}

func newSource(t *testing.T, url string, ca []byte, limits release.Limits) *release.Source {
	t.Helper()
	source, err := release.NewSource(release.Options{ServerURL: url, UpdateCA: ca, Limits: limits})
	if err != nil {
		t.Fatal(err)
	}
	return source
}

func gz(data []byte) []byte {
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write(data); err != nil {
		panic(err)
	}
	if err := w.Close(); err != nil {
		panic(err)
	}
	return out.Bytes()
}

func sumOf(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

func jsonOf(v any) []byte {
	out, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return out
}

// What a publisher releases is what a node gets: the whole way through a real server.
func TestSource_PublishedTree_GivesTheNewestReleaseAndItsFiles(t *testing.T) {
	signer, tree := newIdentity(t, "update", nil), filepath.Join(t.TempDir(), "tree")
	publish(t, tree, v1, signer)
	publish(t, tree, v2, signer)
	source := newSource(t, serve(t, tree), signer.pem(), release.Limits{})

	update, err := source.Latest(t.Context(), "stable", "x86_64", v1)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range update.Files {
		names = append(names, string(f.Component)+" "+string(f.Type)+" "+f.Filename)
	}
	prefix := "x86_64/Holdfast_202611230104."
	want := []string{
		"os update-efi " + prefix + "efi.gz",
		"os image-manifest " + prefix + "manifest.json.gz",
		"os update-usr-verity-signature " + prefix + "usr-x86-64-verity-sig." + uuidA + ".raw.gz",
		"os update-usr-verity " + prefix + "usr-x86-64-verity." + uuidA + ".raw.gz",
		"os update-usr " + prefix + "usr-x86-64." + uuidA + ".raw.gz",
		"incus application x86_64/incus.raw.gz",
	}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Error(diff)
	}

	dst, last := filepath.Join(t.TempDir(), "usr.raw"), int64(0)
	if err := source.Fetch(t.Context(), update, update.Files[4], dst, func(done, _ int64) { last = done }); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(dst)
	if err != nil {
		t.Fatal(err)
	}
	// 16000 bytes of content, a megabyte of padding: cut at the next 4096.
	if len(data) != 16384 || !bytes.HasPrefix(data, []byte("usr 202611230104usr 2026")) || last != update.Files[4].Size {
		t.Errorf("got %d bytes beginning %q, last progress %d", len(data), data[:24], last)
	}
	if info, err := os.Stat(dst); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

// A publisher who repeats a step after a doubt must not change what nodes may have
// read already, not even a signature.
func TestPublish_Twice_ChangesNoByte(t *testing.T) {
	signer, tree := newIdentity(t, "update", nil), t.TempDir()
	publish(t, tree, v1, signer)
	before := snapshot(t, tree)
	publish(t, tree, v1, signer)
	if diff := cmp.Diff(before, snapshot(t, tree)); diff != "" {
		t.Error(diff)
	}
}

// A version that changes its content would leave nodes that say the same and are not.
func TestPublish_OtherContentUnderSameVersion_Refuses(t *testing.T) {
	signer, tree := newIdentity(t, "update", nil), t.TempDir()
	publish(t, tree, v1, signer)
	before := snapshot(t, tree)
	build := writeBuild(t, v1)
	if err := os.WriteFile(filepath.Join(build, "incus.raw"), []byte("other"), 0o644); err != nil {
		t.Fatal(err)
	}
	_, err := release.Publish(t.Context(), release.PublishOptions{Tree: tree, BuildDir: build, Signer: signer})
	checkErr(t, err, release.ErrPublished)
	if diff := cmp.Diff(before, snapshot(t, tree)); diff != "" {
		t.Error(diff)
	}
}

// A release moves from "testing" to "stable" by being published again, and the
// install medium can follow later.
func TestPublish_AgainWithMore_AddsChannelAndMedium(t *testing.T) {
	signer, tree, build := newIdentity(t, "update", nil), t.TempDir(), writeBuild(t, v1)
	options := release.PublishOptions{Tree: tree, BuildDir: build, Signer: signer, Channels: []string{"testing"}}
	if _, err := release.Publish(t.Context(), options); err != nil {
		t.Fatal(err)
	}
	options.Channels, options.IncludeMedium = []string{"stable"}, true
	update, err := release.Publish(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"stable", "testing"}, update.Channels); diff != "" {
		t.Error(diff)
	}
	if _, err := os.Stat(filepath.Join(tree, v1, "x86_64", "Holdfast_202611220104.img.gz")); err != nil {
		t.Error(err)
	}
}

// A cut publication must not show half a release, and must not stop the next one.
func TestPublish_SignerFails_LeavesTheOldIndexAndNoRest(t *testing.T) {
	signer, tree := newIdentity(t, "update", nil), t.TempDir()
	publish(t, tree, v1, signer)
	before := snapshot(t, tree)
	if err := os.Mkdir(filepath.Join(tree, ".new-cut"), 0o700); err != nil {
		t.Fatal(err)
	}
	_, err := release.Publish(t.Context(), release.PublishOptions{Tree: tree, BuildDir: writeBuild(t, v2), Signer: brokenSigner{}})
	checkErr(t, err, errToken)
	if diff := cmp.Diff(before, snapshot(t, tree)); diff != "" {
		t.Error(diff)
	}
	if _, err := os.Stat(filepath.Join(tree, ".new-cut")); !os.IsNotExist(err) {
		t.Errorf("the rest is still there: %v", err)
	}
}
