package secureboot

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"
)

// Image is a boot loader or a UKI, as the firmware knows it.
type Image struct {
	// Name says which one, for people: a path, or a slot.
	Name string
	// SHA256 is its Authenticode hash.
	SHA256 [32]byte
	// Signatures are chains of DER certificates: each time the signer's first, then those
	// that the signature brings. They were checked against the file.
	Signatures [][][]byte
}

// Authority gives the entry of db that lets in a program: the firmware asks signature by
// signature, and for each one goes through db. Only then it looks for the hash. False when
// nothing lets it in.
func (d Database) Authority(image Image) (Entry, bool) {
	for _, chain := range image.Signatures {
		signer, others, err := parseChain(chain)
		if err != nil {
			continue
		}
		for _, e := range d {
			if e.Kind == X509 && vouches(e.Data, signer, others) {
				return e, true
			}
		}
	}
	for _, e := range d {
		if e.Kind == SHA256 && bytes.Equal(e.Data, image.SHA256[:]) {
			return e, true
		}
	}
	return Entry{}, false
}

func parseChain(chain [][]byte) (signer *x509.Certificate, others []*x509.Certificate, err error) {
	for i, der := range chain {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, nil, err
		}
		if i == 0 {
			signer = c
		} else {
			others = append(others, c)
		}
	}
	if signer == nil {
		return nil, nil, fmt.Errorf("the signature brings no certificate")
	}
	return signer, others, nil
}

// Revokes gives the entry of a dbx that keeps a program from starting. One signature that
// is revoked is enough, whatever the others are. A revocation that has a time counts as
// one for all times: the signatures here have none that the firmware would believe.
func (d Database) Revokes(image Image) (Entry, bool) {
	for _, e := range d {
		if e.Kind == SHA256 && bytes.Equal(e.Data, image.SHA256[:]) {
			return e, true
		}
		for _, chain := range image.Signatures {
			if slices.ContainsFunc(chain, func(der []byte) bool { return e.revokes(der) }) {
				return e, true
			}
		}
	}
	return Entry{}, false
}

// revokes is true for the certificate itself, for its hash, and for one whose key signed
// it: firmware takes a revoked issuer for a revoked signer.
func (e Entry) revokes(der []byte) bool {
	if e.Kind == X509 && bytes.Equal(e.Data, der) {
		return true
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		// What cannot be read cannot be shown to be left alone.
		return e.Kind != SHA256
	}
	switch e.Kind {
	case X509:
		issuer, err := x509.ParseCertificate(e.Data)
		return err == nil && issued(issuer, c)
	case X509SHA256:
		sum := sha256.Sum256(c.RawTBSCertificate)
		return bytes.HasPrefix(e.Data, sum[:])
	case X509SHA384:
		sum := sha512.Sum384(c.RawTBSCertificate)
		return bytes.HasPrefix(e.Data, sum[:])
	case X509SHA512:
		sum := sha512.Sum512(c.RawTBSCertificate)
		return bytes.HasPrefix(e.Data, sum[:])
	}
	return false
}

// CheckWith is CheckRelease with the databases of a machine: value gives that of a variable, "db"
// or "dbx", and an error for which errors.Is(err, fs.ErrNotExist) holds where there is none.
func CheckWith(image Image, value func(name string) ([]byte, error), now time.Time) error {
	var databases [2]Database
	for i, name := range []string{"db", "dbx"} {
		data, err := value(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			databases[i], err = ParseDatabase(data)
		}
		if err != nil {
			return fmt.Errorf("reading what the firmware trusts: %w", err)
		}
	}
	return CheckRelease(image, databases[0], databases[1], now)
}

// CheckRelease says whether a UKI or a boot loader of a new release will be let in by the
// firmware: what lets it in must be in db, no part of it in dbx, and its signer valid at
// the time. Firmware does not look at the time; a key that has run out should not be used
// for new releases all the same.
func CheckRelease(image Image, db, dbx Database, now time.Time) error {
	fail := func(format string, args ...any) error {
		return fmt.Errorf("checking who signed %s: %w", image.Name, fmt.Errorf(format, args...))
	}
	if len(image.Signatures) == 0 {
		return fail("it is not signed; take a release that is")
	}
	if entry, revoked := dbx.Revokes(image); revoked {
		return fail("dbx revokes it, by the entry %s; take a newer release", entry.describe())
	}
	if _, found := db.Authority(image); !found {
		return fail("db has no certificate that lets it in; apply the update of Secure Boot keys that brings the certificate %s first",
			Fingerprint(image.Signatures[0][0]))
	}
	signer, err := x509.ParseCertificate(image.Signatures[0][0])
	if err != nil {
		return fail("reading the certificate of its signer: %w", err)
	}
	if now.Before(signer.NotBefore) || now.After(signer.NotAfter) {
		return fail("the certificate of its signer is valid from %s to %s, and it is %s; check the clock of this node",
			signer.NotBefore.UTC().Format(time.RFC3339), signer.NotAfter.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	}
	return nil
}

// describe names an entry for people.
func (e Entry) describe() string {
	if e.Kind != X509 {
		return fmt.Sprintf("%x", e.Data[:min(len(e.Data), 32)])
	}
	text := Fingerprint(e.Data)
	if c, err := x509.ParseCertificate(e.Data); err == nil {
		text = c.Subject.String() + ", " + text
	}
	return text
}
