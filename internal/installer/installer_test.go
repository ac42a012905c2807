package installer

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	api "github.com/holdfast-os/holdfast/api/seed"
	"github.com/holdfast-os/holdfast/internal/install"
	"github.com/holdfast-os/holdfast/internal/layout"
	"github.com/holdfast-os/holdfast/internal/seed"
	"github.com/holdfast-os/holdfast/internal/system/block"
	"github.com/holdfast-os/holdfast/internal/system/efi"
	"github.com/holdfast-os/holdfast/internal/system/run"
)

func write(t *testing.T, root, path, text string) {
	t.Helper()
	path = filepath.Join(root, path)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// A machine that cannot be installed says everything that is wrong, at once, and nothing on
// it is touched.
func TestRun_MachineThatDoesNotFit_NamesEveryProblem(t *testing.T) {
	root := t.TempDir()
	write(t, root, efi.DefaultDir+"/SetupMode-"+efi.Global, "\x06\x00\x00\x00\x00")
	write(t, root, "/sys/class/tpm/tpm0/tpm_version_major", "1\n")
	write(t, root, "medium", "")
	if err := os.Truncate(filepath.Join(root, "medium"), layout.Start(layout.ESP)+layout.MiB); err != nil {
		t.Fatal(err)
	}
	err := Run(context.Background(), Options{
		Root: root, SourceDisk: filepath.Join(root, "medium"), Version: "202611220104",
		Seed: &seed.Set{Install: &api.Install{}},
		Runner: func(_ context.Context, c run.Command) (run.Result, error) {
			if c.Name != "lsblk" {
				t.Errorf("ran %s", c.Name)
			}
			return run.Result{Stdout: []byte(`{"blockdevices":[]}`)}, nil
		},
	})
	var problems install.Problems
	if !errors.As(err, &problems) {
		t.Fatalf("got %v", err)
	}
	want := []string{
		"TPM: this is a TPM 1.2, and a TPM 2.0 is needed; look for a firmware update or a switch to TPM 2.0 in the firmware's setup",
		"Secure Boot: it is off; switch it on in the firmware's setup, with its keys reset to setup mode; security.missing_secure_boot in the install seed installs without",
		"medium /medium: its partitions are not those of a Holdfast medium; write the medium again from the image",
		"the disks: no disk can be installed on; connect a disk of at least 20 GiB beside the medium",
	}
	if diff := cmp.Diff(want, strings.Split(strings.ReplaceAll(err.Error(), root, ""), "\n")); diff != "" {
		t.Error(diff)
	}
}

// The target must not ask for another installation, and documents from outside win.
func TestTargetSeed_ExternalDocuments_ReplaceThoseOfTheMedium(t *testing.T) {
	var archive bytes.Buffer
	err := seed.Write(&archive, &seed.Set{Install: &api.Install{ForceInstall: true},
		Applications: &api.Applications{Applications: []api.Application{{Name: "old"}}}, Security: &api.Security{CustomCACerts: []string{"x"}}})
	if err != nil {
		t.Fatal(err)
	}
	external := &seed.Set{Install: &api.Install{}, Applications: &api.Applications{Applications: []api.Application{{Name: "incus"}}}}
	for name, test := range map[string]struct {
		external bool
		want     string
	}{"medium alone": {false, "old"}, "external": {true, "incus"}} {
		t.Run(name, func(t *testing.T) {
			options := Options{Seed: external}
			if test.external {
				options.External = external
			}
			data, err := targetSeed(at{archive.Bytes(), layout.SeedOffset()}, options)
			if err != nil {
				t.Fatal(err)
			}
			got, err := seed.Parse(bytes.NewReader(data))
			if err != nil {
				t.Fatal(err)
			}
			want := &seed.Set{Applications: &api.Applications{Applications: []api.Application{{Name: test.want}}}, Security: &api.Security{CustomCACerts: []string{"x"}}}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
			if external.Install == nil {
				t.Error("the caller's seed was changed")
			}
		})
	}
}

// at is a disk with some bytes at an offset.
type at struct {
	data   []byte
	offset int64
}

func (a at) ReadAt(p []byte, offset int64) (int, error) {
	return bytes.NewReader(a.data).ReadAt(p, offset-a.offset)
}

func TestKind_WhatTheKernelSays_DecidesTheOrder(t *testing.T) {
	for name, test := range map[string]struct {
		disk block.Disk
		want install.Kind
	}{
		"nvme":             {block.Disk{Type: "disk", Transport: "nvme"}, install.NVMe},
		"sata":             {block.Disk{Type: "disk", Transport: "sata", Subsystems: "block:scsi:pci"}, install.SCSI},
		"virtio":           {block.Disk{Type: "disk", Subsystems: "block:virtio:pci"}, install.Virtual},
		"scsi over virtio": {block.Disk{Type: "disk", Subsystems: "block:scsi:virtio:pci"}, install.SCSI},
		"emmc":             {block.Disk{Type: "disk", Major: 179, Name: "mmcblk0"}, install.MMC},
		"emmc boot":        {block.Disk{Type: "disk", Major: 179, Name: "mmcblk0boot0"}, install.Other},
		"multipath":        {block.Disk{Type: "mpath", Subsystems: "block:scsi:pci"}, install.SCSI},
		"xen":              {block.Disk{Type: "disk", Subsystems: "block:xen"}, install.Virtual},
		"loop":             {block.Disk{Type: "loop", Subsystems: "block"}, install.Other},
		"cd":               {block.Disk{Type: "rom", Subsystems: "block:scsi:pci"}, install.Other},
	} {
		if got := kind(test.disk); got != test.want {
			t.Errorf("%s: got %d, want %d", name, got, test.want)
		}
	}
}

// The stick with the seed is plugged in beside the one disk of a machine: it is no second choice.
func TestLabels_MediaThatAreRead_AreKnownByDiskAndPartition(t *testing.T) {
	root := t.TempDir()
	for link, device := range map[string]string{
		"by-label/SEED_DATA": "sdb", "by-partlabel/RESCUE_DATA": "sdc1", "by-label/cidata": "vdb", "by-partlabel/seed-data": "vda2",
	} {
		path := filepath.Join(root, "dev/disk", link)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(filepath.Join(root, "dev", device), nil, 0o600),
			os.Symlink("../../"+device, path)); err != nil {
			t.Fatal(err)
		}
	}
	labels, err := Options{Root: root}.labels()
	if err != nil {
		t.Fatal(err)
	}
	for want, disk := range map[string]block.Disk{
		"SEED_DATA":   {Name: "sdb"},
		"RESCUE_DATA": {Name: "sdc", Partitions: []block.Partition{{Path: "/dev/sdc2"}, {Path: "/dev/sdc1"}}},
		"cidata":      {Name: "vdb"},
		"":            {Name: "vda", Partitions: []block.Partition{{Path: "/dev/vda1"}, {Path: "/dev/vda2"}}},
	} {
		if got := labelOf(disk, labels); got != want {
			t.Errorf("%s: got %q, want %q", disk.Name, got, want)
		}
	}
}

// A TPM that is a program on this machine proves nothing.
func TestTPMVersion_RealAndEmulated_OnlyTheRealIsPresent(t *testing.T) {
	type answer struct {
		present, emulated bool
		major             int
	}
	none, real, virtual := t.TempDir(), t.TempDir(), t.TempDir()
	write(t, real, "/sys/class/tpm/tpm0/tpm_version_major", "2\n")
	write(t, virtual, "/sys/devices/virtual/tpm/tpm0/tpm_version_major", "2\n")
	if err := os.MkdirAll(filepath.Join(virtual, "sys/class/tpm"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("../../devices/virtual/tpm/tpm0", filepath.Join(virtual, "sys/class/tpm/tpm0")); err != nil {
		t.Fatal(err)
	}
	for root, want := range map[string]answer{none: {}, real: {present: true, major: 2}, virtual: {emulated: true}} {
		var got answer
		var err error
		if got.present, got.emulated, got.major, err = tpmVersion(root); got != want || err != nil {
			t.Errorf("got %+v, %v; want %+v", got, err, want)
		}
	}
}

// Who walks by sees the warning and has time to pull the plug; a whole machine does not wait.
func TestWarn_Warnings_AreShownBeforeTheDiskIsTouched(t *testing.T) {
	var lines []string
	o := Options{WarningTime: time.Hour, Console: func(level, message string) { lines = append(lines, level+" "+message) }}
	if err := o.warn(t.Context(), nil); err != nil || lines != nil {
		t.Errorf("got %v, %q", err, lines)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := o.warn(ctx, []string{"there is no TPM"}); !errors.Is(err, context.Canceled) {
		t.Errorf("it did not wait: %v", err)
	}
	if diff := cmp.Diff([]string{"warning there is no TPM", "warning the installation begins in 1h0m0s"}, lines); diff != "" {
		t.Error(diff)
	}
	o.WarningTime = time.Nanosecond
	if err := o.warn(t.Context(), []string{"there is no TPM"}); err != nil {
		t.Error(err)
	}
}

func TestWaitGone_MediumRemoved_Returns(t *testing.T) {
	path := filepath.Join(t.TempDir(), "medium")
	write(t, "", path, "")
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := waitGone(ctx, path, time.Hour); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := waitGone(context.Background(), path, time.Hour); err != nil {
		t.Error(err)
	}
}

func TestNewGUID_Random_HasTheForm(t *testing.T) {
	form := regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`)
	if guid := newGUID(); !form.MatchString(guid) || guid == newGUID() {
		t.Errorf("got %q", guid)
	}
}
