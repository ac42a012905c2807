package kernel_test

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	api "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/config"
	"github.com/holdfast-os/holdfast/internal/kernel"
	"github.com/holdfast-os/holdfast/internal/plan"
)

const gib = 1 << 30

// machine is a server with 16 GiB, a graphics card and a network card with virtual
// functions, beside the disk and the network card that it runs from.
func machine() kernel.Facts {
	values := map[string]string{
		"/proc/sys/vm/nr_hugepages": "0", "/proc/sys/net/ipv4/tcp_rmem": "4096 131072 6291456", "/proc/sys/net/ipv4/tcp_wmem": "4096 16384 4194304",
		"/proc/sys/net/core/rmem_max": "212992", "/proc/sys/net/core/wmem_max": "212992", "/proc/sys/net/core/netdev_max_backlog": "1000",
		"/proc/sys/net/core/default_qdisc": "fq", "/proc/sys/net/ipv4/tcp_congestion_control": "bbr", "/proc/sys/net/ipv4/tcp_mtu_probing": "0",
		"/cpu/policy0": "schedutil", "/cpu/policy1": "schedutil",
	}
	originals := map[string]string{}
	for path, value := range values {
		originals[path] = value
	}
	return kernel.Facts{
		Memory: 16 * gib, HugepageSize: 2 << 20, Governors: []string{"performance", "schedutil"}, GovernorFiles: []string{"/cpu/policy0", "/cpu/policy1"},
		CongestionControls: []string{"bbr", "cubic"}, QueuingDisciplines: []string{"cake", "fq"}, Values: values, Originals: originals,
		Files: map[string]string{}, Modules: []string{"ixgbe", "nouveau", "zfs"},
		NeededModules: map[string]string{"ixgbe": "network card eth0 is in use"},
		PCI: map[string]kernel.Device{
			"0000:00:01.0": {Vendor: "8086", Product: "0001", Class: "060400", Driver: "pcieport"},
			"0000:01:00.0": {Vendor: "10de", Product: "2204", Class: "030000", Driver: "nouveau", Group: []string{"0000:00:01.0", "0000:01:00.1"}},
			"0000:01:00.1": {Vendor: "10de", Product: "1aef", Class: "040300", Driver: "snd_hda_intel", Group: []string{"0000:01:00.0"}},
			"0000:02:00.0": {Vendor: "8086", Product: "10fb", Class: "020000", Driver: "ixgbe", TotalVFs: 63, Needed: "network card eth0 is in use"},
			"0000:02:00.1": {Vendor: "8086", Product: "1572", Class: "020000", Driver: "i40e", TotalVFs: 8, NumVFs: 4},
			"0000:03:00.0": {Vendor: "144d", Product: "a808", Class: "010802", Driver: "nvme", Needed: "disk nvme0n1 is in use"},
			"0000:04:00.0": {Vendor: "10de", Product: "1db6", Class: "030200", Driver: "vfio-pci"},
		},
		IOMMU: true, Terminals: []string{"tty1", "tty2", "ttyS0", "ttyS1"}, ZramAvailable: true,
	}
}

func rules(all config.Problems) []string {
	var out []string
	for _, p := range all {
		out = append(out, p.Path+" "+p.Rule)
	}
	return out
}

// What a machine cannot do, or the node would not survive, is told before it is tried;
// all of it at once.
func TestCheck_WrongConfiguration_GivesEveryProblem(t *testing.T) {
	type c = api.KernelConfig
	pt := func(vendor, product, address string) api.KernelPassthrough {
		return api.KernelPassthrough{VendorID: vendor, ProductID: product, PCIAddress: address}
	}
	pci := func(list ...api.KernelPassthrough) c { return c{PCI: &api.KernelPCI{Passthrough: list}} }
	sriov := func(list ...api.KernelSRIOV) c { return c{PCI: &api.KernelPCI{SRIOV: list}} }
	for name, test := range map[string]struct {
		config c
		want   []string
	}{
		"console": {c{Console: []api.KernelConsole{{Device: "/dev/sda"}, {Device: "ttyS1", BaudRate: 12345}, {Device: "/dev/ttyS1"}, {Device: "ttyS9"}, {Device: "tty2", BaudRate: 9600}}},
			[]string{"console[0].device terminal", "console[1].baud_rate speed", "console[2].device unique", "console[3].device exists", "console[4].baud_rate serial"}},
		"modules": {c{BlacklistModules: []string{"zfs", "dm-verity", "ixgbe", "a b", "nouveau\ninstall x /bin/sh", "nouveau", "nouveau"}},
			[]string{"blacklist_modules[0] needed", "blacklist_modules[1] needed", "blacklist_modules[2] needed", "blacklist_modules[3] module", "blacklist_modules[4] module", "blacklist_modules[6] unique"}},
		"too many modules": {c{BlacklistModules: make([]string, 101)}, []string{"blacklist_modules limit"}},
		"governor":         {c{CPU: &api.KernelCPU{ScalingGovernor: "powersave"}}, []string{"cpu.scaling_governor available"}},
		"negative":         {c{Memory: &api.KernelMemory{PersistentHugepages: -1, ZramSwapSize: "-1GiB"}}, []string{"memory.persistent_hugepages positive", "memory.zram_swap_size size"}},
		"more than memory": {c{Memory: &api.KernelMemory{PersistentHugepages: 7681, ZramSwapSize: "17GiB"}, Network: &api.KernelNetwork{BufferSize: 1 << 31}},
			[]string{"memory.persistent_hugepages memory", "memory.zram_swap_size memory", "network.buffer_size range"}},
		"unit forgotten": {c{Memory: &api.KernelMemory{ZramSwapSize: "8"}}, []string{"memory.zram_swap_size size"}},
		"network": {c{Network: &api.KernelNetwork{BufferSize: 1, NetdevMaxBacklog: -1, QueuingDiscipline: "htb", TCPCongestionAlgorithm: "bbr2"}},
			[]string{"network.buffer_size range", "network.netdev_max_backlog range", "network.queuing_discipline available", "network.tcp_congestion_algorithm available"}},
		"passthrough": {pci(pt("10d", "xyz", ""), pt("10de", "2204", "1:0"), pt("10de", "2204", "0000:09:00.0"), pt("10de", "2205", "01:00.0"),
			pt("144d", "a808", "0000:03:00.0"), pt("8086", "10fb", ""), pt("8086", "0001", "0000:00:01.0"), pt("10DE", "0x2204", ""), pt("10de", "2204", "")),
			[]string{"pci.passthrough[0].vendor_id hex", "pci.passthrough[0].product_id hex", "pci.passthrough[1].pci_address address", "pci.passthrough[2].pci_address exists",
				"pci.passthrough[3].pci_address match", "pci.passthrough[4].pci_address needed", "pci.passthrough[5] needed", "pci.passthrough[6].pci_address bridge", "pci.passthrough[8] unique"}},
		"virtual functions": {sriov(api.KernelSRIOV{PCIAddress: "01:00.0", VFCount: 1}, api.KernelSRIOV{PCIAddress: "0000:02:00.1", VFCount: 9},
			api.KernelSRIOV{PCIAddress: "02:00.1", VFCount: -1}, api.KernelSRIOV{PCIAddress: "0000:07:00.0"}),
			[]string{"pci.sriov[0].pci_address sriov", "pci.sriov[1].vf_count range", "pci.sriov[2].pci_address unique", "pci.sriov[2].vf_count positive", "pci.sriov[3].pci_address exists"}},
		"split and given away": {c{PCI: &api.KernelPCI{Passthrough: []api.KernelPassthrough{pt("8086", "1572", "")}, SRIOV: []api.KernelSRIOV{{PCIAddress: "0000:02:00.1", VFCount: 2}}}},
			[]string{"pci.sriov[0].pci_address passthrough"}},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(test.want, rules(kernel.Check(&test.config, machine()))); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// A machine without an IOMMU, frequencies, huge pages or zram says so.
func TestCheck_SmallMachine_SaysWhatItLacks(t *testing.T) {
	facts := machine()
	facts.IOMMU, facts.Governors, facts.HugepageSize, facts.ZramAvailable = false, nil, 0, false
	c := api.KernelConfig{CPU: &api.KernelCPU{ScalingGovernor: "performance"}, Memory: &api.KernelMemory{PersistentHugepages: 1, ZramSwapSize: "1GiB"},
		PCI: &api.KernelPCI{Passthrough: []api.KernelPassthrough{{VendorID: "10de", ProductID: "2204"}}}}
	want := []string{"cpu.scaling_governor available", "memory.persistent_hugepages available", "memory.zram_swap_size available", "pci.passthrough iommu"}
	if diff := cmp.Diff(want, rules(kernel.Check(&c, facts))); diff != "" {
		t.Error(diff)
	}
}

// One spelling is kept of what has several, and defaults are shown.
func TestCheck_GoodConfiguration_IsBroughtIntoOneForm(t *testing.T) {
	c := api.KernelConfig{
		Console: []api.KernelConsole{{Device: "/dev/ttyS1", BaudRate: 115200}, {Device: "ttyUSB0"}}, BlacklistModules: []string{"snd-hda-intel"},
		Memory: &api.KernelMemory{PersistentHugepages: 7680, ZramSwapSize: "16GiB"}, Network: &api.KernelNetwork{TCPMTUProbing: true},
		PCI: &api.KernelPCI{Passthrough: []api.KernelPassthrough{{VendorID: "0x10DE", ProductID: "2204", PCIAddress: "01:00.0"}}, SRIOV: []api.KernelSRIOV{{PCIAddress: "02:00.1", VFCount: 8}}},
	}
	if problems := kernel.Check(&c, machine()); len(problems) > 0 {
		t.Fatal(problems)
	}
	want := api.KernelConfig{
		Console: []api.KernelConsole{{Device: "ttyS1", BaudRate: 115200}, {Device: "ttyUSB0"}}, BlacklistModules: []string{"snd_hda_intel"},
		Memory: &api.KernelMemory{PersistentHugepages: 7680, ZramSwapSize: "16GiB"}, Network: &api.KernelNetwork{NetdevMaxBacklog: 1000, TCPMTUProbing: true},
		PCI: &api.KernelPCI{Passthrough: []api.KernelPassthrough{{VendorID: "10de", ProductID: "2204", PCIAddress: "0000:01:00.0"}}, SRIOV: []api.KernelSRIOV{{PCIAddress: "0000:02:00.1", VFCount: 8}}},
	}
	if diff := cmp.Diff(want, c); diff != "" {
		t.Error(diff)
	}
}

const madeBy = "# Made by Holdfast from system/kernel.\n"

func everything() api.KernelConfig {
	return api.KernelConfig{
		Console: []api.KernelConsole{{Device: "ttyS1"}}, BlacklistModules: []string{"nouveau", "snd_hda_intel"}, CPU: &api.KernelCPU{ScalingGovernor: "performance"},
		Memory:  &api.KernelMemory{PersistentHugepages: 512, ZramSwapSize: "8GiB"},
		Network: &api.KernelNetwork{BufferSize: 16777216, NetdevMaxBacklog: 5000, QueuingDiscipline: "cake", TCPCongestionAlgorithm: "cubic", TCPMTUProbing: true},
		PCI: &api.KernelPCI{Passthrough: []api.KernelPassthrough{{VendorID: "10de", ProductID: "2204", PCIAddress: "0000:01:00.0"}, {VendorID: "10de", ProductID: "1db6"}},
			SRIOV: []api.KernelSRIOV{{PCIAddress: "0000:02:00.1", VFCount: 8}}},
	}
}

// The whole plan of a configuration with everything in it, in its order.
func TestNewPlan_Everything_IsModulesSettingsDevicesSwapGovernor(t *testing.T) {
	sys := "/proc/sys/"
	set := func(path, before, after string) plan.Step {
		return plan.Step{Kind: plan.SetValue, Object: path, Before: before, After: after}
	}
	want := plan.Plan{Reboot: "the node opens its consoles when it starts",
		Notes: []string{"Network devices that exist keep their queuing discipline until the next start.",
			"Device 0000:01:00.0 can be used by a virtual machine only together with 0000:01:00.1, which is in the same IOMMU group."},
		Steps: []plan.Step{
			{Kind: plan.WriteFile, Object: "/run/modprobe.d/99-holdfast-blacklist.conf", After: madeBy + "blacklist nouveau\nblacklist snd_hda_intel\n"},
			{Kind: plan.UseTool, Object: "nouveau", Tool: "kernel-unload", Args: []string{"nouveau"}, Optional: true,
				Why: "module nouveau is loaded; if something uses it, it stays until the next start"},
			{Kind: plan.WriteFile, Object: "/run/sysctl.d/99-holdfast.conf", After: madeBy + "net.core.default_qdisc = cake\nnet.core.netdev_max_backlog = 5000\n" +
				"net.core.rmem_max = 16777216\nnet.core.wmem_max = 16777216\nnet.ipv4.tcp_congestion_control = cubic\nnet.ipv4.tcp_mtu_probing = 1\n" +
				"net.ipv4.tcp_rmem = 4096 65536 16777216\nnet.ipv4.tcp_wmem = 4096 65536 16777216\nvm.nr_hugepages = 512\n"},
			{Kind: plan.UseTool, Object: sys + "vm/nr_hugepages", Before: "0", After: "512", Tool: "kernel-hugepages", Args: []string{"512"}, Optional: true,
				Why: "memory may be too fragmented for all of them until the next start"},
			set(sys+"net/ipv4/tcp_rmem", "4096 131072 6291456", "4096 65536 16777216"), set(sys+"net/ipv4/tcp_wmem", "4096 16384 4194304", "4096 65536 16777216"),
			set(sys+"net/core/rmem_max", "212992", "16777216"), set(sys+"net/core/wmem_max", "212992", "16777216"),
			set(sys+"net/core/netdev_max_backlog", "1000", "5000"), set(sys+"net/core/default_qdisc", "fq", "cake"),
			set(sys+"net/ipv4/tcp_congestion_control", "bbr", "cubic"), set(sys+"net/ipv4/tcp_mtu_probing", "0", "1"),
			{Kind: plan.WriteFile, Object: "/run/modprobe.d/99-holdfast-passthrough.conf", After: madeBy + "options vfio-pci ids=10de:1db6\n"},
			{Kind: plan.UseTool, Object: "0000:01:00.0", Before: "nouveau", After: "vfio-pci", Tool: "kernel-vfio-bind", Args: []string{"0000:01:00.0"}, Why: "the device goes to virtual machines"},
			{Kind: plan.UseTool, Object: "/sys/bus/pci/devices/0000:02:00.1/sriov_numvfs", Before: "4", After: "8", Tool: "kernel-sriov", Args: []string{"0000:02:00.1", "8"},
				Why: "the virtual functions there are vanish, since the kernel changes their number only from none"},
			{Kind: plan.UseTool, Object: "/dev/zram0", Before: "0", After: "8589934592", Tool: "kernel-zram", Args: []string{"8589934592"}},
			set("/cpu/policy0", "schedutil", "performance"), set("/cpu/policy1", "schedutil", "performance"),
		}}
	if diff := cmp.Diff(want, kernel.NewPlan(api.KernelConfig{}, everything(), machine())); diff != "" {
		t.Error(diff)
	}
}

// A node that is already as its owner wants it is left alone; so a second start in the
// same boot changes nothing.
func TestNewPlan_MachineAlreadySo_IsEmpty(t *testing.T) {
	c, facts := everything(), machine()
	applyTo(&facts, kernel.NewPlan(api.KernelConfig{}, c, facts))
	facts.PCI["0000:01:00.1"] = kernel.Device{} // without a driver it is in nobody's way
	if diff := cmp.Diff(plan.Plan{}, kernel.NewPlan(c, c, facts)); diff != "" {
		t.Error(diff)
	}
}

// What is taken back returns to what it was when the node started; only the compressed
// swap stays, since an empty size leaves it.
func TestNewPlan_EverythingTakenBack_ReturnsToTheStart(t *testing.T) {
	c, facts := everything(), machine()
	start := machine()
	applyTo(&facts, kernel.NewPlan(api.KernelConfig{}, c, facts))
	back := kernel.NewPlan(c, api.KernelConfig{}, facts)
	applyTo(&facts, back)
	start.ZramSize = 8 * gib
	start.Modules = []string{"ixgbe", "zfs"}
	device := start.PCI["0000:02:00.1"]
	device.NumVFs = 0
	start.PCI["0000:02:00.1"] = device
	for _, address := range []string{"0000:01:00.0", "0000:04:00.0"} {
		device := start.PCI[address]
		device.Driver = ""
		start.PCI[address] = device
	}
	if diff := cmp.Diff(start, facts); diff != "" {
		t.Error(diff)
	}
}

// "0" removes the compressed swap, and an equal size, rounded by the kernel, is none.
func TestNewPlan_ZramSizes_ChangeOnlyWhatDiffers(t *testing.T) {
	facts := machine()
	facts.ZramSize = 1<<30 + 4096
	got := map[string]int{}
	for _, size := range []string{"", "0", "1GiB", "2GiB"} {
		p := kernel.NewPlan(api.KernelConfig{}, api.KernelConfig{Memory: &api.KernelMemory{ZramSwapSize: size}}, facts)
		got[size] = len(p.Steps)
	}
	if diff := cmp.Diff(map[string]int{"": 0, "0": 1, "1GiB": 0, "2GiB": 1}, got); diff != "" {
		t.Error(diff)
	}
}

// applyTo does to the facts what a plan says.
func applyTo(f *kernel.Facts, p plan.Plan) {
	for _, s := range p.Steps {
		device := f.PCI[s.Object]
		switch s.Tool {
		case kernel.ToolBind:
			device.Driver = "vfio-pci"
			f.PCI[s.Object] = device
		case kernel.ToolRelease:
			device.Driver = ""
			f.PCI[s.Object] = device
		case kernel.ToolSRIOV:
			device = f.PCI[s.Args[0]]
			device.NumVFs = map[string]int{"0": 0, "8": 8}[s.Args[1]]
			f.PCI[s.Args[0]] = device
		case kernel.ToolZram:
			f.ZramSize = 8 * gib
		case kernel.ToolUnload:
			f.Modules = []string{"ixgbe", "zfs"}
		}
		switch {
		case s.Kind == plan.WriteFile:
			f.Files[s.Object] = s.After
		case s.Kind == plan.RemoveFile:
			delete(f.Files, s.Object)
		case s.Kind == plan.SetValue || s.Tool == kernel.ToolHugepages:
			f.Values[s.Object] = s.After
		}
	}
}

// Early boot writes these before the first module is loaded.
func TestModprobeFiles_Configuration_NamesModulesAndKinds(t *testing.T) {
	want := map[string]string{"/run/modprobe.d/99-holdfast-blacklist.conf": madeBy + "blacklist nouveau\nblacklist snd_hda_intel\n",
		"/run/modprobe.d/99-holdfast-passthrough.conf": madeBy + "options vfio-pci ids=10de:1db6\n"}
	if diff := cmp.Diff(want, kernel.ModprobeFiles(everything())); diff != "" {
		t.Error(diff)
	}
	if files := kernel.ModprobeFiles(api.KernelConfig{}); len(files) != 0 {
		t.Errorf("got %v", files)
	}
}

func TestParseSize_Sizes_AreBytes(t *testing.T) {
	got := map[string]int64{}
	for _, text := range []string{"0", "1024", "8GiB", "8 GiB", "1kB", "1KiB", "2TB", "", "GiB", "1.5GiB", "-1", "8gib", "9999999TiB", "99999999999999999999", "0x10", "1GiBGiB"} {
		size, err := kernel.ParseSize(text)
		if err != nil {
			size = -1
		}
		got[text] = size
	}
	want := map[string]int64{"0": 0, "1024": 1024, "8GiB": 8589934592, "8 GiB": 8589934592, "1kB": 1000, "1KiB": 1024, "2TB": 2000000000000, "": -1, "GiB": -1,
		"1.5GiB": -1, "-1": -1, "8gib": -1, "9999999TiB": -1, "99999999999999999999": -1, "0x10": -1, "1GiBGiB": -1}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func FuzzParseSize(f *testing.F) {
	f.Add("8GiB")
	f.Fuzz(func(t *testing.T, text string) {
		if size, err := kernel.ParseSize(text); err == nil && size < 0 {
			t.Errorf("%q is %d", text, size)
		}
	})
}

// Problems are an error, as every caller expects.
func TestCheck_Problems_AreAnError(t *testing.T) {
	c := api.KernelConfig{BlacklistModules: []string{"zfs"}}
	var problems config.Problems
	if err := kernel.Check(&c, machine()).Err(); !errors.As(err, &problems) || len(problems) != 1 {
		t.Errorf("got %v", err)
	}
}
