package daemon

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"testing"
	"time"
)

// drained serves on a socket until the test ends, with one connection that it has accepted.
func drained(t *testing.T) (*http.Server, *drainListener, net.Conn) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "socket")
	socket, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "heard") // the client sees what is missing
	})}
	listener := drainable(socket, server).(*drainListener)
	accepted, follow := make(chan struct{}, 1), server.ConnState
	server.ConnState = func(conn net.Conn, state http.ConnState) {
		follow(conn, state)
		if state == http.StateNew {
			accepted <- struct{}{}
		}
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close()
		if err := errors.Join(server.Close(), <-served); !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	<-accepted
	return server, listener, conn
}

// A request that is on its way when the daemon ends is answered, though net/http would drop
// it: nobody repeats the first request of a connection.
func TestDrain_FirstRequestComesWhileTheDaemonEnds_IsAnswered(t *testing.T) {
	server, listener, conn := drained(t)
	ended := make(chan error, 1)
	go func() {
		ended <- errors.Join(listener.drain(t.Context()), server.Shutdown(t.Context()))
	}()
	<-listener.parked
	if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: node\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if text, err := io.ReadAll(answer.Body); err != nil || string(text) != "heard" {
		t.Errorf("got %q, %v", text, err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// A connection that says nothing holds up the end of the daemon only so long, and one that
// goes away does not at all.
func TestDrain_SilentConnection_DoesNotHoldUpTheEnd(t *testing.T) {
	_, listener, conn := drained(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := listener.drain(ctx); err != nil {
		t.Error(err)
	}
	if err := conn.Close(); err != nil {
		t.Error(err)
	}
	select {
	case <-listener.allHeard():
	case <-ctx.Done():
		t.Error("a connection that is gone is still waited for")
	}
}
