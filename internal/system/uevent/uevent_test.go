package uevent

import (
	"context"
	"errors"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// pair is a socket that can be waited for, and its other end.
func pair(t *testing.T) (socket *os.File, other int) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fds[1]) })
	return os.NewFile(uintptr(fds[0]), "socket"), fds[1]
}

// next waits for a value; false is a channel that was closed.
func next(t *testing.T, changes <-chan struct{}) bool {
	t.Helper()
	select {
	case _, open := <-changes:
		return open
	case <-time.After(10 * time.Second):
		t.Fatal("nothing was heard")
		return false
	}
}

// A stick that is put in wakes whoever waits for it, and a hundred messages wake him once.
func TestFollow_Messages_WakeAndTheEndIsHeard(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	socket, other := pair(t)
	changes := follow(ctx, socket)
	for range 100 {
		if err := unix.Send(other, []byte("libudev"), 0); err != nil && !errors.Is(err, unix.EAGAIN) {
			t.Fatal(err)
		}
	}
	if !next(t, changes) {
		t.Fatal("it ended with a message")
	}
	cancel()
	for next(t, changes) { // messages that were still on their way
	}
}

// Where the kernel has such sockets, one is opened and ends with its context.
func TestListen_ThisKernel_EndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	changes, err := Listen(ctx)
	if errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EPERM) {
		t.Skip("this kernel has no NETLINK_KOBJECT_UEVENT")
	}
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	for next(t, changes) {
	}
}
