package seed

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"filippo.io/age"
	"filippo.io/age/armor"
)

// sealedEnding is added to the name of a document that is encrypted.
const sealedEnding = ".age"

// Limits on what concerns sealed documents.
const (
	// MaxKey is the longest key or passphrase, in bytes.
	MaxKey = 4096
	// maxWorkFactor is the greatest work that a passphrase may cost, as the logarithm of
	// scrypt's N: 18 is what age itself writes, and needs 256 MiB of memory for a second. A
	// header can ask for any; 22 would take the memory of a whole node.
	maxWorkFactor = 18
	// sealWorkFactor is what Seal writes.
	sealWorkFactor = 18
	// maxSealed is the largest sealed member in bytes: one of MaxMember with armour.
	maxSealed = MaxMember
)

// Rules of a sealed document that cannot be opened.
const (
	// RuleSealed is the rule of a document for which there is no key at all.
	RuleSealed = "sealed"
	// RuleKey is the rule of a document that none of the keys opens.
	RuleKey = "key"
)

const ageMagic = "age-encryption.org/v1\n"

// SealedName tells whether a file of that name is sealed.
func SealedName(file string) bool { return strings.HasSuffix(file, sealedEnding) }

// IsSealed tells whether a text is encrypted with age, with armour or without.
func IsSealed(data []byte) bool {
	return bytes.HasPrefix(data, []byte(ageMagic)) || bytes.HasPrefix(bytes.TrimLeft(data, " \t\r\n"), []byte(armor.Header))
}

// checkSealed looks at what can be seen without a key.
func checkSealed(file string, data []byte) error {
	if len(data) > maxSealed {
		return &Problem{File: file, Rule: "limit", Text: fmt.Sprintf("%d bytes, at most %d are read", len(data), maxSealed)}
	}
	if !IsSealed(data) {
		return &Problem{File: file, Rule: RuleSealed, Text: "the name ends in .age, and the file is not encrypted with age: seal it, or name it without .age"}
	}
	return nil
}

// ParseKeys reads what opens sealed documents: private keys of age, one a line and with
// comments as age-keygen writes them, or else one line with a passphrase. The text is in
// no error.
func ParseKeys(text string) ([]age.Identity, error) {
	if len(text) > MaxKey {
		return nil, fmt.Errorf("the key has more than %d bytes: want private keys of age, or a passphrase in one line", MaxKey)
	}
	var lines []string
	keys := false
	for line := range strings.SplitSeq(text, "\n") {
		line = strings.TrimSuffix(line, "\r")
		keys = keys || strings.HasPrefix(line, "AGE-SECRET-KEY-")
		if line != "" {
			lines = append(lines, line)
		}
	}
	if keys {
		found, err := age.ParseIdentities(strings.NewReader(text))
		if err != nil {
			return nil, errors.New("a line that should be a private key of age (AGE-SECRET-KEY-...) is none: it was cut off or mistyped")
		}
		return found, nil
	}
	if len(lines) != 1 {
		return nil, fmt.Errorf("%d lines and no private key of age: want private keys of age, or a passphrase in one line", len(lines))
	}
	identity, err := age.NewScryptIdentity(lines[0])
	if err != nil {
		return nil, errors.New("the passphrase cannot be used")
	}
	identity.SetMaxWorkFactor(maxWorkFactor)
	return []age.Identity{identity}, nil
}

// Recipients makes those that a document is sealed to: public keys of age, as "age1...",
// or a passphrase. A passphrase goes with nothing else.
func Recipients(public []string, passphrase string) ([]age.Recipient, error) {
	if passphrase != "" && len(public) > 0 {
		return nil, errors.New("a seed is sealed to a passphrase or to public keys, not to both")
	}
	if passphrase != "" {
		if strings.ContainsAny(passphrase, "\r\n") || strings.HasPrefix(passphrase, "AGE-SECRET-KEY-") {
			return nil, errors.New("the passphrase is one line, and no private key of age")
		}
		to, err := age.NewScryptRecipient(passphrase)
		if err != nil {
			return nil, errors.New("the passphrase cannot be used")
		}
		to.SetWorkFactor(sealWorkFactor)
		return []age.Recipient{to}, nil
	}
	var all []age.Recipient
	for _, text := range public {
		to, err := parseRecipient(text)
		if err != nil {
			return nil, err
		}
		all = append(all, to)
	}
	if len(all) == 0 {
		return nil, errors.New("a seed is sealed to a public key of age or to a passphrase, and there is neither")
	}
	return all, nil
}

func parseRecipient(text string) (age.Recipient, error) {
	if to, err := age.ParseX25519Recipient(text); err == nil {
		return to, nil
	}
	if to, err := age.ParseHybridRecipient(text); err == nil {
		return to, nil
	}
	return nil, fmt.Errorf("%.40q is no public key of age, which begins with \"age1\"", text)
}

// NewKey makes a pair of keys: the private one as ParseKeys reads it, and its public one
// for Recipients.
func NewKey() (private, public string, err error) {
	key, err := age.GenerateX25519Identity()
	if err != nil {
		return "", "", fmt.Errorf("making a key of age: %w", err)
	}
	return key.String(), key.Recipient().String(), nil
}

// Seal encrypts a document, with armour: it can be mailed and pasted. The document is
// checked first, since nobody sees a mistake in it afterwards. The name of the sealed file
// is in the answer, as "network.yaml.age".
func Seal(file string, data []byte, to ...age.Recipient) (Member, error) {
	if SealedName(file) {
		return Member{}, &Problem{File: file, Rule: RuleSealed, Text: "the document is sealed already"}
	}
	if err := new(Set).Decode(file, data); err != nil {
		return Member{}, err
	}
	var out bytes.Buffer
	text := armor.NewWriter(&out)
	w, err := age.Encrypt(text, to...)
	if err == nil {
		_, err = w.Write(data)
	}
	if err == nil {
		err = errors.Join(w.Close(), text.Close())
	}
	if err != nil {
		return Member{}, fmt.Errorf("sealing %s: %w", file, err)
	}
	sealed := Member{file + sealedEnding, out.Bytes()}
	return sealed, checkSealed(sealed.Name, sealed.Data)
}

// Open reads the sealed documents of a set with keys. Those that it cannot open stay in
// Sealed; the error joins a *Problem for each. What opens and is no sound document is a
// problem as it would be in the open.
func (s *Set) Open(keys ...age.Identity) error {
	var problems []error
	sealed := s.Sealed
	s.Sealed = nil
	for _, m := range sealed {
		data, err := Unseal(m, keys...)
		if err != nil {
			s.Sealed = append(s.Sealed, m)
			problems = append(problems, err)
			continue
		}
		if err := s.Decode(strings.TrimSuffix(m.Name, sealedEnding), data); err != nil {
			problems = append(problems, err)
		}
	}
	return errors.Join(problems...)
}

// Unseal gives the text of a sealed document: the whole of it, or a *Problem. What is
// authentic at its beginning may have been cut off behind.
func Unseal(m Member, keys ...age.Identity) ([]byte, error) {
	problem := func(rule, text string) error { return &Problem{File: m.Name, Rule: rule, Text: text} }
	if len(keys) == 0 {
		return nil, problem(RuleSealed, "the document is sealed, and no key is at hand")
	}
	damaged := func(err error) error {
		return problem("damaged", fmt.Sprintf("the sealed document cannot be read, it was changed or cut off: seal it again: %v", err))
	}
	sealed := m.Data
	if !bytes.HasPrefix(sealed, []byte(ageMagic)) {
		var err error
		if sealed, err = io.ReadAll(armor.NewReader(bufio.NewReader(bytes.NewReader(sealed)))); err != nil {
			return nil, damaged(err)
		}
	}
	if work := workFactor(sealed); work > maxWorkFactor {
		return nil, problem("limit", fmt.Sprintf("to try a passphrase on it would cost 2^%d steps, and 2^%d is the most that a node takes: seal it with holdfast seed seal", work, maxWorkFactor))
	}
	out, err := age.Decrypt(bytes.NewReader(sealed), keys...)
	var none *age.NoIdentityMatchError
	if errors.As(err, &none) {
		return nil, problem(RuleKey, "the key or passphrase at hand does not open it: it is sealed to another")
	}
	if err != nil {
		return nil, damaged(err)
	}
	data, err := io.ReadAll(out)
	if err != nil {
		return nil, damaged(err)
	}
	return data, nil
}

// workFactor is the greatest one that the header asks for; 0 without a passphrase. The
// header is text up to a line that begins with "---". (C2SP, age.md)
func workFactor(sealed []byte) int {
	greatest := 0
	for line := range bytes.Lines(sealed) {
		if bytes.HasPrefix(line, []byte("---")) {
			break
		}
		if fields := strings.Fields(string(line)); len(fields) == 4 && fields[0] == "->" && fields[1] == "scrypt" {
			if n, err := strconv.Atoi(fields[3]); err == nil {
				greatest = max(greatest, n)
			}
		}
	}
	return greatest
}
