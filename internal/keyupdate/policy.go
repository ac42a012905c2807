package keyupdate

import (
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"

	"github.com/holdfast-os/holdfast/internal/pcr"
	"github.com/holdfast-os/holdfast/internal/secureboot"
)

// Policy is the hash of a TPM policy, as the token of a binding has it.
type Policy [sha256.Size]byte

// Numbers of the TPM 2.0 specification.
const (
	tpmRSA        = 0x0001
	tpmSHA256     = 0x000b
	tpmNull       = 0x0010
	ccAuthorize   = 0x0000016a // TPM_CC_PolicyAuthorize
	ccPCR         = 0x0000017f // TPM_CC_PolicyPCR
	keyAttributes = 0x00060040 // userWithAuth, decrypt, sign, as systemd sets them
	registerZero  = 15
)

// PolicyOf works out the hash of the policy of a binding by the key in publicKey (PEM,
// RSA): register 11 signed by the key, then registers 7, 15 and, where the binding has it,
// 4, with exact values; 15 is zero. A TPM is not needed for it. It is how a binding is
// found in a header, which has no values.
func PolicyOf(b secureboot.Binding, publicKey []byte) (Policy, error) {
	name, err := keyName(publicKey)
	if err != nil {
		return Policy{}, err
	}
	// PolicyAuthorize begins anew from zero; the reference that may follow the name is empty.
	hash := sha256.Sum256(slices.Concat(make([]byte, sha256.Size), be32(ccAuthorize), name))
	hash = sha256.Sum256(hash[:])

	values := slices.Concat(b.PCR7[:], make([]byte, sha256.Size))
	selected := uint32(1<<pcr.Policy | 1<<registerZero)
	if b.PCR4 != (pcr.Value{}) {
		values, selected = slices.Concat(b.PCR4[:], values), selected|1<<pcr.Programs
	}
	digest := sha256.Sum256(values)
	selection := slices.Concat(be32(1), be16(tpmSHA256), []byte{3, byte(selected), byte(selected >> 8), byte(selected >> 16)})
	return sha256.Sum256(slices.Concat(hash[:], be32(ccPCR), selection, digest[:])), nil
}

// keyName is the TPM's name of a public key: the hash of its public area, which systemd
// fills in as here.
func keyName(text []byte) ([]byte, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errors.New("reading the key of the PCR policy: it is not in PEM form")
	}
	parsed, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("reading the key of the PCR policy: %w", err)
	}
	key, isRSA := parsed.(*rsa.PublicKey)
	if !isRSA {
		return nil, errors.New("reading the key of the PCR policy: it is no RSA key")
	}
	modulus := key.N.Bytes()
	area := slices.Concat(be16(tpmRSA), be16(tpmSHA256), be32(keyAttributes), be16(0), // no policy of its own
		be16(tpmNull), be16(tpmNull), be16(uint16(key.N.BitLen())), be32(uint32(key.E)), be16(uint16(len(modulus))), modulus)
	sum := sha256.Sum256(area)
	return append(be16(tpmSHA256), sum[:]...), nil
}

func be16(n uint16) []byte { return binary.BigEndian.AppendUint16(nil, n) }

func be32(n uint32) []byte { return binary.BigEndian.AppendUint32(nil, n) }
