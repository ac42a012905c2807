package operationscenter

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/holdfast-os/holdfast/internal/release"
)

// Doer sends one request. *http.Client is one; a Doer must follow no redirect.
type Doer interface {
	Do(request *http.Request) (*http.Response, error)
}

// connect makes the connection to the manager. pin is the certificate that the server
// must show or descend from; nil for the system's. It is for
// one request: a certificate that the primary application gets later is used by the next,
// and nothing stays open.
func connect(o Options, host string, pin *x509.Certificate) Doer {
	dialer := &net.Dialer{Timeout: 30 * time.Second}
	// Proxy is nil: the manager is reached directly, whatever the environment says.
	transport := &http.Transport{
		DialContext: dialer.DialContext, TLSHandshakeTimeout: 30 * time.Second, DisableKeepAlives: true,
		MaxResponseHeaderBytes: 64 << 10, TLSClientConfig: tlsConfig(o, host, pin),
	}
	if o.Socket != "" {
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, "unix", o.Socket)
		}
	}
	return &http.Client{Transport: transport, CheckRedirect: refuseRedirect}
}

func refuseRedirect(next *http.Request, _ []*http.Request) error {
	return fmt.Errorf("%w: it leads to %s://%s", release.ErrRedirect, next.URL.Scheme, next.URL.Host)
}

func tlsConfig(o Options, host string, pin *x509.Certificate) *tls.Config {
	config := &tls.Config{MinVersion: tls.VersionTLS13}
	// Verification is not skipped: it is done by verify, at each connection.
	config.InsecureSkipVerify = true
	config.VerifyConnection = func(state tls.ConnectionState) error { return verify(o, host, pin, state) }
	config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		if o.ClientCertificate == nil {
			return &tls.Certificate{}, nil
		}
		certificate, err := o.ClientCertificate()
		if err != nil {
			return nil, fmt.Errorf("reading the certificate of the primary application: %w", err)
		}
		if certificate == nil {
			return &tls.Certificate{}, nil
		}
		return certificate, nil
	}
	return config
}

// verify decides whether the other end is the manager. The pinned certificate itself is
// taken whatever its dates and names are: it is compared as a whole, and a node without a
// clock must reach its manager. What descends from the pin is verified like any other.
//
// host is that of the URL: state.ServerName is empty for an IP address, and an empty name
// would fit every certificate.
func verify(o Options, host string, pin *x509.Certificate, state tls.ConnectionState) error {
	if len(state.PeerCertificates) == 0 {
		return fmt.Errorf("%w: it showed none", ErrCertificate)
	}
	leaf := state.PeerCertificates[0]
	options := x509.VerifyOptions{DNSName: host, Intermediates: x509.NewCertPool()}
	for _, certificate := range state.PeerCertificates[1:] {
		options.Intermediates.AddCert(certificate)
	}
	if pin != nil {
		if leaf.Equal(pin) {
			return nil
		}
		options.Roots = x509.NewCertPool()
		options.Roots.AddCert(pin)
		if _, err := leaf.Verify(options); err != nil {
			return fmt.Errorf("%w: %w", ErrCertificate, err)
		}
		return nil
	}
	if o.Roots != nil {
		pool, err := o.Roots()
		if err != nil {
			return fmt.Errorf("reading the certificates that the node trusts: %w", err)
		}
		options.Roots = pool
	}
	if _, err := leaf.Verify(options); err != nil {
		return &tls.CertificateVerificationError{UnverifiedCertificates: state.PeerCertificates, Err: err}
	}
	return nil
}

// unverified is true for a connection that ended because of the server's certificate.
func unverified(err error) bool {
	var failed *tls.CertificateVerificationError
	return errors.Is(err, ErrCertificate) || errors.As(err, &failed)
}
