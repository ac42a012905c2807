package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/holdfast-os/holdfast/api/os"
)

// Error is a request that the node answered with a refusal.
type Error struct {
	// Code is the HTTP status of the refusal, as 404.
	Code int
	// Message is the node's own explanation.
	Message string
	// Path is what was asked for, as "/1.0/applications/incus".
	Path string
}

func (e *Error) Error() string {
	return fmt.Sprintf("%s: %s (%d)", e.Path, e.Message, e.Code)
}

// ConnectError is a request that got no answer.
type ConnectError struct {
	// Endpoint is the node's address, as "https://192.0.2.7:8443/os" or "unix:///PATH".
	Endpoint string
	Err      error
}

func (e *ConnectError) Error() string { return fmt.Sprintf("asking %s: %s", e.Endpoint, e.Err) }

func (e *ConnectError) Unwrap() error { return e.Err }

// IsCode tells whether err is a refusal with this HTTP status.
func IsCode(err error, code int) bool {
	var refused *Error
	return errors.As(err, &refused) && refused.Code == code
}

// Answer is what a node says to a request.
type Answer struct {
	// Metadata is the answer itself, as JSON.
	Metadata json.RawMessage
	// ETag names the state that was read; empty when the node sends none. Given to a
	// later change, the node refuses that change (412) if the state has moved on.
	ETag string
	// Operation is the id of the operation that goes on behind the answer (WaitOperation);
	// empty when the request is finished.
	Operation string
}

// Request is one request; only Method and Path are needed.
type Request struct {
	// Method is an HTTP method in capitals.
	Method string
	// Path begins with "/", as "/1.0/system/update", without the prefix /os and
	// already escaped.
	Path string
	// Query is appended to the path.
	Query url.Values
	// Body is sent as JSON; nil sends no body.
	Body []byte
	// ETag makes the request conditional (If-Match); default unconditional.
	ETag string
}

// Raw sends one request with an optional JSON body to a path such as "/1.0/system".
func (c *Client) Raw(ctx context.Context, method, path string, body []byte) (Answer, error) {
	return c.Do(ctx, Request{Method: method, Path: path, Body: body})
}

// Do sends one request. A refusal is an *Error, no answer at all is a *ConnectError.
func (c *Client) Do(ctx context.Context, r Request) (Answer, error) {
	response, err := c.start(ctx, r)
	if err != nil {
		return Answer{}, err
	}
	defer response.Body.Close()
	data, err := c.readAll(r.Path, response.Body)
	if err != nil {
		return Answer{}, err
	}
	return decode(r.Path, response.StatusCode, response.Header, data)
}

// start sends a request and gives the answer as it comes; the caller closes its body.
func (c *Client) start(ctx context.Context, r Request) (*http.Response, error) {
	if !strings.HasPrefix(r.Path, "/") {
		return nil, fmt.Errorf("path %q: does not begin with /", r.Path)
	}
	address := c.base + r.Path
	if len(r.Query) > 0 {
		address += "?" + r.Query.Encode()
	}
	var body io.Reader
	if r.Body != nil {
		body = bytes.NewReader(r.Body)
	}
	request, err := http.NewRequestWithContext(ctx, r.Method, address, body)
	if err != nil {
		return nil, fmt.Errorf("making a request for %s: %w", r.Path, err)
	}
	request.Header.Set("User-Agent", c.userAgent)
	request.Header.Set("Accept", "application/json, */*;q=0.5")
	if r.Body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	if r.ETag != "" {
		request.Header.Set("If-Match", r.ETag)
	}
	response, err := c.http.Do(request)
	if err != nil {
		return nil, &ConnectError{Endpoint: c.endpoint, Err: unwrapURL(err)}
	}
	return response, nil
}

func (c *Client) readAll(path string, body io.Reader) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(body, MaxResponse+1))
	if err != nil {
		return nil, &ConnectError{Endpoint: c.endpoint, Err: fmt.Errorf("reading the answer for %s: %w", path, err)}
	}
	if len(data) > MaxResponse {
		return nil, fmt.Errorf("the answer for %s is longer than %d bytes", path, MaxResponse)
	}
	return data, nil
}

// download copies an answer that is no envelope, at most limit bytes.
func (c *Client) download(ctx context.Context, r Request, w io.Writer, limit int64) error {
	response, err := c.start(ctx, r)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	kind, _, _ := strings.Cut(contentType(response.Header), ";")
	if response.StatusCode >= http.StatusBadRequest || kind == "application/json" {
		data, err := c.readAll(r.Path, response.Body)
		if err != nil {
			return err
		}
		if _, err := decode(r.Path, response.StatusCode, response.Header, data); err != nil {
			return err
		}
		return fmt.Errorf("the answer for %s is not a download", r.Path)
	}
	n, err := io.Copy(w, &reading{c: c, path: r.Path, from: io.LimitReader(response.Body, limit+1)})
	if err != nil {
		return err
	}
	if n > limit {
		return fmt.Errorf("the answer for %s is longer than %d bytes", r.Path, limit)
	}
	return nil
}

// contentType is the media type of an answer. Incus puts its own in front of what it hands
// through, so the last one counts.
func contentType(header http.Header) string {
	values := header.Values("Content-Type")
	if len(values) == 0 {
		return ""
	}
	return values[len(values)-1]
}

// reading tells errors of the node from those of whoever writes the download.
type reading struct {
	c    *Client
	path string
	from io.Reader
}

func (r *reading) Read(p []byte) (int, error) {
	n, err := r.from.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = &ConnectError{Endpoint: r.c.endpoint, Err: fmt.Errorf("reading the answer for %s: %w", r.path, err)}
	}
	return n, err
}

// unwrapURL drops the method and address that net/http puts before an error.
func unwrapURL(err error) error {
	var wrapped *url.Error
	if errors.As(err, &wrapped) {
		return wrapped.Err
	}
	return err
}

// decode opens the envelope. A body that is none comes from something else than a
// node; its first words help to see what.
func decode(path string, status int, header http.Header, data []byte) (Answer, error) {
	var envelope os.Response
	if err := json.Unmarshal(data, &envelope); err != nil || !known(envelope) {
		if status >= http.StatusBadRequest {
			return Answer{}, &Error{Code: status, Message: firstWords(data, http.StatusText(status)), Path: path}
		}
		return Answer{}, fmt.Errorf("the answer for %s is not one of a node (HTTP %d): %q", path, status, firstWords(data, "empty"))
	}
	if envelope.Type == "error" || status >= http.StatusBadRequest {
		code := envelope.ErrorCode
		if code == 0 {
			code = status
		}
		message := envelope.Error
		if message == "" {
			message = strings.ToLower(http.StatusText(code))
		}
		return Answer{}, &Error{Code: code, Message: message, Path: path}
	}
	answer := Answer{Metadata: envelope.Metadata, ETag: header.Get("ETag")}
	if envelope.Type == "async" {
		answer.Operation = envelope.Operation[strings.LastIndexByte(envelope.Operation, '/')+1:]
	}
	return answer, nil
}

// known tells an envelope from other JSON.
func known(r os.Response) bool {
	switch r.Type {
	case "sync", "error":
		return true
	case "async":
		return r.Operation != "" && !strings.HasSuffix(r.Operation, "/")
	}
	return false
}

func firstWords(data []byte, otherwise string) string {
	text := strings.Join(strings.Fields(string(data[:min(len(data), 400)])), " ")
	if text == "" {
		return strings.ToLower(otherwise)
	}
	if len(text) > 120 {
		text = strings.ToValidUTF8(text[:120], "") + "..."
	}
	return text
}

// get reads a path into a T.
func get[T any](ctx context.Context, c *Client, path string, query url.Values) (T, string, error) {
	var value T
	answer, err := c.Do(ctx, Request{Method: http.MethodGet, Path: path, Query: query})
	if err != nil {
		return value, "", err
	}
	if err := json.Unmarshal(answer.Metadata, &value); err != nil {
		return value, "", fmt.Errorf("decoding the answer for %s: %w", path, err)
	}
	return value, answer.ETag, nil
}

// send changes something and waits for the operation that it may be; value nil sends no
// body.
func (c *Client) send(ctx context.Context, method, path string, value any, etag string) error {
	answer, err := c.ask(ctx, method, path, value, etag)
	if err != nil {
		return err
	}
	return c.settle(ctx, answer)
}

// ask is send that does not wait.
func (c *Client) ask(ctx context.Context, method, path string, value any, etag string) (Answer, error) {
	var body []byte
	if value != nil {
		var err error
		if body, err = json.Marshal(value); err != nil {
			return Answer{}, fmt.Errorf("encoding the request for %s: %w", path, err)
		}
	}
	return c.Do(ctx, Request{Method: method, Path: path, Body: body, ETag: etag})
}
