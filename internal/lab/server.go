package lab

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/holdfast-os/holdfast/internal/system/run"
	"github.com/holdfast-os/holdfast/internal/system/tooltree"
)

// serverLimit is how long the release server may take to listen.
const serverLimit = 10 * time.Second

// freePort gives wanted when nothing listens there, a port of the system's choice
// for 0, and else an error that names the process in the way.
func freePort(wanted int) (int, error) {
	listener, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", wanted))
	if err != nil {
		return 0, fmt.Errorf("taking port %d: %w: %s has it", wanted, err, portOwner(wanted))
	}
	port := listener.Addr().(*net.TCPAddr).Port
	if err := listener.Close(); err != nil {
		return 0, fmt.Errorf("taking port %d: %w", port, err)
	}
	return port, nil
}

// serveReleases makes sure that the release server of a lab runs.
func (l *Lab) serveReleases(ctx context.Context, d dir, s state) error {
	if s.ReleasePort == 0 || pidAlive(d.file("release.pid"), s.ReleaseDir) {
		return nil
	}
	if _, err := freePort(s.ReleasePort); err != nil {
		return fmt.Errorf("starting the release server: %w (stop that process, or start again with --fresh)", err)
	}
	address := fmt.Sprintf("127.0.0.1:%d", s.ReleasePort)
	server, err := tooltree.Detach(run.Command{
		Name: filepath.Join(l.root, "bin", "holdfast"),
		Args: []string{"release", "serve", s.ReleaseDir, "--listen", address},
		Dir:  l.root,
	}, d.file("release.log"))
	if err != nil {
		return fmt.Errorf("starting the release server: %w", err)
	}
	if err := writeFile(d.file("release.pid"), []byte(strconv.Itoa(server.PID)+"\n")); err != nil {
		return err
	}
	return waitListening(ctx, address, server.Done, d.file("release.log"))
}

// releasePipe is the command that joins the address at which the guest asks for releases
// with the release server on a port.
func (l *Lab) releasePipe(port int) string {
	return fmt.Sprintf("'%s' lab pipe 127.0.0.1:%d", filepath.Join(l.root, "bin", "holdfast"), port)
}

func waitListening(ctx context.Context, address string, ended <-chan struct{}, log string) error {
	ctx, cancel := context.WithTimeout(ctx, serverLimit)
	defer cancel()
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for {
		conn, err := net.DialTimeout("tcp", address, time.Second)
		if err == nil {
			return conn.Close()
		}
		select {
		case <-ended:
			return fmt.Errorf("starting the release server: it ended at once: %s", strings.Join(tailLines(log, 3), "; "))
		case <-ctx.Done():
			return fmt.Errorf("starting the release server: nothing listens on %s: %w (see %s)", address, ctx.Err(), log)
		case <-ticker.C:
		}
	}
}

// pidAlive tells whether the process of a pid file runs and has word on its command
// line, so that a number used anew by another program does not count.
func pidAlive(pidFile, word string) bool { return pidOf(pidFile, word) != 0 }

func pidOf(pidFile, word string) int {
	raw, err := os.ReadFile(pidFile)
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(raw)))
	if err != nil || pid <= 1 || !strings.Contains(cmdline(pid), word) {
		return 0
	}
	return pid
}

// endProcess asks the process of a pid file to end; one that is gone is fine.
func endProcess(pidFile, word string) error {
	if pid := pidOf(pidFile, word); pid != 0 {
		if err := syscall.Kill(pid, syscall.SIGTERM); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("ending process %d: %w", pid, err)
		}
	}
	if err := os.Remove(pidFile); err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("removing %s: %w", pidFile, err)
	}
	return nil
}

func cmdline(pid int) string {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return ""
	}
	return string(bytes.TrimSpace(bytes.ReplaceAll(raw, []byte{0}, []byte{' '})))
}

// portOwner names the process that listens on a local TCP port, as far as this
// user may see it.
func portOwner(port int) string {
	inode := ""
	for _, name := range []string{"/proc/net/tcp", "/proc/net/tcp6"} { // "::" covers 127.0.0.1 too
		table, err := os.Open(name)
		if err != nil {
			continue // a kernel without IPv6 has one table
		}
		if inode == "" {
			inode = listenInode(table, port)
		}
		_ = table.Close() // only read
	}
	if inode == "" {
		return "another process"
	}
	links, err := filepath.Glob("/proc/[0-9]*/fd/[0-9]*")
	if err != nil {
		return "another process"
	}
	for _, link := range links {
		if target, err := os.Readlink(link); err == nil && target == "socket:["+inode+"]" {
			pid, _ := strconv.Atoi(strings.Split(link, "/")[2]) // the pattern says digits
			return fmt.Sprintf("process %d (%.200s)", pid, cmdline(pid))
		}
	}
	return "another process"
}

// listenInode finds the socket that listens on a port in a table of the form of
// /proc/net/tcp; empty when there is none.
func listenInode(table io.Reader, port int) string {
	const listening = "0A"
	suffix := fmt.Sprintf(":%04X", port)
	lines := bufio.NewScanner(table)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) > 9 && fields[3] == listening && strings.HasSuffix(fields[1], suffix) {
			return fields[9]
		}
	}
	return ""
}
