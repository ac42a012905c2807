// Package client talks to the REST API of a node.
//
// There are two ways to a node. Over HTTPS the API lies behind the node's primary
// application under /os, and a client certificate says who is asking. Over the unix
// socket on the node itself there is no prefix and no certificate. A Client hides
// the difference: its paths always begin with /1.0.
//
// The server is checked in one of two ways: against one known certificate, byte for
// byte, or against the roots of this computer. There is no way to leave the check out.
//
// Answers are bounded (MaxResponse) and redirects are refused. There is no time limit
// beside the caller's context, since some requests download hundreds of MiB before they answer;
// connecting alone is limited.
//
// A node that does not know a plan or a confirmation would take a request for one as an
// order. So Plan, and Change with a time to confirm, first look whether it does.
//
// The package imports api, the standard library, and the one library that speaks
// websocket.
package client

import (
	"context"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"
)

// MaxResponse is the longest answer that is read, in bytes. A longer one is an error.
const MaxResponse = 64 << 20

// maxPEM bounds certificate and key files, in bytes.
const maxPEM = 1 << 20

// Names of the environment variables that OptionsFromEnv reads.
const (
	EnvEndpoint   = "HOLDFAST_ENDPOINT"
	EnvCert       = "HOLDFAST_CERT"
	EnvKey        = "HOLDFAST_KEY"
	EnvServerCert = "HOLDFAST_SERVER_CERT"
)

// ErrServerCertificate is the cause when the server showed another certificate than
// the pinned one: another node, a reinstalled one, or somebody in between.
var ErrServerCertificate = errors.New("the server's certificate is not the one that is trusted for it")

// ErrNoEndpoint is the answer of New when no node was named.
var ErrNoEndpoint = errors.New("no node was named")

// Options say which node to talk to, and how to trust each other.
type Options struct {
	// Endpoint is "https://HOST[:PORT]" (default port 8443), or the path of a unix
	// socket, with or without "unix://" before it. No default.
	Endpoint string
	// CertFile and KeyFile are PEM files of the client certificate. Both or none;
	// not used on a unix socket.
	CertFile string
	KeyFile  string
	// ServerCertFile is a PEM file with the one certificate that the server must show.
	// Default: the roots of this computer decide.
	ServerCertFile string
	// UserAgent is sent with each request; default "holdfast".
	UserAgent string
}

// OptionsFromEnv reads the four HOLDFAST_ variables by getenv, which is os.Getenv
// for a program. Variables that are not set leave their option empty.
func OptionsFromEnv(getenv func(string) string) Options {
	return Options{
		Endpoint:       getenv(EnvEndpoint),
		CertFile:       getenv(EnvCert),
		KeyFile:        getenv(EnvKey),
		ServerCertFile: getenv(EnvServerCert),
	}
}

// Client sends requests to one node. It may be used from several goroutines.
type Client struct {
	http      *http.Client
	base      string // scheme, host and prefix, without a slash at the end
	endpoint  string // the same for people
	userAgent string
}

// New makes a Client. It reads the certificate files and opens no connection.
func New(o Options) (*Client, error) {
	c := &Client{userAgent: o.UserAgent}
	if c.userAgent == "" {
		c.userAgent = "holdfast"
	}
	transport := &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		TLSHandshakeTimeout: time.Minute,
		IdleConnTimeout:     time.Minute,
		ForceAttemptHTTP2:   true,
	}
	dialer := &net.Dialer{Timeout: 15 * time.Second}
	transport.DialContext = dialer.DialContext
	if socket, ok := socketPath(o.Endpoint); ok {
		transport.Proxy = nil
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, "unix", socket)
		}
		c.base, c.endpoint = "http://node", "unix://"+socket
	} else {
		base, err := httpsBase(o.Endpoint)
		if err != nil {
			return nil, err
		}
		config, err := tlsConfig(o)
		if err != nil {
			return nil, err
		}
		transport.TLSClientConfig = config
		c.base, c.endpoint = base+"/os", base+"/os"
	}
	c.http = &http.Client{Transport: transport, CheckRedirect: refuseRedirect}
	return c, nil
}

// Close lets go of idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

func refuseRedirect(r *http.Request, _ []*http.Request) error {
	return fmt.Errorf("the server wants to send the request on to %s, which a node never does", r.URL.Redacted())
}

func socketPath(endpoint string) (string, bool) {
	path, found := strings.CutPrefix(endpoint, "unix://")
	return path, found || strings.HasPrefix(endpoint, "/")
}

// httpsBase checks an endpoint and gives scheme, host and port.
func httpsBase(endpoint string) (string, error) {
	if endpoint == "" {
		return "", ErrNoEndpoint
	}
	u, err := url.Parse(endpoint)
	if err != nil || u.Scheme != "https" || u.Hostname() == "" || u.User != nil ||
		strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
		return "", fmt.Errorf("endpoint %q: want https://HOST:PORT or unix:///PATH", endpoint)
	}
	port := u.Port()
	if port == "" {
		port = "8443"
	}
	return "https://" + net.JoinHostPort(u.Hostname(), port), nil
}

func tlsConfig(o Options) (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS13}
	if (o.CertFile == "") != (o.KeyFile == "") {
		return nil, errors.New("client certificate and key belong together, only one of them was given")
	}
	if o.CertFile != "" {
		pair, err := keyPair(o.CertFile, o.KeyFile)
		if err != nil {
			return nil, err
		}
		// The certificate is shown whatever list of issuers the server sends: nodes
		// know single certificates and no issuers.
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return &pair, nil
		}
	}
	if o.ServerCertFile != "" {
		want, err := readCertificate(o.ServerCertFile)
		if err != nil {
			return nil, err
		}
		pin(config, want)
	}
	return config, nil
}

// pin makes config accept exactly one certificate, by its bytes. Names and dates play
// no part: the certificate of a node is self-signed and its address may change.
func pin(config *tls.Config, want *x509.Certificate) {
	config.InsecureSkipVerify = true // replaced by VerifyConnection, which also runs on resumed sessions
	config.VerifyConnection = func(state tls.ConnectionState) error {
		if len(state.PeerCertificates) == 0 ||
			subtle.ConstantTimeCompare(state.PeerCertificates[0].Raw, want.Raw) != 1 {
			return ErrServerCertificate
		}
		return nil
	}
}

func keyPair(certFile, keyFile string) (tls.Certificate, error) {
	cert, err := readLimited(certFile)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("reading client certificate: %w", err)
	}
	key, err := readLimited(keyFile)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("reading client key: %w", err)
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("client certificate %s with key %s: %w", certFile, keyFile, err)
	}
	return pair, nil
}

func readCertificate(file string) (*x509.Certificate, error) {
	data, err := readLimited(file)
	if err != nil {
		return nil, fmt.Errorf("reading server certificate: %w", err)
	}
	block, _ := pem.Decode(data)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, fmt.Errorf("server certificate %s: not a PEM certificate", file)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("server certificate %s: %w", file, err)
	}
	return cert, nil
}

func readLimited(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxPEM+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxPEM {
		return nil, fmt.Errorf("%s is longer than %d bytes", file, maxPEM)
	}
	return data, nil
}
