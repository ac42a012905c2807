package sign

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"

	"github.com/holdfast-os/holdfast/internal/system/run"
)

// Key signs single messages with a key that openssl reaches and this program does not: the
// keys of the trusted metadata, in a token. OpenKey makes one.
type Key struct {
	openssl OpenSSL
	public  crypto.PublicKey
}

// OpenKey asks openssl for the public key of o.Key. Certificate and Chain are not used.
// The kinds are Ed25519, ECDSA on P-256, and RSA of 2048 bits or more.
//
// The attribute "module-path" of a "pkcs11:" URI names the token's library, where o.Module
// does not.
func OpenKey(ctx context.Context, o OpenSSL) (*Key, error) {
	if o.Module == "" {
		module, err := modulePath(o.Key)
		if err != nil {
			return nil, err
		}
		o.Module = module
	}
	k := &Key{openssl: o}
	out, err := k.run(ctx, nil, "pkey", "-pubout", "-in")
	if err != nil {
		return nil, fmt.Errorf("asking for the public key of the signing key: %w", err)
	}
	block, _ := pem.Decode(out)
	if block == nil || block.Type != "PUBLIC KEY" {
		return nil, fmt.Errorf("asking for the public key of the signing key: openssl wrote %d bytes that are none; has the token the public key too?", len(out))
	}
	if k.public, err = x509.ParsePKIXPublicKey(block.Bytes); err != nil {
		return nil, fmt.Errorf("reading the public key of the signing key: %w", err)
	}
	if err := supported(k.public); err != nil {
		return nil, err
	}
	return k, nil
}

func supported(public crypto.PublicKey) error {
	switch p := public.(type) {
	case ed25519.PublicKey:
		return nil
	case *ecdsa.PublicKey:
		if p.Curve == elliptic.P256() {
			return nil
		}
	case *rsa.PublicKey:
		if p.N.BitLen() >= 2048 {
			return nil
		}
	}
	return fmt.Errorf("the signing key is of the kind %T, and not Ed25519, ECDSA on P-256 or RSA of 2048 bits: make another one", public)
}

// modulePath is the token's library that a URI names; empty for none.
func modulePath(uri string) (string, error) {
	_, query, _ := strings.Cut(uri, "?")
	for attribute := range strings.SplitSeq(query, "&") {
		if value, found := strings.CutPrefix(attribute, "module-path="); found {
			module, err := url.PathUnescape(value)
			if err != nil {
				return "", errors.New("reading module-path in the key's URI: a % must be followed by two hexadecimal digits")
			}
			return module, nil
		}
	}
	return "", nil
}

// Public is the public key.
func (k *Key) Public() crypto.PublicKey { return k.public }

// Sign signs a message: Ed25519 over the message itself; ECDSA over its SHA-256, in ASN.1;
// RSA-PSS over its SHA-256. What openssl gives is verified before it is given on.
func (k *Key) Sign(ctx context.Context, message []byte) (signature []byte, err error) {
	digest := sha256.Sum256(message)
	switch k.public.(type) {
	case ed25519.PublicKey:
		signature, err = k.signWhole(ctx, message)
	case *ecdsa.PublicKey:
		signature, err = k.run(ctx, digest[:], "pkeyutl", "-sign", "-pkeyopt", "digest:sha256", "-inkey")
	default:
		signature, err = k.run(ctx, digest[:], "pkeyutl", "-sign", "-pkeyopt", "digest:sha256", "-pkeyopt", "rsa_padding_mode:pss",
			"-pkeyopt", "rsa_pss_saltlen:digest", "-pkeyopt", "rsa_mgf1_md:sha256", "-inkey")
	}
	if err != nil {
		return nil, fmt.Errorf("signing a message: %w", err)
	}
	if !k.verifies(message, digest, signature) {
		return nil, fmt.Errorf("signing a message: the %d bytes that openssl wrote are no signature of this key", len(signature))
	}
	return signature, nil
}

// signWhole hands the message over in a file: openssl wants to know its length for Ed25519.
func (k *Key) signWhole(ctx context.Context, message []byte) (_ []byte, err error) {
	file, err := os.CreateTemp("", "holdfast-sign")
	if err != nil {
		return nil, fmt.Errorf("making a file for the message: %w", err)
	}
	defer func() { err = errors.Join(err, os.Remove(file.Name())) }()
	_, err = file.Write(message)
	if err = errors.Join(err, file.Close()); err != nil {
		return nil, fmt.Errorf("writing the message to a file: %w", err)
	}
	return k.run(ctx, nil, "pkeyutl", "-sign", "-rawin", "-in", file.Name(), "-inkey")
}

func (k *Key) verifies(message []byte, digest [sha256.Size]byte, signature []byte) bool {
	switch p := k.public.(type) {
	case ed25519.PublicKey:
		return ed25519.Verify(p, message, signature)
	case *ecdsa.PublicKey:
		return ecdsa.VerifyASN1(p, digest[:], signature)
	case *rsa.PublicKey:
		return rsa.VerifyPSS(p, crypto.SHA256, digest[:], signature, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash}) == nil
	}
	return false
}

// run starts openssl with arguments that end with the name of an option: the key follows.
func (k *Key) run(ctx context.Context, stdin []byte, args ...string) ([]byte, error) {
	command, err := k.openssl.keyCommand(args, stdin)
	if err != nil {
		return nil, err
	}
	result, err := k.openssl.runner()(ctx, command)
	return result.Stdout, err
}

// keyCommand puts the key behind the arguments, and what openssl needs to reach it.
func (o OpenSSL) keyCommand(args []string, stdin []byte) (run.Command, error) {
	if o.Key == "" {
		return run.Command{}, errors.New("a key is needed")
	}
	reach, env, key, err := o.reach()
	if err != nil {
		return run.Command{}, err
	}
	// The first argument is openssl's command, the last the option that the key belongs to.
	args = append(append(append([]string{args[0]}, reach...), args[1:]...), key)
	return run.Command{Name: o.program(), Args: args, Env: env, Stdin: bytes.NewReader(stdin), Secret: o.inToken()}, nil
}
