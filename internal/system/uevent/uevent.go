// Package uevent tells when something about the devices of this machine has changed.
//
// udev passes each event of the kernel on, over netlink, once it has made names and links for
// the device. Nothing of a message is read but that there was one: whoever hears of it looks
// at what he waits for again. What can fail: a kernel or a sandbox without such sockets.
package uevent

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// udevGroup is the multicast group of messages that udev has worked on.
const udevGroup = 2

// maxMessage is how much of a message is taken from the socket, in bytes; the rest is dropped.
const maxMessage = 8 << 10

// Listen gives a channel that gets a value after something has changed, until ctx ends; it is
// closed then, and when the socket fails. Changes that come faster than they are taken are one.
func Listen(ctx context.Context) (<-chan struct{}, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return nil, fmt.Errorf("listening for changes of devices: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: udevGroup}); err != nil {
		return nil, errors.Join(fmt.Errorf("listening for changes of devices: %w", err), unix.Close(fd))
	}
	return follow(ctx, os.NewFile(uintptr(fd), "uevent")), nil
}

// follow turns what can be read from a socket into values.
func follow(ctx context.Context, socket *os.File) <-chan struct{} {
	changes := make(chan struct{}, 1)
	stop := context.AfterFunc(ctx, func() { _ = socket.Close() }) // it was only read
	go func() {
		defer close(changes)
		defer stop()
		message := make([]byte, maxMessage)
		for {
			_, err := socket.Read(message)
			// A queue that ran over has lost messages: that is a change as well.
			if err != nil && !errors.Is(err, unix.ENOBUFS) {
				_ = socket.Close()
				return
			}
			select {
			case changes <- struct{}{}:
			default:
			}
		}
	}()
	return changes
}
