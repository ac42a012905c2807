package release

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"syscall"
	"time"
)

// maxRedirects is how often a server may point to another of its own addresses.
const maxRedirects = 5

// newClient gives a client with this package's rule for redirects.
func newClient(o Options) *http.Client {
	client := &http.Client{}
	if o.HTTPClient != nil {
		*client = *o.HTTPClient
	} else {
		proxy := o.Proxy
		if proxy == nil {
			proxy = http.ProxyFromEnvironment
		}
		dialer := &net.Dialer{Timeout: 30 * time.Second, Control: checkDial}
		client.Transport = &http.Transport{
			Proxy: proxy, DialContext: dialer.DialContext, ForceAttemptHTTP2: true,
			TLSHandshakeTimeout: 30 * time.Second, IdleConnTimeout: 90 * time.Second,
			MaxResponseHeaderBytes: 64 << 10, TLSClientConfig: tlsConfig(o.Roots, hostOf(o.ServerURL)),
		}
	}
	client.CheckRedirect = checkRedirect
	return client
}

// tlsConfig trusts what roots gives at the time of each connection. Go itself reads the
// system's certificates once, and would not see those that an owner adds later.
func tlsConfig(roots func() (*x509.CertPool, error), host string) *tls.Config {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if roots == nil {
		return config
	}
	// Verification is not skipped: it is done below, in the same way, with other roots.
	config.InsecureSkipVerify = true
	config.VerifyConnection = func(state tls.ConnectionState) error {
		pool, err := roots()
		if err != nil {
			return fmt.Errorf("reading the certificates that the node trusts: %w", err)
		}
		// The state has no name when the URL has an address; redirects stay on the host.
		options := x509.VerifyOptions{DNSName: cmp.Or(state.ServerName, host), Roots: pool, Intermediates: x509.NewCertPool()}
		for _, certificate := range state.PeerCertificates[1:] {
			options.Intermediates.AddCert(certificate)
		}
		_, err = state.PeerCertificates[0].Verify(options)
		return err
	}
	return config
}

// hostOf is the host that a server's certificate must be for.
func hostOf(server string) string {
	base, err := url.Parse(server)
	if err != nil {
		return "" // NewSource has refused it
	}
	return base.Hostname()
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

// get begins a download. The body fails when no byte comes for a while or when all
// of it takes too long; closing it ends everything.
func (s *Source) get(ctx context.Context, address *url.URL, total time.Duration) (*body, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	b := &body{ctx: ctx, cancel: cancel, stall: s.limits.Stall}
	b.timer = time.AfterFunc(s.limits.Header, func() {
		cancel(fmt.Errorf("%w: no answer within %s", ErrLimit, s.limits.Header))
	})
	b.total = time.AfterFunc(total, func() {
		cancel(fmt.Errorf("%w: it takes longer than %s", ErrLimit, total))
	})
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address.String(), nil)
	if err != nil {
		b.Close()
		return nil, fmt.Errorf("making the request: %w", err)
	}
	request.Header.Set("User-Agent", s.userAgent)
	// Without this the transport unpacks by itself, and the sum would be of something else.
	request.Header.Set("Accept-Encoding", "identity")
	response, err := s.client.Do(request)
	if err != nil {
		err = b.cause(err)
		b.Close()
		return nil, err
	}
	b.response = response
	if response.StatusCode != http.StatusOK {
		b.Close()
		return nil, fmt.Errorf("%w: it answers %s", ErrServer, response.Status)
	}
	b.timer.Stop()
	b.timer = time.AfterFunc(b.stall, func() {
		cancel(fmt.Errorf("%w: no byte for %s", ErrLimit, b.stall))
	})
	return b, nil
}

// body is a download under way.
type body struct {
	ctx      context.Context
	cancel   context.CancelCauseFunc
	response *http.Response
	stall    time.Duration
	timer    *time.Timer
	total    *time.Timer
}

func (b *body) Read(p []byte) (int, error) {
	n, err := b.response.Body.Read(p)
	if n > 0 {
		b.timer.Reset(b.stall)
	}
	if err != nil && err != io.EOF {
		err = b.cause(err)
	}
	return n, err
}

// Close ends the download. Its error would say nothing about what was read.
func (b *body) Close() {
	b.timer.Stop()
	b.total.Stop()
	b.cancel(context.Canceled)
	if b.response != nil {
		_ = b.response.Body.Close()
	}
}

// cause names the limit that was hit, where the transport only says "canceled".
func (b *body) cause(err error) error {
	if b.ctx.Err() != nil {
		return context.Cause(b.ctx)
	}
	return err
}

func readAtMost(r io.Reader, limit int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("%w: more than %d bytes", ErrLimit, limit)
	}
	return data, nil
}
