package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	osapi "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/change"
	"github.com/holdfast-os/holdfast/internal/config"
	"github.com/holdfast-os/holdfast/internal/httpapi"
	"github.com/holdfast-os/holdfast/internal/operation"
	"github.com/holdfast-os/holdfast/internal/plan"
)

// Setting is one section of the configuration on a machine: C is what an owner asks for,
// S what the machine observes.
type Setting[C, S any] interface {
	// Check fills defaults in and puts kept secrets (nil: none) in the place of references
	// to them. Its error is a config.Problems that names all that is wrong.
	Check(ctx context.Context, value, kept *C) error
	// Plan says what going from one configuration to another does; before is nil when
	// nothing is known of what is in effect.
	Plan(ctx context.Context, before *C, next C) (plan.Plan, error)
	// Apply does it. It may be called again, and after a call that was cut short.
	Apply(ctx context.Context, before *C, next C) error
	// Hide gives a copy with references in the place of secrets.
	Hide(C) C
	// State observes, under the configuration that is in effect.
	State(ctx context.Context, config C) (S, error)
}

// section is a setting as the engine of changes sees it.
func section[C, S any](name string, s Setting[C, S]) change.Section {
	return change.Typed[C]{Section: name, CheckConfig: s.Check, PlanConfig: s.Plan, ApplyConfig: s.Apply, HideConfig: s.Hide}
}

// Names of sections; each is also the last part of its path.
const (
	sectionKernel   = "kernel"
	sectionSecurity = "security"
	sectionNetwork  = "network"
	sectionLogging  = "logging"
	sectionProvider = "provider"
	sectionUpdate   = "update"
	sectionListener = "fallback-listener"
)

// sections are all, in the order in which they are applied.
func (d *Daemon) sections() []change.Section {
	return append([]change.Section{
		section(sectionKernel, d.machine.Kernel),
		section(sectionSecurity, d.machine.Security),
		section(sectionNetwork, d.machine.Network),
		section(sectionLogging, d.machine.Logging),
		section(sectionProvider, d.machine.Provider),
		section(sectionUpdate, Setting[osapi.UpdateConfig, osapi.UpdateState](updateSetting{d})),
		section(sectionListener, d.listener),
	}, d.serviceSections()...)
}

// changeQuery are the parameters of every change of a section.
func changeQuery() []httpapi.Param {
	return append(asyncQuery(),
		httpapi.Param{Name: "dry-run", Doc: "with 1 nothing is changed: the answer is the plan", Example: "1"},
		httpapi.Param{Name: "confirmation_timeout", Doc: "a duration after which the change goes back unless it is confirmed; default none", Example: "1m"},
	)
}

// settingRoutes are reading and changing one setting. Shown gives the wire type.
func settingRoutes[C, S any](d *Daemon, name, doc string, s Setting[C, S], shown func(C, S) any) []httpapi.Route {
	path := "/1.0/system/" + name
	var config C
	var state S
	return []httpapi.Route{
		{
			Method: get, Path: path, Doc: "shows " + doc, Response: shown(config, state),
			Handler: func(r *httpapi.Request) (any, error) {
				config, err := current(r.Context(), d, name, s)
				if err != nil {
					return nil, err
				}
				state, err := s.State(r.Context(), config)
				if err != nil {
					return nil, coded(err)
				}
				config = s.Hide(config)
				return httpapi.Tagged{Answer: shown(config, state), Tag: config}, nil
			},
		},
		{
			Method: put, Path: path, Doc: "changes " + doc, Request: Put[C]{}, Query: changeQuery(), OwnMatch: true,
			Handler: func(r *httpapi.Request) (any, error) {
				body := httpapi.Body[Put[C]](r)
				if body.Config == nil {
					return nil, configMissing()
				}
				raw, err := json.Marshal(body.Config)
				if err != nil {
					return nil, fmt.Errorf("encoding the configuration: %w", err)
				}
				return d.change(r, map[string]json.RawMessage{name: raw}, timeoutOf(*body.Config))
			},
		},
	}
}

// current is the configuration in effect, with its secrets; the defaults when nobody has
// said anything, where there are any.
func current[C, S any](ctx context.Context, d *Daemon, name string, s Setting[C, S]) (C, error) {
	var value C
	raw, err := d.changes.Get(name)
	if err != nil {
		return value, coded(err)
	}
	if len(raw) == 0 {
		err := s.Check(ctx, &value, nil)
		var problems config.Problems
		if errors.As(err, &problems) {
			return *new(C), nil
		}
		return value, err
	}
	if err := json.Unmarshal(raw, &value); err != nil {
		return value, fmt.Errorf("reading the configuration of %s: %w", name, err)
	}
	return value, nil
}

// timeoutOf is the confirmation_timeout that the network's configuration carries.
func timeoutOf(value any) string {
	if network, ok := value.(osapi.NetworkConfig); ok {
		return network.ConfirmationTimeout
	}
	return ""
}

// change plans or makes a change that a request asks for.
func (d *Daemon) change(r *httpapi.Request, sections map[string]json.RawMessage, timeout string) (any, error) {
	request, err := d.changeRequest(r, timeout)
	if err != nil {
		return nil, err
	}
	request.Sections = sections
	if r.Query("dry-run") != "" {
		return d.dryRun(r, func() (plan.Plan, error) { return d.changes.Plan(r.Context(), sections) })
	}
	resources := map[string][]string{"configuration": {r.HTTP.URL.Path}}
	return d.operate(r, "Changing the configuration", resources, func(ctx context.Context, _ *operation.Progress) error {
		number, err := d.changes.Apply(ctx, request)
		r.Made(number)
		d.showPending()
		return err
	})
}

func (d *Daemon) dryRun(r *httpapi.Request, make func() (plan.Plan, error)) (any, error) {
	switch text := r.Query("dry-run"); text {
	case "1", "true":
	default:
		return nil, httpapi.BadRequest("dry-run: %q is neither 1 nor true", text)
	}
	if err := r.Match(); err != nil {
		return nil, err
	}
	p, err := make()
	if err != nil {
		return nil, coded(err)
	}
	return p.Wire(), nil
}

// changeRequest takes from a request what every change has.
func (d *Daemon) changeRequest(r *httpapi.Request, timeout string) (change.Request, error) {
	if text := r.Query("confirmation_timeout"); text != "" {
		timeout = text
	}
	request := change.Request{
		Origin:    change.Origin{Who: r.Caller(), What: r.HTTP.Method + " " + r.HTTP.URL.Path},
		Unchanged: r.Match,
	}
	if timeout == "" {
		return request, nil
	}
	within, err := time.ParseDuration(timeout)
	if err != nil || within <= 0 {
		return request, httpapi.BadRequest("confirmation_timeout: %q is not a positive duration, as \"30s\" or \"5m\"", timeout)
	}
	request.Confirm = within
	return request, nil
}

// coded gives an error the HTTP code that its kind has.
func coded(err error) error {
	var problems config.Problems
	if errors.As(err, &problems) {
		return httpapi.BadRequest("%w", underConfig(err))
	}
	for _, kind := range []struct {
		err  error
		code int
	}{
		{ErrNotFound, http.StatusNotFound},
		{ErrConflict, http.StatusConflict},
		{ErrInvalid, http.StatusBadRequest},
		{ErrUnsupported, http.StatusNotImplemented},
		{change.ErrBusy, http.StatusConflict},
		{change.ErrNoSuch, http.StatusNotFound},
		{change.ErrNothingPending, http.StatusBadRequest},
	} {
		if errors.Is(err, kind.err) {
			return httpapi.WithCode(kind.code, err)
		}
	}
	if errors.Is(err, change.ErrNotLoaded) {
		return httpapi.Unavailable("the node has not read its state yet: see /1.0/debug/boot")
	}
	return err
}

// underConfig puts the member of the body before each path, and several sections' problems
// into one list.
func underConfig(err error) config.Problems {
	var all config.Problems
	var joined interface{ Unwrap() []error }
	if errors.As(err, &joined) {
		for _, one := range joined.Unwrap() {
			all = append(all, underConfig(one)...)
		}
		return all
	}
	var problems config.Problems
	if errors.As(err, &problems) {
		for _, p := range problems {
			p.Path = "config." + p.Path
			all = append(all, p)
		}
	}
	return all
}

// updateSetting is when and from where the node updates. Nothing on the machine changes
// with it: the update agent reads it.
type updateSetting struct{ d *Daemon }

func (updateSetting) Check(_ context.Context, value, _ *osapi.UpdateConfig) error {
	return checkUpdateConfig(value).Err()
}

func (updateSetting) Plan(context.Context, *osapi.UpdateConfig, osapi.UpdateConfig) (plan.Plan, error) {
	return plan.Plan{}, nil
}

func (updateSetting) Apply(context.Context, *osapi.UpdateConfig, osapi.UpdateConfig) error {
	return nil
}

func (updateSetting) Hide(value osapi.UpdateConfig) osapi.UpdateConfig { return value }

func (s updateSetting) State(context.Context, osapi.UpdateConfig) (osapi.UpdateState, error) {
	return s.d.machine.Updates.State(), nil
}
