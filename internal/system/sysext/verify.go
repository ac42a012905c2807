package sysext

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/smallstep/pkcs7"
)

const (
	// MaxImage is the largest image that is read, in bytes.
	MaxImage = 16 << 30
	// maxSignature is how much of the signature partition is read, in bytes.
	maxSignature = 64 << 10
)

// ErrRefused is the cause of every error about the content of an image; an error of
// reading the file has another cause.
var ErrRefused = errors.New("extension image refused")

// Image is what a verified extension is.
type Image struct {
	// RootHash is the dm-verity root hash, 64 hexadecimal digits.
	RootHash string
	// Signer is the SHA-256 of the DER certificate that signed it, hexadecimal.
	Signer string
}

// Verify checks the whole image at path: its table, the signature by one of the DER
// certificates, and every block of data. An error that is ErrRefused means that the
// image must not be used.
func Verify(ctx context.Context, path string, certificates [][]byte) (Image, error) {
	file, err := os.Open(path)
	if err != nil {
		return Image{}, fmt.Errorf("opening the extension image: %w", err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return Image{}, fmt.Errorf("reading the size of %s: %w", path, err)
	}
	if !info.Mode().IsRegular() {
		return Image{}, fmt.Errorf("%s: %w: not a regular file", path, ErrRefused)
	}
	image, err := VerifyReader(ctx, file, info.Size(), certificates)
	if err != nil {
		return Image{}, fmt.Errorf("%s: %w", path, err)
	}
	return image, nil
}

// VerifyReader is Verify for an image that is open already.
func VerifyReader(ctx context.Context, image io.ReaderAt, size int64, certificates [][]byte) (Image, error) {
	if size > MaxImage {
		return Image{}, fmt.Errorf("%w: %d bytes, more than %d", ErrRefused, size, int64(MaxImage))
	}
	allowed, err := parseCertificates(certificates)
	if err != nil {
		return Image{}, err
	}
	found, err := readParts(image, size)
	if err != nil {
		return Image{}, refused(err)
	}
	result, err := verifySignature(found[roleSignature], allowed)
	if err != nil {
		return Image{}, refused(err)
	}
	root, err := hex.DecodeString(result.RootHash)
	if err != nil {
		return Image{}, refused(err)
	}
	if err := verifyTree(ctx, found[roleVerity], found[roleData], root); err != nil {
		return Image{}, refused(err)
	}
	return result, nil
}

// refused marks an error as one of content, unless the caller gave up or the disk failed.
func refused(err error) error {
	var path *os.PathError
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) || errors.As(err, &path) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrRefused, err)
}

func parseCertificates(ders [][]byte) (map[string]*x509.Certificate, error) {
	allowed := map[string]*x509.Certificate{}
	for _, der := range ders {
		certificate, err := x509.ParseCertificate(der)
		if err != nil {
			// Vendors' certificates in a firmware are at times malformed. Such a one
			// cannot have signed this image, and must not block the others.
			continue
		}
		allowed[fingerprint(der)] = certificate
	}
	if len(allowed) == 0 {
		return nil, fmt.Errorf("no certificate may sign extensions: the firmware's db has none that can be read")
	}
	return allowed, nil
}

// signature is the JSON document in the signature partition.
type signature struct {
	RootHash    string `json:"rootHash"`
	Fingerprint string `json:"certificateFingerprint"`
	// Signature is PKCS#7 in DER, base64 in the document.
	Signature []byte `json:"signature"`
}

// readSignature reads the document, and sees to it that its root hash is one.
func readSignature(partition *io.SectionReader) (document signature, err error) {
	text := make([]byte, min(partition.Size(), maxSignature))
	if _, err := partition.ReadAt(text, 0); err != nil {
		return signature{}, fmt.Errorf("reading the signature partition: %w", err)
	}
	if err := json.Unmarshal(bytes.TrimRight(text, "\x00"), &document); err != nil {
		return signature{}, fmt.Errorf("reading the signature document: %w", err)
	}
	root, err := hex.DecodeString(document.RootHash)
	if err != nil || len(root) != sha256.Size || hex.EncodeToString(root) != document.RootHash {
		return signature{}, fmt.Errorf("root hash of the signature document is not %d lower-case hexadecimal digits", 2*sha256.Size)
	}
	return document, nil
}

func verifySignature(partition *io.SectionReader, allowed map[string]*x509.Certificate) (Image, error) {
	document, err := readSignature(partition)
	if err != nil {
		return Image{}, err
	}
	certificate, ok := allowed[document.Fingerprint]
	if !ok {
		return Image{}, fmt.Errorf("signed with certificate %.64q, which this machine's firmware does not trust", document.Fingerprint)
	}
	if err := checkPKCS7(document.Signature, []byte(document.RootHash), certificate); err != nil {
		return Image{}, err
	}
	return Image{RootHash: document.RootHash, Signer: document.Fingerprint}, nil
}

// checkPKCS7 checks a detached signature by exactly this certificate. The certificates
// inside the message are thrown away first. Validity dates are not looked at: neither
// firmware nor kernel do, and the clock of a machine may be wrong when it boots.
func checkPKCS7(der, content []byte, certificate *x509.Certificate) error {
	message, err := pkcs7.Parse(der)
	if err != nil {
		return fmt.Errorf("reading the signature: %w", err)
	}
	if len(message.Signers) != 1 {
		return fmt.Errorf("signature has %d signers, want exactly one", len(message.Signers))
	}
	if len(message.Content) > 0 {
		return fmt.Errorf("signature carries its own content, want a detached one")
	}
	message.Content = content
	message.Certificates = []*x509.Certificate{certificate}
	if err := message.Verify(); err != nil {
		return fmt.Errorf("checking the signature over the root hash: %w", err)
	}
	return nil
}

func fingerprint(der []byte) string {
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:])
}
