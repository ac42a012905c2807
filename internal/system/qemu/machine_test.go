package qemu

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/internal/system/run"
)

type fakeTools struct{}

func (fakeTools) File(name string) string { return "/t/" + name }
func (fakeTools) Command(name string, args ...string) run.Command {
	return run.Command{Name: "/t/" + name, Args: args}
}

// lines joins each option with its value, so that a difference reads well.
func lines(args []string) []string {
	var out []string
	for _, arg := range args {
		if strings.HasPrefix(arg, "-") || len(out) == 0 {
			out = append(out, arg)
			continue
		}
		out[len(out)-1] += " " + arg
	}
	return out
}

// A snapshot only fits a machine with exactly the same hardware, so any change of
// these arguments makes every saved machine useless: it must be a decision.
func TestArgs_InstallMachine_IsExactlyThisHardware(t *testing.T) {
	m := Machine{
		Name: "lab", Accel: TCG, CPUs: 2, MemoryMiB: 3072, Vars: "/l/vars.fd", TPM: "/l/tpm.sock", APIPort: 18443,
		Disks: []Disk{
			{ID: "disk0", Path: "/l/disk0.raw", Format: "raw", Serial: "holdfast-disk", BootIndex: 0},
			{ID: "medium", Path: "/l/medium.raw", Format: "raw", Bus: USB, BootIndex: 1, Removable: true},
		},
		Serial: "/l/serial.log", QMP: "/l/qmp.sock", Events: "/l/events.sock", PIDFile: "/l/qemu.pid", Log: "/l/qemu.log",
	}
	want := []string{
		"-L /t/usr/share/qemu", "-L /t/usr/share/seabios",
		"-name lab", "-nodefaults", "-no-user-config", "-daemonize",
		"-pidfile /l/qemu.pid", "-D /l/qemu.log", "-d plugin",
		"-machine q35,smm=on", "-accel tcg,thread=multi,tb-size=512", "-cpu max,la57=off", "-smp 2", "-m 3072",
		"-global driver=cfi.pflash01,property=secure,value=on", "-global ICH9-LPC.disable_s3=1",
		"-drive if=pflash,unit=0,format=raw,readonly=on,file=/t/usr/share/OVMF/OVMF_CODE_4M.secboot.fd",
		"-drive if=pflash,unit=1,format=raw,file=/l/vars.fd",
		"-display none", "-device VGA",
		"-chardev file,id=serial0,append=on,path=/l/serial.log", "-serial chardev:serial0",
		"-qmp unix:/l/qmp.sock,server=on,wait=off", "-qmp unix:/l/events.sock,server=on,wait=off",
		"-chardev socket,id=chrtpm,path=/l/tpm.sock", "-tpmdev emulator,id=tpm0,chardev=chrtpm", "-device tpm-crb,tpmdev=tpm0",
		"-device qemu-xhci,id=xhci",
		"-drive if=none,id=disk0,format=raw,cache=unsafe,discard=unmap,detect-zeroes=unmap,file=/l/disk0.raw",
		"-device virtio-blk-pci,drive=disk0,serial=holdfast-disk,bootindex=0,id=dev-disk0",
		"-drive if=none,id=medium,format=raw,cache=unsafe,discard=unmap,detect-zeroes=unmap,file=/l/medium.raw",
		"-device usb-storage,bus=xhci.0,drive=medium,removable=on,bootindex=1,id=dev-medium",
		"-netdev user,id=net0,restrict=on,hostfwd=tcp:127.0.0.1:18443-:8443", "-device virtio-net-pci,netdev=net0,romfile=",
		"-object rng-random,id=rng0,filename=/dev/urandom", "-device virtio-rng-pci,rng=rng0",
		"-device i6300esb",
	}
	if diff := cmp.Diff(want, lines(Args(fakeTools{}, m))); diff != "" {
		t.Errorf("arguments (-want +got):\n%s", diff)
	}
}

// What the VM tests vary has to arrive in QEMU's arguments, commas included.
func TestArgs_Variations_ChangeWhatTheyName(t *testing.T) {
	plain := Machine{Name: "m", Vars: "/v", Serial: "/s", QMP: "/q", PIDFile: "/p", Log: "/g"}
	for name, c := range map[string]struct {
		change  func(*Machine)
		has     []string
		without []string
	}{
		"kvm":    {func(m *Machine) { m.Accel = KVM }, []string{"-accel kvm"}, []string{"-accel tcg,thread=multi,tb-size=512"}},
		"no tpm": {func(*Machine) {}, nil, []string{"-device tpm-crb,tpmdev=tpm0"}},
		"bios":   {func(m *Machine) { m.BIOS = true }, []string{"-machine q35"}, []string{"-machine q35,smm=on", "-drive if=pflash,unit=1,format=raw,file=/v"}},
		"taps": {func(m *Machine) { m.Taps = []string{"hf0", "hf1"} }, []string{
			"-netdev tap,id=tap1,ifname=hf1,script=no,downscript=no,vnet_hdr=off",
			"-device virtio-net-pci,netdev=tap1,mac=52:54:00:48:46:02,speed=10000,duplex=full,romfile="}, nil},
		"start from the network": {func(m *Machine) { m.Taps, m.TapBootIndex = []string{"hf0", "hf1"}, 1 }, []string{
			"-device virtio-net-pci,netdev=tap0,mac=52:54:00:48:46:01,speed=10000,duplex=full,romfile=,bootindex=1",
			"-device virtio-net-pci,netdev=tap1,mac=52:54:00:48:46:02,speed=10000,duplex=full,romfile="}, nil},
		"no network": {func(m *Machine) { m.NoNetwork = true }, nil, []string{"-netdev user,id=net0,restrict=on"}},
		"no port":    {func(*Machine) {}, []string{"-netdev user,id=net0,restrict=on"}, nil},
		"credential": {func(m *Machine) { m.SMBIOS = []string{"io.systemd.credential:a=b,c"} }, []string{"-smbios type=11,value=io.systemd.credential:a=b,,c"}, nil},
		"firmware value": {func(m *Machine) { m.FWCfg = []Value{{"opt/x", "1,2"}} },
			[]string{"-fw_cfg name=opt/x,string=1,,2"}, nil},
		"test port": {func(m *Machine) { m.ExecSocket = "/e" },
			[]string{"-chardev socket,id=exec0,server=on,wait=off,path=/e", "-device virtserialport,bus=vserial0.0,chardev=exec0,name=lab.exec"}, nil},
		"nvme that is not booted": {func(m *Machine) {
			m.Disks = []Disk{{ID: "d", Path: "/d", Format: "qcow2", Bus: NVMe, Serial: "n", BootIndex: -1}}
		},
			[]string{"-device nvme,drive=d,serial=n,id=dev-d"}, nil},
		"scsi": {func(m *Machine) { m.Disks = []Disk{{ID: "d", Path: "/d", Format: "raw", Bus: SCSI, Serial: "s"}} },
			[]string{"-device virtio-scsi-pci,id=scsi", "-device scsi-hd,bus=scsi.0,drive=d,serial=s,bootindex=0,id=dev-d"}, nil},
		"scsi over two paths": {func(m *Machine) {
			m.Disks = []Disk{{ID: "d", Path: "/d,1", Format: "raw", Bus: SCSI, Serial: "s", Paths: 2}}
		},
			[]string{"-device virtio-scsi-pci,id=scsi", "-device virtio-scsi-pci,id=scsi1",
				"-blockdev driver=raw,node-name=d,cache.no-flush=on,discard=unmap,detect-zeroes=unmap,file.driver=file,file.filename=/d,,1",
				"-device scsi-hd,bus=scsi.0,drive=d,share-rw=on,wwn=0x5000c500f60c4582,serial=s,bootindex=0,id=dev-d",
				"-device scsi-hd,bus=scsi1.0,drive=d,share-rw=on,wwn=0x5000c500f60c4582,serial=s,id=dev-d-path1"}, nil},
		"large sectors": {func(m *Machine) { m.Disks = []Disk{{ID: "d", Path: "/d", Format: "raw", Sector: 4096}} },
			[]string{"-device virtio-blk-pci,drive=d,logical_block_size=4096,physical_block_size=4096,bootindex=0,id=dev-d"}, nil},
		"512e": {func(m *Machine) { m.Disks = []Disk{{ID: "d", Path: "/d", Format: "raw", PhysicalSector: 4096}} },
			[]string{"-device virtio-blk-pci,drive=d,physical_block_size=4096,bootindex=0,id=dev-d"}, nil},
		"log of writes": {func(m *Machine) { m.Disks = []Disk{{ID: "d", Path: "/d", Format: "raw", WriteLog: "/l"}} },
			[]string{"-device virtio-blk-pci,drive=d,request-merging=off,bootindex=0,id=dev-d"}, nil},
		"cd": {func(m *Machine) {
			m.Disks = []Disk{{ID: "d", Path: "/d", Format: "raw", Bus: CDROM, BootIndex: 1, Removable: true}}
		},
			[]string{"-drive if=none,id=d,format=raw,media=cdrom,readonly=on,cache=unsafe,file=/d", "-device ide-cd,bus=ide.0,drive=d,bootindex=1,id=dev-d"}, nil},
		"no Secure Boot": {func(m *Machine) { m.NoSecureBoot = true }, []string{"-machine q35", "-drive if=pflash,unit=0,format=raw,readonly=on,file=/t/usr/share/OVMF/OVMF_CODE_4M.fd"},
			[]string{"-machine q35,smm=on", "-global driver=cfi.pflash01,property=secure,value=on"}},
		"from memory": {func(m *Machine) { m.Incoming = "/state.bin" }, []string{"-incoming file:/state.bin"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			m := plain
			c.change(&m)
			got := map[string]bool{}
			for _, line := range lines(Args(fakeTools{}, m)) {
				got[line] = true
			}
			for _, line := range c.has {
				if !got[line] {
					t.Errorf("missing: %s", line)
				}
			}
			for _, line := range c.without {
				if got[line] {
					t.Errorf("should not be there: %s", line)
				}
			}
		})
	}
}
