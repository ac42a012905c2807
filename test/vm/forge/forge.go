// Package forge makes what a node must refuse: kernel images signed by somebody
// else, application images signed by somebody else, single changed bytes. Each of
// them is right in everything but the one thing, so that a refusal has one reason.
package forge

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"debug/pe"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"os"
	"time"

	"github.com/smallstep/pkcs7"
)

// Pair is a signing key with its certificate.
type Pair struct {
	Key  crypto.Signer
	Cert *x509.Certificate
}

// NewPair makes a self-signed RSA-2048 pair, in everything but the key like those
// that a node trusts.
func NewPair(name string, now time.Time) (Pair, error) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return Pair{}, fmt.Errorf("making the key %s: %w", name, err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: now.Add(-24 * time.Hour), NotAfter: now.AddDate(10, 0, 0),
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return Pair{}, fmt.Errorf("making the certificate %s: %w", name, err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return Pair{}, fmt.Errorf("reading the certificate %s: %w", name, err)
	}
	return Pair{Key: key, Cert: cert}, nil
}

// ReadPair reads PEM files: a PKCS#8 key and its certificate.
func ReadPair(keyFile, certFile string) (Pair, error) {
	cert, err := ReadCertificate(certFile)
	if err != nil {
		return Pair{}, err
	}
	block, err := readPEM(keyFile)
	if err != nil {
		return Pair{}, err
	}
	key, err := x509.ParsePKCS8PrivateKey(block)
	if err != nil {
		return Pair{}, fmt.Errorf("reading the key %s: %w", keyFile, err)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return Pair{}, fmt.Errorf("reading the key %s: it cannot sign", keyFile)
	}
	return Pair{Key: signer, Cert: cert}, nil
}

// ReadCertificate reads a PEM certificate.
func ReadCertificate(file string) (*x509.Certificate, error) {
	block, err := readPEM(file)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(block)
	if err != nil {
		return nil, fmt.Errorf("reading the certificate %s: %w", file, err)
	}
	return cert, nil
}

func readPEM(file string) ([]byte, error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w (run `make build`, which makes the keys of development)", file, err)
	}
	block, _ := pem.Decode(raw)
	if block == nil {
		return nil, fmt.Errorf("reading %s: it is not PEM", file)
	}
	return block.Bytes, nil
}

// WritePEM writes a pair as PEM files, the key readable by its owner alone.
func WritePEM(p Pair, keyFile, certFile string) error {
	der, err := x509.MarshalPKCS8PrivateKey(p.Key)
	if err != nil {
		return fmt.Errorf("encoding the key for %s: %w", keyFile, err)
	}
	key := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.Cert.Raw})
	if err := errors.Join(os.WriteFile(keyFile, key, 0o600), os.WriteFile(certFile, cert, 0o600)); err != nil {
		return fmt.Errorf("writing the pair %s: %w", certFile, err)
	}
	return nil
}

// FlipByte inverts one byte of a file; done twice, the file is as before.
func FlipByte(path string, offset int64) (err error) {
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("changing byte %d: %w", offset, err)
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	one := make([]byte, 1)
	if _, err := file.ReadAt(one, offset); err != nil {
		return fmt.Errorf("reading byte %d of %s: %w", offset, path, err)
	}
	one[0] ^= 0xff
	if _, err := file.WriteAt(one, offset); err != nil {
		return fmt.Errorf("changing byte %d of %s: %w", offset, path, err)
	}
	return nil
}

// certificateTable is the number of the PE data directory that holds signatures.
const certificateTable = 4

// Find gives where text begins in a file, in bytes from its beginning, looking at size bytes
// from offset on. Text that is not there is an error.
func Find(path string, offset, size int64, text []byte) (at int64, err error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	piece := make([]byte, 1<<20+len(text))
	for from := offset; from < offset+size; from += 1 << 20 {
		n, err := f.ReadAt(piece[:min(int64(len(piece)), offset+size-from)], from)
		if err != nil && !errors.Is(err, io.EOF) {
			return 0, err
		}
		if at := bytes.Index(piece[:n], text); at >= 0 {
			return from + int64(at), nil
		}
	}
	return 0, fmt.Errorf("%s has no %.40q in the %d bytes from %d on", path, text, size, offset)
}

// Unsigned takes the signatures off an EFI program: the table, which is the end of
// the file, and its entry in the header. A program without any is an error.
func Unsigned(program []byte) ([]byte, error) {
	file, err := pe.NewFile(bytes.NewReader(program))
	if err != nil {
		return nil, fmt.Errorf("reading the EFI program: %w", err)
	}
	header, ok := file.OptionalHeader.(*pe.OptionalHeader64)
	if !ok {
		return nil, errors.New("reading the EFI program: it is not of 64 bits")
	}
	table := header.DataDirectory[certificateTable]
	if table.Size == 0 {
		return nil, errors.New("reading the EFI program: it is not signed")
	}
	if end := uint64(table.VirtualAddress) + uint64(table.Size); end != uint64(len(program)) {
		return nil, fmt.Errorf("reading the EFI program: its signatures end at byte %d of %d", end, len(program))
	}
	bare := bytes.Clone(program[:table.VirtualAddress])
	const coffHeader, directories, entry = 4 + 20, 112, 8
	at := int(binary.LittleEndian.Uint32(bare[0x3c:])) + coffHeader + directories + certificateTable*entry
	clear(bare[at : at+entry])
	return bare, nil
}

// veritySignature is the type GUID, as it lies on disk, of a signature partition for
// the root of x86-64: 41092b05-9fc8-4523-994f-2def0408b176.
var veritySignature = [16]byte{0x05, 0x2b, 0x09, 0x41, 0xc8, 0x9f, 0x23, 0x45, 0x99, 0x4f, 0x2d, 0xef, 0x04, 0x08, 0xb1, 0x76}

// verityJSON is the content of a signature partition.
type verityJSON struct {
	RootHash    string `json:"rootHash"`
	Fingerprint string `json:"certificateFingerprint"`
	Signature   []byte `json:"signature"`
}

// ResignImage replaces the signature over the root hash of an application image by
// one of the pair. Data and root hash stay as they are.
func ResignImage(path string, p Pair) error { return SignImage(path, "", p) }

// SignImage has an application image say that its root hash is this one, by a signature of the
// pair; empty for the one that it has.
func SignImage(path, rootHash string, p Pair) (err error) {
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("signing the image: %w", err)
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	start, size, err := findPartition(file, veritySignature)
	if err != nil {
		return fmt.Errorf("signing the image %s: %w", path, err)
	}
	raw := make([]byte, size)
	if _, err := file.ReadAt(raw, start); err != nil {
		return fmt.Errorf("reading the signature of %s: %w", path, err)
	}
	var content verityJSON
	if err := json.Unmarshal(bytes.TrimRight(raw, "\x00"), &content); err != nil {
		return fmt.Errorf("reading the signature of %s: %w", path, err)
	}
	if rootHash != "" {
		content.RootHash = rootHash
	}
	if content.Signature, err = detached([]byte(content.RootHash), p); err != nil {
		return fmt.Errorf("signing the root hash of %s: %w", path, err)
	}
	sum := sha256.Sum256(p.Cert.Raw)
	content.Fingerprint = hex.EncodeToString(sum[:])
	text, err := json.Marshal(content)
	if err != nil {
		return fmt.Errorf("encoding the signature of %s: %w", path, err)
	}
	if int64(len(text)) > size {
		return fmt.Errorf("signing the image %s: %d bytes do not fit its signature partition", path, len(text))
	}
	clear(raw)
	copy(raw, text)
	if _, err := file.WriteAt(raw, start); err != nil {
		return fmt.Errorf("writing the signature of %s: %w", path, err)
	}
	return nil
}

// detached is a PKCS#7 signature without attributes and without the data, the
// form that the kernel reads.
func detached(data []byte, p Pair) ([]byte, error) {
	signed, err := pkcs7.NewSignedData(data)
	if err != nil {
		return nil, err
	}
	signed.SetDigestAlgorithm(pkcs7.OIDDigestAlgorithmSHA256)
	signed.SetEncryptionAlgorithm(pkcs7.OIDEncryptionAlgorithmRSA) // the kernel knows no other name for it
	if err := signed.SignWithoutAttr(p.Cert, p.Key, pkcs7.SignerInfoConfig{}); err != nil {
		return nil, err
	}
	signed.Detach()
	return signed.Finish()
}

// findPartition looks for a type in the GUID partition table of an image with
// sectors of 512 bytes.
func findPartition(r io.ReaderAt, kind [16]byte) (start, size int64, err error) {
	const sector, entry, entries, most = 512, 128, 128, 1 << 20
	header := make([]byte, sector)
	if _, err := r.ReadAt(header, sector); err != nil {
		return 0, 0, fmt.Errorf("reading the partition table: %w", err)
	}
	if string(header[:8]) != "EFI PART" || binary.LittleEndian.Uint32(header[84:]) != entry {
		return 0, 0, errors.New("reading the partition table: there is none")
	}
	table := make([]byte, entries*entry)
	if _, err := r.ReadAt(table, int64(binary.LittleEndian.Uint64(header[72:]))*sector); err != nil {
		return 0, 0, fmt.Errorf("reading the partition table: %w", err)
	}
	for i := 0; i < len(table); i += entry {
		if [16]byte(table[i:i+16]) != kind {
			continue
		}
		first, last := binary.LittleEndian.Uint64(table[i+32:]), binary.LittleEndian.Uint64(table[i+40:])
		if last < first || last-first >= most {
			return 0, 0, fmt.Errorf("reading the partition table: sectors %d to %d", first, last)
		}
		return int64(first) * sector, int64(last-first+1) * sector, nil
	}
	return 0, 0, fmt.Errorf("the image has no partition of type %x", kind)
}
