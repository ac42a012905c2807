package updater

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"time"

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
