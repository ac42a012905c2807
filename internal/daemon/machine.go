// Package daemon is holdfastd: it brings a node up, phase by phase, and answers its API.
//
// phases.go is what happens at start, in order; routes.go and routes_system.go are what
// can be asked. Everything outside is behind the small interfaces of this file, so that
// the whole daemon runs in memory in its tests; wire.go alone knows the real ones.
//
// Invariants:
//
//   - A failed phase never ends the daemon: its error is on the console and in
//     /1.0/debug/boot, and it is tried again, ever more slowly, until it works. The API
//     is up from the phase "api" on, and before it as soon as a phase has failed.
//   - /1.0 says system_is_ready only when every phase has ended well.
//   - What the owner asked for is kept in documents of package state, and is the only
//     thing kept. What is observed is asked for anew at each request.
package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	osapi "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/seed"
	"github.com/holdfast-os/holdfast/internal/services"
)

// Errors that an interface below returns, wrapped, to choose the HTTP code.
var (
	// ErrNotFound is 404.
	ErrNotFound = errors.New("not found")
	// ErrConflict is 409: it is there already, or another change is going on.
	ErrConflict = errors.New("conflict")
	// ErrInvalid is 400: the request asks for what cannot be.
	ErrInvalid = errors.New("invalid")
	// ErrUnsupported is 501: a later release will do it.
	ErrUnsupported = errors.New("unsupported")
)

// Machine is all that the daemon needs from outside. Each member must be set.
type Machine struct {
	Facts        Facts
	Devices      Devices
	Requirements Requirements
	Installer    Installer
	Seed         Seed
	Keys         Keys
	Security     Setting[osapi.SecurityConfig, osapi.SecurityState]
	Services     services.Registry
	Hands        Hands
	Kernel       Setting[osapi.KernelConfig, osapi.KernelState]
	Network      Setting[osapi.NetworkConfig, osapi.NetworkState]
	Logging      Setting[osapi.LoggingConfig, osapi.LoggingState]
	Provider     Setting[osapi.ProviderConfig, osapi.ProviderState]
	Resolver     Resolver
	Identity     Identity
	Extensions   Extensions
	Pools        Pools
	Apps         Apps
	AppUpdates   AppUpdates
	Updates      Updates
	Power        Power
	Diagnosis    Diagnosis
	Display      Display
	Doing        Doing
	Notify       Notify
	Starts       Starts
	// Backups, AppData and Resets may be nil: their requests answer 501 then.
	Backups Backups
	AppData AppData
	Resets  Resets
	// Abandoned says why a restore that waited for this start was not carried out; nil when it
	// was, or there was none. It may be nil itself.
	Abandoned func() error
	// SecureBoot may be nil too, for a machine without keys that could be changed.
	SecureBoot SecureBoot
	// Rescue may be nil as well, for a machine that takes no media.
	Rescue Rescues
	// Sooner gives a channel that is closed when somebody has done what a phase of the start may
	// be waiting for, which is then tried again at once. It may be nil.
	Sooner func() <-chan struct{}
}

// Facts observes the machine.
type Facts interface {
	// Environment gives all but SystemIsReady.
	Environment(ctx context.Context) (osapi.Environment, error)
	// Resources gives the hardware in the shape that Incus has for it.
	Resources(ctx context.Context) (any, error)
	// Storage gives drives, pools and the space of the root partition.
	Storage(ctx context.Context) (osapi.StorageState, error)
	// Warnings are what an owner should know at once, as an untrusted state.
	Warnings(ctx context.Context) ([]string, error)
	// Fingerprint is the SHA-256 of the certificate that a client will see; empty while
	// there is none.
	Fingerprint(ctx context.Context) (string, error)
}

// Devices are the disks, cards and other hardware, which appear one after the other while the
// machine starts.
type Devices interface {
	// Settle waits until all that were there at power-on can be used by their names. After a
	// minute it gives up with an error: a broken one must not keep the node from starting.
	Settle(ctx context.Context) error
}

// Requirements looks whether this machine can be a node at all.
type Requirements interface {
	// Check gives every problem as a sentence for a person; none when all is well.
	Check(ctx context.Context) ([]string, error)
}

// Installer puts the system onto a disk.
type Installer interface {
	// Wanted is true when this start is that of an install medium.
	Wanted(ctx context.Context) (bool, error)
	// Run installs and restarts the machine. It returns early only with an error.
	Run(ctx context.Context, show Display) error
}

// Seed gives the first-boot documents.
type Seed interface {
	// Read gives the documents; a missing one is nil. An error is worth another try: a medium
	// or a key may be plugged in by then.
	Read(ctx context.Context) (*seed.Set, error)
	// Used notes that the node has taken all of them over. Their secrets may go from the disk.
	Used(ctx context.Context) error
	// Replace puts a document in the place of one that the node has, also for later starts;
	// nil removes it. Its secrets do not stay where those of the seed do not.
	Replace(ctx context.Context, name string, document json.RawMessage) error
}

// Starts is what early boot counts: starts that never ended in a ready node.
type Starts interface {
	// Finished ends the counting: this one has.
	Finished() error
}

// Resolver is what turns names into addresses.
type Resolver interface {
	// FlushDNS forgets what it has learnt.
	FlushDNS(ctx context.Context) error
}

// Extensions merges the images of the applications into the system.
type Extensions interface {
	Refresh(ctx context.Context) error
}

// Pools imports the ZFS pools, and makes "local" at the first start.
type Pools interface {
	Ensure(ctx context.Context) error
}

// Apps manages the applications.
type Apps interface {
	// List gives the installed ones, sorted.
	List(ctx context.Context) ([]string, error)
	// Add installs and starts one: ErrInvalid, ErrConflict, ErrUnsupported.
	Add(ctx context.Context, name string) error
	// Show gives one: ErrNotFound.
	Show(ctx context.Context, name string) (osapi.Application, error)
	// Configure changes one: ErrNotFound, ErrInvalid.
	Configure(ctx context.Context, name string, config osapi.ApplicationConfig) error
	Restart(ctx context.Context, name string) error
	// Remove removes one: ErrNotFound, ErrInvalid for the primary one.
	Remove(ctx context.Context, name string) error
}

// AppUpdates starts the installed applications and keeps them current.
type AppUpdates interface {
	// StartAll starts and initializes every installed application. The data of the one that is
	// named in judged stays as it is, since the caller judges it; empty for none.
	StartAll(ctx context.Context, judged string) error
	// Ensure installs what the node should have and does not: on a node without
	// applications those that the seed names, and a primary one in any case.
	Ensure(ctx context.Context, seeded []string) error
	// Check brings one application to the newest release of the channel.
	Check(ctx context.Context, name string) error
	// FindVersion gives the version that a switch would lead to; empty asks for the one
	// before: ErrInvalid.
	FindVersion(ctx context.Context, name, version string) (string, error)
	// SwitchVersion goes to a version on disk.
	SwitchVersion(ctx context.Context, name, version string) error
}

// Power ends or pauses the run of the machine.
type Power interface {
	Poweroff(ctx context.Context) error
	Reboot(ctx context.Context) error
	Suspend(ctx context.Context) error
}

// LogQuery chooses entries of the journal.
type LogQuery struct {
	Unit, Boot string
	Entries    int
	Since      string
	Until      string
}

// Diagnosis reads what the machine says about itself.
type Diagnosis interface {
	// Log gives entries of the journal, oldest first: ErrInvalid for a wrong query.
	Log(ctx context.Context, query LogQuery) ([]json.RawMessage, error)
	Processes(ctx context.Context) (string, error)
	// Kernel gives the running kernel with its modules.
	Kernel(ctx context.Context) (osapi.DebugKernel, error)
	// EventLog is what firmware and loader have measured.
	EventLog(ctx context.Context) (osapi.DebugEventLog, error)
}

// Display is the screen of the machine.
type Display interface {
	// Start opens the screens: those of the kernel, and those that an owner wants as well.
	Start(ctx context.Context, more []osapi.KernelConsole) error
	// Message shows news; level is "info", "warning" or "error".
	Message(level, text string)
	// Progress shows what goes on; total 0 shows no bar.
	Progress(phase string, done, total int64)
	// Identity shows what the node is.
	Identity(shown Shown)
}

// Shown is what the screen says about the node.
type Shown struct {
	Environment osapi.Environment
	Addresses   []string
	// Applications are the installed ones with their version.
	Applications []string
	Warnings     []string
	// Fingerprint is the SHA-256 of the certificate that a client will see.
	Fingerprint string
}

// Notify speaks to the service manager.
type Notify interface {
	// Ready says that the API answers.
	Ready() error
	Status(text string) error
	Stopping() error
	// Watchdog gives the time within which Alive must be called again; 0 when there is
	// no watchdog.
	Watchdog() (time.Duration, error)
	Alive() error
}

// Clock is time, as a value that a test can turn by hand.
type Clock struct {
	// SinceBoot is the time since the kernel started.
	SinceBoot func() time.Duration
	// Now is the time of day.
	Now func() time.Time
	// After gives a channel that gets a value when the time is over.
	After func(time.Duration) <-chan time.Time
}

// wait gives false when the context ends first.
func (c Clock) wait(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-c.After(d):
		return true
	}
}
