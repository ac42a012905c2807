// Package incus speaks to the Incus daemon on this node, and sets it up once.
//
// Client is the small part of Incus' REST API that the setup needs, over the daemon's
// socket. Setup applies a seed: the owner's preseed, then defaults where the owner left
// a gap. Every step looks before it acts, so that a setup which was cut off is simply
// run again:
//
//	preseed    config, networks, storage pools, projects, networks of other projects,
//	           volumes, profiles, certificates: made when missing, else merged
//	defaults   pool `local` on the node's ZFS pool, volumes for the daemon's own data,
//	           bridge incusbr0, both in the default profile
//	always     core.https_address, because the node's API is reached through it
package incus

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
)

const (
	// DefaultSocket is the daemon's own socket.
	DefaultSocket = "/var/lib/incus/unix.socket"
	// maxAnswer is the largest answer that is read, in bytes.
	maxAnswer = 16 << 20
	// readyEvery is the time between two looks at a daemon that is starting.
	readyEvery = 250 * time.Millisecond
)

// Error is a request that Incus refused.
type Error struct {
	Method, Path string
	// Code is the HTTP status of the answer, or of the failed operation.
	Code    int
	Message string
}

func (e *Error) Error() string {
	return fmt.Sprintf("incus answers %s %s with %d: %s", e.Method, e.Path, e.Code, e.Message)
}

// Client talks to one daemon.
type Client struct{ http *http.Client }

// New makes a client for the daemon behind a Unix socket. Nothing is connected yet.
func New(socket string) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}
	return &Client{&http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}}
}

// Ready returns once the daemon has started completely, or with the last refusal when
// ctx ends.
func (c *Client) Ready(ctx context.Context) error {
	again := time.NewTicker(readyEvery)
	defer again.Stop()
	for {
		err := c.get(ctx, "/internal/ready", nil)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for incus to be ready: %w (%w)", ctx.Err(), err)
		case <-again.C:
		}
	}
}

// Version is the daemon's own version, as "7.0.2".
func (c *Client) Version(ctx context.Context) (string, error) {
	server, err := c.server(ctx)
	if err != nil {
		return "", err
	}
	if server.Environment.Version == "" {
		return "", fmt.Errorf("incus does not tell its version")
	}
	return server.Environment.Version, nil
}

type server struct {
	Config      map[string]string `json:"config"`
	Environment struct {
		Version string `json:"server_version"`
	} `json:"environment"`
}

func (c *Client) server(ctx context.Context) (server, error) {
	var s server
	return s, c.get(ctx, "/1.0", &s)
}

func (c *Client) get(ctx context.Context, path string, into any) error {
	return c.do(ctx, http.MethodGet, path, nil, into)
}

// envelope is Incus' answer.
type envelope struct {
	Type      string          `json:"type"`
	Operation string          `json:"operation"`
	ErrorCode int             `json:"error_code"`
	Error     string          `json:"error"`
	Metadata  json.RawMessage `json:"metadata"`
}

// do sends one request, and waits for the operation when Incus answers with one.
func (c *Client) do(ctx context.Context, method, path string, body, into any) error {
	answer, err := c.send(ctx, method, path, body)
	if err != nil {
		return err
	}
	if answer.Type == "async" {
		return c.wait(ctx, method, path, answer.Operation)
	}
	if into == nil {
		return nil
	}
	if err := json.Unmarshal(answer.Metadata, into); err != nil {
		return fmt.Errorf("reading what incus answers to %s %s: %w", method, path, err)
	}
	return nil
}

func (c *Client) send(ctx context.Context, method, path string, body any) (envelope, error) {
	var content io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return envelope{}, fmt.Errorf("writing the body of %s %s: %w", method, path, err)
		}
		content = bytes.NewReader(text)
	}
	request, err := http.NewRequestWithContext(ctx, method, "http://incus"+path, content)
	if err != nil {
		return envelope{}, fmt.Errorf("asking incus for %s %s: %w", method, path, err)
	}
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	response, err := c.http.Do(request)
	if err != nil {
		return envelope{}, fmt.Errorf("asking incus: %w", err)
	}
	text, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer+1))
	if err := errors.Join(err, response.Body.Close()); err != nil {
		return envelope{}, fmt.Errorf("reading what incus answers to %s %s: %w", method, path, err)
	}
	if len(text) > maxAnswer {
		return envelope{}, fmt.Errorf("incus answers %s %s with more than %d bytes", method, path, maxAnswer)
	}
	var answer envelope
	if err := json.Unmarshal(text, &answer); err != nil {
		return envelope{}, fmt.Errorf("reading what incus answers to %s %s: %w", method, path, err)
	}
	if answer.Type == "error" || response.StatusCode >= 400 {
		return envelope{}, &Error{Method: method, Path: path, Code: response.StatusCode, Message: answer.Error}
	}
	return answer, nil
}

// wait blocks until an operation ends.
func (c *Client) wait(ctx context.Context, method, path, operation string) error {
	if !strings.HasPrefix(operation, "/1.0/operations/") {
		return fmt.Errorf("incus answers %s %s with operation %.80q", method, path, operation)
	}
	operation, query, _ := strings.Cut(operation, "?")
	if query != "" {
		query = "?" + query
	}
	answer, err := c.send(ctx, http.MethodGet, operation+"/wait"+query, nil)
	if err != nil {
		return err
	}
	var end struct {
		StatusCode int    `json:"status_code"`
		Err        string `json:"err"`
	}
	if err := json.Unmarshal(answer.Metadata, &end); err != nil {
		return fmt.Errorf("reading the end of operation %s: %w", operation, err)
	}
	if end.StatusCode != http.StatusOK {
		return &Error{Method: method, Path: path, Code: end.StatusCode, Message: end.Err}
	}
	return nil
}

// isMissing is true for an object that does not exist.
func isMissing(err error) bool {
	var refused *Error
	return errors.As(err, &refused) && refused.Code == http.StatusNotFound
}
