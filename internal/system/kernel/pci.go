package kernel

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

const devicesDir = "sys/bus/pci/devices/"

// readPCI reads the PCI devices, and which of them the node needs.
func (h Host) readPCI(f *Facts) error {
	addresses, err := h.names(devicesDir)
	if err != nil {
		return err
	}
	groups, err := h.names("sys/kernel/iommu_groups")
	if err != nil {
		return err
	}
	f.IOMMU = len(groups) > 0
	f.PCI, f.NeededModules = map[string]Device{}, map[string]string{}
	reasons := map[string]string{}
	if err := h.needNetwork(f.NeededModules, reasons); err != nil {
		return err
	}
	if err := h.needDisks(f.NeededModules, reasons); err != nil {
		return err
	}
	for _, address := range addresses {
		if !addressForm.MatchString(address) {
			continue
		}
		device, err := h.device(address)
		if err != nil {
			return err
		}
		device.Needed = reasons[address]
		f.PCI[address] = device
	}
	return nil
}

func (h Host) device(address string) (Device, error) {
	dir := devicesDir + address
	values, err := h.values([]string{dir + "/vendor", dir + "/device", dir + "/class"})
	if err != nil {
		return Device{}, err
	}
	id := func(name string) string { return strings.TrimPrefix(values[dir+"/"+name], "0x") }
	d := Device{Vendor: id("vendor"), Product: id("device"), Class: id("class")}
	if d.Driver, err = h.link(dir + "/driver"); err != nil {
		return d, err
	}
	total, err := h.number(dir + "/sriov_totalvfs")
	if err != nil {
		return d, err
	}
	count, err := h.number(dir + "/sriov_numvfs")
	if err != nil {
		return d, err
	}
	d.TotalVFs, d.NumVFs = int(total), int(count)
	members, err := h.names(dir + "/iommu_group/devices")
	if err != nil {
		return d, err
	}
	d.Group = slices.DeleteFunc(members, func(name string) bool { return name == address })
	return d, nil
}

// needNetwork notes the network cards that are up.
func (h Host) needNetwork(modules, reasons map[string]string) error {
	cards, err := h.names("sys/class/net")
	if err != nil {
		return err
	}
	for _, card := range cards {
		text, err := h.read("sys/class/net/" + card + "/flags")
		if errors.Is(err, fs.ErrNotExist) {
			continue // not a card, or gone since
		}
		if err != nil {
			return err
		}
		flags, err := strconv.ParseUint(strings.TrimSpace(text), 0, 32)
		if err != nil {
			return fmt.Errorf("reading the flags of network card %s: %w", card, err)
		}
		if flags&1 == 0 || !h.exists("sys/class/net/"+card+"/device") {
			continue // down, or virtual
		}
		why := "network card " + card + " is in use; take it out of the network's configuration first"
		if err := h.need("sys/class/net/"+card, why, modules, reasons); err != nil {
			return err
		}
	}
	return nil
}

// needDisks notes the disks that are in use, by the node or by a pool.
func (h Host) needDisks(modules, reasons map[string]string) error {
	disks, err := h.names("sys/block")
	if err != nil {
		return err
	}
	for _, disk := range disks {
		if !h.exists("sys/block/" + disk + "/device") {
			continue // virtual
		}
		used, err := h.inUse("/dev/" + disk)
		if err != nil {
			return err
		}
		if !used {
			continue
		}
		if err := h.need("sys/block/"+disk, "disk "+disk+" is in use", modules, reasons); err != nil {
			return err
		}
	}
	return nil
}

// need notes every driver and every PCI device on the way to a device.
func (h Host) need(entry, why string, modules, reasons map[string]string) error {
	path, err := filepath.EvalSymlinks(h.path(entry))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // gone since
	}
	if err != nil {
		return fmt.Errorf("looking where /%s is: %w", entry, err)
	}
	top, err := filepath.EvalSymlinks(h.path("sys"))
	if err != nil {
		return fmt.Errorf("looking where /sys is: %w", err)
	}
	for ; strings.HasPrefix(path, top+"/"); path = filepath.Dir(path) {
		if name := filepath.Base(path); addressForm.MatchString(name) && reasons[name] == "" {
			reasons[name] = why
		}
		module, err := os.Readlink(path + "/driver/module")
		if errors.Is(err, fs.ErrNotExist) {
			continue // no driver, or one that is built in
		}
		if err != nil {
			return fmt.Errorf("reading the driver of /%s: %w", entry, err)
		}
		if name := filepath.Base(module); modules[name] == "" {
			modules[name] = why
		}
	}
	return nil
}

// link is the last part of what a symbolic link points to; empty when it is not there.
func (h Host) link(name string) (string, error) {
	target, err := os.Readlink(h.path(name))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("reading link /%s: %w", name, err)
	}
	return filepath.Base(target), nil
}
