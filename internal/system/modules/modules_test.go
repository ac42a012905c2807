package modules_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	osapi "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/system/modules"
)

const procModules = `zfs 6488064 12 - Live 0x0000000000000000 (POE)
spl 147456 1 zfs, Live 0x0000000000000000 (OE)
vhost_net 36864 0 - Live 0x0000000000000000
tun 69632 1 vhost_net, Live 0x0000000000000000
vhost 73728 2 vhost_vsock,vhost_net, Live 0x0000000000000000
vhost_vsock 24576 0 - Live 0x0000000000000000
efivarfs 28672 1 - Live 0x0000000000000000
ip_tables 36864 0 [permanent], Live 0x0000000000000000
`

const v3 = "flags\t\t: fpu cx8 cmov mmx fxsr sse sse2 syscall lm abm cx16 lahf_lm popcnt sse4_1 sse4_2 ssse3 avx avx2 bmi1 bmi2 f16c fma movbe xsave"

// The kernel lists who uses a module; a person wants to know what a module needs.
func TestRead_Node_GivesKernelAndModulesByName(t *testing.T) {
	root := t.TempDir()
	for name, text := range map[string]string{
		"sys/kernel/osrelease": "6.12.117+deb13-amd64\n", "sys/kernel/arch": "x86_64\n",
		"cpuinfo": "processor\t: 0\n" + v3 + "\n\nprocessor\t: 1\nflags\t\t: lm\n", "modules": procModules,
	} {
		path := filepath.Join(root, "proc", name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := modules.Host{Root: root}.Read()
	if err != nil {
		t.Fatal(err)
	}
	want := osapi.DebugKernel{
		Version: "6.12.117+deb13-amd64", Architecture: "x86_64", CPUBaseline: "x86_64_v3",
		Modules: []osapi.KernelModule{
			{Name: "efivarfs", Dependencies: []string{}, InUse: true},
			{Name: "ip_tables", Dependencies: []string{}},
			{Name: "spl", Dependencies: []string{}, InUse: true},
			{Name: "tun", Dependencies: []string{}, InUse: true},
			{Name: "vhost", Dependencies: []string{}, InUse: true},
			{Name: "vhost_net", Dependencies: []string{"tun", "vhost"}},
			{Name: "vhost_vsock", Dependencies: []string{"vhost"}},
			{Name: "zfs", Dependencies: []string{"spl"}, InUse: true},
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// A kernel without loadable modules has an empty list, not an error.
func TestParse_NoModules_IsAnEmptyList(t *testing.T) {
	got, err := modules.Parse("")
	if err != nil || got == nil || len(got) != 0 {
		t.Errorf("got %#v, %v", got, err)
	}
}

func TestParse_OtherText_SaysWhichLine(t *testing.T) {
	for text, want := range map[string]string{
		"zfs 1\n":          `reading /proc/modules: the line "zfs 1" has no users of the module`,
		"zfs 1 x - Live\n": `reading /proc/modules: module zfs has "x" users`,
	} {
		if _, err := modules.Parse(text); err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

// An owner chooses the processor of instances by this level: one too high and they do not
// start on the other nodes.
func TestBaseline_Flags_GiveTheHighestWholeLevel(t *testing.T) {
	v4 := v3 + " avx512f avx512bw avx512cd avx512dq avx512vl"
	for text, want := range map[string]string{
		v4: "x86_64_v4", v3: "x86_64_v3",
		strings.Replace(v4, " fma", "", 1):    "x86_64_v2",
		strings.Replace(v4, " popcnt", "", 1): "x86_64_v1",
		strings.Replace(v4, " lm", "", 1):     "",
		"":                                    "",
	} {
		if got := modules.Baseline(text); got != want {
			t.Errorf("%s: got %q, want %q", text, got, want)
		}
	}
}

// /proc/modules names modules that anybody has built; no line may end the daemon.
func FuzzParse(f *testing.F) {
	f.Add(procModules)
	f.Fuzz(func(t *testing.T, text string) {
		list, err := modules.Parse(text)
		if err == nil && len(list) > strings.Count(text, "\n")+1 {
			t.Errorf("%d modules in %d lines", len(list), strings.Count(text, "\n")+1)
		}
	})
}
