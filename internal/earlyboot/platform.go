package earlyboot

import (
	"context"
	"errors"
	"fmt"

	"github.com/holdfast-os/holdfast/internal/install"
	"github.com/holdfast-os/holdfast/internal/layout"
)

// Marks on the ESP: what the installation was allowed to do without. They stay with a
// factory reset.
const (
	MarkNoTPM        = install.MarkNoTPM
	MarkNoSecureBoot = install.MarkNoSecureBoot
)

// Platform is what the firmware and the ESP say of the chain of trust.
type Platform struct {
	// SecureBoot is true when the firmware checks what it starts.
	SecureBoot bool
	// TPM is true for a TPM that is not emulated by this machine itself.
	TPM bool
	// AuditMode is true while the firmware starts anything and only takes notes.
	AuditMode bool
	// NoTPM and NoSecureBoot are the marks on the ESP.
	NoTPM, NoSecureBoot bool
}

// startKind is how far the disk has come.
type startKind int

const (
	// liveStart is the first start of a medium that runs by itself.
	liveStart startKind = iota
	// installedStart is the first start of a disk that the installer has written.
	installedStart
	// laterStart is a start of a node that there is already.
	laterStart
)

// Trust is what a start does about a chain of trust with a part missing.
type Trust struct {
	// SoftwareTPM serves the emulated TPM on the ESP.
	SoftwareTPM bool
	// BindPrograms binds new volumes to register 4 too.
	BindPrograms bool
	// Mark is the mark to be left on the ESP; empty for none.
	Mark string
	// Warning is for a person in front of the machine; empty when all is well.
	Warning string
}

// Ways on, for a person.
var (
	errNeither = errors.New("this machine has neither a TPM 2.0 nor Secure Boot, and nothing would protect the disk: switch one of them on in the firmware's setup, better both")
	errAudit   = errors.New("the firmware is in audit mode, in which it starts anything: leave audit mode in the firmware's setup")
	errNoTPM   = errors.New("this machine has no TPM 2.0, and it was not installed to be run without: switch the TPM on in the firmware's setup, or install again with security.missing_tpm in the install seed")
	errNoSB    = errors.New("this machine has Secure Boot off, and was not installed to be run without: switch it on in the firmware's setup, or install again with security.missing_secure_boot in the install seed")
)

// trustFor decides it. A medium that runs by itself has no way to ask, so that it is told of
// on the screen instead. A node that there is already is opened by whatever it is bound to:
// a TPM that has gone, or Secure Boot that was switched off, makes it ask for a recovery key.
func trustFor(kind startKind, p Platform) (Trust, error) {
	if p.AuditMode {
		return Trust{}, errAudit
	}
	if !p.SecureBoot && !p.TPM && (kind != laterStart || p.NoTPM) {
		return Trust{}, errNeither
	}
	if kind == laterStart {
		return Trust{SoftwareTPM: !p.TPM && p.NoTPM}, nil
	}
	switch {
	case !p.TPM && kind == installedStart && !p.NoTPM:
		return Trust{}, errNoTPM
	case !p.SecureBoot && kind == installedStart && !p.NoSecureBoot:
		return Trust{}, errNoSB
	case !p.TPM:
		return Trust{SoftwareTPM: true, Mark: MarkNoTPM,
			Warning: "WARNING: this machine has no TPM. One is emulated, and its secrets lie unencrypted on the disk: who has the disk can read it."}, nil
	case !p.SecureBoot:
		return Trust{BindPrograms: true, Mark: MarkNoSecureBoot,
			Warning: "WARNING: Secure Boot is off. Any program can be started on this machine, and each update has to bind the disk anew."}, nil
	}
	return Trust{}, nil
}

// trust brings about what trustFor says.
func (o *opening) trust(ctx context.Context, kind startKind) (Trust, error) {
	platform, err := o.esp.Platform(ctx)
	if err != nil {
		err = fmt.Errorf("looking at TPM and Secure Boot: %w", err)
		if kind == laterStart {
			o.say(err.Error()) // what opens the disk will show
			err = nil
		}
		return Trust{}, err
	}
	trust, err := trustFor(kind, platform)
	if err != nil {
		return Trust{}, err
	}
	if trust.Warning != "" {
		o.say(trust.Warning)
		o.esp.Pause(ctx)
	}
	if trust.Mark != "" {
		if err := o.esp.Mark(trust.Mark); err != nil {
			return Trust{}, fmt.Errorf("noting %s on the ESP: %w", trust.Mark, err)
		}
	}
	if trust.SoftwareTPM {
		if err := o.esp.StartTPM(ctx); err != nil {
			if kind != laterStart {
				return Trust{}, err
			}
			o.say(err.Error()) // a recovery key opens the disk as well
		}
	}
	return trust, nil
}

// canLive says why a node cannot live on this disk: the one it was started from.
func canLive(disk Disk) error {
	switch {
	case disk.ReadOnly:
		return fmt.Errorf("%s cannot be written, and its seed does not ask for an installation: add a seed with install to the medium, or write the image to a disk", disk.Medium)
	case disk.Size < layout.MinimumDisk:
		return fmt.Errorf("%s has %d GiB, and a node needs %d: use a larger disk, or add a seed with install to install on another one", disk.Path, disk.Size>>30, layout.MinimumDisk>>30)
	}
	return nil
}
