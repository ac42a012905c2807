// Package block is what Holdfast knows and does about disks.
//
// Facts come from lsblk and the links under /dev/disk/by-id. A partition table is
// read by this package itself, because the interesting cases are the broken ones:
// a primary header that is gone while the backup still stands must be told apart
// from an empty disk. A table is written by sfdisk, signatures are removed by
// wipefs, and ranges are zeroed by the kernel.
//
// Nothing here decides: which disk, and whether it may be overwritten, is the
// business of internal/install.
package block

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/holdfast-os/holdfast/internal/system/run"
)

// Devices reads and changes the disks of one machine.
type Devices struct {
	// Run starts lsblk, sfdisk, partx, wipefs, and kpartx for a disk made of paths.
	Run run.Runner
	// Root is the directory that holds dev and sys; default "/".
	Root string
}

// Disk is one whole disk.
type Disk struct {
	// Name is the kernel's name, as "sda".
	Name string
	// Path is the device, as "/dev/sda" or "/dev/mapper/mpatha".
	Path string
	// Links are the names under /dev/disk/by-id that point to the disk, or to a path of it, sorted.
	Links []string
	// Size is in bytes.
	Size   uint64
	Serial string
	Model  string
	WWN    string
	// Transport is "sata", "nvme", "usb" and so on; empty when unknown.
	Transport string
	// Subsystems is the chain of kernel subsystems, as "block:scsi:usb:pci".
	Subsystems string
	Removable  bool
	ReadOnly   bool
	// Rotational is true for a disk that spins.
	Rotational bool
	// Type is lsblk's: "disk", "rom", "loop", "mpath".
	Type string
	// Major is the kernel's device class.
	Major int
	// SectorSize is the logical sector in bytes.
	SectorSize int
	// Signature is what blkid sees on the whole disk: a file system, "gpt", "dos"; empty when nothing.
	Signature string
	// Mounted is true when the disk or something on it is mounted or used as swap.
	Mounted bool
	// Members are the paths of the disks that a multipath device is made of.
	Members    []string
	Partitions []Partition
}

// Partition is one partition as the kernel shows it.
type Partition struct {
	// Number is the partition's place in the table, from 1; 0 when the name does not tell.
	Number int
	Path   string
	// GUID, Type and Label are the table's entries, in lower case but for the label.
	GUID  string
	Type  string
	Label string
	// Size is in bytes.
	Size uint64
}

const lsblkColumns = "NAME,KNAME,PATH,MAJ:MIN,SIZE,SERIAL,MODEL,WWN,TRAN,SUBSYSTEMS,RM,RO,ROTA,TYPE,LOG-SEC," +
	"FSTYPE,PTTYPE,PARTUUID,PARTLABEL,PARTTYPE,MOUNTPOINTS"

type lsblkDevice struct {
	KName       string        `json:"kname"`
	Path        string        `json:"path"`
	MajMin      string        `json:"maj:min"`
	Size        uint64        `json:"size"`
	Serial      string        `json:"serial"`
	Model       string        `json:"model"`
	WWN         string        `json:"wwn"`
	Tran        string        `json:"tran"`
	Subsystems  string        `json:"subsystems"`
	RM          bool          `json:"rm"`
	RO          bool          `json:"ro"`
	Rota        bool          `json:"rota"`
	Type        string        `json:"type"`
	LogSec      int           `json:"log-sec"`
	FSType      string        `json:"fstype"`
	PTType      string        `json:"pttype"`
	PartUUID    string        `json:"partuuid"`
	PartLabel   string        `json:"partlabel"`
	PartType    string        `json:"parttype"`
	MountPoints []*string     `json:"mountpoints"`
	Children    []lsblkDevice `json:"children"`
}

// List gives every disk that has a size, sorted by path. A multipath device stands
// once, with the paths of its members; the members themselves are left out.
func (d Devices) List(ctx context.Context) ([]Disk, error) {
	out, err := d.Run(ctx, run.Command{Name: "lsblk", Args: []string{"--json", "--bytes", "--output", lsblkColumns}})
	if err != nil {
		return nil, fmt.Errorf("listing disks: %w", err)
	}
	links, err := d.links()
	if err != nil {
		return nil, err
	}
	return parseList(out.Stdout, links)
}

// PartitionNode gives the device of a partition of a disk, once the kernel has it; it waits
// up to 30 seconds, since a table that was just written may still be taken up.
func (d Devices) PartitionNode(ctx context.Context, disk string, number int) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	for {
		disks, err := d.List(ctx)
		if err != nil {
			return "", fmt.Errorf("looking for partition %d of %s: %w", number, disk, err)
		}
		for _, one := range disks {
			if one.Path != disk {
				continue
			}
			for _, p := range one.Partitions {
				if p.Number == number {
					return p.Path, nil
				}
			}
		}
		select {
		case <-ctx.Done():
			return "", fmt.Errorf("looking for partition %d of %s: the kernel does not have it", number, disk)
		case <-tick.C:
		}
	}
}

func parseList(data []byte, links map[string][]string) ([]Disk, error) {
	var answer struct {
		BlockDevices []lsblkDevice `json:"blockdevices"`
	}
	if err := json.Unmarshal(data, &answer); err != nil {
		return nil, fmt.Errorf("reading the answer of lsblk: %w", err)
	}
	found := map[string]Disk{}
	for _, device := range answer.BlockDevices {
		if device.Size == 0 {
			continue
		}
		multipath := slices.IndexFunc(device.Children, func(c lsblkDevice) bool { return c.Type == "mpath" })
		if multipath < 0 {
			found[device.Path] = toDisk(device, links)
			continue
		}
		mapped := device.Children[multipath]
		disk := toDisk(mapped, links)
		disk.Model, disk.Serial, disk.WWN = device.Model, device.Serial, device.WWN
		disk.Transport, disk.Subsystems = device.Tran, device.Subsystems
		known := found[mapped.Path]
		disk.Members = append(known.Members, device.Path)
		// A person names the disk by what any of its paths is called.
		disk.Links = slices.Concat(disk.Links, known.Links, links[device.KName])
		slices.Sort(disk.Links)
		disk.Links = slices.Compact(disk.Links)
		found[mapped.Path] = disk
	}
	disks := make([]Disk, 0, len(found))
	for _, disk := range found {
		disks = append(disks, disk)
	}
	slices.SortFunc(disks, func(a, b Disk) int { return strings.Compare(a.Path, b.Path) })
	return disks, nil
}

func toDisk(device lsblkDevice, links map[string][]string) Disk {
	major, _, _ := strings.Cut(device.MajMin, ":")
	number, err := strconv.Atoi(strings.TrimSpace(major))
	if err != nil {
		number = -1
	}
	signature := device.PTType
	if signature == "" {
		signature = device.FSType
	}
	disk := Disk{
		Name: device.KName, Path: device.Path, Links: links[device.KName], Size: device.Size,
		Serial: strings.TrimSpace(device.Serial), Model: strings.TrimSpace(device.Model), WWN: device.WWN,
		Transport: device.Tran, Subsystems: device.Subsystems, Removable: device.RM, ReadOnly: device.RO,
		Rotational: device.Rota, Type: device.Type, Major: number, SectorSize: device.LogSec,
		Signature: signature, Mounted: mounted(device),
	}
	for _, child := range device.Children {
		if child.Type == "part" {
			disk.Partitions = append(disk.Partitions, Partition{
				Number: partitionNumber(device.KName, child), Path: child.Path, GUID: strings.ToLower(child.PartUUID),
				Type: strings.ToLower(child.PartType), Label: child.PartLabel, Size: child.Size,
			})
		}
	}
	slices.SortFunc(disk.Partitions, func(a, b Partition) int { return a.Number - b.Number })
	return disk
}

func mounted(device lsblkDevice) bool {
	return slices.ContainsFunc(device.MountPoints, func(p *string) bool { return p != nil && *p != "" }) ||
		slices.ContainsFunc(device.Children, mounted)
}

// partitionNumber takes the number off the name: "sda3", "nvme0n1p3" and "/dev/mapper/mpatha-part3" are all 3.
func partitionNumber(parent string, child lsblkDevice) int {
	name := child.KName
	if !strings.HasPrefix(name, parent) {
		name = child.Path
	} else {
		name = name[len(parent):]
	}
	digits := name[strings.LastIndexFunc(name, func(r rune) bool { return r < '0' || r > '9' })+1:]
	number, err := strconv.Atoi(digits)
	if err != nil {
		return 0
	}
	return number
}

// links maps a kernel name to its names under /dev/disk/by-id.
func (d Devices) links() (map[string][]string, error) {
	dir := filepath.Join(d.Root, "/dev/disk/by-id")
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the names of disks: %w", err)
	}
	names := map[string][]string{}
	for _, entry := range entries {
		target, err := os.Readlink(filepath.Join(dir, entry.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue // unplugged while we looked
		}
		if err != nil {
			return nil, fmt.Errorf("reading the link of disk %s: %w", entry.Name(), err)
		}
		kernel := filepath.Base(target)
		names[kernel] = append(names[kernel], entry.Name())
	}
	for _, list := range names {
		slices.Sort(list)
	}
	return names, nil
}
