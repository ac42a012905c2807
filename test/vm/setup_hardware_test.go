package vm

import (
	"context"
	"os"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	osapi "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/client"
	"github.com/holdfast-os/holdfast/internal/lab"
	"github.com/holdfast-os/holdfast/internal/system/qemu"
)

// installed makes a machine from nothing to the answer of its API. The lab's Up is the
// installation, the start without the medium and the first boot.
func installed(t *testing.T, hardware lab.Hardware, seed map[string]any) *node {
	t.Helper()
	t.Cleanup(func() { removeClone(t, installName()) })
	restore(t, lab.Options{Name: installName(), Hardware: hardware, Seed: seed, Fresh: true, NoSnapshot: true})
	return watched(t, newNode(t, installName()))
}

// without is the seed of an installation that does without something.
func without(what string) map[string]any {
	return map[string]any{"install": map[string]any{"version": "1", "force_reboot": true, "security": map[string]any{what: true}}}
}

func (n *node) security(t *testing.T) osapi.SecurityState {
	t.Helper()
	security, err := n.api.Security(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return security.State
}

// Whatever bus the disk and the medium hang on, and whatever its sectors are, the machine
// ends as the same node, and starts again by itself.
func TestInstall_EachKindOfDiskAndMedium_EndsInATrustedNode(t *testing.T) {
	slow(t)
	longOnly(t)
	for _, c := range []struct {
		name     string
		hardware lab.Hardware
	}{
		{"SCSI", lab.Hardware{DiskBus: qemu.SCSI}},
		{"NVMe", lab.Hardware{DiskBus: qemu.NVMe}},
		{"4Kn", lab.Hardware{DiskBus: qemu.NVMe, DiskSector: 4096}},
		{"512e", lab.Hardware{DiskBus: qemu.SCSI, DiskSector: 512, DiskPhysicalSector: 4096}},
		{"from a CD", lab.Hardware{MediumBus: qemu.CDROM}},
		{"by itself", lab.Hardware{Live: true}},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := installed(t, c.hardware, nil)
			if state := n.security(t); !state.SystemStateIsTrusted || state.TPMStatus != "ok" {
				t.Errorf("the state is %q, the TPM %q", state.SystemStateStatus, state.TPMStatus)
			}
			n.powerOn(t)
			until(t, bootLimit, "waiting for the second start", n.ready)
		})
	}
}

// A disk of a storage network is one disk: while one of the paths to it is left the node works,
// starts and is updated.
func TestInstall_DiskOverTwoPaths_LivesOnOne(t *testing.T) {
	slow(t)
	longOnly(t)
	next := newTree(t).begin(t, "")
	n := installed(t, lab.Hardware{DiskBus: qemu.SCSI, DiskPaths: 2}, nil)
	ofPaths := func(when string) {
		t.Helper()
		storage, err := n.api.Storage(t.Context())
		if err != nil {
			t.Fatalf("%s: %v", when, err)
		}
		at := slices.IndexFunc(storage.State.Drives, func(d osapi.Drive) bool { return d.Boot })
		if len(storage.State.Drives) != 1 || at != 0 || !storage.State.Drives[0].Multipath {
			t.Errorf("%s: the drives are %+v", when, storage.State.Drives)
		}
	}
	ofPaths("over two paths")
	control, err := n.control(t.Context(), "qmp.sock")
	if err != nil {
		t.Fatal(err)
	}
	defer control.Close()
	if err := control.Execute(t.Context(), "device_del", map[string]any{"id": "dev-disk0"}, nil); err != nil {
		t.Fatal(err)
	}
	until(t, shortLimit, "waiting for the path to go", func(ctx context.Context) (bool, error) {
		var list []struct{ Name string }
		err := control.Execute(ctx, "qom-list", map[string]any{"path": "/machine/peripheral"}, &list)
		return !slices.ContainsFunc(list, func(o struct{ Name string }) bool { return o.Name == "dev-disk0" }), err
	})
	// What is accepted is on the disk before it is answered.
	change := osapi.KernelConfig{BlacklistModules: []string{"pcspkr"}}
	if err := n.api.SetSection(t.Context(), client.SectionKernel, change, client.ChangeOptions{}); err != nil {
		t.Errorf("a change with one path left: %v", err)
	}
	ofPaths("with one path left")
	if err := control.Reset(t.Context()); err != nil {
		t.Fatal(err)
	}
	until(t, bootLimit, "waiting for the start over one path", n.ready)
	ofPaths("started over one path")
	n.asked(t)
	n.expectGood(t, machines.version, next.publish(t))
	ofPaths("updated over one path")
	if state := n.security(t); !state.SystemStateIsTrusted || state.TPMStatus != "ok" {
		t.Errorf("the state is %q, the TPM %q", state.SystemStateStatus, state.TPMStatus)
	}
}

// A node without TPM, or without Secure Boot, works, and never hides it.
func TestInstall_PartOfTheChainMissing_WorksAndIsShownForEver(t *testing.T) {
	slow(t)
	longOnly(t)
	for _, c := range []struct {
		name     string
		hardware lab.Hardware
		seed     map[string]any
		status   string
		tpm      string
	}{
		{"no TPM", lab.Hardware{NoTPM: true}, without("missing_tpm"), "using swtpm", "swtpm"},
		{"no Secure Boot", lab.Hardware{NoSecureBoot: true}, without("missing_secure_boot"), "Secure Boot is disabled", "ok"},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := installed(t, c.hardware, c.seed)
			for _, start := range []string{"first", "second"} {
				state := n.security(t)
				got := []string{state.SystemStateStatus, state.TPMStatus, state.EncryptedVolumes[0].State}
				if diff := cmp.Diff([]string{c.status, c.tpm, "unlocked (TPM)"}, got); diff != "" || state.SystemStateIsTrusted {
					t.Errorf("%s start: trusted %t\n%s", start, state.SystemStateIsTrusted, diff)
				}
				n.powerOn(t)
				until(t, bootLimit, "waiting for the next start", n.ready)
			}
		})
	}
}

// A CD that nobody gave a seed cannot become a node, and says what to do instead.
func TestInstall_CDWithoutASeed_SaysWhatIsMissing(t *testing.T) {
	slow(t)
	longOnly(t)
	n := startMedium(t, lab.Hardware{MediumBus: qemu.CDROM}, map[string]any{"install": nil})
	n.saysOnSerial(t, 0, installLimit, "cannot be written", "add a seed with install")
	expectEmptyDisk(t, n.disk())
}

// The power is cut while a node is being reset: it comes up as a new one, and nobody has to
// ask again.
func TestReset_PowerCut_GoesOnByItself(t *testing.T) {
	slow(t)
	longOnly(t)
	n := clone(t, baseName+"-reset", lab.Hardware{})
	n.powerOn(t)
	until(t, bootLimit, "waiting for the node", n.ready)
	size, err := os.Stat(n.file("serial.log"))
	if err != nil {
		t.Fatal(err)
	}
	// The answer comes when the reset is decided, and before it has ended.
	if err := n.api.FactoryReset(t.Context(), osapi.FactoryResetPost{}); err != nil {
		t.Fatal(err)
	}
	n.powerOn(t)
	n.saysOnSerial(t, size.Size(), bootLimit, "First boot: making swap, root and data partitions")
}
