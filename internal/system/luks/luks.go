// Package luks is the adapter for LUKS2 volumes: cryptsetup for reading headers and
// opening volumes, systemd-cryptenroll for their keyslots.
//
// Keys reach a program by the path of a file or by its environment, never by an
// argument, which every process could read. A key file is the key byte for byte: a
// line break at its end is part of the key.
package luks

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/holdfast-os/holdfast/internal/system/run"
)

// Host is the machine whose volumes are handled.
type Host struct {
	// Root is the directory that stands for "/".
	Root string
	// Run starts programs: cryptsetup, systemd-cryptenroll.
	Run run.Runner
	// KDF are the arguments of cryptsetup that say how a passphrase of a person is made
	// expensive to guess; default cryptsetup's own, Argon2id of two seconds.
	KDF []string
	// TPM is the TPM as systemd-cryptenroll names it; default "auto".
	TPM string
}

// SlotKind says what opens a keyslot.
type SlotKind string

// The kinds of keyslots. A slot without a token is a password.
const (
	Password SlotKind = "password"
	Recovery SlotKind = "recovery"
	TPM2     SlotKind = "tpm2"
	Other    SlotKind = "other"
)

// Header is what the header of a LUKS2 volume says; it is not authenticated.
type Header struct {
	// Slots are the used keyslots, by number.
	Slots []Slot
	// TPM are the bindings to a TPM.
	TPM []TPMToken
	// Ciphers are the ciphers of the segments, as "aes-xts-plain64". A null cipher
	// among them means that the data is not encrypted at all.
	Ciphers []string
}

// Slot is one used keyslot.
type Slot struct {
	Number int
	Kind   SlotKind
	// KDF is how a key becomes the slot's own, as "argon2id" or "pbkdf2".
	KDF string
}

// TPMToken is one systemd-tpm2 token.
type TPMToken struct {
	// Slots are the keyslots that the TPM opens.
	Slots []int
	// PCRs are bound to exact values.
	PCRs []int
	// Bank is the hash of the PCRs, as "sha256".
	Bank string
	// SignedPCRs are bound to values that PublicKey has signed.
	SignedPCRs []int
	// PublicKey is PEM; empty without a signed policy.
	PublicKey []byte
	// PIN is true when a PIN is needed too.
	PIN bool
	// PCRLock is true when a policy in the TPM's own memory is needed too.
	PCRLock bool
}

// NullCipher is true when some segment is not encrypted.
func (h Header) NullCipher() bool {
	return len(h.Ciphers) == 0 || slices.ContainsFunc(h.Ciphers, func(c string) bool {
		return c == "" || strings.Contains(c, "cipher_null") || strings.HasPrefix(c, "null")
	})
}

// Has is true when some keyslot is of a kind.
func (h Header) Has(kind SlotKind) bool {
	return slices.ContainsFunc(h.Slots, func(s Slot) bool { return s.Kind == kind })
}

// ReadHeader reads the header of the volume on a block device.
func (h Host) ReadHeader(ctx context.Context, device string) (Header, error) {
	result, err := h.Run(ctx, run.Command{Name: "cryptsetup", Args: []string{"luksDump", "--dump-json-metadata", device}})
	if err != nil {
		return Header{}, fmt.Errorf("reading the LUKS header of %s: %w", device, err)
	}
	header, err := ParseHeader(result.Stdout)
	if err != nil {
		return Header{}, fmt.Errorf("reading the LUKS header of %s: %w", device, err)
	}
	return header, nil
}

type metadata struct {
	Keyslots map[string]struct {
		KDF struct {
			Type string `json:"type"`
		} `json:"kdf"`
	} `json:"keyslots"`
	Tokens   map[string]json.RawMessage `json:"tokens"`
	Segments map[string]struct {
		Encryption string `json:"encryption"`
	} `json:"segments"`
}

type token struct {
	Type       string   `json:"type"`
	Keyslots   []string `json:"keyslots"`
	PCRs       []int    `json:"tpm2-pcrs"`
	Bank       string   `json:"tpm2-pcr-bank"`
	PIN        bool     `json:"tpm2-pin"`
	SignedPCRs []int    `json:"tpm2_pubkey_pcrs"`
	PublicKey  []byte   `json:"tpm2_pubkey"`
	PCRLock    bool     `json:"tpm2_pcrlock"`
}

// ParseHeader reads the JSON metadata of a LUKS2 header.
func ParseHeader(data []byte) (Header, error) {
	var raw metadata
	if err := json.Unmarshal(data, &raw); err != nil {
		return Header{}, fmt.Errorf("reading its metadata: %w", err)
	}
	kinds := map[int]SlotKind{}
	for name := range raw.Keyslots {
		number, err := strconv.Atoi(name)
		if err != nil {
			return Header{}, fmt.Errorf("reading its metadata: keyslot %q has no number", name)
		}
		kinds[number] = Password
	}
	var header Header
	for _, id := range sortedKeys(raw.Tokens) {
		var t token
		if err := json.Unmarshal(raw.Tokens[id], &t); err != nil {
			return Header{}, fmt.Errorf("reading its token %s: %w", id, err)
		}
		if err := header.addToken(t, kinds); err != nil {
			return Header{}, fmt.Errorf("reading its token %s: %w", id, err)
		}
	}
	for number, kind := range kinds {
		kdf := raw.Keyslots[strconv.Itoa(number)].KDF.Type
		header.Slots = append(header.Slots, Slot{Number: number, Kind: kind, KDF: kdf})
	}
	slices.SortFunc(header.Slots, func(a, b Slot) int { return a.Number - b.Number })
	for _, id := range sortedKeys(raw.Segments) {
		header.Ciphers = append(header.Ciphers, raw.Segments[id].Encryption)
	}
	return header, nil
}

// addToken notes what opens the keyslots of one token.
func (h *Header) addToken(t token, kinds map[int]SlotKind) error {
	kind, known := map[string]SlotKind{"systemd-tpm2": TPM2, "systemd-recovery": Recovery}[t.Type]
	if !known {
		kind = Other
	}
	var slots []int
	for _, name := range t.Keyslots {
		number, err := strconv.Atoi(name)
		if err != nil {
			return fmt.Errorf("keyslot %q has no number", name)
		}
		if _, used := kinds[number]; used {
			kinds[number] = kind
		}
		slots = append(slots, number)
	}
	if kind == TPM2 {
		h.TPM = append(h.TPM, TPMToken{
			Slots: slots, PCRs: t.PCRs, Bank: t.Bank, SignedPCRs: t.SignedPCRs,
			PublicKey: t.PublicKey, PIN: t.PIN, PCRLock: t.PCRLock,
		})
	}
	return nil
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for key := range m {
		keys = append(keys, key)
	}
	// By length first, so that 10 comes after 9.
	slices.SortFunc(keys, func(a, b string) int {
		if len(a) != len(b) {
			return len(a) - len(b)
		}
		return strings.Compare(a, b)
	})
	return keys
}

// IsOpen is true when /dev/mapper has a volume of that name.
func (h Host) IsOpen(name string) (bool, error) {
	_, err := os.Lstat(filepath.Join(h.Root, "dev/mapper", name))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("looking for the open volume %s: %w", name, err)
	}
	return true, nil
}

// Open opens a volume as /dev/mapper/name with the key in a file. A volume that is
// open already is left alone.
func (h Host) Open(ctx context.Context, name, device, keyFile string) error {
	open, err := h.IsOpen(name)
	if err != nil || open {
		return err
	}
	return h.do(ctx, "opening "+device+" as "+name, run.Command{
		Name: "cryptsetup", Args: []string{"open", "--type=luks2", "--key-file=" + keyFile, device, name},
	})
}

// Close closes a volume; one that is not open is no error.
func (h Host) Close(ctx context.Context, name string) error {
	open, err := h.IsOpen(name)
	if err != nil || !open {
		return err
	}
	return h.do(ctx, "closing the volume "+name, run.Command{Name: "cryptsetup", Args: []string{"close", name}})
}

// CheckKey finds out whether the key in a file opens a volume, without opening it.
func (h Host) CheckKey(ctx context.Context, device, keyFile string) (bool, error) {
	return h.checkKey(ctx, device, keyFile)
}

func (h Host) checkKey(ctx context.Context, device, keyFile string, more ...string) (bool, error) {
	args := append([]string{"open", "--test-passphrase", "--type=luks2", "--key-file=" + keyFile}, more...)
	_, err := h.Run(ctx, run.Command{Name: "cryptsetup", Args: append(args, device)})
	const noKey = 2
	if code, ended := run.ExitCode(err); ended && code == noKey {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("checking a key of %s: %w", device, err)
	}
	return true, nil
}

func (h Host) do(ctx context.Context, doing string, c run.Command) error {
	if _, err := h.Run(ctx, c); err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	return nil
}

// trim is for keys that a person typed or that were read from a program.
func trim(key []byte) []byte { return bytes.TrimRight(key, "\r\n") }
