package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"

	osapi "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/change"
	"github.com/holdfast-os/holdfast/internal/config"
	"github.com/holdfast-os/holdfast/internal/httpapi"
	"github.com/holdfast-os/holdfast/internal/plan"
	"github.com/holdfast-os/holdfast/internal/services"
)

// Hands carry plans out.
type Hands interface {
	Do(ctx context.Context, p plan.Plan) error
}

// servicePrefix is in front of a service's name in the names of sections.
const servicePrefix = "service-"

// serviceSection is a service as the engine of changes sees it.
type serviceSection struct {
	services.Service
	hands Hands
}

func (s serviceSection) Name() string { return servicePrefix + s.Service.Name() }

func (s serviceSection) Check(_ context.Context, raw, _ json.RawMessage) (json.RawMessage, error) {
	return s.Service.Check(raw)
}

func (s serviceSection) Apply(ctx context.Context, before, next json.RawMessage) error {
	p, err := s.Plan(ctx, before, next)
	if err != nil {
		return err
	}
	return s.hands.Do(ctx, p)
}

func (serviceSection) Hide(raw json.RawMessage) (json.RawMessage, error) { return raw, nil }

func (d *Daemon) serviceSections() []change.Section {
	var all []change.Section
	for _, name := range d.machine.Services.Names() {
		service, err := d.machine.Services.Get(name)
		if err == nil {
			all = append(all, serviceSection{service, d.machine.Hands})
		}
	}
	return all
}

func (d *Daemon) serviceRoutes() []httpapi.Route {
	const list, one = "/1.0/services", "/1.0/services/{name}"
	return []httpapi.Route{
		{Method: get, Path: list, Doc: "lists the services", Response: []string{}, Handler: func(r *httpapi.Request) (any, error) {
			return r.URLs(list, d.machine.Services.Names()...), nil
		}},
		{Method: get, Path: one, Doc: "shows a service", Response: osapi.Service{}, Handler: d.getService},
		{Method: put, Path: one, Doc: "configures a service", Request: Put[json.RawMessage]{}, Query: changeQuery(), OwnMatch: true, Handler: d.putService},
		{Method: post, Path: one + "/:reset", Doc: "starts a service anew", Handler: func(r *httpapi.Request) (any, error) {
			service, err := d.machine.Services.Get(r.Var("name"))
			if err == nil {
				err = service.Reset(r.Context())
			}
			return nil, serviceCoded(err)
		}},
	}
}

func serviceCoded(err error) error {
	switch {
	case errors.Is(err, services.ErrUnknown):
		return httpapi.NotFound("%w", err)
	case errors.Is(err, services.ErrLater):
		return httpapi.NotImplemented("%w", err)
	case errors.Is(err, services.ErrNoReset), errors.Is(err, services.ErrDisabled):
		return httpapi.BadRequest("%w", err)
	}
	return coded(err)
}

func (d *Daemon) getService(r *httpapi.Request) (any, error) {
	name := r.Var("name")
	var kept json.RawMessage
	if _, err := d.machine.Services.Get(name); err == nil {
		if kept, err = d.changes.Get(servicePrefix + name); err != nil {
			return nil, coded(err)
		}
	}
	document, err := d.machine.Services.Document(r.Context(), name, kept)
	if err != nil {
		return nil, serviceCoded(err)
	}
	return httpapi.Tagged{Answer: document, Tag: document.Config}, nil
}

func (d *Daemon) putService(r *httpapi.Request) (any, error) {
	name, body := r.Var("name"), httpapi.Body[Put[json.RawMessage]](r)
	if _, err := d.machine.Services.Get(name); err != nil {
		return nil, serviceCoded(err)
	}
	if body.Config == nil {
		return nil, configMissing()
	}
	return d.change(r, map[string]json.RawMessage{servicePrefix + name: *body.Config}, "")
}

// startServices applies what was asked for; a service that fails does not hold up the rest.
func (d *Daemon) startServices(ctx context.Context) error {
	if err := errors.Join(d.seedServices(ctx), d.seedListener(ctx)); err != nil {
		return err
	}
	for _, section := range d.serviceSections() {
		kept, err := d.changes.Get(section.Name())
		if err != nil || len(kept) == 0 {
			continue
		}
		if err := d.startSetting(section.Name())(ctx); err != nil {
			return err
		}
	}
	return nil
}

// knownServices gives a problem for each name that no service of this release has.
func (d *Daemon) knownServices(named map[string]json.RawMessage) error {
	var problems config.Problems
	for _, name := range slices.Sorted(maps.Keys(named)) {
		if _, err := d.machine.Services.Get(name); err != nil {
			problems.Add("services."+name, "known", "%s", err)
		}
	}
	return coded(problems.Err())
}

// fromSections puts the sections of services under "services", as the whole document has
// them; toSections is the way back.
func fromSections(sections map[string]json.RawMessage) map[string]any {
	document, under := map[string]any{}, map[string]json.RawMessage{}
	for name, raw := range sections {
		if service, ok := strings.CutPrefix(name, servicePrefix); ok {
			under[service] = raw
			continue
		}
		document[name] = raw
	}
	if len(under) > 0 {
		document["services"] = under
	}
	return document
}

func toSections(c osapi.Configuration) (map[string]json.RawMessage, error) {
	under := c.Services
	c.Services = nil
	text, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	var sections map[string]json.RawMessage
	if err := json.Unmarshal(text, &sections); err != nil {
		return nil, err
	}
	for name, raw := range under {
		sections[servicePrefix+name] = raw
	}
	return sections, nil
}
