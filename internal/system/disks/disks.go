// Package disks is how this computer's removable disks are described and taken.
//
// A person is about to lose what is on one of them, so it is described in full first: what
// it is, what is on it and what uses it. It is then opened exclusively (O_EXCL): while the
// kernel has anything of it mounted, swapped to or mapped, that fails, whatever the
// description said. What may be overwritten is decided by internal/media.
package disks

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/holdfast-os/holdfast/internal/system/block"
	"github.com/holdfast-os/holdfast/internal/system/run"
)

// ErrNotDevice means that a path is no block device.
var ErrNotDevice = errors.New("this is no disk")

// ErrInUse means that the kernel does not give a disk away.
var ErrInUse = errors.New("the disk is in use: unmount what is on it")

// Disk is a disk as lsblk describes it.
type Disk struct {
	// Path is the device, links resolved.
	Path                     string
	Model, Serial, Transport string
	// Kind is lsblk's type, as "disk", "part" or "loop".
	Kind string
	// Size is in bytes.
	Size                int64
	Removable, ReadOnly bool
	// Mounts are where it, or something on it, is mounted.
	Mounts []string
	// Users are what the kernel has built on it, as "lvm vg0-root".
	Users []string
	// Contents are its partitions and file systems with their labels, a line for each.
	Contents []string
}

const columns = "NAME,PATH,TYPE,SIZE,MODEL,SERIAL,TRAN,RM,RO,MOUNTPOINTS,FSTYPE,LABEL,PARTLABEL"

type device struct {
	Name        string    `json:"name"`
	Path        string    `json:"path"`
	Type        string    `json:"type"`
	Size        int64     `json:"size"`
	Model       string    `json:"model"`
	Serial      string    `json:"serial"`
	Tran        string    `json:"tran"`
	RM          bool      `json:"rm"`
	RO          bool      `json:"ro"`
	MountPoints []*string `json:"mountpoints"`
	FSType      string    `json:"fstype"`
	Label       string    `json:"label"`
	PartLabel   string    `json:"partlabel"`
	Children    []device  `json:"children"`
}

// IsDevice tells whether a path is a block device. A path that is not there is an error.
func IsDevice(path string) (bool, error) {
	info, err := os.Stat(path)
	if err != nil {
		return false, fmt.Errorf("looking at %s: %w", path, err)
	}
	return info.Mode()&fs.ModeDevice != 0 && info.Mode()&fs.ModeCharDevice == 0, nil
}

// Describe asks lsblk about one disk. What is no block device is ErrNotDevice.
func Describe(ctx context.Context, runner run.Runner, path string) (Disk, error) {
	is, err := IsDevice(path)
	if err != nil {
		return Disk{}, err
	}
	if !is {
		return Disk{}, fmt.Errorf("describing %s: %w", path, ErrNotDevice)
	}
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return Disk{}, fmt.Errorf("resolving %s: %w", path, err)
	}
	out, err := runner(ctx, run.Command{Name: "lsblk", Args: []string{"--json", "--bytes", "--output", columns, real}})
	if err != nil {
		return Disk{}, fmt.Errorf("describing %s: %w", path, err)
	}
	return parse(out.Stdout, real)
}

func parse(answer []byte, path string) (Disk, error) {
	var list struct {
		BlockDevices []device `json:"blockdevices"`
	}
	if err := json.Unmarshal(answer, &list); err != nil {
		return Disk{}, fmt.Errorf("reading what lsblk says of %s: %w", path, err)
	}
	if len(list.BlockDevices) != 1 {
		return Disk{}, fmt.Errorf("reading what lsblk says of %s: it describes %d devices", path, len(list.BlockDevices))
	}
	d := list.BlockDevices[0]
	disk := Disk{Path: path, Model: strings.TrimSpace(d.Model), Serial: strings.TrimSpace(d.Serial), Transport: d.Tran,
		Kind: d.Type, Size: d.Size, Removable: d.RM, ReadOnly: d.RO}
	disk.add(d)
	return disk, nil
}

func (d *Disk) add(one device) {
	for _, m := range one.MountPoints {
		if m != nil && *m != "" {
			d.Mounts = append(d.Mounts, *m)
		}
	}
	words := []string{}
	for _, word := range []string{one.FSType, one.PartLabel, one.Label} {
		if word != "" {
			words = append(words, fmt.Sprintf("%.64q", word))
		}
	}
	if len(words) > 0 {
		d.Contents = append(d.Contents, fmt.Sprintf("%s (%d bytes): %s", one.Name, one.Size, strings.Join(words, " ")))
	}
	for _, below := range one.Children {
		if below.Type != "part" {
			d.Users = append(d.Users, below.Type+" "+below.Name)
		}
		d.add(below)
	}
}

// Taken is a disk that nobody else can take until Close.
type Taken struct{ *os.File }

// Take opens a disk exclusively. One that is in use is ErrInUse.
func Take(path string) (Taken, error) {
	is, err := IsDevice(path)
	if err != nil {
		return Taken{}, err
	}
	if !is {
		return Taken{}, fmt.Errorf("taking %s: %w", path, ErrNotDevice)
	}
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_EXCL, 0)
	if errors.Is(err, unix.EBUSY) {
		return Taken{}, fmt.Errorf("taking %s: %w", path, ErrInUse)
	}
	if err != nil {
		return Taken{}, fmt.Errorf("taking %s: %w", path, err)
	}
	if err := block.Lock(f); err != nil {
		return Taken{}, errors.Join(err, f.Close())
	}
	return Taken{f}, nil
}

// Forget makes the next read come from the disk itself.
func (t Taken) Forget() error { return block.DropCache(t.File) }

// Size is that of the disk and of its sectors, in bytes.
func (t Taken) Size() (size int64, sector int, err error) { return block.Size(t.File) }
