package vm

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	wire "github.com/holdfast-os/holdfast/api/release"
	"github.com/holdfast-os/holdfast/internal/lab"
	"github.com/holdfast-os/holdfast/internal/layout"
	"github.com/holdfast-os/holdfast/test/vm/forge"
)

// recoveryName is the clone; its second disk stands for the stick.
func recoveryName() string { return baseName + "-recovery" }

const (
	stickGiB = 2
	// badRelease is what the other slot once held: it has used up its tries.
	badRelease = "202001010000"
)

// Both releases of a node are bad, and nobody can reach it: it says so, with what it knows of
// each, and a stick with the signed release of the build is all that it takes to have it back,
// with its data. No way back is left out: the slot that ran is repaired in its place.
func TestRecovery_BothSlotsBad_TakesARescueMedium(t *testing.T) {
	slow(t)
	longOnly(t)
	t.Cleanup(func() { removeClone(t, recoveryName()) })
	// The test variant is the one whose disk is a plain file.
	makeClone(t, lab.Options{Name: recoveryName(), Variant: lab.VariantTest, Hardware: lab.Hardware{DiskGiB: []int{lab.DefaultDiskGiB, stickGiB}}})
	n := watched(t, newNode(t, recoveryName()))
	n.putKernel(t, releaseKernel())
	n.spoilSlots(t)

	n.expectRecovery(t, "holdfast-usr.service", machines.version+" (this start; it has proved itself before)", badRelease+" (no tries left, 3 done)")
	if err := machines.cut(t.Context()); err != nil {
		t.Fatal(err)
	}

	makeRescueMedium(t, n.file("disk1.raw"), filepath.Join(machines.tree, machines.version))
	since := n.serialSize(t)
	n.powerOn(t)
	n.saysOnSerial(t, since, bootLimit, "Found the medium", "Release "+machines.version+" is written")
	until(t, bootLimit, "waiting for the node after the rescue", n.ready)
	if state := n.security(t); !state.SystemStateIsTrusted {
		t.Errorf("the state is %q", state.SystemStateStatus)
	}
	n.powerOn(t)
	until(t, bootLimit, "waiting for the start after it, with the medium still in", n.ready)
}

// A node that no server of releases can reach is updated by a medium that somebody puts in: a
// newer release is taken at the start, without a question, and what runs afterwards is it.
func TestRecovery_MediumWithANewerRelease_UpdatesTheNode(t *testing.T) {
	slow(t)
	longOnly(t)
	next := newTree(t).begin(t, "")
	t.Cleanup(func() { removeClone(t, recoveryName()) })
	makeClone(t, lab.Options{Name: recoveryName(), Hardware: lab.Hardware{DiskGiB: []int{lab.DefaultDiskGiB, stickGiB}}})
	n := watched(t, newNode(t, recoveryName()))
	makeRescueMedium(t, n.file("disk1.raw"), next.unpublished(t))
	since := n.serialSize(t)
	n.powerOn(t)
	n.saysOnSerial(t, since, bootLimit, "updating to release "+next.version+" from the rescue medium")
	until(t, 2*bootLimit, "waiting for release "+next.version, func(ctx context.Context) (bool, error) {
		n.api.Close() // connections of before the restart
		server, err := n.api.Server(ctx)
		return err == nil && server.Environment.OSVersion == next.version && server.Environment.SystemIsReady, err
	})
	if state := n.security(t); !state.SystemStateIsTrusted {
		t.Errorf("the state is %q", state.SystemStateStatus)
	}
	n.expectSlots(t, map[string]bool{machines.version: false, next.version: true})
}

// spoilSlots makes both releases of a stopped machine bad: in slot A one byte is another, and
// slot B is labelled as an older release of which nothing is there.
func (n *node) spoilSlots(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := forge.FlipByte(n.disk(), layout.Start(layout.UsrA)); err != nil {
		t.Fatal(err)
	}
	for number, label := range map[int]string{layout.SigB: "_verity_sig", layout.VerityB: "_verity", layout.UsrB: ""} {
		if _, err := machines.run(ctx, "sfdisk", "--no-reread", "--no-tell-kernel", "--part-label", n.disk(), strconv.Itoa(number), layout.Name+"_"+badRelease+label); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := machines.run(ctx, "mcopy", "-i", n.disk()+"@@1048576", releaseKernel(), "::EFI/Linux/"+layout.Name+"_"+badRelease+"+0-3.efi"); err != nil {
		t.Fatal(err)
	}
}

// makeRescueMedium makes a FAT file system with a release, whose folder in a release tree is
// given, on a disk's file, as the documentation says it.
func makeRescueMedium(t *testing.T, disk, release string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	raw, err := os.ReadFile(filepath.Join(release, "update.json"))
	if err != nil {
		t.Fatal(err)
	}
	var update wire.Update
	if err := json.Unmarshal(raw, &update); err != nil {
		t.Fatal(err)
	}
	commands := [][]string{
		{"mformat", "-i", disk, "-F", "-v", "RESCUE_DATA", "::"},
		{"mmd", "-i", disk, "::update", "::update/x86_64"},
		{"mcopy", "-i", disk, filepath.Join(release, "update.sjson"), "::update/"},
	}
	for _, file := range update.Files {
		wanted := []wire.Type{wire.TypeUpdateEFI, wire.TypeUpdateUsr, wire.TypeUpdateUsrVerity, wire.TypeUpdateUsrSignature}
		if slices.Contains(wanted, file.Type) {
			commands = append(commands, []string{"mcopy", "-i", disk, filepath.Join(release, file.Filename), "::update/x86_64/"})
		}
	}
	for _, command := range commands {
		if _, err := machines.run(ctx, command[0], command[1:]...); err != nil {
			t.Fatal(err)
		}
	}
}
