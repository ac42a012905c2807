package kernel_test

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"

	api "github.com/holdfast-os/holdfast/api/os"
)

// The document that an IncusOS client sends is read field by field and written with the
// same names; the switch is read as a number, too.
func TestKernelConfig_DocumentOfIncusOS_KeepsItsNames(t *testing.T) {
	const document = `{"console":[{"device":"ttyS1","baud_rate":115200}],"blacklist_modules":["nouveau"],"cpu":{"scaling_governor":"performance"},` +
		`"memory":{"persistent_hugepages":4,"zram_swap_size":"8GiB"},"network":{"buffer_size":65536,"netdev_max_backlog":2000,"queuing_discipline":"fq",` +
		`"tcp_congestion_algorithm":"bbr","tcp_mtu_probing":true},"pci":{"passthrough":[{"vendor_id":"10de","product_id":"2204","pci_address":"0000:01:00.0"}],` +
		`"sriov":[{"pci_address":"0000:02:00.0","vf_count":4}]}}`
	want := api.KernelConfig{
		Console: []api.KernelConsole{{Device: "ttyS1", BaudRate: 115200}}, BlacklistModules: []string{"nouveau"}, CPU: &api.KernelCPU{ScalingGovernor: "performance"},
		Memory:  &api.KernelMemory{PersistentHugepages: 4, ZramSwapSize: "8GiB"},
		Network: &api.KernelNetwork{BufferSize: 65536, NetdevMaxBacklog: 2000, QueuingDiscipline: "fq", TCPCongestionAlgorithm: "bbr", TCPMTUProbing: true},
		PCI: &api.KernelPCI{Passthrough: []api.KernelPassthrough{{VendorID: "10de", ProductID: "2204", PCIAddress: "0000:01:00.0"}},
			SRIOV: []api.KernelSRIOV{{PCIAddress: "0000:02:00.0", VFCount: 4}}},
	}
	var got api.KernelConfig
	if err := json.Unmarshal([]byte(document), &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	written, err := json.Marshal(got)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(document, string(written)); diff != "" {
		t.Error(diff)
	}
	switches := map[string]bool{}
	for _, text := range []string{"1", "0", "true", "false", "2", `"yes"`} {
		var n api.KernelNetwork
		err := json.Unmarshal([]byte(`{"tcp_mtu_probing":`+text+`}`), &n)
		switches[text] = bool(n.TCPMTUProbing)
		if (err != nil) != (text == "2" || text == `"yes"`) {
			t.Errorf("%s: %v", text, err)
		}
	}
	if diff := cmp.Diff(map[string]bool{"1": true, "true": true, "0": false, "false": false, "2": false, `"yes"`: false}, switches); diff != "" {
		t.Error(diff)
	}
}
