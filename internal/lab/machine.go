package lab

import (
	"fmt"
	"slices"

	"github.com/holdfast-os/holdfast/internal/system/qemu"
)

func diskSizes(h Hardware) []int {
	if len(h.DiskGiB) == 0 {
		return []int{DefaultDiskGiB}
	}
	return h.DiskGiB
}

// machineOf is the machine for a lab's folder. It touches nothing.
func machineOf(d dir, h Hardware, accel qemu.Accel, apiPort int) qemu.Machine {
	m := qemu.Machine{
		Name: "holdfast-lab", Accel: accel, CPUs: or(h.CPUs, 2), MemoryMiB: or(h.MemoryMiB, 3072),
		BIOS: h.BIOS, NoSecureBoot: h.NoSecureBoot, NoNetwork: h.NoNetwork, Hwaddr: h.Hwaddr, Taps: h.Taps, Internet: h.Internet, APIPort: apiPort,
		Serial: d.file("serial.log"), QMP: d.file("qmp.sock"), Events: d.file("events.sock"),
		PIDFile: d.file("qemu.pid"), Log: d.file("qemu.log"),
		SMBIOS: h.SMBIOS, FWCfg: h.FWCfg,
	}
	if !h.BIOS {
		m.Vars = d.file("vars.fd")
	}
	if !h.NoTPM {
		m.TPM = d.file("tpm.sock")
	}
	first := 0
	if h.MediumFirst {
		first = 1
	}
	for i := range diskSizes(h) {
		id, serial := fmt.Sprintf("disk%d", i), "holdfast-disk"
		if i > 0 {
			serial += fmt.Sprint(i)
		}
		m.Disks = append(m.Disks, qemu.Disk{
			ID: id, Path: d.file(id + ".raw"), Format: "raw", Serial: serial, Bus: h.DiskBus, BootIndex: first + i,
			Sector: h.DiskSector, PhysicalSector: h.DiskPhysicalSector, Paths: h.DiskPaths,
		})
	}
	if h.NetworkBoot {
		m.TapBootIndex = first + len(m.Disks)
	}
	if h.NoMedium || h.Live {
		return withStick(d, m, h)
	}
	place := len(m.Disks)
	if h.MediumFirst {
		place = 0
	}
	bus := h.MediumBus
	if bus == "" {
		bus = qemu.USB
	}
	m.Disks = append(m.Disks, qemu.Disk{
		ID: "medium", Path: d.file("medium.raw"), Format: "raw", Serial: "holdfast-medium", Bus: bus,
		BootIndex: place, Removable: true,
	})
	return withStick(d, m, h)
}

// withStick is the machine with the stick or disc that its seed is on, if it is on one.
func withStick(d dir, m qemu.Machine, h Hardware) qemu.Machine {
	if h.SeedStick != "" {
		m.Disks = append(m.Disks, qemu.Disk{ID: "seed", Path: d.file(stickFile), Format: "raw", Serial: "holdfast-seed", Bus: qemu.USB, BootIndex: -1, Removable: true})
	}
	return m
}

// Forms of a stick with a seed.
const (
	FAT     = "FAT"
	ISO     = "ISO"
	NoCloud = "NoCloud"
)

// stickFile is the stick's file, stickSize its size in bytes: FAT32 needs some room.
const (
	stickFile = "seed.raw"
	stickSize = 64 << 20
)

// changedMachine is a machine with what h adds or takes away. Its first disk stays; the sizes
// after the first in h are new disks.
func changedMachine(d dir, m qemu.Machine, h Hardware) qemu.Machine {
	wanted := machineOf(d, Hardware{DiskGiB: h.DiskGiB, DiskBus: h.DiskBus, NoMedium: true}, m.Accel, m.APIPort)
	for i := 1; i < len(wanted.Disks); i++ {
		disk := wanted.Disks[i]
		disk.BootIndex = -1
		m.Disks = append(m.Disks, disk)
	}
	if h.DiskBus != "" {
		for i := range m.Disks {
			m.Disks[i].Bus = h.DiskBus
		}
	}
	if h.Accel != "" {
		m.Accel = h.Accel
	}
	if h.Hwaddr != "" {
		m.Hwaddr = h.Hwaddr
	}
	m.CPUs, m.MemoryMiB = or(h.CPUs, m.CPUs), or(h.MemoryMiB, m.MemoryMiB)
	m.NoNetwork = m.NoNetwork || h.NoNetwork
	m.Taps = append(m.Taps, h.Taps...)
	m.Internet = m.Internet || h.Internet
	if h.NoTPM {
		m.TPM = ""
	}
	m.SMBIOS = append(slices.Clone(m.SMBIOS), h.SMBIOS...)
	m.FWCfg = append(slices.Clone(m.FWCfg), h.FWCfg...)
	return m
}

// withoutMedium is the machine after the medium has been pulled.
func withoutMedium(m qemu.Machine) qemu.Machine {
	var disks []qemu.Disk
	for _, disk := range m.Disks {
		if !disk.Removable {
			disks = append(disks, disk)
		}
	}
	m.Disks = disks
	return m
}

func or(value, fallback int) int {
	if value == 0 {
		return fallback
	}
	return value
}
