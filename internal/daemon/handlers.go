package daemon

import (
	"context"
	"encoding/json"
	"log/slog"
	"strconv"
	"strings"

	osapi "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/httpapi"
	"github.com/holdfast-os/holdfast/internal/operation"
	"github.com/holdfast-os/holdfast/internal/plan"
)

// defaultScrub is when pools are checked: Sundays at four.
const defaultScrub = "0 4 * * 0"

func (d *Daemon) getServer(r *httpapi.Request) (any, error) {
	environment, err := d.machine.Facts.Environment(r.Context())
	if err != nil {
		return nil, err
	}
	environment.SystemIsReady = d.ready.Load()
	return osapi.Server{Environment: environment}, nil
}

func (d *Daemon) listApplications(r *httpapi.Request) (any, error) {
	names, err := d.machine.Apps.List(r.Context())
	if err != nil {
		return nil, coded(err)
	}
	return r.URLs("/1.0/applications", names...), nil
}

func (d *Daemon) addApplication(r *httpapi.Request) (any, error) {
	name := httpapi.Body[osapi.ApplicationsPost](r).Name
	if name == "" {
		return nil, httpapi.BadRequest(`name is missing: send {"name": "incus"}`)
	}
	// The caller may go away during the download; the installation goes on.
	resources := map[string][]string{"applications": {"/1.0/applications/" + name}}
	return d.operate(r, "Installing the application "+name, resources, func(ctx context.Context, _ *operation.Progress) error {
		err := d.machine.Apps.Add(ctx, name)
		if err == nil {
			d.lifecycle("application-added", "/1.0/applications/"+name, nil)
		}
		return err
	})
}

func (d *Daemon) showApplication(r *httpapi.Request) (any, error) {
	return failable(d.machine.Apps.Show(r.Context(), r.Var("name")))
}

func (d *Daemon) configureApplication(r *httpapi.Request) (any, error) {
	if err := d.applicationExists(r); err != nil {
		return nil, err
	}
	body := httpapi.Body[Put[osapi.ApplicationConfig]](r)
	if body.Config == nil {
		return nil, configMissing()
	}
	if r.Query("confirmation_timeout") != "" {
		return nil, httpapi.BadRequest("confirmation_timeout: the configuration of an application takes effect at once, and is changed back by another PUT")
	}
	if r.Query("dry-run") != "" {
		return d.dryRun(r, func() (plan.Plan, error) { return d.planApplication(r.Context(), r.Var("name"), *body.Config) })
	}
	return nil, coded(d.machine.Apps.Configure(r.Context(), r.Var("name"), *body.Config))
}

// planApplication says what a new configuration of an application differs in.
func (d *Daemon) planApplication(ctx context.Context, name string, next osapi.ApplicationConfig) (plan.Plan, error) {
	is, err := d.machine.Apps.Show(ctx, name)
	if err != nil {
		return plan.Plan{}, err
	}
	before, err := json.MarshalIndent(is.Config, "", "  ")
	if err != nil {
		return plan.Plan{}, err
	}
	after, err := json.MarshalIndent(next, "", "  ")
	if err != nil {
		return plan.Plan{}, err
	}
	var p plan.Plan
	if string(before) != string(after) {
		p.Add(plan.Step{Kind: plan.KeepDocument, Object: "application " + name, Before: string(before), After: string(after)})
	}
	return p, nil
}

func (d *Daemon) restartApplication(r *httpapi.Request) (any, error) {
	return d.applicationAction(r, "restarting", d.machine.Apps.Restart)
}

func (d *Daemon) checkApplication(r *httpapi.Request) (any, error) {
	return d.applicationAction(r, "updating", d.machine.AppUpdates.Check)
}

func (d *Daemon) switchVersion(r *httpapi.Request) (any, error) {
	if err := d.applicationExists(r); err != nil {
		return nil, err
	}
	name := r.Var("name")
	version, err := d.machine.AppUpdates.FindVersion(r.Context(), name, httpapi.Body[osapi.ApplicationVersionPost](r).Version)
	if err != nil {
		return nil, coded(err)
	}
	return d.behind("switching application "+name+" to "+version, func(ctx context.Context) error {
		return d.machine.AppUpdates.SwitchVersion(ctx, name, version)
	}), nil
}

func (d *Daemon) applicationAction(r *httpapi.Request, what string, do func(context.Context, string) error) (any, error) {
	if err := d.applicationExists(r); err != nil {
		return nil, err
	}
	name := r.Var("name")
	return d.behind(what+" application "+name, func(ctx context.Context) error { return do(ctx, name) }), nil
}

func (d *Daemon) applicationExists(r *httpapi.Request) error {
	_, err := d.machine.Apps.Show(r.Context(), r.Var("name"))
	return coded(err)
}

func (d *Daemon) removeApplication(r *httpapi.Request) (any, error) {
	return nil, coded(d.machine.Apps.Remove(r.Context(), r.Var("name")))
}

// readLog also takes the names that clients of IncusOS know the daemon by.
func (d *Daemon) readLog(r *httpapi.Request) (any, error) {
	query := LogQuery{Unit: r.Query("unit"), Boot: r.Query("boot"), Since: r.Query("since"), Until: r.Query("until")}
	if query.Unit == "incus-osd" || query.Unit == "incus-osd.service" {
		query.Unit = "holdfastd.service"
	}
	if text := r.Query("entries"); text != "" {
		entries, err := strconv.Atoi(text)
		if err != nil || entries < 0 {
			return nil, httpapi.BadRequest("entries: %q is not a number of entries", text)
		}
		query.Entries = entries
	}
	return failable(d.machine.Diagnosis.Log(r.Context(), query))
}

func (d *Daemon) getStorage(r *httpapi.Request) (any, error) {
	state, err := d.machine.Facts.Storage(r.Context())
	if err != nil {
		return nil, coded(err)
	}
	return osapi.Storage{Config: osapi.StorageConfig{ScrubSchedule: defaultScrub}, State: state}, nil
}

func configMissing() error {
	return httpapi.BadRequest(`config is missing: send {"config": {...}} with the whole configuration`)
}

// writeMessage puts a line into the log and onto the console.
func (d *Daemon) writeMessage(r *httpapi.Request) (any, error) {
	body := httpapi.Body[tuiMessage](r)
	if strings.TrimSpace(body.Message) == "" {
		return nil, httpapi.BadRequest("no log message provided")
	}
	level := slog.LevelInfo
	if body.Level != "" {
		if err := level.UnmarshalText([]byte(body.Level)); err != nil {
			return nil, httpapi.BadRequest(`level: %q is none of "DEBUG", "INFO", "WARN", "ERROR"`, body.Level)
		}
	}
	d.log.Log(r.Context(), level, body.Message)
	switch {
	case level >= slog.LevelError:
		d.machine.Display.Message("error", body.Message)
	case level >= slog.LevelWarn:
		d.machine.Display.Message("warning", body.Message)
	case level >= slog.LevelInfo:
		d.machine.Display.Message("info", body.Message)
	}
	return nil, nil
}
