package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/holdfast-os/holdfast/api/os"
)

// Sections of the configuration, for SectionPath, SetSection and PlanSection.
const (
	SectionKernel           = "kernel"
	SectionSecurity         = "security"
	SectionNetwork          = "network"
	SectionLogging          = "logging"
	SectionProvider         = "provider"
	SectionUpdate           = "update"
	SectionFallbackListener = "fallback-listener"
)

// ConfigPath is the path of the whole configuration.
const ConfigPath = "/1.0/system/config"

// historyPath is the path of the accepted changes.
const historyPath = "/1.0/system/history"

// ErrNoPlans is the answer when a dry run or a time to confirm is asked of a node that
// knows neither. Nothing was sent to it but a question.
var ErrNoPlans = errors.New("the release on this node knows neither plans nor confirmations, so nothing was sent")

// ChangeOptions say how a change is made; the zero value makes it at once, for good.
type ChangeOptions struct {
	// ETag refuses the change (412) when the node's configuration is not the one that was
	// read with it; default: whatever is there.
	ETag string
	// ConfirmWithin takes the change back after this time unless ConfirmConfig is called
	// before; 0 keeps it. At most 24 hours.
	ConfirmWithin time.Duration
}

// SectionPath is the path of a section, as "/1.0/system/kernel".
func SectionPath(section string) string { return "/1.0/system/" + url.PathEscape(section) }

// Plan asks what a change would do. The request is that of the change: a PUT of a section
// or of the whole, or a POST that goes back. The answer is an os.Plan.
func (c *Client) Plan(ctx context.Context, r Request) (Answer, error) {
	if err := c.knowsPlans(ctx); err != nil {
		return Answer{}, err
	}
	r.Query = withValue(r.Query, "dry-run", "1")
	answer, err := c.Do(ctx, r)
	if err != nil {
		return Answer{}, err
	}
	var shape struct {
		Steps []json.RawMessage `json:"steps"`
	}
	if err := json.Unmarshal(answer.Metadata, &shape); err != nil || shape.Steps == nil {
		return Answer{}, fmt.Errorf("the answer for %s is not a plan: see with GET %s whether the node has made the change", r.Path, historyPath)
	}
	return answer, nil
}

// Change makes a change, and waits for its end. With a time to confirm it goes back by
// itself unless ConfirmConfig is called in that time.
func (c *Client) Change(ctx context.Context, r Request, confirmWithin time.Duration) (Answer, error) {
	if confirmWithin < 0 {
		return Answer{}, fmt.Errorf("time to confirm: %s is less than nothing", confirmWithin)
	}
	if confirmWithin > 0 {
		if err := c.knowsPlans(ctx); err != nil {
			return Answer{}, err
		}
		r.Query = withValue(r.Query, "confirmation_timeout", confirmWithin.String())
	}
	answer, err := c.Do(ctx, r)
	if err != nil {
		return answer, err
	}
	return answer, c.settle(ctx, answer)
}

// knowsPlans is nil when the node knows plans and confirmations: it has the configuration
// as one document.
func (c *Client) knowsPlans(ctx context.Context) error {
	_, err := c.Do(ctx, Request{Method: http.MethodGet, Path: ConfigPath})
	if IsCode(err, http.StatusNotFound) || IsCode(err, http.StatusNotImplemented) {
		return ErrNoPlans
	}
	return err
}

func withValue(query url.Values, name, value string) url.Values {
	query = maps.Clone(query)
	if query == nil {
		query = url.Values{}
	}
	query.Set(name, value)
	return query
}

// Config shows every section as one document, with the ETag for SetConfig. Secrets are
// shown as "(kept secret)"; sent back like that they stay.
func (c *Client) Config(ctx context.Context) (os.ConfigurationDocument, string, error) {
	return get[os.ConfigurationDocument](ctx, c, ConfigPath, nil)
}

// SetConfig replaces the sections that are there, all or none; others stay.
func (c *Client) SetConfig(ctx context.Context, config os.Configuration, o ChangeOptions) error {
	return c.change(ctx, ConfigPath, config, o)
}

// PlanConfig says what SetConfig would do.
func (c *Client) PlanConfig(ctx context.Context, config os.Configuration, etag string) (os.Plan, error) {
	return c.plan(ctx, ConfigPath, config, etag)
}

// SetSection replaces the configuration of one section, as an os.KernelConfig.
func (c *Client) SetSection(ctx context.Context, section string, config any, o ChangeOptions) error {
	return c.change(ctx, SectionPath(section), config, o)
}

// PlanSection says what SetSection would do.
func (c *Client) PlanSection(ctx context.Context, section string, config any, etag string) (os.Plan, error) {
	return c.plan(ctx, SectionPath(section), config, etag)
}

func putRequest(path string, config any, etag string) (Request, error) {
	body, err := json.Marshal(map[string]any{"config": config})
	if err != nil {
		return Request{}, fmt.Errorf("encoding the request for %s: %w", path, err)
	}
	return Request{Method: http.MethodPut, Path: path, Body: body, ETag: etag}, nil
}

func (c *Client) change(ctx context.Context, path string, config any, o ChangeOptions) error {
	r, err := putRequest(path, config, o.ETag)
	if err != nil {
		return err
	}
	_, err = c.Change(ctx, r, o.ConfirmWithin)
	return err
}

func (c *Client) plan(ctx context.Context, path string, config any, etag string) (os.Plan, error) {
	r, err := putRequest(path, config, etag)
	if err != nil {
		return os.Plan{}, err
	}
	answer, err := c.Plan(ctx, r)
	if err != nil {
		return os.Plan{}, err
	}
	return decodeAnswer[os.Plan](path, answer)
}

// Kernel shows the kernel's configuration, with the ETag for SetSection.
func (c *Client) Kernel(ctx context.Context) (os.Kernel, string, error) {
	return get[os.Kernel](ctx, c, SectionPath(SectionKernel), nil)
}

// Logging shows where the log goes, with the ETag for SetSection.
func (c *Client) Logging(ctx context.Context) (os.Logging, string, error) {
	return get[os.Logging](ctx, c, SectionPath(SectionLogging), nil)
}

// FallbackListener shows the second way to the API, with the ETag for SetSection.
func (c *Client) FallbackListener(ctx context.Context) (os.FallbackListener, string, error) {
	return get[os.FallbackListener](ctx, c, SectionPath(SectionFallbackListener), nil)
}

// ConfirmConfig keeps the change that waits to be confirmed and gives its number. It is an
// error (400) when there is none.
func (c *Client) ConfirmConfig(ctx context.Context) (int, error) {
	return c.numbered(ctx, ConfigPath+"/:confirm", 0)
}

// RevertConfig takes the change back that waits to be confirmed.
func (c *Client) RevertConfig(ctx context.Context) error {
	return c.send(ctx, http.MethodPost, ConfigPath+"/:revert", nil, "")
}

// ConfirmNetwork is ConfirmConfig under the name that clients of IncusOS use.
func (c *Client) ConfirmNetwork(ctx context.Context) error {
	return c.send(ctx, http.MethodPost, SectionPath(SectionNetwork)+"/:confirm", nil, "")
}

// History lists the accepted changes that are kept, the newest first.
func (c *Client) History(ctx context.Context) ([]os.Change, error) {
	value, _, err := get[[]os.Change](ctx, c, historyPath, nil)
	return value, err
}

// ChangePath is the path of one accepted change.
func ChangePath(number int) string { return historyPath + "/" + strconv.Itoa(number) }

// RollbackPath is where a change is gone back to, for Plan and Change.
func RollbackPath(number int) string { return ChangePath(number) + "/:rollback" }

// ChangeOf shows an accepted change and what it changed.
func (c *Client) ChangeOf(ctx context.Context, number int) (os.Change, error) {
	value, _, err := get[os.Change](ctx, c, ChangePath(number), nil)
	return value, err
}

// ChangeDiff shows what differs from the configuration after one change to that after
// another, as a unified diff.
func (c *Client) ChangeDiff(ctx context.Context, from, to int) (os.Change, error) {
	value, _, err := get[os.Change](ctx, c, ChangePath(from), url.Values{"to": {strconv.Itoa(to)}})
	return value, err
}

// Rollback makes the configuration what it was after a change; 0 is before the first. It
// gives the number of the change that does it: 0 when nothing differed, or it waits to be
// confirmed.
func (c *Client) Rollback(ctx context.Context, number int, confirmWithin time.Duration) (int, error) {
	return c.numbered(ctx, RollbackPath(number), confirmWithin)
}

// PlanRollback says what Rollback would do.
func (c *Client) PlanRollback(ctx context.Context, number int) (os.Plan, error) {
	path := RollbackPath(number)
	answer, err := c.Plan(ctx, Request{Method: http.MethodPost, Path: path})
	if err != nil {
		return os.Plan{}, err
	}
	return decodeAnswer[os.Plan](path, answer)
}

// numbered sends a POST that answers with the number of a change.
func (c *Client) numbered(ctx context.Context, path string, confirmWithin time.Duration) (int, error) {
	answer, err := c.Change(ctx, Request{Method: http.MethodPost, Path: path}, confirmWithin)
	if err != nil {
		return 0, err
	}
	change, err := decodeAnswer[struct {
		Number int `json:"number"`
	}](path, answer)
	return change.Number, err
}
