package earlyboot

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-os/holdfast/internal/layout"
	"github.com/holdfast-os/holdfast/internal/reset"
	"github.com/holdfast-os/holdfast/internal/system/block"
	"github.com/holdfast-os/holdfast/internal/system/bootloader"
	"github.com/holdfast-os/holdfast/internal/system/efi"
	"github.com/holdfast-os/holdfast/internal/system/espdir"
	"github.com/holdfast-os/holdfast/internal/system/softtpm"
	"github.com/holdfast-os/holdfast/internal/system/tpm"
	"github.com/holdfast-os/holdfast/internal/system/tpm2clear"
)

// espMount is where early boot has the ESP, below /run. It is gone before the system starts.
const espMount = "holdfast/esp"

// tpmWait is how long the driver of a TPM may take.
const tpmWait = 30 * time.Second

const espFlags = uintptr(unix.MS_NODEV | unix.MS_NOSUID | unix.MS_NOEXEC | unix.MS_NOSYMFOLLOW)

// ESP mounts the ESP read-only: whatever a start finds there, most change nothing.
func (h Host) ESP(_ context.Context, disk Disk) (ESP, error) {
	if disk.Partitions[partESP] == "" {
		return nil, errors.New("the disk has no partition 1")
	}
	dir := filepath.Join(h.paths.Run, espMount)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making %s: %w", dir, err)
	}
	if err := h.mounts.Mount(disk.Partitions[partESP], dir, "vfat", espFlags|unix.MS_RDONLY, "umask=0077"); err != nil {
		return nil, err
	}
	return &hostESP{Host: h, disk: disk, dir: espdir.Dir(dir)}, nil
}

type hostESP struct {
	Host
	disk     Disk
	dir      espdir.Dir
	writable bool
	tpm      *softtpm.TPM
}

// write makes the mount writable, once.
func (e *hostESP) write() error {
	if e.writable {
		return nil
	}
	if err := e.mounts.Mount("", string(e.dir), "", espFlags|unix.MS_REMOUNT, "umask=0077"); err != nil {
		return fmt.Errorf("making the ESP writable: %w", err)
	}
	e.writable = true
	return nil
}

// ContinueReset is part of ESP.
func (e *hostESP) ContinueReset(ctx context.Context, say func(string)) (bool, error) {
	for _, name := range reset.Files() {
		there, err := e.dir.Has(name)
		if err != nil {
			return false, err
		}
		if !there {
			continue
		}
		if err := e.write(); err != nil {
			return false, err
		}
		return reset.Continue(ctx, resetHands{e}, say)
	}
	return false, nil
}

// tpmTable is the firmware's own word that there is a TPM 2.0; below sysfs.
const tpmTable = "firmware/acpi/tables/TPM2"

// Platform is part of ESP. A TPM 1.2 is none. The driver of a TPM that the firmware tells of
// may still be loading: it is waited for.
func (e *hostESP) Platform(ctx context.Context) (p Platform, err error) {
	modes, err := efi.Vars{Dir: filepath.Join(e.paths.Sys, "firmware/efi/efivars")}.Modes()
	if err != nil {
		return p, err
	}
	p.SecureBoot, p.AuditMode = modes.SecureBoot, modes.AuditMode
	if _, err := os.Stat(filepath.Join(e.paths.Sys, tpmTable)); err == nil {
		// When it does not come the machine has none that could be used.
		_, _ = waitFor(ctx, filepath.Join(e.paths.Sys, "class/tpm/tpm0"), min(e.wait, tpmWait))
	}
	chip := tpm.Host{Root: filepath.Dir(e.paths.Sys)}
	kind, err := chip.Kind()
	if err != nil {
		return p, err
	}
	version, err := chip.Version()
	if err != nil {
		return p, err
	}
	p.TPM = kind == tpm.Hardware && version == 2
	if p.NoTPM, err = e.dir.Has(MarkNoTPM); err != nil {
		return p, err
	}
	p.NoSecureBoot, err = e.dir.Has(MarkNoSecureBoot)
	return p, err
}

// Mark is part of ESP.
func (e *hostESP) Mark(name string) error {
	there, err := e.dir.Has(name)
	if err != nil || there {
		return err
	}
	if err := e.write(); err != nil {
		return err
	}
	return e.dir.Write(name, []byte("1\n"))
}

// StartTPM is part of ESP.
func (e *hostESP) StartTPM(ctx context.Context) error {
	if err := e.write(); err != nil {
		return err
	}
	state, err := bootloader.Loader{ESP: string(e.dir), Name: layout.Name, Vars: efi.Vars{Dir: filepath.Join(e.paths.Sys, "firmware/efi/efivars")}}.Read()
	if err != nil {
		return fmt.Errorf("finding the kernel image that was started: %w", err)
	}
	served := softtpm.TPM{Run: e.run, State: softtpm.StateDir(string(e.dir)), PIDFile: filepath.Join(e.paths.Run, "holdfast/swtpm.pid")}
	for _, entry := range state.Entries {
		if !entry.Booted {
			continue
		}
		if err := served.Start(ctx); err != nil {
			return err
		}
		e.tpm = &served
		return served.Measure(filepath.Join(string(e.dir), bootloader.Folder, entry.File))
	}
	return errors.New("starting the emulated TPM: the boot loader does not say which kernel image was started")
}

// Pause is part of ESP.
func (e *hostESP) Pause(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-time.After(e.pause):
	}
}

// Close is part of ESP.
func (e *hostESP) Close(ctx context.Context) error {
	var err error
	if e.tpm != nil {
		err = e.tpm.Stop(ctx)
	}
	if unmountErr := e.mounts.Unmount(string(e.dir), 0); unmountErr != nil {
		err = errors.Join(err, fmt.Errorf("unmounting the ESP: %w", unmountErr))
	}
	return err
}

// resetHands is reset.Hands in the initrd.
type resetHands struct{ *hostESP }

func (r resetHands) Read(name string, limit int64) ([]byte, error) { return r.dir.Read(name, limit) }
func (r resetHands) Write(name string, data []byte) error          { return r.dir.Write(name, data) }
func (r resetHands) Remove(name string) error                      { return r.dir.Remove(name) }

func (r resetHands) ClearTPM(context.Context) error {
	if err := r.clear(); err != nil && !errors.Is(err, tpm2clear.ErrNone) {
		return err
	}
	return nil
}

func (r resetHands) WriteSeed(ctx context.Context, archive []byte) error {
	device := r.disk.Partitions[partSeed]
	if device == "" {
		return errors.New("the system disk has no partition 2 (seed-data)")
	}
	f, err := os.OpenFile(device, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("opening the seed partition: %w", err)
	}
	return errors.Join(block.WriteWhole(ctx, f, archive), f.Close())
}

// RemovePartitions leaves out what is not there: sfdisk refuses such a number.
func (r resetHands) RemovePartitions(ctx context.Context, numbers ...int) error {
	var there []int
	for _, number := range numbers {
		if r.disk.Partitions[number] != "" {
			there = append(there, number)
		}
	}
	if len(there) == 0 {
		return nil
	}
	return r.Table().Remove(ctx, r.disk.Path, there...)
}
