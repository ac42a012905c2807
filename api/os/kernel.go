package os

import (
	"fmt"
	"strings"
)

// Kernel is /1.0/system/kernel.
type Kernel struct {
	// Config is what the owner asked for.
	Config KernelConfig `json:"config" yaml:"config"`
	// State is what the node observes; it is ignored in a request.
	State KernelState `json:"state" yaml:"state"`
}

// KernelConfig is what the owner asked for. Its field "console" is also the seed named
// "kernel".
type KernelConfig struct {
	// Console are further consoles that show the node's screen, beside those that the
	// kernel uses; default none. They hold from the next start of the node.
	Console []KernelConsole `json:"console,omitempty" yaml:"console,omitempty"`
	// BlacklistModules are names of kernel modules that are not loaded for a device by
	// themselves; default none. One that is loaded already is unloaded if nothing uses it.
	BlacklistModules []string `json:"blacklist_modules,omitempty" yaml:"blacklist_modules,omitempty"`
	// CPU is about the processors; default: as the kernel has it.
	CPU *KernelCPU `json:"cpu,omitempty" yaml:"cpu,omitempty"`
	// Memory is about memory and swap; default: as the image has it.
	Memory *KernelMemory `json:"memory,omitempty" yaml:"memory,omitempty"`
	// Network tunes the network; default: as the image has it.
	Network *KernelNetwork `json:"network,omitempty" yaml:"network,omitempty"`
	// PCI gives PCI devices to virtual machines; default none.
	PCI *KernelPCI `json:"pci,omitempty" yaml:"pci,omitempty"`
}

// KernelConsole is a console that shows the node's screen.
type KernelConsole struct {
	// Device is a terminal below /dev, as "ttyS1" or "/dev/ttyS1". Allowed are tty1 to
	// tty63, and serial lines (ttyS, ttyAMA, ttyUSB, ttyACM, hvc with their number).
	Device string `json:"device" yaml:"device"`
	// BaudRate is the speed of a serial line in bits per second, one of 1200, 2400,
	// 4800, 9600, 19200, 38400, 57600, 115200, 230400, 460800, 500000, 576000, 921600,
	// 1000000, 1500000; default 0: as the firmware or the kernel left it.
	BaudRate int `json:"baud_rate,omitempty" yaml:"baud_rate,omitempty"`
}

// KernelCPU is about the processors.
type KernelCPU struct {
	// ScalingGovernor chooses the speed of all processors, as "performance" or
	// "powersave"; allowed are those that the machine has. Default: the kernel's own.
	ScalingGovernor string `json:"scaling_governor,omitempty" yaml:"scaling_governor,omitempty"`
}

// KernelMemory is about memory and swap.
type KernelMemory struct {
	// PersistentHugepages is how many huge pages of the machine's default size are set
	// aside; default 0. One GiB must remain.
	PersistentHugepages int `json:"persistent_hugepages" yaml:"persistent_hugepages"`
	// ZramSwapSize is the size of a compressed swap in memory, a number with a unit (B,
	// kB, MB, GB, TB, KiB, MiB, GiB, TiB), as "8GiB"; at most the size of the memory.
	// "0" removes it; empty, the default, leaves it as it is.
	ZramSwapSize string `json:"zram_swap_size" yaml:"zram_swap_size"`
}

// KernelNetwork tunes the network.
type KernelNetwork struct {
	// BufferSize is the most that a socket may buffer in one direction, in bytes;
	// default 0: as the kernel has it. At least 65536, at most 2147483647.
	BufferSize int `json:"buffer_size,omitempty" yaml:"buffer_size,omitempty"`
	// NetdevMaxBacklog is how many received packets may wait for a processor; default
	// 1000, at most 1000000.
	NetdevMaxBacklog int `json:"netdev_max_backlog,omitempty" yaml:"netdev_max_backlog,omitempty"`
	// QueuingDiscipline orders the packets of new network devices, as "fq" or "cake";
	// allowed are those of the kernel that work without settings. Default: the image's.
	QueuingDiscipline string `json:"queuing_discipline,omitempty" yaml:"queuing_discipline,omitempty"`
	// TCPCongestionAlgorithm is how fast TCP sends, as "bbr" or "cubic"; allowed are
	// those of the kernel. Default: the image's.
	TCPCongestionAlgorithm string `json:"tcp_congestion_algorithm,omitempty" yaml:"tcp_congestion_algorithm,omitempty"`
	// TCPMTUProbing has TCP find the size of packets when a router on the way swallows
	// large ones; default false. 1 and 0 are read as true and false.
	TCPMTUProbing KernelSwitch `json:"tcp_mtu_probing,omitempty" yaml:"tcp_mtu_probing,omitempty"`
}

// KernelSwitch is on or off. In JSON it is true or false; 1 and 0 are read as well.
type KernelSwitch bool

// UnmarshalJSON reads true, false, 1 or 0; anything else is an error.
func (s *KernelSwitch) UnmarshalJSON(text []byte) error {
	switch strings.TrimSpace(string(text)) {
	case "true", "1":
		*s = true
	case "false", "0", "null":
		*s = false
	default:
		return fmt.Errorf("%.40q is not true or false", text)
	}
	return nil
}

// KernelPCI gives PCI devices to virtual machines.
type KernelPCI struct {
	// Passthrough are devices that the node leaves to virtual machines; default none.
	Passthrough []KernelPassthrough `json:"passthrough,omitempty" yaml:"passthrough,omitempty"`
	// SRIOV are network cards that are split into virtual ones; default none.
	SRIOV []KernelSRIOV `json:"sriov,omitempty" yaml:"sriov,omitempty"`
}

// KernelPassthrough is a device, or a kind of device, that is left to virtual machines.
type KernelPassthrough struct {
	// VendorID is the PCI vendor, four hexadecimal digits, as "10de".
	VendorID string `json:"vendor_id" yaml:"vendor_id"`
	// ProductID is the PCI device, four hexadecimal digits, as "2204".
	ProductID string `json:"product_id" yaml:"product_id"`
	// PCIAddress is one device, as "0000:01:00.0". Default: every device of this kind,
	// from the next start of the node.
	PCIAddress string `json:"pci_address,omitempty" yaml:"pci_address,omitempty"`
}

// KernelSRIOV splits a device into virtual functions.
type KernelSRIOV struct {
	// PCIAddress is the device, as "0000:01:00.0".
	PCIAddress string `json:"pci_address" yaml:"pci_address"`
	// VFCount is the number of virtual functions; 0 is none. At most what the device can.
	VFCount int `json:"vf_count" yaml:"vf_count"`
}

// KernelState is what the node observes.
type KernelState struct {
	// Memory is present when there is something to tell.
	Memory *KernelMemoryState `json:"memory,omitempty" yaml:"memory,omitempty"`
}

// KernelMemoryState is the state of memory and swap.
type KernelMemoryState struct {
	// ZramSwap is present when there is a compressed swap.
	ZramSwap *KernelZramSwap `json:"zram_swap,omitempty" yaml:"zram_swap,omitempty"`
}

// KernelZramSwap is the use of the compressed swap. Sizes are in bytes.
type KernelZramSwap struct {
	// DiskSize is how much fits in before it is compressed.
	DiskSize int64 `json:"disk_size" yaml:"disk_size"`
	// UncompressedSize is what is in it, before compression. The name in JSON is that of
	// IncusOS.
	UncompressedSize int64 `json:"incompressed_size" yaml:"uncompressed_size"`
	// CompressedSize is what is in it, after compression.
	CompressedSize int64 `json:"compressed_size" yaml:"compressed_size"`
	// CompressionRatio is UncompressedSize by TotalMemoryUse; 0 when it is empty.
	CompressionRatio float64 `json:"compression_ratio" yaml:"compression_ratio"`
	// TotalMemoryUse is the memory that it takes, its own tables included.
	TotalMemoryUse int64 `json:"total_memory_use" yaml:"total_memory_use"`
}
