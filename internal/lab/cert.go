package lab

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"time"
)

// clientCert gives the PEM of the lab's client certificate, and makes it and its
// key at the first call: ECDSA P-384, ten years.
func clientCert(d dir) ([]byte, error) {
	cert, err := os.ReadFile(d.file("client.crt"))
	if err == nil {
		if _, err = os.Stat(d.file("client.key")); err == nil {
			return cert, nil
		}
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("reading the client certificate: %w", err)
	}
	certPEM, keyPEM, err := NewClientCert(time.Now())
	if err != nil {
		return nil, fmt.Errorf("making the client certificate: %w", err)
	}
	if err := writeFile(d.file("client.key"), keyPEM); err != nil {
		return nil, err
	}
	return certPEM, writeFile(d.file("client.crt"), certPEM)
}

// NewClientCert makes a certificate for a client and its key, both PEM: ECDSA P-384, ten years.
func NewClientCert(now time.Time) (certPEM, keyPEM []byte, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: "lab", Organization: []string{"Holdfast lab"}},
		// A guest restored from a snapshot lives in the past for a while.
		NotBefore:             now.Add(-24 * time.Hour),
		NotAfter:              now.AddDate(10, 0, 0),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, nil, err
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, err
	}
	certPEM = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return certPEM, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}), nil
}
