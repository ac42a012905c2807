package updater

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/holdfast-os/holdfast/api/release"
	"github.com/holdfast-os/holdfast/internal/parts"
	"github.com/holdfast-os/holdfast/internal/secureboot"
	"github.com/holdfast-os/holdfast/internal/system/efi"
	"github.com/holdfast-os/holdfast/internal/system/pe"
	"github.com/holdfast-os/holdfast/internal/update"
)

// Trust says whether the firmware will start a release, and whether the TPM will open the
// disk under it: update.TPM.
type Trust struct {
	*System
	// Vars are the firmware's variables.
	Vars efi.Vars
	// PolicyKey is the file with the key by which PCR 11 is bound, as this boot has it.
	PolicyKey string
	// Bound is false on a node whose disk no TPM opens.
	Bound func(ctx context.Context) (bool, error)
	// Programs binds the disk to what a start is made of; nil where that is never needed.
	Programs Programs
	// Now is the clock.
	Now func() time.Time
}

// Programs binds the disk to the programs of a start (PCR 4), on a node without Secure Boot:
// nothing else tells there which programs were started.
type Programs interface {
	// Bound tells whether the disk opens when the kernel image in this file is started. It
	// is true where programs do not matter. An error means that it cannot be told.
	Bound(ctx context.Context, image string) (bool, error)
	// Bind lets it open then as well as it does now.
	Bind(ctx context.Context, image string) error
}

// maxPolicyKey bounds the key in a kernel image, in bytes.
const maxPolicyKey = 64 << 10

// Predict is part of update.TPM. The disk is bound to PCR 7 and 15, and by a signature to
// PCR 11: a release that is signed by the same keys changes nothing that is compared. What
// is not known before the kernel image is here is said so, and asked again then.
func (t Trust) Predict(ctx context.Context, found update.Found) (update.Prediction, error) {
	bound, err := t.Bound(ctx)
	if err != nil {
		return update.Prediction{}, err
	}
	image := t.kernelImage(found)
	if _, err := os.Stat(image); errors.Is(err, fs.ErrNotExist) {
		note := "PCR 7 stays; PCR 11 changes, and its policy is signed; both are looked at again when the kernel image is here"
		if !bound {
			note = "no TPM opens the disk, so nothing changes"
		}
		return update.Prediction{Unlocks: true, Note: note}, nil
	}
	if err := t.starts(image); err != nil {
		return update.Prediction{}, err
	}
	if !bound {
		return update.Prediction{Unlocks: true, Note: "no TPM opens the disk, so nothing changes"}, nil
	}
	same, err := t.sameKey(image)
	if err != nil {
		return update.Prediction{}, fmt.Errorf("looking at the kernel image of %s: %w", found.Manifest.Version, err)
	}
	if !same {
		return update.Prediction{Note: "the policy of PCR 11 is signed by another key than the disk is bound to"}, nil
	}
	if t.Programs != nil {
		if there, err := t.Programs.Bound(ctx, image); err != nil || !there {
			return update.Prediction{Note: "PCR 4 changes with the kernel image, since Secure Boot is off"}, err
		}
	}
	return update.Prediction{Unlocks: true, Note: "PCR 7 stays; PCR 11 changes, and its policy is signed by the key that the disk is bound to"}, nil
}

// sameKey compares the key of a kernel image's PCR policy with that of this start.
func (t Trust) sameKey(image string) (bool, error) {
	ours, err := os.ReadFile(t.PolicyKey)
	if err != nil {
		return false, fmt.Errorf("reading the key of the PCR policy: %w", err)
	}
	theirs, err := pe.ReadSection(image, ".pcrpkey", maxPolicyKey)
	if err != nil {
		return false, fmt.Errorf("reading its key of the PCR policy: %w", err)
	}
	return bytes.Equal(trimmed(ours), trimmed(theirs)), nil
}

func trimmed(key []byte) []byte { return bytes.TrimRight(key, "\x00\r\n ") }

// starts refuses a kernel image that the firmware would not start.
func (t Trust) starts(path string) error {
	modes, err := t.Vars.Modes()
	if err != nil || !modes.SecureBoot {
		return err
	}
	read, err := pe.ReadFile(path)
	if err != nil {
		return fmt.Errorf("reading the kernel image: %w", err)
	}
	image := secureboot.Image{Name: filepath.Base(path), SHA256: read.SHA256}
	for _, s := range read.Signatures {
		image.Signatures = append(image.Signatures, s.Chain)
	}
	var databases [2]secureboot.Database
	for i, name := range []string{"db", "dbx"} {
		value, err := t.Vars.Read(name, efi.ImageSecurity)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			databases[i], err = secureboot.ParseDatabase(value.Data)
		}
		if err != nil {
			return fmt.Errorf("reading what the firmware trusts: %w", err)
		}
	}
	return secureboot.CheckRelease(image, databases[0], databases[1], t.Now())
}

// ErrOtherKey is a release whose policy another key signs.
var ErrOtherKey = errors.New("the release is signed by another key: take the release before it, which is signed by both")

// Rebind is part of update.TPM.
func (t Trust) Rebind(ctx context.Context, found update.Found) error {
	image := t.kernelImage(found)
	same, err := t.sameKey(image)
	if err == nil && (!same || t.Programs == nil) {
		err = ErrOtherKey
	}
	if err == nil {
		err = t.Programs.Bind(ctx, image)
	}
	if err != nil {
		return fmt.Errorf("binding the disk to release %s: %w", found.Manifest.Version, err)
	}
	return nil
}

// kernelImage is where the kernel image of a release lies once it was fetched.
func (s *System) kernelImage(found update.Found) string {
	return filepath.Join(s.Dir, found.Manifest.Version+".kernel")
}

// makeKernelImage puts the kernel image together, so that it can be looked at before
// anything is switched.
func (s *System) makeKernelImage(ctx context.Context, g *parts.Getter, found update.Found) error {
	system, err := osParts(found.Manifest)
	if err != nil {
		return err
	}
	name := system[release.TypeUpdateEFI].Name
	file := s.kernelImage(found)
	if err := write(ctx, g, s.way(name), file+".part"); err != nil {
		way := s.way(name)
		whole := parts.Whole(way.Part())
		if !parts.Wrong(err) || way.Kind == whole.Kind {
			return err
		}
		s.keep(name, whole)
		if err := g.Fetch(ctx, whole, nil); err != nil {
			return err
		}
		if err := write(ctx, g, whole, file+".part"); err != nil {
			return err
		}
	}
	if err := os.Rename(file+".part", file); err != nil {
		return fmt.Errorf("keeping the kernel image: %w", err)
	}
	return nil
}
