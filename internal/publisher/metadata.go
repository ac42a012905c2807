package publisher

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/holdfast-os/holdfast/api/release"
	"github.com/holdfast-os/holdfast/internal/tuf"
)

// Metadata is the trusted metadata of one tree: release.Metadata. It opens the tree for
// each change, so that nothing is locked in between.
type Metadata struct {
	// Tree is the folder of the release tree.
	Tree string
	// Keys are those that are at hand.
	Keys Keys
}

// Publish is part of release.Metadata. A channel that is new gets a key of its own where
// the key of targets is at hand.
func (m Metadata) Publish(ctx context.Context, channel string, manifests ...release.Manifest) error {
	return m.With(ctx, func(p *tuf.Publisher, signers map[string]tuf.Signer) error {
		if _, err := p.Manifests(channel); errors.Is(err, tuf.ErrNoRelease) {
			if err := m.addChannel(ctx, p, signers, channel); err != nil {
				return err
			}
		}
		return p.Publish(ctx, channel, manifests...)
	})
}

func (m Metadata) addChannel(ctx context.Context, p *tuf.Publisher, signers map[string]tuf.Signer, channel string) error {
	name := channelKey(channel)
	if signers[name] == nil {
		if signers["targets"] == nil {
			return fmt.Errorf("the channel %q is new: that takes the keys of targets and of the channel in %s", channel, m.Keys.Dir)
		}
		made, err := tuf.GenerateKeys(m.Keys.Dir, name)
		if err != nil {
			return err
		}
		signers[name] = made[0]
		p.Signers = append(p.Signers, made[0])
	}
	return p.AddChannel(ctx, channel, role(signers[name]))
}

// Withdraw is part of release.Metadata.
func (m Metadata) Withdraw(ctx context.Context, channel, version string) error {
	if _, err := os.Stat(filepath.Join(m.Tree, "tuf", "timestamp.json")); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	err := m.With(ctx, func(p *tuf.Publisher, _ map[string]tuf.Signer) error { return p.Withdraw(ctx, channel, version) })
	if errors.Is(err, tuf.ErrNoRelease) {
		return nil
	}
	return err
}

// Refresh signs anew what will end soon, and gives what it has no keys for.
func (m Metadata) Refresh(ctx context.Context) (due []tuf.Due, err error) {
	err = m.With(ctx, func(p *tuf.Publisher, _ map[string]tuf.Signer) error {
		due, err = p.Refresh(ctx)
		return err
	})
	return due, err
}

// Rotate gives a role the keys of the files, PEM or .pkcs11, instead of those of before. name is root,
// targets, snapshot, timestamp or a channel.
func (m Metadata) Rotate(ctx context.Context, name string, threshold int, files ...string) error {
	next := tuf.Role{Threshold: threshold}
	var signers []tuf.Signer
	for _, file := range files {
		signer, err := m.Keys.open(ctx, file)
		if err != nil {
			return err
		}
		signers, next.Keys = append(signers, signer), append(next.Keys, signer.Public())
	}
	return m.With(ctx, func(p *tuf.Publisher, _ map[string]tuf.Signer) error {
		p.Signers = append(p.Signers, signers...)
		return p.Rotate(ctx, name, next)
	})
}

// Check reads and verifies the whole of it, and says when the first document ends.
func (m Metadata) Check() (ends time.Time, err error) {
	dir, err := tuf.OpenDir(m.Tree)
	if err != nil {
		return time.Time{}, err
	}
	defer func() { err = errors.Join(err, dir.Close()) }()
	return (&tuf.Publisher{Store: dir}).Check()
}

// With opens the metadata for a change; those of a new tree are begun first.
func (m Metadata) With(ctx context.Context, change func(*tuf.Publisher, map[string]tuf.Signer) error) (err error) {
	signers, err := m.Keys.signers(ctx)
	if err != nil {
		return err
	}
	dir, err := tuf.OpenDir(m.Tree)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dir.Close()) }()
	p := &tuf.Publisher{Store: dir, Signers: all(signers)}
	if _, err := dir.Read("timestamp.json"); errors.Is(err, fs.ErrNotExist) {
		if err := m.Keys.begin(ctx, p, signers, nil); err != nil {
			return err
		}
	}
	return change(p, signers)
}
