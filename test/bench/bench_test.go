package main

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	api "github.com/holdfast-os/holdfast/api/release"
)

// A reader of the table must not take a missing number for a good one.
func TestTimeRows_NothingMeasured_SaysSoInEachRow(t *testing.T) {
	for _, r := range append(timeRows(nil, liveNumbers{Why: "no machine"}), liveRows(liveNumbers{Why: "no machine"})...) {
		if r.Value != "not measured" || r.How == "" || r.Target == "" {
			t.Errorf("%+v", r)
		}
	}
}

func TestTimeRows_Measured_HaveTheirRatios(t *testing.T) {
	times := phases{"tcg Secure Boot keys": 10, "tcg install": 90, "tcg first boot": 100, "tcg API ready": 20, "tcg snapshot": 5, "kvm install": 9}
	live := liveNumbers{Accel: "tcg", Restore: 6 * time.Second, Boot: 80 * time.Second, DD: 60 * time.Second, DDBytes: 4_000_000_000}
	type short struct{ Value, Ratio string }
	var got []short
	for _, r := range timeRows(times, live) {
		got = append(got, short{r.Value, r.Ratio})
	}
	want := []short{{"225.0 s", ""}, {"6.0 s", ""}, {"90.0 s", "1.50"}, {"80.0 s", ""}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// The size that is promised is what a node downloads: not the medium, and not the
// application.
func TestPayloadRows_Release_CountsWhatAnUpdateIs(t *testing.T) {
	rows := payloadRows(api.Update{Version: "202611220104", Files: []api.File{
		{Type: api.TypeUpdateEFI, Component: api.ComponentOS, Size: 100_000_000},
		{Type: api.TypeUpdateUsr, Component: api.ComponentOS, Size: 138_500_000},
		{Type: api.TypeImageRaw, Component: api.ComponentOS, Size: 900_000_000},
		{Type: api.TypeApplication, Component: api.ComponentIncus, Size: 117_500_000},
	}}, "Parts.")
	want := []row{
		{
			What: "OS payload, compressed, with firmware", Value: "238.5 MB", Target: "280 MB", Against: "IncusOS, 477.0 MB", Ratio: "0.50",
			How: "gzip, release 202611220104: update-efi 100.0 MB, update-usr 138.5 MB. Parts.",
		},
		{
			What: "application incus, compressed", Value: "117.5 MB", Target: "160 MB", Against: "IncusOS, 235.0 MB", Ratio: "0.50",
			How: "gzip, release 202611220104",
		},
	}
	if diff := cmp.Diff(want, rows); diff != "" {
		t.Error(diff)
	}
}

func TestMemory_KernelTables_AreReadInBytes(t *testing.T) {
	var n liveNumbers
	err := n.memory("Rss:  50000 kB\nPss:  30000 kB\n", "MemTotal:  3000000 kB\nMemFree: 1 kB\nMemAvailable: 2400000 kB\n", "6 1 0x01\nname type data\nsize  4  104857600\n")
	if err != nil {
		t.Fatal(err)
	}
	want := liveNumbers{Daemon: 30_720_000, Node: 509_542_400, ARC: 104_857_600}
	if diff := cmp.Diff(want, n); diff != "" {
		t.Error(diff)
	}
	if err := n.memory("", "", ""); err == nil {
		t.Error("nothing was read as numbers")
	}
}

func TestLargest_Folders_AreNamedBySize(t *testing.T) {
	got := largest(map[string]int64{folder("lib/firmware/a/b"): 3_000_000, folder("bin/x"): 1_000_000, folder("lib/modules/y"): 2_000_000, folder("file"): 5})
	if got != "/usr/lib/firmware 3.0 MB, /usr/lib/modules 2.0 MB, /usr/bin 1.0 MB, /usr/file 0.0 MB" {
		t.Error(got)
	}
}

func TestRender_Table_HasOneLineForEachRow(t *testing.T) {
	got := render(time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC), "2 processors", []row{{What: "a|b", Value: "1", Target: "2", Against: "c", Ratio: "0.5", How: "so"}})
	if !strings.HasSuffix(got, "Taken on 2026-11-22: 2 processors.\n\n| what | value | target | compared with | ratio | how it was taken |\n|---|---|---|---|---|---|\n| a\\|b | 1 | 2 | c | 0.5 | so |\n") {
		t.Error(got)
	}
}
