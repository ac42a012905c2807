package vm

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-os/holdfast/internal/lab"
	"github.com/holdfast-os/holdfast/internal/layout"
	"github.com/holdfast-os/holdfast/test/vm/observe"
)

// wipeLimit is how soon behind its first start a node has no secret of its seed left in plain.
const wipeLimit = 2 * time.Minute

// seedSecret is what the node is told in confidence.
const seedSecret = "a key that nobody else shall read"

// Wherever its owner puts the seed, and whether it is sealed or not, the machine ends as the
// same node; and what it was told in confidence does not stay where a thief would read it.
func TestSeed_StickAndSealed_MakeTheSameNodeAndLeaveNoSecret(t *testing.T) {
	slow(t)
	longOnly(t)
	for _, c := range []struct {
		name   string
		stick  string
		sealed bool
	}{
		{"on a FAT stick", lab.FAT, false},
		{"on a disc", lab.ISO, false},
		{"sealed, on the medium", "", true},
		{"sealed, on a FAT stick", lab.FAT, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Cleanup(func() { removeClone(t, installName()) })
			restore(t, lab.Options{
				Name: installName(), Hardware: lab.Hardware{SeedStick: c.stick}, SealSeed: c.sealed, Fresh: true, NoSnapshot: true, Seed: confidential(),
			})
			watched(t, newNode(t, installName())).expectSeeded(t)
		})
	}
}

// Who has sealed a seed to a passphrase, and has nothing but a keyboard in front of the machine,
// types it there: the installation does not need it, the first start asks, and a wrong one
// costs nothing.
func TestSeed_SealedToAPassphrase_IsTypedAtTheConsole(t *testing.T) {
	slow(t)
	longOnly(t)
	const passphrase = "correct horse battery staple"
	t.Cleanup(func() { removeClone(t, installName()) })
	restore(t, lab.Options{Name: installName(), SealSeed: true, Passphrase: passphrase, Fresh: true, NoWait: true, NoSnapshot: true, Seed: confidential()})
	n := watched(t, newNode(t, installName()))
	n.saysOnSerial(t, 0, 2*installLimit, "type the passphrase here")
	port := n.typeOnSerial(t)
	for _, line := range []struct{ typed, says string }{
		{"battery horse", "does not open it"},
		{passphrase, "trying what was typed"},
	} {
		since := n.serialSize(t)
		tries := 0
		until(t, bootLimit, "waiting for "+line.says+" on the serial console", func(context.Context) (bool, error) {
			// What goes wrong on the serial port is typed again, from the beginning of a line.
			if tries++; tries%10 == 1 {
				if _, err := io.WriteString(port, "\x15"+line.typed+"\r"); err != nil {
					return false, err
				}
			}
			words, err := n.serialWords(since)
			return observe.Says(words, line.says), err
		})
	}
	ctx, cancel := context.WithTimeout(t.Context(), upLimit)
	defer cancel()
	if _, err := machines.lab.Up(ctx, lab.Options{Name: installName(), BuildDir: machines.build, ReleaseDir: machines.tree, Progress: os.Stderr, NoSnapshot: true}); err != nil {
		t.Fatal(err)
	}
	if words, err := n.serialWords(0); err != nil || strings.Contains(words, "horse") {
		t.Errorf("what was typed shows on the serial console (%v)", err)
	}
	newNode(t, installName()).expectSeeded(t)
}

// confidential is a secret of an application that is not installed, so that nothing else knows
// it.
func confidential() map[string]any {
	return map[string]any{"operations-center": map[string]any{"preseed": map[string]any{"system_certificate": map[string]any{"key": seedSecret}}}}
}

// expectSeeded fails unless the node is what its seed says, and the seed on its disk has no
// secrets any more.
func (n *node) expectSeeded(t *testing.T) {
	t.Helper()
	provider, _, err := n.api.Provider(t.Context())
	if err != nil || provider.Config.Config["server_url"] != lab.ReleaseURL {
		t.Errorf("the provider of the seed is not in force: %+v, %v", provider.Config, err)
	}
	if state := n.security(t); !state.SystemStateIsTrusted {
		t.Errorf("the state is %q", state.SystemStateStatus)
	}
	// What is no secret stays, in plain, also where it was sealed.
	until(t, wipeLimit, "waiting until the seed on the disk has no secrets any more", func(context.Context) (bool, error) {
		seed, err := n.seedPartition()
		switch {
		case err != nil:
			return false, err
		case bytes.Contains(seed, []byte(seedSecret)):
			return false, errors.New("the secret is still there")
		case !bytes.Contains(seed, []byte(lab.ReleaseURL)):
			return false, errors.New("the rest of it is not there, or still sealed")
		}
		return true, nil
	})
}

// seedPartition reads the place of the seed on the disk of a machine that was not cloned.
func (n *node) seedPartition() (_ []byte, err error) {
	disk, err := os.Open(n.disk())
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, disk.Close()) }()
	seed := make([]byte, layout.Size(layout.Seed))
	if _, err := disk.ReadAt(seed, layout.SeedOffset()); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return seed, nil
}
