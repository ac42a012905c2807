// Package imageauth lets a node prove to an image server which machine it is.
//
// # Parties
//
// The node has a machine ID and a key that its TPM keeps (the package takes any
// crypto.Signer with a P-256 key). The image server has the certificate with which proofs
// are encrypted, and the key for it. An owner has a token that lets a node register once.
//
// # The proof
//
//	<machine ID>:<A>:<B>
//
//	document  {"machine_id":"...","timestamp":<Unix seconds>}
//	envelope  DER of a CMS EnvelopedData of the document: AES-256-CBC, RSA for the server
//	A         base64 without padding (gzip -9 (envelope))
//	B         base64 without padding (gzip -9 (DER of the ECDSA-SHA256 signature of the envelope))
//
// It goes into the header X-IncusOS-Authentication, or into the query as "token", of every
// request but that of the registration. The registration is POST <server>/register with the
// document below, or GET <server>/register/<random UUID>?token=<base64url without padding>
// where headers and bodies do not get through.
//
//	{"machine_id":"...","token":"<the owner's>","public_key":"<PEM>","initial":"<a proof>"}
//
// # What always holds
//
// A proof goes to the server that it was made for and to no other; each request has a new
// one. Neither a proof nor the owner's token stands in an error.
//
// # What can fail
//
// A proof tells the time, so a node whose clock is wrong is refused until NTP has set it. A
// proof that somebody overheard is good for as long as the server takes its time stamp:
// use https.
package imageauth

import (
	"bytes"
	"compress/gzip"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"regexp"
	"time"
)

// Signer is the node's key: P-256, for ECDSA. Its Sign gives DER. internal/system/tpmkey has
// one that a TPM keeps.
type Signer = crypto.Signer

// Options make an Authenticator.
type Options struct {
	// MachineID is 32 lower-case hexadecimal digits.
	MachineID string
	// Certificate is the image server's, with an RSA key.
	Certificate *x509.Certificate
	// Key is the node's.
	Key Signer
	// Now is the clock; default time.Now.
	Now func() time.Time
	// Random is where keys and UUIDs come from; default crypto/rand.
	Random io.Reader
}

// Authenticator makes proofs. It is safe for several goroutines if its key is.
type Authenticator struct {
	machineID string
	recipient *x509.Certificate
	key       Signer
	publicKey string
	now       func() time.Time
	random    io.Reader
}

var machineIDForm = regexp.MustCompile(`^[0-9a-f]{32}$`)

// New checks the options.
func New(o Options) (*Authenticator, error) {
	if !machineIDForm.MatchString(o.MachineID) {
		return nil, fmt.Errorf("preparing the authentication at the image server: the machine ID %q is not 32 hexadecimal digits", o.MachineID)
	}
	if o.Certificate == nil || o.Key == nil {
		return nil, errors.New("preparing the authentication at the image server: this node has no certificate of the image server, or no key")
	}
	if _, ok := o.Certificate.PublicKey.(*rsa.PublicKey); !ok {
		return nil, fmt.Errorf("preparing the authentication at the image server: its certificate has a key %T, RSA is needed", o.Certificate.PublicKey)
	}
	public, ok := o.Key.Public().(*ecdsa.PublicKey)
	if !ok || public.Curve != elliptic.P256() {
		return nil, errors.New("preparing the authentication at the image server: the node's key is not one of the curve P-256")
	}
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return nil, fmt.Errorf("writing the node's public key: %w", err)
	}
	a := &Authenticator{machineID: o.MachineID, recipient: o.Certificate, key: o.Key, now: o.Now, random: o.Random,
		publicKey: string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))}
	if a.now == nil {
		a.now = time.Now
	}
	if a.random == nil {
		a.random = rand.Reader
	}
	return a, nil
}

// document is what a proof says.
type document struct {
	MachineID string `json:"machine_id"`
	Timestamp int64  `json:"timestamp"`
}

// Proof makes a new proof. It is a secret for as long as the server takes it.
func (a *Authenticator) Proof() (string, error) {
	text, err := json.Marshal(document{a.machineID, a.now().UTC().Unix()})
	if err != nil {
		return "", fmt.Errorf("writing the proof for the image server: %w", err)
	}
	envelope, err := encrypt(text, a.recipient, a.random)
	if err != nil {
		return "", fmt.Errorf("encrypting the proof for the image server: %w", err)
	}
	digest := sha256.Sum256(envelope)
	signature, err := a.key.Sign(a.random, digest[:], crypto.SHA256)
	if err != nil {
		return "", fmt.Errorf("signing the proof for the image server: %w", err)
	}
	first, err := pack(envelope)
	if err != nil {
		return "", err
	}
	second, err := pack(signature)
	if err != nil {
		return "", err
	}
	return a.machineID + ":" + first + ":" + second, nil
}

// pack gives unpadded base64 of gzip.
func pack(data []byte) (string, error) {
	var out bytes.Buffer
	w, err := gzip.NewWriterLevel(&out, gzip.BestCompression)
	if err != nil {
		return "", fmt.Errorf("packing the proof for the image server: %w", err)
	}
	if _, err := w.Write(data); err != nil {
		return "", fmt.Errorf("packing the proof for the image server: %w", err)
	}
	if err := w.Close(); err != nil {
		return "", fmt.Errorf("packing the proof for the image server: %w", err)
	}
	return base64.RawStdEncoding.EncodeToString(out.Bytes()), nil
}
