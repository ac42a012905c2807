package qemu

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/holdfast-os/holdfast/internal/system/run"
)

// pollEvery is how often a state that sends no event is asked for.
const pollEvery = 100 * time.Millisecond

// Start starts the machine in a process that outlives the caller. It returns once
// the control sockets are there; a machine with Incoming is still loading then.
func Start(ctx context.Context, runner run.Runner, tools Tools, m Machine) error {
	for _, socket := range []string{m.QMP, m.Events, m.ExecSocket} {
		if len(socket) > 107 {
			return fmt.Errorf("starting the machine %s: the socket path %s is longer than 107 bytes: use a project folder with a shorter path", m.Name, socket)
		}
	}
	if _, err := runner(ctx, tools.Command("qemu-system-x86_64", Args(tools, m)...)); err != nil {
		return fmt.Errorf("starting the machine %s: %w", m.Name, err)
	}
	return nil
}

// Running gives the process of a machine by its pid file, and false when it has
// ended. A number that now belongs to another program does not count. One that is being
// ended has not ended: its ports and files are taken until its last thread is gone.
func Running(pidFile string) (int, bool) {
	raw, err := os.ReadFile(pidFile)
	if err != nil {
		return 0, false
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(raw)))
	if err != nil || pid <= 1 {
		return 0, false
	}
	args, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	switch {
	case err == nil && len(args) == 0: // its memory is gone, and it may not be
		return pid, ending(pid)
	case err != nil || !bytes.Contains(args, []byte(pidFile)):
		return 0, false
	}
	return pid, true
}

// ending tells of a process without memory whether some of it is still there. What is left of one
// that has ended, until its parent asks for it, is a single thread in state Z.
func ending(pid int) bool {
	threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		return false
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:]) // behind the name: state, parent
	const kthreadd = "2"                                            // its children are the kernel's, and never have memory
	if len(fields) < 2 || string(fields[1]) == kthreadd {
		return false
	}
	return len(threads) > 1 || string(fields[0]) != "Z" && string(fields[0]) != "X"
}

// Kill ends the machine's process at once, as a power cut would.
func Kill(ctx context.Context, pidFile string) error {
	pid, ok := Running(pidFile)
	if !ok {
		return nil
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("killing process %d: %w", pid, err)
	}
	return WaitEnd(ctx, pidFile)
}

// WaitEnd returns when the machine's process has ended.
func WaitEnd(ctx context.Context, pidFile string) error {
	return poll(ctx, "waiting for the machine to end", func() (bool, error) {
		_, alive := Running(pidFile)
		return !alive, nil
	})
}

// Status is QEMU's word for what the machine does: "running", "paused", "inmigrate",
// "postmigrate", "shutdown" and others.
func (c *Client) Status(ctx context.Context) (string, error) {
	var answer struct {
		Status string `json:"status"`
	}
	err := c.Execute(ctx, "query-status", nil, &answer)
	return answer.Status, err
}

// PowerDown presses the power button; the guest decides what follows.
func (c *Client) PowerDown(ctx context.Context) error {
	return c.Execute(ctx, "system_powerdown", nil, nil)
}

// Reset presses the reset button.
func (c *Client) Reset(ctx context.Context) error { return c.Execute(ctx, "system_reset", nil, nil) }

// Stop pauses the guest.
func (c *Client) Stop(ctx context.Context) error { return c.Execute(ctx, "stop", nil, nil) }

// Continue lets a paused guest go on.
func (c *Client) Continue(ctx context.Context) error { return c.Execute(ctx, "cont", nil, nil) }

// Quit ends QEMU without asking the guest; what the guest wrote is kept.
func (c *Client) Quit(ctx context.Context) error {
	err := c.Execute(ctx, "quit", nil, nil)
	if errors.Is(err, ErrClosed) {
		return nil // it ended before it answered
	}
	return err
}

// Screenshot writes the screen as PNG to path.
func (c *Client) Screenshot(ctx context.Context, path string) error {
	args := map[string]string{"filename": path, "format": "png"}
	if err := c.Execute(ctx, "screendump", args, nil); err != nil {
		return fmt.Errorf("taking a screenshot: %w", err)
	}
	return nil
}

// SaveMemory pauses the guest and writes its memory and devices to path. The guest
// stays paused, so that disks, variables and TPM can be copied; Continue goes on.
func (c *Client) SaveMemory(ctx context.Context, path string) error {
	if err := c.Stop(ctx); err != nil {
		return err
	}
	fast := map[string]int64{"max-bandwidth": 1 << 40}
	if err := c.Execute(ctx, "migrate-set-parameters", fast, nil); err != nil {
		return err
	}
	if err := c.Execute(ctx, "migrate", map[string]string{"uri": "file:" + path}, nil); err != nil {
		return err
	}
	return poll(ctx, "saving the memory to "+path, func() (bool, error) {
		var answer struct {
			Status string `json:"status"`
			Reason string `json:"error-desc"`
		}
		if err := c.Execute(ctx, "query-migrate", nil, &answer); err != nil {
			return false, err
		}
		switch answer.Status {
		case "failed", "cancelled":
			return false, fmt.Errorf("saving the memory to %s: QEMU says %s: %s", path, answer.Status, answer.Reason)
		}
		return answer.Status == "completed", nil
	})
}

// ResumeLoaded waits until a machine started with Incoming has loaded its memory,
// and lets the guest go on. A memory image that does not fit ends QEMU: its reason
// is in the machine's log.
func (c *Client) ResumeLoaded(ctx context.Context) error {
	err := poll(ctx, "loading the memory", func() (bool, error) {
		status, err := c.Status(ctx)
		return status != "inmigrate", err
	})
	if err != nil {
		return err
	}
	return c.Continue(ctx)
}

// poll asks at once and then every pollEvery until done.
func poll(ctx context.Context, what string, done func() (bool, error)) error {
	ticker := time.NewTicker(pollEvery)
	defer ticker.Stop()
	for {
		ok, err := done()
		if ok || err != nil {
			return err
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", what, ctx.Err())
		}
	}
}
