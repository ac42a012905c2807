package simulate

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"

	"github.com/holdfast-os/holdfast/internal/kernel"
	"github.com/holdfast-os/holdfast/internal/plan"
	"github.com/holdfast-os/holdfast/internal/services"
)

// What every simulated machine has, in bytes.
const (
	memory   = 16 << 30
	hugepage = 2 << 20
)

const governorFile = "/sys/devices/system/cpu/cpufreq/policy%d/scaling_governor"

// PCI addresses of the devices that can be given away.
const (
	pciGPU  = "0000:01:00.0"
	pciCard = "0000:02:00.0"
	pciDisk = "0000:03:00.0"
)

// hardware is what plans change, and what the next plan looks at.
type hardware struct {
	mu       *sync.Mutex
	files    map[string]string
	values   map[string]string
	running  map[string]bool
	modules  []string
	pci      map[string]kernel.Device
	zram     int64
	sessions []services.ISCSISession
}

// originals are the kernel's values at the start of a machine. Nobody writes to it.
var originals = map[string]string{
	"/proc/sys/vm/nr_hugepages":                 "0",
	"/proc/sys/net/ipv4/tcp_rmem":               "4096 131072 6291456",
	"/proc/sys/net/ipv4/tcp_wmem":               "4096 16384 4194304",
	"/proc/sys/net/core/rmem_max":               "212992",
	"/proc/sys/net/core/wmem_max":               "212992",
	"/proc/sys/net/core/netdev_max_backlog":     "1000",
	"/proc/sys/net/core/default_qdisc":          "fq_codel",
	"/proc/sys/net/ipv4/tcp_congestion_control": "cubic",
	"/proc/sys/net/ipv4/tcp_mtu_probing":        "0",
	fmt.Sprintf(governorFile, 0):                "schedutil",
	fmt.Sprintf(governorFile, 1):                "schedutil",
}

func newHardware() hardware {
	return hardware{
		mu: new(sync.Mutex), files: map[string]string{}, values: maps.Clone(originals), running: map[string]bool{},
		modules: []string{"bridge", "dm_crypt", "igb", "kvm", "nouveau", "nvme", "zfs"},
		pci: map[string]kernel.Device{
			pciGPU:  {Vendor: "10de", Product: "2204", Class: "030000", Driver: "nouveau"},
			pciCard: {Vendor: "8086", Product: "1521", Class: "020000", Driver: "igb", TotalVFs: 8},
			pciDisk: {Vendor: "144d", Product: "a808", Class: "010802", Driver: "nvme", Needed: "it holds disk nvme0n1, which is in use"},
		},
	}
}

// kernelFacts are the machine as internal/kernel looks at it.
func (h *hardware) kernelFacts() kernel.Facts {
	h.mu.Lock()
	defer h.mu.Unlock()
	return kernel.Facts{
		Memory: memory, HugepageSize: hugepage,
		Governors: []string{"performance", "powersave", "schedutil"}, GovernorFiles: []string{fmt.Sprintf(governorFile, 0), fmt.Sprintf(governorFile, 1)},
		CongestionControls: []string{"bbr", "cubic", "reno"}, QueuingDisciplines: kernel.QueuingDisciplines(),
		Values: maps.Clone(h.values), Originals: originals, Files: maps.Clone(h.files), Modules: slices.Clone(h.modules),
		NeededModules: map[string]string{"nvme": "it drives the disk that the node runs from"}, PCI: maps.Clone(h.pci), IOMMU: true,
		Terminals: []string{"tty1", "tty2", "tty3", "ttyS0", "ttyS1"}, ZramAvailable: true, ZramSize: h.zram,
	}
}

// hands carry plans out on the hardware.
type hands struct {
	n     *Node
	point string
}

func (n *Node) hands(point string) hands { return hands{n, point} }

// Do is part of daemon.Hands.
func (h hands) Do(ctx context.Context, p plan.Plan) error {
	for i, step := range p.Steps {
		err := h.n.faults.step(ctx, h.point, i)
		if err == nil {
			err = h.n.hardware.do(step)
		}
		if err != nil {
			return fmt.Errorf("%s %s: %w", step.Kind, step.Object, err)
		}
	}
	return h.n.faults.step(ctx, h.point, len(p.Steps))
}

// do takes one step.
func (h *hardware) do(s plan.Step) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch s.Kind {
	case plan.WriteFile:
		h.files[s.Object] = s.After
	case plan.RemoveFile:
		delete(h.files, s.Object)
	case plan.SetValue:
		h.values[s.Object] = s.After
	case plan.StartUnit, plan.RestartUnit, plan.ReloadUnit:
		h.running[s.Object] = true
	case plan.StopUnit:
		delete(h.running, s.Object)
	case plan.UseTool:
		return h.tool(s)
	}
	return nil
}

// tool does what only a tool can do. One that leaves no trace in what the node shows is
// taken as done.
func (h *hardware) tool(s plan.Step) error {
	switch s.Tool {
	case kernel.ToolUnload:
		h.modules = slices.DeleteFunc(h.modules, func(name string) bool { return name == s.Args[0] })
	case kernel.ToolHugepages:
		h.values[s.Object] = s.Args[0]
	case kernel.ToolBind, kernel.ToolRelease:
		device, found := h.pci[s.Args[0]]
		if !found {
			return fmt.Errorf("there is no device %s", s.Args[0])
		}
		device.Driver = map[bool]string{true: "vfio-pci", false: newHardware().pci[s.Args[0]].Driver}[s.Tool == kernel.ToolBind]
		h.pci[s.Args[0]] = device
	case kernel.ToolSRIOV:
		count, err := strconv.Atoi(s.Args[1])
		if err != nil {
			return err
		}
		device := h.pci[s.Args[0]]
		device.NumVFs = count
		h.pci[s.Args[0]] = device
	case kernel.ToolZram:
		size, err := strconv.ParseInt(s.Args[0], 10, 64)
		if err != nil {
			return err
		}
		h.zram = size
	case services.ToolISCSILogin, services.ToolISCSILogout:
		return h.iscsi(s)
	}
	return nil
}

func (h *hardware) iscsi(s plan.Step) error {
	port, err := strconv.Atoi(s.Args[2])
	if err != nil {
		return err
	}
	session := services.ISCSISession{Target: s.Args[0], Address: s.Args[1], Port: port, State: "LOGGED_IN"}
	h.sessions = slices.DeleteFunc(slices.Clone(h.sessions), func(one services.ISCSISession) bool { return one == session })
	if s.Tool == services.ToolISCSILogin {
		h.sessions = append(h.sessions, session)
	}
	return nil
}

// look gives what a file and a unit are.
func (h *hardware) look(file, unit string) (text string, running bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.files[file], h.running[unit]
}
