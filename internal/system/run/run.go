// Package run starts programs, and is the only package that does.
//
// An adapter (packages beside this one, named after the tool) holds a Runner and
// turns its result into typed values. A test hands in a Runner of its own. Nobody
// matches error text: an *Error carries the arguments, the exit code and what the
// program wrote.
package run

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"
)

// MaxOutput is how much of a program's standard output is kept, in bytes. More is
// an error, so that a program gone wild cannot fill the memory.
const MaxOutput = 64 << 20

// Command is one program with its arguments. No shell is involved.
type Command struct {
	Name string
	Args []string
	// Env are extra variables, as "NAME=value"; the environment is otherwise kept.
	Env []string
	// Dir is the working directory; default the caller's.
	Dir string
	// Stdin is read by the program; default nothing.
	Stdin io.Reader
	// Secret keeps the arguments out of errors.
	Secret bool
}

// Result is what a program wrote.
type Result struct {
	Stdout []byte
	Stderr []byte
}

// Runner runs a command to its end. A command that cannot be started or ends with
// another code than 0 is an *Error; the Result holds what was written up to then.
type Runner func(ctx context.Context, c Command) (Result, error)

// Error is a program that failed.
type Error struct {
	Args []string
	// ExitCode is -1 when the program was not started or was killed.
	ExitCode int
	Stderr   string
	Err      error
}

func (e *Error) Error() string {
	text := strings.Join(e.Args, " ") + ": " + e.Err.Error()
	if tail := lastLines(e.Stderr, 5); tail != "" {
		text += ": " + tail
	}
	return text
}

func (e *Error) Unwrap() error { return e.Err }

// ExitCode gives the exit code of a failed command, and false for any other error.
func ExitCode(err error) (int, bool) {
	var failed *Error
	if !errors.As(err, &failed) || failed.ExitCode < 0 {
		return 0, false
	}
	return failed.ExitCode, true
}

// Host is the Runner for this machine.
func Host(ctx context.Context, c Command) (Result, error) {
	cmd := exec.CommandContext(ctx, c.Name, c.Args...)
	cmd.Dir, cmd.Stdin = c.Dir, c.Stdin
	cmd.WaitDelay = 5 * time.Second
	if len(c.Env) > 0 {
		cmd.Env = append(os.Environ(), c.Env...)
	}
	stdout, stderr := &limited{max: MaxOutput}, &limited{max: 1 << 20, drop: true}
	cmd.Stdout, cmd.Stderr = stdout, stderr
	err := cmd.Run()
	result := Result{Stdout: stdout.Bytes(), Stderr: stderr.Bytes()}
	if err == nil {
		return result, nil
	}
	if ctx.Err() != nil {
		err = fmt.Errorf("%w (%w)", err, ctx.Err())
	}
	failed := &Error{Args: append([]string{c.Name}, c.Args...), ExitCode: -1, Stderr: string(result.Stderr), Err: err}
	if c.Secret {
		failed.Args = []string{c.Name, "..."}
	}
	if cmd.ProcessState != nil {
		failed.ExitCode = cmd.ProcessState.ExitCode()
	}
	return result, failed
}

// limited keeps at most max bytes; beyond that it fails, or forgets with drop.
type limited struct {
	bytes.Buffer
	max  int
	drop bool
}

func (l *limited) Write(p []byte) (int, error) {
	if room := l.max - l.Len(); len(p) > room {
		l.Buffer.Write(p[:max(room, 0)])
		if l.drop {
			return len(p), nil
		}
		return 0, fmt.Errorf("more than %d bytes of output", l.max)
	}
	return l.Buffer.Write(p)
}

func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	if len(lines) > n {
		lines = lines[len(lines)-n:]
	}
	return strings.Join(lines, "; ")
}
