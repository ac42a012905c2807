// Package keyupdate carries updates of Secure Boot's keys out on a node: an archive of
// signed updates, one variable for each start, with bindings of the disk to the TPM around
// each of them. What is written and in which order, package secureboot decides; this is
// the state machine around it, over interfaces, so that the power can be cut anywhere in a
// test.
//
// Parties: Machine observes the node and hands updates to the firmware; Disk has the
// bindings in the headers of the volumes; Store keeps the Document and the archive. The
// caller restarts the machine when an Outcome says so, and calls Start when it has started.
//
// Stages of the Document:
//
//	(none) --archive--> pending --Bind, CheckBindings--> bound --> writing --ReadBack--> restart
//	   ^                  |  ^                                        |                     |
//	   |                  |  '---- firmware refused KEK: remembered --'                     |
//	   |                  |  '------------------- the next start: Settle -------------------'
//	   '-- done, refused, failed
//
// What always holds:
//   - The document is saved before each step, the archive before the document.
//   - Bindings are found in the header by the hash of their policy (PolicyOf), which is
//     worked out of the values of a start and the key. The header alone is believed about
//     which there are; the document gives values to look for. So a lost, old or restored
//     document costs nothing.
//   - What was measured is taken out of the log of this start, not out of the variables:
//     that holds also when the daemon ended between writing and reading back.
//   - As long as a variable is not what was measured, no binding is removed, and every
//     start with the present variables is bound (Cover).
//   - A file is handed to the firmware in at most maxTries starts, so that firmware which
//     forgets what it took does not make the node restart for ever.
//   - Nothing is written while the running release is on trial: restarts use up its tries.
//
// A release that is signed by other keys than the running one is measured in another way.
// Opens asks about it and Prepare binds the disk to it (release.go), before its kernel image
// reaches the ESP; Settle removes what the release before needed, once that is gone.
//
// What can fail: a prediction (then nothing is written), the firmware (then nothing is
// written, or what it stored is bound), a header (then nothing is switched). A node that
// cannot bind what the firmware has stored is not restarted, and says so.
package keyupdate

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"

	"github.com/holdfast-os/holdfast/internal/pcr"
	"github.com/holdfast-os/holdfast/internal/plan"
	"github.com/holdfast-os/holdfast/internal/secureboot"
)

// Why an update is not carried out.
var (
	// ErrRefused is an archive that cannot be applied as it is; the text says what to do.
	ErrRefused = errors.New("the archive of Secure Boot keys is not applied")
	// ErrBusy is a second call while one goes on.
	ErrBusy = errors.New("an update of Secure Boot keys is already under way")
	// ErrOnTrial is an update while the running release has not proved itself.
	ErrOnTrial = errors.New("the running release is still on trial; try again when it is found good")
	// ErrFirmware is a refusal of the firmware, for Machine.Append to wrap: nothing was changed.
	ErrFirmware = errors.New("the firmware refused the update")
)

// maxTries is in how many starts one file is handed to the firmware.
const maxTries = 2

// Program is a boot loader or a UKI that the node may start.
type Program struct {
	Image secureboot.Image
	// Signed are the keys whose signatures for register 11 a UKI carries.
	Signed []string
}

// Facts are what the node is now.
type Facts struct {
	// BootID is another one after each start of the kernel.
	BootID string
	// OpenedByTPM is true when the TPM opened the root volume at this start.
	OpenedByTPM bool
	// OnTrial is true while the running release has not proved itself.
	OnTrial bool
	// State is for secureboot.Next. Written and Failed are left to this package; Variables
	// has all that register 7 depends on.
	State secureboot.State
	// Log is the firmware's log of this start, PCR7 the value in the TPM.
	Log  []pcr.Event
	PCR7 pcr.Value
	// Loaders and UKIs are those on the ESP, with names of their own. Loader and UKI are
	// the ones that were started.
	Loaders, UKIs []Program
	Loader, UKI   string
	// Unknown are boot loaders and UKIs that could not be read: what they would measure is
	// not known, so nothing is written and no binding removed while there are any.
	Unknown []string
}

// Machine observes the node and writes to its firmware.
type Machine interface {
	Look(ctx context.Context) (Facts, error)
	// Room is an error when a variable of so many bytes does not fit.
	Room(size int) error
	// Append hands an update to the firmware. ErrFirmware, wrapped, says that it was
	// refused and that nothing changed; after any other error Read tells.
	Append(update secureboot.Auth) error
	// Read gives the content of a variable; empty when it does not exist.
	Read(name secureboot.Name) ([]byte, error)
}

// Token is a binding in the header of the root volume.
type Token struct {
	// Policy is the hash of its policy; zero when it has several parts.
	Policy Policy
	// PublicKey is the key of its signed policy, PEM; nil without one.
	PublicKey []byte
}

// Wanted is a binding that is to be made.
type Wanted struct {
	Binding   secureboot.Binding
	PublicKey []byte
	Policy    Policy
}

// Disk are the volumes that the TPM opens. Root is asked; swap follows it.
type Disk interface {
	// Tokens gives the bindings of root in the order in which systemd tries them.
	Tokens(ctx context.Context) ([]Token, error)
	// Keys are PCR policy keys that the node knows beside those of the tokens, PEM.
	Keys(ctx context.Context) ([][]byte, error)
	// Bind adds a binding to each volume that has none with this policy.
	Bind(ctx context.Context, b Wanted) error
	// Unbind removes the bindings with a policy.
	Unbind(ctx context.Context, policy Policy) error
}

// Store keeps what has to outlast a restart.
type Store interface {
	Load() (Document, error)
	Save(Document) error
	// Archive gives the archive; nil when there is none.
	Archive() ([]byte, error)
	Keep(archive []byte) error
	Drop() error
}

// Stage is where an update is.
type Stage string

// The stages; see the drawing above.
const (
	Pending Stage = "pending"
	Bound   Stage = "bound"
	Writing Stage = "writing"
	Restart Stage = "restart"
	Done    Stage = "done"
	Refused Stage = "refused"
	Failed  Stage = "failed"
)

// Document is what is remembered.
type Document struct {
	// Stage is empty on a node that never had an archive.
	Stage Stage `json:"stage,omitempty"`
	// Version is the release that brought the archive; empty for one that a person sent.
	Version string `json:"version,omitempty"`
	// Digest is the SHA-256 of the archive, hexadecimal.
	Digest string `json:"digest,omitempty"`
	// Reason says what goes on or why it ended, Notes what was passed over.
	Reason string   `json:"reason,omitempty"`
	Notes  []string `json:"notes,omitempty"`
	// Failed are files that the firmware refused, with the reason.
	Failed map[string]string `json:"failed,omitempty"`
	// Tried is in how many starts a file was handed to the firmware.
	Tried map[string]int `json:"tried,omitempty"`
	// Written is what this node wrote last.
	Written *Written `json:"written,omitempty"`
	// Known are values of bindings that this node made, to look for in the header.
	Known []Values `json:"known,omitempty"`
	// Coming is the release that the disk was last bound to before it was installed.
	Coming *Coming `json:"coming,omitempty"`
}

// Written is a file that was handed to the firmware.
type Written struct {
	BootID   string          `json:"boot_id"`
	File     string          `json:"file"`
	Variable secureboot.Name `json:"variable"`
}

// Values are those of a binding, hexadecimal.
type Values struct {
	PCR7 string `json:"pcr7"`
	PCR4 string `json:"pcr4,omitempty"`
}

// FullyApplied is true when every certificate of the last archive is in its variable.
func (d Document) FullyApplied() bool { return d.Stage == Done && len(d.Notes) == 0 }

// Outcome is what a call came to.
type Outcome struct {
	// Restart is true when the node has to restart before anything else is written.
	Restart bool
	// Why is a sentence for a person.
	Why string
	// Notes are what was passed over, each a sentence.
	Notes []string
}

// Updater carries updates out. All fields are set before the first call.
type Updater struct {
	Machine Machine
	Disk    Disk
	Store   Store

	working sync.Mutex
}

// Document gives what is remembered.
func (u *Updater) Document() (Document, error) { return u.Store.Load() }

// Apply begins with an archive and goes as far as this start lets it. version is the release
// that brought it. One that a person sent (no version) forgets what the firmware refused
// before. An archive that is under way is replaced. ErrRefused, ErrBusy, ErrOnTrial.
func (u *Updater) Apply(ctx context.Context, archive []byte, version string) (Outcome, error) {
	if !u.working.TryLock() {
		return Outcome{}, ErrBusy
	}
	defer u.working.Unlock()
	if _, err := secureboot.ReadArchive(bytes.NewReader(archive)); err != nil {
		return Outcome{}, fmt.Errorf("%w: %w", ErrRefused, err)
	}
	facts, err := u.Machine.Look(ctx)
	if err != nil {
		return Outcome{}, err
	}
	if facts.OnTrial {
		return Outcome{}, ErrOnTrial
	}
	doc, err := u.Store.Load()
	if err != nil {
		return Outcome{}, err
	}
	sum := sha256.Sum256(archive)
	digest := hex.EncodeToString(sum[:])
	if version == "" {
		doc.Failed, doc.Tried = nil, nil
	}
	doc.Stage, doc.Version, doc.Digest, doc.Reason, doc.Notes = Pending, version, digest, "", nil
	if err := errors.Join(u.Store.Keep(archive), ctx.Err()); err != nil {
		return Outcome{}, fmt.Errorf("keeping the archive of Secure Boot keys: %w", err)
	}
	if err := u.Store.Save(doc); err != nil {
		return Outcome{}, err
	}
	return u.advance(ctx, doc)
}

// Start is called once the node has started: it removes the bindings that no start needs
// any more, and goes on with an archive that is under way. An error of the former does not
// keep the latter from its turn.
func (u *Updater) Start(ctx context.Context) (Outcome, error) {
	if !u.working.TryLock() {
		return Outcome{}, ErrBusy
	}
	defer u.working.Unlock()
	doc, err := u.Store.Load()
	if err != nil {
		return Outcome{}, err
	}
	settleErr := u.settle(ctx, &doc)
	if settleErr != nil {
		settleErr = fmt.Errorf("removing bindings to the TPM that no start needs any more: %w", settleErr)
	}
	outcome, err := u.goOn(ctx, doc)
	return outcome, errors.Join(settleErr, err)
}

// Continue goes on with an archive that is under way; without one it does nothing.
func (u *Updater) Continue(ctx context.Context) (Outcome, error) {
	if !u.working.TryLock() {
		return Outcome{}, ErrBusy
	}
	defer u.working.Unlock()
	doc, err := u.Store.Load()
	if err != nil {
		return Outcome{}, err
	}
	return u.goOn(ctx, doc)
}

func (u *Updater) goOn(ctx context.Context, doc Document) (Outcome, error) {
	archive, err := u.Store.Archive()
	if err != nil || archive == nil {
		return Outcome{}, err
	}
	facts, err := u.Machine.Look(ctx)
	if err != nil {
		return Outcome{}, err
	}
	if facts.OnTrial {
		return Outcome{Why: ErrOnTrial.Error()}, nil
	}
	return u.advance(ctx, doc)
}

// Plan says what Apply would do now. It changes nothing.
func (u *Updater) Plan(ctx context.Context, archive []byte) (plan.Plan, error) {
	read, err := secureboot.ReadArchive(bytes.NewReader(archive))
	if err != nil {
		return plan.Plan{}, fmt.Errorf("%w: %w", ErrRefused, err)
	}
	doc, err := u.Store.Load()
	if err != nil {
		return plan.Plan{}, err
	}
	doc.Failed, doc.Tried = nil, nil
	v, err := u.look(ctx, doc)
	if err != nil {
		return plan.Plan{}, err
	}
	d := secureboot.Next(v.state, read)
	var p plan.Plan
	switch d.Action {
	case secureboot.Refuse:
		return plan.Plan{}, fmt.Errorf("%w: %s", ErrRefused, d.Why)
	case secureboot.Write:
		steps, err := v.writeSteps(d)
		if err != nil {
			return plan.Plan{}, err
		}
		p = secureboot.Show(steps)
	default:
		d.Notes = append(d.Notes, d.Why)
	}
	p.Notes = append(p.Notes, d.Notes...)
	return p, nil
}
