package layout

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// TableOptions describe the table that an installation writes.
type TableOptions struct {
	// Arch is "x86_64" or "aarch64".
	Arch string
	// Version is the release on the medium: 12 digits.
	Version string
	// SectorSize is the target's logical sector in bytes, 512 or 4096; default 512.
	SectorSize int64
	// DiskSize is the target's size in bytes.
	DiskSize int64
	// UUIDs are those of the medium's partitions, by number. 3 to 5 are needed:
	// the kernel finds /usr by them, because they are made from its root hash.
	// A number that is left out gets one from sfdisk.
	UUIDs map[int]string
	// Paths marks a disk that is reached over several paths, with PathsAttribute; default false.
	Paths bool
}

// PathsAttribute is the attribute of the ESP of a disk that is reached over several paths.
// Early boot then never uses one of the paths by itself, also when it is the only one that is
// there. It is among the bits that the specification leaves to the type of a partition (UEFI
// 2.10, table 5-8), and nobody has given one to that of an ESP.
const PathsAttribute = 1 << pathsBit

const pathsBit = 55

var (
	versionForm = regexp.MustCompile(`^[0-9]{12}$`)
	uuidForm    = regexp.MustCompile(`^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$`)
)

// IsVersion tells whether a text is the version of a release: 12 digits.
func IsVersion(text string) bool { return versionForm.MatchString(text) }

// InstallTable gives the script for `sfdisk` that writes partitions 1 to 8 in one
// step. The installer fills the partitions first and writes the table as its last
// act, so that a cut installation leaves a disk that nothing takes for a system.
func InstallTable(o TableOptions) (string, error) {
	table, err := Table(o.Arch)
	if err != nil {
		return "", err
	}
	if o.SectorSize == 0 {
		o.SectorSize = 512
	}
	if err := o.check(); err != nil {
		return "", fmt.Errorf("making the partition table: %w", err)
	}
	var script strings.Builder
	fmt.Fprintf(&script, "label: gpt\nunit: sectors\nsector-size: %d\n\n", o.SectorSize)
	for _, p := range table[:UsrB] {
		fmt.Fprintf(&script, "%d : start=%d, size=%d, type=%s", p.Number, p.Start/o.SectorSize, p.Size/o.SectorSize, p.GUID)
		if uuid := o.UUIDs[p.Number]; uuid != "" {
			fmt.Fprintf(&script, ", uuid=%s", strings.ToUpper(uuid))
		}
		if o.Paths && p.Number == ESP {
			fmt.Fprintf(&script, ", attrs=\"GUID:%d\"", pathsBit)
		}
		fmt.Fprintf(&script, ", name=%q\n", SlotLabel(p, o.Version))
	}
	return script.String(), nil
}

func (o TableOptions) check() error {
	var problems []error
	if o.SectorSize != 512 && o.SectorSize != 4096 {
		problems = append(problems, fmt.Errorf("sectors of %d bytes: known are 512 and 4096", o.SectorSize))
	}
	if !versionForm.MatchString(o.Version) {
		problems = append(problems, fmt.Errorf("release %q is not 12 digits", o.Version))
	}
	if o.DiskSize < MinimumDisk {
		problems = append(problems, fmt.Errorf("the disk has %d bytes, at least %d are needed", o.DiskSize, MinimumDisk))
	}
	for number := ESP; number <= LocalData; number++ {
		uuid := o.UUIDs[number]
		switch {
		case uuid == "" && number >= SigA && number <= UsrA:
			problems = append(problems, fmt.Errorf("no UUID for partition %d", number))
		case uuid != "" && !uuidForm.MatchString(uuid):
			problems = append(problems, fmt.Errorf("UUID %q of partition %d is not one", uuid, number))
		}
	}
	return errors.Join(problems...)
}

// SlotLabel is the partition's name when slot A holds the release version.
func SlotLabel(p Partition, version string) string {
	return strings.Replace(p.Label, "%", version, 1)
}
