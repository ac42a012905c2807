package daemon

import (
	"context"
	"errors"
	"net/http"
	"strconv"

	osapi "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/audit"
	"github.com/holdfast-os/holdfast/internal/event"
	"github.com/holdfast-os/holdfast/internal/httpapi"
	"github.com/holdfast-os/holdfast/internal/operation"
)

// watchingRoutes are what goes on, what happens, and what was done.
func (d *Daemon) watchingRoutes() []httpapi.Route {
	const operations, log = "/1.0/operations", "/1.0/audit"
	const one = operations + "/{id}"
	return []httpapi.Route{
		{Method: get, Path: operations, Doc: "lists the operations by their status", Response: map[string][]string{}, Query: []httpapi.Param{
			{Name: "recursion", Doc: "with 1 the operations themselves are listed; default their paths", Example: "1"},
		}, Handler: d.listOperations},
		{Method: get, Path: one, Doc: "shows an operation", Response: osapi.Operation{}, Handler: d.showOperation},
		{Method: get, Path: one + "/wait", Doc: "waits for the end of an operation, then shows it", Response: osapi.Operation{}, Query: []httpapi.Param{
			{Name: "timeout", Doc: "how many seconds to wait; default without limit", Example: "30"},
		}, Handler: d.waitOperation},
		{Method: http.MethodDelete, Path: one, Doc: "cancels an operation", Handler: func(r *httpapi.Request) (any, error) {
			return nil, watched(d.operations.Cancel(r.Var("id")))
		}},
		{Method: get, Path: "/1.0/events", Doc: "opens a websocket that tells what happens, as it happens", Response: osapi.Event{}, Query: []httpapi.Param{
			{Name: "type", Doc: "types of events, with commas; default all", Example: "operation,lifecycle"},
		}, Handler: d.events},
		{Method: get, Path: log, Doc: "reads the audit log", Response: osapi.Audit{}, Query: []httpapi.Param{
			{Name: "since", Doc: "the number of the entry before the first one wanted; default 0", Example: "120"},
			{Name: "limit", Doc: "how many entries at most, up to 1000; default 100", Example: "50"},
		}, Handler: d.readAudit},
		{Method: post, Path: log + "/:verify", Doc: "looks whether the audit log is whole and unchanged", Response: osapi.AuditVerification{}, Handler: func(r *httpapi.Request) (any, error) {
			book, err := d.auditLog()
			if err != nil {
				return nil, err
			}
			return failable(book.Verify(r.Context(), 0, 0))
		}},
	}
}

func watched(err error) error {
	for _, kind := range []struct {
		err  error
		code int
	}{
		{operation.ErrNotFound, http.StatusNotFound}, {operation.ErrNotCancellable, http.StatusBadRequest},
		{operation.ErrFinished, http.StatusBadRequest}, {operation.ErrTooMany, http.StatusServiceUnavailable},
	} {
		if errors.Is(err, kind.err) {
			return httpapi.WithCode(kind.code, err)
		}
	}
	return coded(err)
}

func (d *Daemon) listOperations(r *httpapi.Request) (any, error) {
	list := d.operations.List()
	if r.Query("recursion") != "1" {
		return operation.URLsByStatus(list, r.Prefix), nil
	}
	for i := range list {
		list[i] = operation.WithPrefix(list[i], r.Prefix)
	}
	return operation.ByStatus(list), nil
}

func (d *Daemon) showOperation(r *httpapi.Request) (any, error) {
	op, err := d.operations.Show(r.Var("id"))
	if err != nil {
		return nil, watched(err)
	}
	return operation.WithPrefix(op, r.Prefix), nil
}

func (d *Daemon) waitOperation(r *httpapi.Request) (any, error) {
	timeout, err := operation.ParseTimeout(r.Query("timeout"))
	if err != nil {
		return nil, httpapi.BadRequest("%w", err)
	}
	op, err := d.operations.Wait(r.Context(), r.Var("id"), timeout)
	if err != nil {
		return nil, watched(err)
	}
	return operation.WithPrefix(op, r.Prefix), nil
}

func (d *Daemon) events(*httpapi.Request) (any, error) {
	return httpapi.Stream(func(w http.ResponseWriter, r *http.Request) error { return event.Serve(w, r, d.hub) }), nil
}

func (d *Daemon) readAudit(r *httpapi.Request) (any, error) {
	book, err := d.auditLog()
	if err != nil {
		return nil, err
	}
	var since uint64
	if text := r.Query("since"); text != "" {
		if since, err = strconv.ParseUint(text, 10, 64); err != nil {
			return nil, httpapi.BadRequest("since: %q is not the number of an entry", text)
		}
	}
	limit := 0
	if text := r.Query("limit"); text != "" {
		if limit, err = strconv.Atoi(text); err != nil || limit < 1 {
			return nil, httpapi.BadRequest("limit: %q is not a number of entries", text)
		}
	}
	return failable(book.Read(r.Context(), since, limit))
}

func (d *Daemon) auditLog() (*audit.Log, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.audit == nil {
		return nil, httpapi.Unavailable("the audit log is not open yet: see /1.0/debug/boot")
	}
	return d.audit, nil
}

// openAudit opens the audit log; it is part of the phase "state".
func (d *Daemon) openAudit() error {
	if _, err := d.auditLog(); err == nil {
		return nil
	}
	files, err := d.openAuditFiles()
	if err != nil {
		return err
	}
	book, err := audit.Open(files, audit.Options{Log: d.log, Now: d.clock.Now})
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.audit = book
	return nil
}

func (d *Daemon) closeAudit() {
	d.mu.Lock()
	book := d.audit
	d.audit = nil
	d.mu.Unlock()
	if book == nil {
		return
	}
	if err := book.Close(); err != nil {
		d.log.Error("closing the audit log", "error", err)
	}
}

// observe writes a request into the audit log, when it belongs there.
func (d *Daemon) observe(seen httpapi.Seen) {
	d.requests.Observe(seen.HTTP.Method, seen.Code, seen.Took)
	if seen.Err == nil && seen.HTTP.URL.Query().Get("dry-run") != "" {
		return // nothing was changed
	}
	book, err := d.auditLog()
	if err != nil {
		if seen.HTTP.Method != http.MethodGet {
			d.log.Warn("a request came before the audit log was open", "method", seen.HTTP.Method, "path", seen.HTTP.URL.Path, "by", seen.Caller)
		}
		return
	}
	record := audit.Record{
		Who: seen.Caller, From: seen.From, Method: seen.HTTP.Method, Path: seen.HTTP.URL.Path, Query: seen.HTTP.URL.Query(),
		Code: seen.Code, Err: seen.Err, Duration: seen.Took, Change: uint64(max(seen.Change, 0)),
	}
	if _, err := book.Add(record); err != nil {
		d.log.Error("writing the audit log", "error", err)
		d.machine.Display.Message("error", "audit log: "+err.Error())
	}
}

// lifecycle tells listeners what was done to an object.
func (d *Daemon) lifecycle(action, source string, context map[string]any) {
	err := d.hub.Publish(osapi.EventTypeLifecycle, osapi.EventLifecycle{Action: action, Source: source, Context: context})
	if err != nil {
		d.log.Warn("telling listeners", "action", action, "error", err)
	}
}

// asyncQuery is the parameter of work that can be watched.
func asyncQuery() []httpapi.Param {
	return []httpapi.Param{{Name: "async", Doc: "with 1 the answer names an operation at once; default it comes at the end of the work", Example: "1"}}
}

// operate runs work as an operation that can be watched, and waits for its end. The work
// goes on when the caller goes away.
func (d *Daemon) operate(r *httpapi.Request, description string, resources map[string][]string, do func(context.Context, *operation.Progress) error) (any, error) {
	failure, done := errors.New("the node made a mistake: see /1.0/debug/log"), make(chan struct{})
	op, err := d.operations.Start(description, resources, false, func(ctx context.Context, p *operation.Progress) error {
		defer close(done)
		failure = do(ctx, p)
		return failure
	})
	if err != nil {
		return nil, watched(err)
	}
	if r.Query("async") == "1" {
		return httpapi.Async{Path: r.URL(operation.Path(op.ID)), Answer: operation.WithPrefix(op, r.Prefix)}, nil
	}
	select {
	case <-done:
		return nil, coded(failure)
	case <-r.Context().Done():
		return nil, httpapi.Unavailable("the caller has gone; %s goes on", operation.Path(op.ID))
	}
}
