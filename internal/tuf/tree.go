package tuf

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/secure-systems-lab/go-securesystemslib/cjson"
	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// tree is the state of a tree as its timestamp names it, verified.
type tree struct {
	store Store
	// root is the newest; previous the one before, nil for none. After a rotation without
	// the old keys was cut, the rest is still signed for the previous one.
	root, previous *metadata.Metadata[metadata.RootType]
	timestamp      *metadata.Metadata[metadata.TimestampType]
	snapshot       *metadata.Metadata[metadata.SnapshotType]
	targets        *metadata.Metadata[metadata.TargetsType]
	channels       map[string]*metadata.Metadata[metadata.TargetsType]
	// renew says which documents have to be signed again, by role.
	renew map[string]bool
}

// load reads a tree and verifies all of it but its expiry. A file that somebody changed
// is an error: it must not get a new signature.
func load(store Store) (*tree, error) {
	t := &tree{store: store, channels: map[string]*metadata.Metadata[metadata.TargetsType]{}, renew: map[string]bool{}}
	if err := t.loadRoots(); err != nil {
		return nil, err
	}
	data, err := store.Read(timestampFile)
	if err != nil {
		return nil, fmt.Errorf("reading the timestamp (was the tree ever set up?): %w", err)
	}
	if t.timestamp, err = parse[metadata.TimestampType](data, maxTimestamp); err == nil {
		err = verifyTop(t, metadata.TIMESTAMP, t.timestamp)
	}
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", timestampFile, err)
	}
	if t.snapshot, err = loadNamed[metadata.SnapshotType](t, metadata.SNAPSHOT, t.timestamp.Signed.Meta, maxSnapshot); err != nil {
		return nil, err
	}
	if err := verifyTop(t, metadata.SNAPSHOT, t.snapshot); err != nil {
		return nil, fmt.Errorf("reading the snapshot: %w", err)
	}
	if t.targets, err = loadNamed[metadata.TargetsType](t, metadata.TARGETS, t.snapshot.Signed.Meta, maxTargets); err != nil {
		return nil, err
	}
	if err := verifyTop(t, metadata.TARGETS, t.targets); err != nil {
		return nil, fmt.Errorf("reading the targets: %w", err)
	}
	if t.targets.Signed.Delegations == nil {
		return nil, fmt.Errorf("reading the targets: %w: no channels", ErrMetadata)
	}
	for _, role := range t.targets.Signed.Delegations.Roles {
		channel, err := loadNamed[metadata.TargetsType](t, role.Name, t.snapshot.Signed.Meta, maxTargets)
		if err != nil {
			return nil, err
		}
		if err := t.targets.VerifyDelegate(role.Name, channel); err != nil {
			return nil, fmt.Errorf("reading channel %s: %w", role.Name, translate(err))
		}
		t.channels[role.Name] = channel
	}
	return t, nil
}

// maxRootVersion ends the search for the newest root.
const maxRootVersion = 10000

func (t *tree) loadRoots() error {
	for version := int64(1); version < maxRootVersion; version++ {
		name := metaFile(metadata.ROOT, version)
		data, err := t.store.Read(name)
		if missing(err) && version > 1 {
			return nil
		}
		if err != nil {
			return err
		}
		next, err := selfSigned(data)
		if err == nil && t.root != nil {
			err = translate(t.root.VerifyDelegate(metadata.ROOT, next))
		}
		if err == nil && next.Signed.Version != version {
			err = ErrVersion
		}
		if err != nil {
			return fmt.Errorf("reading %s: %w", name, err)
		}
		t.previous, t.root = t.root, next
	}
	return fmt.Errorf("%w: more than %d root documents", ErrLimit, maxRootVersion)
}

// verifyTop wants the signatures that the newest root asks for. Those that the one before
// asked for will do to go on, and then the document has to be signed again.
func verifyTop[T metadata.Roles](t *tree, role string, m *metadata.Metadata[T]) error {
	err := t.root.VerifyDelegate(role, m)
	if err == nil {
		return nil
	}
	if t.previous == nil || t.previous.VerifyDelegate(role, m) != nil {
		return translate(err)
	}
	t.renew[role] = true
	return nil
}

// loadNamed reads a document that another one names.
func loadNamed[T metadata.Roles](t *tree, role string, meta map[string]*metadata.MetaFiles, max int64) (*metadata.Metadata[T], error) {
	named, ok := meta[metaName(role)]
	if !ok {
		return nil, fmt.Errorf("reading %s: %w: nothing names it", role, ErrMetadata)
	}
	name := metaFile(role, named.Version)
	data, err := t.store.Read(name)
	if err != nil {
		return nil, err
	}
	if err := named.VerifyLengthHashes(data); err != nil {
		return nil, fmt.Errorf("reading %s: %w: bring back the file from a mirror", name, translate(err))
	}
	m, err := parse[T](data, max)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", name, err)
	}
	return m, nil
}

// file is a file to write.
type file struct {
	name string
	data []byte
}

// free is the next version of a role under whose name nothing lies. A cut publication
// may have left a file, and somebody may have fetched it.
func (t *tree) free(role string, current int64) (int64, error) {
	for version := current + 1; version < current+maxRootVersion; version++ {
		_, err := t.store.Read(metaFile(role, version))
		if missing(err) {
			return version, nil
		}
		if err != nil {
			return 0, err
		}
	}
	return 0, fmt.Errorf("%w: more than %d unused versions of %s lie in the tree", ErrLimit, maxRootVersion, role)
}

// sign signs a document anew with those of the given keys that are at hand, and gives
// its text. The caller checks thresholds.
func sign[T metadata.Roles](ctx context.Context, signers []Signer, ids []string, m *metadata.Metadata[T]) ([]byte, error) {
	payload, err := cjson.EncodeCanonical(m.Signed)
	if err != nil {
		return nil, fmt.Errorf("encoding: %w", err)
	}
	m.ClearSignatures()
	for _, signer := range signers {
		id, err := KeyID(signer.Public())
		if err != nil {
			return nil, err
		}
		done := slices.ContainsFunc(m.Signatures, func(s metadata.Signature) bool { return s.KeyID == id })
		if done || !slices.Contains(ids, id) {
			continue
		}
		signature, err := signer.Sign(ctx, payload)
		if err != nil {
			return nil, fmt.Errorf("signing with key %.16s: %w", id, err)
		}
		m.Signatures = append(m.Signatures, metadata.Signature{KeyID: id, Signature: signature})
	}
	data, err := m.ToBytes(false)
	if err != nil {
		return nil, fmt.Errorf("encoding: %w", err)
	}
	return append(data, '\n'), nil
}

// enough wants a document to have the signatures that its delegator asks for.
func enough[D, T metadata.Roles](delegator *metadata.Metadata[D], role string, m *metadata.Metadata[T]) error {
	if err := delegator.VerifyDelegate(role, m); err != nil {
		return fmt.Errorf("signing %s: %w: %w: bring more of its keys", role, ErrKeys, err)
	}
	return nil
}

// copyOf makes a deep copy.
func copyOf[T metadata.Roles](m *metadata.Metadata[T]) (*metadata.Metadata[T], error) {
	data, err := m.ToBytes(false)
	if err != nil {
		return nil, fmt.Errorf("copying metadata: %w", err)
	}
	return new(metadata.Metadata[T]).FromBytes(data)
}

// setRole gives a top-level role other keys; keys that no role has any more go.
func setRole(root *metadata.RootType, name string, role Role) error {
	keys, ids, err := role.keys(name)
	if err != nil {
		return err
	}
	for id, key := range keys {
		root.Keys[id] = key
	}
	root.Roles[name] = &metadata.Role{KeyIDs: ids, Threshold: role.Threshold}
	for id := range root.Keys {
		used := false
		for _, other := range root.Roles {
			used = used || slices.Contains(other.KeyIDs, id)
		}
		if !used {
			delete(root.Keys, id)
		}
	}
	return apart(root)
}

// apart wants the offline keys to be apart from those that lie on a publishing computer:
// one key for both would be an online key.
func apart(root *metadata.RootType) error {
	for _, offline := range []string{metadata.ROOT, metadata.TARGETS} {
		for _, online := range []string{metadata.SNAPSHOT, metadata.TIMESTAMP} {
			for _, id := range root.Roles[offline].KeyIDs {
				if slices.Contains(root.Roles[online].KeyIDs, id) {
					return fmt.Errorf("%w: key %.16s would sign both %s and %s: take separate ones", ErrKeys, id, offline, online)
				}
			}
		}
	}
	return nil
}

// setChannel gives a channel keys, and makes it when it is new.
func setChannel(targets *metadata.TargetsType, channel string, role Role) error {
	keys, ids, err := role.keys(channel)
	if err != nil {
		return err
	}
	d := targets.Delegations
	for id, key := range keys {
		d.Keys[id] = key
	}
	next := metadata.DelegatedRole{
		Name: channel, KeyIDs: ids, Threshold: role.Threshold, Terminating: true, Paths: []string{delegatedPath(channel)},
	}
	at := slices.IndexFunc(d.Roles, func(r metadata.DelegatedRole) bool { return r.Name == channel })
	if at < 0 {
		d.Roles = append(d.Roles, next)
	} else {
		d.Roles[at] = next
	}
	for id := range d.Keys {
		if !slices.ContainsFunc(d.Roles, func(r metadata.DelegatedRole) bool { return slices.Contains(r.KeyIDs, id) }) {
			delete(d.Keys, id)
		}
	}
	if len(d.Roles) > maxRoles {
		return fmt.Errorf("%w: more than %d channels", ErrLimit, maxRoles)
	}
	return nil
}

// delegation is what targets says about a channel.
func (t *tree) delegation(channel string) (metadata.DelegatedRole, error) {
	for _, role := range t.targets.Signed.Delegations.Roles {
		if role.Name == channel {
			return role, nil
		}
	}
	return metadata.DelegatedRole{}, fmt.Errorf("%w: the tree has no channel %q: add it first", ErrNoRelease, channel)
}

func ends(now time.Time, valid time.Duration) time.Time {
	return now.Add(valid).UTC().Truncate(time.Second)
}
