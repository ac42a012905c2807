package vm

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/internal/lab"
	"github.com/holdfast-os/holdfast/internal/system/run"
	"github.com/holdfast-os/holdfast/internal/system/swtpm"
	"github.com/holdfast-os/holdfast/test/vm/forge"
	"github.com/holdfast-os/holdfast/test/vm/observe"
)

// execName is the clone of the test variant, which takes commands. It keeps its own
// snapshot, for the next run of the tests and for the benchmarks.
func execName() string { return baseName + "-exec" }

// newTPM gives a stopped machine the TPM of another one.
func (n *node) newTPM(t *testing.T) {
	t.Helper()
	limited, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	tpm := swtpm.TPM{Dir: n.file("tpm"), Socket: n.file("tpm.sock"), PIDFile: n.file("swtpm.pid")}
	if err := swtpm.Setup(limited, run.Host, machines.tools, tpm); err != nil {
		t.Fatal(err)
	}
}

// Only with our own keys in the firmware, and no one else's, does signed mean ours.
func TestSecureBoot_UserModeWithOurKeys(t *testing.T) {
	security, err := shared(t).api.Security(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	cert, err := forge.ReadCertificate(filepath.Join(machines.root, ".keys", "secureboot.crt"))
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(cert.Raw)
	ours := hex.EncodeToString(sum[:])
	got := map[string][]string{}
	for _, c := range security.State.SecureBootCertificates {
		if c.Type != "dbx" {
			got[c.Type] = append(got[c.Type], c.Fingerprint)
		}
	}
	want := map[string][]string{"PK": {ours}, "KEK": {ours}, "db": {ours}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("certificates in the firmware (-want +got):\n%s", diff)
	}
	s := security.State
	if !s.SecureBootEnabled || !s.SystemStateIsTrusted || s.TPMStatus != "ok" {
		t.Errorf("secure boot %v, trusted %v (%s), TPM %q", s.SecureBootEnabled, s.SystemStateIsTrusted, s.SystemStateStatus, s.TPMStatus)
	}
}

// A node has one door. Each further open port is one that somebody has to guard.
func TestNetwork_OnlyIncusListens(t *testing.T) {
	restore(t, lab.Options{Name: execName(), From: baseName, Variant: lab.VariantTest})
	watched(t, newNode(t, execName()))
	limited, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	result, err := machines.lab.Exec(limited, execName(), []string{"ss", "-lntuH"})
	if err != nil {
		t.Fatal(err)
	}
	if result.Code != 0 {
		t.Fatalf("ss ended with %d: %s", result.Code, result.Stderr)
	}
	listeners, err := observe.Listeners(string(result.Stdout))
	if err != nil {
		t.Fatal(err)
	}
	got := []string{}
	for _, l := range listeners {
		dhcp := l.Protocol == "udp" && (l.Port == 68 || l.Port == 546)
		if !l.Local() && !dhcp && !forInstances(l) {
			got = append(got, fmt.Sprintf("%s/%d", l.Protocol, l.Port))
		}
	}
	slices.Sort(got)
	if diff := cmp.Diff([]string{"tcp/8443"}, slices.Compact(got)); diff != "" {
		t.Errorf("open to the network (-want +got):\n%s\n%s", diff, result.Stdout)
	}
}

// forInstances tells whether only the instances on the node's own bridge are served: by
// the device, or by an address out of the ranges that Incus chooses bridges from. The
// node's own address in the lab is in neither.
func forInstances(l observe.Listener) bool {
	private := netip.MustParsePrefix("10.0.0.0/8").Contains(l.Address) && !netip.MustParsePrefix("10.0.2.0/24").Contains(l.Address)
	unique := netip.MustParsePrefix("fd42::/16").Contains(l.Address)
	return l.Device == "incusbr0" || private || unique
}

// forbidden are programs that let a person in, or wait to.
var forbidden = []string{
	"agetty", "ash", "bash", "busybox", "dash", "getty", "login", "mgetty", "rlogind", "sh", "sshd", "su", "sudo",
	"sulogin", "systemd-debug-generator", "systemd-sulogin-shell", "telnetd", "zsh",
}

// expectClosed fails on a process that is a shell or a login. That the list can be
// read is shown by the two programs that must be on it.
func expectClosed(t *testing.T, list []observe.Process) {
	t.Helper()
	found := map[string]bool{}
	for _, p := range list {
		found[p.Name] = true
		if slices.Contains(forbidden, p.Name) || strings.HasPrefix(p.Name, "sshd") {
			t.Errorf("process %d is %s: %s", p.PID, p.Name, p.Command)
		}
	}
	for _, name := range []string{"holdfastd", "incusd"} {
		if !found[name] {
			t.Errorf("%s is not on the list of processes, so the list shows nothing", name)
		}
	}
}

// The node is managed through its API alone; a shell that nobody started is one that
// an intruder did not have to.
func TestProcesses_NoShellNoLogin(t *testing.T) {
	expectClosed(t, shared(t).processes(t))
}

// Whoever stands in front of the machine with a keyboard, or holds its serial cable,
// gets nothing: no login, no shell, no restart.
func TestConsole_InputGivesNothing(t *testing.T) {
	n := fresh(t)
	before := onTerminals(n.processes(t))
	events := n.listen(t)
	press := func(keys ...string) {
		t.Helper()
		type key struct {
			Type string `json:"type"`
			Data string `json:"data"`
		}
		var all []key
		for _, name := range keys {
			all = append(all, key{"qcode", name})
		}
		limited, cancel := context.WithTimeout(t.Context(), shortLimit)
		defer cancel()
		if err := events.Execute(limited, "send-key", map[string]any{"keys": all}, nil); err != nil {
			t.Fatal(err)
		}
	}
	for _, chord := range [][]string{
		{"ret"}, {"r"}, {"o"}, {"o"}, {"t"}, {"ret"}, {"ctrl", "alt", "f2"}, {"ret"}, {"ctrl", "alt", "f9"}, {"ret"},
		{"ctrl", "alt", "delete"}, {"ctrl", "c"}, {"alt", "sysrq", "b"}, {"ctrl", "alt", "f1"},
	} {
		press(chord...)
	}
	if _, err := n.typeOnSerial(t).Write([]byte("\n\x03\nroot\n\x1a\n")); err != nil {
		t.Fatal(err)
	}
	deadline := time.NewTimer(15 * time.Second) // a login would be there within a second or two
	defer deadline.Stop()
	ticker := time.NewTicker(2 * time.Second)
	defer ticker.Stop()
	for {
		list := n.processes(t)
		expectClosed(t, list)
		if diff := cmp.Diff(before, onTerminals(list)); diff != "" {
			t.Errorf("programs on terminals (-before +after):\n%s", diff)
		}
		if t.Failed() {
			return
		}
		select {
		case event := <-events.Events():
			if event.Name == "RESET" || event.Name == "SHUTDOWN" {
				t.Fatalf("the keyboard made the machine do a %s", event.Name)
			}
		case <-ticker.C:
		case <-deadline.C:
			return
		}
	}
}

// onTerminals are the programs that have a terminal.
func onTerminals(list []observe.Process) []string {
	names := []string{}
	for _, p := range list {
		if p.TTY != "?" {
			names = append(names, p.TTY+" "+p.Name)
		}
	}
	slices.Sort(names)
	return names
}
