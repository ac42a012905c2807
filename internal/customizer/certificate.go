package customizer

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/http"
)

// maxKeys bounds the keys that are made at a time.
const maxKeys = 4

// clientCertificate is the answer of GET /1.0/certificate.
type clientCertificate struct {
	// Certificate is PEM.
	Certificate string `json:"certificate"`
	// Key is its private key, PEM (PKCS #8). Nobody keeps it here.
	Key string `json:"key"`
	// PFX is both as PKCS #12 in base64, without a password; empty when this computer has no
	// program to make one.
	PFX string `json:"pfx"`
}

// certificate makes a client certificate for those whose browser cannot. The page makes its
// own, whose key never leaves the browser.
func (s *Service) certificate(w http.ResponseWriter, r *http.Request) error {
	select {
	case s.keys <- struct{}{}:
		defer func() { <-s.keys }()
	default:
		return coded(http.StatusServiceUnavailable, errors.New("too many certificates at the moment: try again"))
	}
	made, err := s.makeCertificate()
	if err != nil {
		return fmt.Errorf("making a client certificate: %w", err)
	}
	if s.o.PKCS12 != nil {
		packed, err := s.o.PKCS12(r.Context(), []byte(made.Certificate), []byte(made.Key))
		if err != nil {
			s.o.Log.Warn("a certificate goes out without PKCS #12", "error", err)
		}
		made.PFX = base64.StdEncoding.EncodeToString(packed)
	}
	return answer(w, made)
}

func (s *Service) makeCertificate() (clientCertificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		return clientCertificate{}, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return clientCertificate{}, err
	}
	now := s.o.Now()
	template := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{Organization: []string{"Holdfast"}, CommonName: "Holdfast client certificate"},
		NotBefore:    now,
		NotAfter:     now.AddDate(10, 0, 0),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return clientCertificate{}, err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return clientCertificate{}, err
	}
	return clientCertificate{
		Certificate: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		Key:         string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})),
	}, nil
}
