package operationscenter

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/holdfast-os/holdfast/internal/release"
)

// Options make a Client.
type Options struct {
	// ServerURL is the manager's base URL, https. It is ignored with Socket.
	ServerURL string
	// Token lets the node register; a secret.
	Token string
	// Certificate is PEM: the manager's own, or one that its own descends from; empty for
	// the system's certificates.
	Certificate string
	// Socket is the unix socket of an Operations Center on this node; empty for another
	// machine. With it neither token nor certificates are used.
	Socket string
	// ClientCertificate gives the primary application's certificate at each connection. It
	// may give nil while there is no application; default none.
	ClientCertificate func() (*tls.Certificate, error)
	// Roots are the certificates that the system trusts, asked for at each connection;
	// default those that the system had when the program started.
	Roots func() (*x509.CertPool, error)
	// UserAgent is sent along, as "Holdfast/202611220104"; default "Holdfast".
	UserAgent string
	// Limits bound what is accepted: MaxIndex is that of one answer, default 8 MiB, and
	// IndexTotal the time for it, default 1 min. The others are as in package release.
	Limits release.Limits
	// Connect replaces the connection; pin is nil for the system's certificates. Default
	// HTTPS, TLS 1.3, no proxy.
	Connect func(pin *x509.Certificate) Doer
	// Wait waits between two tries; default by the clock. It ends early with ctx's error.
	Wait func(ctx context.Context, d time.Duration) error
}

// Client asks one manager. It is safe for several goroutines.
type Client struct {
	base    *url.URL
	server  string
	token   string
	agent   string
	limits  release.Limits
	connect func(pin *x509.Certificate) Doer
	wait    func(context.Context, time.Duration) error

	mu      sync.Mutex
	pin     *x509.Certificate
	dropped bool
}

// localServer is what Membership calls the manager on the node itself.
const localServer = "local"

// New checks the options and connects to nothing.
func New(o Options) (*Client, error) {
	c := &Client{server: localServer, agent: o.UserAgent, limits: withDefaults(o.Limits), connect: o.Connect, wait: o.Wait}
	if c.agent == "" {
		c.agent = "Holdfast"
	}
	if c.wait == nil {
		c.wait = sleep
	}
	if c.connect == nil {
		c.connect = func(pin *x509.Certificate) Doer { return connect(o, c.base.Hostname(), pin) }
	}
	if o.Socket != "" {
		c.base = &url.URL{Scheme: "http", Host: "unix"}
		return c, nil
	}
	base, err := parseServer(o.ServerURL)
	if err != nil {
		return nil, fmt.Errorf("reading the URL of the Operations Center: %w", err)
	}
	if o.Token == "" || !printable(o.Token) {
		return nil, fmt.Errorf("reading the token for the Operations Center: it must be 1 to %d printable characters without spaces", maxToken)
	}
	c.base, c.server, c.token = base, base.String(), o.Token
	if o.Certificate != "" {
		if c.pin, err = parseCertificate(o.Certificate); err != nil {
			return nil, fmt.Errorf("reading the pinned certificate of the Operations Center: %w", err)
		}
	}
	return c, nil
}

// PinDropped is true once the pinned certificate did not hold, but the system's
// certificates vouched for the server and it answered. The caller then removes
// server_certificate from the configuration.
func (c *Client) PinDropped() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.dropped
}

func withDefaults(l release.Limits) release.Limits {
	fill(&l.MaxIndex, 8<<20)
	fill(&l.MaxExpanded, 4<<30)
	fill(&l.MaxRatio, 16)
	fill(&l.Header, 30*time.Second)
	fill(&l.Stall, 60*time.Second)
	fill(&l.IndexTotal, time.Minute)
	fill(&l.FileTotal, 6*time.Hour)
	return l
}

func fill[T int64 | time.Duration](field *T, value T) {
	if *field == 0 {
		*field = value
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Refusal is a manager's answer that says no. errors.As finds it.
type Refusal struct {
	// Code is as in HTTP, 400 and above.
	Code int
	// Text is the manager's, cut and without the token.
	Text string
}

func (r *Refusal) Error() string {
	return fmt.Sprintf("the Operations Center answers %d: %s", r.Code, r.Text)
}

// envelope is the shape of every answer but that with a file.
type envelope struct {
	Type       string          `json:"type"`
	StatusCode int             `json:"status_code"`
	Error      string          `json:"error"`
	ErrorCode  int             `json:"error_code"`
	Metadata   json.RawMessage `json:"metadata"`
}

// tries and pause are for questions that change nothing.
const (
	tries = 5
	pause = time.Second
)

// ask gets a document, several times if need be.
func (c *Client) ask(ctx context.Context, address *url.URL, out any) error {
	var err error
	for try := range tries {
		if try > 0 {
			if waited := c.wait(ctx, pause); waited != nil {
				return errors.Join(err, waited)
			}
		}
		if err = c.call(ctx, http.MethodGet, address, nil, out); err == nil || !passing(err) || ctx.Err() != nil {
			return err
		}
	}
	return err
}

// passing is true for what another try may cure.
func passing(err error) bool {
	var refusal *Refusal
	if errors.As(err, &refusal) {
		return refusal.Code >= 500
	}
	return !unverified(err) && !errors.Is(err, release.ErrRedirect) && !errors.Is(err, release.ErrLimit) && !errors.Is(err, release.ErrServer)
}

// call sends one request and reads its answer into out. Its errors hold no token.
func (c *Client) call(ctx context.Context, method string, address *url.URL, in, out any) error {
	var body []byte
	if in != nil {
		var err error
		if body, err = json.Marshal(in); err != nil {
			return fmt.Errorf("writing the request: %w", err)
		}
	}
	answer, err := c.send(ctx, method, address, body, c.limits.IndexTotal)
	if err != nil {
		return err
	}
	defer answer.Close()
	text, err := io.ReadAll(io.LimitReader(answer, c.limits.MaxIndex+1))
	if err != nil {
		return c.hide(err)
	}
	if int64(len(text)) > c.limits.MaxIndex {
		return fmt.Errorf("%w: an answer of more than %d bytes", release.ErrLimit, c.limits.MaxIndex)
	}
	if err := c.read(answer.response.StatusCode, text, out); err != nil {
		return err
	}
	answer.accept()
	return nil
}

// read takes an envelope apart.
func (c *Client) read(status int, text []byte, out any) error {
	var e envelope
	if err := json.Unmarshal(text, &e); err != nil {
		if status >= 500 {
			return &Refusal{Code: status, Text: http.StatusText(status)}
		}
		return fmt.Errorf("%w: the answer %d is not one of an Operations Center: check server_url", release.ErrServer, status)
	}
	if e.Type == "error" || status >= 400 {
		code := e.ErrorCode
		if code < 400 {
			code = max(status, 400)
		}
		return &Refusal{Code: code, Text: c.foreign(e.Error)}
	}
	if e.Type != "sync" || (e.StatusCode != http.StatusOK && e.StatusCode != http.StatusCreated) {
		return fmt.Errorf("%w: the answer is not one of an Operations Center: check server_url", release.ErrServer)
	}
	if out == nil {
		return nil
	}
	if len(e.Metadata) == 0 || string(e.Metadata) == "null" {
		return fmt.Errorf("%w: the answer has no content", release.ErrServer)
	}
	if err := json.Unmarshal(e.Metadata, out); err != nil {
		return fmt.Errorf("%w: the answer has another shape: %w", release.ErrServer, c.hide(err))
	}
	return nil
}

// send sends a request to the manager. When the pinned certificate does not hold, it is
// sent once more to a server that the system's certificates vouch for; before that the
// server has seen nothing of it.
func (c *Client) send(ctx context.Context, method string, address *url.URL, body []byte, total time.Duration) (*answer, error) {
	c.mu.Lock()
	pin := c.pin
	c.mu.Unlock()
	got, err := c.once(ctx, pin, method, address, body, total)
	if err == nil || pin == nil || !unverified(err) {
		return got, err
	}
	got, again := c.once(ctx, nil, method, address, body, total)
	if again != nil {
		return nil, fmt.Errorf("%w (and without the pin: %w): check server_certificate", err, again)
	}
	got.accepted = func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.pin, c.dropped = nil, true
	}
	return got, nil
}

func (c *Client) once(ctx context.Context, pin *x509.Certificate, method string, address *url.URL, body []byte, total time.Duration) (*answer, error) {
	a := newAnswer(ctx, c.limits, total)
	request, err := http.NewRequestWithContext(a.ctx, method, address.String(), bytes.NewReader(body))
	if err != nil {
		a.Close()
		return nil, c.hide(fmt.Errorf("making the request: %w", err))
	}
	request.Header.Set("User-Agent", c.agent)
	// Without this the transport unpacks by itself, and a sum would be of something else.
	request.Header.Set("Accept-Encoding", "identity")
	if body == nil {
		request.Body, request.GetBody, request.ContentLength = http.NoBody, nil, 0
	} else {
		request.Header.Set("Content-Type", "application/json")
	}
	response, err := c.connect(pin).Do(request)
	if err == nil && a.ctx.Err() != nil {
		// A server that notices the end of the connection may still answer something.
		a.response, err = response, a.ctx.Err()
	}
	if err != nil {
		err = c.hide(a.cause(err))
		a.Close()
		return nil, err
	}
	a.begin(response)
	return a, nil
}

// at gives the address of a call; segments are escaped one by one.
func (c *Client) at(segments ...string) *url.URL {
	for i, segment := range segments {
		segments[i] = url.PathEscape(segment)
	}
	return c.base.JoinPath(segments...)
}

// hide takes the token and the URL that it stands in out of an error of the network.
func (c *Client) hide(err error) error {
	var inURL *url.Error
	if errors.As(err, &inURL) {
		err = inURL.Err
	}
	if err == nil || c.token == "" || err.Error() == c.without(err.Error()) {
		return err
	}
	return &hidden{text: c.without(err.Error()), err: err}
}

// hidden is an error with another text. What it stands for can be asked for, not read.
type hidden struct {
	text string
	err  error
}

func (h *hidden) Error() string        { return h.text }
func (h *hidden) Is(target error) bool { return errors.Is(h.err, target) }
func (h *hidden) As(target any) bool   { return errors.As(h.err, target) }

func (c *Client) without(text string) string {
	if c.token == "" {
		return text
	}
	const gone = "(the token)"
	return strings.NewReplacer(c.token, gone, url.QueryEscape(c.token), gone, url.PathEscape(c.token), gone).Replace(text)
}

// maxForeign is how much of a manager's text is shown, in bytes.
const maxForeign = 500

// foreign makes a manager's text fit to be shown.
func (c *Client) foreign(text string) string {
	text = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(c.without(text), "?"))
	if len(text) > maxForeign {
		text = strings.ToValidUTF8(text[:maxForeign], "") + "..."
	}
	if strings.TrimSpace(text) == "" {
		return "it says no more"
	}
	return text
}
