// Package smime reads what `openssl smime -sign -text` writes: a text with the signature of
// one signer behind it, as releases and rescue media have it.
//
// It is pure, and small enough for early boot. Nothing that a message says of itself is
// believed before its signature holds.
package smime

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"mime"
	"net/mail"
	"slices"
	"strings"
	"time"

	"github.com/smallstep/pkcs7"
)

// ErrUntrusted: the signature is missing, broken, or not by one of the anchors.
var ErrUntrusted = errors.New("not signed by the update CA")

// digests are the sums that a signature may be over: SHA-256, SHA-384, SHA-512.
var digests = []asn1.ObjectIdentifier{
	{2, 16, 840, 1, 101, 3, 4, 2, 1},
	{2, 16, 840, 1, 101, 3, 4, 2, 2},
	{2, 16, 840, 1, 101, 3, 4, 2, 3},
}

// ParseCA reads one or more PEM certificates: the anchors of Verify.
func ParseCA(text []byte) ([]*x509.Certificate, error) {
	var anchors []*x509.Certificate
	for {
		block, rest := pem.Decode(text)
		if block == nil {
			break
		}
		text = rest
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("reading the update CA: a PEM block %q where a certificate is expected", block.Type)
		}
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("reading the update CA: %w", err)
		}
		anchors = append(anchors, certificate)
	}
	if len(anchors) == 0 {
		return nil, errors.New("reading the update CA: no PEM certificate in it")
	}
	return anchors, nil
}

// Verify checks an S/MIME signature and gives the text that was signed, its lines
// ending in LF. There must be exactly one signer, and its certificate must be one
// of the anchors or descend from one. An anchor that signs itself is a pin: its
// dates are not looked at, so that a node whose clock is wrong can still update.
// Every refusal is ErrUntrusted.
func Verify(data []byte, anchors []*x509.Certificate, now time.Time) ([]byte, error) {
	signed, err := Parse(data)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUntrusted, err)
	}
	p7, err := pkcs7.Parse(signed.signature)
	if err != nil {
		return nil, fmt.Errorf("%w: reading the signature: %w", ErrUntrusted, err)
	}
	if len(p7.Content) != 0 {
		return nil, fmt.Errorf("%w: the signature carries content of its own", ErrUntrusted)
	}
	if len(p7.Signers) != 1 {
		return nil, fmt.Errorf("%w: %d signers where one is expected", ErrUntrusted, len(p7.Signers))
	}
	if !slices.ContainsFunc(digests, p7.Signers[0].DigestAlgorithm.Algorithm.Equal) {
		return nil, fmt.Errorf("%w: the digest %v is not accepted", ErrUntrusted, p7.Signers[0].DigestAlgorithm.Algorithm)
	}
	signer := p7.GetOnlySigner()
	if signer == nil {
		return nil, fmt.Errorf("%w: the signer's certificate is not there", ErrUntrusted)
	}
	if err := checkSigner(signer, p7.Certificates, anchors, now); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUntrusted, err)
	}
	p7.Content = signed.content
	if err := p7.Verify(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUntrusted, err)
	}
	return signed.Text, nil
}

func checkSigner(signer *x509.Certificate, others, anchors []*x509.Certificate, now time.Time) error {
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	sum := sha256.Sum256(signer.Raw)
	for _, anchor := range anchors {
		pinned := sha256.Sum256(anchor.Raw)
		if subtle.ConstantTimeCompare(sum[:], pinned[:]) == 1 {
			return nil
		}
		roots.AddCert(anchor)
	}
	for _, certificate := range others {
		between.AddCert(certificate)
	}
	_, err := signer.Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: between, CurrentTime: now,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	if err != nil {
		return fmt.Errorf("the signer %q: %w", signer.Subject, err)
	}
	return nil
}

// Message is a multipart/signed message taken apart.
type Message struct {
	// content is what the signature is over: the first part, lines ending in CRLF.
	content []byte
	// Text is the content without its header, lines ending in LF. Nobody has checked it.
	Text []byte
	// signature is DER.
	signature []byte
}

// Parse takes a message apart and believes nothing that it says.
func Parse(data []byte) (*Message, error) {
	message, err := mail.ReadMessage(bytes.NewReader(data))
	if err != nil {
		return nil, errors.New("this is no S/MIME message")
	}
	kind, parameters, err := mime.ParseMediaType(message.Header.Get("Content-Type"))
	if err != nil || kind != "multipart/signed" || parameters["boundary"] == "" {
		return nil, fmt.Errorf("this is no signed S/MIME message (content type %q)", kind)
	}
	mark := []byte("\n--" + parameters["boundary"])
	parts := bytes.Split(data, mark)
	if len(parts) != 4 || !bytes.HasPrefix(parts[3], []byte("--")) || len(bytes.TrimSpace(parts[3][2:])) != 0 {
		return nil, errors.New("the S/MIME message has not exactly two parts")
	}
	content, ok := cutLine(parts[1])
	if !ok {
		return nil, errors.New("the S/MIME message has a malformed boundary")
	}
	out := &Message{content: toCRLF(bytes.TrimSuffix(content, []byte("\r")))}
	header, text, ok := bytes.Cut(out.content, []byte("\r\n\r\n"))
	if !ok || !strings.EqualFold(string(header), "Content-Type: text/plain") {
		return nil, errors.New("the signed part is not plain text")
	}
	out.Text = bytes.ReplaceAll(text, []byte("\r\n"), []byte("\n"))
	if out.signature, err = signaturePart(parts[2]); err != nil {
		return nil, err
	}
	return out, nil
}

func signaturePart(part []byte) ([]byte, error) {
	part, ok := cutLine(part)
	if !ok {
		return nil, errors.New("the S/MIME message has a malformed boundary")
	}
	header, body, ok := bytes.Cut(toCRLF(part), []byte("\r\n\r\n"))
	if !ok || !bytes.Contains(bytes.ToLower(header), []byte("pkcs7-signature")) {
		return nil, errors.New("the second part is no signature")
	}
	body = bytes.ReplaceAll(body, []byte("\r\n"), nil)
	der, err := base64.StdEncoding.DecodeString(string(bytes.TrimSpace(body)))
	if err != nil {
		return nil, fmt.Errorf("the signature is not base64: %w", err)
	}
	return der, nil
}

// cutLine removes the rest of the boundary's line.
func cutLine(part []byte) ([]byte, bool) {
	line, rest, ok := bytes.Cut(part, []byte("\n"))
	return rest, ok && len(bytes.TrimSpace(line)) == 0
}

func toCRLF(data []byte) []byte {
	data = bytes.ReplaceAll(data, []byte("\r\n"), []byte("\n"))
	return bytes.ReplaceAll(data, []byte("\n"), []byte("\r\n"))
}
