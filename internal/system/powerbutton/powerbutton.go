// Package powerbutton hears the power button of the machine where no logind does, as in the
// initrd.
//
// The kernel shows the button as a keyboard with one key. Each keyboard that has the key is
// listened to; those that are plugged in later are not. What can fail: a machine without such
// a button, or without the drivers "button" and "evdev". It has no button to hear then, which
// is no error.
package powerbutton

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Numbers of the kernel (include/uapi/linux/input-event-codes.h).
const (
	kindKey  = 1
	keyPower = 116
	pressed  = 1
	// eventSize is that of struct input_event on a machine of 64 bits: two words of time,
	// then kind, code and value.
	eventSize = 24
)

// Watch gives a channel that gets a value when the button is pressed, until ctx ends. sys and
// dev are where sysfs and the devices are, as "/sys" and "/dev".
func Watch(ctx context.Context, sys, dev string) (<-chan struct{}, error) {
	names, err := filepath.Glob(filepath.Join(sys, "class/input/event*"))
	if err != nil {
		return nil, fmt.Errorf("looking for the power button: %w", err)
	}
	out := make(chan struct{}, 1)
	for _, name := range names {
		text, err := os.ReadFile(filepath.Join(name, "device/capabilities/key"))
		if err != nil || !hasKey(string(text), keyPower) {
			continue // it was pulled out meanwhile, or has no such key
		}
		fd, err := unix.Open(filepath.Join(dev, "input", filepath.Base(name)), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, fmt.Errorf("opening the power button %s: %w", filepath.Base(name), err)
		}
		device := os.NewFile(uintptr(fd), filepath.Base(name))
		context.AfterFunc(ctx, func() { _ = device.Close() }) // it was only read
		go listen(device, out)
	}
	return out, nil
}

// hasKey reads a bit field of sysfs: words of 64 bits, the highest first.
func hasKey(field string, key int) bool {
	words := strings.Fields(field)
	at := len(words) - 1 - key/64
	if at < 0 {
		return false
	}
	word, err := strconv.ParseUint(words[at], 16, 64)
	return err == nil && word&(1<<(key%64)) != 0
}

func listen(device io.Reader, out chan<- struct{}) {
	event := make([]byte, eventSize)
	for {
		if _, err := io.ReadFull(device, event); err != nil {
			if errors.Is(err, unix.EINTR) {
				continue
			}
			return // closed, or gone
		}
		kind, code, value := binary.LittleEndian.Uint16(event[16:]), binary.LittleEndian.Uint16(event[18:]), binary.LittleEndian.Uint32(event[20:])
		if kind != kindKey || code != keyPower || value != pressed {
			continue
		}
		select {
		case out <- struct{}{}:
		default:
		}
	}
}
