// Package kernel decides what the owner's settings of the kernel mean on a machine:
// modules that are not loaded, values below /proc/sys and /sys, devices for virtual
// machines, compressed swap.
//
// The parties: an owner writes api.KernelConfig; internal/system/kernel reads the Facts
// of the machine; Check says everything that is wrong with the one on the other;
// NewPlan says what has to be done, and internal/apply does it, with the tools of the
// adapter for what is more than writing a value.
//
// What always holds:
//
//   - Nothing here stays on disk. The files are below /run, since /etc of a node is
//     made anew at each boot, and the plan is carried out again at each start.
//   - A setting that is taken back returns to what the kernel had when the node
//     started (Facts.Originals), without a restart.
//   - A plan looks at the machine and not at the last configuration, where the machine
//     can tell; so it also mends what was changed behind its back.
//   - A module or device that the node itself needs is refused.
//
// What can fail: the kernel may refuse a value although it looked right, since memory is
// fragmented, firmware forbids it, or the kernel is locked down under Secure Boot. What
// is known of that beforehand is a problem or a note; the rest is the error of a step.
package kernel

import (
	"slices"
	"strings"
)

// Where the files of modprobe and sysctl are; both programs read /run before /usr.
const (
	BlacklistFile   = "/run/modprobe.d/99-holdfast-blacklist.conf"
	PassthroughFile = "/run/modprobe.d/99-holdfast-passthrough.conf"
	SysctlFile      = "/run/sysctl.d/99-holdfast.conf"
)

// Tools of internal/system/kernel that plans use, with their arguments.
const (
	// ToolUnload unloads a module: its name.
	ToolUnload = "kernel-unload"
	// ToolHugepages sets huge pages aside and looks whether it got them: their number.
	ToolHugepages = "kernel-hugepages"
	// ToolBind gives a device to vfio-pci: its PCI address.
	ToolBind = "kernel-vfio-bind"
	// ToolRelease gives it back to its own driver: its PCI address.
	ToolRelease = "kernel-vfio-release"
	// ToolSRIOV changes the number of virtual functions: PCI address and number.
	ToolSRIOV = "kernel-sriov"
	// ToolZram makes the compressed swap: its size in bytes, 0 for none.
	ToolZram = "kernel-zram"
)

// Device is a PCI device.
type Device = struct {
	// Vendor and Product are four hexadecimal digits each, lower case.
	Vendor, Product string
	// Class are six hexadecimal digits, as "030000".
	Class string
	// Driver is the driver that has it; empty for none.
	Driver string
	// TotalVFs and NumVFs are virtual functions: those that can be and those that are.
	TotalVFs, NumVFs int
	// Needed says why the node cannot do without it, as "it holds disk nvme0n1, which is
	// in use"; empty when it can.
	Needed string
	// Group are the other devices of its IOMMU group.
	Group []string
}

// Facts are what the machine is. A nil map or list says that it has none of these;
// the zero value of Memory that it is not known.
type Facts struct {
	// Memory is the size of the memory in bytes; HugepageSize that of a huge page.
	Memory, HugepageSize int64
	// Governors are the governors of the processors' speed; none without such a thing.
	Governors []string
	// GovernorFiles are the files that a governor is written to, one for each policy.
	GovernorFiles []string
	// CongestionControls and QueuingDisciplines are those that the kernel has or can load.
	CongestionControls, QueuingDisciplines []string
	// Values are what the kernel has now, by absolute path: the settings that this
	// package knows, and GovernorFiles.
	Values map[string]string
	// Originals are the same as they were when the node started.
	Originals map[string]string
	// Files are the texts of the files that a plan writes, by path; none for one that is
	// not there.
	Files map[string]string
	// Modules are the loaded modules.
	Modules []string
	// NeededModules are modules with the reason why the node cannot do without them.
	NeededModules map[string]string
	// PCI are the devices by address, as "0000:01:00.0".
	PCI map[string]Device
	// IOMMU is true when devices can be given to virtual machines.
	IOMMU bool
	// Terminals are the terminals, as "ttyS0".
	Terminals []string
	// ZramAvailable is true when the kernel has zram; ZramSize is the size of the
	// compressed swap in bytes, 0 for none.
	ZramAvailable bool
	ZramSize      int64
}

// Files of the kernel that this package sets.
const (
	fileHugepages  = "/proc/sys/vm/nr_hugepages"
	fileRmem       = "/proc/sys/net/ipv4/tcp_rmem"
	fileWmem       = "/proc/sys/net/ipv4/tcp_wmem"
	fileRmemMax    = "/proc/sys/net/core/rmem_max"
	fileWmemMax    = "/proc/sys/net/core/wmem_max"
	fileBacklog    = "/proc/sys/net/core/netdev_max_backlog"
	fileQdisc      = "/proc/sys/net/core/default_qdisc"
	fileCongestion = "/proc/sys/net/ipv4/tcp_congestion_control"
	fileProbing    = "/proc/sys/net/ipv4/tcp_mtu_probing"
)

// Settings are the files below /proc/sys whose values belong into the Facts.
func Settings() []string {
	return []string{fileHugepages, fileRmem, fileWmem, fileRmemMax, fileWmemMax, fileBacklog, fileQdisc, fileCongestion, fileProbing}
}

// FilePaths are the files whose texts belong into the Facts.
func FilePaths() []string { return []string{BlacklistFile, PassthroughFile, SysctlFile} }

// moduleName is the name that the kernel uses: modprobe takes "-" for "_".
func moduleName(name string) string { return strings.ReplaceAll(name, "-", "_") }

// needed are modules that every node needs, with the reason.
var needed = map[string]string{
	"dm_mod": "/usr and the root volume are device mapper volumes", "dm_verity": "/usr is verified with it",
	"dm_crypt": "root volume and swap are encrypted with it", "erofs": "/usr and the applications are such file systems",
	"squashfs": "applications may be such file systems", "loop": "applications are attached with it",
	"overlay": "applications are merged into /usr with it", "vfat": "the EFI system partition is such a file system",
	"fat": "the EFI system partition is such a file system", "nls_ascii": "the EFI system partition needs it",
	"nls_cp437": "the EFI system partition needs it", "ext4": "the root volume is such a file system",
	"efivarfs": "it shows the variables of the firmware", "efi_pstore": "it keeps the log of a crash",
	"zfs": "the storage pools need it", "spl": "ZFS needs it",
	"tpm": "the TPM opens the root volume", "tpm_tis": "the TPM opens the root volume",
	"tpm_tis_core": "the TPM opens the root volume", "tpm_crb": "the TPM opens the root volume",
	"nf_tables": "the firewall needs it", "bridge": "the node's network cards are attached to bridges",
	"8021q": "VLANs need it", "veth": "the networks of containers need it", "tun": "the networks of virtual machines need it",
	"vhost": "virtual machines need it", "vhost_net": "virtual machines need it",
	"vhost_vsock": "virtual machines are reached over it", "kvm": "virtual machines need it",
	"kvm_intel": "virtual machines need it", "kvm_amd": "virtual machines need it",
	"vfio": "virtual machines get devices with it", "vfio_pci": "virtual machines get devices with it",
}

// whyNeeded says why the node needs a module; empty when it does not.
func whyNeeded(name string, facts Facts) string {
	name = moduleName(name)
	if why := needed[name]; why != "" {
		return why
	}
	return facts.NeededModules[name]
}

// has tells whether a list is known and holds a value.
func has(list []string, value string) bool { return slices.Contains(list, value) }
