package tuf

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// Rotate gives a role other keys: root, targets, snapshot, timestamp, or a channel. For a
// top-level role it needs root's keys, for root the old and the new ones; for a channel
// those of targets; and in any case the new keys, snapshot's and timestamp's. The role's
// old keys are used too when they are at hand, which spares nodes a gap between two
// writes. Keys that are there already change nothing.
func (p *Publisher) Rotate(ctx context.Context, name string, role Role) error {
	err := p.change(ctx, func(t *tree, e *edit) error {
		if !slices.Contains(topRoles, name) {
			return rotateChannel(t, e, name, role)
		}
		_, ids, err := role.keys(name)
		if err != nil {
			return err
		}
		if old := t.root.Signed.Roles[name]; old.Threshold == role.Threshold && slices.Equal(slices.Sorted(slices.Values(old.KeyIDs)), ids) {
			return nil
		}
		if err := e.editRoot(t); err != nil {
			return err
		}
		if err := setRole(&e.root.Signed, name, role); err != nil {
			return err
		}
		switch name {
		case metadata.TARGETS:
			return e.editTargets(t)
		case metadata.SNAPSHOT:
			e.snapshot = true
		case metadata.TIMESTAMP:
			e.timestamp = true
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("rotating the keys of %q: %w", name, err)
	}
	return nil
}

func rotateChannel(t *tree, e *edit, name string, role Role) error {
	if same, err := sameChannel(t, name, role); err != nil || same {
		return err
	}
	if err := e.editTargets(t); err != nil {
		return err
	}
	if _, err := e.editChannel(t, name); err != nil {
		return err
	}
	return setChannel(&e.targets.Signed, name, role)
}

func sameChannel(t *tree, name string, role Role) (bool, error) {
	old, err := t.delegation(name)
	if err != nil {
		return false, err
	}
	_, ids, err := role.keys(name)
	if err != nil {
		return false, err
	}
	return old.Threshold == role.Threshold && slices.Equal(slices.Sorted(slices.Values(old.KeyIDs)), ids), nil
}

// Due is a document that should be signed again, and whose keys are not at hand.
type Due struct {
	// Role is "root", "targets", "snapshot", "timestamp" or a channel.
	Role string
	// Expires is its end.
	Expires time.Time
}

// Refresh signs again what has used up half of its time, as far as its keys are at hand,
// and the timestamp when it is older than a day. It gives what is due and could not be
// signed. Run it daily; when nothing is due it changes no byte.
func (p *Publisher) Refresh(ctx context.Context) ([]Due, error) {
	var due []Due
	err := p.change(ctx, func(t *tree, e *edit) error {
		now := p.now()
		half := func(role string, ids []string, threshold int, ends time.Time, valid time.Duration) bool {
			if now.Before(ends.Add(-valid / 2)) {
				return false
			}
			if p.atHand(ids) < threshold {
				due = append(due, Due{Role: role, Expires: ends})
				return false
			}
			return true
		}
		top := t.root.Signed.Roles
		root, targets := top[metadata.ROOT], top[metadata.TARGETS]
		if half(metadata.ROOT, root.KeyIDs, root.Threshold, t.root.Signed.Expires, p.Validity.root()) {
			if err := e.editRoot(t); err != nil {
				return err
			}
		}
		if half(metadata.TARGETS, targets.KeyIDs, targets.Threshold, t.targets.Signed.Expires, p.Validity.targets()) {
			if err := e.editTargets(t); err != nil {
				return err
			}
		}
		for _, channel := range t.targets.Signed.Delegations.Roles {
			if half(channel.Name, channel.KeyIDs, channel.Threshold, t.channels[channel.Name].Signed.Expires, p.Validity.channel()) {
				if _, err := e.editChannel(t, channel.Name); err != nil {
					return err
				}
			}
		}
		snapshot := top[metadata.SNAPSHOT]
		if half(metadata.SNAPSHOT, snapshot.KeyIDs, snapshot.Threshold, t.snapshot.Signed.Expires, p.Validity.snapshot()) {
			e.snapshot = true
		}
		if !now.Before(t.timestamp.Signed.Expires.Add(day - p.Validity.timestamp())) {
			e.timestamp = true
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("renewing the metadata: %w", err)
	}
	return due, nil
}

// atHand counts the keys of ids that can sign.
func (p *Publisher) atHand(ids []string) int {
	found := map[string]bool{}
	for _, signer := range p.Signers {
		if id, err := KeyID(signer.Public()); err == nil && slices.Contains(ids, id) {
			found[id] = true
		}
	}
	return len(found)
}

// Check reads and verifies a whole tree, with every manifest, as people run it before
// they hand a copy on. It says when the first document of those that nodes need ends.
func (p *Publisher) Check() (time.Time, error) {
	t, err := load(p.Store)
	if err != nil {
		return time.Time{}, fmt.Errorf("checking the metadata: %w", err)
	}
	ends := []time.Time{t.root.Signed.Expires, t.targets.Signed.Expires, t.snapshot.Signed.Expires, t.timestamp.Signed.Expires}
	for name, channel := range t.channels {
		ends = append(ends, channel.Signed.Expires)
		if _, err := p.Manifests(name); err != nil {
			return time.Time{}, fmt.Errorf("checking the metadata: %w", err)
		}
	}
	return slices.MinFunc(ends, time.Time.Compare).UTC(), nil
}
