package event_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/google/go-cmp/cmp"

	osapi "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/event"
)

// patience is how long a test waits before it gives up.
const patience = 60 * time.Second

// node serves a hub on a unix socket, as the daemon does, and says when each listener
// went and why.
type node struct {
	hub    *event.Hub
	client *http.Client // its connections go to the socket
	ended  chan error
}

func newNode(t *testing.T, o event.Options) *node {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	n := &node{hub: newHub(o), ended: make(chan error, 2000)}
	server := &http.Server{ReadHeaderTimeout: patience, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n.ended <- event.Serve(w, r, n.hub)
	})}
	go server.Serve(listener)
	t.Cleanup(func() { server.Close() })
	n.client = &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}}}
	return n
}

func dial(t *testing.T, url string, client *http.Client) *websocket.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	conn, _, err := websocket.Dial(ctx, url, &websocket.DialOptions{HTTPClient: client})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.CloseNow() })
	return conn
}

// next gives the number in the next event.
func next(t *testing.T, conn *websocket.Conn) int {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	kind, text, err := conn.Read(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var e osapi.Event
	strictly(t, string(text), &e)
	var n int
	if err := json.Unmarshal(e.Metadata, &n); err != nil || kind != websocket.MessageText {
		t.Fatalf("%s: %v", text, err)
	}
	return n
}

// The way of a local tool.
func TestServe_UnixSocket_SendsTheTypesAskedFor(t *testing.T) {
	n := newNode(t, event.Options{})
	conn := dial(t, "ws://node/1.0/events?type=operation,lifecycle", n.client)
	for i, kind := range []string{"logging", "operation", "logging", "lifecycle"} {
		publish(t, n.hub, kind, i)
	}
	if got := [2]int{next(t, conn), next(t, conn)}; got != [2]int{1, 3} {
		t.Errorf("got %v", got)
	}
	if err := conn.Close(websocket.StatusNormalClosure, ""); err != nil {
		t.Error(err)
	}
	if err := <-n.ended; err != nil {
		t.Errorf("the listener went by itself: %v", err)
	}
	if l := n.hub.Listeners(); l != 0 {
		t.Errorf("%d places are taken", l)
	}
}

// proxy is what Incus does with /os/.
func proxy(t *testing.T, n *node) *httptest.Server {
	t.Helper()
	//lint:ignore SA1019 this is what Incus does, and it keeps the Host of the caller
	p := &httputil.ReverseProxy{Transport: n.client.Transport, Director: func(r *http.Request) {
		r.URL.Scheme, r.URL.Host = "http", "incus-os"
	}}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Header.Add("X-IncusOS-Proxy", "/os")
		http.StripPrefix("/os", p).ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	return server
}

// The way of an administrator: through Incus.
func TestServe_ThroughIncusProxy_SendsEvents(t *testing.T) {
	n := newNode(t, event.Options{})
	server := proxy(t, n)
	url := "ws" + strings.TrimPrefix(server.URL, "http") + "/os/1.0/events"
	conn := dial(t, url, nil)
	for i := range 1000 {
		publish(t, n.hub, "logging", i)
		if got := next(t, conn); got != i {
			t.Fatalf("got %d, want %d", got, i)
		}
	}
	conn.CloseNow()
	<-n.ended

	// A page of another site, in the browser of an administrator with a certificate.
	_, response, err := websocket.Dial(t.Context(), url, &websocket.DialOptions{HTTPHeader: http.Header{"Origin": {"https://evil.example"}}})
	if err == nil || response.StatusCode != http.StatusForbidden {
		t.Errorf("another origin: %v, %v", response, err)
	}
	own := dialFrom(t, url, server.URL)
	publish(t, n.hub, "logging", 7)
	if got := next(t, own); got != 7 {
		t.Errorf("its own origin: got %d", got)
	}
}

func dialFrom(t *testing.T, url, origin string) *websocket.Conn {
	t.Helper()
	conn, _, err := websocket.Dial(t.Context(), url, &websocket.DialOptions{HTTPHeader: http.Header{"Origin": {origin}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.CloseNow() })
	return conn
}

func TestServe_WrongRequests_AreAnsweredInTheEnvelope(t *testing.T) {
	n := newNode(t, event.Options{MaxListeners: 1})
	dial(t, "ws://node/1.0/events", n.client)
	cases := map[string]struct {
		query   string
		upgrade bool
		code    int
		text    string
	}{
		"no websocket": {"", false, 400, "events are sent on a websocket: ask with Upgrade: websocket"},
		"unknown type": {"?type=operation,metrics", true, 400, `unknown type of event: "metrics", known are ["logging" "operation" "lifecycle"]`},
		"many types":   {"?type=" + strings.Repeat("x,", 1000), true, 400, `unknown type of event: "x", known are ["logging" "operation" "lifecycle"]`},
		"too many":     {"", true, 503, "too many listeners: the limit is 1, close one of them"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			request, err := http.NewRequestWithContext(t.Context(), "GET", "http://node/1.0/events"+c.query, nil)
			if err != nil {
				t.Fatal(err)
			}
			if c.upgrade {
				request.Header.Set("Connection", "Upgrade")
				request.Header.Set("Upgrade", "websocket")
			}
			response, err := n.client.Do(request)
			if err != nil {
				t.Fatal(err)
			}
			defer response.Body.Close()
			text, err := io.ReadAll(response.Body)
			if err != nil {
				t.Fatal(err)
			}
			var got osapi.Response
			strictly(t, string(text), &got)
			want := osapi.Response{Type: "error", ErrorCode: c.code, Error: c.text, Metadata: json.RawMessage("null")}
			if diff := cmp.Diff(want, got); diff != "" || response.StatusCode != c.code {
				t.Errorf("code %d, %s", response.StatusCode, diff)
			}
		})
	}
}

// A listener that talks, that goes without a word, or that the node leaves: each gives
// its place back.
func TestServe_EachEnd_GivesThePlaceBack(t *testing.T) {
	n := newNode(t, event.Options{})
	talking := dial(t, "ws://node/1.0/events", n.client)
	if err := talking.Write(t.Context(), websocket.MessageText, []byte("hello")); err != nil {
		t.Fatal(err)
	}
	if _, _, err := talking.Read(t.Context()); websocket.CloseStatus(err) != websocket.StatusPolicyViolation {
		t.Errorf("talking: %v", err)
	}
	<-n.ended
	large := dial(t, "ws://node/1.0/events", n.client)
	if err := large.Write(t.Context(), websocket.MessageText, make([]byte, 1<<20)); err == nil {
		_, _, err = large.Read(t.Context())
		if err == nil {
			t.Error("a message of 1 MiB was taken")
		}
	}
	<-n.ended
	dial(t, "ws://node/1.0/events", n.client).CloseNow()
	<-n.ended
	left := dial(t, "ws://node/1.0/events", n.client)
	n.hub.Close()
	if _, _, err := left.Read(t.Context()); websocket.CloseStatus(err) != websocket.StatusGoingAway {
		t.Errorf("the node stops: %v", err)
	}
	<-n.ended
	if l := n.hub.Listeners(); l != 0 {
		t.Errorf("%d places are taken", l)
	}
}

// A machine that was switched off in the middle of a quiet night must not hold its place
// forever.
func TestServe_NoAnswerToPings_EndsTheConnection(t *testing.T) {
	n := newNode(t, event.Options{PingEvery: 50 * time.Millisecond})
	dial(t, "ws://node/1.0/events", n.client) // never reads, so never answers
	select {
	case err := <-n.ended:
		if err != nil {
			t.Errorf("got %v", err)
		}
	case <-time.After(8 * time.Second): // with no check, what the kernel keeps is full after 14
		t.Error("it still has its place")
	}
}

// 1,000 terminals whose owners are asleep, on real connections: publishers and the one
// who reads get on as if they were alone, and the sleepers are thrown out.
func TestServe_ThousandConnectionsThatNeverRead_HoldNobodyUp(t *testing.T) {
	n := newNode(t, event.Options{Queue: 8})
	var dialing sync.WaitGroup
	for range 20 {
		dialing.Go(func() {
			for range 50 {
				conn, _, err := websocket.Dial(t.Context(), "ws://node/1.0/events", &websocket.DialOptions{HTTPClient: n.client})
				if err != nil {
					t.Error(err)
					return
				}
				t.Cleanup(func() { conn.CloseNow() })
			}
		})
	}
	dialing.Wait()
	awake := dial(t, "ws://node/1.0/events?type=operation", n.client)
	if l := n.hub.Listeners(); l != 1001 {
		t.Fatalf("%d listeners", l)
	}
	// Large lines fill what the kernel keeps for a connection.
	line := osapi.EventLogging{Message: strings.Repeat("x", 60<<10), Level: "info"}
	for i := range 200 {
		publish(t, n.hub, "logging", line)
		publish(t, n.hub, "operation", i)
		if got := next(t, awake); got != i {
			t.Fatalf("got %d, want %d", got, i)
		}
	}
	late := time.After(patience)
	for i := range 1000 {
		select {
		case err := <-n.ended:
			if err == nil {
				t.Fatal("a sleeper went by itself")
			}
		case <-late:
			t.Fatalf("%d of 1000 sleepers were thrown out", i)
		}
	}
	publish(t, n.hub, "operation", 1000)
	if got := fmt.Sprint(next(t, awake), n.hub.Listeners()); got != "1000 1" {
		t.Errorf("got %s", got)
	}
}
