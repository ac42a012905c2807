// Package peers is the other side of a node's network: a switch, and servers behind it,
// each the real program of a distribution.
//
// The parties. A Side owns all that was started and ends it, the last first. A Switch is
// Open vSwitch with its datapath in user space, since the kernel of a test computer may
// have neither VLANs nor bonds: the node's cards come to it as tap devices, the servers
// as veth pairs. A Namespace is a computer with its own network on that switch; programs
// run in it, and this process dials and listens in it.
//
// What always holds: names of devices and namespaces begin with "hf" and the number of
// this process, so that two tests do not meet, and what a killed process left behind is
// removed by the next one. Programs are started in the foreground, with their settings,
// sockets and logs in the Side's folder, and die with this process. No service of this
// computer is touched. Frames have all their checksums: programs read them, not a kernel.
//
// What can fail: a program is not installed (Missing names it, with its package), or it
// ends at once (the error has the last lines of its log).
package peers

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"github.com/holdfast-os/holdfast/internal/system/run"
)

// Packages are Debian's packages of the programs that this package starts, by program.
var Packages = map[string]string{
	"chronyd": "chrony", "dnsmasq": "dnsmasq-base", "ethtool": "ethtool", "ip": "iproute2",
	"kadmin.local": "krb5-admin-server", "kdb5_util": "krb5-kdc", "krb5kdc": "krb5-kdc",
	"openssl": "openssl", "ovs-appctl": "openvswitch-switch", "ovs-vsctl": "openvswitch-switch",
	"ovs-vswitchd": "openvswitch-switch", "ovsdb-server": "openvswitch-switch", "ovsdb-tool": "openvswitch-switch",
	"rsyslogd": "rsyslog", "squid": "squid", "wg": "wireguard-tools", "wireguard-go": "wireguard-go",
	gnutlsModule: "rsyslog-gnutls", kerberosHelper: "squid", basicHelper: "squid",
}

// Files that have to be there beside the programs.
const (
	gnutlsModule   = "/usr/lib/x86_64-linux-gnu/rsyslog/lmnsd_gtls.so"
	kerberosHelper = "/usr/lib/squid/negotiate_kerberos_auth"
	basicHelper    = "/usr/lib/squid/basic_ncsa_auth"
)

// Missing names what of Packages is not on this computer, as "squid (package squid)";
// empty when all is there.
func Missing() string {
	var missing []string
	for name, deb := range Packages {
		if _, err := exec.LookPath(name); err != nil && !isFile(name) {
			missing = append(missing, fmt.Sprintf("%s (package %s)", name, deb))
		}
	}
	return strings.Join(missing, ", ")
}

func isFile(path string) bool {
	info, err := os.Stat(path)
	return filepath.IsAbs(path) && err == nil && info.Mode().IsRegular()
}

// Side is all that one test has started. It is not for several goroutines at once.
type Side struct {
	dir  string
	undo []func() error
	// launch runs a function on the thread that starts programs.
	launch chan func()
}

// Open makes an empty side and removes what processes that are gone left behind. It must
// run as root.
func Open(ctx context.Context) (*Side, error) {
	if err := sweep(ctx); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", prefix()+"-")
	if err != nil {
		return nil, fmt.Errorf("making a folder for the servers: %w", err)
	}
	// Servers that give up root read their settings here. No key in it opens anything else.
	if err := os.Chmod(dir, 0o755); err != nil {
		return nil, fmt.Errorf("making a folder for the servers: %w", err)
	}
	s := &Side{dir: dir, launch: make(chan func())}
	s.later(func() error { return os.RemoveAll(dir) })
	go func() {
		// A program gets its signal of death when the thread ends that started it.
		runtime.LockOSThread()
		for work := range s.launch {
			work()
		}
	}()
	s.later(func() error { close(s.launch); return nil })
	return s, nil
}

// Close ends and removes everything.
func (s *Side) Close() error {
	var failed []error
	for i := len(s.undo) - 1; i >= 0; i-- {
		failed = append(failed, s.undo[i]())
	}
	s.undo = nil
	return errors.Join(failed...)
}

func (s *Side) later(undo func() error) { s.undo = append(s.undo, undo) }

// File is the path of a file in the side's folder.
func (s *Side) File(name string) string { return filepath.Join(s.dir, name) }

// write makes a file that all may read.
func (s *Side) write(name, text string) (string, error) {
	path := s.File(name)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		return "", fmt.Errorf("writing the settings of a server: %w", err)
	}
	return path, nil
}

// do runs a program to its end.
func do(ctx context.Context, name string, args ...string) (string, error) {
	result, err := run.Host(ctx, run.Command{Name: name, Args: args})
	return string(result.Stdout), err
}

// undoing is for Close, which has no context of its own.
func undoing(name string, args ...string) func() error {
	return func() error {
		_, err := do(context.Background(), name, args...)
		return err
	}
}

// prefix begins all names that this process gives.
func prefix() string { return "hf" + strconv.Itoa(os.Getpid()) }

// Name is a name for a device or a namespace, at most 15 characters with a short end.
func Name(end string) string { return prefix() + end }

// owner is the process that a name belongs to; 0 for a name that is not of this package.
func owner(name string) int {
	digits, ok := strings.CutPrefix(name, "hf")
	if !ok {
		return 0
	}
	end := strings.IndexFunc(digits, func(r rune) bool { return r < '0' || r > '9' })
	if end <= 0 {
		return 0
	}
	pid, err := strconv.Atoi(digits[:end])
	if err != nil {
		return 0
	}
	return pid
}

func gone(name string) bool {
	pid := owner(name)
	if pid == 0 {
		return false
	}
	_, err := os.Stat("/proc/" + strconv.Itoa(pid))
	return errors.Is(err, os.ErrNotExist)
}

// exists counts what cannot be looked at as there.
func exists(path string) bool {
	_, err := os.Lstat(path)
	return !errors.Is(err, os.ErrNotExist)
}

// sweep removes the namespaces and devices of processes that are gone; their programs
// died with them.
func sweep(ctx context.Context) error {
	for folder, remove := range map[string][]string{namespaces: {"netns", "delete"}, "/sys/class/net": {"link", "delete"}} {
		entries, err := os.ReadDir(folder)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("looking for what was left behind: %w", err)
		}
		for _, entry := range entries {
			if !gone(entry.Name()) {
				continue
			}
			// The other end of a pair may have taken it along, also a moment later: the
			// kernel empties a deleted namespace after it has answered.
			path := filepath.Join(folder, entry.Name())
			if _, err := do(ctx, "ip", append(remove, entry.Name())...); err != nil && exists(path) {
				return fmt.Errorf("removing what was left behind: %w", err)
			}
		}
	}
	return nil
}
