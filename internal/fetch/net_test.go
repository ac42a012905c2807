package fetch_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-os/holdfast/api/release"
	"github.com/holdfast-os/holdfast/internal/fetch"
)

// world is a network in memory. Inside synctest.Test its time is that of the bubble: it
// passes when everybody waits, and no test takes longer than its work.
type world struct {
	t     *testing.T
	mu    sync.Mutex
	hosts map[string]*listener
	// fault is what dialing gives while it is set.
	fault error
	dials int
}

func newWorld(t *testing.T) *world {
	return &world{t: t, hosts: map[string]*listener{}}
}

// serve starts a server under a host name, and gives its base URL and what it has sent.
func (w *world) serve(host string, handler http.Handler) (string, *atomic.Int64) {
	sent := &atomic.Int64{}
	l := &listener{host: host + ":80", conns: make(chan net.Conn), closed: make(chan struct{})}
	server := &httptest.Server{Listener: l, Config: &http.Server{Handler: counted(handler, sent)}}
	server.Start()
	w.t.Cleanup(server.Close)
	w.mu.Lock()
	w.hosts[l.host] = l
	w.mu.Unlock()
	return "http://" + host + "/tree", sent
}

func (w *world) dial(ctx context.Context, _, address string) (net.Conn, error) {
	w.mu.Lock()
	l, fault := w.hosts[address], w.fault
	w.dials++
	w.mu.Unlock()
	if fault != nil {
		return nil, fault
	}
	if l == nil {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: fmt.Errorf("nobody listens at %s", address)}
	}
	near, far := net.Pipe()
	select {
	case l.conns <- far:
		return near, nil
	case <-l.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (w *world) setFault(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.fault = err
}

// listener is a server's end of the network.
type listener struct {
	host   string
	conns  chan net.Conn
	once   sync.Once
	closed chan struct{}
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *listener) Close() error   { l.once.Do(func() { close(l.closed) }); return nil }
func (l *listener) Addr() net.Addr { return name(l.host) }

type name string

func (n name) Network() string { return "tcp" }
func (n name) String() string  { return string(n) }

// counted counts the bytes of bodies that a handler sends.
func counted(h http.Handler, sent *atomic.Int64) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.ServeHTTP(&countedWriter{w, sent}, r)
	})
}

type countedWriter struct {
	http.ResponseWriter
	sent *atomic.Int64
}

func (w *countedWriter) Write(p []byte) (int, error) {
	n, err := w.ResponseWriter.Write(p)
	w.sent.Add(int64(n))
	return n, err
}

func (w *countedWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// downloader makes one on the world's network, with a reproducible jitter.
func (w *world) downloader(o fetch.Options) *fetch.Downloader {
	w.t.Helper()
	o.Dial = w.dial
	if o.Proxy == nil && o.Peer == nil {
		o.Proxy = direct
	}
	o.Rand = rand.New(rand.NewPCG(1, 2)).Int64N
	d, err := fetch.New(o)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(d.Close)
	return d
}

// content is n bytes that do not repeat.
func content(seed byte, n int) []byte {
	data := make([]byte, n)
	if _, err := rand.NewChaCha8([32]byte{seed}).Read(data); err != nil {
		panic(err)
	}
	return data
}

func blobOf(data []byte) release.Blob {
	sum := sha256.Sum256(data)
	return release.Blob{Path: "202611220104/x86_64/usr.raw.gz", Size: int64(len(data)), SHA256: hex.EncodeToString(sum[:])}
}

// good serves the same bytes under every path, with ranges and a strong tag.
func good(data []byte) http.Handler { return tagged(data, `"v1"`) }

func tagged(data []byte, etag string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if etag != "" {
			w.Header().Set("ETag", etag)
		}
		w.Header().Set("Content-Type", "application/octet-stream")
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
	})
}

// cutting ends every connection after n bytes of the body.
func cutting(h http.Handler, n int64) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.ServeHTTP(&cutWriter{ResponseWriter: w, left: n}, r)
	})
}

type cutWriter struct {
	http.ResponseWriter
	left int64
}

func (w *cutWriter) Write(p []byte) (int, error) {
	if int64(len(p)) < w.left {
		w.left -= int64(len(p))
		return w.ResponseWriter.Write(p)
	}
	_, _ = w.ResponseWriter.Write(p[:w.left])
	_ = http.NewResponseController(w.ResponseWriter).Flush()
	panic(http.ErrAbortHandler)
}

// whole serves without ranges.
func whole(data []byte) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(len(data)))
		_, _ = w.Write(data)
	})
}

func rangeOf(r *http.Request) string { return strings.TrimPrefix(r.Header.Get("Range"), "bytes=") }
