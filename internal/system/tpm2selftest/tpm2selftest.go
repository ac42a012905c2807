// Package tpm2selftest asks a TPM 2.0 whether it works: TPM2_SelfTest (TPM 2.0 Library, part 3,
// 10.2) has it test what was not tested yet since it was switched on.
//
// A TPM that is broken, or whose firmware update was left half done, is there as far as the
// kernel's list of devices says, and refuses every key. What can fail: opening the device, the
// test itself (ErrFailed).
package tpm2selftest

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
	"github.com/google/go-tpm/tpm2/transport/linuxtpm"
)

// Device is the kernel's TPM, with its resource manager.
const Device = "/dev/tpmrm0"

// ErrFailed is a TPM that does not pass its own test.
var ErrFailed = errors.New("the TPM does not pass its own test")

// TPM is one TPM.
type TPM struct {
	// Open connects to it; default Device.
	Open func() (transport.TPMCloser, error)
}

// Run has the TPM test what was not tested yet. A test that goes on beside other commands
// (TPM_RC_TESTING) counts as passed: the commands that need it wait for it.
func (t TPM) Run() (err error) {
	open := t.Open
	if open == nil {
		open = func() (transport.TPMCloser, error) { return linuxtpm.Open(Device) }
	}
	device, err := open()
	if err != nil {
		return fmt.Errorf("opening the TPM to test it: %w", err)
	}
	defer func() { err = errors.Join(err, device.Close()) }()
	// The header of a command without sessions, of 11 bytes in all, and "not those that have
	// been run already". go-tpm has no type for it.
	command := []byte{0x80, 0x01, 0, 0, 0, 11, 0, 0, 0x01, 0x43, 0}
	answer, err := device.Send(command)
	if err != nil {
		return fmt.Errorf("testing the TPM: %w", err)
	}
	const header = 10
	if len(answer) < header {
		return fmt.Errorf("testing the TPM: it answered with %d bytes, and an answer has %d at least", len(answer), header)
	}
	code := tpm2.TPMRC(binary.BigEndian.Uint32(answer[6:]))
	if code != tpm2.TPMRCSuccess && code != tpm2.TPMRCTesting {
		return fmt.Errorf("%w: %w", ErrFailed, code)
	}
	return nil
}
