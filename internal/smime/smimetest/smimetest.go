// Package smimetest signs texts in tests, in the form that package smime reads.
package smimetest

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"fmt"
	"math/big"
	"testing"
	"time"

	"github.com/smallstep/pkcs7"
)

// Signer is somebody with a key and a certificate of their own making.
type Signer struct {
	// Certificate is an anchor for what is signed.
	Certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

// New makes a signer whose certificate is valid from 20 years before now to 80 after it.
func New(tb testing.TB, name string, now time.Time) Signer {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: now.AddDate(-20, 0, 0), NotAfter: now.AddDate(80, 0, 0)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		tb.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		tb.Fatal(err)
	}
	return Signer{certificate, key}
}

// Sign signs a text as `openssl smime -sign -text` does.
func (s Signer) Sign(tb testing.TB, text string) []byte {
	tb.Helper()
	content := append([]byte("Content-Type: text/plain\r\n\r\n"), bytes.ReplaceAll([]byte(text), []byte("\n"), []byte("\r\n"))...)
	signed, err := pkcs7.NewSignedData(content)
	if err != nil {
		tb.Fatal(err)
	}
	signed.SetDigestAlgorithm(pkcs7.OIDDigestAlgorithmSHA256)
	if err := signed.AddSigner(s.Certificate, s.key, pkcs7.SignerInfoConfig{}); err != nil {
		tb.Fatal(err)
	}
	signed.Detach()
	der, err := signed.Finish()
	if err != nil {
		tb.Fatal(err)
	}
	var out bytes.Buffer
	out.WriteString("MIME-Version: 1.0\nContent-Type: multipart/signed; protocol=\"application/x-pkcs7-signature\"; micalg=\"sha-256\"; boundary=\"----B0\"\n\n")
	fmt.Fprintf(&out, "This is an S/MIME signed message\n\n------B0\n%s\n------B0\n", content)
	out.WriteString("Content-Type: application/x-pkcs7-signature; name=\"smime.p7s\"\nContent-Transfer-Encoding: base64\n\n")
	fmt.Fprintf(&out, "%s\n\n------B0--\n\n", base64.StdEncoding.EncodeToString(der))
	return out.Bytes()
}
