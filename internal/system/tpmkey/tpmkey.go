// Package tpmkey keeps a signing key in the machine's TPM 2.0: P-256, for ECDSA with
// SHA-256.
//
// The private key never leaves the TPM in clear. What lies on the disk are the two blobs
// that TPM2_Create gave (the public part, and the private part wrapped for this TPM), in
// one file, so that a power cut leaves both or none. To sign, a parent is made anew out of
// the owner hierarchy's seed (the ECC template for storage keys of the TCG, which gives the
// same key each time), the blobs are loaded under it, used and flushed again: the TPM's few
// slots for keys stay free, and its NV memory is not touched.
//
// Invariants: the directory is 0700 and the file 0600; a key is on the disk before anybody
// sees its public part; one Store talks to the TPM for one call at a time.
//
// What can fail: no TPM, or one whose owner hierarchy has a password (an error of the TPM);
// a TPM that was cleared or exchanged, or a disk moved to another machine (ErrForeign: Reset,
// and register the new key); a damaged file (ErrDamaged: the same).
package tpmkey

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"encoding/asn1"
	"errors"
	"fmt"
	"io"
	"math/big"
	"os"
	"path/filepath"
	"sync"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
	"github.com/google/go-tpm/tpm2/transport/linuxtpm"
)

// Device is the kernel's TPM, with its resource manager.
const Device = "/dev/tpmrm0"

var (
	// ErrForeign: the key on the disk is not of this TPM.
	ErrForeign = errors.New("the key belongs to another TPM, or to this one before it was cleared")
	// ErrDamaged: the file is not one of this package.
	ErrDamaged = errors.New("the file of the key is damaged")
)

// Store is the place of one key.
type Store struct {
	// Dir holds the key; it is made, 0700, with the key.
	Dir string
	// Open connects to the TPM; default Device. It is closed after each use.
	Open func() (transport.TPMCloser, error)

	mu sync.Mutex
}

// file is the name of the key's file in Dir, and magic its first bytes.
const (
	file    = "image-auth.key"
	magic   = "HOLDFAST-TPM-KEY-1\n"
	maxFile = 4096
)

// blobs are a key at rest.
type blobs struct {
	public  tpm2.TPM2BPublic
	private tpm2.TPM2BPrivate
}

// Key is a signing key in the TPM: a crypto.Signer that gives DER.
type Key struct {
	store  *Store
	blobs  blobs
	public *ecdsa.PublicKey
}

var _ crypto.Signer = (*Key)(nil)

// Key gives the key, and makes it when there is none. A key that is there was not asked
// whether the TPM takes it: Sign tells.
func (s *Store) Key() (*Key, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	path := filepath.Join(s.Dir, file)
	found, err := read(path)
	if errors.Is(err, os.ErrNotExist) {
		if found, err = s.create(); err == nil {
			err = found.write(s.Dir)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("getting the TPM key %s: %w", path, err)
	}
	public, err := found.publicKey()
	if err != nil {
		return nil, fmt.Errorf("getting the TPM key %s: %w", path, err)
	}
	return &Key{store: s, blobs: found, public: public}, nil
}

// Reset forgets the key; the next call of Key makes another one. No key is no error.
func (s *Store) Reset() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := os.Remove(filepath.Join(s.Dir, file)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("forgetting the TPM key: %w", err)
	}
	return nil
}

// Public is an *ecdsa.PublicKey of the curve P-256.
func (k *Key) Public() crypto.PublicKey { return k.public }

// Sign gives the signature of a SHA-256 digest as DER. The TPM has its own random source.
// ErrForeign when the TPM does not take the key.
func (k *Key) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if opts == nil || opts.HashFunc() != crypto.SHA256 || len(digest) != crypto.SHA256.Size() {
		return nil, errors.New("signing with the TPM: it takes a digest of SHA-256 alone")
	}
	k.store.mu.Lock()
	defer k.store.mu.Unlock()
	var der []byte
	err := k.store.withParent(func(t transport.TPM, parent tpm2.AuthHandle) (err error) {
		der, err = k.blobs.sign(t, parent, digest)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("signing with the TPM: %w", err)
	}
	// A TPM that answers nonsense would otherwise be found out by the server.
	if !ecdsa.VerifyASN1(k.public, digest, der) {
		return nil, errors.New("signing with the TPM: its signature does not fit its key")
	}
	return der, nil
}

// template is that of the key: it signs, and never leaves this TPM. With NoDA a wrong
// password elsewhere, that locks the TPM for a while, does not lock this key.
var template = tpm2.TPMTPublic{
	Type: tpm2.TPMAlgECC, NameAlg: tpm2.TPMAlgSHA256,
	ObjectAttributes: tpm2.TPMAObject{FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true, NoDA: true, SignEncrypt: true},
	Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{
		Scheme: tpm2.TPMTECCScheme{Scheme: tpm2.TPMAlgECDSA,
			Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSigSchemeECDSA{HashAlg: tpm2.TPMAlgSHA256})},
		CurveID: tpm2.TPMECCNistP256,
	}),
}

// withParent opens the TPM and makes the parent of keys for the time of one call.
func (s *Store) withParent(do func(t transport.TPM, parent tpm2.AuthHandle) error) (err error) {
	open := s.Open
	if open == nil {
		open = func() (transport.TPMCloser, error) { return linuxtpm.Open(Device) }
	}
	t, err := open()
	if err != nil {
		return fmt.Errorf("opening the TPM: %w", err)
	}
	defer func() { err = errors.Join(err, t.Close()) }()
	made, err := tpm2.CreatePrimary{
		PrimaryHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)},
		InPublic:      tpm2.New2B(tpm2.ECCSRKTemplate),
	}.Execute(t)
	if err != nil {
		return fmt.Errorf("making the parent of the key: %w", err)
	}
	defer func() { err = errors.Join(err, flush(t, made.ObjectHandle)) }()
	return do(t, tpm2.AuthHandle{Handle: made.ObjectHandle, Name: made.Name, Auth: tpm2.PasswordAuth(nil)})
}

func flush(t transport.TPM, handle tpm2.TPMHandle) error {
	if _, err := (tpm2.FlushContext{FlushHandle: handle}).Execute(t); err != nil {
		return fmt.Errorf("taking a key out of the TPM's memory: %w", err)
	}
	return nil
}

func (s *Store) create() (made blobs, err error) {
	err = s.withParent(func(t transport.TPM, parent tpm2.AuthHandle) error {
		created, err := tpm2.Create{ParentHandle: parent, InPublic: tpm2.New2B(template)}.Execute(t)
		if err != nil {
			return fmt.Errorf("making a key: %w", err)
		}
		made = blobs{created.OutPublic, created.OutPrivate}
		return nil
	})
	return made, err
}

// sign loads the key, uses it, and takes it out again.
func (b blobs) sign(t transport.TPM, parent tpm2.AuthHandle, digest []byte) (der []byte, err error) {
	loaded, err := tpm2.Load{ParentHandle: parent, InPrivate: b.private, InPublic: b.public}.Execute(t)
	if errors.Is(err, tpm2.TPMRCIntegrity) {
		return nil, fmt.Errorf("%w: %w", ErrForeign, err)
	}
	if err != nil {
		return nil, fmt.Errorf("loading the key: %w", err)
	}
	defer func() { err = errors.Join(err, flush(t, loaded.ObjectHandle)) }()
	signed, err := tpm2.Sign{
		KeyHandle: tpm2.AuthHandle{Handle: loaded.ObjectHandle, Name: loaded.Name, Auth: tpm2.PasswordAuth(nil)},
		Digest:    tpm2.TPM2BDigest{Buffer: digest},
		InScheme: tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgECDSA,
			Details: tpm2.NewTPMUSigScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSchemeHash{HashAlg: tpm2.TPMAlgSHA256})},
		Validation: tpm2.TPMTTKHashCheck{Tag: tpm2.TPMSTHashCheck},
	}.Execute(t)
	if err != nil {
		return nil, fmt.Errorf("using the key: %w", err)
	}
	numbers, err := signed.Signature.Signature.ECDSA()
	if err != nil {
		return nil, fmt.Errorf("reading the signature: %w", err)
	}
	return asn1.Marshal(struct{ R, S *big.Int }{
		new(big.Int).SetBytes(numbers.SignatureR.Buffer), new(big.Int).SetBytes(numbers.SignatureS.Buffer)})
}

// publicKey reads the public part; ErrDamaged when it is not one of template's kind.
func (b blobs) publicKey() (*ecdsa.PublicKey, error) {
	public, err := b.public.Contents()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if public.Type != tpm2.TPMAlgECC {
		return nil, fmt.Errorf("%w: it is not one of an elliptic curve", ErrDamaged)
	}
	parameters, err := public.Parameters.ECCDetail()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	point, err := public.Unique.ECC()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if parameters.CurveID != tpm2.TPMECCNistP256 || len(point.X.Buffer) > 32 || len(point.Y.Buffer) > 32 {
		return nil, fmt.Errorf("%w: it is not one of the curve P-256", ErrDamaged)
	}
	// Numbers with leading zeros are shorter in what some TPMs write.
	raw := make([]byte, 65)
	raw[0] = 4
	copy(raw[33-len(point.X.Buffer):33], point.X.Buffer)
	copy(raw[65-len(point.Y.Buffer):], point.Y.Buffer)
	key, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), raw)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return key, nil
}

// read reads a key's file.
func read(path string) (found blobs, err error) {
	f, err := os.Open(path)
	if err != nil {
		return blobs{}, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return blobs{}, err
	}
	return parse(text)
}

// parse takes a key's file apart.
func parse(text []byte) (blobs, error) {
	rest, ours := bytes.CutPrefix(text, []byte(magic))
	if !ours || len(text) > maxFile {
		return blobs{}, ErrDamaged
	}
	public, rest, err := cut(rest)
	if err != nil {
		return blobs{}, err
	}
	private, rest, err := cut(rest)
	if err != nil {
		return blobs{}, err
	}
	if len(rest) > 0 {
		return blobs{}, fmt.Errorf("%w: there is something behind the key", ErrDamaged)
	}
	return blobs{public: tpm2.BytesAs2B[tpm2.TPMTPublic](public), private: tpm2.TPM2BPrivate{Buffer: private}}, nil
}

// cut takes bytes with their length in front, two bytes, as a TPM writes them.
func cut(text []byte) (part, rest []byte, err error) {
	if len(text) < 2 {
		return nil, nil, fmt.Errorf("%w: it is cut off", ErrDamaged)
	}
	n := int(text[0])<<8 | int(text[1])
	if n == 0 || len(text) < 2+n {
		return nil, nil, fmt.Errorf("%w: it is cut off", ErrDamaged)
	}
	return text[2 : 2+n], text[2+n:], nil
}

// write puts the key on the disk, whole or not at all.
func (b blobs) write(dir string) (err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("making the directory of the key: %w", err)
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return fmt.Errorf("closing the directory of the key: %w", err)
	}
	// CreateTemp's files are 0600.
	f, err := os.CreateTemp(dir, file+".*")
	if err != nil {
		return fmt.Errorf("writing the key: %w", err)
	}
	text := append([]byte(magic), tpm2.Marshal(b.public)...)
	text = append(text, tpm2.Marshal(b.private)...)
	_, err = f.Write(text)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), filepath.Join(dir, file))
	}
	if err != nil {
		return errors.Join(fmt.Errorf("writing the key: %w", err), os.Remove(f.Name()))
	}
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("writing the key: %w", err)
	}
	return errors.Join(d.Sync(), d.Close())
}
