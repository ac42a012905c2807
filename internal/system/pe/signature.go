package pe

import (
	"bytes"
	"crypto/sha256"
	"encoding/asn1"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/smallstep/pkcs7"
)

// Limits of the signatures of a file.
const (
	maxSignatures    = 16
	maxSignatureSize = 64 << 10
	maxCertificates  = 16
)

// ErrSignature means that a signature does not belong to the file, or is wrong.
var ErrSignature = errors.New("the signature of the file is not valid")

// oidSHA256 names the only hash that a signature may use.
var oidSHA256 = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 1}

// signatures reads the table of WIN_CERTIFICATE at the end of the file.
func (f *file) signatures(hash [sha256.Size]byte) ([]Signature, error) {
	if f.certificatesSize > maxSignatures*maxSignatureSize {
		return nil, fmt.Errorf("reading its signatures: they have %d bytes, at most %d are read", f.certificatesSize, maxSignatures*maxSignatureSize)
	}
	data, err := f.at(f.certificates, f.certificatesSize)
	if err != nil {
		return nil, fmt.Errorf("reading its signatures: %w", err)
	}
	const header, revision, signedData = 8, 0x0200, 2
	var found []Signature
	for len(data) > 0 {
		if len(data) < header {
			return nil, fmt.Errorf("reading its signatures: %d bytes are left over: %w", len(data), ErrSignature)
		}
		length := binary.LittleEndian.Uint32(data)
		if length < header || uint64(length) > uint64(len(data)) || length > maxSignatureSize || len(found) == maxSignatures {
			return nil, fmt.Errorf("reading its signatures: number %d has %d bytes: %w", len(found)+1, length, ErrSignature)
		}
		if binary.LittleEndian.Uint16(data[4:]) != revision || binary.LittleEndian.Uint16(data[6:]) != signedData {
			return nil, fmt.Errorf("reading its signatures: number %d is of no kind that is known: %w", len(found)+1, ErrSignature)
		}
		one, err := readSignature(data[header:length], hash)
		if err != nil {
			return nil, fmt.Errorf("reading its signatures: number %d: %w", len(found)+1, err)
		}
		found = append(found, one)
		data = data[min(len(data), int(length+7)&^7):]
	}
	return found, nil
}

// digestInfo is the second half of what is signed in the place of the file
// (SpcIndirectDataContent): the hash of the file and how it was made.
type digestInfo struct {
	Algorithm struct {
		Algorithm  asn1.ObjectIdentifier
		Parameters asn1.RawValue `asn1:"optional"`
	}
	Digest []byte
}

// readSignature checks one signature over a file with this hash.
func readSignature(data []byte, hash [sha256.Size]byte) (Signature, error) {
	p7, err := pkcs7.Parse(trimDER(data))
	if err != nil {
		return Signature{}, fmt.Errorf("%w: %w", ErrSignature, err)
	}
	// The content is the inside of a sequence: what was measured, then its hash.
	var what asn1.RawValue
	rest, err := asn1.Unmarshal(p7.Content, &what)
	if err != nil {
		return Signature{}, fmt.Errorf("%w: %w", ErrSignature, err)
	}
	var info digestInfo
	if rest, err = asn1.Unmarshal(rest, &info); err != nil || len(rest) > 0 {
		return Signature{}, fmt.Errorf("%w: it has no hash of the file", ErrSignature)
	}
	if !info.Algorithm.Algorithm.Equal(oidSHA256) {
		return Signature{}, fmt.Errorf("%w: its hash is %v, only SHA-256 is taken", ErrSignature, info.Algorithm.Algorithm)
	}
	if !bytes.Equal(info.Digest, hash[:]) {
		return Signature{}, fmt.Errorf("%w: it is over another file", ErrSignature)
	}
	if len(p7.Signers) != 1 || len(p7.Certificates) > maxCertificates {
		return Signature{}, fmt.Errorf("%w: it has %d signers and %d certificates, want one signer and at most %d certificates",
			ErrSignature, len(p7.Signers), len(p7.Certificates), maxCertificates)
	}
	if err := p7.Verify(); err != nil {
		return Signature{}, fmt.Errorf("%w: %w", ErrSignature, err)
	}
	signer := p7.GetOnlySigner()
	if signer == nil {
		return Signature{}, fmt.Errorf("%w: its signer has no certificate", ErrSignature)
	}
	one := Signature{Chain: [][]byte{signer.Raw}}
	for _, c := range p7.Certificates {
		if !c.Equal(signer) {
			one.Chain = append(one.Chain, c.Raw)
		}
	}
	return one, nil
}

// trimDER cuts off what is behind the first object: signatures are filled up to 8 bytes,
// and some tools count that in.
func trimDER(data []byte) []byte {
	var whole asn1.RawValue
	if rest, err := asn1.Unmarshal(data, &whole); err == nil && len(rest) < 8 {
		return data[:len(data)-len(rest)]
	}
	return data
}
