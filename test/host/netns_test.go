//go:build linux

package host

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-os/holdfast/internal/system/networkd"
	"github.com/holdfast-os/holdfast/internal/system/run"
	"github.com/holdfast-os/holdfast/test/needs"
)

// insideVar is set in the process that runs a test inside its own network.
const insideVar = "HOLDFAST_TEST_INSIDE"

// inNetwork runs the calling test again in a new network, mount and process namespace,
// and is true there. Outside it waits for the end and takes the result over. The
// programs named must be there.
func inNetwork(t *testing.T, programs ...string) bool {
	t.Helper()
	if os.Getenv(insideVar) == t.Name() {
		return true
	}
	if os.Geteuid() != 0 {
		t.Skip("missing: root")
	}
	needs.Programs(t, append(programs, "unshare", "ip")...)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// /sys shows the devices of the network that it was mounted in.
	// What ip notes about networks it makes must not outlive them.
	const script = `mount -t sysfs sysfs /sys && mkdir -p /run/netns && mount -t tmpfs tmpfs /run/netns && ip link set lo up && exec "$0" "$@"`
	result, err := run.Host(t.Context(), run.Command{
		Name: "unshare",
		Args: []string{"--net", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc",
			"sh", "-c", script, self, "-test.run", "^" + t.Name() + "$", "-test.v", "-test.count", "1"},
		// networkctl does nothing in a folder that is not the "/" of process 1, unless told.
		Env: []string{insideVar + "=" + t.Name(), "TMPDIR=" + t.TempDir(), "SYSTEMD_IGNORE_CHROOT=1"},
	})
	text := string(result.Stdout)
	switch {
	case err != nil:
		t.Fatalf("inside: %v\n%s", err, text)
	case strings.Contains(text, "--- SKIP: "+t.Name()):
		t.Skip(firstMatch(text, `missing.*`))
	case !strings.Contains(text, "--- PASS: "+t.Name()):
		t.Fatalf("inside: the test did not run\n%s", text)
	}
	return false
}

func firstMatch(text, pattern string) string { return regexp.MustCompile(pattern).FindString(text) }

// ip runs ip, and fails the test when it fails.
func ip(t *testing.T, args string) {
	t.Helper()
	if out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
		t.Fatalf("ip %s: %v: %s", args, err, out)
	}
}

// needKind skips when the kernel has no devices of a kind.
func needKind(t *testing.T, kind string) {
	t.Helper()
	out, err := exec.Command("ip", "link", "add", "probe0", "type", kind).CombinedOutput()
	if err != nil {
		t.Skipf("missing in this kernel: network devices of the kind %s: %s", kind, out)
	}
	ip(t, "link delete dev probe0")
}

// await asks until the condition holds.
func await(t *testing.T, what string, condition func() bool) {
	t.Helper()
	look := time.NewTicker(20 * time.Millisecond)
	defer look.Stop()
	end := time.After(20 * time.Second)
	for !condition() {
		select {
		case <-look.C:
		case <-end:
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// dialFrom dials out of another network, by its name.
func dialFrom(netns, address string, timeout time.Duration) error {
	handle, err := os.Open(filepath.Join("/run/netns", netns))
	if err != nil {
		return err
	}
	defer handle.Close()
	result := make(chan error, 1)
	go func() {
		// The thread is in another network now and must not be used for anything else:
		// without the unlock it ends with the goroutine.
		runtime.LockOSThread()
		if err := unix.Setns(int(handle.Fd()), unix.CLONE_NEWNET); err != nil {
			result <- fmt.Errorf("entering the network: %w", err)
			return
		}
		conn, err := (&net.Dialer{Timeout: timeout}).Dial("tcp", address)
		if err == nil {
			err = conn.Close()
		}
		result <- err
	}()
	return <-result
}

// outcome is what came of dialing, in one word.
func outcome(err error) string {
	var timeout net.Error
	switch {
	case err == nil:
		return "accepted"
	case errors.Is(err, unix.ECONNREFUSED):
		return "refused"
	case errors.As(err, &timeout) && timeout.Timeout():
		return "dropped"
	}
	return err.Error()
}

// fakeUdev are programs that have nothing to do where udev does not run.
var fakeUdev = map[string]bool{"udevadm": true}

// realNetworkd is systemd-networkd of the tools tree with a bus of its own, in the
// present network. It runs in a folder that it sees as "/".
type realNetworkd struct {
	t      *testing.T
	root   string
	daemon *exec.Cmd
	// ran are the commands of the adapter, without what only looks.
	ran []string
}

// newNetworkd sets the folder up; networkd starts with the first restart.
func newNetworkd(t *testing.T) *realNetworkd {
	t.Helper()
	tree := needs.Tree(t, "networkctl", "dbus-daemon")
	if _, err := os.Stat(tree.File("usr/lib/systemd/systemd-networkd")); err != nil {
		needs.MissingBuild(t, "program in the tools tree: systemd-networkd")
	}
	n := &realNetworkd{t: t, root: shortDir(t)} // a socket has a short name
	in := func(name string) string { return filepath.Join(n.root, name) }
	for _, dir := range []string{"usr", "proc", "sys", "dev", "tmp", "run/dbus", "run/systemd/netif", "run/udev"} {
		if err := os.MkdirAll(in(dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, link := range []string{"bin", "sbin", "lib", "lib64"} {
		if err := os.Symlink("usr/"+link, in(link)); err != nil {
			t.Fatal(err)
		}
	}
	writeFile(t, in("etc/passwd"), "root:x:0:0::/:\nsystemd-network:x:998:998::/:\nmessagebus:x:997:997::/:\n")
	writeFile(t, in("etc/group"), "root:x:0:\nsystemd-network:x:998:\nmessagebus:x:997:\n")
	writeFile(t, in("etc/machine-id"), "0123456789abcdef0123456789abcdef\n")
	// networkd reads all this as another user.
	for _, name := range []string{".", "etc", "run", "run/systemd", "etc/passwd", "etc/group", "etc/machine-id"} {
		if err := os.Chmod(in(name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chown(in("run/systemd/netif"), 998, 998); err != nil {
		t.Fatal(err)
	}
	// A /sys that cannot be written tells networkd that there is no udev to wait for.
	for _, args := range [][]string{
		{"--bind", tree.File("usr"), in("usr")}, {"-t", "proc", "proc", in("proc")}, {"-t", "sysfs", "-o", "ro", "sysfs", in("sys")},
		{"--rbind", "/dev", in("dev")},
	} {
		if out, err := exec.Command("mount", args...).CombinedOutput(); err != nil {
			t.Fatalf("mount %v: %v: %s", args, err, out)
		}
		t.Cleanup(func() { _ = exec.Command("umount", "--lazy", args[len(args)-1]).Run() })
	}
	n.start("/usr/bin/dbus-daemon", "--system", "--nofork", "--nopidfile")
	await(t, "the bus", func() bool { _, err := os.Stat(in("run/dbus/system_bus_socket")); return err == nil })
	return n
}

func (n *realNetworkd) start(name string, args ...string) *exec.Cmd {
	n.t.Helper()
	cmd := exec.Command("chroot", append([]string{n.root, name}, args...)...)
	// What it says is shown when the test fails.
	cmd.Env, cmd.Stdout, cmd.Stderr = append(os.Environ(), "SYSTEMD_LOG_TARGET=console"), os.Stdout, os.Stdout
	if err := cmd.Start(); err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { stop(cmd) })
	return cmd
}

// stop ends a program. That it was killed is not its fault.
func stop(cmd *exec.Cmd) {
	if cmd != nil && cmd.ProcessState == nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
}

func (n *realNetworkd) host() networkd.Host { return networkd.Host{Root: n.root, Run: n.run} }

// run is the Runner for the adapter: the real ip and wg, networkctl of the tree, and
// systemctl as far as it is asked for.
func (n *realNetworkd) run(ctx context.Context, c run.Command) (run.Result, error) {
	text := strings.Join(append([]string{c.Name}, c.Args...), " ")
	switch {
	case fakeUdev[c.Name]:
		return run.Result{}, nil
	case text == "systemctl restart systemd-networkd.service":
		n.ran = append(n.ran, "restart")
		stop(n.daemon)
		n.daemon = n.start("/usr/lib/systemd/systemd-networkd")
		await(n.t, "networkd", func() bool {
			result, err := run.Host(ctx, run.Command{Name: "chroot", Args: []string{n.root, "networkctl", "--json=short", "list"}})
			return err == nil && len(result.Stdout) > 0
		})
		return run.Result{}, nil
	case c.Name == "networkctl":
		if c.Args[0] == "reload" {
			n.t.Error("networkd was not asked over the bus")
		}
		c.Args = append([]string{n.root, c.Name}, c.Args...)
		c.Name = "chroot"
	case strings.HasPrefix(text, "ip link"):
		n.ran = append(n.ran, text)
	}
	return run.Host(ctx, c)
}
