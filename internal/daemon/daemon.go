package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	osapi "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/audit"
	"github.com/holdfast-os/holdfast/internal/change"
	"github.com/holdfast-os/holdfast/internal/event"
	"github.com/holdfast-os/holdfast/internal/httpapi"
	"github.com/holdfast-os/holdfast/internal/metrics"
	"github.com/holdfast-os/holdfast/internal/operation"
)

const (
	// socketPath is where Incus looks for this API, below the root.
	socketPath = "run/incus-os/unix.socket"
	// headerTimeout is how long a caller may take to send its headers.
	headerTimeout = 10 * time.Second
	// idleTimeout is how long a connection may be kept without a request.
	idleTimeout = 2 * time.Minute
	// maxHeader is the most that headers may take, in bytes.
	maxHeader = 64 << 10
	// stopTimeout is how long running requests may take when the daemon ends.
	stopTimeout = 5 * time.Second
	// graceTime is how long after an answer a disruptive action begins, so that the
	// answer gets through the application that carries it.
	graceTime = time.Second
)

// Options are what a Daemon is made of.
type Options struct {
	// Root is the directory under which the socket lies; "/" on a machine.
	Root string
	// Documents opens the kept configuration. It is called once, or again after an error.
	Documents func() (Documents, error)
	// Machine is everything outside.
	Machine Machine
	// Socket gives the API's socket when the service manager has opened it, which keeps it
	// over a restart of the daemon, so that no caller is turned away; nil when it has not.
	// Default: the daemon makes its own.
	Socket func() (net.Listener, error)
	// Audit opens the place of the audit log. It is called once, or again after an error.
	Audit func() (audit.Files, error)
	// Clock is time.
	Clock Clock
	// Exporter is the node exporter, whose metrics stand behind the daemon's; nil leaves
	// them out.
	Exporter metrics.Exporter
	// Log gets what happens.
	Log *slog.Logger
}

// Daemon is one running holdfastd.
type Daemon struct {
	root    string
	machine Machine
	clock   Clock
	log     *slog.Logger
	open    func() (Documents, error)
	socket  func() (net.Listener, error)

	// changes is the configuration, memory what else is remembered.
	changes *change.Engine
	memory  memory
	// operations are what goes on, hub tells listeners what happens.
	operations *operation.Registry
	hub        *event.Hub
	// listener is the section of the fallback listener.
	listener       Setting[osapi.FallbackListenerConfig, osapi.FallbackListenerState]
	fallback       fallback
	requests       *metrics.Requests
	metrics        *metrics.Collector
	openAuditFiles func() (audit.Files, error)

	boot  bootRecord
	ready atomic.Bool
	// networkStarted is true once networkd was set up.
	networkStarted atomic.Bool

	// readied is closed when the node is ready; lifetime ends with Run.
	readied  chan struct{}
	lifetime context.Context
	updating atomic.Bool
	// progress is that of the update check that somebody watches.
	progress atomic.Pointer[operation.Progress]

	mu    sync.Mutex
	audit *audit.Log

	// replacing is held by what replaces data: a restore or a reset.
	replacing sync.Mutex

	serving sync.Mutex
	server  *http.Server
	// accepting is the listener of server; served is closed when server serves no more.
	accepting net.Listener
	served    chan struct{}
	handler   http.Handler
}

// New makes a daemon that does nothing yet.
func New(o Options) *Daemon {
	hub := event.New(event.Options{Now: o.Clock.Now})
	d := &Daemon{
		root: o.Root, machine: o.Machine, clock: o.Clock, open: o.Documents, openAuditFiles: o.Audit, socket: o.Socket,
		log: slog.New(event.NewHandler(hub, o.Log.Handler())), hub: hub,
		readied: make(chan struct{}), lifetime: context.Background(),
	}
	d.requests = metrics.NewRequests()
	d.metrics = metrics.New(metrics.Options{Source: numbers{d}, Exporter: o.Exporter, Requests: d.requests, Log: d.log, Now: o.Clock.Now})
	d.listener = movingListener{d.listenerSetting(), d}
	d.changes = change.New(change.Options{
		Sections: d.sections(), Now: o.Clock.Now, After: o.Clock.After, Log: d.log, Changed: d.configurationChanged,
	})
	return d
}

// Run brings the node up and serves its API until the context ends. What goes wrong on
// the way is reported and tried again; an error means that Run cannot even begin.
func (d *Daemon) Run(ctx context.Context) error {
	d.lifetime = ctx
	d.operations = operation.New(ctx, operation.Options{Log: d.log, Publish: func(op osapi.Operation) {
		if err := d.hub.Publish(osapi.EventTypeOperation, op); err != nil {
			d.log.Warn("telling listeners of an operation", "error", err)
		}
	}})
	handler, err := httpapi.New(ctx, d.Routes(), d.log)
	if err != nil {
		return fmt.Errorf("making the API: %w", err)
	}
	handler.Observe = d.observe
	d.handler = handler
	installing, err := d.machine.Installer.Wanted(ctx)
	if err != nil {
		return fmt.Errorf("finding out whether this is an install medium: %w", err)
	}
	if err := d.startWatchdog(ctx); err != nil {
		return err
	}
	phases := d.nodePhases()
	if installing {
		phases = d.installPhases()
		d.notify("ready", d.machine.Notify.Ready())
	}
	r := &runner{clock: d.clock, log: d.log, boot: &d.boot, sooner: d.machine.Sooner, began: d.phaseBegan, failed: func(name string, err error, next time.Duration) {
		d.phaseFailed(ctx, installing, name, err, next)
	}}
	if err := r.all(ctx, phases); err != nil && ctx.Err() == nil {
		return err
	}
	if ctx.Err() == nil {
		d.keepShowing(ctx)
	}
	d.notify("stopping", d.machine.Notify.Stopping())
	return d.stop()
}

func (d *Daemon) phaseBegan(name string) {
	d.machine.Display.Progress(name, 0, 0)
	d.notify("status", d.machine.Notify.Status("phase "+name))
}

// phaseFailed shows the failure. The API comes up at once, so that it can be asked.
func (d *Daemon) phaseFailed(ctx context.Context, installing bool, name string, err error, next time.Duration) {
	for line := range strings.SplitSeq(fmt.Sprintf("%v (next try in %s)", err, next), "\n") {
		d.machine.Display.Message("error", name+": "+line)
	}
	d.machine.Doing.Failed(name, err, d.clock.Now().Add(next))
	d.notify("status", d.machine.Notify.Status("phase "+name+" failed, it is tried again"))
	if installing {
		return
	}
	if err := d.listen(ctx); err != nil {
		d.log.Error("opening the API socket early", "error", err)
	}
}

// openDocuments opens the kept configuration.
func (d *Daemon) openDocuments() (Documents, error) { return d.open() }

// listen opens the socket and serves the API on it. Called again it does nothing.
func (d *Daemon) listen(context.Context) error {
	d.serving.Lock()
	defer d.serving.Unlock()
	if d.server != nil {
		return nil
	}
	listener, err := d.listenSocket()
	if err != nil {
		return err
	}
	d.server = &http.Server{
		Handler: d.handler, ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeader,
		ErrorLog: slog.NewLogLogger(d.log.Handler(), slog.LevelWarn),
	}
	d.accepting = drainable(listener, d.server)
	d.served = make(chan struct{})
	go func() {
		defer close(d.served)
		if err := d.server.Serve(d.accepting); !errors.Is(err, http.ErrServerClosed) {
			d.log.Error("serving the API", "error", err)
		}
	}()
	d.notify("ready", d.machine.Notify.Ready())
	return nil
}

// listenSocket makes the socket in a directory that is root's alone.
func (d *Daemon) listenSocket() (net.Listener, error) {
	if d.socket != nil {
		if given, err := d.socket(); err != nil || given != nil {
			return given, err
		}
	}
	path := filepath.Join(d.root, socketPath)
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the directory of the API socket: %w", err)
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return nil, fmt.Errorf("closing the directory of the API socket to others: %w", err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("removing the API socket of an earlier run: %w", err)
	}
	listener, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("opening the API socket: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("closing the API socket to others: %w", err), listener.Close())
	}
	return listener, nil
}

func (d *Daemon) stop() error {
	d.serving.Lock()
	defer d.serving.Unlock()
	if d.server == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	if err := d.operations.Drain(ctx); err != nil {
		d.log.Warn("operations are cut short by the end of the daemon", "error", err)
	}
	d.hub.Close()
	defer d.closeAudit()
	// A Serve that begins behind Shutdown would close its socket at any time later, and with
	// it remove the file of the next daemon's.
	defer func() { <-d.served }()
	if socket, ok := d.accepting.(*drainListener); ok {
		if err := socket.drain(ctx); err != nil {
			d.log.Warn("a request that came in last may be lost", "error", err)
		}
	}
	if err := d.server.Shutdown(ctx); err != nil {
		return errors.Join(fmt.Errorf("ending the API: %w", err), d.server.Close(), d.closeFallback(ctx))
	}
	return d.closeFallback(ctx)
}

// startWatchdog tells the service manager that the daemon is alive, as long as its locks
// can be had.
func (d *Daemon) startWatchdog(ctx context.Context) error {
	within, err := d.machine.Notify.Watchdog()
	if err != nil {
		return fmt.Errorf("reading the watchdog's interval: %w", err)
	}
	if within <= 0 {
		return nil
	}
	go func() {
		for d.clock.wait(ctx, within/3) {
			d.machine.Updates.State()
			d.boot.Snapshot()
			d.notify("watchdog", d.machine.Notify.Alive())
		}
	}()
	return nil
}

// notify logs a failure to speak to the service manager, which nothing depends on.
func (d *Daemon) notify(what string, err error) {
	if err != nil {
		d.log.Warn("notifying the service manager", "what", what, "error", err)
	}
}

// configurationChanged tells what has become of a change.
func (d *Daemon) configurationChanged(what string, status change.Status, number int) {
	d.machine.Doing.Pending(nil)
	d.log.Info("configuration "+what, "change", number, "sections", status.Sections, "by", status.Who, "request", status.What)
	d.reportChange(what, status.Sections)
	d.lifecycle("configuration-"+what, "/1.0/system/config", map[string]any{"sections": status.Sections, "who": status.Who, "number": number})
	if what == "reverted" {
		d.machine.Display.Message("warning", "a change of "+strings.Join(status.Sections, ", ")+" by "+status.Who+" was taken back")
	}
}

// Boot gives the phases so far.
func (d *Daemon) Boot() osapi.DebugBoot { return d.boot.Snapshot() }

// Channel is the release channel that the node follows.
func (d *Daemon) Channel() string {
	update, err := current(context.Background(), d, sectionUpdate, Setting[osapi.UpdateConfig, osapi.UpdateState](updateSetting{d}))
	if err != nil {
		return defaultUpdate().Channel
	}
	return update.Channel
}
