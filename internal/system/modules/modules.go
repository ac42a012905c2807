// Package modules reads which kernel runs, with which modules, on what processor.
//
// It reads /proc alone and needs no program.
package modules

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	osapi "github.com/holdfast-os/holdfast/api/os"
)

// maxFile bounds what is read of one file, in bytes. /proc/cpuinfo of a machine with a
// thousand processors has about 1.5 MiB.
const maxFile = 8 << 20

// Host is the machine whose kernel is read.
type Host struct {
	// Root is the directory that stands for "/".
	Root string
}

// Read gives the running kernel and its modules, sorted by name.
func (h Host) Read() (osapi.DebugKernel, error) {
	kernel, err := h.readAll()
	if err != nil {
		return osapi.DebugKernel{}, fmt.Errorf("reading the running kernel: %w", err)
	}
	return kernel, nil
}

func (h Host) readAll() (osapi.DebugKernel, error) {
	var kernel osapi.DebugKernel
	var cpu, list string
	for _, part := range []struct {
		path string
		into *string
	}{
		{"proc/sys/kernel/osrelease", &kernel.Version}, {"proc/sys/kernel/arch", &kernel.Architecture},
		{"proc/cpuinfo", &cpu}, {"proc/modules", &list},
	} {
		text, err := h.read(part.path)
		if err != nil {
			return kernel, err
		}
		*part.into = strings.TrimSpace(text)
	}
	if kernel.Architecture == "x86_64" {
		kernel.CPUBaseline = Baseline(cpu)
	}
	var err error
	kernel.Modules, err = Parse(list)
	return kernel, err
}

// Parse reads /proc/modules. The kernel tells which modules use one; turned round, that is
// what each depends on.
func Parse(text string) ([]osapi.KernelModule, error) {
	all := []osapi.KernelModule{}
	needs := map[string][]string{}
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) < 4 {
			return nil, fmt.Errorf("reading /proc/modules: the line %q has no users of the module", strings.TrimSpace(line))
		}
		name := fields[0]
		// "-" stands for a module that cannot be removed: its users are not counted.
		uses, err := strconv.Atoi(fields[2])
		if err != nil && fields[2] != "-" {
			return nil, fmt.Errorf("reading /proc/modules: module %s has %q users", name, fields[2])
		}
		for user := range strings.SplitSeq(fields[3], ",") {
			// "[permanent]" stands among the users of a module without an exit.
			if user != "" && user != "-" && !strings.HasPrefix(user, "[") {
				needs[user] = append(needs[user], name)
			}
		}
		all = append(all, osapi.KernelModule{Name: name, InUse: uses > 0})
	}
	for i := range all {
		all[i].Dependencies = slices.Sorted(slices.Values(needs[all[i].Name]))
		if all[i].Dependencies == nil {
			all[i].Dependencies = []string{}
		}
	}
	slices.SortFunc(all, func(a, b osapi.KernelModule) int { return strings.Compare(a.Name, b.Name) })
	return all, nil
}

// levels are the flags of /proc/cpuinfo that each level of the x86-64 psABI adds.
var levels = []struct {
	name  string
	flags []string
}{
	{"x86_64_v1", []string{"lm", "cmov", "cx8", "fpu", "fxsr", "mmx", "syscall", "sse2"}},
	{"x86_64_v2", []string{"cx16", "lahf_lm", "popcnt", "sse4_1", "sse4_2", "ssse3"}},
	{"x86_64_v3", []string{"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave"}},
	{"x86_64_v4", []string{"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}},
}

// Baseline is the highest level of x86-64 that the first processor of /proc/cpuinfo has,
// as "x86_64_v3"; empty when it has none.
func Baseline(cpuinfo string) string {
	var flags []string
	for line := range strings.Lines(cpuinfo) {
		if name, value, found := strings.Cut(line, ":"); found && strings.TrimSpace(name) == "flags" {
			flags = strings.Fields(value)
			break
		}
	}
	best := ""
	for _, level := range levels {
		for _, flag := range level.flags {
			if !slices.Contains(flags, flag) {
				return best
			}
		}
		best = level.name
	}
	return best
}

func (h Host) read(name string) (text string, err error) {
	file, err := os.Open(filepath.Join(h.Root, name))
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	data, err := io.ReadAll(io.LimitReader(file, maxFile+1))
	if err == nil && len(data) > maxFile {
		err = fmt.Errorf("/%s has more than %d bytes", name, maxFile)
	}
	return string(data), err
}
