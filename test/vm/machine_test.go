package vm

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-os/holdfast/client"
	"github.com/holdfast-os/holdfast/internal/lab"
	"github.com/holdfast-os/holdfast/internal/system/qemu"
)

const (
	// bootLimit bounds a boot up to the answer that the node is ready.
	bootLimit = 12 * time.Minute
	// shortLimit bounds one question to a node or to QEMU.
	shortLimit = 30 * time.Second
	// askEvery is the pause between two looks at something that sends no event.
	askEvery = 500 * time.Millisecond
)

// node is a machine of the lab with a client for its API.
type node struct {
	name, dir string
	api       *client.Client
	endpoint  string
}

func newNode(t *testing.T, name string) *node {
	t.Helper()
	infos, err := machines.lab.List()
	if err != nil {
		t.Fatal(err)
	}
	for _, info := range infos {
		if info.Name != name {
			continue
		}
		n := &node{name: name, dir: info.Dir, endpoint: info.Endpoint}
		options := client.Options{Endpoint: info.Endpoint, CertFile: n.file("client.crt"), KeyFile: n.file("client.key"), ServerCertFile: n.file("server.crt")}
		if _, err := os.Stat(n.file("server.crt")); errors.Is(err, fs.ErrNotExist) {
			return n // it is being installed: nobody has met it
		}
		if n.api, err = client.New(options); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(n.api.Close)
		return n
	}
	t.Fatalf("the lab %s is not there", name)
	return nil
}

func (n *node) file(name string) string { return filepath.Join(n.dir, name) }

// shared gives the live machine to a test that only reads.
func shared(t *testing.T) *node {
	t.Helper()
	if machines.running != baseName || !machines.pristine {
		restore(t, lab.Options{Name: baseName})
		machines.pristine = true
	}
	return watched(t, newNode(t, baseName))
}

// fresh gives the live machine, as it was right after its installation, to a test
// that changes it.
func fresh(t *testing.T) *node {
	t.Helper()
	restore(t, lab.Options{Name: baseName})
	return watched(t, newNode(t, baseName))
}

// restore brings a machine up from its snapshot, or makes it; any other is cut first.
func restore(t *testing.T, o lab.Options) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), upLimit)
	defer cancel()
	if err := machines.cut(ctx); err != nil {
		t.Fatal(err)
	}
	o.BuildDir, o.ReleaseDir, o.Progress = machines.build, machines.tree, os.Stderr
	machines.running = o.Name
	if _, err := machines.lab.Up(ctx, o); err != nil {
		t.Fatal(err)
	}
}

// clone makes a stopped clone of the base machine with extra hardware, removed at the
// end of the test.
func clone(t *testing.T, name string, hardware lab.Hardware) *node {
	t.Helper()
	makeClone(t, lab.Options{Name: name, Hardware: hardware})
	t.Cleanup(func() { removeClone(t, name) })
	return watched(t, newNode(t, name))
}

// makeClone makes a clone by starting it, since that is what adds hardware, and cuts
// its power at once: the firmware has just begun.
func makeClone(t *testing.T, o lab.Options) {
	t.Helper()
	o.From, o.NoWait, o.NoSnapshot = baseName, true, true
	restore(t, o)
	if err := machines.cut(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func removeClone(t *testing.T, name string) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if machines.running == name {
		machines.running = ""
	}
	if err := machines.lab.Remove(ctx, name); err != nil {
		t.Error(err)
	}
}

// powerOn starts a stopped machine; any other is cut first.
func (n *node) powerOn(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := machines.cut(ctx); err != nil {
		t.Fatal(err)
	}
	if err := machines.lab.Power(ctx, n.name, lab.On); err != nil {
		t.Fatal(err)
	}
	machines.running = n.name
}

// until asks at once and then again and again until the answer is true. The last
// error is reported when time is up; before, it is no reason to give up.
func until(t *testing.T, limit time.Duration, what string, ask func(context.Context) (bool, error)) {
	t.Helper()
	if err := poll(t.Context(), limit, ask); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

func poll(ctx context.Context, limit time.Duration, ask func(context.Context) (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	ticker := time.NewTicker(askEvery)
	defer ticker.Stop()
	for {
		one, cancelOne := context.WithTimeout(ctx, shortLimit)
		ok, err := ask(one)
		cancelOne()
		if ok {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("not within %s; the last answer: %w", limit, orNone(err))
		case <-ticker.C:
		}
	}
}

func orNone(err error) error {
	if err == nil {
		return errors.New("not yet")
	}
	return err
}

// ready tells whether the node says that its start has ended.
func (n *node) ready(ctx context.Context) (bool, error) {
	server, err := n.api.Server(ctx)
	return err == nil && server.Environment.SystemIsReady, err
}

// shakesHands tells whether something at the node's API speaks TLS, whoever it is: a node that
// nobody has met yet, too.
func (n *node) shakesHands(ctx context.Context) (bool, error) {
	dialer := tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12}} // nothing is sent
	conn, err := dialer.DialContext(ctx, "tcp", strings.TrimPrefix(n.endpoint, "https://"))
	if err != nil {
		return false, err
	}
	return true, conn.Close()
}

// control connects to one of the machine's two control sockets.
func (n *node) control(ctx context.Context, socket string) (*qemu.Client, error) {
	ctx, cancel := context.WithTimeout(ctx, shortLimit)
	defer cancel()
	return qemu.Dial(ctx, n.file(socket))
}

// listen hears the machine's events until the end of the test.
func (n *node) listen(t *testing.T) *qemu.Client {
	t.Helper()
	events, err := n.control(t.Context(), "events.sock")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = events.Close() }) // only listened to
	return events
}

// awaitReset waits until the machine resets.
func awaitReset(t *testing.T, events *qemu.Client, limit time.Duration) {
	t.Helper()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	for {
		select {
		case event, open := <-events.Events():
			if !open {
				t.Fatal("waiting for the machine to restart: QEMU ended")
			}
			if event.Name == "RESET" {
				return
			}
		case <-timer.C:
			t.Fatalf("the machine did not restart within %s", limit)
		}
	}
}
