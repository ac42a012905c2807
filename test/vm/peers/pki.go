package peers

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"time"
)

// Authority signs the certificates of servers.
type Authority struct {
	// PEM is its own certificate.
	PEM  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// Identity is a server's certificate as PEM files.
type Identity struct{ Authority, Certificate, Key string }

// NewAuthority makes one that is valid around now.
func NewAuthority(name string, now time.Time) (Authority, error) {
	a := Authority{}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return a, fmt.Errorf("making the authority %s: %w", name, err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()), Subject: pkix.Name{CommonName: name}, NotBefore: now.Add(-24 * time.Hour),
		NotAfter: now.AddDate(1, 0, 0), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err == nil {
		a.cert, err = x509.ParseCertificate(der)
	}
	if err != nil {
		return a, fmt.Errorf("making the authority %s: %w", name, err)
	}
	a.key, a.PEM = key, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	return a, nil
}

// Issue makes a certificate for a host name, as files of the side.
func (a Authority) Issue(s *Side, host string, now time.Time) (Identity, error) {
	id := Identity{Authority: s.File(host + ".ca"), Certificate: s.File(host + ".crt"), Key: s.File(host + ".key")}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return id, fmt.Errorf("making the key of %s: %w", host, err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()), Subject: pkix.Name{CommonName: host}, DNSNames: []string{host},
		NotBefore: now.Add(-24 * time.Hour), NotAfter: now.AddDate(1, 0, 0), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		return id, fmt.Errorf("making the certificate of %s: %w", host, err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return id, fmt.Errorf("encoding the key of %s: %w", host, err)
	}
	for path, block := range map[string]*pem.Block{
		id.Certificate: {Type: "CERTIFICATE", Bytes: cert}, id.Key: {Type: "PRIVATE KEY", Bytes: private},
	} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			return id, fmt.Errorf("writing the certificate of %s: %w", host, err)
		}
	}
	if err := os.WriteFile(id.Authority, []byte(a.PEM), 0o600); err != nil {
		return id, fmt.Errorf("writing the authority of %s: %w", host, err)
	}
	return id, nil
}
