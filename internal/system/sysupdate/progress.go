package sysupdate

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strconv"
	"strings"
)

// Progress is how far an update is, as systemd-sysupdate tells it.
type Progress struct {
	// Percent is 0 to 100 over all files, each of which counts the same.
	Percent int
	// Done and Left count files.
	Done, Left int
	// Status is a sentence of systemd-sysupdate's own, at most maxStatus bytes.
	Status string
}

const (
	// maxMessage bounds one message, in bytes; systemd's own limit is as large.
	maxMessage = 4096
	maxStatus  = 256
)

// notifier receives the messages of one run.
type notifier struct {
	path string
	conn *net.UnixConn
	done chan struct{}
}

// listen makes the socket that NOTIFY_SOCKET names.
func listen(path string, progress func(Progress)) (*notifier, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("removing the old socket for progress: %w", err)
	}
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return nil, fmt.Errorf("making the socket for progress: %w", err)
	}
	n := &notifier{path: path, conn: conn, done: make(chan struct{})}
	go n.read(progress)
	return n, nil
}

func (n *notifier) read(progress func(Progress)) {
	defer close(n.done)
	var state Progress
	message := make([]byte, maxMessage)
	for {
		length, _, err := n.conn.ReadFromUnix(message)
		if err != nil {
			return // closed
		}
		if next := parse(state, string(message[:length])); next != state {
			state = next
			if progress != nil {
				progress(state)
			}
		}
	}
}

// close ends when no more progress is told.
func (n *notifier) close() error {
	err := n.conn.Close()
	<-n.done
	if removed := os.Remove(n.path); !errors.Is(removed, fs.ErrNotExist) {
		err = errors.Join(err, removed)
	}
	if err != nil {
		return fmt.Errorf("closing the socket for progress: %w", err)
	}
	return nil
}

// parse takes up what a message says; what makes no sense changes nothing.
func parse(state Progress, message string) Progress {
	number := func(value string, most, old int) int {
		n, err := strconv.Atoi(value)
		if err != nil || n < 0 || n > most {
			return old
		}
		return n
	}
	for line := range strings.Lines(message) {
		key, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
		switch key {
		case "X_SYSUPDATE_PROGRESS":
			state.Percent = number(value, 100, state.Percent)
		case "X_SYSUPDATE_TRANSFERS_DONE":
			state.Done = number(value, 1000, state.Done)
		case "X_SYSUPDATE_TRANSFERS_LEFT":
			state.Left = number(value, 1000, state.Left)
		case "STATUS":
			state.Status = strings.ToValidUTF8(value[:min(len(value), maxStatus)], "")
		}
	}
	return state
}
