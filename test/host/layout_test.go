//go:build linux

package host

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/internal/install"
	"github.com/holdfast-os/holdfast/internal/installer"
	"github.com/holdfast-os/holdfast/internal/layout"
	"github.com/holdfast-os/holdfast/internal/system/block"
	"github.com/holdfast-os/holdfast/internal/system/run"
	"github.com/holdfast-os/holdfast/test/needs"
)

// newTable writes the first count partitions of the table on a sparse disk.
func newTable(t *testing.T, count int) string {
	t.Helper()
	path, guids := newImage(t, layout.MinimumDisk), map[int]string{}
	for number := layout.ESP; number <= layout.UsrB; number++ {
		guids[number] = fmt.Sprintf("cccccccc-0000-4000-8000-%012d", number)
	}
	script, err := layout.InstallTable(layout.TableOptions{Arch: layout.X86_64, Version: installVersion, DiskSize: layout.MinimumDisk, UUIDs: guids})
	if err != nil {
		t.Fatal(err)
	}
	script, _, _ = strings.Cut(script, fmt.Sprintf("\n%d :", count+1))
	if err := (block.Devices{Run: run.Host}).WriteTable(context.Background(), path, strings.TrimSpace(script)+"\n"); err != nil {
		t.Fatal(err)
	}
	return path
}

// repart runs the tree's systemd-repart with the node's own definitions. What they say
// about file systems and encryption is left out: it needs a device mapper, and moves
// no partition.
func repart(t *testing.T, disk string) error {
	t.Helper()
	tree := needs.Tree(t, "systemd-repart")
	definitions, err := layout.RenderRepart(layout.X86_64)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, text := range definitions {
		var kept []string
		for line := range strings.Lines(text) {
			if !strings.HasPrefix(line, "Format=") && !strings.HasPrefix(line, "Encrypt=") {
				kept = append(kept, line)
			}
		}
		writeFile(t, filepath.Join(dir, "repart.d", name), strings.Join(kept, ""))
	}
	writeFile(t, filepath.Join(dir, "root/usr/lib/os-release"), "ID=debian\nIMAGE_ID=Holdfast\nIMAGE_VERSION="+installVersion+"\n")
	_, err = runTool(t, tree.Command("systemd-repart", "--dry-run=no", "--no-pager", "--offline=yes", "--discard=no",
		"--root="+filepath.Join(dir, "root"), "--definitions="+filepath.Join(dir, "repart.d"), disk))
	return err
}

type place struct {
	Number      int
	Label       string
	Start, Size int64
}

func places(t *testing.T, disk string) []place {
	t.Helper()
	content, err := installer.Inspect(disk)
	if err != nil {
		t.Fatal(err)
	}
	if content.Table != install.ValidTable {
		t.Fatalf("the table is %v", content.Table)
	}
	var out []place
	for _, p := range content.Parts {
		out = append(out, place{p.Number, p.Label, p.Start, p.Size})
	}
	return out
}

// The table exists twice, as the installer's script and as systemd-repart's
// definitions. On a new node both must mean the same bytes, or the first update would
// write over somebody's data.
func TestRepart_FirstBoot_PutsEachPartitionWhereTheTableSays(t *testing.T) {
	needs.Programs(t, "sfdisk")
	want := []place{
		{1, "esp", 1048576, 2147483648},
		{2, "seed-data", 2148532224, 104857600},
		{3, "Holdfast_202611220104_verity_sig", 2253389824, 16384},
		{4, "Holdfast_202611220104_verity", 2253406208, 67108864},
		{5, "Holdfast_202611220104", 2320515072, 2147483648},
		{6, "_empty", 4467998720, 16384},
		{7, "_empty", 4468015104, 67108864},
		{8, "_empty", 4535123968, 2147483648},
		{9, "swap", 6682607616, 1073741824},
		{10, "root-x86-64", 7756349440, 4831838208},
		{11, "local-data", 12588187648, 8886628352},
	}
	for name, count := range map[string]int{"an installed disk": layout.UsrB, "a medium that is used as it is": layout.UsrA} {
		t.Run(name, func(t *testing.T) {
			disk := newTable(t, count)
			for _, boot := range []string{"first boot", "second boot"} {
				if err := repart(t, disk); err != nil {
					t.Fatalf("%s: %v", boot, err)
				}
				if diff := cmp.Diff(want, places(t, disk)); diff != "" {
					t.Errorf("%s (-want +got):\n%s", boot, diff)
				}
			}
		})
	}
}

// An interrupted first boot is cleared away by sfdisk, and the next one ends with the
// same table.
func TestRepart_AfterAClearedFirstBoot_PutsTheSameAgain(t *testing.T) {
	needs.Programs(t, "sfdisk")
	disk := newTable(t, layout.UsrB)
	if err := repart(t, disk); err != nil {
		t.Fatal(err)
	}
	want := places(t, disk)
	if _, err := run.Host(t.Context(), run.Command{Name: "sfdisk", Args: []string{"--no-reread", "--force", "--delete", disk, "9", "10", "11"}}); err != nil {
		t.Fatal(err)
	}
	if got := len(places(t, disk)); got != 8 {
		t.Errorf("%d partitions are left, want 8", got)
	}
	if err := repart(t, disk); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, places(t, disk)); diff != "" {
		t.Error(diff)
	}
}
