package sysext_test

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"hash/crc32"
	"math/big"
	"testing"
	"time"

	"github.com/smallstep/pkcs7"
)

// The writer of tiny extension images: what mkosi and systemd-repart make, in memory.

const (
	usrData      = "8484680c-9521-48c6-9c11-b0720656f69e"
	usrVerity    = "77ff5f63-e7b6-4633-acf4-1565b864c0e6"
	usrSignature = "e7bb33fb-06cf-4e81-8273-e543b413e2e2"
	rootData     = "4f68bce3-e8cd-4db1-96e7-fbcaf984b709"
	rootVerity   = "2c7357ed-ebd2-46d9-aec1-23d437ec2bf5"
	espType      = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
)

type signer struct {
	key  *rsa.PrivateKey
	cert *x509.Certificate
}

func newSigner(t testing.TB, name string) signer {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1, 0),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return signer{key, cert}
}

func (s signer) fingerprint() string {
	sum := sha256.Sum256(s.cert.Raw)
	return hex.EncodeToString(sum[:])
}

// sign makes the detached message that systemd-repart makes: no attributes.
func sign(t testing.TB, content string, signers ...signer) []byte {
	t.Helper()
	message, err := pkcs7.NewSignedData([]byte(content))
	if err != nil {
		t.Fatal(err)
	}
	message.SetDigestAlgorithm(pkcs7.OIDDigestAlgorithmSHA256)
	for _, s := range signers {
		if err := message.SignWithoutAttr(s.cert, s.key, pkcs7.SignerInfoConfig{}); err != nil {
			t.Fatal(err)
		}
	}
	message.Detach()
	der, err := message.Finish()
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// signatureDocument is the content of the signature partition.
func signatureDocument(t testing.TB, root, fingerprint string, der []byte) []byte {
	t.Helper()
	text, err := json.Marshal(map[string]any{"rootHash": root, "certificateFingerprint": fingerprint, "signature": der})
	if err != nil {
		t.Fatal(err)
	}
	return append(text, make([]byte, 4096)...)
}

// hashTree gives the verity partition and the root hash of data, after the description
// of the format in the kernel's documentation, by recursion from the top.
func hashTree(data []byte, block int, salt []byte) ([]byte, string) {
	digest := func(b []byte) []byte {
		sum := sha256.Sum256(append(bytes.Clone(salt), b...))
		return sum[:]
	}
	var levels [][]byte
	for current := data; len(current) > block; {
		var next []byte
		for i := 0; i < len(current); i += block {
			next = append(next, digest(current[i:i+block])...)
		}
		for len(next)%block != 0 {
			next = append(next, 0)
		}
		levels = append([][]byte{next}, levels...)
		current = next
	}
	top := data
	if len(levels) > 0 {
		top = levels[0]
	}
	super := make([]byte, max(block, 512))
	copy(super, "verity\x00\x00")
	le := binary.LittleEndian
	le.PutUint32(super[8:], 1)
	le.PutUint32(super[12:], 1)
	copy(super[32:], "sha256")
	le.PutUint32(super[64:], uint32(block))
	le.PutUint32(super[68:], uint32(block))
	le.PutUint64(super[72:], uint64(len(data)/block))
	le.PutUint16(super[80:], uint16(len(salt)))
	copy(super[88:], salt)
	return append(super, bytes.Join(levels, nil)...), hex.EncodeToString(digest(top))
}

type part struct {
	kind    string
	content []byte
}

// gptImage lays the parts behind each other from sector 34.
func gptImage(parts ...part) []byte {
	const sector, entries = 512, 128
	le := binary.LittleEndian
	table := make([]byte, entries*128)
	image := make([]byte, 34*sector)
	for i, p := range parts {
		content := bytes.Clone(p.content)
		for len(content)%sector != 0 {
			content = append(content, 0)
		}
		entry := table[i*128:]
		copy(entry, guidBytes(p.kind))
		entry[16] = byte(i + 1)
		le.PutUint64(entry[32:], uint64(len(image)/sector))
		image = append(image, content...)
		le.PutUint64(entry[40:], uint64(len(image)/sector-1))
	}
	image = append(image, make([]byte, 33*sector)...)
	copy(image[2*sector:], table)
	header := image[sector : sector+92]
	copy(header, "EFI PART")
	le.PutUint32(header[8:], 0x10000)
	le.PutUint32(header[12:], 92)
	le.PutUint64(header[24:], 1)
	le.PutUint64(header[72:], 2)
	le.PutUint32(header[80:], entries)
	le.PutUint32(header[84:], 128)
	resum(image)
	return image
}

// resum writes fresh checksums, as an attacker would.
func resum(image []byte) {
	le := binary.LittleEndian
	header := image[512 : 512+92]
	le.PutUint32(header[88:], crc32.ChecksumIEEE(image[1024:1024+128*128]))
	le.PutUint32(header[16:], 0)
	le.PutUint32(header[16:], crc32.ChecksumIEEE(header))
}

func guidBytes(text string) []byte {
	raw, err := hex.DecodeString(string(bytes.ReplaceAll([]byte(text), []byte("-"), nil)))
	if err != nil || len(raw) != 16 {
		panic("not a GUID: " + text)
	}
	for _, field := range [][]byte{raw[0:4], raw[4:6], raw[6:8]} {
		for i, j := 0, len(field)-1; i < j; i, j = i+1, j-1 {
			field[i], field[j] = field[j], field[i]
		}
	}
	return raw
}
