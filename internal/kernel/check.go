package kernel

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	api "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/config"
)

// Limits of lists, so that a document cannot grow without end, and of values.
const (
	maxList = 100
	// reserve is the memory that huge pages leave to the node, in bytes.
	reserve = 1 << 30
	// minBuffer is the default size that the kernel starts a socket with.
	minBuffer, maxBuffer           = 65536, 1<<31 - 1
	defaultBacklog, maximumBacklog = 1000, 1000000
)

var (
	moduleForm   = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_-]{0,54}$`)
	wordForm     = regexp.MustCompile(`^[a-z][a-z0-9_]{0,14}$`)
	screenForm   = regexp.MustCompile(`^tty[0-9]+$`)
	terminalForm = regexp.MustCompile(`^(tty([1-9]|[1-5][0-9]|6[0-3])|(ttyS|ttyAMA|ttyUSB|ttyACM|hvc)[0-9]{1,3})$`)
)

// bauds are the speeds of a serial line that a terminal knows.
var bauds = []int{1200, 2400, 4800, 9600, 19200, 38400, 57600, 115200, 230400, 460800, 500000, 576000, 921600, 1000000, 1500000}

// plainQdiscs are the disciplines that work without settings; only they can be a default.
var plainQdiscs = []string{"bfifo", "cake", "codel", "fq", "fq_codel", "fq_pie", "hhf", "pfifo", "pfifo_fast", "pie", "sfb", "sfq"}

// QueuingDisciplines are the disciplines that can be a default, by name.
func QueuingDisciplines() []string { return slices.Clone(plainQdiscs) }

// Check fills in defaults, brings names and addresses into one form, and gives all
// that is wrong with a configuration on a machine.
func Check(c *api.KernelConfig, facts Facts) config.Problems {
	var p config.Problems
	checkConsole(&p, c.Console, facts)
	checkModules(&p, c.BlacklistModules, facts)
	if c.CPU != nil {
		checkGovernor(&p, c.CPU.ScalingGovernor, facts)
	}
	if c.Memory != nil {
		checkMemory(&p, *c.Memory, facts)
	}
	if c.Network != nil {
		checkNetwork(&p, c.Network, facts)
	}
	if c.PCI != nil {
		checkPassthrough(&p, c.PCI.Passthrough, facts)
		checkSRIOV(&p, *c.PCI, facts)
	}
	return p
}

func checkConsole(p *config.Problems, consoles []api.KernelConsole, facts Facts) {
	seen := map[string]bool{}
	if tooMany(p, "console", len(consoles)) {
		return
	}
	for i := range consoles {
		c, path := &consoles[i], fmt.Sprintf("console[%d]", i)
		c.Device = strings.TrimPrefix(c.Device, "/dev/")
		switch comesAndGoes := strings.HasPrefix(c.Device, "ttyUSB") || strings.HasPrefix(c.Device, "ttyACM"); {
		case !terminalForm.MatchString(c.Device):
			p.Add(path+".device", "terminal", "%q is not a terminal, as tty2 or ttyS1", c.Device)
		case seen[c.Device]:
			p.Add(path+".device", "unique", "%s is named twice", c.Device)
		case !comesAndGoes && !has(facts.Terminals, c.Device):
			p.Add(path+".device", "exists", "this machine has no terminal %s", c.Device)
		}
		seen[c.Device] = true
		switch {
		case c.BaudRate == 0:
		case !slices.Contains(bauds, c.BaudRate):
			p.Add(path+".baud_rate", "speed", "%d is not a speed of a serial line; the usual ones are 9600 and 115200", c.BaudRate)
		case screenForm.MatchString(c.Device):
			p.Add(path+".baud_rate", "serial", "%s is a screen and has no speed: leave it out", c.Device)
		}
	}
}

func checkModules(p *config.Problems, modules []string, facts Facts) {
	seen := map[string]bool{}
	if tooMany(p, "blacklist_modules", len(modules)) {
		return
	}
	for i, name := range modules {
		path := fmt.Sprintf("blacklist_modules[%d]", i)
		if !moduleForm.MatchString(name) {
			p.Add(path, "module", "%q is not the name of a module, as nouveau", name)
			continue
		}
		name = moduleName(name)
		if seen[name] {
			p.Add(path, "unique", "module %s is named twice", name)
		}
		if why := whyNeeded(name, facts); why != "" {
			p.Add(path, "needed", "the node needs module %s: %s", name, why)
		}
		modules[i], seen[name] = name, true
	}
}

func checkGovernor(p *config.Problems, governor string, facts Facts) {
	switch {
	case governor == "" || has(facts.Governors, governor):
	case len(facts.Governors) == 0:
		p.Add("cpu.scaling_governor", "available", "the speed of this machine's processors cannot be set; leave it out")
	default:
		p.Add("cpu.scaling_governor", "available", "%q is not a governor of this machine; it has %s", governor, strings.Join(facts.Governors, ", "))
	}
}

func checkMemory(p *config.Problems, m api.KernelMemory, facts Facts) {
	pages := int64(m.PersistentHugepages)
	switch most := (facts.Memory - reserve) / max(facts.HugepageSize, 1); {
	case pages < 0:
		p.Add("memory.persistent_hugepages", "positive", "%d is negative; 0 is none", pages)
	case pages > 0 && facts.HugepageSize == 0:
		p.Add("memory.persistent_hugepages", "available", "this machine has no huge pages")
	case pages > 0 && facts.Memory > 0 && pages > max(most, 0):
		p.Add("memory.persistent_hugepages", "memory", "%d pages of %s do not fit: of %s of memory %s must remain, so %d at most",
			pages, showSize(facts.HugepageSize), showSize(facts.Memory), showSize(reserve), max(most, 0))
	}
	if m.ZramSwapSize == "" {
		return
	}
	switch size, err := ParseSize(m.ZramSwapSize); {
	case err != nil:
		p.Add("memory.zram_swap_size", "size", "%q: %v", m.ZramSwapSize, err)
	case size == 0:
	case !facts.ZramAvailable:
		p.Add("memory.zram_swap_size", "available", "the kernel has no zram; leave it out")
	case size < 1<<20:
		p.Add("memory.zram_swap_size", "size", "%q is less than 1MiB; was a unit forgotten, as in 8GiB?", m.ZramSwapSize)
	case facts.Memory > 0 && size > facts.Memory:
		p.Add("memory.zram_swap_size", "memory", "%q is more than the memory of this machine, %s", m.ZramSwapSize, showSize(facts.Memory))
	}
}

func checkNetwork(p *config.Problems, n *api.KernelNetwork, facts Facts) {
	switch size := n.BufferSize; {
	case size == 0:
	case size < minBuffer || size > maxBuffer:
		p.Add("network.buffer_size", "range", "%d is not between %d and %d bytes; 0 is the kernel's default", size, minBuffer, maxBuffer)
	case facts.Memory > 0 && int64(size) > facts.Memory:
		p.Add("network.buffer_size", "memory", "%d bytes are more than the memory of this machine, %s", size, showSize(facts.Memory))
	}
	if n.NetdevMaxBacklog == 0 {
		n.NetdevMaxBacklog = defaultBacklog
	}
	if n.NetdevMaxBacklog < 0 || n.NetdevMaxBacklog > maximumBacklog {
		p.Add("network.netdev_max_backlog", "range", "%d is not between 1 and %d packets", n.NetdevMaxBacklog, maximumBacklog)
	}
	oneOf(p, "network.queuing_discipline", n.QueuingDiscipline, facts.QueuingDisciplines)
	oneOf(p, "network.tcp_congestion_algorithm", n.TCPCongestionAlgorithm, facts.CongestionControls)
}

func oneOf(p *config.Problems, path, value string, allowed []string) {
	if value != "" && (!wordForm.MatchString(value) || !has(allowed, value)) {
		p.Add(path, "available", "this kernel has no %q; it has %s", value, strings.Join(allowed, ", "))
	}
}

func tooMany(p *config.Problems, path string, n int) bool {
	if n > maxList {
		p.Add(path, "limit", "%d entries are more than %d", n, maxList)
	}
	return n > maxList
}
