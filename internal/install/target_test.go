package install

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/api/seed"
)

const gib = 1 << 30

var (
	fast   = Disk{Path: "/dev/nvme0n1", IDs: []string{"nvme-Fast_1"}, Size: 100 * gib, Sector: 512, Kind: NVMe, Subsystems: "block:nvme:pci"}
	big    = Disk{Path: "/dev/sdb", IDs: []string{"ata-Big_7", "wwn-0x5000"}, Size: 4000 * gib, Sector: 512, Kind: SCSI, Subsystems: "block:scsi:pci"}
	small  = Disk{Path: "/dev/vda", IDs: []string{"virtio-small"}, Size: 25 * gib, Sector: 512, Kind: Virtual, Subsystems: "block:virtio:pci"}
	stick  = Disk{Path: "/dev/sda", IDs: []string{"usb-Stick"}, Size: 30 * gib, Sector: 512, Kind: SCSI, Subsystems: "block:scsi:usb:pci"}
	noName = Disk{Path: "/dev/vdb", Size: 50 * gib, Sector: 512, Kind: Virtual}
	remote = Disk{Path: "/dev/sdc", IDs: []string{"usb-AMI_Virtual_HDisk0"}, Size: 50 * gib, Kind: SCSI}
	cd     = Disk{Path: "/dev/sr0", IDs: []string{"ata-DVD"}, Size: 4 * gib, Kind: Other}
	twin   = Disk{Path: "/dev/sdd", IDs: []string{"ata-Other", "wwn-0x5000"}, Size: 4000 * gib, Kind: SCSI}
	told   = Disk{Path: "/dev/sde", IDs: []string{"usb-Seed"}, Size: 64 << 20, Sector: 512, Kind: SCSI, Label: "SEED_DATA"}
	paths  = Disk{Path: "/dev/mapper/mpatha", IDs: []string{"dm-name-mpatha"}, Size: 50 * gib, Kind: SCSI, Members: []string{"/dev/sda", "/dev/sdf"}}
)

// A person whose disk is not offered must be told why.
func TestCandidates_EveryKindOfDisk_OrderAndReasons(t *testing.T) {
	got, ignored := Candidates([]Disk{small, cd, stick, remote, noName, twin, big, fast, paths, told}, "/dev/sda")
	if diff := cmp.Diff([]Disk{fast, big, small}, got); diff != "" {
		t.Error(diff)
	}
	want := []string{
		"/dev/mapper/mpatha: the medium itself",
		"/dev/sda: the medium itself",
		"/dev/sdc: virtual media of a management controller",
		"/dev/sdd: the same disk as /dev/sdb",
		"/dev/sde: the medium SEED_DATA, which is read and not written",
		"/dev/vdb: no name in /dev/disk/by-id (in a virtual machine, give the disk a serial number)",
		"/dev/sr0: not a disk for a system",
	}
	if diff := cmp.Diff(want, ignored); diff != "" {
		t.Error(diff)
	}
}

// The wrong disk is the one mistake of an installation that nothing undoes.
func TestSelect_ConditionsOfTheSeed_OneDiskOrARule(t *testing.T) {
	all := []Disk{fast, big, small}
	tests := map[string]struct {
		disks []Disk
		want  *seed.InstallTarget
		path  string
		rule  string
	}{
		"one disk, no conditions":      {disks: []Disk{small}, path: "/dev/vda"},
		"no disk":                      {rule: "target-none"},
		"several, no conditions":       {disks: all, rule: "target-several"},
		"bus":                          {disks: all, want: &seed.InstallTarget{Bus: "NVMe"}, path: "/dev/nvme0n1"},
		"id":                           {disks: all, want: &seed.InstallTarget{ID: "Big"}, path: "/dev/sdb"},
		"id counts upper case":         {disks: all, want: &seed.InstallTarget{ID: "big"}, rule: "target-none"},
		"second id":                    {disks: all, want: &seed.InstallTarget{ID: "wwn-0x5000"}, path: "/dev/sdb"},
		"id as a link":                 {disks: all, want: &seed.InstallTarget{ID: "/dev/disk/by-id/ata-Big_7"}, path: "/dev/sdb"},
		"id as a device":               {disks: all, want: &seed.InstallTarget{ID: "/dev/vda"}, path: "/dev/vda"},
		"smallest size is included":    {disks: all, want: &seed.InstallTarget{MinSize: "4000GiB"}, path: "/dev/sdb"},
		"largest size is included":     {disks: all, want: &seed.InstallTarget{MaxSize: "25GiB"}, path: "/dev/vda"},
		"one byte too small":           {disks: []Disk{small}, want: &seed.InstallTarget{MinSize: "26843545601B"}, rule: "target-none"},
		"all conditions must hold":     {disks: all, want: &seed.InstallTarget{Bus: "scsi", MaxSize: "100GiB"}, rule: "target-none"},
		"smallest":                     {disks: all, want: &seed.InstallTarget{SortOrder: "Smallest"}, path: "/dev/vda"},
		"largest":                      {disks: all, want: &seed.InstallTarget{SortOrder: "largest"}, path: "/dev/sdb"},
		"size that is none":            {disks: all, want: &seed.InstallTarget{MinSize: "many"}, rule: "target-size-form"},
		"order that is none":           {disks: []Disk{small}, want: &seed.InstallTarget{SortOrder: "random"}, rule: "target-order"},
		"two of the same bus":          {disks: []Disk{big, {Path: "/dev/sdz", IDs: []string{"x"}, Subsystems: "block:scsi"}}, want: &seed.InstallTarget{Bus: "scsi"}, rule: "target-several"},
		"sort order after a condition": {disks: all, want: &seed.InstallTarget{MinSize: "50GiB", SortOrder: "smallest"}, path: "/dev/nvme0n1"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			disk, problem := Select(test.disks, test.want)
			rule := ""
			if problem != nil {
				rule = problem.Rule
			}
			if disk.Path != test.path || rule != test.rule {
				t.Errorf("got %q and rule %q, want %q and %q", disk.Path, rule, test.path, test.rule)
			}
		})
	}
}
