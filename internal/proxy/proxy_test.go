package proxy_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	api "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/proxy"
)

// upstream is a proxy that wants an authorization, and notes what it is asked for.
type upstream struct {
	*httptest.Server
	want string
	// forged answers every CONNECT when it is not empty.
	forged string
	mu     sync.Mutex
	asked  []string
}

func newUpstream(t *testing.T, want string, secure bool) *upstream {
	t.Helper()
	u := &upstream{want: want}
	u.Server = httptest.NewUnstartedServer(u)
	if secure {
		u.StartTLS()
	} else {
		u.Start()
	}
	t.Cleanup(u.Close)
	return u
}

func (u *upstream) address() string { return u.Listener.Addr().String() }

func (u *upstream) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	u.mu.Lock()
	u.asked = append(u.asked, r.Method+" "+r.RequestURI)
	u.mu.Unlock()
	if r.Header.Get("Proxy-Authorization") != u.want {
		w.Header().Set("Proxy-Authenticate", "Basic realm=x")
		http.Error(w, "who are you", http.StatusProxyAuthRequired)
		return
	}
	if r.Method != http.MethodConnect {
		_, _ = fmt.Fprintf(w, "through the upstream: %s, hop %q", r.RequestURI, r.Header.Get("X-Hop"))
		return
	}
	client, _, err := w.(http.Hijacker).Hijack()
	if err != nil {
		return
	}
	defer client.Close()
	if u.forged != "" {
		_, _ = io.WriteString(client, u.forged)
		return
	}
	target, err := net.Dial("tcp", r.RequestURI)
	if err != nil {
		return
	}
	defer target.Close()
	_, _ = io.WriteString(client, "HTTP/1.1 200 OK\r\n\r\n")
	done := make(chan struct{})
	go func() { _, _ = io.Copy(target, client); close(done) }()
	_, _ = io.Copy(client, target)
	<-done
}

// node is a proxy that serves, and the log that it writes.
type node struct {
	address string
	log     *bytes.Buffer
	stop    func() error
}

func serve(t *testing.T, document api.NetworkProxy, options proxy.Options) *node {
	t.Helper()
	data, err := json.Marshal(document)
	if err != nil {
		t.Fatal(err)
	}
	config, err := proxy.Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	n := &node{log: &bytes.Buffer{}}
	options.Log = slog.New(slog.NewTextHandler(n.log, nil))
	p, err := proxy.New(config, options)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n.address = listener.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- p.Serve(ctx, listener) }()
	n.stop = sync.OnceValue(func() error { cancel(); return <-ended })
	t.Cleanup(func() {
		if err := n.stop(); err != nil {
			t.Errorf("serving ended with %v", err)
		}
	})
	return n
}

// client asks through the node's proxy, and trusts the given test server.
func (n *node) client(t *testing.T, trusted *httptest.Server) *http.Client {
	t.Helper()
	transport := &http.Transport{Proxy: http.ProxyURL(&url.URL{Scheme: "http", Host: n.address})}
	if trusted != nil {
		transport.TLSClientConfig = trusted.Client().Transport.(*http.Transport).TLSClientConfig
	}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

func get(t *testing.T, client *http.Client, address string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, address, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Connection", "X-Hop")
	req.Header.Set("X-Hop", "private")
	req.Header.Set("Proxy-Authorization", "Basic Y2xpZW50")
	resp, err := client.Do(req)
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%d %s", resp.StatusCode, strings.TrimSpace(string(body)))
}

func site(t *testing.T, secure bool) *httptest.Server {
	t.Helper()
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprintf(w, "the site itself, proxy authorization %q", r.Header.Get("Proxy-Authorization"))
	})
	s := httptest.NewUnstartedServer(handler)
	if secure {
		s.StartTLS()
	} else {
		s.Start()
	}
	t.Cleanup(s.Close)
	return s
}

func roots(s *httptest.Server) *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(s.Certificate())
	return pool
}

const basic = "Basic dXNlcjpodW50ZXIy" // user:hunter2

func corp(u *upstream) map[string]api.NetworkProxyServer {
	return map[string]api.NetworkProxyServer{"corp": {Auth: "basic", Host: u.address(), Username: "user", Password: "hunter2"}}
}

// Programs that know nothing of the company's proxy get through it.
func TestProxy_ServerWithPassword_AuthorizesRequestsAndTunnels(t *testing.T) {
	for _, secure := range []bool{false, true} {
		u, s := newUpstream(t, basic, secure), site(t, true)
		servers := corp(u)
		options := proxy.Options{}
		if secure {
			server := servers["corp"]
			server.Host = "https://" + server.Host
			servers["corp"] = server
			options.Roots = roots(u.Server)
		}
		n := serve(t, api.NetworkProxy{Servers: servers}, options)
		c := n.client(t, s)
		got := []string{get(t, c, "http://example.invalid/a?b"), get(t, c, s.URL)}
		want := []string{`200 through the upstream: http://example.invalid/a?b, hop ""`, `200 the site itself, proxy authorization "Basic Y2xpZW50"`}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("TLS %v: %s", secure, diff)
		}
		asked := []string{"GET http://example.invalid/a?b", "CONNECT " + s.Listener.Addr().String()}
		if diff := cmp.Diff(asked, u.asked); diff != "" {
			t.Errorf("TLS %v: %s", secure, diff)
		}
	}
}

// A proxy that anybody could stand in for must not get the password.
func TestProxy_ServerWithForeignCertificate_IsNotTalkedTo(t *testing.T) {
	u := newUpstream(t, basic, true)
	u.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	server := corp(u)["corp"]
	server.UseTLS = true
	n := serve(t, api.NetworkProxy{Servers: map[string]api.NetworkProxyServer{"corp": server}}, proxy.Options{})
	c := n.client(t, nil)
	got := get(t, c, "http://example.invalid/")
	if want := "502 holdfast-proxy: asking the proxy server corp: proxyconnect tcp: tls: failed to verify certificate: x509: certificate signed by unknown authority"; got != want {
		t.Errorf("got %s", got)
	}
	got = get(t, c, "https://example.invalid/")
	if !strings.Contains(got, "Bad Gateway") || len(u.asked) != 0 {
		t.Errorf("got %s, asked %v", got, u.asked)
	}
}

// The owner who mistyped the password is told so, and nobody else learns it.
func TestProxy_WrongPassword_IsSaidWithoutThePassword(t *testing.T) {
	u := newUpstream(t, "Basic other", false)
	n := serve(t, api.NetworkProxy{Servers: corp(u)}, proxy.Options{})
	c := n.client(t, nil)
	got := []string{get(t, c, "http://example.invalid/"), connect(t, n, "example.invalid:443")}
	const hint = "(407 Proxy Authentication Required); look at its auth, username and password"
	want := []string{
		"502 holdfast-proxy: the proxy server corp does not take the credentials for it " + hint,
		"502 reaching example.invalid:443 through the proxy server corp: it does not take the credentials for it " + hint,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if err := n.stop(); err != nil {
		t.Fatal(err)
	}
	if text := n.log.String(); strings.Contains(text, "hunter2") || strings.Contains(text, "dXNlcjpodW50ZXIy") {
		t.Errorf("the log holds the password: %s", text)
	}
}

// connect asks for a tunnel by hand, and gives status and text of the answer.
func connect(t *testing.T, n *node, target string) string {
	t.Helper()
	conn, err := net.Dial("tcp", n.address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := fmt.Fprintf(conn, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", target, target); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%d %s", resp.StatusCode, strings.TrimSpace(string(body)))
}

// The first rule decides, and a host that no rule speaks of goes nowhere.
func TestProxy_Rules_FirstMatchDecides(t *testing.T) {
	u, s := newUpstream(t, basic, false), site(t, false)
	n := serve(t, api.NetworkProxy{Servers: corp(u), Rules: []api.NetworkProxyRule{
		{Destination: "*.secret.example|Secret.Example", Target: "none"},
		{Destination: "127.0.0.*|::1", Target: "direct"},
		{Destination: "*.example", Target: "corp"},
	}}, proxy.Options{})
	c := n.client(t, nil)
	got := map[string]string{}
	for _, address := range []string{"http://SECRET.example./", "http://a.b.secret.example:81/", "http://notsecret.example/", s.URL, "http://elsewhere.test/"} {
		got[strings.Replace(address, s.URL, "site", 1)] = get(t, c, address)
	}
	for _, target := range []string{"www.secret.example:443", "elsewhere.test:443"} {
		got[target] = connect(t, n, target)
	}
	const refused = `403 holdfast-proxy: the rule proxy.rules[0] (destination "*.secret.example|Secret.Example") of the network configuration refuses `
	const unknown = "403 holdfast-proxy: no rule under proxy.rules of the network configuration speaks of elsewhere.test"
	want := map[string]string{
		"http://SECRET.example./":       refused + "SECRET.example.",
		"http://a.b.secret.example:81/": refused + "a.b.secret.example",
		"http://notsecret.example/":     `200 through the upstream: http://notsecret.example/, hop ""`,
		"site":                          `200 the site itself, proxy authorization ""`,
		"http://elsewhere.test/":        unknown,
		"www.secret.example:443":        refused + "www.secret.example",
		"elsewhere.test:443":            unknown,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// Without anything configured the proxy is no obstacle.
func TestProxy_NothingConfigured_GoesDirectly(t *testing.T) {
	s, plain := site(t, true), site(t, false)
	n := serve(t, api.NetworkProxy{}, proxy.Options{})
	c := n.client(t, s)
	const want = `200 the site itself, proxy authorization ""`
	if got := get(t, c, plain.URL); got != want {
		t.Errorf("got %s", got)
	}
	if got := get(t, c, s.URL); !strings.HasPrefix(got, "200 the site itself") {
		t.Errorf("got %s", got)
	}
}

// tickets stands for a Kerberos client.
type tickets struct {
	err   error
	mu    sync.Mutex
	count int
}

func (k *tickets) Authorization(context.Context) (string, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.count++
	return "Negotiate dG9rZW4=", k.err
}

// A proxy of a Windows domain wants a ticket, of its own name, with each request.
func TestProxy_Kerberos_SendsATokenForTheServer(t *testing.T) {
	u, s := newUpstream(t, "Negotiate dG9rZW4=", false), site(t, true)
	k := &tickets{}
	var asked []string
	n := serve(t, api.NetworkProxy{Servers: map[string]api.NetworkProxyServer{
		"ad": {Auth: "kerberos", Host: u.address(), Username: "node1", Password: "hunter2", Realm: "EXAMPLE.ORG"},
	}}, proxy.Options{Kerberos: func(user, realm, password, host string) (proxy.Authorizer, error) {
		asked = append(asked, user, realm, password, host)
		return k, nil
	}})
	c := n.client(t, s)
	got := append(asked, get(t, c, "http://example.invalid/"), get(t, c, s.URL)[:3])
	want := []string{"node1", "EXAMPLE.ORG", "hunter2", "127.0.0.1", `200 through the upstream: http://example.invalid/, hop ""`, "200"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	k.mu.Lock()
	k.err = errors.New("the KDC is away")
	k.mu.Unlock()
	if got, want := get(t, c, "http://example.invalid/"), "502 holdfast-proxy: authorizing to the proxy server ad: the KDC is away"; got != want {
		t.Errorf("got %s", got)
	}
}

// What a destination says first, as an SSH server does, must not be lost.
func TestProxy_DestinationThatSpeaksFirst_IsHeard(t *testing.T) {
	u := newUpstream(t, basic, false)
	u.forged = "HTTP/1.1 200 OK\r\n\r\nSSH-2.0-test\r\n"
	n := serve(t, api.NetworkProxy{Servers: corp(u)}, proxy.Options{})
	if got := connect(t, n, "git.example:22"); got != "200 SSH-2.0-test" {
		t.Errorf("got %s", got)
	}
}

// A hostile upstream proxy must not fill the memory or hang the client.
func TestProxy_UpstreamWithEndlessHeader_IsCutOff(t *testing.T) {
	u := newUpstream(t, basic, false)
	u.forged = "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 100<<10) + "\r\n\r\n"
	n := serve(t, api.NetworkProxy{Servers: corp(u)}, proxy.Options{})
	want := "502 reaching git.example:22 through the proxy server corp: reading its answer of at most 65536 bytes: unexpected EOF"
	if got := connect(t, n, "git.example:22"); got != want {
		t.Errorf("got %s", got)
	}
}

// An upstream proxy that takes the connection and says nothing must not hold the
// client for ever.
func TestProxy_SilentUpstream_EndsInTime(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	n := serve(t, api.NetworkProxy{Servers: map[string]api.NetworkProxyServer{"corp": {Auth: "anonymous", Host: listener.Addr().String()}}},
		proxy.Options{DialTimeout: 50 * time.Millisecond})
	if got := connect(t, n, "git.example:22"); !strings.HasPrefix(got, "502 reaching git.example:22 through the proxy server corp: ") {
		t.Errorf("got %s", got)
	}
}

// A tunnel that both ends forgot gives its place back.
func TestProxy_SilentTunnel_IsClosed(t *testing.T) {
	n, conn := openTunnel(t, proxy.Options{IdleTimeout: 50 * time.Millisecond, MaxConnections: 1})
	if _, err := io.ReadAll(conn); err != nil {
		t.Errorf("the tunnel ended with %v", err)
	}
	// The only place is free again.
	if got := connect(t, n, "127.0.0.1:1"); !strings.HasPrefix(got, "502 ") {
		t.Errorf("got %s", got)
	}
}

// A restart of the service must not wait for tunnels.
func TestProxy_End_CutsTunnels(t *testing.T) {
	n, conn := openTunnel(t, proxy.Options{})
	if err := n.stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(conn); err != nil && !errors.Is(err, net.ErrClosed) && !strings.Contains(err.Error(), "reset") {
		t.Errorf("the tunnel ended with %v", err)
	}
}

// openTunnel opens a tunnel to a listener that says nothing.
func openTunnel(t *testing.T, options proxy.Options) (*node, io.Reader) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	n := serve(t, api.NetworkProxy{}, options)
	conn, err := net.Dial("tcp", n.address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	target := listener.Addr().String()
	if _, err := fmt.Fprintf(conn, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", target, target); err != nil {
		t.Fatal(err)
	}
	reader := bufio.NewReader(conn)
	resp, err := http.ReadResponse(reader, &http.Request{Method: http.MethodConnect})
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("got %v, %v", resp, err)
	}
	if err := resp.Body.Close(); err != nil {
		t.Fatal(err)
	}
	return n, reader
}

// Somebody who opens it in a browser is told what it is.
func TestProxy_RequestForItself_SaysWhatItIs(t *testing.T) {
	n := serve(t, api.NetworkProxy{}, proxy.Options{})
	if got := get(t, &http.Client{}, "http://"+n.address+"/"); got != "400 this is a proxy: ask with a whole URL, or with CONNECT" {
		t.Errorf("got %s", got)
	}
}
