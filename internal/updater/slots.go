package updater

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/holdfast-os/holdfast/api/release"
	"github.com/holdfast-os/holdfast/internal/system/bootloader"
	"github.com/holdfast-os/holdfast/internal/update"
)

// Slots is systemd-boot's view of a System.
type Slots struct {
	*System
	// BootID and Uptime are the kernel's.
	BootID func() (string, error)
	Uptime func() time.Duration
}

// BootID reads the kernel's id of this boot.
func BootID() (string, error) {
	text, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("reading the id of this boot: %w", err)
	}
	return string(bytes.TrimSpace(text)), nil
}

// Look is part of update.Slots.
func (s Slots) Look(context.Context) (update.Machine, error) {
	id, err := s.BootID()
	if err != nil {
		return update.Machine{}, err
	}
	state, err := s.Loader.Read()
	if err != nil {
		return update.Machine{}, err
	}
	m := update.Machine{BootID: id, Uptime: s.Uptime(), Running: s.Running}
	for _, e := range state.Entries {
		entry := update.Entry{Version: e.Version}
		if e.TriesLeft >= 0 {
			entry.Counted, entry.TriesLeft, entry.TriesDone = true, e.TriesLeft, max(e.TriesDone, 0)
		}
		m.Entries = append(m.Entries, entry)
	}
	return m, nil
}

// Drop is part of update.Slots.
func (s Slots) Drop(_ context.Context, version string) error {
	return s.each(version, func(e bootloader.Entry) error { return s.Loader.Remove(e.File) })
}

// each calls do for the entries of a release.
func (s Slots) each(version string, do func(bootloader.Entry) error) error {
	state, err := s.Loader.Read()
	if err != nil {
		return err
	}
	var failed []error
	for _, e := range state.Entries {
		if e.Version == version {
			failed = append(failed, do(e))
		}
	}
	return errors.Join(failed...)
}

// Arm is part of update.Slots: systemd-sysupdate writes the kernel image under a name of
// its own and renames it last, with three tries.
func (s Slots) Arm(ctx context.Context, found update.Found) error {
	if err := s.transfer(ctx, found, osTypes[3:], nil); err != nil {
		return err
	}
	there := false
	err := s.each(found.Manifest.Version, func(e bootloader.Entry) error { there = e.TriesLeft > 0; return nil })
	if err == nil && !there {
		err = fmt.Errorf("making the boot entry of %s: systemd-sysupdate is done, and there is none with tries", found.Manifest.Version)
	}
	return err
}

// Bless is part of update.Slots.
func (s Slots) Bless(ctx context.Context) error { return s.Loader.Bless(ctx) }

// MarkBad is part of update.Slots.
func (s Slots) MarkBad(ctx context.Context, version string) error {
	if version == s.Running {
		return s.Loader.MarkBad(ctx)
	}
	return s.each(version, func(e bootloader.Entry) error { return s.Loader.Exhaust(e) })
}

// TPM says whether the disk opens by itself under a release.
type TPM struct {
	// PolicyKey gives the key by which PCR 11 is bound, PEM, as this boot has it.
	PolicyKey func() ([]byte, error)
	// Bound is false on a node whose disk no TPM opens.
	Bound func(ctx context.Context) (bool, error)
	// KeyOf gives the key that signs the policy for a release that is fetched: what its
	// kernel image carries. Nil answers when it is not here yet.
	KeyOf func(ctx context.Context, found update.Found) ([]byte, error)
}

// Predict is part of update.TPM. The disk is bound to PCR 7, to PCR 15 and, by a signature,
// to PCR 11. A release that is signed by the same key changes none of what is compared.
func (t TPM) Predict(ctx context.Context, found update.Found) (update.Prediction, error) {
	bound, err := t.Bound(ctx)
	if err != nil {
		return update.Prediction{}, err
	}
	if !bound {
		return update.Prediction{Unlocks: true, Note: "no TPM opens the disk, so nothing changes"}, nil
	}
	ours, err := t.PolicyKey()
	if err != nil {
		return update.Prediction{}, fmt.Errorf("reading the key of the PCR policy: %w", err)
	}
	theirs, err := t.KeyOf(ctx, found)
	if err != nil {
		return update.Prediction{}, err
	}
	if theirs == nil {
		return update.Prediction{Unlocks: true, Note: "PCR 7 stays; PCR 11 changes and is signed, to be checked when the kernel image is here"}, nil
	}
	if samePEM(ours, theirs) {
		return update.Prediction{Unlocks: true, Note: "PCR 7 stays; PCR 11 changes, and its policy is signed by the key that the disk is bound to"}, nil
	}
	return update.Prediction{Note: "PCR 11 is signed by another key than the disk is bound to"}, nil
}

func samePEM(a, b []byte) bool {
	return strings.TrimSpace(string(a)) == strings.TrimSpace(strings.TrimRight(string(b), "\x00"))
}

// ErrOtherKey is a release whose policy another key signs.
var ErrOtherKey = errors.New("the release is signed by another key: bring the certificate update of the publisher first")

// Rebind is part of update.TPM.
func (t TPM) Rebind(_ context.Context, found update.Found) error {
	return fmt.Errorf("binding the disk to release %s: %w", found.Manifest.Version, ErrOtherKey)
}

// part gives a part of the OS by its type.
func part(found update.Found, kind release.Type) (release.Part, error) {
	system, err := osParts(found.Manifest)
	return system[kind], err
}
