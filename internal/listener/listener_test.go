package listener_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/internal/listener"
)

// newCertificate makes a certificate that signs itself.
func newCertificate(t *testing.T, name string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func pemOf(c tls.Certificate) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate[0]}))
}

// world is a server that answers with what the handler saw.
type world struct {
	server   *listener.Server
	identity tls.Certificate // the server's
	friend   tls.Certificate // the one client that is trusted
	trusted  atomic.Pointer[[]listener.Fingerprint]
}

func newWorld(t *testing.T, change func(*listener.Options)) *world {
	t.Helper()
	w := &world{identity: newCertificate(t, "node"), friend: newCertificate(t, "friend")}
	// The friend is neither first nor last.
	w.trust(newCertificate(t, "other"), w.friend, newCertificate(t, "another"))
	options := listener.Options{
		Handler: http.HandlerFunc(func(out http.ResponseWriter, r *http.Request) {
			fmt.Fprintf(out, "%s %s raw=%q proxy=%q caller=%s", r.Proto, r.URL.Path, r.URL.RawPath, r.Header.Values("X-IncusOS-Proxy"), listener.Caller(r))
			for name := range r.Header {
				if strings.Contains(name, "_") {
					fmt.Fprintf(out, " %s", name)
				}
			}
		}),
		Certificate: func() (*tls.Certificate, error) { return &w.identity, nil },
		Trusted:     func() []listener.Fingerprint { return *w.trusted.Load() },
	}
	if change != nil {
		change(&options)
	}
	server, err := listener.Listen("127.0.0.1:0", options)
	if err != nil {
		t.Fatal(err)
	}
	w.server = server
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := server.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	return w
}

func (w *world) trust(all ...tls.Certificate) {
	var prints []listener.Fingerprint
	for _, one := range all {
		prints = append(prints, sha256.Sum256(one.Certificate[0]))
	}
	w.trusted.Store(&prints)
}

// client is one with the given certificates that knows the server's.
func (w *world) client(t *testing.T, h2 bool, own ...tls.Certificate) *http.Client {
	t.Helper()
	roots := x509.NewCertPool()
	certificate, err := x509.ParseCertificate(w.identity.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	roots.AddCert(certificate)
	transport := &http.Transport{ForceAttemptHTTP2: h2, TLSClientConfig: &tls.Config{RootCAs: roots, Certificates: own}}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 20 * time.Second}
}

type answer struct {
	Code int
	Text string
}

func (w *world) get(t *testing.T, client *http.Client, path string, header http.Header) answer {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+w.server.Addr().String()+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, values := range header {
		request.Header[name] = values
	}
	response, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{response.StatusCode, string(body)}
}

func (w *world) caller() string {
	sum := sha256.Sum256(w.friend.Certificate[0])
	return hex.EncodeToString(sum[:])
}

// Clients of both protocol versions reach the API, with and without the prefix that
// Incus uses, and cannot say who they are or how they came.
func TestServer_TrustedClient_ReachesTheHandlerAsItself(t *testing.T) {
	w := newWorld(t, nil)
	forged := http.Header{"X-IncusOS-Proxy": {"/evil"}, "X-Incusos-Proxy": {""}, "X_incusos_proxy": {"x"}}
	for _, test := range []struct {
		name, path string
		h2         bool
		header     http.Header
		want       string
	}{
		{"HTTP/1.1", "/1.0/system", false, nil, `HTTP/1.1 /1.0/system raw="" proxy=["/os"]`},
		{"HTTP/2", "/1.0/system", true, nil, `HTTP/2.0 /1.0/system raw="" proxy=["/os"]`},
		{"prefix", "/os/1.0/system", true, nil, `HTTP/2.0 /1.0/system raw="" proxy=["/os"]`},
		{"prefix alone", "/os", true, nil, `HTTP/2.0 / raw="" proxy=["/os"]`},
		{"prefix once", "/os/os/1.0", true, nil, `HTTP/2.0 /os/1.0 raw="" proxy=["/os"]`},
		{"no prefix", "/osx/1.0", true, nil, `HTTP/2.0 /osx/1.0 raw="" proxy=["/os"]`},
		{"escaped", "/os/1.0/a%2Fb", true, nil, `HTTP/2.0 /1.0/a/b raw="/1.0/a%2Fb" proxy=["/os"]`},
		{"forged headers", "/os/internal/x", false, forged, `HTTP/1.1 /internal/x raw="" proxy=["/os"]`},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := w.get(t, w.client(t, test.h2, w.friend), test.path, test.header)
			if diff := cmp.Diff(answer{200, test.want + " caller=" + w.caller()}, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// Nobody else gets in, with or without a certificate; not even with the trusted one and
// another key, which the handshake refuses.
func TestServer_Stranger_IsForbidden(t *testing.T) {
	w := newWorld(t, nil)
	for name, own := range map[string][]tls.Certificate{"no certificate": nil, "another certificate": {newCertificate(t, "friend")}} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(answer{403, "Forbidden\n"}, w.get(t, w.client(t, true, own...), "/1.0", nil)); diff != "" {
				t.Error(diff)
			}
		})
	}
	stolen := tls.Certificate{Certificate: w.friend.Certificate, PrivateKey: newCertificate(t, "thief").PrivateKey}
	response, err := w.client(t, true, stolen).Get("https://" + w.server.Addr().String() + "/1.0")
	if err == nil {
		defer response.Body.Close()
		t.Errorf("a certificate without its key was answered with %d", response.StatusCode)
	}
}

// Who is taken off the list is out at once, on the connection that is open too.
func TestServer_ClientNoLongerTrusted_IsForbiddenAtOnce(t *testing.T) {
	w := newWorld(t, nil)
	client := w.client(t, true, w.friend)
	before := w.get(t, client, "/1.0", nil).Code
	w.trust()
	if diff := cmp.Diff([]int{200, 403}, []int{before, w.get(t, client, "/1.0", nil).Code}); diff != "" {
		t.Error(diff)
	}
}

func TestServer_TLS12_IsRefused(t *testing.T) {
	w := newWorld(t, nil)
	conn, err := tls.Dial("tcp", w.server.Addr().String(), &tls.Config{MaxVersion: tls.VersionTLS12, InsecureSkipVerify: true, Certificates: []tls.Certificate{w.friend}})
	if err == nil {
		conn.Close()
		t.Fatal("TLS 1.2 was accepted")
	}
	if want := "remote error: tls: protocol version not supported"; err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

// A person who forgets the s of https is told.
func TestServer_PlainHTTP_IsToldToUpgrade(t *testing.T) {
	w := newWorld(t, nil)
	response, err := http.Post("http://"+w.server.Addr().String()+"/1.0", "text/plain", strings.NewReader(strings.Repeat("x", 20000)))
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(answer{426, "Upgrade Required\n"}, answer{response.StatusCode, string(body)}); diff != "" {
		t.Error(diff)
	}
}

func TestServer_HugeHeader_IsRefused(t *testing.T) {
	w := newWorld(t, nil)
	got := w.get(t, w.client(t, false, w.friend), "/1.0", http.Header{"X-Large": {strings.Repeat("x", 64<<10)}})
	if got.Code != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("got %d", got.Code)
	}
}

// A stranger who holds many connections open keeps nobody out for longer than the limit.
func TestServer_ManyConnections_OneTooManyIsClosedAndPlaceIsFreeAgain(t *testing.T) {
	w := newWorld(t, func(o *listener.Options) { o.Connections, o.Timeout = 2, time.Minute })
	var held []net.Conn
	for range 2 {
		conn, err := net.Dial("tcp", w.server.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := conn.Write([]byte{0x16}); err != nil {
			t.Fatal(err)
		}
		held = append(held, conn)
	}
	third, err := net.Dial("tcp", w.server.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer third.Close()
	if err := third.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	_, err = third.Read(make([]byte, 1))
	if timeout, ok := err.(net.Error); err == nil || ok && timeout.Timeout() {
		t.Fatalf("a connection too many is open: %v", err)
	}
	for _, conn := range held {
		conn.Close()
	}
	for deadline := time.Now().Add(10 * time.Second); ; {
		response, err := w.client(t, false, w.friend).Get("https://" + w.server.Addr().String() + "/1.0")
		if err == nil {
			response.Body.Close()
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

// A client that says nothing is let go.
func TestServer_SilentClient_IsClosed(t *testing.T) {
	w := newWorld(t, func(o *listener.Options) { o.Timeout = 50 * time.Millisecond })
	for name, first := range map[string]string{"nothing": "", "half a handshake": "\x16\x03", "half a request": "GET / HT"} {
		t.Run(name, func(t *testing.T) {
			conn, err := net.Dial("tcp", w.server.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if _, err := io.WriteString(conn, first); err != nil {
				t.Fatal(err)
			}
			if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
				t.Fatal(err)
			}
			_, err = io.ReadAll(conn)
			if timeout, ok := err.(net.Error); ok && timeout.Timeout() {
				t.Error("the connection is still open")
			}
		})
	}
}

func TestListen_AddressInUse_IsAnError(t *testing.T) {
	w := newWorld(t, nil)
	_, err := listener.Listen(w.server.Addr().String(), listener.Options{Handler: http.NotFoundHandler(),
		Certificate: func() (*tls.Certificate, error) { return &w.identity, nil }, Trusted: func() []listener.Fingerprint { return nil }})
	if err == nil {
		t.Fatal("a second listener at the same address")
	}
}

// Outside this server there is no caller.
func TestCaller_RequestFromElsewhere_IsEmpty(t *testing.T) {
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := listener.Caller(r); got != "" {
		t.Errorf("got %q", got)
	}
}
