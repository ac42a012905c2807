package secureboot

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf16"

	"github.com/smallstep/pkcs7"
)

// MaxAuth is the largest update file, in bytes.
const MaxAuth = 8192

// Auth is an update that adds one certificate to a variable: a file NAME_FINGERPRINT.auth.
type Auth struct {
	// File is the name of the file.
	File string
	// Variable is what it is for.
	Variable Name
	// Certificate is the DER certificate that it brings.
	Certificate []byte
	// Entry is the certificate with its owner, as it will be stored.
	Entry Entry
	// Time is when it was signed, in UTC.
	Time time.Time
	// Raw is the whole file, which the firmware gets.
	Raw []byte
}

// parts are the pieces of an update file.
type parts struct {
	stamp     []byte // EFI_TIME
	signature []byte // PKCS #7
	payload   []byte // signature lists
}

var authName = regexp.MustCompile(`^(KEK|db|dbx)_([0-9A-Fa-f]{64})\.auth$`)

// pkcs7GUID says that the signature of an update is PKCS#7.
var pkcs7GUID = [16]byte{0x9d, 0xd2, 0xaf, 0x4a, 0xdf, 0x68, 0xee, 0x49, 0x8a, 0xa9, 0x34, 0x7d, 0x37, 0x56, 0x65, 0xa7}

// ParseAuth reads an update file: its form, and that its name says what it has. It does
// not ask who signed it; SignedBy does.
func ParseAuth(file string, data []byte) (Auth, error) {
	auth, err := parseAuth(file, data)
	if err != nil {
		return Auth{}, fmt.Errorf("reading the update %s: %w", file, err)
	}
	return auth, nil
}

// Layout of EFI_VARIABLE_AUTHENTICATION_2: a time, then a WIN_CERTIFICATE_UEFI_GUID.
const (
	timeSize   = 16
	certHeader = 4 + 2 + 2 + 16
	revision   = 0x0200
	guidType   = 0x0ef1
)

func parseAuth(file string, data []byte) (Auth, error) {
	name := authName.FindStringSubmatch(file)
	if name == nil {
		return Auth{}, errors.New("its name is not KEK, db or dbx, an underscore, the SHA-256 of a certificate and .auth")
	}
	if len(data) > MaxAuth {
		return Auth{}, fmt.Errorf("it has %d bytes, at most %d are read", len(data), MaxAuth)
	}
	split, err := cut(data)
	if err != nil {
		return Auth{}, err
	}
	auth := Auth{File: file, Variable: Name(name[1]), Raw: slices.Clone(data)}
	if auth.Time, err = parseTime(split.stamp); err != nil {
		return Auth{}, err
	}
	if _, err := contentInfo(split.signature); err != nil {
		return Auth{}, err
	}
	entries, err := ParseDatabase(split.payload)
	if err != nil {
		return Auth{}, err
	}
	if len(entries) != 1 || entries[0].Kind != X509 {
		return Auth{}, fmt.Errorf("it has %d entries; exactly one, a certificate, is taken", len(entries))
	}
	auth.Entry, auth.Certificate = entries[0], entries[0].Data
	if _, err := x509.ParseCertificate(auth.Certificate); err != nil {
		return Auth{}, fmt.Errorf("its certificate: %w", err)
	}
	if found := Fingerprint(auth.Certificate); found != strings.ToLower(name[2]) {
		return Auth{}, fmt.Errorf("its name promises the certificate %s, it has %s", strings.ToLower(name[2]), found)
	}
	return auth, nil
}

// cut takes an update file apart.
func cut(data []byte) (parts, error) {
	if len(data) < timeSize+certHeader {
		return parts{}, fmt.Errorf("it is cut off after %d bytes", len(data))
	}
	le := binary.LittleEndian
	header := data[timeSize:]
	length := uint64(le.Uint32(header))
	if length < certHeader || length > uint64(len(header)) {
		return parts{}, fmt.Errorf("its signature is said to have %d bytes, %d are there", length, len(header))
	}
	if le.Uint16(header[4:]) != revision || le.Uint16(header[6:]) != guidType || [16]byte(header[8:certHeader]) != pkcs7GUID {
		return parts{}, errors.New("its signature is of no kind that firmware takes for variables")
	}
	return parts{stamp: data[:timeSize], signature: header[certHeader:length], payload: header[length:]}, nil
}

// payload is what is added to the variable.
func (a Auth) payload() []byte {
	split, err := cut(a.Raw)
	if err != nil {
		return nil
	}
	return split.payload
}

// parseTime reads EFI_TIME. Firmware wants all that is finer than a second to be zero.
func parseTime(b []byte) (time.Time, error) {
	year := int(binary.LittleEndian.Uint16(b))
	t := time.Date(year, time.Month(b[2]), int(b[3]), int(b[4]), int(b[5]), int(b[6]), 0, time.UTC)
	if year < 1900 || year > 9999 || t.Month() != time.Month(b[2]) || t.Day() != int(b[3]) || b[4] > 23 || b[5] > 59 || b[6] > 59 {
		return time.Time{}, errors.New("its time is none")
	}
	if slices.ContainsFunc(b[7:], func(x byte) bool { return x != 0 }) {
		return time.Time{}, errors.New("its time has a zone or parts of a second, which firmware refuses")
	}
	return t, nil
}

func formatTime(t time.Time) []byte {
	t = t.UTC()
	b := binary.LittleEndian.AppendUint16(nil, uint16(t.Year()))
	b = append(b, byte(t.Month()), byte(t.Day()), byte(t.Hour()), byte(t.Minute()), byte(t.Second()))
	return append(b, make([]byte, timeSize-len(b))...)
}

var oidSignedData = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 2}

// contentInfo gives the signature in the form that the library reads: the specification
// wants SignedData bare, and some tools wrap it.
func contentInfo(der []byte) ([]byte, error) {
	var outer asn1.RawValue
	rest, err := asn1.Unmarshal(der, &outer)
	if err != nil || outer.Tag != asn1.TagSequence || len(rest) > 0 {
		return nil, errors.New("its signature is not PKCS#7")
	}
	var first asn1.RawValue
	if _, err := asn1.Unmarshal(outer.Bytes, &first); err != nil {
		return nil, errors.New("its signature is not PKCS#7")
	}
	inner := outer.FullBytes
	if first.Tag == asn1.TagOID {
		var wrapped struct {
			Type    asn1.ObjectIdentifier
			Content asn1.RawValue `asn1:"explicit,tag:0"`
		}
		if _, err := asn1.Unmarshal(der, &wrapped); err != nil || !wrapped.Type.Equal(oidSignedData) {
			return nil, errors.New("its signature is not PKCS#7")
		}
		inner = wrapped.Content.FullBytes
	}
	if err := checkEnvelope(inner); err != nil {
		return nil, err
	}
	return asn1.Marshal(struct {
		Type    asn1.ObjectIdentifier
		Content asn1.RawValue
	}{oidSignedData, asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 0, IsCompound: true, Bytes: inner}})
}

// checkEnvelope looks at the parts of SignedData that no signature covers and that firmware
// looks at.
func checkEnvelope(der []byte) error {
	var head struct {
		Version    int
		Algorithms []pkix.AlgorithmIdentifier `asn1:"set"`
		Content    struct {
			Type asn1.ObjectIdentifier
		}
	}
	if _, err := asn1.Unmarshal(der, &head); err != nil {
		return errors.New("its signature is not PKCS#7")
	}
	if head.Version != 1 || len(head.Algorithms) != 1 || !head.Algorithms[0].Algorithm.Equal(pkcs7.OIDDigestAlgorithmSHA256) || !head.Content.Type.Equal(pkcs7.OIDData) {
		return errors.New("its signature is not of version 1, with SHA-256, over plain data, which firmware wants")
	}
	return nil
}

// signed is what the signature of an update is over.
func signed(variable Name, attributes uint32, stamp, payload []byte) []byte {
	var data []byte
	for _, unit := range utf16.Encode([]rune(variable)) {
		data = binary.LittleEndian.AppendUint16(data, unit)
	}
	vendor := variable.vendor()
	data = append(data, vendor[:]...)
	data = binary.LittleEndian.AppendUint32(data, attributes)
	return slices.Concat(data, stamp, payload)
}

// Why an update is not believed although its signature is right.
var (
	// ErrNotSigned means that no key of this machine's signed it.
	ErrNotSigned = errors.New("no key of this machine signed it")
	// ErrReplaces means that it was made to replace the variable.
	ErrReplaces = errors.New("it was signed to replace the variable; sign it to be added (sign-efi-sig-list -a)")
)

// SignedBy checks the signature as the firmware will: it must be by one of the
// certificates, or by one that a certificate vouches for. ErrNotSigned and
// ErrReplaces, wrapped, say what else is the matter; other errors that the signature is
// wrong.
func (a Auth) SignedBy(certificates [][]byte) error {
	fail := func(err error) error { return fmt.Errorf("checking the update %s: %w", a.File, err) }
	split, err := cut(a.Raw)
	if err != nil {
		return fail(err)
	}
	wrapped, err := contentInfo(split.signature)
	if err != nil {
		return fail(err)
	}
	p7, err := pkcs7.Parse(wrapped)
	if err != nil {
		return fail(err)
	}
	signer := p7.GetOnlySigner()
	if signer == nil {
		return fail(errors.New("its signature has no signer, or more than one"))
	}
	if info := p7.Signers[0]; info.Version != 1 || !info.DigestAlgorithm.Algorithm.Equal(pkcs7.OIDDigestAlgorithmSHA256) {
		return fail(errors.New("its signature is not of version 1 with SHA-256, which firmware wants"))
	}
	// The library mends some wrong lengths, which firmware does not.
	for _, c := range p7.Certificates {
		if !bytes.Contains(split.signature, c.Raw) {
			return fail(errors.New("a certificate of its signature is damaged"))
		}
	}
	p7.Content = signed(a.Variable, attributes, split.stamp, split.payload)
	if err := p7.Verify(); err != nil {
		p7.Content = signed(a.Variable, attributes&^appendWrite, split.stamp, split.payload)
		if p7.Verify() == nil {
			return fail(ErrReplaces)
		}
		return fail(err)
	}
	for _, trusted := range certificates {
		if vouches(trusted, signer, p7.Certificates) {
			return nil
		}
	}
	return fail(fmt.Errorf("%w; its signer is %s", ErrNotSigned, signer.Subject))
}

// vouches is true when a chain leads from the trusted certificate to the signer's. As in
// the firmware, times do not count.
func vouches(trusted []byte, signer *x509.Certificate, others []*x509.Certificate) bool {
	anchor, err := x509.ParseCertificate(trusted)
	if err != nil {
		return false
	}
	reached := []*x509.Certificate{anchor}
	// Each round reaches certificates one step further from the anchor.
	for range len(others) + 1 {
		for _, c := range append([]*x509.Certificate{signer}, others...) {
			if !slices.ContainsFunc(reached, c.Equal) && slices.ContainsFunc(reached, func(issuer *x509.Certificate) bool { return issued(issuer, c) }) {
				reached = append(reached, c)
			}
		}
	}
	return slices.ContainsFunc(reached, signer.Equal)
}

// issued is true when a key signed a certificate. The firmware takes any certificate for
// an issuer, also one that is not marked so.
func issued(issuer, c *x509.Certificate) bool {
	return issuer.CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature) == nil
}
