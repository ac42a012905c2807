// Package proxy is the forward proxy of the node: it listens on the loopback address
// alone, and sends what the node's programs ask for to the upstream proxies that the
// owner configured, by rules over the destination's host.
//
// Parties: programs on the node, which know nothing but http://127.0.0.1:3128;
// upstream proxies, which want to know who asks (nobody, a user with a password, or a
// Kerberos principal) and are reached with or without TLS; and the daemon, which
// writes the configuration and restarts the service when it changes.
//
// What always holds: the first rule that matches decides, by the host as it was
// written in the request: nothing is resolved to decide. "none" is answered with 403
// and the rule's place, and so is a host that no rule speaks of; without any rule all
// goes to the first server by name, or directly when there is none. What a client says
// about its own authorization to the proxy goes no further, and passwords are in no
// log, error or answer. TLS between a client and its destination is passed on
// unopened. TLS to an upstream proxy is checked against the roots of the system.
//
// What can fail: an upstream proxy that is away, or does not want the credentials, is
// answered with 502 and what it said; a KDC that is away likewise. Nothing is retried
// here, programs do. Connections, header sizes and times are limited, see Options.
package proxy

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/elazarl/goproxy"
)

// Options are the limits and the surroundings of a proxy. Zero values mean the
// defaults.
type Options struct {
	// Log gets warnings; default: nothing is logged.
	Log *slog.Logger
	// Roots are the authorities for upstream proxies with TLS; default the system's.
	Roots *x509.CertPool
	// Kerberos makes what authorizes to a proxy with the auth "kerberos". Default: the
	// KDCs of the realm are found over DNS.
	Kerberos func(user, realm, password, host string) (Authorizer, error)
	// MaxConnections is how many clients are served at once; more wait. Default 512.
	MaxConnections int
	// MaxHeader is the size of a request's or answer's header, in bytes. Default 64 KiB.
	MaxHeader int
	// DialTimeout is how long reaching a destination or an upstream proxy may take,
	// with all that has to be said to it. Default 30 s.
	DialTimeout time.Duration
	// IdleTimeout is how long a tunnel may be silent. Default 1 h.
	IdleTimeout time.Duration
}

func (o Options) withDefaults() Options {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Kerberos == nil {
		o.Kerberos = kerberosOverDNS
	}
	o.MaxConnections = orDefault(o.MaxConnections, 512)
	o.MaxHeader = orDefault(o.MaxHeader, 64<<10)
	o.DialTimeout = orDefault(o.DialTimeout, 30*time.Second)
	o.IdleTimeout = orDefault(o.IdleTimeout, time.Hour)
	return o
}

func orDefault[T int | time.Duration](value, fallback T) T {
	if value > 0 {
		return value
	}
	return fallback
}

// Proxy forwards requests. It is an http.Handler; Serve puts it on a listener with
// its limits.
type Proxy struct {
	config  Config
	options Options
	direct  *http.Transport
	servers map[string]*upstream
	handler *goproxy.ProxyHttpServer
}

// upstream is a server with what is needed to talk to it.
type upstream struct {
	server
	authorizer Authorizer
	tlsConfig  *tls.Config
	transport  *http.Transport
}

// New makes a proxy. A Kerberos principal is not logged in before the first request
// that needs it: the KDC may be away when the node starts.
func New(config Config, options Options) (*Proxy, error) {
	options = options.withDefaults()
	p := &Proxy{config: config, options: options, direct: newTransport(options), servers: map[string]*upstream{}}
	for name, s := range config.servers {
		authorizer, err := newAuthorizer(s, options)
		if err != nil {
			return nil, fmt.Errorf("preparing the proxy server %s: %w", name, err)
		}
		u := &upstream{
			server: s, authorizer: authorizer,
			tlsConfig: &tls.Config{ServerName: s.host, RootCAs: options.Roots, MinVersion: tls.VersionTLS12},
			transport: newTransport(options),
		}
		scheme := "http"
		if s.tls {
			scheme = "https"
		}
		u.transport.Proxy = http.ProxyURL(&url.URL{Scheme: scheme, Host: s.address})
		u.transport.TLSClientConfig = u.tlsConfig
		p.servers[name] = u
	}
	p.handler = p.newHandler()
	return p, nil
}

// newTransport is for requests that are not tunnelled. What the client asked for goes
// on as it is: nothing is decompressed, no proxy is taken from the environment.
func newTransport(o Options) *http.Transport {
	return &http.Transport{
		DialContext:            (&net.Dialer{Timeout: o.DialTimeout}).DialContext,
		TLSHandshakeTimeout:    o.DialTimeout,
		IdleConnTimeout:        90 * time.Second,
		MaxIdleConns:           64,
		MaxResponseHeaderBytes: int64(o.MaxHeader),
		DisableCompression:     true,
	}
}

func (p *Proxy) newHandler() *goproxy.ProxyHttpServer {
	h := goproxy.NewProxyHttpServer()
	// Both would otherwise be taken from the environment, and the transport would
	// check no certificate.
	h.ConnectDial, h.Tr = nil, p.direct
	h.Logger = warnings{p.options.Log}
	h.KeepAcceptEncoding = true
	h.NonproxyHandler = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "this is a proxy: ask with a whole URL, or with CONNECT", http.StatusBadRequest)
	})
	h.OnRequest().HandleConnectFunc(func(host string, ctx *goproxy.ProxyCtx) (*goproxy.ConnectAction, string) {
		name := hostOnly(host)
		r := p.config.find(name)
		if r.target == targetNone {
			ctx.Resp = refusal(ctx.Req, r, name)
			ctx.Resp.Header.Set("Connection", "close")
			return goproxy.RejectConnect, host
		}
		return goproxy.OkConnect, host
	})
	h.ConnectDialWithReq = func(req *http.Request, network, address string) (net.Conn, error) {
		return p.dialTunnel(req.Context(), network, address)
	}
	h.OnRequest().DoFunc(p.onRequest)
	h.OnResponse().DoFunc(func(resp *http.Response, ctx *goproxy.ProxyCtx) *http.Response {
		if resp != nil {
			return resp
		}
		text := "the destination did not answer"
		if ctx.Error != nil {
			text = ctx.Error.Error()
		}
		return answer(ctx.Req, http.StatusBadGateway, text)
	})
	return h
}

// onRequest sends a request that is not a tunnel on its way, or refuses it.
func (p *Proxy) onRequest(req *http.Request, ctx *goproxy.ProxyCtx) (*http.Request, *http.Response) {
	name := req.URL.Hostname()
	r := p.config.find(name)
	if r.target == targetNone {
		return req, refusal(req, r, name)
	}
	dropHopHeaders(req.Header)
	to := p.servers[r.target]
	ctx.RoundTripper = goproxy.RoundTripperFunc(func(req *http.Request, _ *goproxy.ProxyCtx) (*http.Response, error) {
		if to == nil {
			return p.direct.RoundTrip(req)
		}
		return to.roundTrip(req)
	})
	return req, nil
}

// roundTrip asks an upstream proxy.
func (u *upstream) roundTrip(req *http.Request) (*http.Response, error) {
	header, err := u.authorizer.Authorization(req.Context())
	if err != nil {
		return nil, fmt.Errorf("authorizing to the proxy server %s: %w", u.name, err)
	}
	if header != "" {
		req.Header.Set("Proxy-Authorization", header)
	}
	resp, err := u.transport.RoundTrip(req)
	if err != nil {
		return nil, fmt.Errorf("asking the proxy server %s: %w", u.name, err)
	}
	if resp.StatusCode == http.StatusProxyAuthRequired {
		// The client has no credentials to give, and must not be asked for any.
		if err := resp.Body.Close(); err != nil {
			return nil, fmt.Errorf("asking the proxy server %s: %w", u.name, err)
		}
		return nil, fmt.Errorf("the proxy server %s does not take the credentials for it (%s); look at its auth, username and password", u.name, resp.Status)
	}
	return resp, nil
}

// dropHopHeaders removes what is between the client and this proxy alone. An upgrade
// to a web socket needs its Connection header.
func dropHopHeaders(header http.Header) {
	upgrade := false
	for _, line := range header.Values("Connection") {
		for token := range strings.SplitSeq(line, ",") {
			token = strings.TrimSpace(token)
			if strings.EqualFold(token, "upgrade") {
				upgrade = true
			} else if token != "" {
				header.Del(token)
			}
		}
	}
	for _, name := range []string{"Keep-Alive", "Proxy-Connection", "Proxy-Authorization", "Proxy-Authenticate"} {
		header.Del(name)
	}
	if !upgrade {
		header.Del("Upgrade")
		header.Del("Connection")
	}
}

func refusal(req *http.Request, r rule, host string) *http.Response {
	if r.number == noRule {
		return answer(req, http.StatusForbidden, "no rule under proxy.rules of the network configuration speaks of "+host)
	}
	return answer(req, http.StatusForbidden, fmt.Sprintf(
		"the rule proxy.rules[%d] (destination %q) of the network configuration refuses %s", r.number, r.text, host))
}

func answer(req *http.Request, status int, text string) *http.Response {
	return goproxy.NewResponse(req, goproxy.ContentTypeText, status, "holdfast-proxy: "+text+"\n")
}

// hostOnly is a host without its port.
func hostOnly(address string) string {
	if host, _, err := net.SplitHostPort(address); err == nil {
		return host
	}
	return address
}

// warnings takes what goproxy has to say, which is hosts and errors.
type warnings struct{ log *slog.Logger }

func (w warnings) Printf(format string, v ...any) {
	w.log.Warn(strings.TrimSpace(fmt.Sprintf(format, v...)))
}
