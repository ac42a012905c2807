// Package api_test starts whole nodes on the simulated machine and does to their API what
// the world does to it: everything in the table, nonsense, crowds, crashes.
//
// Nothing here needs a privilege. With -long the counts are larger.
package api_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"

	osapi "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/simulate"
	"github.com/holdfast-os/holdfast/test/api/load"
)

var long = flag.Bool("long", false, "larger counts: all mutations, more crashes")

// asProgram makes the test binary be a simulated node, so that it can be killed.
const asProgram = "HOLDFAST_TEST_SIMULATE"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) == "" {
		os.Exit(m.Run())
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	flags, err := simulate.ParseFlags(os.Args[1:], os.Stdout)
	if err == nil {
		err = simulate.Run(ctx, flags, slog.New(slog.NewTextHandler(os.Stdout, nil)))
	}
	os.Exit(simulate.ExitCode(err, os.Stderr))
}

// node is a client of a simulated node.
type node struct {
	t      testing.TB
	dir    string
	socket string
	http   *http.Client
	sim    *simulate.Node // nil for one that is a program
	up     chan struct{}  // gets a value each time the API of sim answers
}

// folder is one with a path short enough for a socket.
func folder(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "hf")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func client(t testing.TB, dir string) *node {
	socket := filepath.Join(dir, "unix.socket")
	n := &node{t: t, dir: dir, socket: socket, http: load.Client(socket)}
	t.Cleanup(n.http.CloseIdleConnections)
	return n
}

// start runs a node in this process until the test ends, and waits until it is ready.
func start(t testing.TB, o simulate.Options) *node {
	t.Helper()
	if o.Dir == "" {
		o.Dir = folder(t)
	}
	n := client(t, o.Dir)
	n.up = make(chan struct{}, 16)
	o.Ready = func(string) { n.up <- struct{}{} }
	var err error
	if n.sim, err = simulate.New(o); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- n.sim.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the node ended with %v", err)
		}
	})
	select {
	case <-n.up:
	case err := <-ended:
		ended <- err
		t.Fatalf("the node ended at once: %v", err)
	}
	n.untilReady()
	return n
}

// untilReady asks until every phase of the start is done.
func (n *node) untilReady() {
	n.t.Helper()
	for limit := time.Now().Add(slow * 20 * time.Second); time.Now().Before(limit); {
		var server osapi.Server
		if n.get("/1.0", &server); server.Environment.SystemIsReady {
			return
		}
	}
	var boot osapi.DebugBoot
	n.get("/1.0/debug/boot", &boot)
	n.t.Fatalf("the node does not become ready: %+v", boot)
}

// reboot restarts a node of this process and waits until it is ready again.
func (n *node) reboot() {
	n.t.Helper()
	if got := n.must(http.MethodPost, "/1.0/system/:reboot", nil); got.code != http.StatusOK {
		n.t.Fatalf("%d %s", got.code, got.Error)
	}
	select {
	case <-n.up:
	case <-time.After(slow * 20 * time.Second):
		n.t.Fatal("the node does not come up again")
	}
	n.untilReady()
}

// program is a node as a process of its own.
type program struct {
	*node
	cmd    *exec.Cmd
	output *bytes.Buffer
	ended  chan struct{}
}

// run starts a node as a program and waits until its API answers; the phases may go on.
func run(t testing.TB, dir string, args ...string) *program {
	t.Helper()
	return runOn(t, dir, nil, args...)
}

// runOn starts a node as systemd does, with a socket that is there already; nil for none.
func runOn(t testing.TB, dir string, socket *os.File, args ...string) *program {
	t.Helper()
	notify := filepath.Join(dir, "notify")
	if err := os.Remove(notify); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	manager, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: notify, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer manager.Close()
	p := &program{node: client(t, dir), output: &bytes.Buffer{}, ended: make(chan struct{})}
	p.cmd = exec.Command(os.Args[0], append([]string{"--simulate", dir}, args...)...)
	p.cmd.Env = append(os.Environ(), asProgram+"=1", "NOTIFY_SOCKET="+notify)
	if socket != nil { // the number of the process stands in its environment: a shell knows it
		p.cmd = exec.Command("/bin/sh", append([]string{"-c", `LISTEN_PID=$$ exec "$0" "$@"`, os.Args[0], "--simulate", dir}, args...)...)
		p.cmd.Env = append(os.Environ(), asProgram+"=1", "NOTIFY_SOCKET="+notify, "LISTEN_FDS=1")
		p.cmd.ExtraFiles = []*os.File{socket}
	}
	p.cmd.Stdout, p.cmd.Stderr = p.output, p.output
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.ended)
		_ = p.cmd.Wait() // a killed program is what some tests want
	}()
	t.Cleanup(p.kill)
	if err := manager.SetReadDeadline(time.Now().Add(slow * 20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	for message := make([]byte, 4096); ; {
		size, err := manager.Read(message)
		if err != nil {
			p.kill()
			t.Fatalf("the node does not come up: %v\n%s", err, p.output)
		}
		if strings.Contains(string(message[:size]), "READY=1") {
			return p
		}
	}
}

// kill ends the program as a power cut does.
func (p *program) kill() {
	_ = p.cmd.Process.Signal(syscall.SIGKILL) // it may have ended
	<-p.ended
	p.http.CloseIdleConnections()
}

// answer is what a request got.
type answer struct {
	code   int
	header http.Header
	osapi.Response
	text []byte
}

// ask sends a request; body is nil, a string, bytes, or a value for JSON.
func (n *node) ask(method, path string, body any, header ...string) (answer, error) {
	var reader io.Reader
	switch body := body.(type) {
	case nil:
	case string:
		reader = strings.NewReader(body)
	case []byte:
		reader = bytes.NewReader(body)
	default:
		text, err := json.Marshal(body)
		if err != nil {
			return answer{}, err
		}
		reader = bytes.NewReader(text)
	}
	request, err := http.NewRequest(method, "http://node"+path, reader)
	if err != nil {
		return answer{}, err
	}
	for i := 0; i < len(header); i += 2 {
		request.Header.Set(header[i], header[i+1])
	}
	got, err := n.http.Do(request)
	if err != nil {
		return answer{}, err
	}
	defer got.Body.Close()
	text, err := io.ReadAll(got.Body)
	if err != nil {
		return answer{}, err
	}
	a := answer{code: got.StatusCode, header: got.Header, text: text}
	if strings.HasPrefix(got.Header.Get("Content-Type"), "application/json") {
		if err := json.Unmarshal(text, &a.Response); err != nil {
			return a, fmt.Errorf("%s %s answers %q: %w", method, path, text, err)
		}
	}
	return a, nil
}

// must is ask for a request that has to get through to the node.
func (n *node) must(method, path string, body any, header ...string) answer {
	n.t.Helper()
	a, err := n.ask(method, path, body, header...)
	if err != nil {
		n.t.Fatalf("%s %s: %v", method, path, err)
	}
	return a
}

// get reads a path that has to be there, and gives its ETag.
func (n *node) get(path string, into any) string {
	n.t.Helper()
	a := n.must(http.MethodGet, path, nil)
	if a.code != http.StatusOK {
		n.t.Fatalf("GET %s: %d %s", path, a.code, a.Error)
	}
	if err := json.Unmarshal(a.Metadata, into); err != nil {
		n.t.Fatalf("GET %s: %v", path, err)
	}
	return a.header.Get("ETag")
}

// put changes what has to be changed.
func (n *node) put(path string, config any) {
	n.t.Helper()
	if a := n.must(http.MethodPut, path, map[string]any{"config": config}); a.code != http.StatusOK {
		n.t.Fatalf("PUT %s: %d %s", path, a.code, a.Error)
	}
}

// events collects what happens until the test ends; the channel is closed then.
func (n *node) events(query string) <-chan osapi.Event {
	n.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	conn, answered, err := websocket.Dial(ctx, "ws://node/1.0/events"+query, &websocket.DialOptions{HTTPClient: n.http})
	if err != nil {
		cancel()
		n.t.Fatalf("listening to events: %v (%v)", err, answered)
	}
	conn.SetReadLimit(1 << 20)
	list := make(chan osapi.Event, 10000)
	go func() {
		defer close(list)
		for {
			_, text, err := conn.Read(ctx)
			if err != nil {
				return
			}
			var one osapi.Event
			if json.Unmarshal(text, &one) == nil {
				list <- one
			}
		}
	}()
	n.t.Cleanup(func() {
		cancel()
		_ = conn.CloseNow() // the node may have closed it
	})
	return list
}

// until waits for something that is done to an object.
func until(t testing.TB, events <-chan osapi.Event, action string) osapi.EventLifecycle {
	t.Helper()
	limit := time.After(slow * 20 * time.Second)
	for {
		select {
		case one, open := <-events:
			var seen osapi.EventLifecycle
			if !open {
				t.Fatalf("the events end before %s", action)
			}
			if one.Type == osapi.EventTypeLifecycle && json.Unmarshal(one.Metadata, &seen) == nil && seen.Action == action {
				return seen
			}
		case <-limit:
			t.Fatalf("%s does not happen", action)
		}
	}
}
