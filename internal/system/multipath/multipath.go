// Package multipath is a disk that is reached over several paths, as one of a storage network:
// the kernel's device-mapper joins the paths ("multipath" target), and kpartx maps the
// partitions, which the kernel does not look for on a mapped device.
//
// Parties: early boot joins the paths of the system disk (Join) before anything reads it. In
// the running system multipathd takes that map over, knows it by its UUID "mpath-WWID", adds
// and removes paths and groups them as the array wants it. On an install medium multipathd
// makes all maps. Everybody finds maps and partitions through sysfs, by their UUIDs:
//
//	dm-0  mpath-3600508b400105e21         /dev/mapper/3600508b400105e21
//	dm-3  part3-mpath-3600508b400105e21   /dev/mapper/3600508b400105e21-part3
//
// What can fail: a path that somebody has opened exclusively cannot be joined; a table that was
// changed is not seen until Update.
package multipath

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/holdfast-os/holdfast/internal/system/run"
)

const (
	uuidPrefix = "mpath-"
	// separator stands between the name of a map and the number of a partition; it is what
	// the rules of Debian's kpartx use.
	separator = "-part"
)

var (
	partitionUUID = regexp.MustCompile(`^part([0-9]+)-mpath-.`)
	// wwidForm is what udev and multipathd make of a WWID: no space, no slash.
	wwidForm = regexp.MustCompile(`^[A-Za-z0-9#+.:=@_-]{1,120}$`)
)

// ErrNoPath means that a map was asked for without any path.
var ErrNoPath = errors.New("there is no path")

// Devices are the maps of this machine.
type Devices struct {
	// Run starts programs: dmsetup, kpartx.
	Run run.Runner
	// Sys is the directory of sysfs; default "/sys".
	Sys string
}

func (d Devices) file(device string, parts ...string) string {
	sys := d.Sys
	if sys == "" {
		sys = "/sys"
	}
	return filepath.Join(append([]string{sys, "class/block", device}, parts...)...)
}

// attribute is a file of a device in sysfs; empty when the device has no such thing.
func (d Devices) attribute(device string, parts ...string) (string, error) {
	text, err := os.ReadFile(d.file(device, parts...))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("looking at %s: %w", device, err)
	}
	return strings.TrimSpace(string(text)), nil
}

// IsMap tells whether a device, as "dm-0", is a disk made of paths.
func (d Devices) IsMap(device string) (bool, error) {
	uuid, err := d.attribute(device, "dm/uuid")
	return strings.HasPrefix(uuid, uuidPrefix), err
}

// WWID is the name of the disk that a map stands for; empty for any other device.
func (d Devices) WWID(device string) (string, error) {
	uuid, err := d.attribute(device, "dm/uuid")
	wwid, ok := strings.CutPrefix(uuid, uuidPrefix)
	if !ok {
		return "", err
	}
	return wwid, err
}

// Path is the device node of a map or of one of its partitions.
func (d Devices) Path(device string) (string, error) {
	name, err := d.attribute(device, "dm/name")
	if err == nil && name == "" {
		err = fmt.Errorf("looking at %s: it is no mapped device", device)
	}
	return "/dev/mapper/" + name, err
}

// Partition gives the map that a device is a partition of, as "dm-0", and its number; "" when
// it is none.
func (d Devices) Partition(device string) (parent string, number int, err error) {
	uuid, err := d.attribute(device, "dm/uuid")
	if err != nil {
		return "", 0, err
	}
	match := partitionUUID.FindStringSubmatch(uuid)
	if match == nil {
		return "", 0, nil
	}
	if number, err = strconv.Atoi(match[1]); err != nil {
		return "", 0, fmt.Errorf("reading the number of partition %s: %w", device, err)
	}
	below, err := os.ReadDir(d.file(device, "slaves"))
	if err != nil {
		return "", 0, fmt.Errorf("looking for the disk of %s: %w", device, err)
	}
	if len(below) != 1 {
		return "", 0, fmt.Errorf("looking for the disk of %s: it lies on %d devices", device, len(below))
	}
	return below[0].Name(), number, nil
}

// Partitions are the device nodes of a map's partitions by number.
func (d Devices) Partitions(device string) (map[int]string, error) {
	above, err := os.ReadDir(d.file(device, "holders"))
	if err != nil {
		return nil, fmt.Errorf("listing the partitions of %s: %w", device, err)
	}
	paths := map[int]string{}
	for _, holder := range above {
		parent, number, err := d.Partition(holder.Name())
		if err != nil {
			return nil, err
		}
		if parent != device {
			continue // something else lies on the whole disk
		}
		if paths[number], err = d.Path(holder.Name()); err != nil {
			return nil, err
		}
	}
	return paths, nil
}

// Join makes one disk of the paths to it, and maps its partitions. wwid is what udev calls
// ID_SERIAL, sectors the size in units of 512 bytes, and paths are numbers of devices, as "8:16".
// All paths are used alike until multipathd asks the array which it prefers.
func (d Devices) Join(ctx context.Context, wwid string, sectors int64, paths []string) error {
	if len(paths) == 0 {
		return fmt.Errorf("joining the paths to disk %s: %w", wwid, ErrNoPath)
	}
	if !wwidForm.MatchString(wwid) {
		return fmt.Errorf("joining the paths to a disk: %q is no WWID", wwid)
	}
	// No retry in the kernel when all paths are gone: an error can be told, a machine that
	// stands still cannot. The handler that the bus has attached to a path stays.
	table := fmt.Sprintf("0 %d multipath 1 retain_attached_hw_handler 0 1 1 service-time 0 %d 1", sectors, len(paths))
	for _, path := range paths {
		table += " " + path + " 1"
	}
	if _, err := d.Run(ctx, run.Command{Name: "dmsetup", Args: []string{"create", wwid, "--uuid", uuidPrefix + wwid, "--table", table}}); err != nil {
		return fmt.Errorf("joining the paths to disk %s: %w", wwid, err)
	}
	return d.Update(ctx, "/dev/mapper/"+wwid)
}

// Update maps the partitions of a disk as its table has them now; node is that of the map. It
// returns when udev has named them.
func (d Devices) Update(ctx context.Context, node string) error {
	if _, err := d.Run(ctx, run.Command{Name: "kpartx", Args: []string{"-u", "-s", "-p", separator, node}}); err != nil {
		return fmt.Errorf("mapping the partitions of %s: %w", node, err)
	}
	return nil
}
