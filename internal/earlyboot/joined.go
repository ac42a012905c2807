package earlyboot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/holdfast-os/holdfast/internal/bootinfo"
)

// A disk of a storage network is there as several disks, one for each path to it. The installer
// saw that and marked the table (layout.PathsAttribute). From then on no path is used by itself,
// not even when it is the only one that is left: what is mounted from one path stays on it, and
// falls with it.

// placeProperty is what udev keeps of a disk; the rule of the initrd names it as well.
const placeProperty = "HOLDFAST_DISK"

// diskPath is one path to a disk.
type diskPath struct {
	// wwid is the disk's, device the path's number, as "8:16", sectors its size in 512 bytes.
	wwid, device string
	sectors      int64
}

// joinPaths makes one disk of the paths to the one that this machine was started from. done is
// false while there is none. Paths that come later are added by multipathd, in the system.
func (h Host) joinPaths(ctx context.Context, say func(string)) (done bool, err error) {
	found, err := h.pathsOfDisk()
	if err != nil || len(found) == 0 {
		return false, err
	}
	if err := h.settle(ctx); err != nil { // let those that are being found now come along
		say("waiting for the other paths: " + err.Error())
	}
	if found, err = h.pathsOfDisk(); err != nil || len(found) == 0 {
		return false, err
	}
	chosen := found[0]
	var devices []string
	for _, one := range found {
		if one.wwid == chosen.wwid {
			devices = append(devices, one.device)
		} else {
			say(fmt.Sprintf("Two disks carry this system: %s, which is used, and %s: take the copy away.", chosen.wwid, one.wwid))
		}
	}
	if err := h.maps().Join(ctx, chosen.wwid, chosen.sectors, devices); err != nil {
		return false, err
	}
	if len(devices) == 1 {
		say("The system disk " + chosen.wwid + " is reached over one path; others join when they come.")
	} else {
		say(fmt.Sprintf("The system disk %s is reached over %d paths.", chosen.wwid, len(devices)))
	}
	return true, nil
}

// pathsOfDisk are what udev has found to be paths to the disk of this start, by WWID.
func (h Host) pathsOfDisk() ([]diskPath, error) {
	dirs, err := filepath.Glob(filepath.Join(h.paths.Sys, "class/block/sd*"))
	if err != nil {
		return nil, err // only for a bad pattern
	}
	var list []diskPath
	for _, dir := range dirs {
		one, ok, err := h.pathAt(dir)
		if err != nil {
			return nil, fmt.Errorf("looking at disk %s: %w", filepath.Base(dir), err)
		}
		if ok {
			list = append(list, one)
		}
	}
	slices.SortStableFunc(list, func(a, b diskPath) int { return strings.Compare(a.wwid, b.wwid) })
	return list, nil
}

func (h Host) pathAt(dir string) (found diskPath, ok bool, err error) {
	device, err := os.ReadFile(filepath.Join(dir, "dev"))
	if errors.Is(err, fs.ErrNotExist) {
		return diskPath{}, false, nil // unplugged while we looked
	}
	if err != nil {
		return diskPath{}, false, err
	}
	found.device = strings.TrimSpace(string(device))
	known, err := os.ReadFile(filepath.Join(h.paths.Run, "udev/data", "b"+found.device))
	if errors.Is(err, fs.ErrNotExist) {
		return diskPath{}, false, nil // udev has not looked at it yet
	}
	if err != nil {
		return diskPath{}, false, err
	}
	for line := range strings.Lines(string(known)) {
		name, value, _ := strings.Cut(strings.TrimPrefix(strings.TrimSpace(line), "E:"), "=")
		switch name {
		case placeProperty:
			ok = value == string(pathOfDisk)
		case "ID_SERIAL":
			found.wwid = value
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "partition")); err == nil || !ok || found.wwid == "" {
		return diskPath{}, false, nil
	}
	sectors, err := os.ReadFile(filepath.Join(dir, "size"))
	if err == nil {
		found.sectors, err = strconv.ParseInt(strings.TrimSpace(string(sectors)), 10, 64)
	}
	return found, err == nil, err
}

// Where multipathd finds, below /etc, what it may make a map of; the unit in the system waits
// for the first.
const (
	knownDisks   = "multipath/wwids"
	mediumConfig = "multipath/conf.d/medium.conf"
)

// writeMultipath tells multipathd what is its own: on a node the system disk, if that is
// reached over several paths, and nothing else until an owner asks for it; on an install medium
// every disk of which it sees two. A node without such a disk runs no multipathd.
func (h Host) writeMultipath(info bootinfo.Info, etc string) error {
	files := map[string]string{}
	if info.Mode == bootinfo.Install {
		files[knownDisks] = ""
		files[mediumConfig] = "defaults {\n\tfind_multipaths yes\n}\n"
	} else if strings.HasPrefix(info.BootDisk, "/dev/mapper/") {
		device, err := filepath.EvalSymlinks(filepath.Join(h.paths.Dev, strings.TrimPrefix(info.BootDisk, "/dev/")))
		if err != nil {
			return fmt.Errorf("looking for the system disk %s: %w", info.BootDisk, err)
		}
		wwid, err := h.maps().WWID(filepath.Base(device))
		if err != nil {
			return err
		}
		if wwid != "" {
			files[knownDisks] = "/" + wwid + "/\n"
		}
	}
	for name, text := range files {
		path := filepath.Join(etc, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return fmt.Errorf("telling multipathd its disks: %w", err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return fmt.Errorf("telling multipathd its disks: %w", err)
		}
	}
	return nil
}
