package backup

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"filippo.io/age"
)

// ageMagic is how an encrypted file begins.
const ageMagic = "age-encryption.org/v1\n"

// MaxPassphrase is the longest passphrase, in bytes.
const MaxPassphrase = 1024

// IsEncrypted tells an encrypted archive by its first bytes; 22 of them are enough.
func IsEncrypted(head []byte) bool { return strings.HasPrefix(string(head), ageMagic) }

// HeadSize is how many bytes IsEncrypted looks at.
const HeadSize = len(ageMagic)

// ParseRecipient reads a public key of age, as "age1...".
func ParseRecipient(text string) (age.Recipient, error) {
	if !strings.HasPrefix(text, "age1") {
		return nil, errors.New("the recipient is no public key of age, which begins with \"age1\"; `age-keygen` makes a pair")
	}
	if r, err := age.ParseX25519Recipient(text); err == nil {
		return r, nil
	}
	r, err := age.ParseHybridRecipient(text)
	if err != nil {
		return nil, errors.New("the recipient is no public key of age: it was cut off or mistyped")
	}
	return r, nil
}

// PassphraseRecipient encrypts to a passphrase.
func PassphraseRecipient(passphrase string) (age.Recipient, error) {
	if err := checkPassphrase(passphrase); err != nil {
		return nil, err
	}
	return age.NewScryptRecipient(passphrase)
}

// PassphraseIdentity decrypts with a passphrase.
func PassphraseIdentity(passphrase string) (age.Identity, error) {
	if err := checkPassphrase(passphrase); err != nil {
		return nil, err
	}
	return age.NewScryptIdentity(passphrase)
}

func checkPassphrase(passphrase string) error {
	if passphrase == "" || len(passphrase) > MaxPassphrase {
		return fmt.Errorf("the passphrase has %d bytes: 1 to %d are possible", len(passphrase), MaxPassphrase)
	}
	return nil
}

// Encrypt gives a writer whose content only the recipient can read. It must be closed.
func Encrypt(w io.Writer, to age.Recipient) (io.WriteCloser, error) {
	out, err := age.Encrypt(w, to)
	if err != nil {
		return nil, fmt.Errorf("encrypting the backup: %w", err)
	}
	return out, nil
}

// Decrypt gives the content of an encrypted archive. What is read of it is authentic up to
// there; that it is whole is known at its end.
func Decrypt(r io.Reader, with ...age.Identity) (io.Reader, error) {
	out, err := age.Decrypt(r, with...)
	var none *age.NoIdentityMatchError
	if errors.As(err, &none) {
		return nil, errors.New("decrypting the backup: neither passphrase nor identity opens it")
	}
	if err != nil {
		return nil, fmt.Errorf("decrypting the backup: %w", err)
	}
	return out, nil
}

// ParseIdentities reads a file of private keys of age.
func ParseIdentities(r io.Reader) ([]age.Identity, error) {
	found, err := age.ParseIdentities(r)
	if err != nil {
		return nil, fmt.Errorf("reading the private keys of age: %w", err)
	}
	return found, nil
}
