// Package listener is the HTTPS end of the node's API: the fallback listener of a node
// whose primary application does not run, and the end that a simulated node has.
//
// The parties: a client with a certificate, this server, and the http.Handler behind it,
// which is the same one that the unix socket has. Where the server's certificate comes
// from and whom it trusts is the caller's matter (Options).
//
// What always holds:
//
//   - No request reaches the handler unless its client has proved to own a certificate
//     whose SHA-256 is trusted at that moment. All trusted ones are compared, in
//     constant time.
//   - The handler sees the header X-IncusOS-Proxy with "/os" and nothing that the client
//     sent in its place, so internal routes stay closed.
//   - Caller names the client by a value in the request's context. Nobody outside can
//     set one.
//   - TLS is 1.3 at least. On the same port, a request without TLS is told to come back
//     with it.
//
// What can fail: the address may be taken or not there; the certificate may be missing,
// which fails each handshake; strangers may open connections, so there are limits for
// all of them and for each address.
package listener

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

// Limits of the server.
const (
	// DefaultConnections is how many connections there may be at once.
	DefaultConnections = 512
	// maxPerAddress is how many of them one address may have.
	maxPerAddress = 64
	// maxHeader is the size of a request's header, in bytes.
	maxHeader = 32 << 10
	// maxStreams is how many requests one HTTP/2 connection may have at once.
	maxStreams = 50
	// greetTimeout is how long a client may take for its first byte, for the handshake,
	// and for the header of a request.
	greetTimeout = 10 * time.Second
	// idleTimeout closes a connection without a request.
	idleTimeout = 2 * time.Minute
)

// proxyHeader tells the handler that a request came from outside, and below which path.
const (
	proxyHeader = "X-IncusOS-Proxy"
	proxyPath   = "/os"
)

// Fingerprint is the SHA-256 of a certificate in DER form.
type Fingerprint [sha256.Size]byte

func (f Fingerprint) String() string { return hex.EncodeToString(f[:]) }

// Options say what a server serves, and to whom.
type Options struct {
	// Handler answers the requests of trusted clients.
	Handler http.Handler
	// Certificate is the server's; it is asked for at each handshake.
	Certificate func() (*tls.Certificate, error)
	// Trusted are the clients that are let in; it is asked for at each request, so that a
	// change holds at once.
	Trusted func() []Fingerprint
	// Log takes what goes wrong with a connection; default nothing.
	Log *slog.Logger
	// Connections is how many connections there may be at once; default
	// DefaultConnections.
	Connections int
	// Timeout is how long a client may take for its first byte, for the handshake, and
	// for a header; default 10 seconds.
	Timeout time.Duration
}

// Server is a running server; Listen makes one.
type Server struct {
	options Options
	http    http.Server
	front   *front
	done    chan struct{}
	err     error
	once    sync.Once
}

// Listen begins to serve at an address, as "192.0.2.10:8443"; with ":0" the kernel
// chooses a port. It returns when the address is open.
func Listen(address string, options Options) (*Server, error) {
	if options.Handler == nil || options.Certificate == nil || options.Trusted == nil {
		return nil, errors.New("serving the API over HTTPS: handler, certificate and trusted clients are needed")
	}
	if options.Log == nil {
		options.Log = slog.New(slog.DiscardHandler)
	}
	if options.Connections == 0 {
		options.Connections = DefaultConnections
	}
	if options.Timeout == 0 {
		options.Timeout = greetTimeout
	}
	base, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("serving the API over HTTPS at %s: %w", address, err)
	}
	s := &Server{options: options, front: newFront(base, options), done: make(chan struct{})}
	s.http = http.Server{
		Handler:           http.HandlerFunc(s.serve),
		TLSConfig:         s.tlsConfig(),
		ReadHeaderTimeout: options.Timeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: maxStreams},
		ErrorLog:          slog.NewLogLogger(options.Log.Handler(), slog.LevelDebug),
	}
	go func() {
		defer close(s.done)
		if err := s.http.ServeTLS(s.front, "", ""); !errors.Is(err, http.ErrServerClosed) {
			s.err = fmt.Errorf("serving the API over HTTPS at %s: %w", address, err)
		}
	}()
	return s, nil
}

// Addr is the address with the port that it listens at.
func (s *Server) Addr() net.Addr { return s.front.Addr() }

// Done is closed when the server has ended; Err then says why, nil after Close.
func (s *Server) Done() <-chan struct{} { return s.done }

// Err is why the server ended by itself; it is valid once Done is closed.
func (s *Server) Err() error { return s.err }

// Close ends the server: it waits for the requests that run until ctx ends, then cuts
// them off. It is safe to call it twice.
func (s *Server) Close(ctx context.Context) error {
	err := s.http.Shutdown(ctx)
	if err != nil {
		err = errors.Join(err, s.http.Close())
	}
	s.once.Do(func() { err = errors.Join(err, s.front.end()) })
	<-s.done
	if err != nil {
		return fmt.Errorf("ending the API over HTTPS: %w", err)
	}
	return nil
}

func (s *Server) tlsConfig() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		NextProtos: []string{"h2", "http/1.1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return s.options.Certificate()
		},
		// The client proves that it has the key; who it is is decided for each request.
		ClientAuth:             tls.RequestClientCert,
		SessionTicketsDisabled: true,
	}
}

type callerKey struct{}

// Caller is the SHA-256 fingerprint of the client's certificate, hexadecimal, for a
// request that came through this server; empty for any other.
func Caller(r *http.Request) string {
	caller, _ := r.Context().Value(callerKey{}).(string)
	return caller
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	caller, ok := trusted(r.TLS, s.options.Trusted())
	if !ok {
		s.options.Log.Warn("a request over HTTPS was refused", "from", r.RemoteAddr, "fingerprint", caller)
		http.Error(w, http.StatusText(http.StatusForbidden), http.StatusForbidden)
		return
	}
	inner := r.Clone(context.WithValue(r.Context(), callerKey{}, caller))
	// A name that a later reader could take for this header goes as well.
	for name := range inner.Header {
		if strings.EqualFold(strings.ReplaceAll(name, "_", "-"), proxyHeader) {
			delete(inner.Header, name)
		}
	}
	inner.Header.Set(proxyHeader, proxyPath)
	inner.URL.Path, inner.URL.RawPath = withoutPrefix(inner.URL.Path), withoutPrefix(inner.URL.RawPath)
	s.options.Handler.ServeHTTP(w, inner)
}

// trusted gives the client's fingerprint, empty without a certificate, and whether it is
// let in.
func trusted(state *tls.ConnectionState, all []Fingerprint) (string, bool) {
	if state == nil || len(state.PeerCertificates) == 0 {
		return "", false
	}
	got, found := Fingerprint(sha256.Sum256(state.PeerCertificates[0].Raw)), 0
	for _, one := range all {
		found |= subtle.ConstantTimeCompare(got[:], one[:])
	}
	return got.String(), found == 1
}

// withoutPrefix removes one "/os" from the front of a path.
func withoutPrefix(path string) string {
	rest, ok := strings.CutPrefix(path, proxyPath)
	switch {
	case ok && rest == "":
		return "/"
	case ok && strings.HasPrefix(rest, "/"):
		return rest
	}
	return path
}
