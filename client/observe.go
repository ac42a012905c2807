package client

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strconv"

	"github.com/holdfast-os/holdfast/api/os"
)

// MaxBundle is the longest support bundle that is read, in bytes.
const MaxBundle = 1 << 30

// AuditPath is the path of the audit log.
const AuditPath = "/1.0/audit"

// AuditQuery chooses entries of the audit log.
type AuditQuery struct {
	// Since gives entries behind this number; 0 is from the first that is kept.
	Since uint64
	// Limit is how many entries to give at most; 0 leaves it to the node (100), which
	// gives 1000 at most.
	Limit int
}

// Values are the query as parameters.
func (q AuditQuery) Values() url.Values {
	values := url.Values{}
	if q.Since > 0 {
		values.Set("since", strconv.FormatUint(q.Since, 10))
	}
	if q.Limit > 0 {
		values.Set("limit", strconv.Itoa(q.Limit))
	}
	return values
}

// Audit reads the audit log, the oldest entry first.
func (c *Client) Audit(ctx context.Context, q AuditQuery) (os.Audit, error) {
	value, _, err := get[os.Audit](ctx, c, AuditPath, q.Values())
	return value, err
}

// VerifyAudit has the node look whether its audit log is whole.
func (c *Client) VerifyAudit(ctx context.Context) (os.AuditVerification, error) {
	const path = AuditPath + "/:verify"
	answer, err := c.ask(ctx, http.MethodPost, path, nil, "")
	if err != nil {
		return os.AuditVerification{}, err
	}
	return decodeAnswer[os.AuditVerification](path, answer)
}

// Metrics are the node's counters in the text format of Prometheus.
func (c *Client) Metrics(ctx context.Context) (string, error) { return c.text(ctx, "/1.0/metrics") }

// OpenAPI is the description of the API by the node itself, OpenAPI 3.1 in YAML.
func (c *Client) OpenAPI(ctx context.Context) (string, error) {
	return c.text(ctx, "/1.0/openapi.yaml")
}

func (c *Client) text(ctx context.Context, path string) (string, error) {
	var b bytes.Buffer
	err := c.download(ctx, Request{Method: http.MethodGet, Path: path}, &b, MaxResponse)
	return b.String(), err
}

// SupportBundle has the node gather what helps to find a fault, and writes it to w: a tar
// file packed with gzip, at most MaxBundle bytes. It holds no secrets that the node knows
// to be such.
func (c *Client) SupportBundle(ctx context.Context, w io.Writer) error {
	return c.download(ctx, Request{Method: http.MethodPost, Path: "/1.0/debug/:support-bundle"}, w, MaxBundle)
}

// DebugKernel shows the running kernel and its modules.
func (c *Client) DebugKernel(ctx context.Context) (os.DebugKernel, error) {
	value, _, err := get[os.DebugKernel](ctx, c, "/1.0/debug/kernel", nil)
	return value, err
}

// DebugEventLog shows what was measured into the TPM.
func (c *Client) DebugEventLog(ctx context.Context) (os.DebugEventLog, error) {
	value, _, err := get[os.DebugEventLog](ctx, c, "/1.0/debug/secureboot/event-log", nil)
	return value, err
}

// Services lists the names of the services that the node can run.
func (c *Client) Services(ctx context.Context) ([]string, error) {
	return c.memberNames(ctx, "/1.0/services", "service")
}

// ServicePath is the path of one service, for Plan, Change and Raw.
func ServicePath(name string) (string, error) { return memberPath("/1.0/services", "service", name) }

// Service shows a service as JSON {"config":..,"state":..}, with the ETag for SetService.
func (c *Client) Service(ctx context.Context, name string) (json.RawMessage, string, error) {
	p, err := ServicePath(name)
	if err != nil {
		return nil, "", err
	}
	return get[json.RawMessage](ctx, c, p, nil)
}

// SetService replaces the configuration of a service.
func (c *Client) SetService(ctx context.Context, name string, config any, etag string) error {
	p, err := ServicePath(name)
	if err != nil {
		return err
	}
	return c.send(ctx, http.MethodPut, p, map[string]any{"config": config}, etag)
}

// ResetService starts a service anew, with its configuration.
func (c *Client) ResetService(ctx context.Context, name string) error {
	p, err := ServicePath(name)
	if err != nil {
		return err
	}
	return c.send(ctx, http.MethodPost, p+"/:reset", nil, "")
}

// FlushDNS has the node forget what names resolve to.
func (c *Client) FlushDNS(ctx context.Context) error {
	return c.send(ctx, http.MethodPost, SectionPath(SectionNetwork)+"/:flush-dns", nil, "")
}

// RebindTPM binds the encrypted volumes to the TPM in its present state.
func (c *Client) RebindTPM(ctx context.Context) error {
	return c.send(ctx, http.MethodPost, SectionPath(SectionSecurity)+"/:tpm-rebind", nil, "")
}
