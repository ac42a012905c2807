//go:build linux

package host

import (
	"context"
	"errors"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	api "github.com/holdfast-os/holdfast/api/os"
	domain "github.com/holdfast-os/holdfast/internal/kernel"
	"github.com/holdfast-os/holdfast/internal/plan"
	"github.com/holdfast-os/holdfast/internal/system/kernel"
	"github.com/holdfast-os/holdfast/internal/system/run"
	"github.com/holdfast-os/holdfast/test/needs"
)

// kernelFacts reads this kernel's network settings, with the originals below keep.
func kernelFacts(t *testing.T, originals map[string]string) domain.Facts {
	t.Helper()
	host := kernel.Host{Root: "/", Run: run.Host}
	seen, err := host.Facts(t.Context(), kernel.Ask{Settings: domain.Settings(), Files: domain.FilePaths(), Qdiscs: domain.QueuingDisciplines()})
	if err != nil {
		t.Fatal(err)
	}
	seen.Originals = originals
	return domain.Facts(seen)
}

// A real kernel takes the values of a plan, is then as its owner wants it, and gets its
// own values back. It happens in a network namespace of its own.
func TestKernel_NetworkSettings_HoldAndAreTakenBack(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("missing: root, for a network namespace")
	}
	runtime.LockOSThread() // never unlocked: the thread ends with its namespace
	if err := unix.Unshare(unix.CLONE_NEWNET); errors.Is(err, unix.EPERM) {
		t.Skip("missing: the right to make a network namespace")
	} else if err != nil {
		t.Fatal(err)
	}
	const probing, control = "/proc/sys/net/ipv4/tcp_mtu_probing", "/proc/sys/net/ipv4/tcp_congestion_control"
	before := kernelFacts(t, nil)
	originals := maps.Clone(before.Values)
	wanted := map[string]string{probing: "1", control: "reno"}
	if originals[control] == "reno" {
		wanted[control] = "cubic"
	}
	c := api.KernelConfig{Network: &api.KernelNetwork{TCPMTUProbing: true, TCPCongestionAlgorithm: wanted[control]}}
	if problems := domain.Check(&c, before); len(problems) > 0 {
		t.Fatal(problems)
	}
	c.Network.NetdevMaxBacklog = 0 // this one is not of a namespace alone
	for _, change := range []struct {
		next api.KernelConfig
		want map[string]string
	}{{c, wanted}, {api.KernelConfig{}, map[string]string{probing: originals[probing], control: originals[control]}}} {
		for _, step := range domain.NewPlan(api.KernelConfig{}, change.next, kernelFacts(t, originals)).Steps {
			if step.Kind != plan.SetValue {
				continue
			}
			if err := os.WriteFile(step.Object, []byte(step.After), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		now := kernelFacts(t, originals)
		if diff := cmp.Diff(change.want, map[string]string{probing: now.Values[probing], control: now.Values[control]}); diff != "" {
			t.Error(diff)
		}
	}
}

// The compressed swap is made, told about, made larger, and removed again.
func TestKernel_ZramSwap_IsMadeChangedAndRemoved(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("missing: root, to use swap")
	}
	needs.Programs(t, "mkswap", "swapon", "swapoff")
	if _, err := os.Stat("/sys/block/zram0"); err != nil {
		needs.Programs(t, "modprobe")
		if err := exec.CommandContext(t.Context(), "modprobe", "zram").Run(); err != nil {
			t.Skip("missing kernel module: zram")
		}
	}
	if _, err := os.Stat("/dev/zram0"); err != nil {
		t.Skip("missing device: /dev/zram0")
	}
	host := kernel.Host{Root: "/", Run: run.Host}
	if raw, err := os.ReadFile("/sys/block/zram0/disksize"); err != nil || strings.TrimSpace(string(raw)) != "0" {
		t.Skip("missing: a zram0 that nobody uses")
	}
	t.Cleanup(func() {
		if err := host.Zram(context.Background(), []string{"0"}); err != nil {
			t.Error(err)
		}
	})
	got := []int64{}
	for _, size := range []string{"16777216", "33554432", "0"} {
		if err := host.Zram(t.Context(), []string{size}); err != nil {
			if errors.Is(err, unix.EPERM) {
				t.Skip("missing: the right to use zram")
			}
			t.Fatal(err)
		}
		state, err := host.State(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if state.Memory == nil {
			got = append(got, 0)
			continue
		}
		got = append(got, state.Memory.ZramSwap.DiskSize)
	}
	if diff := cmp.Diff([]int64{16777216, 33554432, 0}, got); diff != "" {
		t.Error(diff)
	}
}

// The speed of a line is what the terminal says afterwards.
func TestKernel_ConsoleSpeed_IsWhatTheTerminalHas(t *testing.T) {
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("missing: %v", err)
	}
	defer master.Close()
	var number int
	control, err := master.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var failed error
	if err := control.Control(func(fd uintptr) {
		if failed = unix.IoctlSetPointerInt(int(fd), unix.TIOCSPTLCK, 0); failed == nil {
			number, failed = unix.IoctlGetInt(int(fd), unix.TIOCGPTN)
		}
	}); err != nil || failed != nil {
		t.Fatal(err, failed)
	}
	name := filepath.Join("pts", strconv.Itoa(number))
	if err := (kernel.Host{Root: "/"}).SetSpeed(name, 57600); err != nil {
		t.Fatal(err)
	}
	terminal, err := unix.Open("/dev/"+name, unix.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(terminal)
	settings, err := unix.IoctlGetTermios(terminal, unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	if got := settings.Cflag & unix.CBAUD; got != unix.B57600 {
		t.Errorf("the speed is %#x, not %#x", got, uint32(unix.B57600))
	}
}
