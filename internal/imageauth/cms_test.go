package imageauth

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"math/big"
	"testing"
	"time"

	"github.com/smallstep/pkcs7"
)

// The lengths around a block of the cipher are where padding goes wrong.
func TestEncrypt_EachLength_IsReadBySomebodyElsesCode(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1 << 40), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	for _, length := range []int{1, 15, 16, 17, 31, 32, 1000} {
		text := bytes.Repeat([]byte("x"), length)
		envelope, err := encrypt(text, certificate, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		parsed, err := pkcs7.Parse(envelope)
		if err != nil {
			t.Fatal(err)
		}
		got, err := parsed.Decrypt(certificate, key)
		if err != nil || !bytes.Equal(got, text) {
			t.Errorf("%d bytes: got %d, %v", length, len(got), err)
		}
	}
	if _, err := encrypt([]byte("x"), certificate, bytes.NewReader(make([]byte, 40))); err == nil {
		t.Error("it went on without random bytes")
	}
}
