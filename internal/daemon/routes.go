package daemon

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"

	osapi "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/console"
	"github.com/holdfast-os/holdfast/internal/httpapi"
	"github.com/holdfast-os/holdfast/internal/operation"
)

const (
	get  = http.MethodGet
	put  = http.MethodPut
	post = http.MethodPost
)

// Put is the body of a PUT: the configuration that is to be. What a caller sends as
// state is not looked at, since only the node knows it.
type Put[T any] struct {
	// Config replaces the whole configuration.
	Config *T `json:"config"`
	// State is ignored.
	State json.RawMessage `json:"state,omitempty"`
}

// tuiMessage is the body of POST /internal/tui/:write-message.
type tuiMessage struct {
	// Level is "DEBUG", "INFO", "WARN" or "ERROR", with "+N" or "-N" behind; default "INFO".
	Level string `json:"level"`
	// Message is the text.
	Message string `json:"message"`
}

// Routes is the whole API.
func (d *Daemon) Routes() []httpapi.Route {
	return slices.Concat(d.rootRoutes(), d.applicationRoutes(), d.debugRoutes(), d.systemRoutes(), d.configurationRoutes(), d.watchingRoutes(), d.describingRoutes(),
		d.storageRoutes(), d.powerRoutes(), d.serviceRoutes(), d.internalRoutes())
}

func (d *Daemon) rootRoutes() []httpapi.Route {
	return []httpapi.Route{
		{Method: get, Path: "/", Doc: "lists the versions of the API", Response: []string{}, Handler: func(r *httpapi.Request) (any, error) {
			return []string{r.URL("/1.0")}, nil
		}},
		{Method: get, Path: "/1.0", Doc: "names the node and what runs on it", Response: osapi.Server{}, Handler: d.getServer},
	}
}

func (d *Daemon) applicationRoutes() []httpapi.Route {
	const list, one = "/1.0/applications", "/1.0/applications/{name}"
	return []httpapi.Route{
		{Method: get, Path: list, Doc: "lists the installed applications", Response: []string{}, Handler: d.listApplications},
		{Method: post, Path: list, Doc: "installs and starts an application", Request: osapi.ApplicationsPost{}, EmptyBody: true, Query: asyncQuery(), Handler: d.addApplication},
		{Method: get, Path: one, Doc: "shows an application", Response: osapi.Application{}, Handler: d.showApplication},
		{Method: put, Path: one, Doc: "configures an application", Request: Put[osapi.ApplicationConfig]{}, Query: []httpapi.Param{{Name: "dry-run", Doc: "with 1 nothing is changed: the answer is the plan", Example: "1"}}, Handler: d.configureApplication},
		{Method: post, Path: one + "/:restart", Doc: "restarts an application, after the answer", Handler: d.restartApplication},
		{Method: post, Path: one + "/:remove", Doc: "removes an application", Handler: d.removeApplication},
		{Method: post, Path: one + "/:check-update", Doc: "brings an application to the newest release, after the answer", Handler: d.checkApplication},
		{Method: post, Path: one + "/:action", Doc: "runs an action of an application", Later: "no application has actions"},
		{Method: post, Path: one + "/:backup", Doc: "gives a backup of an application's data", Request: osapi.BackupPost{}, EmptyBody: true, Response: httpapi.Raw{ContentType: archiveType}, Handler: d.backupApplication},
		{Method: post, Path: one + "/:debug", Doc: "gives an application's own diagnosis", Later: "read /1.0/debug/log?unit=incus.service"},
		{Method: post, Path: one + "/:factory-reset", Doc: "starts an application anew from its seed, after the answer", Request: osapi.ApplicationResetPost{}, EmptyBody: true, Query: dryRunQuery(), Handler: d.resetApplication},
		{Method: post, Path: one + "/:restore", Doc: "restores a backup of an application, which is the body; the application restarts after the answer", Query: dryRunQuery(), Handler: d.restoreApplication},
		{Method: post, Path: one + "/:switch-version", Doc: "goes to another version on disk, after the answer", Request: osapi.ApplicationVersionPost{}, EmptyBody: true, Handler: d.switchVersion},
	}
}

func (d *Daemon) debugRoutes() []httpapi.Route {
	const base = "/1.0/debug"
	return []httpapi.Route{
		{Method: get, Path: base, Doc: "lists what helps to find faults; not a stable part of the API", Response: []string{}, Handler: func(r *httpapi.Request) (any, error) {
			return r.URLs(base, "boot", "kernel", "log", "processes", ":run-script", "secureboot", ":support-bundle"), nil
		}},
		{Method: get, Path: base + "/boot", Doc: "shows the phases of the start and their times", Response: osapi.DebugBoot{}, Handler: func(*httpapi.Request) (any, error) {
			return d.boot.Snapshot(), nil
		}},
		{Method: get, Path: base + "/log", Doc: "reads the journal, the oldest entry first", Response: []json.RawMessage{}, Query: []httpapi.Param{
			{Name: "unit", Doc: "only this unit; default all", Example: "incus.service"},
			{Name: "boot", Doc: "0 is this start of the machine, -1 the one before; default 0", Example: "-1"},
			{Name: "entries", Doc: "only the newest entries, this many; default all", Example: "100"},
			{Name: "since", Doc: "from this time on, as journalctl reads it; default the beginning", Example: "-1h"},
			{Name: "until", Doc: "up to this time, as journalctl reads it; default now", Example: "-5min"},
		}, Handler: d.readLog},
		{Method: get, Path: base + "/processes", Doc: "lists the processes as text", Response: "", Handler: func(r *httpapi.Request) (any, error) {
			return failable(d.machine.Diagnosis.Processes(r.Context()))
		}},
		{Method: get, Path: base + "/kernel", Doc: "shows the kernel and its modules", Response: osapi.DebugKernel{}, Handler: func(r *httpapi.Request) (any, error) {
			return failable(d.machine.Diagnosis.Kernel(r.Context()))
		}},
		{Method: post, Path: base + "/:support-bundle", Doc: "gives an archive for whoever helps, without secrets", Response: httpapi.Raw{ContentType: "application/gzip"}, Handler: d.supportBundle},
		{Method: get, Path: base + "/report", Doc: "gives the report of IncusOS", Later: "POST /1.0/debug/:support-bundle gives an archive without secrets"},
		{Method: post, Path: base + "/:run-script", Doc: "runs a script that the makers have signed", Later: "it comes with a later release"},
		{Method: get, Path: base + "/secureboot", Doc: "lists the parts of the measured boot", Response: []string{}, Handler: func(r *httpapi.Request) (any, error) {
			return r.URLs(base+"/secureboot", "event-log"), nil
		}},
		{Method: get, Path: base + "/secureboot/event-log", Doc: "shows the TPM's event log", Response: osapi.DebugEventLog{}, Handler: func(r *httpapi.Request) (any, error) {
			return failable(d.machine.Diagnosis.EventLog(r.Context()))
		}},
		{Method: post, Path: base + "/secureboot/:update", Doc: "applies an archive of signed updates of Secure Boot keys, which is the body: one variable in each start", Query: dryRunQuery(), Response: osapi.SecureBootState{}, Handler: d.updateSecureBoot},
	}
}

func (d *Daemon) powerRoutes() []httpapi.Route {
	power := func(state console.State, do func(context.Context) error) func(*httpapi.Request) (any, error) {
		return func(*httpapi.Request) (any, error) { return d.behind("power", d.shownAs(state, do)), nil }
	}
	const base = "/1.0/system"
	return []httpapi.Route{
		{Method: post, Path: base + "/:poweroff", Doc: "turns the node off, after the answer", Handler: power(console.PoweringOff, func(ctx context.Context) error { return d.machine.Power.Poweroff(ctx) })},
		{Method: post, Path: base + "/:reboot", Doc: "restarts the node, after the answer", Handler: power(console.Rebooting, func(ctx context.Context) error { return d.machine.Power.Reboot(ctx) })},
		{Method: post, Path: base + "/:suspend", Doc: "lets the node sleep, after the answer", Handler: power(console.Ready, func(ctx context.Context) error { return d.machine.Power.Suspend(ctx) })},
		{Method: post, Path: base + "/:backup", Doc: "gives a backup of what the node keeps, with its secrets", Request: osapi.BackupPost{}, EmptyBody: true, Response: httpapi.Raw{ContentType: archiveType}, Handler: d.backupSystem},
		{Method: post, Path: base + "/:restore", Doc: "restores a backup of the node, which is the body, and restarts after the answer", Query: restoreQuery(), Handler: d.restoreSystem},
		{Method: post, Path: base + "/:factory-reset", Doc: "makes a new node of this one from its seed, and restarts after the answer", Request: osapi.FactoryResetPost{}, EmptyBody: true, Query: dryRunQuery(), Handler: d.resetSystem},
	}
}

func (d *Daemon) internalRoutes() []httpapi.Route {
	const base = "/internal"
	return []httpapi.Route{
		{Method: post, Path: base + "/tui/:write-message", Access: httpapi.SocketOnly, Doc: "shows a message on the console", Request: tuiMessage{}, Handler: d.writeMessage},
		{Method: get, Path: base + "/secureboot", Access: httpapi.SocketOnly, Doc: "gives the certificates of the firmware's keys", Response: osapi.SecureBootKeys{}, Handler: d.secureBootKeys},
		{Method: post, Path: base + "/auth/:generate-registration", Access: httpapi.SocketOnly, Doc: "makes a registration at an image server", Request: authRegistrationPost{}, Response: authRegistration{}, Handler: d.generateRegistration},
		{Method: post, Path: base + "/auth/:generate-token", Access: httpapi.SocketOnly, Doc: "makes a token for an image server", Response: "", Handler: d.generateToken},
	}
}

// shownAs has the console say what the machine is about to do.
func (d *Daemon) shownAs(state console.State, do func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		d.machine.Doing.State(state)
		d.goingDown(ctx, state)
		err := do(ctx)
		if err != nil {
			d.machine.Doing.State(console.Ready)
		}
		return err
	}
}

// failable maps the error of an interface beside a value that is passed on.
func failable[T any](value T, err error) (any, error) {
	if err != nil {
		return nil, coded(err)
	}
	return value, nil
}

// behind answers at once and acts a moment later, as an operation that can be watched.
func (d *Daemon) behind(what string, do func(context.Context) error) httpapi.After {
	return httpapi.After{Do: func(ctx context.Context) {
		if !d.clock.wait(ctx, graceTime) {
			return
		}
		_, err := d.operations.Start(what, nil, false, func(ctx context.Context, _ *operation.Progress) error {
			err := do(ctx)
			if err != nil {
				d.log.Error("background work failed", "what", what, "error", err)
				d.machine.Display.Message("error", what+": "+err.Error())
			}
			return err
		})
		if err != nil {
			d.log.Error("starting background work", "what", what, "error", err)
		}
	}}
}
