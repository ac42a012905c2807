package facts

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	api "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/system/block"
	"github.com/holdfast-os/holdfast/internal/system/run"
)

// smartTime bounds one question to one drive; a dying drive may not answer at all.
const smartTime = 10 * time.Second

// notDrives are the kernel's classes of devices that are no drives: memory, floppy,
// loop, network block, DRBD, ZFS volume, and device-mapper on kernels without udev.
var notDrives = []int{1, 2, 7, 43, 147, 230, 251}

// Drives are the disks of the machine that have a lasting name, sorted by it. boot is
// the disk that the node runs from, as "/dev/vda"; empty when unknown. MemberPool is
// left to AssignPools.
func (c Collector) Drives(ctx context.Context, boot string) ([]api.Drive, error) {
	disks, err := block.Devices{Run: c.Run, Root: c.Root}.List(ctx)
	if err != nil {
		return nil, err
	}
	paths, err := c.links("dev/disk/by-path")
	if err != nil {
		return nil, fmt.Errorf("reading the places of drives: %w", err)
	}
	drives := []api.Drive{}
	for _, disk := range disks {
		id := driveID(disk, paths)
		if id == "" || slices.Contains(notDrives, disk.Major) || disk.Type != "disk" && disk.Type != "mpath" || isBMC(disk) {
			continue
		}
		info, err := c.smart(ctx, disk)
		if err != nil {
			return nil, err
		}
		drives = append(drives, c.drive(disk, id, info, boot))
	}
	slices.SortFunc(drives, func(a, b api.Drive) int { return strings.Compare(a.ID, b.ID) })
	return drives, nil
}

// driveID is the first link that does not change with what is on the drive.
func driveID(disk block.Disk, paths map[string][]string) string {
	for _, link := range disk.Links {
		if strings.HasPrefix(link, "lvm-pv-uuid-") || strings.HasPrefix(link, "dm-") {
			continue
		}
		return "/dev/disk/by-id/" + link
	}
	if links := paths[disk.Name]; len(links) > 0 {
		return "/dev/disk/by-path/" + links[0]
	}
	return ""
}

// isBMC is true for the media that a management controller shows over USB.
func isBMC(disk block.Disk) bool {
	model := strings.ToLower(disk.Model)
	return disk.Transport == "usb" && (strings.Contains(model, "virtual") || strings.Contains(model, "idrac") ||
		strings.Contains(model, "ilo") && strings.Contains(model, "media"))
}

func (c Collector) drive(disk block.Disk, id string, info smartInfo, boot string) api.Drive {
	drive := api.Drive{
		ID: id, ModelFamily: info.ModelFamily, ModelName: disk.Model, SerialNumber: disk.Serial,
		Bus: busOf(disk, info), CapacityInBytes: disk.Size, WWN: disk.WWN, Removable: disk.Removable,
		Multipath: len(disk.Members) > 0 || c.nativePaths(disk.Name) > 1,
		Remote:    c.remote(disk),
		Boot:      boot != "" && (disk.Path == boot || slices.Contains(disk.Members, boot)),
	}
	if name := info.name(); name != "" {
		drive.ModelName = name
	}
	if info.Serial != "" {
		drive.SerialNumber = info.Serial
	}
	return drive
}

// busOf prefers the drive's own word; the kernel says "ata" or nothing for some.
func busOf(disk block.Disk, info smartInfo) string {
	switch bus := info.Device.Type; {
	case bus == "sat":
		return "sata"
	case bus != "":
		return bus
	case disk.Transport != "":
		return disk.Transport
	case strings.Contains(disk.Subsystems, "virtio"):
		return "virtio"
	}
	return "unknown"
}

// remote is true for a drive behind a fabric.
func (c Collector) remote(disk block.Disk) bool {
	if slices.Contains([]string{"fc", "iscsi", "fcoe", "srp"}, disk.Transport) {
		return true
	}
	if target, err := os.Readlink(filepath.Join(c.Root, "sys/block", disk.Name)); err == nil && strings.Contains(target, "/rport-") {
		return true
	}
	transport, err := c.read("sys/block/" + disk.Name + "/device/transport")
	return err == nil && strings.HasPrefix(disk.Name, "nvme") && transport != "" && transport != "pcie"
}

// nativePaths counts the ways that the NVMe driver itself has to a drive; 0 when it
// does not say.
func (c Collector) nativePaths(name string) int {
	entries, err := os.ReadDir(filepath.Join(c.Root, "sys/block", name, "multipath"))
	if err != nil {
		return 0
	}
	return len(entries)
}

// smartInfo is what `smartctl --info` says.
type smartInfo struct {
	Device struct {
		Type string `json:"type"`
	} `json:"device"`
	ModelFamily string `json:"model_family"`
	ModelName   string `json:"model_name"`
	Vendor      string `json:"scsi_vendor"`
	Product     string `json:"scsi_product"`
	Serial      string `json:"serial_number"`
}

// name is the model; a SCSI drive has a vendor and a product instead.
func (s smartInfo) name() string {
	if s.ModelName != "" {
		return s.ModelName
	}
	return strings.TrimSpace(s.Vendor + " " + s.Product)
}

// smart asks a drive about itself. A virtual drive has no answer, and a machine may
// have no smartctl; both give an empty value.
func (c Collector) smart(ctx context.Context, disk block.Disk) (smartInfo, error) {
	limited, cancel := context.WithTimeout(ctx, smartTime)
	defer cancel()
	// smartctl ends with a code of bits even when it could answer.
	result, runErr := c.Run(limited, run.Command{Name: "smartctl", Args: []string{"--json=c", "--info", disk.Path}})
	if err := ctx.Err(); err != nil {
		return smartInfo{}, fmt.Errorf("asking the drive %s: %w", disk.Path, err)
	}
	var info smartInfo
	if runErr != nil && len(result.Stdout) == 0 || json.Unmarshal(result.Stdout, &info) != nil {
		return smartInfo{}, nil
	}
	if code, ended := run.ExitCode(runErr); ended && code&0b11 != 0 {
		// The two lowest bits say that the drive was not opened or not understood; its
		// type is then a guess.
		return smartInfo{}, nil
	}
	return info, nil
}

// links maps kernel names to the links of a directory, sorted.
func (c Collector) links(dir string) (map[string][]string, error) {
	entries, err := os.ReadDir(filepath.Join(c.Root, dir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	links := map[string][]string{}
	for _, entry := range entries {
		if entry.Type()&fs.ModeSymlink == 0 {
			continue // udev makes folders for partitions as well
		}
		target, err := os.Readlink(filepath.Join(c.Root, dir, entry.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue // unplugged while we looked
		}
		if err != nil {
			return nil, err
		}
		links[filepath.Base(target)] = append(links[filepath.Base(target)], entry.Name())
	}
	return links, err
}

// AssignPools notes in each drive which pool it belongs to: a pool's device is the
// drive itself or a partition of it.
func AssignPools(drives []api.Drive, pools []api.Pool) {
	for _, pool := range pools {
		for _, device := range slices.Concat(pool.Devices, pool.Cache, pool.Log) {
			for i := range drives {
				if device == drives[i].ID || strings.HasPrefix(device, drives[i].ID+"-part") {
					drives[i].MemberPool = pool.Name
				}
			}
		}
	}
}
