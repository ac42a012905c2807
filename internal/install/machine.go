// Package install brings Holdfast from a medium to a disk.
//
// It is the pure part: Check says whether this machine may be installed, Select
// chooses the disk, NewPlan makes the list of steps, and Run does them on whatever
// implements Env. internal/installer gathers the facts and provides the real disk.
//
// An installation can be cut at any moment, and the next start from the medium
// simply does it again:
//
//	wipe        the old table goes, backup first; then the unfinished mark is set
//	zero, copy  the contents of partitions 1 to 5; no table says that they are there.
//	            Only what the medium's file systems use is copied (Used)
//	table       the commit: from here on the disk can be started
//	mark        files on the ESP for what the machine was installed without, if anything
//	firmware    boot entry and the note "installed" in a firmware variable
//	unmark      the mark goes
//
// The mark is a block in the gap before the first partition. It holds the GUID
// that the new ESP gets, and it counts only on a disk that has either nothing else
// or exactly the table of that same installation, never started: a disk that has
// lived since, or was given to something else, is not taken for an unfinished one.
package install

import (
	"slices"
	"strings"

	"github.com/holdfast-os/holdfast/api/seed"
	"github.com/holdfast-os/holdfast/internal/layout"
)

// Machine is what must be known of a machine before it is installed.
type Machine struct {
	// UEFI is true when UEFI firmware started the machine.
	UEFI bool
	// SecureBoot, SetupMode and AuditMode are the firmware's switches.
	SecureBoot, SetupMode, AuditMode bool
	// TPMPresent is true for a TPM of any version; an emulated one does not count.
	TPMPresent bool
	// TPMVersion is the major version, 1 or 2; 0 when unknown.
	TPMVersion int
	// TPMFault is why the TPM does not work, in words; empty when it does, or was not asked.
	TPMFault string
	// TPMEmulated is true on a node that serves a TPM of its own, as its installation was
	// allowed to.
	TPMEmulated bool
	// InstallComplete is the note that an earlier installation left in the firmware.
	InstallComplete bool
	// Install is the seed's request. Without it the machine runs from where it is,
	// and only the rules for the machine itself apply.
	Install *seed.Install
	// NoApplications is true when the seed has a list of applications that is empty.
	NoApplications bool
	// Medium is what the installation is read from.
	Medium Medium
	// Disks are all disks of the machine, the medium too.
	Disks []Disk
}

// Medium is the disk that the machine was started from.
type Medium struct {
	// Path is the device, as "/dev/sda".
	Path string
	// Version is the release on it: 12 digits.
	Version string
	// ESPSector is the sector size, in bytes, that its ESP is formatted for.
	ESPSector int64
	// Parts are its partitions.
	Parts []Part
}

// Part is one partition.
type Part struct {
	// Number is the place in the table, from 1.
	Number int
	// GUID is the unique GUID in lower case.
	GUID  string
	Label string
	// Start and Size are in bytes.
	Start, Size int64
}

// Disk is one disk that may become the target.
type Disk struct {
	// Path is the device, as "/dev/nvme0n1".
	Path string
	// IDs are its names in /dev/disk/by-id, sorted.
	IDs []string
	// Size is in bytes.
	Size int64
	// Sector is the logical sector size in bytes.
	Sector int64
	// Kind is what the disk hangs on; Other is never a target.
	Kind Kind
	// Subsystems is the kernel's chain of buses, as "block:scsi:pci".
	Subsystems string
	Model      string
	ReadOnly   bool
	// InUse is true when something on it is mounted or claimed.
	InUse bool
	// Unreadable says why the content cannot be read; empty when it was.
	Unreadable string
	// Members are the disks that make up a multipath device.
	Members []string
	// Label is that of a medium which this machine reads a seed, a key or a rescue from, as
	// "SEED_DATA"; empty for any other disk. It is never a target.
	Label   string
	Content Content
}

// Kind orders candidates: those that are usual for a system come first.
type Kind int

// Kinds of disks.
const (
	NVMe Kind = iota
	SCSI
	MMC
	Virtual
	Other
)

// TableState says how much of a partition table stands.
type TableState int

// States of a table.
const (
	// NoTable is a disk without GUID partition table.
	NoTable TableState = iota
	// ValidTable is a table in order.
	ValidTable
	// DamagedTable is a good backup behind a broken primary.
	DamagedTable
)

// Content is what is on a disk.
type Content struct {
	Table TableState
	Parts []Part
	// Signatures are the file systems, tables and members of larger volumes that are
	// recognised on the whole disk, as "zfs_member", sorted. What a GUID partition table
	// is recognised by is not among them while the table stands.
	Signatures []string
	// Mark is the GUID in the mark of an unfinished installation; empty for none.
	Mark string
}

// Unfinished reports whether all there is on the disk comes from an installation
// that was cut, so that nothing is lost by doing it again.
func (c Content) Unfinished() bool {
	if c.Mark == "" {
		return false
	}
	if c.Table == NoTable {
		return len(c.foreign()) == 0
	}
	same := false
	for _, p := range c.Parts {
		if p.Number > layout.UsrB {
			return false
		}
		same = same || (p.Number == layout.ESP && p.GUID == c.Mark)
	}
	return same
}

// Occupied says in words what would be lost; empty for a disk with nothing on it.
func (c Content) Occupied() string {
	switch {
	case c.Unfinished():
		return ""
	case c.Table == DamagedTable:
		return "a damaged partition table whose backup is good"
	case c.Table == ValidTable:
		return "a partition table"
	case len(c.Signatures) > 0:
		return "data (" + strings.Join(c.Signatures, ", ") + ")"
	}
	return ""
}

// foreign are the signatures that are not a rest of a table.
func (c Content) foreign() []string {
	return slices.DeleteFunc(slices.Clone(c.Signatures), func(s string) bool { return s == "gpt" || s == "PMBR" })
}

// Installed gives the value that confirms the loss of an installation of this very
// release, and false when the disk holds no such installation. The value changes
// with each installation, so that a medium left in the machine cannot install it
// again and again.
func (c Content) Installed(version string) (confirmation string, ok bool) {
	if c.Unfinished() || c.Table == NoTable {
		return "", false
	}
	var esp string
	for _, p := range c.Parts {
		if p.Number == layout.ESP {
			esp = strings.ReplaceAll(p.GUID, "-", "")
		}
		ok = ok || p.Label == layout.Name+"_"+version
	}
	if len(esp) < 6 {
		return "", false
	}
	return esp[:6], ok
}
