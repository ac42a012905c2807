// Package qemu describes, starts and steers virtual machines.
//
// A Machine is plain data; Args turns it into QEMU's arguments without looking at
// anything else, so that the same Machine always gives the same virtual hardware.
// That is what makes a saved memory image usable later: Save writes one, and a
// Machine with Incoming set starts from it.
//
// QEMU runs detached, with a pid file. Two control sockets speak QMP, because QEMU
// serves one client per socket: QMP for short commands by anybody, Events for
// whoever watches the machine come up.
//
// The firmware facts behind the choices: Secure Boot needs the firmware build with
// SMM, which works under software emulation; the same build without smm=on hangs
// without a word. la57=off, because software emulation gains nothing from five page
// levels.
package qemu

import (
	"fmt"
	"hash/fnv"
	"slices"
	"strconv"
	"strings"

	"github.com/holdfast-os/holdfast/internal/system/run"
)

// Tools says how to run a program of the tools tree and where its files are.
type Tools interface {
	Command(name string, args ...string) run.Command
	File(name string) string
}

// Accel is how the guest's instructions are run.
type Accel string

// The accelerators.
const (
	// KVM runs them on this computer's processor.
	KVM Accel = "kvm"
	// TCG translates them in software: ten to thirty times slower, works everywhere.
	TCG Accel = "tcg"
)

// Bus is how a disk is attached.
type Bus string

// The buses.
const (
	Virtio Bus = "virtio"
	USB    Bus = "usb"
	NVMe   Bus = "nvme"
	SCSI   Bus = "scsi"
	// CDROM is an optical drive on the board's SATA controller, with the image as its disc.
	CDROM Bus = "cdrom"
)

// Disk is one disk of a machine.
type Disk struct {
	// ID names it inside QEMU: letters and digits.
	ID string `json:"id"`
	// Path is the image file.
	Path string `json:"path"`
	// Format is "raw" or "qcow2".
	Format string `json:"format"`
	// Serial is what the guest sees as its serial number; empty means none.
	Serial string `json:"serial,omitempty"`
	// Bus defaults to Virtio.
	Bus Bus `json:"bus,omitempty"`
	// BootIndex is its place in the boot order, from 0; below 0 it is not booted from.
	BootIndex int `json:"boot_index"`
	// Sector is the logical sector size in bytes and PhysicalSector the real one; 0 is 512,
	// and the logical one. A CDROM has none to choose.
	Sector         int `json:"sector,omitempty"`
	PhysicalSector int `json:"physical_sector,omitempty"`
	// Removable marks an install medium: it is not part of a snapshot.
	Removable bool `json:"removable,omitempty"`
	// Paths is over how many controllers the guest reaches a disk on SCSI; 0 is one. The first
	// device is called dev-ID, the others dev-ID-path1 and on. Such a machine takes no snapshot.
	Paths int `json:"paths,omitempty"`
	// WriteLog is an empty file that gets every write and flush of the guest, in the format of
	// the kernel's dm-log-writes; empty means none. It is for one run of the machine.
	WriteLog string `json:"-"`
}

// Value is a named value handed to the guest by the firmware configuration device.
type Value struct {
	Name string `json:"name"`
	Text string `json:"text"`
}

// Machine is everything that decides what the guest sees.
type Machine struct {
	// Name is shown in QEMU's process title.
	Name string `json:"name"`
	// Accel defaults to TCG.
	Accel Accel `json:"accel"`
	// CPUs is the number of processors, default 2.
	CPUs int `json:"cpus"`
	// MemoryMiB is the guest's memory, default 3072.
	MemoryMiB int `json:"memory_mib"`
	// BIOS starts it with SeaBIOS instead of UEFI: no Secure Boot, no variables.
	BIOS bool `json:"bios,omitempty"`
	// NoSecureBoot starts it with UEFI firmware that has no Secure Boot.
	NoSecureBoot bool `json:"no_secure_boot,omitempty"`
	// Vars is the machine's own copy of the firmware variables; needed unless BIOS.
	Vars string `json:"vars,omitempty"`
	// TPM is the control socket of its TPM; empty means no TPM.
	TPM string `json:"tpm,omitempty"`
	// Disks in the order the guest finds them.
	Disks []Disk `json:"disks"`
	// APIPort on 127.0.0.1 leads to the guest's port 8443; 0 means no forwarding.
	APIPort int `json:"api_port,omitempty"`
	// Internet lets the guest reach what this computer reaches. Without it the guest's
	// network ends at this machine: only the forwarded ports lead out of it or into it.
	Internet bool `json:"internet,omitempty"`
	// Release is a command whose standard input and output are a connection of the
	// guest to ReleaseAddress; empty means none.
	Release string `json:"release,omitempty"`
	// NoNetwork leaves out the network card.
	NoNetwork bool `json:"no_network,omitempty"`
	// Hwaddr is the MAC address of the card whose port APIPort leads to; empty is QEMU's own,
	// 52:54:00:12:34:56.
	Hwaddr string `json:"hwaddr,omitempty"`
	// Taps are tap devices of this computer, each the other end of one more network card;
	// the first card has the MAC address 52:54:00:48:46:01, and so on.
	Taps []string `json:"taps,omitempty"`
	// TapBootIndex is the place of the first of Taps in the boot order, as a disk's BootIndex; 0
	// means that the machine is not started from it. Each protocol that the firmware has for a
	// card is tried there, one after the other.
	TapBootIndex int `json:"tap_boot_index,omitempty"`
	// Serial is the file the first serial port is appended to.
	Serial string `json:"serial"`
	// QMP and Events are the control sockets. Events may be empty.
	QMP    string `json:"qmp"`
	Events string `json:"events,omitempty"`
	// ExecSocket leads to the guest's /dev/virtio-ports/lab.exec; empty means none.
	ExecSocket string `json:"exec_socket,omitempty"`
	// PIDFile and Log belong to the QEMU process.
	PIDFile string `json:"pid_file"`
	Log     string `json:"log"`
	// SMBIOS are strings for the guest in SMBIOS type 11.
	SMBIOS []string `json:"smbios,omitempty"`
	// FWCfg are values such as opt/io.systemd.credentials/NAME.
	FWCfg []Value `json:"fw_cfg,omitempty"`
	// Incoming is a memory image to start from, paused; empty means a cold start.
	Incoming string `json:"-"`
}

// ReleaseAddress is where the guest finds the server of releases.
const ReleaseAddress = "10.0.2.100:8080"

// Args are the arguments for qemu-system-x86_64.
func Args(tools Tools, m Machine) []string {
	var args []string
	add := func(more ...string) { args = append(args, more...) }
	add("-L", tools.File("usr/share/qemu"), "-L", tools.File("usr/share/seabios"))
	add("-name", comma(m.Name), "-nodefaults", "-no-user-config", "-daemonize")
	add("-pidfile", m.PIDFile, "-D", m.Log, "-d", "plugin")
	add(platform(tools, m)...)
	add("-display", "none", "-device", "VGA")
	add("-chardev", "file,id=serial0,append=on,path="+comma(m.Serial), "-serial", "chardev:serial0")
	add("-qmp", "unix:"+comma(m.QMP)+",server=on,wait=off")
	if m.Events != "" {
		add("-qmp", "unix:"+comma(m.Events)+",server=on,wait=off")
	}
	if m.TPM != "" {
		add("-chardev", "socket,id=chrtpm,path="+comma(m.TPM))
		add("-tpmdev", "emulator,id=tpm0,chardev=chrtpm", "-device", "tpm-crb,tpmdev=tpm0")
	}
	add("-device", "qemu-xhci,id=xhci")
	if slices.ContainsFunc(m.Disks, func(d Disk) bool { return d.Bus == SCSI }) {
		add("-device", "virtio-scsi-pci,id=scsi")
	}
	for i := 1; i < paths(m.Disks); i++ {
		add("-device", fmt.Sprintf("virtio-scsi-pci,id=scsi%d", i))
	}
	for _, d := range m.Disks {
		add(disk(d)...)
	}
	add(network(m)...)
	add("-object", "rng-random,id=rng0,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=rng0")
	add("-device", "i6300esb")
	if m.ExecSocket != "" {
		add("-device", "virtio-serial-pci,id=vserial0")
		add("-chardev", "socket,id=exec0,server=on,wait=off,path="+comma(m.ExecSocket))
		add("-device", "virtserialport,bus=vserial0.0,chardev=exec0,name=lab.exec")
	}
	for _, text := range m.SMBIOS {
		add("-smbios", "type=11,value="+comma(text))
	}
	for _, v := range m.FWCfg {
		add("-fw_cfg", "name="+comma(v.Name)+",string="+comma(v.Text))
	}
	if m.Incoming != "" {
		add("-incoming", "file:"+m.Incoming)
	}
	return args
}

func platform(tools Tools, m Machine) []string {
	accel := "tcg,thread=multi,tb-size=512"
	if m.Accel == KVM {
		accel = "kvm"
	}
	board := "q35"
	var firmware []string
	switch {
	case m.BIOS:
	case m.NoSecureBoot:
		firmware = []string{
			"-drive", "if=pflash,unit=0,format=raw,readonly=on,file=" + comma(tools.File("usr/share/OVMF/OVMF_CODE_4M.fd")),
			"-drive", "if=pflash,unit=1,format=raw,file=" + comma(m.Vars),
		}
	default:
		board = "q35,smm=on"
		code := tools.File("usr/share/OVMF/OVMF_CODE_4M.secboot.fd")
		firmware = []string{
			"-global", "driver=cfi.pflash01,property=secure,value=on",
			"-global", "ICH9-LPC.disable_s3=1",
			"-drive", "if=pflash,unit=0,format=raw,readonly=on,file=" + comma(code),
			"-drive", "if=pflash,unit=1,format=raw,file=" + comma(m.Vars),
		}
	}
	args := []string{
		"-machine", board, "-accel", accel, "-cpu", "max,la57=off",
		"-smp", strconv.Itoa(or(m.CPUs, 2)), "-m", strconv.Itoa(or(m.MemoryMiB, 3072)),
	}
	return append(args, firmware...)
}

// paths is the largest number of paths to one disk.
func paths(disks []Disk) int {
	most := 0
	for _, d := range disks {
		most = max(most, d.Paths)
	}
	return most
}

// pathsTo attaches one disk several times. The guest knows it again by its WWN.
func pathsTo(d Disk) []string {
	args := []string{"-blockdev", fmt.Sprintf("driver=%s,node-name=%s,cache.no-flush=on,discard=unmap,detect-zeroes=unmap,file.driver=file,file.filename=%s",
		d.Format, d.ID, comma(d.Path))}
	name := fnv.New32a()
	name.Write([]byte(d.Serial)) // never fails
	for i := range d.Paths {
		bus, id := "scsi.0", "dev-"+d.ID
		if i > 0 {
			bus, id = fmt.Sprintf("scsi%d.0", i), fmt.Sprintf("%s-path%d", id, i)
		}
		device := fmt.Sprintf("scsi-hd,bus=%s,drive=%s,share-rw=on,wwn=0x5000c500%08x,serial=%s", bus, d.ID, name.Sum32(), comma(d.Serial))
		if d.BootIndex >= 0 && i == 0 {
			device += ",bootindex=" + strconv.Itoa(d.BootIndex)
		}
		args = append(args, "-device", device+",id="+id)
	}
	return args
}

// disk attaches one disk. cache=unsafe never waits for this computer's disk: what
// the guest has written is in the page cache, which survives the end of QEMU.
func disk(d Disk) []string {
	if d.Bus == SCSI && d.Paths > 1 {
		return pathsTo(d)
	}
	drive := fmt.Sprintf("if=none,id=%s,format=%s,cache=unsafe,discard=unmap,detect-zeroes=unmap,file=%s",
		d.ID, d.Format, comma(d.Path))
	if d.WriteLog != "" { // flushes reach the log, and no further
		drive = fmt.Sprintf("if=none,id=%s,driver=blklogwrites,cache=writeback,discard=unmap,log-sector-size=512,"+
			"log.driver=file,log.filename=%s,log.cache.no-flush=on,"+
			"file.driver=%s,file.cache.no-flush=on,file.file.driver=file,file.file.filename=%s",
			d.ID, comma(d.WriteLog), d.Format, comma(d.Path))
	}
	device := "virtio-blk-pci,drive=" + d.ID
	if d.WriteLog != "" {
		// Merged, writes have up to 1024 pieces, as many as Linux takes at once. The log adds one
		// to each, and the guest would get an error of input and output.
		device += ",request-merging=off"
	}
	switch d.Bus {
	case USB:
		device = "usb-storage,bus=xhci.0,drive=" + d.ID
	case NVMe:
		device = "nvme,drive=" + d.ID
	case SCSI:
		device = "scsi-hd,bus=scsi.0,drive=" + d.ID
	case CDROM:
		drive = fmt.Sprintf("if=none,id=%s,format=%s,media=cdrom,readonly=on,cache=unsafe,file=%s", d.ID, d.Format, comma(d.Path))
		device = "ide-cd,bus=ide.0,drive=" + d.ID
	}
	if d.Sector != 0 {
		device += fmt.Sprintf(",logical_block_size=%d,physical_block_size=%d", d.Sector, or(d.PhysicalSector, d.Sector))
	} else if d.PhysicalSector != 0 {
		device += fmt.Sprintf(",physical_block_size=%d", d.PhysicalSector)
	}
	if d.Serial != "" {
		device += ",serial=" + comma(d.Serial)
	}
	if d.Bus == USB && d.Removable {
		device += ",removable=on"
	}
	if d.BootIndex >= 0 {
		device += ",bootindex=" + strconv.Itoa(d.BootIndex)
	}
	return []string{"-drive", drive, "-device", device + ",id=dev-" + d.ID}
}

func network(m Machine) []string {
	var cards []string
	for i, tap := range m.Taps {
		// Bonds of 802.3ad take cards that say how fast they are and that they send both ways.
		// Without the header, frames have all their checksums: programs read them, not a kernel.
		device := fmt.Sprintf("virtio-net-pci,netdev=tap%d,mac=%s,speed=10000,duplex=full,romfile=", i, TapHwaddr(i))
		if i == 0 && m.TapBootIndex > 0 {
			device += fmt.Sprintf(",bootindex=%d", m.TapBootIndex)
		}
		cards = append(cards, "-netdev", fmt.Sprintf("tap,id=tap%d,ifname=%s,script=no,downscript=no,vnet_hdr=off", i, comma(tap)), "-device", device)
	}
	if m.NoNetwork {
		return cards
	}
	netdev := "user,id=net0"
	if !m.Internet {
		netdev += ",restrict=on"
	}
	if m.APIPort != 0 {
		netdev += fmt.Sprintf(",hostfwd=tcp:127.0.0.1:%d-:8443", m.APIPort)
	}
	if m.Release != "" {
		netdev += ",guestfwd=tcp:" + ReleaseAddress + "-cmd:" + comma(m.Release)
	}
	card := "virtio-net-pci,netdev=net0,romfile="
	if m.Hwaddr != "" {
		card += ",mac=" + m.Hwaddr
	}
	return append([]string{"-netdev", netdev, "-device", card}, cards...)
}

// TapHwaddr is the MAC address of the card at Machine.Taps[i].
func TapHwaddr(i int) string { return fmt.Sprintf("52:54:00:48:46:%02x", i+1) }

// comma escapes a value inside QEMU's comma-separated options.
func comma(value string) string { return strings.ReplaceAll(value, ",", ",,") }

func or(value, fallback int) int {
	if value == 0 {
		return fallback
	}
	return value
}
