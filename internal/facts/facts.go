// Package facts observes the machine: its name and release, its hardware, drives and
// network cards. It decides nothing and changes nothing.
//
// Every answer is read anew. What a machine does not have or does not say is left
// empty rather than refused: firmware tables and drives are often wrong, and a node
// must come up on them all the same.
//
// The hardware listing is the one of Incus' own library, so that its shape stays that
// of Incus' API. It reads the running machine, whatever Collector.Root is, and may
// call lshw, systemd-detect-virt and nvidia-container-cli where they are installed.
package facts

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	incus "github.com/lxc/incus/v6/shared/api"
	"github.com/lxc/incus/v6/shared/resources"
	"golang.org/x/sys/unix"

	api "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/system/networkd"
	"github.com/holdfast-os/holdfast/internal/system/run"
)

// maxFile bounds what is read of one small file, in bytes.
const maxFile = 64 << 10

// Collector reads one machine.
type Collector struct {
	// Root is the directory that stands for "/".
	Root string
	// Run starts programs: ip, lsblk, smartctl.
	Run run.Runner
}

// Card is one wired network card.
type Card struct {
	// Name is the kernel's name of it now.
	Name string `json:"name"`
	// Hwaddr is the permanent MAC address, or the present one where there is none.
	Hwaddr string `json:"hwaddr"`
	// Permanent is true when Hwaddr is burnt into the card.
	Permanent bool `json:"permanent"`
	// MaxMTU is the largest frame the card takes, in bytes; 0 when unknown.
	MaxMTU int `json:"max_mtu"`
}

// Release is what os-release says.
type Release struct {
	// Name is NAME; "Linux" when it is not set, as os-release(5) has it.
	Name string
	// Version is IMAGE_VERSION; empty when it is not set.
	Version string
}

// Environment names the node and what runs on it: host name, machine id, release and
// uptime. The other slot and readiness are left to the caller.
func (c Collector) Environment() (api.Environment, error) {
	release, err := c.Release()
	if err != nil {
		return api.Environment{}, err
	}
	host, err := c.read("proc/sys/kernel/hostname")
	if err != nil {
		return api.Environment{}, fmt.Errorf("reading the host name: %w", err)
	}
	id, err := c.MachineID()
	if err != nil {
		return api.Environment{}, err
	}
	uptime, err := c.uptime()
	if err != nil {
		return api.Environment{}, fmt.Errorf("reading the uptime: %w", err)
	}
	short, _, _ := strings.Cut(host, ".")
	return api.Environment{
		Hostname: short, MachineID: id, OSName: release.Name, OSVersion: release.Version,
		OSVersionNext: release.Version, Uptime: uptime,
	}, nil
}

// Release reads os-release.
func (c Collector) Release() (Release, error) {
	text, err := c.read("usr/lib/os-release")
	if err != nil {
		return Release{}, fmt.Errorf("reading the release: %w", err)
	}
	release := Release{Name: "Linux"}
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		value = strings.Trim(value, `"'`)
		switch {
		case name == "NAME" && value != "":
			release.Name = value
		case name == "IMAGE_VERSION":
			release.Version = value
		}
	}
	return release, nil
}

// MachineID is the content of /etc/machine-id.
func (c Collector) MachineID() (string, error) {
	id, err := c.read("etc/machine-id")
	if err != nil {
		return "", fmt.Errorf("reading the machine id: %w", err)
	}
	return id, nil
}

// ProductUUID is the firmware's name of this machine, in lower case; empty where the
// firmware has none or one that many boards share.
func (c Collector) ProductUUID() (string, error) {
	uuid, err := c.read("sys/class/dmi/id/product_uuid")
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("reading the product UUID: %w", err)
	}
	uuid = strings.ToLower(uuid)
	if digits := strings.ReplaceAll(uuid, "-", ""); strings.Trim(digits, "0") == "" || strings.Trim(digits, "f") == "" ||
		uuid == "03000200-0400-0500-0006-000700080009" {
		return "", nil
	}
	return uuid, nil
}

func (c Collector) uptime() (int64, error) {
	text, err := c.read("proc/uptime")
	if err != nil {
		return 0, err
	}
	first, _, _ := strings.Cut(text, " ")
	seconds, err := strconv.ParseFloat(first, 64)
	if err != nil || math.IsNaN(seconds) || seconds < 0 || seconds > 1e12 {
		return 0, fmt.Errorf("%q is not a number of seconds", first)
	}
	return int64(seconds), nil
}

// RootPartition is the space of the file system at Root.
func (c Collector) RootPartition() (api.RootPartition, error) {
	var stat unix.Statfs_t
	if err := unix.Statfs(c.Root, &stat); err != nil {
		return api.RootPartition{}, fmt.Errorf("reading the space of the root partition: %w", err)
	}
	unit := uint64(max(stat.Bsize, 0))
	return api.RootPartition{SizeInBytes: stat.Blocks * unit, AvailableInBytes: stat.Bavail * unit}, nil
}

// Cards are the wired network cards, in the kernel's order.
func (c Collector) Cards(ctx context.Context) ([]Card, error) {
	host := networkd.Host{Root: c.Root, Run: c.Run}
	links, err := host.Links(ctx)
	if err != nil {
		return nil, err
	}
	var cards []Card
	for _, link := range links {
		if link.Physical {
			cards = append(cards, Card{
				Name: host.OwnName(link), Hwaddr: link.CardAddress(), Permanent: link.Permanent != "", MaxMTU: link.MaxMTU,
			})
		}
	}
	return cards, nil
}

// Resources lists the hardware in the shape of Incus' API. The context is looked at
// between the parts; one part cannot be cut short.
//
// The parts are called one by one because the library's own GetResources answers
// from a cache that it never renews.
func Resources(ctx context.Context) (*incus.Resources, error) {
	var all incus.Resources
	for _, part := range []struct {
		name string
		read func() error
	}{
		{"processors", into(&all.CPU, resources.GetCPU)},
		{"memory", into(&all.Memory, resources.GetMemory)},
		{"graphics cards", into(&all.GPU, resources.GetGPU)},
		{"network cards", into(&all.Network, resources.GetNetwork)},
		{"storage", into(&all.Storage, resources.GetStorage)},
		{"USB devices", into(&all.USB, resources.GetUSB)},
		{"PCI devices", into(&all.PCI, resources.GetPCI)},
		{"system", into(&all.System, resources.GetSystem)},
		{"load", into(&all.Load, resources.GetLoad)},
	} {
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("listing the %s: %w", part.name, err)
		}
		if err := part.read(); err != nil {
			return nil, fmt.Errorf("listing the %s: %w", part.name, err)
		}
	}
	return &all, nil
}

// into runs a collector and keeps its result.
func into[T any](target *T, collect func() (*T, error)) func() error {
	return func() error {
		found, err := collect()
		if err == nil && found != nil {
			*target = *found
		}
		return err
	}
}

// read gives a small file without spaces around it.
func (c Collector) read(name string) (text string, err error) {
	file, err := os.Open(filepath.Join(c.Root, name))
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	data, err := io.ReadAll(io.LimitReader(file, maxFile))
	return strings.TrimSpace(string(data)), err
}
