package earlyboot

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-os/holdfast/internal/layout"
	"github.com/holdfast-os/holdfast/internal/system/block"
	"github.com/holdfast-os/holdfast/internal/system/loop"
)

// A CD has no partitions for the kernel, whatever table is on it (GENHD_FL_NO_PART of the
// driver sr). FindMedium gives it a loop device, which has them, and /usr and the ESP appear
// as on a disk.

// mediumNote names the loop device that stands for the CD, below /run.
const mediumNote = "holdfast/medium"

// cdSector is the sector size of a CD, and of the table that `holdfast image iso` writes.
const cdSector = 2048

// drive is an optical drive with a disc in it.
type drive struct {
	path string
	// partitions are the unique ids in its table, in lower case.
	partitions []string
}

// wanted is the partition whose disk this machine was started from: the ESP of the boot
// loader where the firmware knows it, else /usr by its root hash.
func wanted(booted, usr string) string {
	if booted != "" {
		return booted
	}
	return usr
}

// chooseDrive gives the drive whose disc has the partition; "" for none. Any other disc,
// also one of Holdfast, is left alone: /usr must not come from what a person may take out
// while the machine runs from its disk.
func chooseDrive(partition string, drives []drive) string {
	for _, d := range drives {
		if slices.Contains(d.partitions, partition) {
			return d.path
		}
	}
	return ""
}

// usrPartition is the unique id of the partition with /usr: systemd's rule is that it is
// the first half of the root hash.
func usrPartition(rootHash string) (string, error) {
	if len(rootHash) != 64 {
		return "", fmt.Errorf("usrhash=%q on the kernel's command line is no SHA-256 sum", rootHash)
	}
	h := strings.ToLower(rootHash)
	return fmt.Sprintf("%s-%s-%s-%s-%s", h[:8], h[8:12], h[12:16], h[16:20], h[20:32]), nil
}

// FindMedium waits until the disk that the machine was started from is there. When that is a
// CD it attaches it, read-only, and leaves a note; when it is reached over several paths it
// joins them. rootHash is usrhash= of the command line.
func (h Host) FindMedium(ctx context.Context, rootHash string, attach func(ctx context.Context, path string) (string, error), say func(string)) error {
	usr, err := usrPartition(rootHash)
	if err != nil {
		return err
	}
	booted, err := h.bootedPartition()
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	partition := wanted(booted, usr)
	link := filepath.Join(h.paths.Dev, "disk/by-partuuid", partition)
	ctx, cancel := context.WithTimeout(ctx, h.wait)
	defer cancel()
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	seen := map[string]drive{}
	joined := false
	for {
		if _, err := os.Stat(link); err == nil {
			return nil
		}
		if !joined {
			if joined, err = h.joinPaths(ctx, say); err != nil {
				return err
			}
			if joined {
				continue // its partitions have their names now
			}
		}
		if path := chooseDrive(partition, h.drives(seen, say)); path != "" {
			device, err := attach(ctx, path)
			if err != nil {
				return err
			}
			say("This machine was started from the CD in " + path + ", which is " + device + " now.")
			return h.noteMedium(device)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("partition %s, which this machine was started from, is on no disk and on no CD", partition)
		case <-tick.C:
		}
	}
}

// AttachCD makes a disk of a CD.
func AttachCD(ctx context.Context, path string) (string, error) {
	return loop.Attach(ctx, path, loop.Options{BlockSize: cdSector, Partitions: true})
}

func (h Host) noteMedium(device string) error {
	note := filepath.Join(h.paths.Run, mediumNote)
	if err := os.MkdirAll(filepath.Dir(note), 0o755); err != nil {
		return fmt.Errorf("making a place for the note of the medium: %w", err)
	}
	if err := os.WriteFile(note, []byte(device+"\n"), 0o644); err != nil {
		return fmt.Errorf("noting which medium was attached: %w", err)
	}
	return nil
}

// drives reads the discs that are in optical drives now. Each is read once: it may be slow.
func (h Host) drives(seen map[string]drive, say func(string)) []drive {
	names, err := filepath.Glob(filepath.Join(h.paths.Sys, "class/block/sr*"))
	if err != nil {
		return nil // only for a bad pattern
	}
	var list []drive
	for _, name := range names {
		path := filepath.Join(h.paths.Dev, filepath.Base(name))
		d, known := seen[path]
		if !known {
			if present, err := block.Present(path); err != nil || !present {
				continue // no disc, or not yet
			}
			if d, err = readDrive(path); err != nil {
				say(err.Error())
			}
			seen[path] = d
		}
		list = append(list, d)
	}
	return list
}

func readDrive(path string) (drive, error) {
	partitions, err := partitionIDs(path, cdSector)
	return drive{path, partitions}, err
}

// place is what a disk is to this start.
type place string

// The places of a disk. Partitions of all but the first lose their names by id, in the rule
// that udev has of early boot, so that nothing is read from them.
const (
	// ownDisk is the disk that the machine was started from, or one of which that cannot be told.
	ownDisk place = ""
	// otherDisk is surely not the one: it has a table, and the boot loader's ESP is not in it. A
	// copy of a partition on another disk has the same id, and /usr must not come from there.
	otherDisk place = "other"
	// pathOfDisk is a path to the one: see joined.go.
	pathOfDisk place = "path"
)

// placeOf looks at a disk. wwid is what udev calls ID_SERIAL, empty where it knows none.
func (h Host) placeOf(path, wwid string) (place, error) {
	booted, err := h.bootedPartition()
	if errors.Is(err, fs.ErrNotExist) {
		return ownDisk, nil // nobody can tell
	}
	if err != nil {
		return ownDisk, err
	}
	entries, err := tableOf(path, 0)
	if err != nil {
		return ownDisk, err
	}
	return placeIn(booted, wwid, entries), nil
}

func placeIn(booted, wwid string, entries []block.Entry) place {
	at := slices.IndexFunc(entries, func(e block.Entry) bool { return e.GUID == booted })
	switch {
	case len(entries) > 0 && at < 0:
		return otherDisk
	case at >= 0 && entries[at].Attributes&layout.PathsAttribute != 0 && wwid != "":
		return pathOfDisk
	}
	return ownDisk
}

// partitionIDs are the unique ids in the table of a disk, in lower case. sector is its sector
// size in bytes; 0 is what the disk says.
func partitionIDs(path string, sector int) (ids []string, err error) {
	entries, err := tableOf(path, sector)
	for _, entry := range entries {
		ids = append(ids, entry.GUID)
	}
	return ids, err
}

// tableOf are the partitions of a disk.
func tableOf(path string, sector int) (entries []block.Entry, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("opening the disk %s: %w", path, err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	size, own, err := block.Size(f)
	if err != nil {
		return nil, err
	}
	table, err := block.ReadTable(f, size, cmp.Or(sector, own))
	if err != nil {
		return nil, fmt.Errorf("reading the partition table of %s: %w", path, err)
	}
	return table.Entries, nil
}
