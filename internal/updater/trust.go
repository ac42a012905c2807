package updater

import (
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
	// Disk knows what the disk is bound to.
	Disk Disk
	// Bound is false on a node whose disk no TPM opens.
	Bound func(ctx context.Context) (bool, error)
	// Programs binds the disk to what a start is made of; nil where that is never needed.
	Programs Programs
	// Now is the clock.
	Now func() time.Time
}

// Disk is the disk and the TPM that opens it. A release is a version and the file with its
// kernel image.
type Disk interface {
	// Opens says whether the TPM opens the disk under a release, and why, for a person.
	Opens(ctx context.Context, version, image string) (opens bool, why string, err error)
	// Bind has it open under that release and under what may start as of now.
	Bind(ctx context.Context, version, image string) error
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

// Predict is part of update.TPM. The disk is bound to PCR 7 and 15, and by a signature to
// PCR 11: a release that is signed by the same keys changes nothing that is compared, and
// one of other keys needs a binding of its own. What is not known before the kernel image is
// here is said so, and asked again then.
func (t Trust) Predict(ctx context.Context, found update.Found) (update.Prediction, error) {
	bound, err := t.Bound(ctx)
	if err != nil {
		return update.Prediction{}, err
	}
	image := t.kernelImage(found)
	if _, err := os.Stat(image); errors.Is(err, fs.ErrNotExist) {
		note := "PCR 7 stays unless another key signed the release, and PCR 11 has a signed policy; both are looked at when the kernel image is here"
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
	opens, why, err := t.Disk.Opens(ctx, found.Manifest.Version, image)
	if err != nil || !opens || t.Programs == nil {
		return update.Prediction{Unlocks: opens, Note: why}, err
	}
	if there, err := t.Programs.Bound(ctx, image); err != nil || !there {
		return update.Prediction{Note: "PCR 4 changes with the kernel image, since Secure Boot is off"}, err
	}
	return update.Prediction{Unlocks: true, Note: why}, nil
}

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
	value := func(name string) ([]byte, error) {
		variable, err := t.Vars.Read(name, efi.ImageSecurity)
		return variable.Data, err
	}
	return secureboot.CheckWith(image, value, t.Now())
}

// Rebind is part of update.TPM.
func (t Trust) Rebind(ctx context.Context, found update.Found) error {
	image, version := t.kernelImage(found), found.Manifest.Version
	if t.Programs == nil {
		return t.Disk.Bind(ctx, version, image)
	}
	opens, _, err := t.Disk.Opens(ctx, version, image)
	if err == nil && !opens {
		err = t.Disk.Bind(ctx, version, image)
	}
	if err == nil {
		err = t.Programs.Bind(ctx, image)
	}
	if err != nil {
		return fmt.Errorf("binding the disk to release %s: %w", version, err)
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
