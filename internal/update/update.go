// Package update brings a node from one release to the next, and back when the next one
// is no good.
//
// Parties: the Agent decides; Releases knows what is published; Stager fetches and writes
// the other slot; Slots is the boot loader's view (which slot runs, on trial or for good);
// TPM knows whether the next boot opens the disk; Store keeps the Document. All are
// interfaces of this package. The boot loader is systemd-boot: the newest release whose
// tries are not used up is started, and each start of a release on trial uses one.
//
// The states and every way between them are one value, Edges (machine.go); the pictures
// in docs/explanation/updates.md are made from it.
//
// Invariants:
//
//   - The slot that runs is never written to, and nothing is staged while the running
//     release is on trial: there is always one that has proved itself.
//   - The order of staging is: parts fetched and checked; the boot entry of the other slot
//     removed; that slot written; the disk bound to both releases; the new boot entry
//     made. The last step alone changes what boots.
//   - The document is saved before and after each step. What a power cut leaves is a pair
//     of document and machine that resume (resume.go) has an answer for.
//   - A verdict against a release is saved before anything is done about it, so that the
//     release that runs next can tell the reason.
//   - A release that was found bad is not taken again by itself.
//
// What can fail: the document may be lost altogether. Then the boot entries still say
// which release is on trial and which has used up its tries, and the agent goes on from
// that, without the reasons. A daemon that never gets as far as Agent.Boot cannot leave
// its slot: the image has a unit for that, which restarts a machine whose boot was not
// found good in time.
package update

import (
	"context"
	"errors"
	"time"

	osapi "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/api/release"
	"github.com/holdfast-os/holdfast/internal/update/health"
)

// Causes of errors. The first three are for Releases to wrap.
var (
	// ErrNoRelease is a channel that has nothing for this machine.
	ErrNoRelease = errors.New("the channel has no release for this machine")
	// ErrUntrusted is metadata that was refused.
	ErrUntrusted = errors.New("the release's metadata is not to be trusted")
	// ErrUnreachable is a server that does not answer; nothing is wrong with the node.
	ErrUnreachable = errors.New("the server of releases cannot be reached")
	// ErrOlder is a newest release that is older than what the node has.
	ErrOlder = errors.New("the newest release is older than what the node has")
	// ErrChanged is a version that was published a second time with other content.
	ErrChanged = errors.New("the release was published again with other content")
	// ErrBadRelease is a release that did not prove itself on this node.
	ErrBadRelease = errors.New("this release did not work on this node and is skipped")
	// ErrSpace is a node without room for the release.
	ErrSpace = errors.New("not enough space for the release")
	// ErrLocked is a release under which the TPM would not open the disk.
	ErrLocked = errors.New("the disk would not open by itself under this release")
	// ErrBusy is a second operation while one runs.
	ErrBusy = errors.New("an update is already under way")
	// ErrOnTrial is an update while the running release has not proved itself.
	ErrOnTrial = errors.New("the running release is still on trial; try again when it is found good")
	// ErrNothingStaged is a restart into a release where none is staged.
	ErrNothingStaged = errors.New("no release is staged; check for updates first")
)

// Found is a release as Releases found it.
type Found struct {
	Manifest release.Manifest
	// Digest is the SHA-256 of the manifest as it was signed, hexadecimal.
	Digest string
	// Handle is for the adapters alone.
	Handle any
}

// Releases finds what is published, for the architecture of this machine.
type Releases interface {
	// Newest gives the newest release of a channel; fresh has it not answer from memory.
	// Errors wrap ErrNoRelease, ErrUntrusted or ErrUnreachable.
	Newest(ctx context.Context, channel string, fresh bool) (Found, error)
	// Changelog gives what is new in a release of the channel; nil when there is none.
	Changelog(ctx context.Context, found Found, channel string) (*release.Changelog, error)
}

// Progress hears how many bytes of how many are done; it may be nil.
type Progress func(done, total int64)

// Stager brings a release into the slot that does not run. It never touches boot entries,
// but for Tidy.
type Stager interface {
	// Prepare says how each part of the OS would be got. It changes nothing.
	Prepare(ctx context.Context, found Found) ([]PartPlan, error)
	// Space says how much room there is, and how much is needed.
	Space(ctx context.Context, found Found) (Space, error)
	// Tidy removes what is left of earlier tries from the ESP and from the place for
	// fetched parts: unfinished copies, the file checker's FSCK*.REC.
	Tidy(ctx context.Context) error
	// Fetch has every part of the OS on the node, checked, when it returns. It goes on
	// where an earlier call was cut off.
	Fetch(ctx context.Context, found Found, progress Progress) error
	// Write fills the slot that does not run; all of it is on the disk when it returns.
	Write(ctx context.Context, found Found, progress Progress) error
}

// Slots is the boot loader's view of the machine.
type Slots interface {
	// Look gives what is installed and what runs.
	Look(ctx context.Context) (Machine, error)
	// Drop removes the boot entry of a release; one that is not there is no error.
	Drop(ctx context.Context, version string) error
	// Arm makes the boot entry of a written release, with its tries, in one step that is
	// on the disk when it returns. From then on the loader starts it.
	Arm(ctx context.Context, found Found) error
	// Bless removes the counter from the running release's entry. It may be repeated.
	Bless(ctx context.Context) error
	// MarkBad sets the tries that a release has left to 0. It may be repeated.
	MarkBad(ctx context.Context, version string) error
}

// TPM knows what opens the disk.
type TPM interface {
	// Predict says whether the disk would open by itself under a release that is written.
	// Asked before it is written, it says what it can.
	Predict(ctx context.Context, found Found) (Prediction, error)
	// Rebind has the disk open under that release and under the running one.
	Rebind(ctx context.Context, found Found) error
}

// Prediction is what the next boot would measure.
type Prediction struct {
	// Unlocks is true when the disk would open by itself.
	Unlocks bool
	// Note says which PCRs change and why, for a person.
	Note string
}

// Power restarts the machine.
type Power interface {
	// Reboot begins a restart. It may return before the machine is down.
	Reboot(ctx context.Context, why string) error
	// StayUp ends the image's own watch over a boot on trial, which would restart the
	// machine. It may be repeated, and in a boot that has none.
	StayUp(ctx context.Context) error
}

// Apps are the applications, which are updated apart from the OS.
type Apps interface {
	// CheckUpdates updates all, and gives the names of those that changed.
	CheckUpdates(ctx context.Context) ([]string, error)
	// Primary is the name of the primary application; empty when there is none yet.
	Primary() (string, error)
	// News gives what was decided of applications since it was last asked, each a sentence:
	// as which version stays after a return to an older release of the OS.
	News() []string
}

// Settings are the owner's, read anew each time.
type Settings interface {
	Update() osapi.UpdateConfig
	// Location is the node's time zone.
	Location() *time.Location
}

// Journal is the system's log of this boot.
type Journal interface {
	// Tail gives the last lines, oldest first.
	Tail(ctx context.Context, lines int) ([]string, error)
}

// Events hears what happens.
type Events interface {
	// Publish must not wait.
	Publish(Notice)
}

// The kinds of notices. NoticeOS and NoticeApplications are also causes for a provider.
const (
	NoticeOS           = "os-update-applied"
	NoticeApplications = "application-update-applied"
	NoticeReturned     = "os-update-returned"
	NoticeState        = "update-state"
	NoticeChecks       = "update-checks"
	NoticeProgress     = "update-progress"
)

// Notice is one thing that happened.
type Notice struct {
	// Kind is one of the names above.
	Kind string
	// State is the agent's state after it.
	State State
	// Version is the release that it is about; may be empty.
	Version string
	// Text is for a person.
	Text string
	// Checks are those of the gate; for NoticeChecks.
	Checks []health.Result
	// Done and Total are bytes; for NoticeProgress.
	Done, Total int64
}

// Machine is what is installed and what runs.
type Machine struct {
	// BootID is another one after each start of the kernel.
	BootID string
	// Uptime is the time since the start of the kernel.
	Uptime time.Duration
	// Running is the version of the release that runs.
	Running string
	// Entries are the boot entries, that of the running release among them.
	Entries []Entry
}

// Entry is one release that the boot loader can start.
type Entry struct {
	Version string
	// Counted is true while the release is on trial: its starts are counted.
	Counted bool
	// TriesLeft is how often it may still be started, not counting a start under way.
	TriesLeft int
	// TriesDone is how often it was started.
	TriesDone int
}

// Bad is true for a release whose tries are used up; the loader starts it when there is
// no other.
func (e Entry) Bad() bool { return e.Counted && e.TriesLeft == 0 }

func (m Machine) entry(version string) (Entry, bool) {
	for _, e := range m.Entries {
		if e.Version == version && version != "" {
			return e, true
		}
	}
	return Entry{}, false
}

// onTrial is true when the running release has not proved itself.
func (m Machine) onTrial() bool {
	e, _ := m.entry(m.Running)
	return e.Counted
}

// canLeave is true when the loader has another release to start.
func (m Machine) canLeave() bool {
	for _, e := range m.Entries {
		if e.Version != m.Running && !e.Bad() {
			return true
		}
	}
	return false
}
