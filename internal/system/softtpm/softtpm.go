// Package softtpm is the TPM of a machine that has none: swtpm behind the kernel's proxy
// for emulated TPMs, so that the same programs open the disk the same way.
//
// It protects little, and every part of the node says so: its state lies unencrypted on
// the ESP, beside the disk that it opens. The firmware cannot measure into it, so early boot
// does what systemd-stub would have done: it extends register 11 with the sections of the
// kernel image that was started, and with the word that the release's signed policy expects
// in the initrd. Registers of the firmware, 7 among them, stay at zero.
//
// Parties: early boot serves the TPM while it opens the disk, and ends it; the service
// swtpm of the system serves it again from the same state. Two at once never do: swtpm
// locks its state.
//
// What can fail: a kernel without the module tpm_vtpm_proxy, a state that is damaged or of
// a newer swtpm (the disk then opens by its recovery key), an ESP that is full.
package softtpm

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
	"github.com/google/go-tpm/tpm2/transport/linuxtpm"
	"golang.org/x/sys/unix"

	"github.com/holdfast-os/holdfast/internal/system/pe"
	"github.com/holdfast-os/holdfast/internal/system/run"
)

// Folder is where the state lies on the ESP.
const Folder = "swtpm"

// Device is the TPM, once it is served.
const Device = "/dev/tpmrm0"

// kernelRegister is the register that systemd-stub measures a kernel image into.
const kernelRegister = 11

// inInitrd is the word that systemd measures when the initrd begins (systemd-pcrphase).
const inInitrd = "enter-initrd"

// limit is how long the TPM may take to appear.
const limit = 30 * time.Second

// measured are the sections of a kernel image that systemd-stub measures, in its order.
// (systemd, src/fundamental/uki.h; .pcrsig is left out, since it signs the result)
var measured = []string{".linux", ".osrel", ".cmdline", ".initrd", ".ucode", ".splash", ".dtb", ".uname", ".sbat",
	".pcrpkey", ".profile", ".dtbauto", ".hwids"}

// TPM is one emulated TPM.
type TPM struct {
	// Run starts modprobe and swtpm.
	Run run.Runner
	// State is the folder of its state, and PIDFile tells who serves it.
	State, PIDFile string
	// Open connects to it; default Device.
	Open func() (transport.TPMCloser, error)
}

// Start serves the TPM in a process that outlives the caller, and waits until the kernel
// has it. An empty state becomes a new TPM.
func (t TPM) Start(ctx context.Context) error {
	if err := os.MkdirAll(t.State, 0o700); err != nil {
		return fmt.Errorf("starting the emulated TPM: %w", err)
	}
	for _, command := range []run.Command{
		{Name: "modprobe", Args: []string{"tpm_vtpm_proxy"}},
		{Name: "swtpm", Args: []string{"chardev", "--tpm2", "--vtpm-proxy", "--tpmstate", "dir=" + t.State,
			"--pid", "file=" + t.PIDFile, "--daemon"}},
	} {
		if _, err := t.Run(ctx, command); err != nil {
			return fmt.Errorf("starting the emulated TPM: %w", err)
		}
	}
	return t.wait(ctx)
}

// wait tries until the device answers, or limit.
func (t TPM) wait(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		device, err := t.open()
		if err == nil {
			return device.Close()
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for the emulated TPM: %w", err)
		case <-tick.C:
		}
	}
}

func (t TPM) open() (transport.TPMCloser, error) {
	if t.Open != nil {
		return t.Open()
	}
	return linuxtpm.Open(Device)
}

// Measure extends register 11 with a kernel image, as systemd-stub and the begin of the
// initrd would have done it.
func (t TPM) Measure(image string) (err error) {
	digests, err := Digests(image)
	if err != nil {
		return fmt.Errorf("measuring the kernel image into the emulated TPM: %w", err)
	}
	device, err := t.open()
	if err != nil {
		return fmt.Errorf("opening the emulated TPM: %w", err)
	}
	defer func() { err = errors.Join(err, device.Close()) }()
	for _, digest := range digests {
		_, err := tpm2.PCRExtend{
			PCRHandle: tpm2.AuthHandle{Handle: tpm2.TPMHandle(kernelRegister), Auth: tpm2.PasswordAuth(nil)},
			Digests:   tpm2.TPMLDigestValues{Digests: []tpm2.TPMTHA{{HashAlg: tpm2.TPMAlgSHA256, Digest: digest[:]}}},
		}.Execute(device)
		if err != nil {
			return fmt.Errorf("extending register %d of the emulated TPM: %w", kernelRegister, err)
		}
	}
	return nil
}

// Digests are what register 11 is extended with for a kernel image, up to the initrd.
func Digests(image string) ([][sha256.Size]byte, error) {
	sums, err := pe.HashSections(image, measured...)
	if err != nil {
		return nil, err
	}
	if _, ok := sums[".linux"]; !ok {
		return nil, fmt.Errorf("%s is no unified kernel image: it has no section .linux", image)
	}
	var digests [][sha256.Size]byte
	for _, name := range measured {
		if sum, ok := sums[name]; ok {
			digests = append(digests, sha256.Sum256([]byte(name+"\x00")), sum)
		}
	}
	return append(digests, sha256.Sum256([]byte(inInitrd))), nil
}

// Stop ends the process and waits for it. One that does not run is no error.
func (t TPM) Stop(ctx context.Context) error {
	text, err := os.ReadFile(t.PIDFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("ending the emulated TPM: %w", err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || pid < 2 {
		return fmt.Errorf("ending the emulated TPM: %s holds %q", t.PIDFile, text)
	}
	if err := unix.Kill(pid, unix.SIGTERM); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("ending the emulated TPM: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for unix.Kill(pid, 0) == nil {
		select {
		case <-ctx.Done():
			return fmt.Errorf("ending the emulated TPM: process %d does not end", pid)
		case <-tick.C:
		}
	}
	if err := os.Remove(t.PIDFile); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("ending the emulated TPM: %w", err)
	}
	return nil
}

// StateDir is the folder of the state on an ESP that is mounted.
func StateDir(esp string) string { return filepath.Join(esp, Folder) }
