package secureboot

import (
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
)

// MaxPCRSig bounds the section .pcrsig of a UKI, in bytes.
const MaxPCRSig = 1 << 20

// SignedKeys reads the section .pcrsig of a UKI and gives the keys that signed its values
// of register 11 in the bank of SHA-256: hexadecimal SHA-256 of the public key as systemd
// hashes it. The order is that of their first signatures.
func SignedKeys(section []byte) ([]string, error) {
	if len(section) > MaxPCRSig {
		return nil, fmt.Errorf("reading the PCR signatures of a UKI: %d bytes, at most %d are read", len(section), MaxPCRSig)
	}
	for len(section) > 0 && section[len(section)-1] == 0 {
		section = section[:len(section)-1]
	}
	var banks struct {
		SHA256 []struct {
			PCRs []int  `json:"pcrs"`
			Key  string `json:"pkfp"`
		} `json:"sha256"`
	}
	if err := json.Unmarshal(section, &banks); err != nil {
		return nil, fmt.Errorf("reading the PCR signatures of a UKI: %w", err)
	}
	var keys []string
	for _, s := range banks.SHA256 {
		if raw, err := hex.DecodeString(s.Key); err != nil || len(raw) != sha256.Size {
			return nil, fmt.Errorf("reading the PCR signatures of a UKI: %q is no fingerprint of a key", s.Key[:min(len(s.Key), 80)])
		}
		if slices.Equal(s.PCRs, []int{11}) && !slices.Contains(keys, s.Key) {
			keys = append(keys, s.Key)
		}
	}
	return keys, nil
}

// KeyFingerprint names a public key in PEM form, as of the section .pcrpkey or a token of
// the header, as SignedKeys does. Only RSA keys are taken.
func KeyFingerprint(text []byte) (string, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return "", errors.New("reading the key of the PCR policy: it is not in PEM form")
	}
	parsed, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return "", fmt.Errorf("reading the key of the PCR policy: %w", err)
	}
	key, isRSA := parsed.(*rsa.PublicKey)
	if !isRSA {
		return "", errors.New("reading the key of the PCR policy: it is no RSA key")
	}
	// systemd hashes the key alone (PKCS #1), without the algorithm around it.
	return Fingerprint(x509.MarshalPKCS1PublicKey(key)), nil
}
