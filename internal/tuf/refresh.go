package tuf

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
	"github.com/theupdateframework/go-tuf/v2/metadata/trustedmetadata"
)

// candidate is a timestamp that a mirror gave and that passed its own checks.
type candidate struct {
	data []byte
	set  *trustedmetadata.TrustedMetadata
}

// refresh is the client workflow of TUF 1.0, section 5, over several mirrors.
func (c *Client) refresh(ctx context.Context, channels []string) (Status, error) {
	storedRoot, stored, damage := recall(c.store)
	var warnings []error
	if damage != nil {
		warnings = append(warnings, fmt.Errorf("reading the remembered metadata: %w", damage))
	}
	root, refused, err := c.followRoots(ctx, storedRoot.Root)
	if err != nil {
		return Status{}, fmt.Errorf("refreshing the metadata: %w", err)
	}
	warnings = append(warnings, refused...)
	if c.set != nil && c.set.Root.Signed.Version < root.Root.Signed.Version {
		c.set = nil // the new root may have revoked what it was signed with
	}
	before := verifyKnown(root.Root, stored)
	facts := c.facts(before)
	root.RefTime = facts.reference()
	if root.Root.Signed.IsExpired(root.RefTime) {
		return Status{}, fmt.Errorf("refreshing the metadata: root version %d: %w at %s, it is %s: the publisher must sign a new one",
			root.Root.Signed.Version, ErrExpired, stamp(root.Root.Signed.Expires), stamp(root.RefTime))
	}
	candidates, refused := c.timestamps(ctx, root, before)
	for _, one := range candidates {
		snapshot, more, err := c.complete(ctx, one.set, before)
		refused = append(refused, more...)
		for _, channel := range channels {
			if err == nil {
				if _, err = c.channel(ctx, one.set, channel); errors.Is(err, ErrNoRelease) {
					err = nil // the caller will meet it when it asks for a release
				}
			}
		}
		if err != nil {
			refused = append(refused, err)
			continue
		}
		next := remembered{Timestamp: one.data, Snapshot: snapshot, Seen: facts.seen}
		if facts.confirmed {
			next.Seen = later(facts.seen, facts.clock.UTC())
		}
		changed := before == nil || !bytes.Equal(before.Timestamp, one.data)
		if before == nil || !before.equal(next) {
			if err := c.store.Save(stateDocument, next); err != nil {
				return Status{}, fmt.Errorf("remembering the metadata: %w", err)
			}
		}
		c.set = one.set
		status := c.status(one.set, facts)
		status.Changed, status.Warnings = changed, append(warnings, refused...)
		return status, nil
	}
	return Status{}, fmt.Errorf("refreshing the metadata: %w", errors.Join(refused...))
}

// facts gathers what is known about the time; before may be nil.
func (c *Client) facts(before *known) evidence {
	now, confirmed := c.options.Clock()
	facts := evidence{clock: now, confirmed: confirmed, built: c.options.Built}
	if before != nil {
		facts.issued, facts.seen = before.issued, before.Seen
	}
	return facts
}

func (c *Client) status(set *trustedmetadata.TrustedMetadata, facts evidence) Status {
	ends := []time.Time{
		set.Root.Signed.Expires, set.Timestamp.Signed.Expires, set.Snapshot.Signed.Expires, set.Targets[metadata.TARGETS].Signed.Expires,
	}
	first := slices.MinFunc(ends, time.Time.Compare).UTC()
	return Status{
		Root: set.Root.Signed.Version, Timestamp: set.Timestamp.Signed.Version, Snapshot: set.Snapshot.Signed.Version,
		Targets: set.Targets[metadata.TARGETS].Signed.Version, Expires: first, Reference: set.RefTime,
		ClockConfirmed: facts.confirmed, Stale: !facts.confirmed && facts.clock.After(first),
	}
}

// followRoots walks from the trusted root to the newest, one version at a time, and
// remembers where it got.
func (c *Client) followRoots(ctx context.Context, stored []byte) (*trustedmetadata.TrustedMetadata, []error, error) {
	data, _, err := newestRoot(c.options.Root, stored)
	if err != nil {
		return nil, nil, err
	}
	set, err := trustedmetadata.New(data)
	if err != nil {
		return nil, nil, fmt.Errorf("reading the trusted root document: %w", translate(err))
	}
	var warnings []error
	for range maxRotations {
		path := metaFile(metadata.ROOT, set.Root.Signed.Version+1)
		found, refused := c.each(ctx, path, maxRoot, func(next []byte) error {
			if _, err := parse[metadata.RootType](next, maxRoot); err != nil {
				return err
			}
			if _, err := set.UpdateRoot(next); err != nil {
				return translate(err)
			}
			data = next
			return nil
		})
		if !found {
			present := slices.DeleteFunc(slices.Clone(refused), missing)
			if len(present) == len(refused) {
				return nil, nil, errors.Join(refused...)
			}
			// One mirror says that there is none: then this is the newest that can be had.
			warnings = append(warnings, present...)
			break
		}
		warnings = append(warnings, slices.DeleteFunc(refused, missing)...)
	}
	if !bytes.Equal(data, stored) {
		if err := c.store.Save(rootDocument, rememberedRoot{Root: data}); err != nil {
			return nil, nil, fmt.Errorf("remembering root version %d: %w", set.Root.Signed.Version, err)
		}
	}
	return set, warnings, nil
}

// timestamps gives what the mirrors have and what may be believed, newest first.
func (c *Client) timestamps(ctx context.Context, root *trustedmetadata.TrustedMetadata, before *known) ([]candidate, []error) {
	var found []candidate
	var refused []error
	for mirror := range c.options.Mirrors {
		if err := ctx.Err(); err != nil {
			return nil, append(refused, err)
		}
		data, err := c.fetch(ctx, mirror, timestampFile, maxTimestamp)
		if err == nil && slices.ContainsFunc(found, func(one candidate) bool { return bytes.Equal(one.data, data) }) {
			continue
		}
		var one candidate
		if err == nil {
			if one, err = believe(root, before, data); err != nil {
				err = fmt.Errorf("checking %s of mirror %d: %w", folder+timestampFile, mirror+1, err)
			}
		}
		if err != nil {
			refused = append(refused, err)
			continue
		}
		found = append(found, one)
	}
	slices.SortStableFunc(found, func(a, b candidate) int {
		return cmp.Compare(b.set.Timestamp.Signed.Version, a.set.Timestamp.Signed.Version)
	})
	return found, refused
}

// believe checks a timestamp in a set of its own: go-tuf keeps one that it refuses as
// expired.
func believe(root *trustedmetadata.TrustedMetadata, before *known, data []byte) (candidate, error) {
	parsed, err := parse[metadata.TimestampType](data, maxTimestamp)
	if err != nil {
		return candidate{}, err
	}
	set := *root
	set.Targets = maps.Clone(root.Targets)
	if before != nil {
		set.Timestamp = before.timestamp
	}
	_, err = set.UpdateTimestamp(data)
	if errors.Is(err, &metadata.ErrEqualVersionNumber{}) {
		// go-tuf goes on with the one that is known, and looks at its end only later.
		if !bytes.Equal(data, before.Timestamp) {
			return candidate{}, fmt.Errorf("%w: version %d had another content", ErrVersion, parsed.Signed.Version)
		}
		err = nil
	}
	if err != nil {
		return candidate{}, fmt.Errorf("version %d, valid until %s: %w", parsed.Signed.Version, stamp(parsed.Signed.Expires), translate(err))
	}
	issued, err := issuedAt(&parsed.Signed)
	if err != nil {
		return candidate{}, fmt.Errorf("%w: %w", ErrMetadata, err)
	}
	// What was signed last was signed before now.
	set.RefTime = later(set.RefTime, issued)
	if set.Root.Signed.IsExpired(set.RefTime) {
		return candidate{}, fmt.Errorf("root version %d: %w at %s", set.Root.Signed.Version, ErrExpired, stamp(set.Root.Signed.Expires))
	}
	return candidate{data: data, set: &set}, nil
}

// complete brings the snapshot and the top-level targets that belong to a timestamp,
// and gives the snapshot's text.
func (c *Client) complete(ctx context.Context, set *trustedmetadata.TrustedMetadata, before *known) ([]byte, []error, error) {
	var text []byte
	named := set.Timestamp.Signed.Meta[metaName(metadata.SNAPSHOT)]
	accept := func(data []byte) error {
		trial := *set
		if before != nil {
			trial.Snapshot = before.snapshot
		}
		if err := acceptSnapshot(&trial, before, data); err != nil {
			return err
		}
		*set, text = trial, data
		return nil
	}
	var warnings []error
	if before == nil || named.VerifyLengthHashes(before.Snapshot) != nil || accept(before.Snapshot) != nil {
		found, refused := c.each(ctx, metaFile(metadata.SNAPSHOT, named.Version), named.Length, accept)
		if !found {
			return nil, nil, errors.Join(refused...)
		}
		warnings = append(warnings, refused...)
	}
	targets := set.Snapshot.Signed.Meta[metaName(metadata.TARGETS)]
	found, refused := c.each(ctx, metaFile(metadata.TARGETS, targets.Version), targets.Length, func(data []byte) error {
		return acceptTargets(set, metadata.TARGETS, metadata.ROOT, data)
	})
	if !found {
		return nil, nil, errors.Join(refused...)
	}
	return text, append(warnings, refused...), nil
}

// acceptSnapshot adds to go-tuf's checks that a version never stands for two contents.
func acceptSnapshot(set *trustedmetadata.TrustedMetadata, before *known, data []byte) error {
	next, err := parse[metadata.SnapshotType](data, maxSnapshot)
	if err != nil {
		return err
	}
	if _, err := set.UpdateSnapshot(data, false); err != nil {
		return translate(err)
	}
	if before == nil {
		return nil
	}
	if next.Signed.Version == before.snapshot.Signed.Version && !bytes.Equal(data, before.Snapshot) {
		return fmt.Errorf("%w: snapshot version %d had another content", ErrVersion, next.Signed.Version)
	}
	for name, old := range before.snapshot.Signed.Meta {
		if now := next.Signed.Meta[name]; now == nil || now.Version == old.Version && !now.Hashes.Equal(old.Hashes) {
			return fmt.Errorf("%w: %s version %d had another content", ErrVersion, name, old.Version)
		}
	}
	return nil
}

// acceptTargets checks the targets of a role against the set and puts them into it.
func acceptTargets(set *trustedmetadata.TrustedMetadata, role, delegator string, data []byte) error {
	if _, err := parse[metadata.TargetsType](data, maxTargets); err != nil {
		return err
	}
	_, err := set.UpdateDelegatedTargets(data, role, delegator)
	return translate(err)
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
