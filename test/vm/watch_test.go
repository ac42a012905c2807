package vm

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-os/holdfast/client"
	"github.com/holdfast-os/holdfast/internal/system/qemu"
	"github.com/holdfast-os/holdfast/test/vm/observe"
)

// seen is what was observed of one start, from power on.
type seen struct {
	// Kernel is true once the processor was in a Linux kernel; KernelAfter is when.
	Kernel      bool
	KernelAfter time.Duration
	// ResetsBefore and ResetsAfter count restarts of the machine before and after its
	// kernel was first seen.
	ResetsBefore, ResetsAfter int
	// Ready is true once the API said so.
	Ready bool
	// Off is true when the machine switched itself off.
	Off bool
}

// observe starts the machine and looks at it until done is true or limit has passed.
func (n *node) observe(t *testing.T, limit time.Duration, done func(seen) bool) seen {
	t.Helper()
	n.powerOn(t)
	begun := time.Now()
	events := n.listen(t)
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	ready := n.whenReady(ctx)
	ticker := time.NewTicker(askEvery)
	defer ticker.Stop()
	var s seen
	for !done(s) && !s.Off {
		select {
		case <-ctx.Done():
			return s
		case event, open := <-events.Events():
			switch {
			case !open || event.Name == "SHUTDOWN":
				s.Off = true
			case event.Name == "RESET" && s.Kernel:
				s.ResetsAfter++
			case event.Name == "RESET":
				s.ResetsBefore++
			}
		case <-ready:
			s.Ready, ready = true, nil
		case <-ticker.C:
			if !s.Kernel && n.inKernel(ctx, t, events) {
				s.Kernel, s.KernelAfter = true, time.Since(begun)
			}
		}
	}
	return s
}

// whenReady asks the API beside the observation, since a question to a machine
// without network takes its whole time limit.
func (n *node) whenReady(ctx context.Context) <-chan struct{} {
	ready := make(chan struct{})
	go func() {
		if poll(ctx, bootLimit, n.ready) == nil {
			close(ready)
		}
	}()
	return ready
}

func (n *node) inKernel(ctx context.Context, t *testing.T, control *qemu.Client) bool {
	t.Helper()
	var text string
	err := control.Execute(ctx, "human-monitor-command", map[string]string{"command-line": "info registers"}, &text)
	if ctx.Err() != nil || errors.Is(err, qemu.ErrClosed) {
		return false
	}
	if err != nil {
		t.Fatal(err)
	}
	inside, err := observe.InKernel(text)
	return err == nil && inside // the first instructions of a machine are not of 64 bits
}

// watched keeps what a failed test leaves. What is put off to the end of a test runs
// last in, first out: it must be called after that which removes the machine.
func watched(t *testing.T, n *node) *node {
	t.Helper()
	t.Cleanup(func() {
		if t.Failed() {
			n.keep(t)
		}
	})
	return n
}

// journalEntries is how many entries of the journal are kept of a failed test.
const journalEntries = 3000

// keep writes serial log, screen and journal of the machine beside the base machine.
// What cannot be had is said: the node may be down.
func (n *node) keep(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	dir := filepath.Join(machines.root, ".lab", baseName, "failed-"+strings.ReplaceAll(t.Name(), "/", "-"))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Error(err)
		return
	}
	parts := map[string]func(path string) error{
		"serial.log": func(path string) error { return copyFile(path, n.file("serial.log")) },
		"screen.png": func(path string) error { return machines.lab.Screenshot(ctx, n.name, path) },
		"journal.json": func(path string) error {
			if n.api == nil {
				return errors.New("nobody has met this node yet")
			}
			entries, err := n.api.DebugLog(ctx, client.LogQuery{Entries: journalEntries})
			if err != nil {
				return err
			}
			raw, err := json.Marshal(entries)
			if err != nil {
				return err
			}
			return os.WriteFile(path, raw, 0o600)
		},
	}
	for name, save := range parts {
		path := filepath.Join(dir, n.name+"-"+name)
		if err := save(path); err != nil {
			t.Logf("%s of %s was not kept: %v", name, n.name, err)
			continue
		}
		t.Logf("kept: %s", path)
	}
}

func copyFile(to, from string) (err error) {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	_, err = io.Copy(out, in)
	return err
}

// serialSize is how much the serial port has said up to now, in bytes.
func (n *node) serialSize(t *testing.T) int64 {
	t.Helper()
	info, err := os.Stat(n.file("serial.log"))
	if os.IsNotExist(err) {
		return 0
	}
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}

// serialWords is what the serial port has said since, as observe.Words gives it.
func (n *node) serialWords(since int64) (string, error) {
	file, err := os.Open(n.file("serial.log"))
	if err != nil {
		return "", err
	}
	defer file.Close()
	if _, err := file.Seek(since, io.SeekStart); err != nil {
		return "", err
	}
	raw, err := io.ReadAll(io.LimitReader(file, 8<<20))
	return observe.Words(string(raw)), err
}

// lastWords is the end of what the serial port has said since, for a failure.
func (n *node) lastWords(since int64) string {
	words, err := n.serialWords(since)
	if err != nil {
		return err.Error()
	}
	return words[max(0, len(words)-2000):]
}

// saysOnSerial waits until the serial console has shown the phrases.
func (n *node) saysOnSerial(t *testing.T, since int64, limit time.Duration, phrases ...string) {
	t.Helper()
	until(t, limit, "waiting for "+strings.Join(phrases, ", ")+" on the serial console", func(context.Context) (bool, error) {
		words, err := n.serialWords(since)
		return observe.Says(words, phrases...), err
	})
}

// typeOnSerial gives a way to type on the serial console: the port is moved from its
// file to a socket, and what it says still goes to the file.
func (n *node) typeOnSerial(t *testing.T) io.Writer {
	t.Helper()
	control, err := n.control(t.Context(), "qmp.sock")
	if err != nil {
		t.Fatal(err)
	}
	defer control.Close()
	type object = map[string]any
	backend := object{"type": "socket", "data": object{
		"addr":   object{"type": "unix", "data": object{"path": n.file("serial.sock")}},
		"server": true, "wait": false, "logfile": n.file("serial.log"), "logappend": true,
	}}
	ctx, cancel := context.WithTimeout(t.Context(), shortLimit)
	defer cancel()
	if err := control.Execute(ctx, "chardev-change", object{"id": "serial0", "backend": backend}, nil); err != nil {
		t.Fatal(err)
	}
	port, err := net.Dial("unix", n.file("serial.sock"))
	if err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = io.Copy(io.Discard, port) }() // what is said is in the file
	t.Cleanup(func() { _ = port.Close() })
	return port
}
