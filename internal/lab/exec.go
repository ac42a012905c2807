package lab

import (
	"bufio"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/holdfast-os/holdfast/internal/system/qemu"
)

// maxAnswer is how much an Exec may bring back, in bytes of base64.
const maxAnswer = 64 << 20

// ErrNoExec is returned, wrapped, for a machine that is not of the test variant.
var ErrNoExec = errors.New("only the test variant takes commands: `holdfast lab up NAME --variant test` makes one")

// ExecResult is how a command in the guest ended.
type ExecResult struct {
	Stdout, Stderr []byte
	Code           int
}

// Exec runs a program in the guest as root and waits for its end; it waits for the
// guest to be far enough as well, so bound it by ctx. One command runs at a time; a
// second one is refused. A code other than 0 is no error.
func (l *Lab) Exec(ctx context.Context, name string, argv []string) (ExecResult, error) {
	d, err := l.dir(name)
	if err != nil {
		return ExecResult{}, err
	}
	s, err := loadState(d.file("state.json"))
	if err != nil {
		return ExecResult{}, err
	}
	if s.Machine.ExecSocket == "" {
		return ExecResult{}, fmt.Errorf("lab %s: %w", filepath.Base(string(d)), ErrNoExec)
	}
	if _, ok := qemu.Running(d.file("qemu.pid")); !ok {
		return ExecResult{}, fmt.Errorf("lab %s: %w", filepath.Base(string(d)), ErrNotRunning)
	}
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unix", s.Machine.ExecSocket)
	if err != nil {
		return ExecResult{}, fmt.Errorf("reaching the guest: %w", err)
	}
	defer func() { _ = conn.Close() }() // the answer is in, or will not be read
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	result, err := exchange(conn, strconv.FormatInt(time.Now().UnixNano(), 36), argv)
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	if err != nil {
		return ExecResult{}, fmt.Errorf("running %s in the guest: %w", strings.Join(argv, " "), err)
	}
	return result, nil
}

// exchange sends one command and reads up to its answer; answers to commands that
// were given up before are skipped by their id.
func exchange(conn io.ReadWriter, id string, argv []string) (ExecResult, error) {
	if len(argv) == 0 {
		return ExecResult{}, errors.New("no program is named")
	}
	command := base64.StdEncoding.EncodeToString([]byte(strings.Join(argv, "\x00") + "\x00"))
	if _, err := fmt.Fprintf(conn, "%s %s\n", id, command); err != nil {
		return ExecResult{}, err
	}
	lines := bufio.NewScanner(conn)
	lines.Buffer(nil, maxAnswer)
	for lines.Scan() {
		fields := strings.Split(lines.Text(), " ")
		if fields[0] == id {
			return parseAnswer(fields)
		}
	}
	if err := lines.Err(); err != nil {
		return ExecResult{}, err
	}
	return ExecResult{}, errors.New("the guest ended the connection")
}

// parseAnswer reads "ID CODE STDOUT= STDERR="; the = is not part of the base64.
func parseAnswer(fields []string) (ExecResult, error) {
	if len(fields) != 4 {
		return ExecResult{}, fmt.Errorf("the guest's answer has %d fields, want 4", len(fields))
	}
	code, err := strconv.Atoi(fields[1])
	if err != nil {
		return ExecResult{}, fmt.Errorf("the guest's answer has the exit code %q", fields[1])
	}
	stdout, errOut := base64.StdEncoding.DecodeString(strings.TrimSuffix(fields[2], "="))
	stderr, errErr := base64.StdEncoding.DecodeString(strings.TrimSuffix(fields[3], "="))
	if err := errors.Join(errOut, errErr); err != nil {
		return ExecResult{}, fmt.Errorf("reading the guest's answer: %w", err)
	}
	return ExecResult{Stdout: stdout, Stderr: stderr, Code: code}, nil
}
