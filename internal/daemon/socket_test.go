package daemon_test

import (
	"context"
	"net"
	"net/http"
	"path/filepath"
	"testing"

	"github.com/holdfast-os/holdfast/internal/daemon"
)

// An update of the daemon, or its crash, must not cost a caller its request: the socket is
// the service manager's, and what comes in between two daemons waits for the second.
func TestRun_RestartUnderASocketThatStays_NoRequestIsLost(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	kept, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer kept.Close()
	given := func() (net.Listener, error) {
		file, err := kept.File()
		if err != nil {
			return nil, err
		}
		defer file.Close()
		return net.FileListener(file)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", path)
	}}}
	ask := func() (int, error) {
		response, err := client.Get("http://unix/1.0")
		if err != nil {
			return 0, err
		}
		return response.StatusCode, response.Body.Close()
	}
	first := startWith(t, newWorld(), nil, func(o *daemon.Options) { o.Socket = given })
	first.wait(t, "status ready")
	if code, err := ask(); err != nil || code != http.StatusOK {
		t.Fatalf("the first daemon: %d, %v", code, err)
	}
	first.stop()
	type outcome struct {
		code int
		err  error
	}
	answers := make(chan outcome, 8)
	for range cap(answers) {
		go func() { code, err := ask(); answers <- outcome{code, err} }()
	}
	second := startWith(t, newWorld(), nil, func(o *daemon.Options) { o.Socket = given })
	for range cap(answers) {
		if got := <-answers; got.err != nil || got.code != http.StatusOK {
			t.Errorf("a request between the two daemons: %d, %v", got.code, got.err)
		}
	}
	second.wait(t, "status ready")
}
