package daemon

import (
	"encoding/json"
	"fmt"
	"strconv"

	osapi "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/change"
	"github.com/holdfast-os/holdfast/internal/httpapi"
	"github.com/holdfast-os/holdfast/internal/plan"
)

// configurationRoutes are the configuration as a whole, and its history.
func (d *Daemon) configurationRoutes() []httpapi.Route {
	const whole, history = "/1.0/system/config", "/1.0/system/history"
	const one = history + "/{number}"
	return []httpapi.Route{
		{Method: get, Path: whole, Doc: "shows every section of the configuration as one document", Response: osapi.ConfigurationDocument{}, Handler: d.getConfiguration},
		{Method: put, Path: whole, Doc: "changes several sections at once, all or none", Request: Put[osapi.Configuration]{}, Query: changeQuery(), OwnMatch: true, Handler: d.putConfiguration},
		{Method: post, Path: whole + "/:confirm", Doc: "confirms the change that waits for it", Response: confirmed{}, Handler: d.confirm},
		{Method: post, Path: whole + "/:revert", Doc: "takes the change back that waits to be confirmed", Handler: func(r *httpapi.Request) (any, error) {
			return nil, coded(d.changes.Revert(r.Context()))
		}},
		{Method: get, Path: history, Doc: "lists the last 50 accepted changes, the newest first", Response: []osapi.Change{}, Handler: d.getHistory},
		{Method: get, Path: one, Doc: "shows one change, and with ?to= the difference up to another", Response: osapi.Change{}, Query: []httpapi.Param{
			{Name: "to", Doc: "the number of another change; default: what this change itself changed", Example: "3"},
		}, Handler: d.getChange},
		{Method: post, Path: one + "/:rollback", Doc: "makes the configuration what it was after a change", Query: changeQuery(), Response: confirmed{}, Handler: d.rollback},
	}
}

// confirmed is the answer to what makes a change last.
type confirmed struct {
	// Number is that of the accepted change; 0 when nothing differed or the change waits
	// to be confirmed.
	Number int `json:"number"`
}

func (d *Daemon) confirm(*httpapi.Request) (any, error) {
	number, err := d.changes.Confirm()
	if err != nil {
		return nil, coded(err)
	}
	return confirmed{number}, nil
}

func (d *Daemon) getConfiguration(r *httpapi.Request) (any, error) {
	sections := map[string]json.RawMessage{}
	for _, section := range d.sections() {
		name := section.Name()
		raw, err := d.changes.Effective(r.Context(), name)
		if err == nil {
			raw, err = d.changes.HideSection(name, raw)
		}
		if err != nil {
			return nil, coded(err)
		}
		if len(raw) > 0 {
			sections[name] = raw
		}
	}
	text, err := json.Marshal(fromSections(sections))
	if err != nil {
		return nil, fmt.Errorf("encoding the configuration: %w", err)
	}
	var document osapi.ConfigurationDocument
	if err := json.Unmarshal(text, &document.Config); err != nil {
		return nil, fmt.Errorf("reading the configuration: %w", err)
	}
	document.State = osapi.ConfigurationState{Number: d.changes.Number()}
	if status, ok := d.changes.Pending(); ok {
		document.State.Pending = pendingChange(status)
	}
	return httpapi.Tagged{Answer: document, Tag: document.Config}, nil
}

func pendingChange(s change.Status) *osapi.PendingChange {
	shown := &osapi.PendingChange{Who: s.Who, What: s.What, Since: s.Since, Sections: s.Sections}
	if !s.Deadline.IsZero() {
		shown.Deadline = &s.Deadline
	}
	return shown
}

func (d *Daemon) putConfiguration(r *httpapi.Request) (any, error) {
	body := httpapi.Body[Put[osapi.Configuration]](r)
	if body.Config == nil {
		return nil, configMissing()
	}
	sections, err := toSections(*body.Config)
	if err != nil {
		return nil, fmt.Errorf("reading the configuration: %w", err)
	}
	if err := d.knownServices(body.Config.Services); err != nil {
		return nil, err
	}
	timeout := ""
	if body.Config.Network != nil {
		timeout = body.Config.Network.ConfirmationTimeout
	}
	return d.change(r, sections, timeout)
}

func (d *Daemon) getHistory(*httpapi.Request) (any, error) {
	entries, err := d.changes.History()
	if err != nil {
		return nil, coded(err)
	}
	shown := make([]osapi.Change, 0, len(entries))
	for _, entry := range entries {
		shown = append(shown, shownChange(entry))
	}
	return shown, nil
}

func shownChange(e change.Entry) osapi.Change {
	return osapi.Change{Number: e.Number, Time: e.Time, Who: e.Who, What: e.What, Sections: e.Sections}
}

func (d *Daemon) getChange(r *httpapi.Request) (any, error) {
	number, err := changeNumber(r.Var("number"))
	if err != nil {
		return nil, err
	}
	entry, err := d.changes.Show(number)
	if err != nil {
		return nil, coded(err)
	}
	from, to := number-1, number
	if text := r.Query("to"); text != "" {
		from = number
		if to, err = changeNumber(text); err != nil {
			return nil, err
		}
	}
	shown := shownChange(entry)
	shown.Diff, err = d.changes.Diff(from, to)
	return shown, coded(err)
}

func changeNumber(text string) (int, error) {
	number, err := strconv.Atoi(text)
	if err != nil || number < 0 {
		return 0, httpapi.BadRequest("%q is not the number of a change", text)
	}
	return number, nil
}

func (d *Daemon) rollback(r *httpapi.Request) (any, error) {
	number, err := changeNumber(r.Var("number"))
	if err != nil {
		return nil, err
	}
	if r.Query("dry-run") != "" {
		return d.dryRun(r, func() (plan.Plan, error) {
			sections, err := d.changes.At(number)
			if err != nil {
				return plan.Plan{}, err
			}
			return d.changes.Plan(r.Context(), sections)
		})
	}
	request, err := d.changeRequest(r, "")
	if err != nil {
		return nil, err
	}
	request.Unchanged = nil
	number, err = d.changes.Rollback(r.Context(), number, request)
	if err != nil {
		return nil, coded(err)
	}
	return confirmed{number}, nil
}
