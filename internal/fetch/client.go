package fetch

import (
	"context"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"syscall"
	"time"
)

// maxRedirects is how often a server may point to another of its own addresses.
const maxRedirects = 5

// newClient gives a client with this package's rules.
func newClient(o Options, clock Clock) *http.Client {
	proxy := o.Proxy
	if proxy == nil && o.Peer == nil {
		proxy = http.ProxyFromEnvironment
	}
	dial := o.Dial
	if dial == nil {
		dial = (&net.Dialer{Timeout: 30 * time.Second, Control: checkDial}).DialContext
	}
	transport := &http.Transport{
		Proxy: proxy, DialContext: dial, ForceAttemptHTTP2: true, DisableCompression: true,
		TLSHandshakeTimeout: 30 * time.Second, IdleConnTimeout: 90 * time.Second,
		MaxResponseHeaderBytes: 64 << 10, TLSClientConfig: tlsConfig(o, clock),
		OnProxyConnectResponse: func(_ context.Context, _ *url.URL, _ *http.Request, response *http.Response) error {
			if response.StatusCode == http.StatusOK {
				return nil
			}
			return fmt.Errorf("%w: it answers %d %s: look at the proxy's rules and password (on a node: config.proxy of /1.0/system/network)",
				ErrProxy, response.StatusCode, http.StatusText(response.StatusCode))
		},
	}
	return &http.Client{Transport: transport, CheckRedirect: func(next *http.Request, via []*http.Request) error {
		if err := checkRedirect(next, via); err != nil || o.Authorize == nil {
			return err
		}
		return o.Authorize(next)
	}}
}

// tlsConfig trusts what the roots give at the time of each connection: Go itself reads the
// system's certificates once, and would not see those that an owner adds later.
func tlsConfig(o Options, clock Clock) *tls.Config {
	config := &tls.Config{MinVersion: tls.VersionTLS12, Time: clock.Now}
	var pin *x509.Certificate
	if o.Peer != nil {
		config.MinVersion = tls.VersionTLS13
		pin = o.Peer.Pin
		if show := o.Peer.Certificate; show != nil {
			config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return show() }
		}
	}
	if pin == nil && o.Roots == nil {
		return config
	}
	// Verification is not skipped: it is done below, against the pin or in Go's way with
	// other roots.
	config.InsecureSkipVerify = true
	config.VerifyConnection = func(state tls.ConnectionState) error {
		if pin != nil {
			if subtle.ConstantTimeCompare(state.PeerCertificates[0].Raw, pin.Raw) != 1 {
				return fmt.Errorf("%w: it is not the one that was pinned: if the server has a new one, pin that", ErrCertificate)
			}
			return nil
		}
		pool, err := o.Roots()
		if err != nil {
			return fmt.Errorf("reading the certificates that the node trusts: %w", err)
		}
		options := x509.VerifyOptions{
			DNSName: state.ServerName, Roots: pool, Intermediates: x509.NewCertPool(), CurrentTime: clock.Now()}
		for _, certificate := range state.PeerCertificates[1:] {
			options.Intermediates.AddCert(certificate)
		}
		if state.ServerName == "" {
			return verifyAddress(state.PeerCertificates[0], options, o.Mirrors)
		}
		_, err = state.PeerCertificates[0].Verify(options)
		return err
	}
	return config
}

// verifyAddress is for a server whose URL has an address: no name is sent then, and an
// empty one would fit every certificate. It must be for one of the addresses given.
func verifyAddress(leaf *x509.Certificate, options x509.VerifyOptions, mirrors []string) error {
	failed := fmt.Errorf("%w: it has no name to be compared with", ErrCertificate)
	for _, mirror := range mirrors {
		base, err := url.Parse(mirror)
		if err != nil || net.ParseIP(base.Hostname()) == nil {
			continue
		}
		options.DNSName = base.Hostname()
		if _, failed = leaf.Verify(options); failed == nil {
			return nil
		}
	}
	return failed
}

// checkRedirect lets a server move a file on itself, and nothing more: a redirect
// to another host is how a node is made to knock at doors of its own network.
func checkRedirect(next *http.Request, via []*http.Request) error {
	first := via[0].URL
	if next.URL.Scheme != first.Scheme || next.URL.Host != first.Host {
		return fmt.Errorf("%w: it leads to %s://%s", ErrRedirect, next.URL.Scheme, next.URL.Host)
	}
	if len(via) > maxRedirects {
		return fmt.Errorf("%w: more than %d in a row", ErrRedirect, maxRedirects)
	}
	return nil
}

// checkDial sees the address after the name was resolved.
func checkDial(_, address string, _ syscall.RawConn) error {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("connecting to %s: %w", address, err)
	}
	return checkHost(host)
}

// checkHost refuses link-local addresses, where clouds keep the secrets of a
// machine. A name passes: checkDial looks at what it stands for.
func checkHost(host string) error {
	address, err := netip.ParseAddr(host)
	if err != nil {
		return nil
	}
	address = address.Unmap()
	if address.IsLinkLocalUnicast() || address.IsMulticast() || address.IsUnspecified() {
		return fmt.Errorf("%w: %s", ErrAddress, address)
	}
	return nil
}

// explain says what to look at. The URL that Go puts into its errors stays out, since a
// token may be in it.
func explain(err error) error {
	var request *url.Error
	if errors.As(err, &request) {
		err = request.Err
	}
	for _, known := range []error{ErrRedirect, ErrAddress, ErrSlow, ErrProxy, ErrCertificate} {
		if errors.Is(err, known) {
			return err
		}
	}
	var operation *net.OpError
	isOperation := errors.As(err, &operation)
	if isOperation && operation.Op == "proxyconnect" {
		return fmt.Errorf("%w (%w): look at the proxy's address and whether it runs (on a node: config.proxy of /1.0/system/network)", ErrProxy, err)
	}
	var name *net.DNSError
	if errors.As(err, &name) {
		return fmt.Errorf("%w (%w): look at the DNS servers (on a node: config.dns of /1.0/system/network)", ErrName, err)
	}
	var authority x509.UnknownAuthorityError
	var invalid x509.CertificateInvalidError
	var host x509.HostnameError
	var verification *tls.CertificateVerificationError
	var header tls.RecordHeaderError
	switch {
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return fmt.Errorf("%w (%w): look at the clock (on a node: config.time of /1.0/system/network), else the server needs a new one", ErrCertificate, err)
	case errors.As(err, &authority):
		return fmt.Errorf("%w (%w): add the authority that signed it (on a node: config.custom_ca_certs of /1.0/system/security)", ErrCertificate, err)
	case errors.As(err, &invalid), errors.As(err, &host), errors.As(err, &verification):
		return fmt.Errorf("%w (%w): the server needs another one, or another name is meant", ErrCertificate, err)
	case isOperation && operation.Op == "remote error":
		return fmt.Errorf("%w (%w): the server refuses the node's TLS version or certificate: look at the server's log", ErrConnect, err)
	case errors.As(err, &header), errors.Is(err, http.ErrSchemeMismatch):
		return fmt.Errorf("%w (%w): the server speaks no TLS at this port: look at the server's URL", ErrConnect, err)
	case isOperation && operation.Op == "dial":
		return fmt.Errorf("%w (%w): look at the server's address, the routes and the firewall", ErrConnect, err)
	}
	return err
}
