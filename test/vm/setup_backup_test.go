package vm

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	osapi "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/client"
	"github.com/holdfast-os/holdfast/internal/lab"
	"github.com/holdfast-os/holdfast/internal/system/run"
)

// A node is lost, and what is left of it are two encrypted files. Another machine becomes it:
// what was told the node and what Incus knew is there, the recovery keys that are in the safe
// open the other disk, and the pool of the other machine stays its own.
func TestBackup_OnAnotherMachine_IsTheNodeAgain(t *testing.T) {
	slow(t)
	longOnly(t)
	kept := []string{"pcspkr"}
	lost := fresh(t)
	if err := lost.api.SetSection(t.Context(), client.SectionKernel, osapi.KernelConfig{BlacklistModules: kept}, client.ChangeOptions{}); err != nil {
		t.Fatal(err)
	}
	stockClient(t, lost).run(t, time.Minute, "profile", "create", "node:kept")
	before, err := lost.api.Security(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	passphrase, system, application := filepath.Join(dir, "passphrase"), filepath.Join(dir, "system.backup"), filepath.Join(dir, "incus.backup")
	if err := os.WriteFile(passphrase, []byte("nine words that nobody would ever think of here\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	lost.holdfast(t, "system", "backup", system, "--passphrase-file", passphrase)
	lost.holdfast(t, "application", "backup", "incus", application, "--passphrase-file", passphrase)
	serverCert := readFile(t, lost.file("server.crt"))

	// A clone that was reset is another machine: its keys, its pool and its Incus are new.
	n := clone(t, baseName+"-other", lab.Hardware{Hwaddr: "52:54:00:99:00:02"})
	n.powerOn(t)
	until(t, bootLimit, "waiting for the other machine", n.ready)
	events := n.listen(t)
	if err := n.api.FactoryReset(t.Context(), osapi.FactoryResetPost{}); err != nil {
		t.Fatal(err)
	}
	awaitReset(t, events, bootLimit)
	_ = events.Close() // they have one listener, and the next is the lab
	n = n.meetAgain(t)
	other, err := n.api.Security(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if slices.Equal(other.Config.EncryptionRecoveryKeys, before.Config.EncryptionRecoveryKeys) {
		t.Fatal("the other machine has the recovery keys of the lost one before anything is restored")
	}

	n.holdfast(t, "application", "restore", "incus", application, "--passphrase-file", passphrase, "--force")
	// Incus is the lost one now, with its certificate.
	if err := os.WriteFile(n.file("server.crt"), serverCert, 0o600); err != nil {
		t.Fatal(err)
	}
	n = newNode(t, n.name)
	until(t, bootLimit, "waiting for Incus with the data of the lost node", n.ready)
	events = n.listen(t)
	n.holdfast(t, "system", "restore", system, "--passphrase-file", passphrase, "--skip", "local-data-encryption-key,network-macs", "--force")
	awaitReset(t, events, bootLimit)
	until(t, bootLimit, "waiting for the restored node", n.ready)

	kernel, _, err := n.api.Kernel(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(kept, kernel.Config.BlacklistModules); diff != "" {
		t.Errorf("what the lost node was told (-want +got):\n%s", diff)
	}
	c := stockClient(t, n)
	c.run(t, time.Minute, "profile", "show", "node:kept")
	c.run(t, time.Minute, "storage", "volume", "create", "node:local", "written") // the pool works
	after, err := n.api.Security(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before.Config.EncryptionRecoveryKeys, after.Config.EncryptionRecoveryKeys); diff != "" {
		t.Errorf("the recovery keys are not those of the lost node: %d and %d", len(before.Config.EncryptionRecoveryKeys), len(after.Config.EncryptionRecoveryKeys))
	}
	if !after.State.SystemStateIsTrusted || after.State.TPMStatus != "ok" {
		t.Errorf("the state is %q, the TPM %q", after.State.SystemStateStatus, after.State.TPMStatus)
	}
	if err := machines.cut(t.Context()); err != nil {
		t.Fatal(err)
	}
	n.newTPM(t) // so that the disk asks for a key
	n.openByKey(t, before.Config.EncryptionRecoveryKeys[0])
}

// holdfast runs `holdfast node` for a node.
func (n *node) holdfast(t *testing.T, args ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), bootLimit)
	defer cancel()
	command := run.Command{Name: filepath.Join(machines.root, "bin/holdfast"), Dir: machines.root, Args: append(append([]string{"node"}, args...), "--lab", n.name)}
	if _, err := run.Host(ctx, command); err != nil {
		t.Fatal(err)
	}
}

// meetAgain waits until a machine that has become a new node is ready, and takes its new
// certificate for its own.
func (n *node) meetAgain(t *testing.T) *node {
	t.Helper()
	for _, met := range []string{"server.crt", "env"} {
		if err := os.Remove(n.file(met)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
	}
	limited, cancel := context.WithTimeout(t.Context(), upLimit)
	defer cancel()
	if _, err := machines.lab.Up(limited, lab.Options{Name: n.name, BuildDir: machines.build, ReleaseDir: machines.tree, Progress: os.Stderr, NoSnapshot: true}); err != nil {
		t.Fatal(err)
	}
	return newNode(t, n.name)
}
