package tooltree

import (
	"fmt"
	"os"
	"os/exec"
	"syscall"

	"github.com/holdfast-os/holdfast/internal/system/run"
)

// Process is a program started by Detach.
type Process struct {
	PID int
	// Done is closed when the program has ended, as long as this process lives.
	Done <-chan struct{}
}

// Detach starts a program in a session of its own, so that it outlives the caller
// and the terminal. What it writes is appended to the file log, mode 0600.
func Detach(c run.Command, log string) (Process, error) {
	out, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return Process{}, fmt.Errorf("opening the log of %s: %w", c.Name, err)
	}
	defer func() { _ = out.Close() }() // the program has its own descriptor
	cmd := exec.Command(c.Name, c.Args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = c.Dir, out, out
	cmd.Env = append(os.Environ(), c.Env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return Process{}, fmt.Errorf("starting %s: %w", c.Name, err)
	}
	done := make(chan struct{})
	go func() {
		_ = cmd.Wait() // how it ended is in its log
		close(done)
	}()
	return Process{PID: cmd.Process.Pid, Done: done}, nil
}
