package apps

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	api "github.com/holdfast-os/holdfast/api/os"
)

// Store keeps the State. Save replaces the whole document at once, or fails and leaves
// the old one. Load gives an empty State when nothing was saved; the value is the caller's.
type Store interface {
	Load() (State, error)
	Save(State) error
}

// Release is a published version of an application for this machine.
type Release struct {
	// Version is a UTC time as YYYYMMDDhhmm.
	Version string
	// Handle is for the provider alone.
	Handle any
}

// ErrNoFile is a release that does not have the application.
var ErrNoFile = errors.New("the release does not have this application")

// Provider finds and fetches releases, of its own channel and architecture.
type Provider interface {
	// Latest gives the newest release that has the application's file.
	Latest(ctx context.Context, file, running string) (Release, error)
	// Fetch writes the unpacked file to dst, after checking its published size and sum.
	// It may leave a part of dst behind when it fails. progress may be nil.
	Fetch(ctx context.Context, release Release, file, dst string, progress func(percent int)) error
}

// Extensions verifies and merges system extensions.
type Extensions interface {
	// Verify accepts an image only when all of it is signed by a trusted key.
	Verify(ctx context.Context, image string) error
	// Same tells whether two images that were verified have the same content.
	Same(a, b string) (bool, error)
	Link(name, image string) error
	Unlink(name string) error
	// Refresh merges what is linked and makes users, directories and units known.
	Refresh(ctx context.Context) error
}

// Units controls services. Start of an active unit and Stop of a stopped one are no errors.
type Units interface {
	Start(ctx context.Context, units ...string) error
	Stop(ctx context.Context, units ...string) error
	Restart(ctx context.Context, units ...string) error
	IsActive(ctx context.Context, unit string) (bool, error)
}

// Program is a running application.
type Program interface {
	// Ready returns once the application answers, or with an error when ctx ends.
	Ready(ctx context.Context) error
	// Initialize applies the seed and the defaults. It may be repeated.
	Initialize(ctx context.Context) error
	// Version is the program's own version, as "7.0.2".
	Version(ctx context.Context) (string, error)
}

const (
	// switchTimeout bounds merging and starting one version, which is not interrupted
	// by the caller.
	switchTimeout = 15 * time.Minute
	// readyTimeout bounds the wait for the first answer of a started program, which may
	// have to upgrade its database first.
	readyTimeout = 5 * time.Minute
	// versionTimeout bounds asking a program for its version, so that a hanging program
	// does not hang the API.
	versionTimeout = 2 * time.Second
)

// Manager carries out changes, one at a time. All fields are set before the first call.
type Manager struct {
	Store      Store
	Provider   Provider
	Extensions Extensions
	Units      Units
	// Programs are the running applications by name; one that is missing is taken to be
	// ready and initialized as soon as its units are active.
	Programs map[string]Program
	// Catalogue is what can be installed; see Catalogue.
	Catalogue map[string]Application
	// Root is the file system root; "/" on a node.
	Root string
	Log  *slog.Logger
	// Progress hears of downloads, in percent; it may be nil.
	Progress func(name string, percent int)
	// OS is the release of the OS that runs, as "202611220104"; empty when it is not known,
	// and then versions do not follow it.
	OS string

	changing sync.Mutex
	// returning are the applications whose version is tried under an older OS in this boot.
	returning map[string]bool

	telling sync.Mutex
	news    []string
}

// List gives the names of the installed applications, sorted.
func (m *Manager) List() ([]string, error) {
	state, err := m.load()
	if err != nil {
		return nil, err
	}
	return slices.Sorted(maps.Keys(state)), nil
}

// Primary gives the name of the installed primary application, empty when there is none.
func (m *Manager) Primary() (string, error) {
	state, err := m.load()
	if err != nil {
		return "", err
	}
	return primaryOf(m.Catalogue, state), nil
}

// Show describes an installed application. ErrUnknown, ErrNotInstalled.
func (m *Manager) Show(ctx context.Context, name string) (api.Application, error) {
	state, err := m.installed(name)
	if err != nil {
		return api.Application{}, err
	}
	record := state[name]
	versions, err := m.onDisk(name)
	if err != nil {
		return api.Application{}, err
	}
	return api.Application{
		Config: record.Config,
		State: api.ApplicationState{
			Initialized:       record.Initialized,
			IsPrimary:         m.Catalogue[name].Primary,
			FriendlyVersion:   m.friendlyVersion(ctx, name, record.Version),
			Version:           record.Version,
			AvailableVersions: versions,
			LastRestored:      record.LastRestored,
		},
	}, nil
}

// friendlyVersion is the release alone while the program does not answer.
func (m *Manager) friendlyVersion(ctx context.Context, name, release string) string {
	program, ok := m.Programs[name]
	if !ok {
		return release
	}
	ctx, cancel := context.WithTimeout(ctx, versionTimeout)
	defer cancel()
	own, err := program.Version(ctx)
	if err != nil {
		m.Log.Debug("application does not tell its version", "application", name, "error", err)
		return release
	}
	return fmt.Sprintf("%s [%s]", own, release)
}

// Add installs the newest release of an application, starts and initializes it. When the
// image is refused or does not start, nothing of it stays. When only the initialization
// fails, the application stays installed and the next start tries again.
// ErrUnknown, ErrInstalled, ErrUnsupported, ErrSecondPrimary.
func (m *Manager) Add(ctx context.Context, name string) error {
	m.changing.Lock()
	defer m.changing.Unlock()
	return m.add(ctx, name)
}

// Ensure installs what the node should have and does not: the seed's list on a node
// without applications, a primary application, and missing dependencies.
func (m *Manager) Ensure(ctx context.Context, seeded []string) error {
	m.changing.Lock()
	defer m.changing.Unlock()
	state, err := m.load()
	if err != nil {
		return err
	}
	names, err := wanted(m.Catalogue, state, seeded)
	if err != nil {
		return fmt.Errorf("choosing the applications of this node: %w", err)
	}
	var failed []error
	for _, name := range names {
		if _, installed := state[name]; !installed {
			failed = append(failed, m.add(ctx, name))
		}
	}
	return errors.Join(failed...)
}

func (m *Manager) add(ctx context.Context, name string) error {
	state, err := m.load()
	if err != nil {
		return err
	}
	if err := mayAdd(m.Catalogue, state, name); err != nil {
		return err
	}
	release, err := m.latest(ctx, name, "")
	if err != nil {
		return err
	}
	if err := m.obtain(ctx, name, release); err != nil {
		return err
	}
	record := Record{Version: release.Version, OS: m.OS}
	if err := m.record(name, record); err != nil {
		return err
	}
	if err := m.activate(ctx, name, record, release.Version, m.start); err != nil {
		err = fmt.Errorf("installing %s %s: %w", name, release.Version, err)
		stopCtx := context.WithoutCancel(ctx)
		return errors.Join(err, m.stop(stopCtx, name), m.erase(stopCtx, name))
	}
	return m.initialize(ctx, name)
}

// Configure sets an application's configuration and restarts it when that changed
// anything. ErrUnknown, ErrNotInstalled, ErrUnsupported.
func (m *Manager) Configure(ctx context.Context, name string, config api.ApplicationConfig) error {
	m.changing.Lock()
	defer m.changing.Unlock()
	state, err := m.installed(name)
	if err != nil {
		return err
	}
	if config.LXCFS != nil && !isIncus(name) {
		return fmt.Errorf("config.lxcfs of application %s: %w; only incus has it", name, ErrUnsupported)
	}
	record := state[name]
	record.Config = config
	if err := m.record(name, record); err != nil {
		return err
	}
	changed, err := m.writeDefaults(name, config)
	if err != nil || !changed {
		return err
	}
	return m.restart(ctx, name)
}

// Restart restarts the application's main service. ErrUnknown, ErrNotInstalled.
func (m *Manager) Restart(ctx context.Context, name string) error {
	m.changing.Lock()
	defer m.changing.Unlock()
	if _, err := m.installed(name); err != nil {
		return err
	}
	return m.restart(ctx, name)
}

// Remove stops an application and deletes its images; its data stays.
// ErrUnknown, ErrNotInstalled, ErrPrimary, ErrNeeded.
func (m *Manager) Remove(ctx context.Context, name string) error {
	m.changing.Lock()
	defer m.changing.Unlock()
	state, err := m.load()
	if err != nil {
		return err
	}
	if err := mayRemove(m.Catalogue, state, name); err != nil {
		return err
	}
	if err := m.stop(ctx, name); err != nil {
		return err
	}
	return m.erase(ctx, name)
}

// StopAll stops the applications in reverse order of their start, before a shutdown.
func (m *Manager) StopAll(ctx context.Context) error {
	m.changing.Lock()
	defer m.changing.Unlock()
	state, err := m.load()
	if err != nil {
		return err
	}
	names := slices.Collect(maps.Keys(state))
	startOrder(m.Catalogue, names)
	slices.Reverse(names)
	var failed []error
	for _, name := range names {
		failed = append(failed, m.stop(ctx, name))
	}
	return errors.Join(failed...)
}

func (m *Manager) load() (State, error) {
	state, err := m.Store.Load()
	if err != nil {
		return nil, fmt.Errorf("reading which applications are installed: %w", err)
	}
	if state == nil {
		state = State{}
	}
	return state, nil
}

// installed loads the state and checks that name is in it.
func (m *Manager) installed(name string) (State, error) {
	state, err := m.load()
	if err != nil {
		return nil, err
	}
	return state, mustHave(m.Catalogue, state, name)
}

func (m *Manager) record(name string, record Record) error {
	state, err := m.load()
	if err != nil {
		return err
	}
	state[name] = record
	if err := m.Store.Save(state); err != nil {
		return fmt.Errorf("recording application %s: %w", name, err)
	}
	return nil
}

func (m *Manager) latest(ctx context.Context, name, running string) (Release, error) {
	release, err := m.Provider.Latest(ctx, name+".raw", running)
	if err != nil {
		return Release{}, fmt.Errorf("looking for the newest release of %s: %w", name, err)
	}
	return release, checkVersion(release.Version)
}
