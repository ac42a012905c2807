// Package tpm2clear makes a TPM 2.0 forget all that it keeps for its owner: TPM2_Clear.
//
// Every key below the owner's and the endorsement hierarchy is lost with it, so that nothing
// that was bound to this TPM is opened by it again. Passwords of the hierarchies and a
// lockout go too. The firmware's own hierarchy stays.
//
// The lockout hierarchy allows it, which has no password on a machine whose owner set none;
// else the platform hierarchy, which firmware closes before an operating system starts, but
// some emulators leave open. What can fail: no TPM (ErrNone), a password on the lockout
// hierarchy, or clearing that the owner has switched off (TPM2_ClearControl): then the
// firmware's setup can clear it.
package tpm2clear

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
	"github.com/google/go-tpm/tpm2/transport/linuxtpm"
)

// Device is the kernel's TPM, with its resource manager.
const Device = "/dev/tpmrm0"

// ErrNone is a machine without a TPM 2.0.
var ErrNone = errors.New("this machine has no TPM 2.0")

// TPM is one TPM.
type TPM struct {
	// Open connects to it; default Device.
	Open func() (transport.TPMCloser, error)
}

// Clear clears the TPM.
func (t TPM) Clear() (err error) {
	open := t.Open
	if open == nil {
		open = func() (transport.TPMCloser, error) { return linuxtpm.Open(Device) }
	}
	device, err := open()
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("clearing the TPM: %w", ErrNone)
	}
	if err != nil {
		return fmt.Errorf("opening the TPM to clear it: %w", err)
	}
	defer func() { err = errors.Join(err, device.Close()) }()
	lockout := clear(device, tpm2.TPMRHLockout)
	if lockout == nil {
		return nil
	}
	if platform := clear(device, tpm2.TPMRHPlatform); platform != nil {
		return fmt.Errorf("clearing the TPM: by its lockout hierarchy: %w; by its platform hierarchy: %w; clear it in the firmware's setup", lockout, platform)
	}
	return nil
}

func clear(device transport.TPM, hierarchy tpm2.TPMHandle) error {
	_, err := tpm2.Clear{AuthHandle: tpm2.AuthHandle{Handle: hierarchy, Auth: tpm2.PasswordAuth(nil)}}.Execute(device)
	return err
}
