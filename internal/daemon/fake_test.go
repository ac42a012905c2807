package daemon_test

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	osapi "github.com/holdfast-os/holdfast/api/os"
	seedapi "github.com/holdfast-os/holdfast/api/seed"
	"github.com/holdfast-os/holdfast/internal/audit"
	"github.com/holdfast-os/holdfast/internal/change"
	"github.com/holdfast-os/holdfast/internal/config"
	"github.com/holdfast-os/holdfast/internal/console"
	"github.com/holdfast-os/holdfast/internal/daemon"
	"github.com/holdfast-os/holdfast/internal/plan"
	"github.com/holdfast-os/holdfast/internal/seed"
	"github.com/holdfast-os/holdfast/internal/state"
	"github.com/holdfast-os/holdfast/internal/update"
)

// world is a machine in memory. What happens to it is told through the channel events,
// when somebody listens, and kept in order.
type world struct {
	mu       sync.Mutex
	events   []string
	happened chan string
	failures map[string][]error // what a call answers next, by name; then it works
	block    map[string]chan struct{}

	installMode bool
	apps        map[string]osapi.ApplicationConfig
	seed        struct {
		update   *osapi.UpdateConfig
		provider *osapi.ProviderConfig
		network  *osapi.NetworkConfig
		apps     []string
		more     seed.Set // further documents
	}
	seedUsed int // how often the daemon said that it needs the seed no more
	query    daemon.LogQuery
	applied  map[string]any // configurations in effect, by section
	shown    daemon.Shown
	backups  daemon.Backups
	appData  daemon.AppData
	resets   daemon.Resets
	messages []string
}

func newWorld() *world {
	return &world{applied: map[string]any{}, apps: map[string]osapi.ApplicationConfig{}, failures: map[string][]error{}, block: map[string]chan struct{}{},
		happened: make(chan string, 1000)}
}

// did notes a call and gives the failure that is planned for it.
func (w *world) did(name string) error {
	w.mu.Lock()
	w.events = append(w.events, name)
	var err error
	if planned := w.failures[name]; len(planned) > 0 {
		err, w.failures[name] = planned[0], planned[1:]
	}
	block := w.block[name]
	w.mu.Unlock()
	w.happened <- name
	if block != nil {
		<-block
	}
	return err
}

func (w *world) wait(t *testing.T, name string) {
	t.Helper()
	limit := time.After(20 * time.Second)
	for {
		select {
		case got := <-w.happened:
			if got == name {
				return
			}
		case <-limit:
			t.Fatalf("%q did not happen; events: %q", name, w.log())
		}
	}
}

// saw is wait for what may have happened before as well.
func (w *world) saw(t *testing.T, name string) {
	t.Helper()
	if !slices.Contains(w.log(), name) {
		w.wait(t, name)
	}
}

func (w *world) log() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.events)
}

type fakeFacts struct{ *world }

func (fakeFacts) Environment(context.Context) (osapi.Environment, error) {
	return osapi.Environment{Hostname: "node1", MachineID: "0123456789abcdef0123456789abcdef", OSName: "Holdfast", OSVersion: "202611220104", Uptime: 61}, nil
}

func (fakeFacts) Resources(context.Context) (any, error) { return map[string]int{"cpu": 2}, nil }

func (fakeFacts) Storage(context.Context) (osapi.StorageState, error) {
	return osapi.StorageState{Drives: []osapi.Drive{}, Pools: []osapi.Pool{{Name: "local", State: "ONLINE"}}}, nil
}

func (fakeFacts) Warnings(context.Context) ([]string, error) { return []string{"using swtpm"}, nil }

func (fakeFacts) Fingerprint(context.Context) (string, error) { return "3b8a", nil }

type fakeDevices struct{ *world }

func (f fakeDevices) Settle(context.Context) error { return f.did("devices") }

type fakeRequirements struct{ *world }

func (f fakeRequirements) Check(context.Context) ([]string, error) { return nil, f.did("requirements") }

type fakeInstaller struct{ *world }

func (f fakeInstaller) Wanted(context.Context) (bool, error) { return f.installMode, nil }

func (f fakeInstaller) Run(ctx context.Context, show daemon.Display) error {
	if err := f.did("install"); err != nil {
		return err
	}
	<-ctx.Done() // the machine restarts
	return ctx.Err()
}

type fakeSeed struct{ *world }

func (f fakeSeed) Read(context.Context) (*seed.Set, error) {
	set := f.seed.more
	if f.seed.update != nil {
		set.Update = &seedapi.Update{UpdateConfig: *f.seed.update}
	}
	if f.seed.provider != nil {
		set.Provider = &seedapi.Provider{ProviderConfig: *f.seed.provider}
	}
	if f.seed.network != nil {
		set.Network = &seedapi.Network{NetworkConfig: *f.seed.network}
	}
	if f.seed.apps != nil {
		set.Applications = &seedapi.Applications{}
		for _, name := range f.seed.apps {
			set.Applications.Applications = append(set.Applications.Applications, seedapi.Application{Name: name})
		}
	}
	return &set, nil
}

func (f fakeSeed) Used(context.Context) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.seedUsed++
	return nil
}

func (f fakeSeed) Replace(_ context.Context, name string, document json.RawMessage) error {
	return f.did("the seed " + name + " is " + string(document))
}

type fakeKeys struct{ *world }

func (f fakeKeys) Prepare(context.Context) error { return f.did("recovery-keys") }

func (fakeKeys) Recovery(context.Context) (string, error) { return "cbdefghi", nil }

func (f fakeKeys) Rebind(context.Context) error { return f.did("rebind") }

// fakeSetting is a section in memory.
type fakeSetting[C, S any] struct {
	*world
	name  string
	check func(value, kept *C) config.Problems
	hide  func(C) C
	state S
}

func (f fakeSetting[C, S]) Check(_ context.Context, value, kept *C) error {
	if f.check == nil {
		return nil
	}
	return f.check(value, kept).Err()
}

func (f fakeSetting[C, S]) Plan(_ context.Context, _ *C, next C) (plan.Plan, error) {
	text, err := json.Marshal(f.Hide(next))
	return plan.Plan{Steps: []plan.Step{{Kind: plan.WriteFile, Object: "/etc/" + f.name, After: string(text)}}, Disconnects: f.name == "network"}, err
}

func (f fakeSetting[C, S]) Apply(_ context.Context, _ *C, next C) error {
	if err := f.did(f.name); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.applied[f.name] = next
	return nil
}

func (f fakeSetting[C, S]) Hide(value C) C {
	if f.hide == nil {
		return value
	}
	return f.hide(value)
}

func (f fakeSetting[C, S]) State(context.Context, C) (S, error) { return f.state, nil }

func fakeNetwork(w *world) daemon.Setting[osapi.NetworkConfig, osapi.NetworkState] {
	return fakeSetting[osapi.NetworkConfig, osapi.NetworkState]{
		world: w, name: "network",
		state: osapi.NetworkState{Interfaces: map[string]osapi.NetworkInterfaceState{"eth0": {State: "routable", Addresses: []string{"10.0.2.15"}}}},
		check: func(value, kept *osapi.NetworkConfig) (p config.Problems) {
			value.ConfirmationTimeout = ""
			if len(value.Interfaces) == 0 {
				value.Interfaces = []osapi.NetworkInterface{{Name: "eth0", Hwaddr: "52:54:00:12:34:56", Addresses: []string{"dhcp4", "slaac"}}}
			}
			for i, n := range value.Interfaces {
				if n.Name == "" {
					p.Add(fmt.Sprintf("interfaces[%d].name", i), "required", "is empty")
				}
			}
			for i := range value.Wireguard {
				before := ""
				if kept != nil && i < len(kept.Wireguard) {
					before = kept.Wireguard[i].PrivateKey
				}
				if !config.Keep(&value.Wireguard[i].PrivateKey, before) {
					p.Add(fmt.Sprintf("wireguard[%d].private_key", i), "kept", "nothing is kept")
				}
			}
			return p
		},
		hide: func(c osapi.NetworkConfig) osapi.NetworkConfig {
			c.Wireguard = slices.Clone(c.Wireguard)
			for i := range c.Wireguard {
				config.Hide(&c.Wireguard[i].PrivateKey)
			}
			return c
		},
	}
}

func fakeProvider(w *world) daemon.Setting[osapi.ProviderConfig, osapi.ProviderState] {
	return fakeSetting[osapi.ProviderConfig, osapi.ProviderState]{world: w, name: "provider", check: func(value, _ *osapi.ProviderConfig) (p config.Problems) {
		if value.Name != "images" {
			p.Add("name", "known", "%q is not a provider", value.Name)
		}
		return p
	}}
}

type fakeIdentity struct{}

func (fakeIdentity) Certificate() (*tls.Certificate, error) { return nil, errors.New("there is none") }

type fakeResolver struct{ *world }

func (f fakeResolver) FlushDNS(context.Context) error { return f.did("flush-dns") }

type fakeExtensions struct{ *world }

func (f fakeExtensions) Refresh(context.Context) error { return f.did("extensions") }

type fakePools struct{ *world }

func (f fakePools) Ensure(context.Context) error { return f.did("pools") }

type fakeApps struct{ *world }

func (f fakeApps) List(context.Context) ([]string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Sorted(maps.Keys(f.apps)), nil
}

func (f fakeApps) Add(_ context.Context, name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, installed := f.apps[name]
	switch {
	case installed:
		return fmt.Errorf("%w: application incus is already installed", daemon.ErrConflict)
	case name == "openfga":
		return fmt.Errorf("%w: openfga comes with a later release", daemon.ErrUnsupported)
	case name != "incus":
		return fmt.Errorf("%w: there is no application %q", daemon.ErrInvalid, name)
	}
	f.apps[name] = osapi.ApplicationConfig{}
	return nil
}

func (f fakeApps) Show(_ context.Context, name string) (osapi.Application, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	config, ok := f.apps[name]
	if !ok {
		return osapi.Application{}, fmt.Errorf("%w: application %q is not installed", daemon.ErrNotFound, name)
	}
	return osapi.Application{State: osapi.ApplicationState{IsPrimary: true, FriendlyVersion: "7.0.2 [202611220104]"}, Config: config}, nil
}

func (f fakeApps) Configure(_ context.Context, name string, config osapi.ApplicationConfig) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.apps[name] = config
	return nil
}

func (f fakeApps) Restart(_ context.Context, name string) error { return f.did("restart " + name) }

func (f fakeApps) Remove(ctx context.Context, name string) error {
	if _, err := f.Show(ctx, name); err != nil {
		return err
	}
	return fmt.Errorf("%w: cannot remove the primary application", daemon.ErrInvalid)
}

// fakeUpdates is the update agent of a node with one release.
type fakeUpdates struct {
	*world
	state osapi.UpdateState
}

func (f *fakeUpdates) Run(ctx context.Context, _ <-chan struct{}, _ func(update.Notice)) error {
	<-ctx.Done()
	return ctx.Err()
}

func (f *fakeUpdates) State() osapi.UpdateState { return f.state }

func (f *fakeUpdates) Plan(context.Context) (osapi.UpdatePlan, error) {
	return osapi.UpdatePlan{Why: "it is the newest release", Channel: "stable", Version: "202611220104", RunningVersion: "202611220104"}, nil
}

func (f *fakeUpdates) Check(_ context.Context, post osapi.UpdateCheckPost) error {
	return f.did(fmt.Sprintf("check for updates %t %t", post.OSOnly, post.Force))
}

func (f fakeApps) FindVersion(_ context.Context, _, version string) (string, error) {
	if version == "none" {
		return "", fmt.Errorf("%w: no such version to switch to", daemon.ErrInvalid)
	}
	return "202611220003", nil
}

func (f fakeApps) SwitchVersion(_ context.Context, name, version string) error {
	return f.did("switch " + name + " " + version)
}

func (f fakeApps) StartAll(context.Context, string) error { return f.did("applications") }

func (f fakeApps) Ensure(_ context.Context, seeded []string) error {
	f.mu.Lock()
	for _, name := range seeded {
		f.apps[name] = osapi.ApplicationConfig{}
	}
	f.mu.Unlock()
	return f.did("ensure")
}

func (f fakeApps) Check(_ context.Context, name string) error { return f.did("check " + name) }

type fakePower struct{ *world }

func (f fakePower) Poweroff(context.Context) error { return f.did("poweroff") }

func (f fakePower) Reboot(context.Context) error { return f.did("reboot") }

func (f fakePower) Suspend(context.Context) error { return f.did("suspend") }

type fakeDiagnosis struct{ *world }

func (f fakeDiagnosis) Log(_ context.Context, query daemon.LogQuery) ([]json.RawMessage, error) {
	if query.Boot == "--follow" {
		return nil, fmt.Errorf("%w: boot", daemon.ErrInvalid)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.query = query
	return []json.RawMessage{json.RawMessage(`{"MESSAGE":"hello"}`)}, nil
}

func (fakeDiagnosis) Processes(context.Context) (string, error) { return "PID 1 init\n", nil }

func (fakeDiagnosis) Kernel(context.Context) (osapi.DebugKernel, error) {
	return osapi.DebugKernel{Version: "6.12.117", Modules: []osapi.KernelModule{}}, nil
}

func (fakeDiagnosis) EventLog(context.Context) (osapi.DebugEventLog, error) {
	return osapi.DebugEventLog{EventLog: []osapi.DebugEvent{}}, nil
}

type fakeDisplay struct{ *world }

func (f fakeDisplay) Start(context.Context, []osapi.KernelConsole) error { return f.did("console") }

func (f fakeDisplay) Message(level, text string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.messages = append(f.messages, level+": "+text)
}

func (fakeDisplay) Progress(string, int64, int64) {}

func (f fakeDisplay) Identity(shown daemon.Shown) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.shown = shown
}

func (fakeDisplay) State(console.State) {}

func (fakeDisplay) Failed(string, error, time.Time) {}

func (fakeDisplay) Pending(*change.Status) {}

type fakeNotify struct{ *world }

func (f fakeNotify) Ready() error { return f.did("notify ready") }

func (f fakeNotify) Status(text string) error { return f.did("status " + text) }

func (fakeNotify) Stopping() error { return nil }

func (fakeNotify) Watchdog() (time.Duration, error) { return 0, nil }

func (f fakeNotify) Alive() error { return f.did("alive") }

func (f fakeNotify) Finished() error { return f.did("start finished") }

// memory is Documents without a disk.
type memory struct {
	mu   sync.Mutex
	docs map[string][]byte
	fail error
}

func (m *memory) Load(doc state.Document, into any) (state.Loaded, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	text, ok := m.docs[doc.Name]
	if !ok {
		return state.Loaded{}, nil
	}
	return state.Loaded{Found: true}, json.Unmarshal(text, into)
}

func (m *memory) Save(doc state.Document, value any) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil {
		return m.fail
	}
	text, err := json.Marshal(value)
	m.docs[doc.Name] = text
	return err
}

func (m *memory) Remove(doc state.Document) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.docs, doc.Name)
	return nil
}

// clock goes on only when a test says so: each pause is offered on pauses, and ends when
// the test sends on tick.
type clock struct {
	pauses chan time.Duration
	tick   chan time.Time
}

func newClock() *clock {
	return &clock{pauses: make(chan time.Duration, 1000), tick: make(chan time.Time)}
}

func (c *clock) clock() daemon.Clock {
	return daemon.Clock{
		SinceBoot: func() time.Duration { return 1500 * time.Millisecond },
		Now:       func() time.Time { return time.Date(2026, 11, 22, 1, 4, 0, 0, time.UTC) },
		After: func(d time.Duration) <-chan time.Time {
			c.pauses <- d
			return c.tick
		},
	}
}

type fixture struct {
	*world
	clock  *clock
	docs   *memory
	daemon *daemon.Daemon
	root   string
	stop   func()
}

// start runs a daemon on a world until the test ends.
func start(t *testing.T, w *world, docs func() (daemon.Documents, error)) *fixture {
	t.Helper()
	return startWith(t, w, docs, func(*daemon.Options) {})
}

// startWith is start with other options.
func startWith(t *testing.T, w *world, docs func() (daemon.Documents, error), change func(*daemon.Options)) *fixture {
	t.Helper()
	f := &fixture{world: w, clock: newClock(), docs: &memory{docs: map[string][]byte{}}, root: t.TempDir()}
	if docs == nil {
		docs = func() (daemon.Documents, error) { return f.docs, w.did("state") }
	}
	options := daemon.Options{
		Root: f.root, Documents: docs, Audit: func() (audit.Files, error) { return audit.OpenDirectory(filepath.Join(f.root, "audit")) }, Clock: f.clock.clock(), Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
		Machine: daemon.Machine{
			Facts: fakeFacts{w}, Devices: fakeDevices{w}, Requirements: fakeRequirements{w}, Installer: fakeInstaller{w}, Seed: fakeSeed{w},
			Keys: fakeKeys{w}, Security: fakeSetting[osapi.SecurityConfig, osapi.SecurityState]{world: w, name: "security"}, Extensions: fakeExtensions{w}, Pools: fakePools{w}, Resolver: fakeResolver{w},
			Network: fakeNetwork(w), Provider: fakeProvider(w),
			Kernel:   fakeSetting[osapi.KernelConfig, osapi.KernelState]{world: w, name: "kernel"},
			Logging:  fakeSetting[osapi.LoggingConfig, osapi.LoggingState]{world: w, name: "logging"},
			Identity: fakeIdentity{},
			Apps:     fakeApps{w}, AppUpdates: fakeApps{w}, Updates: &fakeUpdates{world: w}, Power: fakePower{w}, Backups: w.backups, AppData: w.appData, Resets: w.resets,
			Diagnosis: fakeDiagnosis{w}, Display: fakeDisplay{w}, Doing: fakeDisplay{w}, Notify: fakeNotify{w}, Starts: fakeNotify{w},
		},
	}
	change(&options)
	f.daemon = daemon.New(options)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- f.daemon.Run(ctx) }()
	f.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(f.stop)
	return f
}
