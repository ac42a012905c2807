package release_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	api "github.com/holdfast-os/holdfast/api/release"
	"github.com/holdfast-os/holdfast/internal/release"
	"github.com/holdfast-os/holdfast/internal/secureboot"
)

// keyArchive is an archive with one certificate for db, plain.
func keyArchive(t *testing.T) []byte {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "next"}, NotBefore: published, NotAfter: published.AddDate(1, 0, 0)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	auth, err := secureboot.Sign(secureboot.Signer{Key: key, Certificate: certificate}, secureboot.DB, [16]byte{}, der, published)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: auth.File, Mode: 0o600, Size: int64(len(auth.Raw))}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(auth.Raw); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func keyFile(t *testing.T, data []byte) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "keys.tar")
	if err := os.WriteFile(name, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func gzipped(t *testing.T, data []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	w.Name = "a name that must not matter"
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// The firmware's next keys come with a release: where foreign clients look for them, and in
// the manifest of each architecture, which alone a node believes.
func TestPublish_SecureBootKeys_AreAFileOfEveryArchitecture(t *testing.T) {
	signer, tree, archive := newIdentity(t, "update", nil), t.TempDir(), keyArchive(t)
	o := options(tree, writeBuild(t, v1), signer)
	o.SecureBootKeys = keyFile(t, archive)
	mustPublish(t, o)
	before := snapshot(t, tree)
	o.SecureBootKeys = keyFile(t, gzipped(t, archive)) // the same keys, packed by somebody else
	mustPublish(t, o)
	if diff := cmp.Diff(before, snapshot(t, tree)); diff != "" {
		t.Error(diff)
	}
	var listed []api.File
	index, err := release.List(tree)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range index.Updates[0].Files {
		if f.Type == api.TypeUpdateSecureBoot {
			f.Size, f.SHA256 = 0, ""
			listed = append(listed, f)
		}
	}
	if diff := cmp.Diff([]api.File{{Component: api.ComponentOS, Filename: "SecureBootKeys_" + v1 + ".tar.gz", Type: api.TypeUpdateSecureBoot}}, listed); diff != "" {
		t.Error(diff)
	}
	if got := unpack(t, filepath.Join(tree, v1, "SecureBootKeys_"+v1+".tar.gz")); !bytes.Equal(got, archive) {
		t.Error("the file has other content")
	}
	var parts []api.Part
	for _, p := range readManifest(t, tree, v1).Parts {
		if p.Type == api.TypeUpdateSecureBoot {
			p.Full.Size, p.Full.SHA256 = 0, ""
			parts = append(parts, p)
		}
	}
	want := []api.Part{{Name: "SecureBootKeys_" + v1 + ".tar", Component: api.ComponentOS, Type: api.TypeUpdateSecureBoot,
		Size: int64(len(archive)), SHA256: sumOf(archive), Full: api.Blob{Path: v1 + "/SecureBootKeys_" + v1 + ".tar.gz"}}}
	if diff := cmp.Diff(want, parts); diff != "" {
		t.Error(diff)
	}
	if report := verifyTree(t, tree, signer); len(report.Problems)+len(report.Unnamed) > 0 {
		t.Errorf("%v, %v", report.Problems, report.Unnamed)
	}
}

// What no node would read is not published.
func TestPublish_NoArchiveOfKeys_IsRefused(t *testing.T) {
	signer := newIdentity(t, "update", nil)
	empty := bytes.Repeat([]byte{0}, 10240)
	for name, data := range map[string][]byte{"text": []byte("no archive"), "nothing in it": empty, "bomb": gzipped(t, make([]byte, 8<<20))} {
		tree := t.TempDir()
		o := options(tree, writeBuild(t, v1), signer)
		o.SecureBootKeys = keyFile(t, data)
		if _, err := release.Publish(t.Context(), o); err == nil {
			t.Errorf("%s: published", name)
		}
		if left := snapshot(t, tree); len(left) > 0 {
			t.Errorf("%s: left %v", name, left)
		}
	}
}

// Nodes take one manifest with one list of parts for a version. What comes later is refused
// before anything of the tree has changed, and a new version is the way on.
func TestPublish_PartsFollowLater_RefusesAndChangesNoByte(t *testing.T) {
	signer, tree, build := newIdentity(t, "update", nil), t.TempDir(), writeBuild(t, v1)
	o := options(tree, build, signer)
	mustPublish(t, o)
	before := snapshot(t, tree)

	withKeys := o
	withKeys.SecureBootKeys = keyFile(t, keyArchive(t))
	_, err := release.Publish(t.Context(), withKeys)
	checkErr(t, err, release.ErrPublished)

	if err := os.WriteFile(filepath.Join(build, "debug.raw"), []byte("one more application"), 0o644); err != nil {
		t.Fatal(err)
	}
	_, err = release.Publish(t.Context(), o)
	checkErr(t, err, release.ErrPublished)
	if diff := cmp.Diff(before, snapshot(t, tree)); diff != "" {
		t.Error(diff)
	}
	if err := os.Remove(filepath.Join(build, "debug.raw")); err != nil {
		t.Fatal(err)
	}
	mustPublish(t, o) // identical: nothing to complain about
	if diff := cmp.Diff(before, snapshot(t, tree)); diff != "" {
		t.Error(diff)
	}
}
