package api_test

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	osapi "github.com/holdfast-os/holdfast/api/os"
)

// The daemon restarts when it is updated, and after a crash. Who asks in that moment waits a
// little longer, and is never turned away: the socket is the service manager's.
func TestRestart_RequestsMeanwhile_AreAllAnswered(t *testing.T) {
	dir := folder(t)
	path := filepath.Join(dir, "run", "incus-os", "unix.socket")
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	socket, err := listener.File()
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	p := runOn(t, dir, socket, "--listen", "")
	p.untilReady()

	var answered, lost atomic.Int64
	var clients sync.WaitGroup
	end, heard := make(chan struct{}), make(chan struct{})
	errs := make(chan error, 1)
	for range 8 {
		asker := client(t, dir)
		clients.Go(func() {
			for {
				select {
				case <-end:
					return
				default:
				}
				got, err := asker.ask(http.MethodGet, "/1.0", nil)
				if err == nil && got.code == http.StatusOK {
					answered.Add(1)
					select {
					case heard <- struct{}{}:
					case <-end:
					}
					continue
				}
				lost.Add(1)
				select {
				case errs <- fmt.Errorf("%d %s %w", got.code, got.Error, err):
				default:
				}
			}
		})
	}
	const restarts, between = 5, 50
	var longest time.Duration
	for range restarts {
		for range between {
			select {
			case <-heard:
			case <-time.After(slow * 20 * time.Second):
				t.Fatal("nobody is answered any more")
			}
		}
		begun := time.Now()
		if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		<-p.ended
		p = runOn(t, dir, socket, "--listen", "")
		longest = max(longest, time.Since(begun))
		p.untilReady()
	}
	close(end)
	clients.Wait()
	t.Logf("NUMBER restart_lost %d of %d, the longest restart took %s", lost.Load(), answered.Load(), longest.Round(time.Millisecond))
	if lost.Load() > 0 {
		t.Errorf("%d requests were lost in %d restarts; one: %v", lost.Load(), restarts, <-errs)
	}
	var server osapi.Server
	p.get("/1.0", &server)
}
