package install

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/lxc/incus/v6/shared/units"

	"github.com/holdfast-os/holdfast/api/seed"
)

// virtualMedia are the by-id names of the disks that management controllers show:
// they come and go with somebody's browser.
var virtualMedia = []string{
	"usb-Linux_Virtual_", "usb-Generic-_SD_MMC_CRW", "usb-Cisco_", "usb-AMI_Virtual_", "usb-iDRAC_Virtual_",
}

// Candidates gives the disks that may be a target, NVMe first, and for every other
// one the reason why not, as "/dev/sdb: ...".
func Candidates(disks []Disk, medium string) (candidates []Disk, ignored []string) {
	byID := map[string]string{}
	sorted := slices.Clone(disks)
	slices.SortStableFunc(sorted, func(a, b Disk) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), strings.Compare(a.Path, b.Path))
	})
	for _, disk := range sorted {
		reason := unfit(disk, medium)
		if reason == "" {
			for _, id := range disk.IDs {
				if other, seen := byID[id]; seen {
					reason = "the same disk as " + other
				}
			}
		}
		if reason == "" {
			for _, id := range disk.IDs {
				byID[id] = disk.Path
			}
		}
		if reason != "" {
			ignored = append(ignored, disk.Path+": "+reason)
			continue
		}
		candidates = append(candidates, disk)
	}
	return candidates, ignored
}

func unfit(disk Disk, medium string) string {
	name := disk.Path[strings.LastIndexByte(disk.Path, '/')+1:]
	switch {
	case disk.Path == medium || slices.Contains(disk.Members, medium):
		return "the medium itself"
	case disk.Label != "":
		return "the medium " + disk.Label + ", which is read and not written"
	case disk.Kind == Other || strings.HasPrefix(name, "sr"):
		return "not a disk for a system"
	case len(disk.IDs) == 0:
		return "no name in /dev/disk/by-id (in a virtual machine, give the disk a serial number)"
	}
	for _, id := range disk.IDs {
		if slices.ContainsFunc(virtualMedia, func(prefix string) bool { return strings.HasPrefix(id, prefix) }) {
			return "virtual media of a management controller"
		}
	}
	return ""
}

// Select chooses the target out of the candidates. All conditions of the seed must
// hold; without any, there must be exactly one candidate.
func Select(candidates []Disk, want *seed.InstallTarget) (Disk, *Problem) {
	if want == nil {
		want = &seed.InstallTarget{}
	}
	smallest, problem := parseSize("min_size", want.MinSize)
	if problem != nil {
		return Disk{}, problem
	}
	largest, problem := parseSize("max_size", want.MaxSize)
	if problem != nil {
		return Disk{}, problem
	}
	matches := slices.Collect(func(yield func(Disk) bool) {
		for _, disk := range candidates {
			fits := strings.Contains(strings.ToLower(disk.Subsystems), strings.ToLower(want.Bus)) && hasID(disk, want.ID) &&
				disk.Size >= smallest && (want.MaxSize == "" || disk.Size <= largest)
			if fits && !yield(disk) {
				return
			}
		}
	})
	switch order := strings.ToLower(want.SortOrder); {
	case order != "" && order != "smallest" && order != "largest":
		return Disk{}, &Problem{Rule: "target-order", Where: "seed install, target.sort_order",
			What: fmt.Sprintf("%q is not an order", want.SortOrder), Do: "write smallest or largest"}
	case len(matches) == 0:
		return Disk{}, noTarget(candidates)
	case len(matches) == 1:
		return matches[0], nil
	case order == "smallest":
		return slices.MinFunc(matches, bySize), nil
	case order == "largest":
		return slices.MinFunc(matches, func(a, b Disk) int { return bySize(b, a) }), nil
	}
	return Disk{}, &Problem{Rule: "target-several", Where: "seed install, target",
		What: "several disks could be the target: " + describe(matches),
		Do:   "name one with target.id, or choose with target.sort_order"}
}

func noTarget(candidates []Disk) *Problem {
	if len(candidates) == 0 {
		return &Problem{Rule: "target-none", Where: "the disks", What: "no disk can be installed on",
			Do: "connect a disk of at least 20 GiB beside the medium"}
	}
	return &Problem{Rule: "target-none", Where: "seed install, target",
		What: "no disk meets the conditions; there are: " + describe(candidates), Do: "change target in the install seed"}
}

func bySize(a, b Disk) int { return cmp.Compare(a.Size, b.Size) }

// hasID accepts a part of a by-id name, the path of the device, and the path of a link to it.
func hasID(disk Disk, id string) bool {
	return id == "" || id == disk.Path || slices.ContainsFunc(disk.IDs, func(name string) bool {
		return strings.Contains(name, strings.TrimPrefix(id, "/dev/disk/by-id/"))
	})
}

func parseSize(field, text string) (int64, *Problem) {
	if text == "" {
		return 0, nil
	}
	size, err := units.ParseByteSizeString(text)
	if err != nil || size < 0 {
		return 0, &Problem{Rule: "target-size-form", Where: "seed install, target." + field,
			What: fmt.Sprintf("%q is not a size", text), Do: "write it as 100GiB"}
	}
	return size, nil
}

func describe(disks []Disk) string {
	var texts []string
	for _, disk := range disks {
		texts = append(texts, fmt.Sprintf("%s (%s, %s)", disk.Path, disk.IDs[0], formatSize(disk.Size)))
	}
	return strings.Join(texts, ", ")
}

func formatSize(n int64) string {
	for _, unit := range []struct {
		name string
		size int64
	}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}} {
		if n >= unit.size {
			text := fmt.Sprintf("%.1f", float64(n)/float64(unit.size))
			return strings.TrimSuffix(text, ".0") + " " + unit.name
		}
	}
	return fmt.Sprintf("%d bytes", n)
}
