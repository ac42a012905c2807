package kernel

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	api "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/config"
)

var (
	pciIDForm      = regexp.MustCompile(`^[0-9a-f]{4}$`)
	pciAddressForm = regexp.MustCompile(`^[0-9a-f]{4,8}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7]$`)
	pciShortForm   = regexp.MustCompile(`^[0-9a-f]{2}:[01][0-9a-f]\.[0-7]$`)
)

// driverVFIO is the driver that hands a device to a virtual machine.
const driverVFIO = "vfio-pci"

// pciID brings a vendor or product into the form of the kernel, as "10de".
func pciID(text string) string { return strings.TrimPrefix(strings.ToLower(text), "0x") }

// pciAddress brings an address into the form of the kernel, as "0000:01:00.0".
func pciAddress(text string) string {
	text = strings.ToLower(text)
	if pciShortForm.MatchString(text) {
		return "0000:" + text
	}
	return text
}

// isBridge is true for what leads to other devices and cannot be given away.
func isBridge(d Device) bool { return strings.HasPrefix(d.Class, "06") }

func checkPassthrough(p *config.Problems, list []api.KernelPassthrough, facts Facts) {
	if tooMany(p, "pci.passthrough", len(list)) {
		return
	}
	if len(list) > 0 && !facts.IOMMU {
		p.Add("pci.passthrough", "iommu", "this machine has no IOMMU, so devices cannot be given to virtual machines; switch it on in the firmware (VT-d, AMD-Vi)")
	}
	seen := map[api.KernelPassthrough]bool{}
	for i := range list {
		entry, path := &list[i], fmt.Sprintf("pci.passthrough[%d]", i)
		entry.VendorID, entry.ProductID = pciID(entry.VendorID), pciID(entry.ProductID)
		entry.PCIAddress = pciAddress(entry.PCIAddress)
		if seen[*entry] {
			p.Add(path, "unique", "this device is named twice")
		}
		seen[*entry] = true
		checkID(p, path+".vendor_id", entry.VendorID)
		checkID(p, path+".product_id", entry.ProductID)
		if entry.PCIAddress == "" {
			for _, address := range matching(*entry, facts) {
				checkGiven(p, path, address, facts)
			}
			continue
		}
		device, found := findDevice(p, path+".pci_address", entry.PCIAddress, facts)
		if !found {
			continue
		}
		if device.Vendor != entry.VendorID || device.Product != entry.ProductID {
			p.Add(path+".pci_address", "match", "device %s is %s:%s and not %s:%s", entry.PCIAddress,
				device.Vendor, device.Product, entry.VendorID, entry.ProductID)
			continue
		}
		checkGiven(p, path+".pci_address", entry.PCIAddress, facts)
	}
}

func checkID(p *config.Problems, path, id string) {
	if !pciIDForm.MatchString(id) {
		p.Add(path, "hex", "%q is not four hexadecimal digits, as 10de", id)
	}
}

func findDevice(p *config.Problems, path, address string, facts Facts) (Device, bool) {
	if !pciAddressForm.MatchString(address) {
		p.Add(path, "address", "%q is not a PCI address, as 0000:01:00.0", address)
		return Device{}, false
	}
	device, found := facts.PCI[address]
	if !found {
		p.Add(path, "exists", "this machine has no PCI device %s", address)
	}
	return device, found
}

// checkGiven looks whether the node can do without a device.
func checkGiven(p *config.Problems, path, address string, facts Facts) {
	switch device := facts.PCI[address]; {
	case isBridge(device):
		p.Add(path, "bridge", "device %s leads to other devices and cannot be given to a virtual machine", address)
	case device.Needed != "":
		p.Add(path, "needed", "the node needs device %s: %s", address, device.Needed)
	}
}

func checkSRIOV(p *config.Problems, c api.KernelPCI, facts Facts) {
	if tooMany(p, "pci.sriov", len(c.SRIOV)) {
		return
	}
	given, seen := passed(c.Passthrough, facts), map[string]bool{}
	for i := range c.SRIOV {
		entry, path := &c.SRIOV[i], fmt.Sprintf("pci.sriov[%d]", i)
		entry.PCIAddress = pciAddress(entry.PCIAddress)
		if seen[entry.PCIAddress] {
			p.Add(path+".pci_address", "unique", "device %s is named twice", entry.PCIAddress)
		}
		seen[entry.PCIAddress] = true
		if entry.VFCount < 0 {
			p.Add(path+".vf_count", "positive", "%d is negative; 0 is none", entry.VFCount)
		}
		device, found := findDevice(p, path+".pci_address", entry.PCIAddress, facts)
		switch {
		case !found:
		case device.TotalVFs == 0:
			p.Add(path+".pci_address", "sriov", "device %s has no virtual functions; they may be off in the firmware", entry.PCIAddress)
		case entry.VFCount > device.TotalVFs:
			p.Add(path+".vf_count", "range", "device %s has %d virtual functions at most, not %d", entry.PCIAddress, device.TotalVFs, entry.VFCount)
		case entry.VFCount > 0 && slices.Contains(given, entry.PCIAddress):
			p.Add(path+".pci_address", "passthrough", "device %s is given to a virtual machine as a whole", entry.PCIAddress)
		}
	}
}

// matching are the devices of the kind that an entry without an address names.
func matching(entry api.KernelPassthrough, facts Facts) []string {
	var found []string
	for _, address := range slices.Sorted(maps.Keys(facts.PCI)) {
		if d := facts.PCI[address]; d.Vendor == entry.VendorID && d.Product == entry.ProductID {
			found = append(found, address)
		}
	}
	return found
}

// passed are the devices of this machine that a configuration gives away, sorted.
func passed(list []api.KernelPassthrough, facts Facts) []string {
	set := map[string]bool{}
	for _, entry := range list {
		if entry.PCIAddress != "" {
			if _, found := facts.PCI[entry.PCIAddress]; found {
				set[entry.PCIAddress] = true
			}
			continue
		}
		for _, address := range matching(entry, facts) {
			set[address] = true
		}
	}
	return slices.Sorted(maps.Keys(set))
}
