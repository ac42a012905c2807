package peers

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/holdfast-os/holdfast/internal/system/run"
)

// namespaces is where `ip netns` keeps them.
const namespaces = "/run/netns"

// Namespace is a computer with a network of its own.
type Namespace struct {
	// Name is as `ip netns` knows it.
	Name string
	side *Side
}

// Namespace makes a namespace with its loopback device up.
func (s *Side) Namespace(ctx context.Context, end string) (*Namespace, error) {
	n := &Namespace{Name: Name("-" + end), side: s}
	if _, err := do(ctx, "ip", "netns", "add", n.Name); err != nil {
		return nil, fmt.Errorf("making the namespace %s: %w", n.Name, err)
	}
	s.later(undoing("ip", "netns", "delete", n.Name))
	return n, n.ip(ctx, "link", "set", "lo", "up")
}

// Command is a program in the namespace.
func (n *Namespace) Command(name string, args ...string) run.Command {
	return run.Command{Name: "ip", Args: append([]string{"netns", "exec", n.Name, name}, args...)}
}

// Run runs a program in the namespace to its end and gives what it wrote.
func (n *Namespace) Run(ctx context.Context, name string, args ...string) (string, error) {
	result, err := run.Host(ctx, n.Command(name, args...))
	return string(result.Stdout), err
}

func (n *Namespace) ip(ctx context.Context, args ...string) error {
	_, err := do(ctx, "ip", append([]string{"-n", n.Name}, args...)...)
	return err
}

// inside calls work on a thread that is in the namespace. Sockets that work makes on the
// same goroutine stay there.
func inside[T any](n *Namespace, work func() (T, error)) (T, error) {
	type outcome struct {
		value T
		err   error
	}
	done := make(chan outcome, 1)
	go func() {
		// Without the unlock the thread ends with the goroutine: it is in another network
		// and must not be used for anything else.
		runtime.LockOSThread()
		var o outcome
		if o.err = n.enter(); o.err == nil {
			o.value, o.err = work()
		}
		done <- o
	}()
	o := <-done
	return o.value, o.err
}

func (n *Namespace) enter() error {
	handle, err := os.Open(filepath.Join(namespaces, n.Name))
	if err != nil {
		return fmt.Errorf("entering the namespace %s: %w", n.Name, err)
	}
	err = unix.Setns(int(handle.Fd()), unix.CLONE_NEWNET)
	return errors.Join(err, handle.Close())
}

// DialFrom dials out of the namespace, from one of its addresses (nil: any) to a literal
// address: a name would be looked up outside.
func (n *Namespace) DialFrom(ctx context.Context, from net.Addr, network, address string) (net.Conn, error) {
	return inside(n, func() (net.Conn, error) {
		dialer := net.Dialer{LocalAddr: from}
		return dialer.DialContext(ctx, network, address)
	})
}

// Listen listens for TCP in the namespace.
func (n *Namespace) Listen(ctx context.Context, address string) (net.Listener, error) {
	return inside(n, func() (net.Listener, error) {
		return (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	})
}

// ListenPacket receives UDP in the namespace.
func (n *Namespace) ListenPacket(ctx context.Context, address string) (net.PacketConn, error) {
	return inside(n, func() (net.PacketConn, error) {
		return (&net.ListenConfig{}).ListenPacket(ctx, "udp", address)
	})
}

// Serve serves the files of a folder over HTTP at an address of the namespace, until Close.
func (n *Namespace) Serve(ctx context.Context, address, folder string) error {
	listener, err := n.Listen(ctx, address)
	if err != nil {
		return fmt.Errorf("serving files at %s: %w", address, err)
	}
	server := &http.Server{Handler: http.FileServer(http.Dir(folder)), ReadHeaderTimeout: startLimit}
	n.side.later(server.Close)
	go func() { _ = server.Serve(listener) }() // it ends with Close
	return nil
}

// Forward listens on this computer's loopback device and leads each connection to an
// address as the namespace sees it. It gives where it listens, and ends with Close.
func (n *Namespace) Forward(ctx context.Context, to string) (string, error) {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("leading to %s in %s: %w", to, n.Name, err)
	}
	n.side.later(listener.Close)
	go func() {
		for {
			near, err := listener.Accept()
			if err != nil {
				return // it was closed
			}
			go n.join(near, to)
		}
	}()
	return listener.Addr().String(), nil
}

// join passes bytes between a connection and an address until both ends are done.
func (n *Namespace) join(near net.Conn, to string) {
	defer func() { _ = near.Close() }() // whoever is behind it sees what is missing
	ctx, cancel := context.WithTimeout(context.Background(), startLimit)
	defer cancel()
	far, err := n.DialFrom(ctx, nil, "tcp", to)
	if err != nil {
		return
	}
	defer func() { _ = far.Close() }()
	done := make(chan struct{}, 2)
	for _, way := range [][2]net.Conn{{near, far}, {far, near}} {
		go func() {
			_, _ = io.Copy(way[0], way[1]) // a broken connection is the caller's to see
			done <- struct{}{}
		}()
	}
	<-done
}
