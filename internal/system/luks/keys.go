package luks

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/holdfast-os/holdfast/internal/system/run"
)

// MaxKey is the longest key, in bytes: what cryptsetup reads from a person.
const MaxKey = 512

// ErrNoKey means that none of the keys at hand opens a volume.
var ErrNoKey = errors.New("none of the keys opens the volume")

// Opens finds out whether a key opens a volume, without opening it.
func (h Host) Opens(ctx context.Context, device, key string) (opens bool, err error) {
	err = h.withKey(key, func(file string) error {
		opens, err = h.CheckKey(ctx, device, file)
		return err
	})
	return opens, err
}

// Working gives the first of the keys that opens a volume; ErrNoKey, wrapped, when none
// does.
func (h Host) Working(ctx context.Context, device string, keys []string) (string, error) {
	for _, key := range keys {
		opens, err := h.Opens(ctx, device, key)
		if err != nil {
			return "", err
		}
		if opens {
			return key, nil
		}
	}
	return "", fmt.Errorf("%s, %d keys: %w", device, len(keys), ErrNoKey)
}

// Enroll makes a key open a volume, in a keyslot of its own, and checks that it does. A
// key that opens it already is left alone, so that Enroll can be called again. keyFile
// holds a key that opens the volume.
func (h Host) Enroll(ctx context.Context, device, keyFile, key string) error {
	return h.withKey(key, func(file string) error {
		opens, err := h.CheckKey(ctx, device, file)
		if err != nil || opens {
			return err
		}
		args := []string{"luksAddKey", "--batch-mode", "--key-file=" + keyFile}
		args = append(args, h.kdf(key)...)
		if err := h.do(ctx, "adding a key to "+device, run.Command{Name: "cryptsetup", Args: append(args, device, file)}); err != nil {
			return err
		}
		if opens, err = h.CheckKey(ctx, device, file); err == nil && !opens {
			err = fmt.Errorf("the key that was added to %s does not open it", device)
		}
		return err
	})
}

// kdf is light for a generated key: 256 random bits need no more, and the machine starts
// sooner. systemd-cryptenroll does the same with its recovery keys.
func (h Host) kdf(key string) []string {
	if IsRecoveryKey(key) {
		return []string{"--pbkdf=pbkdf2", "--pbkdf-force-iterations=1000"}
	}
	return h.KDF
}

// Lighten gives the keyslot of a generated key the light derivation that Enroll gives it:
// systemd-repart makes keyslots as for a password, and each start would pay for that. A
// volume that has a light one already, and a key that a person chose, are left alone.
func (h Host) Lighten(ctx context.Context, device, key string) error {
	if !IsRecoveryKey(key) {
		return nil
	}
	header, err := h.ReadHeader(ctx, device)
	if err != nil {
		return err
	}
	for _, slot := range header.Slots {
		if slot.typed() && slot.KDF == "pbkdf2" {
			return nil
		}
	}
	slots, err := h.slotsOf(ctx, device, key, header)
	if err != nil || len(slots) == 0 {
		return err
	}
	return h.withKey(key, func(file string) error {
		args := []string{"luksConvertKey", "--batch-mode", "--key-slot=" + strconv.Itoa(slots[0]), "--key-file=" + file}
		args = append(args, h.kdf(key)...)
		return h.do(ctx, "making the generated key of "+device+" quick to use", run.Command{Name: "cryptsetup", Args: append(args, device)})
	})
}

// KeepOnly removes every keyslot for a password or a recovery key that none of the keys
// opens; bindings to a TPM stay. Nothing is removed unless each of the keys opens the
// volume, so it cannot be locked. It may be called again after it was cut short.
func (h Host) KeepOnly(ctx context.Context, device string, keys []string) error {
	if len(keys) == 0 {
		return fmt.Errorf("removing keys from %s: no key would be left", device)
	}
	header, err := h.ReadHeader(ctx, device)
	if err != nil {
		return err
	}
	keep := map[int]bool{}
	for i, key := range keys {
		found, err := h.slotsOf(ctx, device, key, header)
		if err != nil {
			return err
		}
		if len(found) == 0 {
			return fmt.Errorf("removing keys from %s: key %d of those to keep does not open it, so all are kept", device, i+1)
		}
		for _, slot := range found {
			keep[slot] = true
		}
	}
	return h.withKey(keys[0], func(file string) error {
		for _, slot := range header.Slots {
			if keep[slot.Number] || !slot.typed() {
				continue
			}
			// cryptsetup itself refuses unless the key opens another slot.
			err := h.do(ctx, fmt.Sprintf("removing keyslot %d of %s", slot.Number, device), run.Command{
				Name: "cryptsetup", Args: []string{"luksKillSlot", "--key-file=" + file, device, strconv.Itoa(slot.Number)},
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// slotsOf gives the keyslots that a key opens, of those that a person can use.
func (h Host) slotsOf(ctx context.Context, device, key string, header Header) (slots []int, err error) {
	err = h.withKey(key, func(file string) error {
		for _, slot := range header.Slots {
			if !slot.typed() {
				continue
			}
			opens, err := h.checkKey(ctx, device, file, "--key-slot="+strconv.Itoa(slot.Number))
			if err != nil {
				return err
			}
			if opens {
				slots = append(slots, slot.Number)
			}
		}
		return nil
	})
	return slots, err
}

// typed is true for a slot that opens with what a person types.
func (s Slot) typed() bool { return s.Kind == Password || s.Kind == Recovery }

// KeepKey writes the key that the node itself uses, readable by root alone. It is on the
// disk for good when this returns: only then may the key of before be removed.
func (h Host) KeepKey(path, key string) error {
	if err := keepKey(filepath.Join(h.Root, path), key); err != nil {
		return fmt.Errorf("keeping the node's recovery key in %s: %w", path, err)
	}
	return nil
}

func keepKey(path, key string) (err error) {
	if err := usable(key); err != nil {
		return err
	}
	file, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	_, err = file.WriteString(key)
	err = errors.Join(err, file.Chmod(0o400), file.Sync(), file.Close())
	if err == nil {
		err = os.Rename(file.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(file.Name()))
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// withKey hands a key to a program as a file in memory that root alone can read, and
// removes it.
func (h Host) withKey(key string, use func(file string) error) (err error) {
	if err := usable(key); err != nil {
		return err
	}
	dir := filepath.Join(h.Root, "run/holdfast/keys")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("making a place for a key: %w", err)
	}
	file, err := os.CreateTemp(dir, "key")
	if err != nil {
		return fmt.Errorf("making a file for a key: %w", err)
	}
	defer func() { err = errors.Join(err, os.Remove(file.Name())) }()
	_, err = file.WriteString(key)
	if err = errors.Join(err, file.Close()); err != nil {
		return fmt.Errorf("writing a key: %w", err)
	}
	return use(file.Name())
}

// usable refuses what cannot be a key.
func usable(key string) error {
	if key == "" || len(key) > MaxKey || strings.ContainsAny(key, "\n\x00") {
		return fmt.Errorf("the key is empty, longer than %d bytes or has a line break", MaxKey)
	}
	return nil
}
