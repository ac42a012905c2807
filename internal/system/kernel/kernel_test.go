package kernel_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	api "github.com/holdfast-os/holdfast/api/os"
	domain "github.com/holdfast-os/holdfast/internal/kernel"
	"github.com/holdfast-os/holdfast/internal/system/kernel"
	"github.com/holdfast-os/holdfast/internal/system/run"
)

// put writes files below a root; a text that begins with "-> " is a symbolic link.
func put(t *testing.T, root string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		if target, ok := strings.CutPrefix(text, "-> "); ok {
			err = os.Symlink(target, path)
		} else {
			err = os.WriteFile(path, []byte(text), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func text(t *testing.T, root, name string) string {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// server is a machine with a graphics card, and a disk and a network card in use.
func server(t *testing.T) string {
	t.Helper()
	root, pci := t.TempDir(), "sys/devices/pci0000:00/0000:00:01.0/"
	put(t, root, map[string]string{
		"proc/meminfo": "MemTotal:       16384 kB\nMemFree: 1 kB\nHugepagesize:       2048 kB\n",
		"proc/modules": "nouveau 100 0 - Live 0x0\nixgbe 200 0 - Live 0x0\n", "proc/swaps": "Filename Type Size Used Priority\n/dev/zram0 partition 1 0 100\n",
		"proc/sys/net/ipv4/tcp_available_congestion_control": "reno cubic\n", "proc/sys/net/ipv4/tcp_rmem": "4096\t131072\t6291456\n", "proc/sys/vm/nr_hugepages": "0\n",
		"usr/lib/modules/6.12/modules.dep":                                   "kernel/net/ipv4/tcp_bbr.ko:\nkernel/net/ipv4/tcp_diag.ko.xz: a.ko\nkernel/net/sched/sch_cake.ko:\nkernel/drivers/block/zram/zram.ko: x\n",
		"usr/lib/modules/6.12/modules.builtin":                               "kernel/net/sched/sch_fq_codel.ko\nkernel/drivers/cpufreq/cpufreq_performance.ko\n",
		"sys/devices/system/cpu/cpufreq/policy0/scaling_governor":            "schedutil\n",
		"sys/devices/system/cpu/cpufreq/policy0/scaling_available_governors": "schedutil \n", "sys/devices/system/cpu/cpufreq/policy0/scaling_driver": "acpi-cpufreq\n",
		"sys/class/tty/ttyS0/dev": "4:64\n", "sys/kernel/iommu_groups/1/type": "DMA\n", "sys/block/zram0/disksize": "1073741824\n", "sys/block/zram0/mm_stat": " 8192 100 4096 0 4096 0 0 0 0\n",
		"run/file": "kept\n",
		// the bridge, with the devices behind it
		pci + "vendor": "0x8086\n", pci + "device": "0x0001\n", pci + "class": "0x060400\n",
		pci + "0000:01:00.0/vendor": "0x10de\n", pci + "0000:01:00.0/device": "0x2204\n", pci + "0000:01:00.0/class": "0x030000\n",
		pci + "0000:01:00.0/driver": "-> ../../../../bus/pci/drivers/nouveau", pci + "0000:01:00.0/iommu_group/devices/0000:01:00.0": "", pci + "0000:01:00.0/iommu_group/devices/0000:01:00.1": "",
		pci + "0000:02:00.0/vendor": "0x8086\n", pci + "0000:02:00.0/device": "0x10fb\n", pci + "0000:02:00.0/class": "0x020000\n",
		pci + "0000:02:00.0/driver": "-> ../../../../bus/pci/drivers/ixgbe", pci + "0000:02:00.0/sriov_totalvfs": "63\n", pci + "0000:02:00.0/sriov_numvfs": "2\n",
		pci + "0000:02:00.0/net/eth0/flags": "0x1003\n", pci + "0000:02:00.0/net/eth0/device": "-> ../../",
		pci + "0000:03:00.0/vendor": "0x144d\n", pci + "0000:03:00.0/device": "0xa808\n", pci + "0000:03:00.0/class": "0x010802\n",
		pci + "0000:03:00.0/driver": "-> ../../../../bus/pci/drivers/nvme", pci + "0000:03:00.0/nvme0n1/device": "-> ../",
		"sys/bus/pci/drivers/ixgbe/module": "-> ../../../../module/ixgbe", "sys/bus/pci/drivers/nvme/module": "-> ../../../../module/nvme", "sys/bus/pci/drivers/nouveau/bind": "",
		"sys/bus/pci/devices/0000:00:01.0": "-> ../../../devices/pci0000:00/0000:00:01.0", "sys/bus/pci/devices/0000:01:00.0": "-> ../../../devices/pci0000:00/0000:00:01.0/0000:01:00.0",
		"sys/bus/pci/devices/0000:02:00.0": "-> ../../../devices/pci0000:00/0000:00:01.0/0000:02:00.0", "sys/bus/pci/devices/0000:03:00.0": "-> ../../../devices/pci0000:00/0000:00:01.0/0000:03:00.0",
		"sys/class/net/eth0": "-> ../../devices/pci0000:00/0000:00:01.0/0000:02:00.0/net/eth0", "sys/class/net/lo/flags": "0x9\n",
		"sys/block/nvme0n1": "-> ../devices/pci0000:00/0000:00:01.0/0000:03:00.0/nvme0n1",
	})
	return root
}

func host(root string) kernel.Host {
	return kernel.Host{Root: root, Version: "6.12", Busy: func(device string) (bool, error) { return device == "/dev/nvme0n1", nil }}
}

// What the checks of internal/kernel go by is read from the real files of a kernel.
func TestFacts_Server_AreWhatTheChecksNeed(t *testing.T) {
	root := server(t)
	h, settings := host(root), []string{"/proc/sys/net/ipv4/tcp_rmem", "/proc/sys/vm/nr_hugepages", "/proc/sys/not/there"}
	if err := h.Remember(settings); err != nil {
		t.Fatal(err)
	}
	put(t, root, map[string]string{"proc/sys/vm/nr_hugepages": "7\n"})
	if err := h.Remember(settings); err != nil { // a second time changes nothing
		t.Fatal(err)
	}
	seen, err := h.Facts(t.Context(), kernel.Ask{Settings: settings, Files: []string{"/run/file", "/run/none"}, Qdiscs: []string{"cake", "fq", "fq_codel", "pfifo"}})
	if err != nil {
		t.Fatal(err)
	}
	governor := "/sys/devices/system/cpu/cpufreq/policy0/scaling_governor"
	netNeeded, diskNeeded := "network card eth0 is in use; take it out of the network's configuration first", "disk nvme0n1 is in use"
	want := domain.Facts{
		Memory: 16 << 20, HugepageSize: 2 << 20, Governors: []string{"performance", "schedutil"}, GovernorFiles: []string{governor},
		CongestionControls: []string{"bbr", "cubic", "reno"}, QueuingDisciplines: []string{"cake", "fq_codel", "pfifo"},
		Values:    map[string]string{governor: "schedutil", "/proc/sys/net/ipv4/tcp_rmem": "4096 131072 6291456", "/proc/sys/vm/nr_hugepages": "7"},
		Originals: map[string]string{governor: "schedutil", "/proc/sys/net/ipv4/tcp_rmem": "4096 131072 6291456", "/proc/sys/vm/nr_hugepages": "0"},
		Files:     map[string]string{"/run/file": "kept\n"}, Modules: []string{"ixgbe", "nouveau"},
		NeededModules: map[string]string{"ixgbe": netNeeded, "nvme": diskNeeded},
		PCI: map[string]domain.Device{
			"0000:00:01.0": {Vendor: "8086", Product: "0001", Class: "060400", Needed: netNeeded},
			"0000:01:00.0": {Vendor: "10de", Product: "2204", Class: "030000", Driver: "nouveau", Group: []string{"0000:01:00.1"}},
			"0000:02:00.0": {Vendor: "8086", Product: "10fb", Class: "020000", Driver: "ixgbe", TotalVFs: 63, NumVFs: 2, Needed: netNeeded},
			"0000:03:00.0": {Vendor: "144d", Product: "a808", Class: "010802", Driver: "nvme", Needed: diskNeeded},
		},
		IOMMU: true, Terminals: []string{"ttyS0"}, ZramAvailable: true, ZramSize: 1 << 30,
	}
	if diff := cmp.Diff(want, domain.Facts(seen)); diff != "" {
		t.Error(diff)
	}
}

func TestState_ZramSwap_TellsItsUse(t *testing.T) {
	state, err := host(server(t)).State(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := api.KernelState{Memory: &api.KernelMemoryState{ZramSwap: &api.KernelZramSwap{DiskSize: 1 << 30, UncompressedSize: 8192, CompressedSize: 100, CompressionRatio: 2, TotalMemoryUse: 4096}}}
	if diff := cmp.Diff(want, state); diff != "" {
		t.Error(diff)
	}
}

// record is a Runner that notes what it is asked and can change the machine.
func record(done *[]string, change func(name string)) run.Runner {
	return func(_ context.Context, c run.Command) (run.Result, error) {
		*done = append(*done, c.Name+" "+strings.Join(c.Args, " "))
		if change != nil {
			change(c.Name)
		}
		return run.Result{}, nil
	}
}

// The kernel changes the algorithm and size of zram only while it is empty.
func TestZram_NewSize_EmptiesThenMakesAndUses(t *testing.T) {
	root, done := server(t), []string(nil)
	put(t, root, map[string]string{"sys/block/zram0/reset": "", "sys/block/zram0/comp_algorithm": "[lz4] zstd\n"})
	h := host(root)
	h.Run = record(&done, nil)
	if err := h.Zram(t.Context(), []string{"4294967296"}); err != nil {
		t.Fatal(err)
	}
	done = append(done, text(t, root, "sys/block/zram0/reset"), text(t, root, "sys/block/zram0/comp_algorithm")[:4], strings.TrimSpace(text(t, root, "sys/block/zram0/disksize")))
	want := []string{"swapoff -- /dev/zram0", "mkswap --quiet -- /dev/zram0", "swapon --priority 100 --discard -- /dev/zram0", "1", "zstd", "4294967296"}
	if diff := cmp.Diff(want, done); diff != "" {
		t.Error(diff)
	}
}

// A device leaves its driver and goes to vfio-pci; when the kernel does not take it, that
// is an error and no silent success.
func TestBind_Device_GoesToVFIOOrFails(t *testing.T) {
	for name, takes := range map[string]bool{"taken": true, "not taken": false} {
		t.Run(name, func(t *testing.T) {
			root, done := server(t), []string(nil)
			device := "sys/bus/pci/devices/0000:01:00.0/"
			put(t, root, map[string]string{device + "driver_override": "", "sys/bus/pci/drivers_probe": "", "sys/bus/pci/drivers/nouveau/unbind": ""})
			h := host(root)
			h.Run = record(&done, func(string) {
				if takes { // this kernel is quick: the driver has it as soon as it is there
					if err := os.Remove(filepath.Join(root, device, "driver")); err != nil {
						t.Error(err)
					}
					put(t, root, map[string]string{device + "driver": "-> ../../../../bus/pci/drivers/vfio-pci"})
				}
			})
			err := h.Bind(t.Context(), []string{"0000:01:00.0"})
			if (err == nil) != takes {
				t.Errorf("got %v", err)
			}
			if got := text(t, root, device+"driver_override"); got != "vfio-pci\n" {
				t.Errorf("override is %q", got)
			}
			if !takes {
				if got := text(t, root, "sys/bus/pci/drivers/nouveau/unbind") + " " + text(t, root, "sys/bus/pci/drivers_probe"); got != "0000:01:00.0 0000:01:00.0" {
					t.Errorf("unbound and probed %q", got)
				}
			}
		})
	}
}

// A device is never taken from a running virtual machine: the kernel would wait for it.
func TestReleaseAndSRIOV_DeviceOfARunningMachine_IsRefused(t *testing.T) {
	root := server(t)
	function := "sys/devices/pci0000:00/0000:00:01.0/0000:02:10.0/"
	put(t, root, map[string]string{
		"sys/bus/pci/devices/0000:02:10.0": "-> ../../../devices/pci0000:00/0000:00:01.0/0000:02:10.0",
		function + "driver":                "-> ../../../../bus/pci/drivers/vfio-pci", function + "iommu_group": "-> ../../../../kernel/iommu_groups/7",
		"sys/bus/pci/devices/0000:02:00.0/virtfn0": "-> ../0000:02:10.0",
	})
	h := host(root)
	h.Busy = func(device string) (bool, error) { return device == "/dev/vfio/7", nil }
	if err := h.Release(t.Context(), []string{"0000:02:10.0"}); err == nil {
		t.Error("the device was released")
	}
	if err := h.SRIOV(t.Context(), []string{"0000:02:00.0", "4"}); err == nil {
		t.Error("the functions were removed")
	}
	if got := text(t, root, "sys/bus/pci/devices/0000:02:00.0/sriov_numvfs"); got != "2\n" {
		t.Errorf("the number is %q", got)
	}
	h.Busy = func(string) (bool, error) { return false, nil }
	if err := h.SRIOV(t.Context(), []string{"0000:02:00.0", "4"}); err != nil {
		t.Fatal(err)
	}
	if got := text(t, root, "sys/bus/pci/devices/0000:02:00.0/sriov_numvfs"); got != "4\n" && got != "4" {
		t.Errorf("the number is %q", got)
	}
}

// Arguments come from a plan; a path in place of an address is refused all the same.
func TestTools_ForeignArguments_AreRefused(t *testing.T) {
	h := host(t.TempDir())
	for name, tool := range map[string]func(context.Context, []string) error{"bind": h.Bind, "release": h.Release, "sriov": h.SRIOV, "zram": h.Zram, "hugepages": h.Hugepages, "unload": h.Unload} {
		for _, args := range [][]string{nil, {"../../x", "1", "2"}} {
			if tool(t.Context(), args) == nil {
				t.Errorf("%s took %q", name, args)
			}
		}
	}
	if h.Bind(t.Context(), []string{"../../../etc"}) == nil {
		t.Error("bind took a path")
	}
}

// A person must learn that it is Secure Boot which forbids something.
func TestExplain_LockedDownKernel_SaysSo(t *testing.T) {
	h := host(t.TempDir())
	refused := fmt.Errorf("setting a value: %w", unix.EPERM)
	if got := h.Explain(refused); got != refused {
		t.Errorf("got %v", got)
	}
	put(t, h.Root, map[string]string{"sys/kernel/security/lockdown": "none [integrity] confidentiality\n"})
	want := "setting a value: operation not permitted: under Secure Boot this kernel is locked down (integrity) and does not allow it"
	if got := h.Explain(refused); got.Error() != want || !errors.Is(got, unix.EPERM) {
		t.Errorf("got %v", got)
	}
	if got := h.Explain(unix.EINVAL); got != unix.EINVAL {
		t.Errorf("got %v", got)
	}
}

// The kernel sets fewer pages aside without an error; the owner has to hear of it.
func TestHugepages_FewerThanAsked_IsAnError(t *testing.T) {
	for given, ok := range map[string]bool{"512": true, "100": false} {
		t.Run(given, func(t *testing.T) {
			h := host(t.TempDir())
			put(t, h.Root, map[string]string{"proc/sys/vm/other": ""})
			path := filepath.Join(h.Root, "proc/sys/vm/nr_hugepages")
			if err := unix.Mkfifo(path, 0o600); err != nil {
				t.Fatal(err)
			}
			asked := make(chan string, 1)
			go func() { // the kernel: takes a number, then gives its own
				raw, err := os.ReadFile(path)
				asked <- string(raw)
				if err == nil {
					err = os.WriteFile(path, []byte(given+"\n"), 0o600)
				}
				if err != nil {
					t.Error(err)
				}
			}()
			if err := h.Hugepages(t.Context(), []string{"512"}); (err == nil) != ok {
				t.Errorf("got %v", err)
			}
			if got := <-asked; got != "512" {
				t.Errorf("asked for %q", got)
			}
		})
	}
}
