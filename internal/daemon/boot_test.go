package daemon_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	osapi "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/daemon"
)

func effects(events []string) []string {
	return slices.DeleteFunc(events, func(e string) bool { return strings.HasPrefix(e, "status ") })
}

func states(boot osapi.DebugBoot) map[string]string {
	all := map[string]string{}
	for _, p := range boot.Phases {
		all[p.Name] = p.State
	}
	return all
}

// The order is a promise: network, extensions and pool are there before the applications
// that need them. These three begin together, and so do the keys and the devices.
func TestRun_EverythingWorks_PhasesInOrderThenReady(t *testing.T) {
	w := newWorld()
	w.seed.apps = []string{"incus"}
	f := start(t, w, nil)
	w.wait(t, "status ready")
	<-f.clock.pauses // the console's, behind the last phase
	want := []string{"state", "console", "requirements", "notify ready", "devices", "recovery-keys", "kernel", "security", "logging",
		"extensions", "network", "pools", "provider", "applications", "ensure", "start finished"}
	got := effects(w.log())
	for after, number := range map[string]int{"notify ready": 2, "logging": 3} {
		if first := slices.Index(got, after) + 1; first+number <= len(got) {
			slices.Sort(got[first : first+number])
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	boot := f.daemon.Boot()
	for _, p := range boot.Phases {
		if p.State != "done" || p.StartedAt != 1.5 || p.Error != "" {
			t.Errorf("phase %+v", p)
		}
	}
	server := getAs[osapi.Server](t, f, "/1.0")
	if !server.Environment.SystemIsReady || server.Environment.Hostname != "node1" {
		t.Errorf("got %+v", server)
	}
	if diff := cmp.Diff([]string{"10.0.2.15"}, w.shown.Addresses); diff != "" {
		t.Error(diff)
	}
}

// A provider that is not there yet must not cost the administrator the node: it says what is
// wrong, over its API too, and goes on by itself.
func TestRun_PhaseFails_ApiSaysSoAndItIsTriedAgainSlower(t *testing.T) {
	w := newWorld()
	w.failures["provider"] = slices.Repeat([]error{errors.New("the provider cannot be read\nand neither can its certificate")}, 8)
	f := start(t, w, nil)
	pauses := []time.Duration{<-f.clock.pauses}
	boot := getAs[osapi.DebugBoot](t, f, "/1.0/debug/boot")
	if diff := cmp.Diff(map[string]string{"state": "done", "console": "done", "devices": "done", "requirements": "done", "api": "done",
		"recovery-keys": "done", "rescue": "done", "secure-boot-keys": "done", "kernel": "done", "updates": "done", "security": "done", "network": "done", "logging": "done", "extensions": "done", "pools": "done",
		"provider": "failed", "services": "waiting", "configuration": "waiting", "applications": "waiting", "ready": "waiting"}, states(boot)); diff != "" {
		t.Error(diff)
	}
	if boot.Phases[15].Error != "the provider cannot be read\nand neither can its certificate" {
		t.Errorf("got %+v", boot.Phases[15])
	}
	if getAs[osapi.Server](t, f, "/1.0").Environment.SystemIsReady {
		t.Error("ready with a failed phase")
	}
	for range 7 {
		f.clock.tick <- time.Time{}
		pauses = append(pauses, <-f.clock.pauses)
	}
	f.clock.tick <- time.Time{}
	w.wait(t, "status ready")
	s := time.Second
	if diff := cmp.Diff([]time.Duration{s, 2 * s, 4 * s, 8 * s, 16 * s, 32 * s, 60 * s, 60 * s}, pauses); diff != "" {
		t.Error(diff)
	}
	if !slices.Contains(w.messages, "error: provider: the provider cannot be read") || !slices.Contains(w.messages, "error: provider: and neither can its certificate (next try in 1s)") {
		t.Errorf("the console shows %q", w.messages)
	}
}

// Even before its state is read the node can be asked why it does not start.
func TestRun_StateCannotBeRead_ApiIsUpAndRefusesWhatNeedsState(t *testing.T) {
	w := newWorld()
	fail := true
	var f *fixture
	ready := make(chan struct{})
	f = start(t, w, func() (daemon.Documents, error) {
		<-ready
		if fail {
			fail = false
			return nil, errors.New("input/output error")
		}
		return f.docs, nil
	})
	close(ready)
	<-f.clock.pauses
	boot := getAs[osapi.DebugBoot](t, f, "/1.0/debug/boot")
	if boot.Phases[0].State != "failed" || boot.Phases[0].Error != "input/output error" {
		t.Errorf("got %+v", boot.Phases[0])
	}
	if code, message, _ := call(t, f, "GET", "/1.0/system/update", ""); code != 503 {
		t.Errorf("got %d %s", code, message)
	}
	f.clock.tick <- time.Time{}
	w.wait(t, "status ready")
	if code, message, _ := call(t, f, "GET", "/1.0/system/update", ""); code != 200 {
		t.Errorf("got %d %s", code, message)
	}
}

// A broken disk or card must not keep a node from starting.
func TestRun_DeviceNeverAppears_StartsAndSaysSo(t *testing.T) {
	w := newWorld()
	w.failures["devices"] = []error{errors.New("udev is still busy after a minute")}
	start(t, w, nil)
	w.wait(t, "status ready")
	if want := "warning: starting before all devices have appeared: udev is still busy after a minute"; !slices.Contains(w.messages, want) {
		t.Errorf("the console shows %q", w.messages)
	}
}

// A medium that installs must not look like a node: there is nobody to answer for it.
func TestRun_InstallMode_InstallsAndServesNoApi(t *testing.T) {
	w := newWorld()
	w.installMode = true
	w.failures["install"] = []error{errors.New("no disk is large enough")}
	f := start(t, w, nil)
	<-f.clock.pauses
	w.wait(t, "install")
	f.clock.tick <- time.Time{}
	w.wait(t, "install")
	if diff := cmp.Diff([]string{"notify ready", "console", "devices", "install", "install"}, effects(w.log())); diff != "" {
		t.Error(diff)
	}
	if _, err := os.Stat(filepath.Join(f.root, "run/incus-os/unix.socket")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket: %v", err)
	}
}

// Only root may speak to the socket, and a daemon that was killed can start again.
func TestRun_StaleSocket_IsReplacedAndClosedToOthers(t *testing.T) {
	w := newWorld()
	block := make(chan struct{})
	w.block["requirements"] = block
	f := start(t, w, nil)
	w.wait(t, "requirements")
	dir := filepath.Join(f.root, "run/incus-os")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "unix.socket"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	close(block)
	w.wait(t, "status ready")
	for path, want := range map[string]os.FileMode{dir: os.ModeDir | 0o700, filepath.Join(dir, "unix.socket"): os.ModeSocket | 0o600} {
		info, err := os.Stat(path)
		if err != nil || info.Mode() != want {
			t.Errorf("%s: %v, %v", path, info.Mode(), err)
		}
	}
}

// What the seed says holds for the first start only: later the owner's word counts.
func TestRun_Seeds_AreTakenOnce(t *testing.T) {
	w := newWorld()
	w.seed.update = &osapi.UpdateConfig{Channel: "testing"}
	w.seed.provider = &osapi.ProviderConfig{Name: "images", Config: map[string]string{"server_url": "https://a.example"}}
	w.seed.network = &osapi.NetworkConfig{Interfaces: []osapi.NetworkInterface{{Name: "lan"}}}
	f := start(t, w, nil)
	w.wait(t, "status ready")
	want := osapi.UpdateConfig{Channel: "testing", CheckFrequency: "6h"}
	if diff := cmp.Diff(want, getAs[osapi.Update](t, f, "/1.0/system/update").Config); diff != "" {
		t.Error(diff)
	}
	f.stop()

	w.seed.update, w.seed.provider = &osapi.UpdateConfig{Channel: "other"}, &osapi.ProviderConfig{Name: "images"}
	docs := f.docs
	again := start(t, w, func() (daemon.Documents, error) { return docs, nil })
	w.wait(t, "status ready")
	if diff := cmp.Diff(want, getAs[osapi.Update](t, again, "/1.0/system/update").Config); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(map[string]string{"server_url": "https://a.example"}, w.applied["provider"].(osapi.ProviderConfig).Config); diff != "" {
		t.Error(diff)
	}
	if got := getAs[osapi.Network](t, again, "/1.0/system/network").Config.Interfaces[0].Name; got != "lan" {
		t.Errorf("network %q", got)
	}
}
