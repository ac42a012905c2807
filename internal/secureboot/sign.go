package secureboot

import (
	"crypto"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/smallstep/pkcs7"
)

// Signer is a key that may change a variable: PK for KEK, KEK for db and dbx.
type Signer struct {
	// Key signs; it may live in a token.
	Key crypto.Signer
	// Certificate is the key's.
	Certificate *x509.Certificate
}

// Sign makes the update file that adds a DER certificate to a variable. owner is a GUID of
// whoever publishes it; it becomes part of what is measured, so a publisher keeps to one.
// at is the time that the firmware compares; parts of a second are dropped.
func Sign(by Signer, variable Name, owner [16]byte, certificate []byte, at time.Time) (Auth, error) {
	file := fmt.Sprintf("%s_%s.auth", variable, Fingerprint(certificate))
	if !slices.Contains(order, variable) {
		return Auth{}, fmt.Errorf("signing the update %s: %s takes no updates", file, variable)
	}
	payload := Database{{Kind: X509, Owner: owner, Data: certificate}}.Encode()
	raw, err := signVariable(by, variable, attributes, payload, at)
	if err != nil {
		return Auth{}, fmt.Errorf("signing the update %s: %w", file, err)
	}
	return ParseAuth(file, raw)
}

// SignEnroll makes the file that sets a whole variable on a machine in setup mode, as
// systemd-boot enrolls it from loader/keys: PK, KEK or db with the given certificates. PK
// signs itself.
func SignEnroll(by Signer, variable Name, owner [16]byte, certificates [][]byte, at time.Time) ([]byte, error) {
	var content Database
	for _, c := range certificates {
		content = append(content, Entry{Kind: X509, Owner: owner, Data: c})
	}
	raw, err := signVariable(by, variable, attributes&^appendWrite, content.Encode(), at)
	if err != nil {
		return nil, fmt.Errorf("signing the first content of %s: %w", variable, err)
	}
	return raw, nil
}

// PK is the platform key's variable. It takes no updates, only its first content.
const PK Name = "PK"

func signVariable(by Signer, variable Name, attributes uint32, payload []byte, at time.Time) ([]byte, error) {
	key, isRSA := by.Key.Public().(*rsa.PublicKey)
	if !isRSA || key.Size() < 256 {
		return nil, errors.New("firmware takes signatures of RSA keys of 2048 bits and more only")
	}
	stamp := formatTime(at)
	data, err := pkcs7.NewSignedData(signed(variable, attributes, stamp, payload))
	if err != nil {
		return nil, err
	}
	data.SetDigestAlgorithm(pkcs7.OIDDigestAlgorithmSHA256)
	data.SetEncryptionAlgorithm(pkcs7.OIDEncryptionAlgorithmRSA)
	if err := data.SignWithoutAttr(by.Certificate, by.Key, pkcs7.SignerInfoConfig{}); err != nil {
		return nil, err
	}
	data.Detach()
	wrapped, err := data.Finish()
	if err != nil {
		return nil, err
	}
	// Firmware wants SignedData alone, without the ContentInfo around it.
	var outer struct {
		Type    asn1.ObjectIdentifier
		Content asn1.RawValue
	}
	if _, err := asn1.Unmarshal(wrapped, &outer); err != nil {
		return nil, err
	}
	signature := outer.Content.Bytes
	raw := binary.LittleEndian.AppendUint32(stamp, uint32(certHeader+len(signature)))
	raw = binary.LittleEndian.AppendUint16(raw, revision)
	raw = binary.LittleEndian.AppendUint16(raw, guidType)
	return slices.Concat(raw, pkcs7GUID[:], signature, payload), nil
}
