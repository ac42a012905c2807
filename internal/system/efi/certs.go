package efi

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"

	api "github.com/holdfast-os/holdfast/api/os"
)

// certX509 is the GUID of EFI_CERT_X509_GUID as stored: the type of a list of certificates.
var certX509 = [16]byte{0xa1, 0x59, 0xc0, 0xa5, 0xe4, 0x94, 0xa7, 0x4a, 0x87, 0xb5, 0xab, 0x15, 0x5c, 0x2b, 0xf0, 0x72}

// Certificates gives the certificates of PK, KEK, db and dbx, in that order. Lists of
// hashes, of which dbx has many, are left out. A certificate that cannot be parsed
// is given with its fingerprint alone.
func (v Vars) Certificates() ([]api.SecureBootCertificate, error) {
	var all []api.SecureBootCertificate
	for _, database := range []struct{ name, vendor string }{
		{"PK", Global}, {"KEK", Global}, {"db", ImageSecurity}, {"dbx", ImageSecurity},
	} {
		value, err := v.Read(database.name, database.vendor)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		found, err := ParseCertificates(value.Data)
		if err != nil {
			return nil, fmt.Errorf("reading the certificates of %s: %w", database.name, err)
		}
		for _, der := range found {
			all = append(all, describe(database.name, der))
		}
	}
	return all, nil
}

func describe(database string, der []byte) api.SecureBootCertificate {
	sum := sha256.Sum256(der)
	entry := api.SecureBootCertificate{Type: database, Fingerprint: hex.EncodeToString(sum[:])}
	if parsed, err := x509.ParseCertificate(der); err == nil {
		entry.Subject, entry.Issuer = parsed.Subject.String(), parsed.Issuer.String()
	}
	return entry
}

// ParseCertificates gives the DER certificates of a chain of EFI_SIGNATURE_LIST.
// Lists of another type are skipped; a list whose sizes do not add up is an error.
func ParseCertificates(data []byte) ([][]byte, error) {
	const listHeader, owner = 28, 16
	var found [][]byte
	for number := 1; len(data) > 0; number++ {
		if len(data) < listHeader {
			return nil, fmt.Errorf("signature list %d is cut off after %d bytes", number, len(data))
		}
		le := binary.LittleEndian
		size, header, each := uint64(le.Uint32(data[16:])), uint64(le.Uint32(data[20:])), uint64(le.Uint32(data[24:]))
		if size > uint64(len(data)) || size < listHeader+header || each <= owner || (size-listHeader-header)%each != 0 {
			return nil, fmt.Errorf("signature list %d has sizes that do not add up: %d bytes, header %d, signatures of %d",
				number, size, header, each)
		}
		isCertificate := [16]byte(data[:16]) == certX509
		body := data[listHeader+header : size]
		for ; isCertificate && len(body) > 0; body = body[each:] {
			found = append(found, body[owner:each])
		}
		data = data[size:]
	}
	return found, nil
}

// ParseOnlyCertificates is ParseCertificates for a chain that must have nothing else: a list
// of another type, as of the hashes of programs, is an error.
func ParseOnlyCertificates(data []byte) ([][]byte, error) {
	found, err := ParseCertificates(data)
	if err != nil {
		return nil, err
	}
	for number := 1; len(data) > 0; number++ {
		if [16]byte(data[:16]) != certX509 {
			return nil, fmt.Errorf("signature list %d has no certificates, but something else that would be trusted", number)
		}
		data = data[binary.LittleEndian.Uint32(data[16:]):]
	}
	return found, nil
}
