package secureboot_test

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-os/holdfast/internal/secureboot"
)

var owner = [16]byte{15: 1}

var now = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// keyring are keys of one machine: the platform key, the exchange key, the key that signs
// releases, the next one, and one of somebody else.
type keyring map[string]secureboot.Signer

var keys = sync.OnceValue(func() keyring {
	ring := keyring{}
	for i, name := range []string{"PK", "KEK", "release", "next", "stranger", "leaf"} {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			panic(err)
		}
		template := &x509.Certificate{
			SerialNumber: big.NewInt(int64(i) + 1), Subject: pkix.Name{CommonName: name},
			NotBefore: now.AddDate(-1, 0, 0), NotAfter: now.AddDate(1, 0, 0), BasicConstraintsValid: true, IsCA: true,
		}
		// "leaf" is vouched for by the release key, all others by themselves.
		parent, by := template, secureboot.Signer{Key: key}
		if name == "leaf" {
			parent, by = ring["release"].Certificate, ring["release"]
		}
		der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), by.Key)
		if err != nil {
			panic(err)
		}
		c, err := x509.ParseCertificate(der)
		if err != nil {
			panic(err)
		}
		ring[name] = secureboot.Signer{Key: key, Certificate: c}
	}
	return ring
})

func der(name string) []byte { return keys()[name].Certificate.Raw }

func entry(name string) secureboot.Entry {
	return secureboot.Entry{Kind: secureboot.X509, Owner: owner, Data: der(name)}
}

func content(names ...string) []byte {
	var d secureboot.Database
	for _, n := range names {
		d = append(d, entry(n))
	}
	return d.Encode()
}

// update is the file that adds a certificate, signed by a key.
func update(t *testing.T, by string, variable secureboot.Name, certificate string) secureboot.Auth {
	t.Helper()
	auth, err := secureboot.Sign(keys()[by], variable, owner, der(certificate), now)
	if err != nil {
		t.Fatal(err)
	}
	return auth
}

func signedBy(names ...string) secureboot.Image {
	image := secureboot.Image{Name: "slot A", SHA256: [32]byte{1, 2, 3}}
	for _, n := range names {
		image.Signatures = append(image.Signatures, [][]byte{der(n)})
	}
	return image
}

// tbs is an entry of dbx that revokes a certificate by the hash of its signed part, at a time.
func tbs(name string) secureboot.Entry {
	sum := sha256.Sum256(keys()[name].Certificate.RawTBSCertificate)
	return secureboot.Entry{Kind: secureboot.X509SHA256, Owner: owner, Data: append(sum[:], make([]byte, 16)...)}
}
