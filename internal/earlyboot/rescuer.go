package earlyboot

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/holdfast-os/holdfast/internal/layout"
	"github.com/holdfast-os/holdfast/internal/rescue"
	"github.com/holdfast-os/holdfast/internal/secureboot"
	"github.com/holdfast-os/holdfast/internal/system/bootloader"
	"github.com/holdfast-os/holdfast/internal/system/efi"
	"github.com/holdfast-os/holdfast/internal/system/pe"
	"github.com/holdfast-os/holdfast/internal/system/powerbutton"
	"github.com/holdfast-os/holdfast/internal/system/removable"
	"github.com/holdfast-os/holdfast/internal/system/sysupdate"
	"github.com/holdfast-os/holdfast/internal/system/uevent"
)

// rescueMount is where a rescue medium is mounted, below /run.
const rescueMount = "holdfast/rescue"

// Failing gives what a failed start needs of a real machine.
func (h Host) Failing() Failing { return hostFailing{h} }

type hostFailing struct{ Host }

func (hostFailing) After(d time.Duration) <-chan time.Time { return time.After(d) }

func (h hostFailing) Rescuer() Rescuer { return h }

// withESP mounts the ESP of the system disk while do works on it. What a step of early boot
// that was killed has left mounted is in the way, and unmounted first.
func (h hostFailing) withESP(ctx context.Context, do func(*hostESP, bootloader.Loader) error) (err error) {
	disk, err := h.SystemDisk(ctx)
	if err != nil {
		return fmt.Errorf("looking for the disk that this machine booted from: %w", err)
	}
	_ = h.mounts.Unmount(filepath.Join(h.paths.Run, espMount), 0) // as a rule there is nothing
	mounted, err := h.ESP(ctx, disk)
	if err != nil {
		return fmt.Errorf("mounting the ESP %s: %w", disk.Partitions[partESP], err)
	}
	defer func() { err = errors.Join(err, mounted.Close(ctx)) }()
	esp, ok := mounted.(*hostESP)
	if !ok {
		return fmt.Errorf("mounting the ESP %s: it is a %T", disk.Partitions[partESP], mounted)
	}
	return do(esp, bootloader.Loader{Run: h.run, ESP: string(esp.dir), Name: layout.Name, Vars: h.vars()})
}

func (h Host) vars() efi.Vars {
	return efi.Vars{Dir: filepath.Join(h.paths.Sys, "firmware/efi/efivars")}
}

// Note is part of Failing. A note that cannot be kept is no error.
func (h hostFailing) Note(ctx context.Context, lines []string) (s Situation, err error) {
	err = h.withESP(ctx, func(esp *hostESP, loader bootloader.Loader) error {
		state, err := loader.Read()
		if err != nil {
			return err
		}
		s.Entries, s.Node = state.Entries, canRecover(esp.disk)
		s.note = esp.note()
		if s.running() == "" {
			return nil
		}
		var present []string
		for _, entry := range s.Entries {
			present = append(present, entry.Version)
		}
		s.note = s.note.add(s.running(), time.Now(), lines, present)
		if s.Node {
			_ = esp.keepNote(s.note)
		}
		return nil
	})
	return s, err
}

// note reads the note of failed starts.
func (e *hostESP) note() failureNote {
	data, err := e.dir.Read(noteFile, maxNote)
	if err != nil {
		data = nil // as if there were none
	}
	return parseNote(data)
}

func (e *hostESP) keepNote(note failureNote) error {
	data, err := note.encode()
	if err != nil {
		return err
	}
	if err := e.write(); err != nil {
		return err
	}
	return e.dir.Write(noteFile, data)
}

// GiveUp is part of Failing.
func (h hostFailing) GiveUp(ctx context.Context) error {
	return h.withESP(ctx, func(esp *hostESP, loader bootloader.Loader) error {
		if err := esp.write(); err != nil {
			return err
		}
		return loader.MarkBad(ctx)
	})
}

// Changes is part of Rescuer.
func (hostFailing) Changes(ctx context.Context) (<-chan struct{}, error) { return uevent.Listen(ctx) }

// Presses is part of Rescuer.
func (h hostFailing) Presses(ctx context.Context) (<-chan struct{}, error) {
	return powerbutton.Watch(ctx, h.paths.Sys, h.paths.Dev)
}

// Medium is part of Rescuer.
func (h hostFailing) Medium() (Medium, error) {
	device, err := removable.Find(filepath.Dir(h.paths.Dev), rescue.Label)
	if err != nil || device == "" {
		return Medium{}, err
	}
	place, err := filepath.EvalSymlinks(filepath.Join(h.paths.Sys, "class/block", filepath.Base(device)))
	if err != nil {
		return Medium{}, fmt.Errorf("finding the medium %s in sysfs: %w", device, err)
	}
	if _, err := os.Stat(filepath.Join(place, "partition")); err == nil {
		place = filepath.Dir(place)
	}
	sequence, err := os.ReadFile(filepath.Join(place, "diskseq"))
	if err != nil {
		return Medium{}, fmt.Errorf("looking whether the medium %s is another one: %w", device, err)
	}
	return Medium{Device: device, Sequence: strings.TrimSpace(string(sequence))}, nil
}

// Use is part of Rescuer.
func (h hostFailing) Use(ctx context.Context, m Medium, again bool, say func(string)) (version string, err error) {
	anchors, err := rescue.ReadAnchors(os.DirFS(rescue.AnchorDir))
	if err != nil {
		return "", err
	}
	folder := filepath.Join(h.paths.Run, rescueMount)
	unmount, err := removable.Mount(m.Device, folder)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, unmount()) }()
	return h.restore(ctx, os.DirFS(folder), anchors, again, say)
}

// restore brings the release on a mounted medium into a slot.
func (h hostFailing) restore(ctx context.Context, files fs.FS, anchors rescue.Anchors, again bool, say func(string)) (version string, err error) {
	err = h.withESP(ctx, func(esp *hostESP, loader bootloader.Loader) error {
		slots := sysupdate.Slots{Run: h.run, Disk: esp.disk.Path, Name: layout.Name, Root: filepath.Dir(h.paths.Sys), Parts: []sysupdate.Parts{
			{Signature: layout.SigA, Verity: layout.VerityA, Usr: layout.UsrA},
			{Signature: layout.SigB, Verity: layout.VerityB, Usr: layout.UsrB},
		}}
		work := restore{files: files, slots: slots, loader: loader, startable: h.startable, say: say}
		version, err = esp.restore(ctx, work, anchors, again)
		return err
	})
	return version, err
}

// restore brings a release into a slot once it is accepted; work has the whole medium.
func (e *hostESP) restore(ctx context.Context, work restore, anchors rescue.Anchors, again bool) (version string, err error) {
	if !canRecover(e.disk) {
		return "", fmt.Errorf("%s is not the disk of a node", e.disk.Path)
	}
	parts, err := accepted(work.files, anchors, work.slots, work.loader)
	if err != nil {
		return "", err
	}
	if noted, known := e.note().of(parts.version); known && noted.Restored && noted.InARow > 0 && !again {
		return "", fmt.Errorf("release %s was written from a medium before, and did not start: take the medium out and put it in again to write it once more", parts.version)
	}
	if work.files, err = fs.Sub(work.files, rescue.UpdateDir); err != nil {
		return "", err
	}
	if err := e.write(); err != nil {
		return "", err
	}
	if err := work.run(ctx, parts); err != nil {
		return "", err
	}
	_ = e.keepNote(e.note().restored(parts.version, time.Now())) // the release is there all the same
	return parts.version, nil
}

// accepted gives the release of a medium, if its signature holds, all of a system is there, and
// the node has not had a newer one.
func accepted(files fs.FS, anchors rescue.Anchors, slots sysupdate.Slots, loader bootloader.Loader) (releaseParts, error) {
	state, err := loader.Read()
	if err != nil {
		return releaseParts{}, err
	}
	held, err := slots.Read()
	if err != nil {
		return releaseParts{}, err
	}
	facts := rescue.Facts{Architecture: architecture(), Oldest: newestVersion(held, state.Entries), Now: time.Now()}
	found, err := rescue.Read(files, anchors, facts)
	switch {
	case found.Update == nil && err == nil:
		return releaseParts{}, fmt.Errorf("it has no release: %s is missing (a script is not run here)", rescue.UpdateFile)
	case found.Update == nil:
		return releaseParts{}, err
	case !found.System:
		return releaseParts{}, fmt.Errorf("release %s on it is not a whole system: files are missing, or have another size", found.Update.Version)
	}
	return partsOf(*found.Update)
}

// architecture is that of this program.
func architecture() string {
	if runtime.GOARCH == "arm64" {
		return layout.AArch64
	}
	return layout.X86_64
}

// startable refuses a kernel image that the firmware would not start: the boot loader would
// stop at it, before a person or this program could do anything.
func (h Host) startable(file string) error {
	modes, err := h.vars().Modes()
	if err != nil || !modes.SecureBoot {
		return err
	}
	read, err := pe.ReadFile(file)
	if err != nil {
		return fmt.Errorf("reading the kernel image: %w", err)
	}
	image := secureboot.Image{Name: filepath.Base(file), SHA256: read.SHA256}
	for _, s := range read.Signatures {
		image.Signatures = append(image.Signatures, s.Chain)
	}
	// The firmware asks no clock, and that of a machine in this state may say anything.
	now := time.Now()
	if len(image.Signatures) > 0 && len(image.Signatures[0]) > 0 {
		if signer, err := x509.ParseCertificate(image.Signatures[0][0]); err == nil {
			now = signer.NotBefore
		}
	}
	value := func(name string) ([]byte, error) {
		variable, err := h.vars().Read(name, efi.ImageSecurity)
		return variable.Data, err
	}
	return secureboot.CheckWith(image, value, now)
}
