package imageauth

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"io"
	"math/big"
)

// The shape is that of RFC 5652, section 6, as far as one recipient with an RSA key needs
// it, and what openssl smime -encrypt -aes-256-cbc writes. The library that reads CMS here
// keeps its choice of cipher in a global variable, and leaves out the NULL that RFC 3370
// asks for beside rsaEncryption.

var (
	oidData      = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 1}
	oidEnveloped = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 3}
	oidRSA       = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 1}
	oidAES256CBC = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 1, 42}
)

type contentInfo struct {
	ContentType asn1.ObjectIdentifier
	Content     envelopedData `asn1:"explicit,tag:0"`
}

type envelopedData struct {
	Version    int
	Recipients []recipient `asn1:"set"`
	Encrypted  encryptedContent
}

type recipient struct {
	Version    int
	Who        issuerAndSerial
	Algorithm  pkix.AlgorithmIdentifier
	WrappedKey []byte
}

type issuerAndSerial struct {
	Issuer asn1.RawValue
	Serial *big.Int
}

type encryptedContent struct {
	ContentType asn1.ObjectIdentifier
	Algorithm   pkix.AlgorithmIdentifier
	Content     []byte `asn1:"tag:0"`
}

// encrypt gives the DER of an envelope that only the owner of the certificate can open.
func encrypt(text []byte, to *x509.Certificate, random io.Reader) ([]byte, error) {
	public, ok := to.PublicKey.(*rsa.PublicKey)
	if !ok {
		return nil, errors.New("the certificate has no RSA key")
	}
	secrets := make([]byte, 32+aes.BlockSize)
	if _, err := io.ReadFull(random, secrets); err != nil {
		return nil, fmt.Errorf("making a key: %w", err)
	}
	key, iv := secrets[:32], secrets[32:]
	//lint:ignore SA1019 The protocol wants PKCS #1 v1.5. Its weakness is on the side that opens: one that tells bad padding from good.
	wrapped, err := rsa.EncryptPKCS1v15(random, public, key)
	if err != nil {
		return nil, fmt.Errorf("wrapping the key: %w", err)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("preparing AES: %w", err)
	}
	padding := aes.BlockSize - len(text)%aes.BlockSize
	padded := append([]byte(nil), text...)
	for range padding {
		padded = append(padded, byte(padding))
	}
	cipher.NewCBCEncrypter(block, iv).CryptBlocks(padded, padded)
	initial, err := asn1.Marshal(iv)
	if err != nil {
		return nil, fmt.Errorf("writing the envelope: %w", err)
	}
	return asn1.Marshal(contentInfo{oidEnveloped, envelopedData{
		Recipients: []recipient{{
			Who:        issuerAndSerial{asn1.RawValue{FullBytes: to.RawIssuer}, to.SerialNumber},
			Algorithm:  pkix.AlgorithmIdentifier{Algorithm: oidRSA, Parameters: asn1.NullRawValue},
			WrappedKey: wrapped,
		}},
		Encrypted: encryptedContent{oidData, pkix.AlgorithmIdentifier{Algorithm: oidAES256CBC, Parameters: asn1.RawValue{FullBytes: initial}}, padded},
	}})
}
