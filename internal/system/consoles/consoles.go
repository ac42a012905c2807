// Package consoles writes to every console of the machine: the screen and each serial port
// that the kernel was told of. /dev/console is only the last of them.
//
// A serial port whose other side does not take anything must not hold up anybody: what it does
// not take within a few seconds is lost to it. What can fail: no console can be opened.
package consoles

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// patience is how long one console may take for one text.
const patience = 5 * time.Second

// Consoles are the consoles of a machine. The methods are for one goroutine at a time.
type Consoles struct{ list []*os.File }

// Open opens the consoles that sysfs names. sys and dev are as "/sys" and "/dev". One that
// cannot be opened is left out; none at all is an error.
func Open(sys, dev string) (*Consoles, error) {
	active, err := os.ReadFile(filepath.Join(sys, "class/tty/console/active"))
	if err != nil {
		return nil, fmt.Errorf("finding the consoles: %w", err)
	}
	c, failed := &Consoles{}, []error{errors.New("opening the consoles: none can be written to")}
	for name := range strings.FieldsSeq(string(active)) {
		path := filepath.Join(dev, filepath.Base(name))
		fd, err := unix.Open(path, unix.O_WRONLY|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err != nil {
			failed = append(failed, fmt.Errorf("opening %s: %w", path, err))
			continue
		}
		c.list = append(c.list, os.NewFile(uintptr(fd), path))
	}
	if len(c.list) == 0 {
		return nil, errors.Join(failed...)
	}
	return c, nil
}

// Write writes to all of them. It is an error when none of them has taken the text.
func (c *Consoles) Write(text []byte) (int, error) {
	var failed []error
	for _, console := range c.list {
		// A file that knows no deadlines does not wait either.
		_ = console.SetWriteDeadline(time.Now().Add(patience))
		if _, err := console.Write(text); err != nil {
			failed = append(failed, err)
		}
	}
	if len(failed) == len(c.list) {
		return 0, fmt.Errorf("writing to the consoles: %w", errors.Join(failed...))
	}
	return len(text), nil
}

// Close closes them.
func (c *Consoles) Close() error {
	var failed []error
	for _, console := range c.list {
		failed = append(failed, console.Close())
	}
	return errors.Join(failed...)
}
