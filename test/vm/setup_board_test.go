package vm

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	osapi "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/client"
	"github.com/holdfast-os/holdfast/internal/lab"
	"github.com/holdfast-os/holdfast/internal/system/qemu"
)

// The board of a node has died. On the new one everything is another: firmware without keys and
// boot entries, TPM, disk controller, network card. With the disk and its recovery key the node
// is there again, can be reached though its configuration names the old card, and after one
// request needs nobody any more.
func TestRecovery_NewBoard_IsTheSameNode(t *testing.T) {
	slow(t)
	longOnly(t)
	before, err := shared(t).api.Security(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	n := clone(t, baseName+"-board", lab.Hardware{})
	n.powerOn(t)
	until(t, bootLimit, "waiting for the node on its old board", n.ready)
	network, err := n.api.Network(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	network.Config.Time = &osapi.NetworkTime{Timezone: "Europe/Berlin"}
	if err := n.api.SetSection(t.Context(), client.SectionNetwork, network.Config, client.ChangeOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := machines.cut(t.Context()); err != nil {
		t.Fatal(err)
	}

	const hwaddr = "52:54:00:99:00:01"
	if err := machines.lab.Refit(n.name, lab.Hardware{DiskBus: qemu.SCSI, Hwaddr: hwaddr}); err != nil {
		t.Fatal(err)
	}
	n.newTPM(t)
	if err := qemu.CopySparse(n.file("vars.fd"), machines.tools.File("usr/share/OVMF/OVMF_VARS_4M.fd")); err != nil {
		t.Fatal(err)
	}
	n.openByKey(t, before.Config.EncryptionRecoveryKeys[0])

	after, err := n.api.Network(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(network.Config.Interfaces, after.Config.Interfaces); diff != "" {
		t.Errorf("the configuration of the interfaces (-before +after):\n%s", diff)
	}
	reached := 0
	for name, state := range after.State.Interfaces {
		if state.State == "routable" && state.Hwaddr == hwaddr {
			reached++
		} else if state.State == "routable" {
			t.Errorf("%s is routable, with a card that is not there: %+v", name, state)
		}
	}
	if reached != 1 {
		t.Errorf("the new card is in %d interfaces: %+v", reached, after.State.Interfaces)
	}
	security, err := n.api.Security(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !security.State.SecureBootEnabled || security.State.TPMStatus != "pcr mismatch" {
		t.Errorf("Secure Boot %t, TPM %q", security.State.SecureBootEnabled, security.State.TPMStatus)
	}

	events := n.listen(t)
	if err := n.api.RebindTPM(t.Context()); err != nil {
		t.Fatal(err)
	}
	awaitReset(t, events, bootLimit)
	until(t, bootLimit, "waiting for the node to open its disk with the new TPM", n.ready)
	if state := n.security(t); state.TPMStatus != "ok" || state.EncryptedVolumes[0].State != "unlocked (TPM)" {
		t.Errorf("after binding to the new TPM: TPM %q, volumes %+v", state.TPMStatus, state.EncryptedVolumes)
	}
}

// The TPM of a node has died. With its recovery key it runs, with all its instances, and says
// what it lacks.
func TestRecovery_DeadTPM_RunsByRecoveryKey(t *testing.T) {
	slow(t)
	longOnly(t)
	before, err := shared(t).api.Security(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	n := clone(t, baseName+"-dead", lab.Hardware{NoTPM: true})
	n.openByKey(t, before.Config.EncryptionRecoveryKeys[0])
	state := n.security(t)
	got := []string{state.TPMStatus, state.SystemStateStatus, state.EncryptedVolumes[0].State}
	if diff := cmp.Diff([]string{"missing", "no TPM", "unlocked (recovery passphrase)"}, got); diff != "" || state.SystemStateIsTrusted {
		t.Errorf("trusted %t\n%s", state.SystemStateIsTrusted, diff)
	}
	if err := n.api.RebindTPM(t.Context()); err == nil {
		t.Error("a machine without a TPM was bound to one")
	}
}
