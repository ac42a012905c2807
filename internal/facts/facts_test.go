package facts_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	api "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/facts"
	"github.com/holdfast-os/holdfast/internal/system/run"
)

func write(t *testing.T, root string, files, links map[string]string) {
	t.Helper()
	for name, text := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for name, target := range links {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(target, path); err != nil {
			t.Fatal(err)
		}
	}
}

// programs answers by the name of the program and its last argument.
type programs map[string]string

func (p programs) run(_ context.Context, c run.Command) (run.Result, error) {
	answer, ok := p[c.Name]
	if c.Name == "smartctl" {
		answer, ok = p["smartctl "+c.Args[len(c.Args)-1]]
	}
	if !ok {
		return run.Result{}, &run.Error{Args: []string{c.Name}, ExitCode: -1, Err: errors.New("not found")}
	}
	return run.Result{Stdout: []byte(answer)}, nil
}

func TestEnvironment_Node_NamesItself(t *testing.T) {
	root := t.TempDir()
	write(t, root, map[string]string{
		"usr/lib/os-release": "ID=holdfast\nNAME=\"Holdfast\"\nIMAGE_VERSION=202611220104\n", "etc/machine-id": "0123456789abcdef0123456789abcdef\n",
		"proc/sys/kernel/hostname": "node1.example.org\n", "proc/uptime": "12345.67 8.90\n",
	}, nil)
	got, err := facts.Collector{Root: root}.Environment()
	if err != nil {
		t.Fatal(err)
	}
	want := api.Environment{
		Hostname: "node1", MachineID: "0123456789abcdef0123456789abcdef", OSName: "Holdfast",
		OSVersion: "202611220104", OSVersionNext: "202611220104", Uptime: 12345,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// Boards that left the factory without a name of their own share one: nodes called
// after it would all have the same name.
func TestProductUUID_SharedName_CountsAsNone(t *testing.T) {
	for text, want := range map[string]string{
		"5F2C1D7A-0E1B-4A3D-9C55-3D0B7B7E6A10\n": "5f2c1d7a-0e1b-4a3d-9c55-3d0b7b7e6a10",
		"00000000-0000-0000-0000-000000000000\n": "", "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF\n": "",
		"03000200-0400-0500-0006-000700080009\n": "",
	} {
		root := t.TempDir()
		write(t, root, map[string]string{"sys/class/dmi/id/product_uuid": text}, nil)
		if got, err := (facts.Collector{Root: root}).ProductUUID(); err != nil || got != want {
			t.Errorf("%q: got %q, %v; want %q", text, got, err, want)
		}
	}
	if got, err := (facts.Collector{Root: t.TempDir()}).ProductUUID(); err != nil || got != "" {
		t.Errorf("no firmware tables: got %q, %v", got, err)
	}
}

func TestCards_Machine_GivesWiredCardsAlone(t *testing.T) {
	root := t.TempDir()
	write(t, root, map[string]string{
		"sys/class/net/enp0s2/device/vendor": "", "sys/class/net/enp0s2/addr_assign_type": "0\n",
		"sys/class/net/usb0/device/vendor": "", "sys/class/net/usb0/addr_assign_type": "1\n",
	}, nil)
	p := programs{"ip": `[{"ifname":"lo","link_type":"loopback"},{"ifname":"enp0s2","link_type":"ether","address":"52:54:00:12:34:56","max_mtu":65535},
 {"ifname":"usb0","link_type":"ether","address":"02:00:00:00:00:01"},{"ifname":"dummy0","link_type":"ether","linkinfo":{"info_kind":"dummy"}}]`}
	got, err := facts.Collector{Root: root, Run: p.run}.Cards(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	want := []facts.Card{{Name: "enp0s2", Hwaddr: "52:54:00:12:34:56", Permanent: true, MaxMTU: 65535}, {Name: "usb0", Hwaddr: "02:00:00:00:00:01"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

const lsblk = `{"blockdevices":[
{"name":"loop0","kname":"loop0","path":"/dev/loop0","maj:min":"7:0","type":"loop","size":4096},
{"name":"vda","kname":"vda","path":"/dev/vda","maj:min":"254:0","type":"disk","size":53687091200,"subsystems":"block:virtio:pci"},
{"name":"sda","kname":"sda","path":"/dev/sda","maj:min":"8:0","type":"disk","size":1000,"tran":"sata","model":"KERNEL NAME","serial":"S0","wwn":"0x5000","subsystems":"block:scsi:pci"},
{"name":"sdb","kname":"sdb","path":"/dev/sdb","maj:min":"8:16","type":"disk","size":2000,"tran":"usb","model":"Stick","rm":true,"subsystems":"block:scsi:usb:pci"},
{"name":"sdc","kname":"sdc","path":"/dev/sdc","maj:min":"8:32","type":"disk","size":300,"tran":"usb","model":"Virtual Floppy","rm":true},
{"name":"nvme0n1","kname":"nvme0n1","path":"/dev/nvme0n1","maj:min":"259:0","type":"disk","size":4000,"tran":"nvme","subsystems":"block:nvme"},
{"name":"vdb","kname":"vdb","path":"/dev/vdb","maj:min":"254:16","type":"disk","size":1},
{"name":"sr0","kname":"sr0","path":"/dev/sr0","maj:min":"11:0","type":"rom","size":5000}]}`

// A drive's id is what an owner puts into a pool: it must not change with the order
// in which drives are found, nor with what is written on them.
func TestDrives_Machine_GivesThoseWithALastingName(t *testing.T) {
	root := t.TempDir()
	write(t, root, map[string]string{"dev/disk/by-path/pci-0000:00:04.0-part/by-uuid/x": "", "sys/block/nvme0n1/device/transport": "tcp\n", "sys/block/nvme0n1/multipath/a": "", "sys/block/nvme0n1/multipath/b": ""},
		map[string]string{
			"dev/disk/by-id/lvm-pv-uuid-abc": "../../sda", "dev/disk/by-id/wwn-0x5000": "../../sda", "dev/disk/by-id/ata-DISK_S1": "../../sda",
			"dev/disk/by-id/usb-Stick": "../../sdb", "dev/disk/by-id/usb-AMI_Virtual": "../../sdc", "dev/disk/by-id/nvme-eui.1": "../../nvme0n1",
			"dev/disk/by-id/ata-CDROM": "../../sr0", "dev/disk/by-path/pci-0000:00:04.0": "../../vda", "dev/disk/by-path/virtio-pci-0000:00:04.0": "../../vda",
		})
	p := programs{"lsblk": lsblk,
		"smartctl /dev/sda": `{"device":{"type":"sat"},"model_family":"Fine Disks","model_name":"DISK","serial_number":"S1"}`}
	got, err := facts.Collector{Root: root, Run: p.run}.Drives(context.Background(), "/dev/vda")
	if err != nil {
		t.Fatal(err)
	}
	facts.AssignPools(got, []api.Pool{{Name: "local", Devices: []string{"/dev/disk/by-path/pci-0000:00:04.0-part11"}}, {Name: "data", Devices: []string{"/dev/disk/by-id/ata-DISK_S1"}}})
	want := []api.Drive{
		{ID: "/dev/disk/by-id/ata-DISK_S1", ModelFamily: "Fine Disks", ModelName: "DISK", SerialNumber: "S1", Bus: "sata", CapacityInBytes: 1000, WWN: "0x5000", MemberPool: "data"},
		{ID: "/dev/disk/by-id/nvme-eui.1", Bus: "nvme", CapacityInBytes: 4000, Multipath: true, Remote: true},
		{ID: "/dev/disk/by-id/usb-Stick", ModelName: "Stick", Bus: "usb", CapacityInBytes: 2000, Removable: true},
		{ID: "/dev/disk/by-path/pci-0000:00:04.0", Bus: "virtio", CapacityInBytes: 53687091200, Boot: true, MemberPool: "local"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// Incus' clients read this shape; the real machine must give it without an error.
func TestResources_ThisMachine_HasTheShapeOfIncus(t *testing.T) {
	found, err := facts.Resources(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(found)
	if err != nil {
		t.Fatal(err)
	}
	var parts map[string]json.RawMessage
	if err := json.Unmarshal(data, &parts); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"cpu", "memory", "gpu", "network", "storage", "usb", "pci", "system", "load"} {
		if _, ok := parts[name]; !ok {
			t.Errorf("%s is missing", name)
		}
	}
	if found.CPU.Total == 0 || found.Memory.Total == 0 {
		t.Errorf("got %d processors and %d bytes of memory", found.CPU.Total, found.Memory.Total)
	}
}

func TestRootPartition_ThisMachine_HasSpace(t *testing.T) {
	got, err := facts.Collector{Root: t.TempDir()}.RootPartition()
	if err != nil || got.SizeInBytes == 0 || got.AvailableInBytes > got.SizeInBytes {
		t.Errorf("got %+v, %v", got, err)
	}
}
