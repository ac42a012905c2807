package tuf

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// Signer holds one private key, or reaches it in a token.
type Signer interface {
	// Public is an ed25519.PublicKey, an *ecdsa.PublicKey on P-256, or an *rsa.PublicKey
	// of 2048 to 8192 bits.
	Public() crypto.PublicKey
	// Sign signs a message: Ed25519 over the message itself; ECDSA over its SHA-256, in
	// ASN.1; RSA-PSS over its SHA-256, with MGF1 of SHA-256.
	Sign(ctx context.Context, message []byte) ([]byte, error)
}

// Role says who signs a document: Threshold of Keys.
type Role struct {
	// Keys are public keys of the kinds that Signer names, each once.
	Keys []crypto.PublicKey
	// Threshold is how many of them must sign, from 1.
	Threshold int
}

// KeySigner is a Signer with a key that lies in this program's memory, or behind another
// crypto.Signer.
func KeySigner(key crypto.Signer) Signer { return keySigner{key} }

type keySigner struct{ key crypto.Signer }

func (s keySigner) Public() crypto.PublicKey { return s.key.Public() }

func (s keySigner) Sign(_ context.Context, message []byte) ([]byte, error) {
	sum := sha256.Sum256(message)
	switch s.key.Public().(type) {
	case ed25519.PublicKey:
		return s.key.Sign(rand.Reader, message, crypto.Hash(0))
	case *ecdsa.PublicKey:
		return s.key.Sign(rand.Reader, sum[:], crypto.SHA256)
	case *rsa.PublicKey:
		return s.key.Sign(rand.Reader, sum[:], &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: crypto.SHA256})
	}
	return nil, fmt.Errorf("%w: a key of the kind %T cannot sign metadata", ErrKeys, s.key.Public())
}

// KeyID is how the metadata call a public key.
func KeyID(public crypto.PublicKey) (string, error) {
	_, id, err := tufKey(public)
	return id, err
}

func tufKey(public crypto.PublicKey) (*metadata.Key, string, error) {
	key, err := metadata.KeyFromPublicKey(public)
	if err != nil {
		return nil, "", fmt.Errorf("%w: %w", ErrKeys, err)
	}
	if err := checkKey(key); err != nil {
		return nil, "", fmt.Errorf("%w: %w", ErrKeys, err)
	}
	id, err := key.ID()
	if err != nil {
		return nil, "", fmt.Errorf("%w: %w", ErrKeys, err)
	}
	return key, id, nil
}

// keys gives the keys of a role by their ID, and the sorted IDs.
func (r Role) keys(name string) (map[string]*metadata.Key, []string, error) {
	found := map[string]*metadata.Key{}
	ids := []string{}
	for _, public := range r.Keys {
		key, id, err := tufKey(public)
		if err != nil {
			return nil, nil, fmt.Errorf("role %s: %w", name, err)
		}
		found[id], ids = key, append(ids, id)
	}
	slices.Sort(ids)
	if err := checkThreshold(name, ids, r.Threshold, found); err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrKeys, err)
	}
	return found, ids, nil
}

// GenerateKeys makes an Ed25519 key for each name in a folder, for development: NAME.pem,
// PKCS#8, 0600. A key that is there already stays and is used. Keys of a product belong
// into tokens.
func GenerateKeys(dir string, names ...string) (signers []Signer, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making a folder for keys: %w", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("opening the folder for keys: %w", err)
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	for _, name := range names {
		if !nameForm.MatchString(name) {
			return nil, fmt.Errorf("key %q: the name is no file name", name)
		}
		if _, err := root.Stat(name + ".pem"); missing(err) {
			if err := generate(root, name+".pem"); err != nil {
				return nil, fmt.Errorf("making key %s: %w", name, err)
			}
		}
		signer, err := readKey(root, name+".pem")
		if err != nil {
			return nil, fmt.Errorf("reading key %s: %w", name, err)
		}
		signers = append(signers, signer)
	}
	return signers, nil
}

// generate writes a new key whole or not at all; it never replaces one.
func generate(root *os.Root, name string) (err error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	part := "." + name + ".new"
	if err := root.Remove(part); err != nil && !missing(err) {
		return err
	}
	if err := writeNew(root, part, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600); err != nil {
		return err
	}
	return errors.Join(root.Link(part, name), root.Remove(part), syncFolder(root, "."))
}

// maxKeyFile is the largest key file that is read, in bytes.
const maxKeyFile = 64 << 10

func readKey(root *os.Root, name string) (signer Signer, err error) {
	f, err := root.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%w: others can read it: set its mode to 0600, and replace the key if it was ever used", ErrKeys)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxKeyFile))
	if err != nil {
		return nil, err
	}
	return ParseKey(text)
}

// ParseKey reads a private key: PEM, PKCS#8, of a kind that Signer names.
func ParseKey(text []byte) (Signer, error) {
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "PRIVATE KEY" {
		return nil, fmt.Errorf("%w: no PEM block PRIVATE KEY (PKCS#8, without passphrase) in it", ErrKeys)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		// The error of the parser could quote the key.
		return nil, fmt.Errorf("%w: the PEM block is no private key in PKCS#8", ErrKeys)
	}
	key, ok := parsed.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("%w: a key of the kind %T cannot sign", ErrKeys, parsed)
	}
	if _, _, err := tufKey(key.Public()); err != nil {
		return nil, err
	}
	return KeySigner(key), nil
}
