package peers

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/holdfast-os/holdfast/internal/system/run"
)

const (
	// startLimit bounds how long a server may take until it answers, stopLimit how long
	// until it ends.
	startLimit = 30 * time.Second
	stopLimit  = 5 * time.Second
	// lookEvery is the pause between two looks at something that sends no event.
	lookEvery = 50 * time.Millisecond
)

// process is a program that runs in the foreground until it is stopped.
type process struct {
	name  string
	cmd   *exec.Cmd
	log   string
	ended chan struct{}
	err   error
}

// start starts a program, to be stopped by Close, and waits until ready is true.
func (s *Side) start(ctx context.Context, name string, c run.Command, ready func(context.Context) bool) error {
	log, err := os.Create(s.File(name + ".out"))
	if err != nil {
		return fmt.Errorf("starting %s: %w", name, err)
	}
	defer func() { _ = log.Close() }() // the program has its own
	p := &process{name: name, cmd: exec.Command(c.Name, c.Args...), log: log.Name(), ended: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), c.Env...)
	p.cmd.Dir, p.cmd.Stdout, p.cmd.Stderr = s.dir, log, log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	s.launch <- func() { started <- p.cmd.Start() }
	if err := <-started; err != nil {
		return fmt.Errorf("starting %s: %w", name, err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.ended)
	}()
	s.later(p.stop)
	return p.await(ctx, ready)
}

func (p *process) await(ctx context.Context, ready func(context.Context) bool) error {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	for {
		select {
		case <-p.ended:
			return fmt.Errorf("starting %s: it ended at once: %w: %s", p.name, orDone(p.err), p.tail())
		default:
		}
		if ready(ctx) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("starting %s: it does not answer: %w: %s", p.name, ctx.Err(), p.tail())
		case <-p.ended:
		case <-look.C:
		}
	}
}

func orDone(err error) error {
	if err == nil {
		return errors.New("exit status 0")
	}
	return err
}

// tail is the end of what the program wrote.
func (p *process) tail() string {
	raw, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(raw[max(0, len(raw)-2000):]))
}

// Outputs is the end of what each program wrote, by a name for it.
func (s *Side) Outputs() map[string]string {
	outputs, err := filepath.Glob(s.File("*.out"))
	if err != nil {
		return map[string]string{"": err.Error()}
	}
	texts := map[string]string{}
	for _, path := range outputs {
		texts[filepath.Base(path)] = (&process{log: path}).tail()
	}
	return texts
}

// stop asks the program and its children to end, and then makes them.
func (p *process) stop() error {
	timer := time.NewTimer(stopLimit)
	defer timer.Stop()
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		select {
		case <-p.ended:
			return nil
		default:
		}
		if err := syscall.Kill(-p.cmd.Process.Pid, signal); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("stopping %s: %w", p.name, err)
		}
		select {
		case <-p.ended:
			return nil
		case <-timer.C:
		}
	}
	<-p.ended
	return nil
}

// fileThere is ready once a file, as a socket, is there.
func fileThere(path string) func(context.Context) bool {
	return func(context.Context) bool {
		_, err := os.Stat(path)
		return err == nil
	}
}

// ReadLog reads what a server wrote to one of its logs; empty before it wrote anything.
func (s *Side) ReadLog(name string) (string, error) {
	raw, err := os.ReadFile(filepath.Join(s.dir, name))
	if errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	return string(raw), err
}
