package imageauth

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// Doer sends one request; *http.Client is one.
type Doer interface {
	Do(request *http.Request) (*http.Response, error)
}

// Header carries a proof.
const Header = "X-IncusOS-Authentication"

// Mode is the way in which a proof travels.
type Mode int

const (
	// ByHeader puts it into Header; the default.
	ByHeader Mode = iota
	// ByQuery puts it into the URL, for servers behind something that drops headers. URLs
	// get into the logs of servers and proxies.
	ByQuery
)

// registration is what a node says to be known.
type registration struct {
	MachineID string `json:"machine_id"`
	Token     string `json:"token"`
	PublicKey string `json:"public_key"`
	Initial   string `json:"initial"`
}

// Limits of the registration.
const (
	registerTime = time.Minute
	maxReason    = 500
)

// Errors of Register.
var (
	// ErrRefused: the image server does not take the node. The text has its reason.
	ErrRefused = errors.New("the image server refuses the registration")
	// ErrAnswer: the server answers something else.
	ErrAnswer = errors.New("the server does not answer like an image server")
)

// Register makes the node's key known to the image server at base (its URL, as in
// server_url). token is the owner's. One try. The caller remembers that it went well, and
// uses an http.Client that follows no redirect to another host.
func (a *Authenticator) Register(ctx context.Context, doer Doer, base, token string, mode Mode) error {
	request, err := a.registerRequest(base, token, mode)
	if err != nil {
		return fmt.Errorf("registering at the image server: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, registerTime)
	defer cancel()
	response, err := doer.Do(request.WithContext(ctx))
	if err != nil {
		// The error of an http.Client has the URL in it, and that the token.
		var inURL *url.Error
		if errors.As(err, &inURL) {
			err = inURL.Err
		}
		return fmt.Errorf("registering at the image server %s: %w", request.URL.Host, err)
	}
	text, err := io.ReadAll(io.LimitReader(response.Body, maxReason))
	err = errors.Join(err, response.Body.Close())
	switch {
	case response.StatusCode == http.StatusOK:
		return nil
	case response.StatusCode != http.StatusBadRequest:
		return fmt.Errorf("registering at the image server %s: %w: %d", request.URL.Host, ErrAnswer, response.StatusCode)
	case err != nil:
		return fmt.Errorf("registering at the image server %s: %w", request.URL.Host, err)
	}
	return fmt.Errorf("registering at the image server %s: %w: %s", request.URL.Host, ErrRefused, reason(string(text), token))
}

// reason makes a server's words fit to be shown.
func reason(text, token string) string {
	if token != "" {
		text = strings.ReplaceAll(text, token, "(the token)")
	}
	text = strings.TrimSpace(strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, "?")))
	if text == "" {
		return "it says no more"
	}
	return text
}

func (a *Authenticator) registerRequest(base, token string, mode Mode) (*http.Request, error) {
	address, err := url.Parse(base)
	if err != nil || address.Host == "" || (address.Scheme != "https" && address.Scheme != "http") || address.User != nil || address.RawQuery != "" {
		return nil, errors.New("the server's URL is not one of a release tree, as \"https://releases.example.org/os\"")
	}
	initial, err := a.Proof()
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(registration{MachineID: a.machineID, Token: token, PublicKey: a.publicKey, Initial: initial})
	if err != nil {
		return nil, fmt.Errorf("writing the registration: %w", err)
	}
	address = address.JoinPath("register")
	if mode == ByHeader {
		request, err := http.NewRequest(http.MethodPost, address.String(), bytes.NewReader(text))
		if err != nil {
			return nil, errors.New("making the request")
		}
		request.Header.Set("Content-Type", "application/json")
		return request, nil
	}
	// The UUID keeps a cache in between from answering.
	once, err := a.uuid()
	if err != nil {
		return nil, err
	}
	address = address.JoinPath(once)
	address.RawQuery = url.Values{"token": {base64.RawURLEncoding.EncodeToString(text)}}.Encode()
	request, err := http.NewRequest(http.MethodGet, address.String(), nil)
	if err != nil {
		return nil, errors.New("making the request")
	}
	return request, nil
}

// uuid makes a random one, version 4.
func (a *Authenticator) uuid() (string, error) {
	b := make([]byte, 16)
	if _, err := io.ReadFull(a.random, b); err != nil {
		return "", fmt.Errorf("making a UUID: %w", err)
	}
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:]), nil
}

// Authorize adds a new proof to each request for one server, and leaves those for others as
// they are: after a redirect, a proof must not be handed to somebody else. server is the base
// URL of the image server, as in server_url.
func (a *Authenticator) Authorize(server *url.URL, mode Mode) func(*http.Request) error {
	return func(request *http.Request) error {
		if request.URL.Scheme != server.Scheme || request.URL.Host != server.Host {
			return nil
		}
		proof, err := a.Proof()
		if err != nil {
			return err
		}
		if mode == ByHeader {
			request.Header.Set(Header, proof)
			return nil
		}
		query := request.URL.Query()
		query.Set("token", proof)
		request.URL.RawQuery = query.Encode()
		return nil
	}
}
