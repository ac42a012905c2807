package vm

import (
	"context"
	"encoding/base64"
	"encoding/pem"
	"os"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"go.yaml.in/yaml/v4"

	"github.com/holdfast-os/holdfast/internal/lab"
	"github.com/holdfast-os/holdfast/internal/layout"
	"github.com/holdfast-os/holdfast/internal/system/qemu"
	"github.com/holdfast-os/holdfast/internal/system/run"
)

// installName is the machine of the tests that install.
func installName() string { return baseName + "-install" }

// installLimit bounds an installation, the firmware's part included.
const installLimit = 20 * time.Minute

// startMedium starts a new machine from the install medium.
func startMedium(t *testing.T, hardware lab.Hardware, seed map[string]any) *node {
	t.Helper()
	t.Cleanup(func() { removeClone(t, installName()) })
	restore(t, lab.Options{Name: installName(), Hardware: hardware, Seed: seed, Fresh: true, NoWait: true, NoSnapshot: true})
	return watched(t, newNode(t, installName()))
}

// A machine that cannot be installed on must say why on its console, all at once and
// with the way on, and its disk must be left alone: there is no other way to see what
// is wrong with a machine in a rack.
func TestInstall_Refusals(t *testing.T) {
	slow(t)
	install := func(fields map[string]any) map[string]any {
		fields["version"] = "1"
		return map[string]any{"install": fields}
	}
	for _, c := range []struct {
		name     string
		long     bool
		hardware lab.Hardware
		seed     map[string]any
		says     []string
	}{
		{name: "no TPM", long: true, hardware: lab.Hardware{NoTPM: true}, says: []string{"TPM", "no TPM"}},
		{name: "disk too small", long: true, hardware: lab.Hardware{DiskGiB: []int{10}}, says: []string{"10 GiB", "20 GiB"}},
		{name: "two disks", hardware: lab.Hardware{DiskGiB: []int{20, 20}}, says: []string{"several disks", "target"}},
		{name: "no disk fits the target", long: true, seed: install(map[string]any{"target": map[string]any{"id": "nothing-like-it"}}), says: []string{"no disk meets"}},
		{name: "without a TPM that is there", long: true, seed: install(map[string]any{"security": map[string]any{"missing_tpm": true}}), says: []string{"missing_tpm", "the machine has a TPM"}},
		{name: "without both, asked for", long: true, seed: install(map[string]any{"security": map[string]any{"missing_tpm": true, "missing_secure_boot": true}}), says: []string{"leave nothing to trust"}},
		{name: "no Secure Boot", long: true, hardware: lab.Hardware{NoSecureBoot: true}, says: []string{"Secure Boot", "missing_secure_boot"}},
		{name: "neither TPM nor Secure Boot", long: true, hardware: lab.Hardware{NoSecureBoot: true, NoTPM: true}, says: []string{"neither a TPM 2.0 nor Secure Boot"}},
		{name: "without Secure Boot that is on", long: true, seed: install(map[string]any{"security": map[string]any{"missing_secure_boot": true}}), says: []string{"missing_secure_boot", "Secure Boot is on"}},
		{name: "keys in the seed", long: true, seed: map[string]any{"security": map[string]any{"version": "1", "encryption_recovery_keys": []any{"a key of my own"}}}, says: []string{"encryption_recovery_keys"}},
		{name: "no application", long: true, seed: map[string]any{"applications": map[string]any{"version": "1", "applications": []any{}}}, says: []string{"at least one application"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.long {
				longOnly(t)
			}
			n := startMedium(t, c.hardware, c.seed)
			n.saysOnSerial(t, 0, installLimit, c.says...)
			expectEmptyDisk(t, n.disk())
		})
	}
}

// expectEmptyDisk fails if the disk got a partition table.
func expectEmptyDisk(t *testing.T, path string) {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	header := make([]byte, 8)
	if _, err := file.ReadAt(header, 512); err != nil {
		t.Fatal(err)
	}
	if string(header) == "EFI PART" {
		t.Error("the disk has a partition table: it was written to")
	}
}

// Who forgets the medium in the machine must not lose the node: it says so and installs nothing
// a second time, not even where the seed is told to, unless it names this very installation.
// With its name it does.
func TestInstall_MediumLeftIn_AsksForForceAndItsConfirmation(t *testing.T) {
	slow(t)
	longOnly(t)
	n := startMedium(t, lab.Hardware{MediumFirst: true}, nil)
	n.saysOnSerial(t, 0, installLimit, "already installed", "remove the medium")
	first := n.tableID(t)

	again := func(install map[string]any) int64 {
		t.Helper()
		if err := machines.cut(t.Context()); err != nil {
			t.Fatal(err)
		}
		install["force_reboot"] = true
		writeSeed(t, n.file("medium.raw"), map[string]any{"install": install, "applications": map[string]any{"applications": []any{map[string]any{"name": "incus"}}}})
		since := n.serialSize(t)
		n.powerOn(t)
		return since
	}
	since := again(map[string]any{"force_install": true})
	n.saysOnSerial(t, since, installLimit, "already holds this release", "force_install_confirmation to ")
	words, err := n.serialWords(since)
	if err != nil {
		t.Fatal(err)
	}
	asked := regexp.MustCompile(`force_install_confirmation\s+to\s+(\S+)`).FindStringSubmatch(words)
	if asked == nil {
		t.Fatalf("no value is named in:\n%s", words)
	}
	if now := n.tableID(t); now != first {
		t.Errorf("the refused installation has changed the table: %s, before %s", now, first)
	}
	since = again(map[string]any{"force_install": true, "force_install_confirmation": asked[1]})
	n.saysOnSerial(t, since, 2*installLimit, "installing release", "already holds this release")
	if n.tableID(t) == first {
		t.Error("the disk still has the table of the first installation")
	}
}

// tableID tells one installation on the machine's disk from another: the GUID that was made
// for its first partition.
func (n *node) tableID(t *testing.T) string {
	t.Helper()
	table, err := n.table()
	if err != nil || len(table.Partitions) == 0 {
		t.Fatalf("the table of the disk has %d partitions: %v", len(table.Partitions), err)
	}
	return table.Partitions[0].GUID
}

// writeSeed writes a seed onto a medium with the tools of everybody: tar makes the archive, and
// dd puts it where the documentation says.
func writeSeed(t *testing.T, medium string, documents map[string]any) {
	t.Helper()
	dir := t.TempDir()
	var names []string
	for name, document := range documents {
		text, err := yaml.Marshal(document)
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, name+".yaml")
		if err := os.WriteFile(filepath.Join(dir, name+".yaml"), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	archive := filepath.Join(dir, "seed.tar")
	for _, command := range []run.Command{
		{Name: "tar", Args: append([]string{"-C", dir, "-cf", archive}, names...)},
		{Name: "dd", Args: []string{"if=" + archive, "of=" + medium, "bs=1M", "seek=2148532224", "oflag=seek_bytes", "conv=notrunc", "status=none"}},
	} {
		if _, err := run.Host(ctx, command); err != nil {
			t.Fatal(err)
		}
	}
}

// A medium that was written with nothing but tar and dd, as people do it for IncusOS, installs
// the machine; and without force_reboot the machine waits until somebody has taken the medium
// out, though the system that says so came from it.
func TestInstall_SeedByTarAndDD_WaitsUntilTheMediumIsOut(t *testing.T) {
	slow(t)
	longOnly(t)
	cert, key, err := lab.NewClientCert(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(cert)
	medium := filepath.Join(t.TempDir(), "stick.img")
	if err := qemu.CopySparse(medium, filepath.Join(machines.build, layout.Name+"_"+machines.version+".raw")); err != nil {
		t.Fatal(err)
	}
	type object = map[string]any
	writeSeed(t, medium, object{
		"install":      nil, // as Operations Center writes it: install, with nothing else said
		"applications": object{"applications": []object{{"name": "incus"}}},
		"provider":     object{"name": "images", "config": object{"server_url": lab.ReleaseURL}},
		"incus": object{"apply_defaults": true, "preseed": object{
			"config":       object{"core.https_address": ":8443"},
			"certificates": []object{{"name": "lab", "type": "client", "certificate": base64.StdEncoding.EncodeToString(block.Bytes)}},
		}},
	})
	t.Cleanup(func() { removeClone(t, installName()) })
	restore(t, lab.Options{Name: installName(), Medium: medium, ClientCert: cert, ClientKey: key, Fresh: true, NoWait: true, NoSnapshot: true})
	n := watched(t, newNode(t, installName()))
	n.saysOnSerial(t, 0, installLimit, "installed: remove the medium")
	events := n.listen(t)
	control, err := n.control(t.Context(), "qmp.sock")
	if err != nil {
		t.Fatal(err)
	}
	defer control.Close()
	if err := control.Execute(t.Context(), "device_del", object{"id": "dev-medium"}, nil); err != nil {
		t.Fatal(err)
	}
	awaitReset(t, events, shortLimit)
	_ = events.Close() // they have one listener, and the next is the lab
	limited, cancel := context.WithTimeout(t.Context(), upLimit)
	defer cancel()
	if _, err := machines.lab.Up(limited, lab.Options{Name: n.name, BuildDir: machines.build, ReleaseDir: machines.tree, Progress: os.Stderr, NoSnapshot: true}); err != nil {
		t.Fatal(err)
	}
	n = newNode(t, installName())
	if state := n.security(t); !state.SystemStateIsTrusted {
		t.Errorf("the state is %q", state.SystemStateStatus)
	}
}

// A cloud boots the image as a disk of its own, grown to what was ordered, and gives the seed as
// user data for cloud-init.
func TestLive_QCOW2WithNoCloud_IsANode(t *testing.T) {
	slow(t)
	longOnly(t)
	ctx, cancel := context.WithTimeout(t.Context(), makeLimit)
	defer cancel()
	disk := filepath.Join(t.TempDir(), "disk.qcow2")
	if _, err := run.Host(ctx, run.Command{Name: filepath.Join(machines.root, "bin/holdfast"), Dir: machines.root,
		Args: []string{"image", "convert", filepath.Join(machines.build, layout.Name+"_"+machines.version+".raw"), disk}}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { removeClone(t, installName()) })
	restore(t, lab.Options{Name: installName(), Disk: disk, Hardware: lab.Hardware{Live: true, SeedStick: lab.NoCloud}, Fresh: true, NoSnapshot: true})
	n := watched(t, newNode(t, installName()))
	if state := n.security(t); !state.SystemStateIsTrusted || state.TPMStatus != "ok" {
		t.Errorf("the state is %q, the TPM %q", state.SystemStateStatus, state.TPMStatus)
	}
	provider, _, err := n.api.Provider(t.Context())
	if err != nil || provider.Config.Config["server_url"] != lab.ReleaseURL {
		t.Errorf("the provider of the user data is not in force: %+v, %v", provider.Config, err)
	}
}
