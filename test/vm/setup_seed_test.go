package vm

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"testing"
	"time"

	"github.com/holdfast-os/holdfast/internal/lab"
	"github.com/holdfast-os/holdfast/internal/layout"
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
				Name: installName(), Hardware: lab.Hardware{SeedStick: c.stick}, SealSeed: c.sealed, Fresh: true, NoSnapshot: true,
				// Of an application that is not installed, so that nothing else knows it.
				Seed: map[string]any{"operations-center": map[string]any{"preseed": map[string]any{"system_certificate": map[string]any{"key": seedSecret}}}},
			})
			n := watched(t, newNode(t, installName()))
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
		})
	}
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
