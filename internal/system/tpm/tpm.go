// Package tpm reads what the kernel says of the Trusted Platform Module: whether
// there is one, of which version, whether it is a real one, and its PCR values.
//
// It only reads /sys/class/tpm/tpm0 and needs no program. What a TPM says is not
// proof of anything to a third party; that takes a quote.
package tpm

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Kind says what sort of TPM a machine has.
type Kind string

// The kinds of TPM. A TPM that a hypervisor gives to its guest is hardware here.
const (
	None     Kind = "none"
	Hardware Kind = "hardware"
	// Software is an emulator on this machine, behind the kernel's vtpm proxy; its
	// secrets lie on the same disk.
	Software Kind = "software"
)

// PCRCount is how many PCRs a bank has.
const PCRCount = 24

const device = "sys/class/tpm/tpm0"

// Host is the machine whose TPM is read.
type Host struct {
	// Root is the directory that stands for "/".
	Root string
}

// Kind tells which sort of TPM there is.
func (h Host) Kind() (Kind, error) {
	real, err := filepath.EvalSymlinks(filepath.Join(h.Root, device))
	if errors.Is(err, fs.ErrNotExist) {
		return None, nil
	}
	if err != nil {
		return "", fmt.Errorf("looking for a TPM: %w", err)
	}
	// A chip behind the proxy has no bus; the kernel files it under devices/virtual.
	if strings.Contains(real, "/devices/virtual/") {
		return Software, nil
	}
	return Hardware, nil
}

// Version is the major version of the TPM: 1 or 2; 0 when there is none.
func (h Host) Version() (int, error) {
	text, err := h.read("tpm_version_major")
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("reading the version of the TPM: %w", err)
	}
	version, err := strconv.Atoi(text)
	if err != nil {
		return 0, fmt.Errorf("reading the version of the TPM: %w", err)
	}
	return version, nil
}

// PCR is the present SHA-256 value of one PCR.
func (h Host) PCR(number int) ([32]byte, error) {
	var value [32]byte
	if number < 0 || number >= PCRCount {
		return value, fmt.Errorf("reading PCR %d: a bank has PCRs 0 to %d", number, PCRCount-1)
	}
	text, err := h.read(fmt.Sprintf("pcr-sha256/%d", number))
	if err != nil {
		return value, fmt.Errorf("reading PCR %d: %w", number, err)
	}
	if n, err := hex.Decode(value[:], []byte(text[:min(len(text), 64)])); err != nil || n != 32 || len(text) != 64 {
		return value, fmt.Errorf("reading PCR %d: %q is not a SHA-256 value", number, text)
	}
	return value, nil
}

// read gives one attribute of the TPM without spaces around it.
func (h Host) read(name string) (text string, err error) {
	file, err := os.Open(filepath.Join(h.Root, device, name))
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	data, err := io.ReadAll(io.LimitReader(file, 4096))
	return strings.TrimSpace(string(data)), err
}
