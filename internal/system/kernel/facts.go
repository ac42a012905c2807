package kernel

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Device is a PCI device, as internal/kernel has it.
type Device = struct {
	Vendor, Product  string
	Class            string
	Driver           string
	TotalVFs, NumVFs int
	Needed           string
	Group            []string
}

// Facts are what the machine is. They have the fields of the Facts in internal/kernel,
// which says what they mean, so that one converts into the other.
type Facts struct {
	Memory, HugepageSize                   int64
	Governors                              []string
	GovernorFiles                          []string
	CongestionControls, QueuingDisciplines []string
	Values                                 map[string]string
	Originals                              map[string]string
	Files                                  map[string]string
	Modules                                []string
	NeededModules                          map[string]string
	PCI                                    map[string]Device
	IOMMU                                  bool
	Terminals                              []string
	ZramAvailable                          bool
	ZramSize                               int64
}

// Facts reads the machine. A part that the machine does not have is left out; anything
// else that cannot be read is an error.
func (h Host) Facts(_ context.Context, ask Ask) (Facts, error) {
	var f Facts
	available, err := h.modules()
	if err != nil {
		return f, err
	}
	steps := []func() error{
		func() error { return h.readMemory(&f) },
		func() error { return h.readGovernors(&f, available) },
		func() error { return h.readNetwork(&f, available, ask.Qdiscs) },
		func() (err error) { f.Originals, err = h.originals(); return },
		func() (err error) { f.Modules, err = h.loaded(); return },
		func() error { return h.readFiles(&f, ask.Files) },
		func() error { return h.readPCI(&f) },
		func() error { return h.readZram(&f, available) },
		func() (err error) { f.Terminals, err = h.names("sys/class/tty"); return },
		func() (err error) {
			f.Values, err = h.values(append(slices.Clone(ask.Settings), f.GovernorFiles...))
			return
		},
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return Facts{}, fmt.Errorf("reading the settings of the kernel: %w", err)
		}
	}
	return f, nil
}

func (h Host) readMemory(f *Facts) error {
	text, err := h.read("proc/meminfo")
	if err != nil {
		return err
	}
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) < 2 || (fields[0] != "MemTotal:" && fields[0] != "Hugepagesize:") {
			continue
		}
		n, err := strconv.ParseInt(fields[1], 10, 53)
		if err != nil {
			return fmt.Errorf("reading /proc/meminfo: %w", err)
		}
		if fields[0] == "MemTotal:" {
			f.Memory = n << 10
		} else {
			f.HugepageSize = n << 10
		}
	}
	return nil
}

func (h Host) governorFiles() ([]string, error) {
	policies, err := h.names("sys/devices/system/cpu/cpufreq")
	if err != nil {
		return nil, err
	}
	var files []string
	for _, policy := range policies {
		if strings.HasPrefix(policy, "policy") {
			files = append(files, "/sys/devices/system/cpu/cpufreq/"+policy+"/scaling_governor")
		}
	}
	return files, nil
}

// readGovernors: drivers that choose the speed in the processor have two governors of
// their own; with all others the kernel loads the module of a governor that is written.
func (h Host) readGovernors(f *Facts, available map[string]bool) (err error) {
	if f.GovernorFiles, err = h.governorFiles(); err != nil || len(f.GovernorFiles) == 0 {
		return err
	}
	dir := filepath.Dir(f.GovernorFiles[0])
	values, err := h.values([]string{dir + "/scaling_available_governors", dir + "/scaling_driver"})
	if err != nil {
		return err
	}
	set := map[string]bool{}
	for _, name := range strings.Fields(values[dir+"/scaling_available_governors"]) {
		set[name] = true
	}
	switch values[dir+"/scaling_driver"] {
	case "intel_pstate", "amd-pstate-epp", "amd_pstate_epp":
	default:
		for _, name := range []string{"conservative", "ondemand", "performance", "powersave"} {
			if available["cpufreq_"+name] {
				set[name] = true
			}
		}
	}
	f.Governors = slices.Sorted(maps.Keys(set))
	return nil
}

// readNetwork: the kernel loads the module of an algorithm or discipline that is written.
func (h Host) readNetwork(f *Facts, available map[string]bool, qdiscs []string) error {
	const path = "proc/sys/net/ipv4/tcp_available_congestion_control"
	values, err := h.values([]string{path})
	if err != nil {
		return err
	}
	set := map[string]bool{}
	for _, name := range strings.Fields(values[path]) {
		set[name] = true
	}
	for module := range available {
		if name, ok := strings.CutPrefix(module, "tcp_"); ok && name != "diag" {
			set[name] = true
		}
	}
	f.CongestionControls = slices.Sorted(maps.Keys(set))
	for _, name := range qdiscs {
		if name == "pfifo" || name == "bfifo" || name == "pfifo_fast" || available["sch_"+name] || h.exists("sys/module/sch_"+name) {
			f.QueuingDisciplines = append(f.QueuingDisciplines, name)
		}
	}
	return nil
}

func (h Host) readFiles(f *Facts, paths []string) error {
	f.Files = map[string]string{}
	for _, path := range paths {
		text, err := h.read(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		f.Files[path] = text
	}
	return nil
}

// names are the entries of a folder, sorted; none when it is not there.
func (h Host) names(dir string) ([]string, error) {
	entries, err := os.ReadDir(h.path(dir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading /%s: %w", dir, err)
	}
	var names []string
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	return names, nil
}

func (h Host) exists(name string) bool {
	_, err := os.Stat(h.path(name))
	return err == nil
}
