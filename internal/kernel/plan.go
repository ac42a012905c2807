package kernel

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	api "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/plan"
)

// NewPlan says what makes a machine be as a configuration has it. Both configurations
// went through Check. At the start of a node both are the kept one.
func NewPlan(before, next api.KernelConfig, facts Facts) plan.Plan {
	var p plan.Plan
	planModules(&p, next, facts)
	planSettings(&p, next, facts)
	planPCI(&p, before, next, facts)
	planZram(&p, next, facts)
	planGovernor(&p, before, next, facts)
	planConsole(&p, before, next)
	return p
}

// ModprobeFiles are the files of modprobe by path, without those that are empty. Early
// boot may write them before the first module is loaded.
func ModprobeFiles(c api.KernelConfig) map[string]string {
	files := map[string]string{}
	if text := blacklistText(c); text != "" {
		files[BlacklistFile] = text
	}
	if text := passthroughText(c); text != "" {
		files[PassthroughFile] = text
	}
	return files
}

const madeBy = "# Made by Holdfast from system/kernel.\n"

func blacklistText(c api.KernelConfig) string {
	if len(c.BlacklistModules) == 0 {
		return ""
	}
	text := madeBy
	for _, name := range c.BlacklistModules {
		text += "blacklist " + name + "\n"
	}
	return text
}

// passthroughText names kinds of devices for vfio-pci. An entry with an address is none:
// a second device of that kind stays with its own driver.
func passthroughText(c api.KernelConfig) string {
	if c.PCI == nil {
		return ""
	}
	var ids []string
	for _, entry := range c.PCI.Passthrough {
		if entry.PCIAddress == "" {
			ids = append(ids, entry.VendorID+":"+entry.ProductID)
		}
	}
	if len(ids) == 0 {
		return ""
	}
	return madeBy + "options vfio-pci ids=" + strings.Join(ids, ",") + "\n"
}

func planModules(p *plan.Plan, next api.KernelConfig, facts Facts) {
	p.File(BlacklistFile, facts.Files[BlacklistFile], blacklistText(next))
	for _, name := range next.BlacklistModules {
		if slices.Contains(facts.Modules, name) {
			p.Add(plan.Step{Kind: plan.UseTool, Object: name, Tool: ToolUnload, Args: []string{name}, Optional: true,
				Why: "module " + name + " is loaded; if something uses it, it stays until the next start"})
		}
	}
}

// wanted are the values below /proc/sys that a configuration asks for, by path.
func wanted(c api.KernelConfig) map[string]string {
	values := map[string]string{}
	if c.Memory != nil && c.Memory.PersistentHugepages > 0 {
		values[fileHugepages] = strconv.Itoa(c.Memory.PersistentHugepages)
	}
	n := c.Network
	if n == nil {
		return values
	}
	if n.BufferSize > 0 {
		size := strconv.Itoa(n.BufferSize)
		values[fileRmem], values[fileWmem] = "4096 65536 "+size, "4096 65536 "+size
		values[fileRmemMax], values[fileWmemMax] = size, size
	}
	if n.NetdevMaxBacklog > 0 {
		values[fileBacklog] = strconv.Itoa(n.NetdevMaxBacklog)
	}
	if n.QueuingDiscipline != "" {
		values[fileQdisc] = n.QueuingDiscipline
	}
	if n.TCPCongestionAlgorithm != "" {
		values[fileCongestion] = n.TCPCongestionAlgorithm
	}
	if n.TCPMTUProbing {
		values[fileProbing] = "1"
	}
	return values
}

func planSettings(p *plan.Plan, next api.KernelConfig, facts Facts) {
	values, text := wanted(next), ""
	for _, path := range slices.Sorted(maps.Keys(values)) {
		text += strings.ReplaceAll(strings.TrimPrefix(path, "/proc/sys/"), "/", ".") + " = " + values[path] + "\n"
	}
	if text != "" {
		text = madeBy + text
	}
	p.File(SysctlFile, facts.Files[SysctlFile], text)
	for _, path := range Settings() {
		now, known := facts.Values[path]
		value, asked := values[path]
		if !asked {
			if value, asked = facts.Originals[path]; !asked {
				continue
			}
		}
		switch {
		case !known || now == value:
		case path == fileHugepages:
			p.Add(plan.Step{Kind: plan.UseTool, Object: path, Before: now, After: value, Tool: ToolHugepages, Args: []string{value},
				Optional: true, Why: "memory may be too fragmented for all of them until the next start"})
		default:
			p.Add(plan.Step{Kind: plan.SetValue, Object: path, Before: now, After: value})
		}
	}
	if value := values[fileQdisc]; value != "" && value != facts.Values[fileQdisc] {
		p.Notes = append(p.Notes, "Network devices that exist keep their queuing discipline until the next start.")
	}
}

func planPCI(p *plan.Plan, before, next api.KernelConfig, facts Facts) {
	p.File(PassthroughFile, facts.Files[PassthroughFile], passthroughText(next))
	was, is := passthroughs(before), passthroughs(next)
	have, give := passed(was, facts), passed(is, facts)
	for _, address := range have {
		if !slices.Contains(give, address) && facts.PCI[address].Driver == driverVFIO {
			p.Add(plan.Step{Kind: plan.UseTool, Object: address, Before: driverVFIO, Tool: ToolRelease, Args: []string{address},
				Why: "the device goes back to its own driver"})
		}
	}
	for _, address := range give {
		device := facts.PCI[address]
		if device.Driver != driverVFIO {
			p.Add(plan.Step{Kind: plan.UseTool, Object: address, Before: device.Driver, After: driverVFIO, Tool: ToolBind, Args: []string{address},
				Why: "the device goes to virtual machines"})
		}
		for _, other := range device.Group {
			neighbour := facts.PCI[other]
			if !isBridge(neighbour) && neighbour.Driver != "" && neighbour.Driver != driverVFIO && !slices.Contains(give, other) {
				p.Notes = append(p.Notes, fmt.Sprintf("Device %s can be used by a virtual machine only together with %s, which is in the same IOMMU group.", address, other))
			}
		}
	}
	planSRIOV(p, before, next, facts)
}

func passthroughs(c api.KernelConfig) []api.KernelPassthrough {
	if c.PCI == nil {
		return nil
	}
	return c.PCI.Passthrough
}

func planSRIOV(p *plan.Plan, before, next api.KernelConfig, facts Facts) {
	counts := map[string]int{}
	if before.PCI != nil {
		for _, entry := range before.PCI.SRIOV {
			counts[entry.PCIAddress] = 0
		}
	}
	if next.PCI != nil {
		for _, entry := range next.PCI.SRIOV {
			counts[entry.PCIAddress] = entry.VFCount
		}
	}
	for _, address := range slices.Sorted(maps.Keys(counts)) {
		device, found := facts.PCI[address]
		if !found || device.TotalVFs == 0 {
			continue
		}
		count := counts[address]
		if device.NumVFs == count {
			continue
		}
		p.Add(plan.Step{Kind: plan.UseTool, Object: "/sys/bus/pci/devices/" + address + "/sriov_numvfs",
			Before: strconv.Itoa(device.NumVFs), After: strconv.Itoa(count), Tool: ToolSRIOV, Args: []string{address, strconv.Itoa(count)},
			Why: "the virtual functions there are vanish, since the kernel changes their number only from none"})
	}
}

func planZram(p *plan.Plan, next api.KernelConfig, facts Facts) {
	if next.Memory == nil || next.Memory.ZramSwapSize == "" {
		return
	}
	size, err := ParseSize(next.Memory.ZramSwapSize)
	// The kernel rounds up to whole pages, of 4 to 64 KiB.
	if err != nil || (facts.ZramSize >= size && facts.ZramSize < size+64<<10 && (size == 0) == (facts.ZramSize == 0)) {
		return
	}
	p.Add(plan.Step{Kind: plan.UseTool, Object: "/dev/zram0", Before: strconv.FormatInt(facts.ZramSize, 10), After: strconv.FormatInt(size, 10),
		Tool: ToolZram, Args: []string{strconv.FormatInt(size, 10)}})
}

func planGovernor(p *plan.Plan, before, next api.KernelConfig, facts Facts) {
	had := before.CPU != nil && before.CPU.ScalingGovernor != ""
	want := ""
	if next.CPU != nil {
		want = next.CPU.ScalingGovernor
	}
	if want == "" && !had {
		return
	}
	for _, path := range facts.GovernorFiles {
		value := want
		if value == "" {
			value = facts.Originals[path]
		}
		if now, known := facts.Values[path]; known && value != "" {
			p.Add(plan.Step{Kind: plan.SetValue, Object: path, Before: now, After: value})
		}
	}
}

func planConsole(p *plan.Plan, before, next api.KernelConfig) {
	if !slices.Equal(before.Console, next.Console) {
		p.Reboot = "the node opens its consoles when it starts"
	}
}
