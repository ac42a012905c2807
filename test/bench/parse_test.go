package main

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	osapi "github.com/holdfast-os/holdfast/api/os"
	api "github.com/holdfast-os/holdfast/api/release"
	"github.com/holdfast-os/holdfast/internal/install"
	"github.com/holdfast-os/holdfast/internal/system/qemu"
)

// The size that is promised is what a node downloads: not the medium, and not the
// application.
func TestSizeRecords_Release_CountsWhatAnUpdateIs(t *testing.T) {
	got := sizeRecords(api.Update{Version: "202611220104", Files: []api.File{
		{Type: api.TypeUpdateEFI, Component: api.ComponentOS, Size: 100_000_000},
		{Type: api.TypeUpdateUsr, Component: api.ComponentOS, Size: 138_500_000},
		{Type: api.TypeImageRaw, Component: api.ComponentOS, Size: 900_000_000},
		{Type: api.TypeApplication, Component: api.ComponentIncus, Size: 117_500_000},
	}}, "/usr/lib 1 MB")
	want := []record{
		{ID: "size-payload", Value: 238_500_000, Other: 477_000_000,
			How: "gzip: update-efi 100.0 MB, update-usr 138.5 MB. Most room in /usr, before compression: /usr/lib 1 MB."},
		{ID: "size-incus", Value: 117_500_000, Other: 235_000_000, How: "gzip, as it is published."},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestLargest_Folders_AreNamedBySize(t *testing.T) {
	root := t.TempDir()
	for name, size := range map[string]int{"lib/firmware/a/b": 3_000_000, "lib/firmware/c": 100_000, "bin/x": 1_000_000, "lib/modules/y": 2_000_000, "file": 5} {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, make([]byte, size), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	sizes, err := folderSizes(root)
	if err != nil {
		t.Fatal(err)
	}
	if got := largest(sizes); got != "/usr/lib/firmware 3.1 MB, /usr/lib/modules 2.0 MB, /usr/bin 1.0 MB, /usr/file 0.0 MB" {
		t.Error(got)
	}
}

func TestReadUsage_KernelTables_AreReadInBytes(t *testing.T) {
	const meminfo = "MemTotal:  3000000 kB\nMemFree: 1 kB\nMemAvailable: 2400000 kB\n"
	got, err := readUsage("Rss:  50000 kB\nPss:  30000 kB\n", meminfo, "6 1 0x01\nname type data\nsize  4  104857600\n")
	if err != nil {
		t.Fatal(err)
	}
	want := usage{Daemon: 30_720_000, Node: 509_542_400, ARC: 104_857_600}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if got, err := readUsage("Pss:  30000 kB\n", meminfo, ""); err == nil {
		t.Errorf("without a table of ZFS: %+v", got)
	}
}

func TestLargestProcesses_Listing_NamesTheFirstFive(t *testing.T) {
	got := largestProcesses("  400 150000 incusd\n  300  60000 holdfastd\nodd\n 1 14000 systemd\n 2 9000 a\n 3 8000 b\n 4 7000 c\n")
	if got != "incusd 153.6 MB, holdfastd 61.4 MB, systemd 14.3 MB, a 9.2 MB, b 8.2 MB" {
		t.Error(got)
	}
}

func TestParseStartup_WhatSystemdSays_IsReadInSeconds(t *testing.T) {
	for text, want := range map[string]startup{
		"Startup finished in 9.119s (kernel) + 1min 2.500s (initrd) + 861ms (userspace) = 1min 12.480s.": {Kernel: 9.119, Initrd: 62.5, Userspace: 0.861},
		"x Startup finished in 14s (firmware) + 2s (loader) + 10s (kernel) + 20s (initrd) + 30s (userspace) = 1min 16s \ngraphical.target reached after 30s in userspace.": {
			Kernel: 10, Initrd: 20, Userspace: 30},
	} {
		got, err := parseStartup(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", text, diff)
		}
	}
	if got, err := parseStartup("Startup finished in 9s (kernel) + 30s (userspace) = 39s."); err == nil {
		t.Errorf("without an initrd: %+v", got)
	}
}

// The kernel's clock begins with the kernel: what power-on has more is firmware and
// loader; what is waited for ends userland.
func TestBoots_Parts_AddUpToTheWhole(t *testing.T) {
	var b boots
	b.add(80, startup{Kernel: 10, Initrd: 15, Userspace: 99, Ready: 55})
	b.add(90, startup{Kernel: 12, Initrd: 17, Userspace: 99, Ready: 59})
	if got := b.String(); got != "80.0, 90.0 s; before the kernel 28.0 s, kernel 11.0 s, initrd 16.0 s, userland 30.0 s" {
		t.Error(got)
	}
}

func TestPhasesOf_Boot_NamesTheLongOnes(t *testing.T) {
	var b boots
	parts := phasesOf(osapi.DebugBoot{Phases: []osapi.BootPhase{
		{Name: "state", StartedAt: 30, Duration: 0.12},
		{Name: "network", StartedAt: 31, Duration: 15.17},
		{Name: "ready", StartedAt: 60, Duration: 1},
	}})
	parts.Kernel, parts.Initrd = 5, 10
	b.add(80, parts)
	const want = "80.0 s; before the kernel 19.0 s, kernel 5.0 s, initrd 10.0 s, userland 46.0 s; " +
		"in the last start holdfastd began 30.0 s after the kernel, and its phases of a second or more took: network 15.2 s, ready 1.0 s"
	if got := b.String(); got != want {
		t.Error(got)
	}
}

// The lines as the console writes them to a serial port, with what the kernel and other
// programs write between them.
func TestReadInstall_LinesOfTheInstaller_GiveTheTimeOfEachCopy(t *testing.T) {
	at := func(seconds float64, text string) line {
		return line{At: day(22).Add(time.Duration(seconds * float64(time.Second))), Text: text}
	}
	got, err := readInstall([]line{
		at(0, "1 of 9: copy of something before the installation: 5 MiB"),
		at(10, "12:00:00  installing release 202611220400 on /dev/vda (disk): 750 MiB to copy"),
		at(11, "12:00:01  1 of 13: wipe: removing the old partition table"),
		at(12, "12:00:02  3 of 13: copy esp: 101 MiB of 2 GiB at 1048576"),
		at(14, "-- copying esp 50%"),
		at(15.5, "12:00:05  4 of 13: seed seed-data: 10 KiB at 2148532224"),
		at(16, "12:00:06  5 of 13: copy Holdfast_1: 640 MiB of 2 GiB at 2320515072"),
		at(26, "12:00:16  6 of 13: sync: waiting until the disk has written everything"),
		at(30, "12:00:20  7 of 13: table: writing the partition table; from here on the disk can be started"),
		at(31, "[   89.743489] reboot: Restarting system"),
		at(95, "BdsDxe: starting Boot0001"),
		at(99, "12:00:20  7 of 13: another"),
	})
	if err != nil {
		t.Fatal(err)
	}
	want := installTimes{Total: 20, Copying: 13.5, MiB: 750, Parts: []string{"esp 3.5 s", "Holdfast_1 10.0 s"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	const begin, copied, table, again = "installing release 1 on /dev/vda (disk): 5 MiB to copy", "1 of 3: copy esp: 1 MiB", "2 of 3: table: writing", "BdsDxe: starting Boot0001"
	for name, lines := range map[string][]line{
		"goes on":    {at(0, begin), at(1, copied), at(2, table)},
		"cut":        {at(0, begin), at(1, copied), at(2, again)},
		"no first":   {at(1, copied), at(2, table), at(3, again)},
		"not copied": {at(0, begin), at(2, table), at(3, again)},
	} {
		if got, err := readInstall(lines); err == nil {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

func TestCopiedRanges_Plan_GivesWhatIsCopiedAlone(t *testing.T) {
	got := copiedRanges(install.Plan{Steps: []install.Step{
		{Action: install.Zero, Offset: 0, Size: 9000},
		{Action: install.Copy, Name: "esp", Offset: 100, Size: 1000, Used: []install.Range{{Offset: 100, Size: 10}, {Offset: 200, Size: 20}}},
		{Action: install.WriteSeed, Offset: 2000, Size: 50},
		{Action: install.Copy, Name: "sig", Offset: 3000, Size: 30},
	}})
	want := []install.Range{{Offset: 100, Size: 10}, {Offset: 200, Size: 20}, {Offset: 3000, Size: 30}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// The comparison is fair only in the same machine; and the machines must not share a
// file.
func TestDebianMachine_Model_IsKeptButForItsFiles(t *testing.T) {
	got := debianMachine(qemu.Machine{
		Name: "holdfast-lab", Accel: qemu.TCG, CPUs: 2, MemoryMiB: 3072, Vars: "/l/a/vars.fd", TPM: "/l/a/tpm.sock", APIPort: 4000, Release: "serve",
		Disks:  []qemu.Disk{{ID: "disk0", Path: "/l/a/disk0.raw", Format: "raw", Serial: "holdfast-disk", Bus: qemu.Virtio}},
		Serial: "/l/a/serial.log", QMP: "/l/a/qmp.sock", Events: "/l/a/events.sock", PIDFile: "/l/a/qemu.pid", Log: "/l/a/qemu.log",
	}, "/l/b")
	want := qemu.Machine{
		Name: "holdfast-bench-debian", Accel: qemu.TCG, CPUs: 2, MemoryMiB: 3072, Vars: "/l/b/vars.fd", TPM: "/l/b/tpm.sock",
		Disks:  []qemu.Disk{{ID: "disk0", Path: "/l/b/disk0.qcow2", Format: "qcow2", Serial: "holdfast-disk", Bus: qemu.Virtio}},
		Serial: "/l/b/serial.log", QMP: "/l/b/qmp.sock", Events: "/l/b/events.sock", PIDFile: "/l/b/qemu.pid", Log: "/l/b/qemu.log",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestStepTimes_OutputOfMakeUp_NamesWhatTakesLong(t *testing.T) {
	got := stepTimes("making the keys: done in 0s\nbuilding ZFS' kernel modules: done in 4m41s\nstill building, 1m0s of 2m\n" +
		"tools                      5.0 s\nSecure Boot keys          40.2 s\ninstall                  100.3 s\nready after 343 s at https://127.0.0.1:1; try:\n")
	if diff := cmp.Diff([]string{"building ZFS' kernel modules 281 s", "Secure Boot keys 40 s", "install 100 s"}, got); diff != "" {
		t.Error(diff)
	}
}

// What a cut measurement left running is found, and nothing else.
func TestProcessesIn_Folder_FindsTheOnesThatWorkThere(t *testing.T) {
	proc := t.TempDir()
	for pid, p := range map[string]struct{ root, cwd, args string }{
		"11": {"/", "/tmp/hfb-1/c", "make\x00up"},
		"12": {"/tmp/hfb-1/cache/tools", "/", "mkosi"},
		"13": {"/", "/", "qemu\x00-pidfile\x00/tmp/hfb-1/c/.lab/qemu.pid"},
		"14": {"/", "/tmp/hfb-12", "make"},
		"15": {"/", "/root", "vi\x00/tmp/hfb-1"},
	} {
		dir := filepath.Join(proc, pid)
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		for name, target := range map[string]string{"root": p.root, "cwd": p.cwd} {
			if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(filepath.Join(dir, "cmdline"), []byte(p.args), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff([]int{11, 12, 13}, processesIn(proc, "/tmp/hfb-1")); diff != "" {
		t.Error(diff)
	}
}

// A log is read while it grows, so a line can come in two pieces.
func TestSplitLines_SerialOutput_KeepsAnUnfinishedLine(t *testing.T) {
	lines, rest := splitLines("[\x1b[0;32m  OK  \x1b[0m] Reached target \x1b[0;1;39mmulti-user.target\x1b[0m.\r\n\r\n\x00Star")
	if diff := cmp.Diff([]string{"[  OK  ] Reached target multi-user.target."}, lines); diff != "" || rest != "\x00Star" {
		t.Errorf("%s, rest %q", diff, rest)
	}
}

func TestWatchSerial_LogOfAnEarlierStart_IsLeftOut(t *testing.T) {
	path := filepath.Join(t.TempDir(), "serial.log")
	if err := os.WriteFile(path, []byte("earlier\nnow\nend\nmore\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var got []string
	err := watchSerial(context.Background(), path, int64(len("earlier\n")), func(l line) bool {
		got = append(got, l.Text)
		return l.Text != "end"
	})
	if diff := cmp.Diff([]string{"now", "end"}, got); diff != "" || err != nil {
		t.Errorf("%s, %v", diff, err)
	}
}

// A number that is not there must not become a zero on the page.
func TestBenchmarkMetrics_WhatGoTestWrites_IsReadByUnit(t *testing.T) {
	const text = "goos: linux\nBenchmarkSysupdate_Slot-2   \t       3\t8000000000 ns/op\t        55.5 MB-peak\t         5.25 s/dd\t         7.5 s/update\nPASS\n"
	got, err := benchmarkMetrics(text, "BenchmarkSysupdate_Slot")
	want := map[string]float64{"ns/op": 8e9, "MB-peak": 55.5, "s/dd": 5.25, "s/update": 7.5}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Error(diff, err)
	}
	for _, text := range []string{"", "PASS\n", "BenchmarkSysupdate_Slot --- SKIP: missing program: losetup\n"} {
		if _, err := benchmarkMetrics(text, "BenchmarkSysupdate_Slot"); err == nil {
			t.Errorf("%q has numbers", text)
		}
	}
}

// The name of a program may have spaces and brackets; both modes count.
func TestParseProcessorTime_Stat_AddsUserAndSystemMode(t *testing.T) {
	got, err := parseProcessorTime("42 (a) 7 (b) S 1 2 3 4 5 6 7 8 9 10 150 25 0 0 20 0 8 0 1234 567")
	if err != nil || got != 1750*time.Millisecond {
		t.Errorf("got %s, %v", got, err)
	}
	if _, err := parseProcessorTime("42 (a) S 1 2"); err == nil {
		t.Error("a cut line is taken")
	}
}

// Two campaigns end with a line of the same form; each number has to be its own.
func TestCampaignLine_BothCampaigns_GiveTheirOwn(t *testing.T) {
	const output = "    reboot_updatecut_test.go:305: NUMBER power_cuts 1 of 40: a 39\n    setup_installcut_test.go:9: NUMBER install_power_cuts 0 of 10: behind the table, lost: started 1\n"
	got := map[string][]string{}
	for _, number := range []string{"power_cuts", "install_power_cuts", "cuts"} {
		if found := campaignLine(output, number); found != nil {
			got[number] = found[1:]
		}
	}
	want := map[string][]string{"power_cuts": {"1", "40", "a 39"}, "install_power_cuts": {"0", "10", "behind the table, lost: started 1"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
