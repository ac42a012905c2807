package tuf

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// edit is what a change of a tree signs anew; the commit sets versions and ends.
type edit struct {
	// first are files that the new metadata name.
	first []file
	root  *metadata.Metadata[metadata.RootType]
	// targets and channels are copies with the new content; nil and absent: as they are.
	targets  *metadata.Metadata[metadata.TargetsType]
	channels map[string]*metadata.Metadata[metadata.TargetsType]
	// snapshot and timestamp ask for new signatures though nothing below has changed.
	snapshot, timestamp bool
}

// begin is an edit with what has to be signed again in any case.
func (t *tree) begin() (*edit, error) {
	e := &edit{channels: map[string]*metadata.Metadata[metadata.TargetsType]{}}
	e.snapshot, e.timestamp = t.renew[metadata.SNAPSHOT], t.renew[metadata.TIMESTAMP]
	if t.renew[metadata.TARGETS] {
		return e, e.editTargets(t)
	}
	return e, nil
}

func (e *edit) editTargets(t *tree) (err error) {
	if e.targets == nil {
		e.targets, err = copyOf(t.targets)
	}
	return err
}

func (e *edit) editChannel(t *tree, name string) (*metadata.Metadata[metadata.TargetsType], error) {
	if e.channels[name] == nil {
		channel, err := copyOf(t.channels[name])
		if err != nil {
			return nil, err
		}
		e.channels[name] = channel
	}
	return e.channels[name], nil
}

func (e *edit) editRoot(t *tree) (err error) {
	if e.root == nil {
		e.root, err = copyOf(t.root)
	}
	return err
}

// draft is an edit on its way to the disk.
type draft struct {
	p     *Publisher
	t     *tree
	e     *edit
	now   time.Time
	root  *metadata.Metadata[metadata.RootType]
	files []file
	// both says that the root of before vouches for the new documents too.
	both bool
}

// commit signs an edit and then writes it. Nothing is written when a signature is
// missing. The order makes a cut harmless: what the timestamp names, the timestamp, and
// a new root last, since the documents carry the signatures of old and new keys. Where
// the old keys are gone that cannot be; then root stands before the timestamp, nodes wait
// for it, and doing the change again after a cut completes it.
func (p *Publisher) commit(ctx context.Context, t *tree, e *edit) error {
	d := &draft{p: p, t: t, e: e, now: p.now(), root: t.root, both: true}
	if e.root != nil {
		d.root = e.root
	}
	rootText, err := d.signRoot(ctx)
	if err != nil {
		return err
	}
	timestamp, err := d.signRest(ctx)
	if err != nil {
		return err
	}
	var last []file
	if timestamp != nil {
		last = append(last, file{timestampFile, timestamp})
	}
	if rootText != nil {
		root := file{metaFile(metadata.ROOT, d.root.Signed.Version), rootText}
		// A new tree has no root before: then nothing is valid until the timestamp is there.
		if d.both && d.t.root.Signed.Version > 0 {
			last = append(last, root)
		} else {
			last = append([]file{root}, last...)
		}
	}
	for _, f := range slices.Concat(e.first, d.files, last) {
		if err := p.Store.Write(f.name, f.data); err != nil {
			return err
		}
	}
	return nil
}

func (d *draft) signRoot(ctx context.Context) ([]byte, error) {
	if d.e.root == nil {
		return nil, nil
	}
	d.root.Signed.Version = d.t.root.Signed.Version + 1
	d.root.Signed.Expires = ends(d.now, d.p.Validity.root())
	data, err := sign(ctx, d.p.Signers, d.ids(metadata.ROOT), d.root)
	if err != nil {
		return nil, fmt.Errorf("signing root: %w", err)
	}
	return data, cmp.Or(enough(d.t.root, metadata.ROOT, d.root), enough(d.root, metadata.ROOT, d.root))
}

// ids are the keys that may sign a top-level role, before or after the edit.
func (d *draft) ids(role string) []string {
	return slices.Concat(d.root.Signed.Roles[role].KeyIDs, d.t.root.Signed.Roles[role].KeyIDs)
}

// signRest signs channels, targets, snapshot and timestamp as far as they change, and
// gives the timestamp's text; nil when nothing changes.
func (d *draft) signRest(ctx context.Context) ([]byte, error) {
	targets, err := d.signTargets(ctx)
	if err != nil {
		return nil, err
	}
	if err := d.signChannels(ctx, targets); err != nil {
		return nil, err
	}
	snapshot, err := d.signSnapshot(ctx)
	if err != nil {
		return nil, err
	}
	if snapshot == nil && !d.e.timestamp {
		return nil, nil
	}
	timestamp, err := copyOf(d.t.timestamp)
	if err != nil {
		return nil, err
	}
	if snapshot != nil {
		timestamp.Signed.Meta = map[string]*metadata.MetaFiles{metaName(metadata.SNAPSHOT): snapshot}
	}
	timestamp.Signed.Version++
	timestamp.Signed.Expires = ends(d.now, d.p.Validity.timestamp())
	timestamp.Signed.UnrecognizedFields = map[string]any{issuedField: stamp(d.now)}
	return signTop(ctx, d, metadata.TIMESTAMP, timestamp)
}

// signTop signs a top-level role with the keys of before and after.
func signTop[T metadata.Roles](ctx context.Context, d *draft, role string, m *metadata.Metadata[T]) ([]byte, error) {
	data, err := sign(ctx, d.p.Signers, d.ids(role), m)
	if err != nil {
		return nil, fmt.Errorf("signing %s: %w", role, err)
	}
	d.both = d.both && d.t.root.VerifyDelegate(role, m) == nil
	return data, enough(d.root, role, m)
}

func (d *draft) signTargets(ctx context.Context) (*metadata.Metadata[metadata.TargetsType], error) {
	targets := d.e.targets
	if targets == nil {
		return d.t.targets, nil
	}
	version, err := d.t.free(metadata.TARGETS, d.t.targets.Signed.Version)
	if err != nil {
		return nil, err
	}
	targets.Signed.Version, targets.Signed.Expires = version, ends(d.now, d.p.Validity.targets())
	data, err := signTop(ctx, d, metadata.TARGETS, targets)
	d.files = append(d.files, file{metaFile(metadata.TARGETS, version), data})
	return targets, err
}

func (d *draft) signChannels(ctx context.Context, targets *metadata.Metadata[metadata.TargetsType]) error {
	for _, name := range slices.Sorted(maps.Keys(d.e.channels)) {
		channel := d.e.channels[name]
		version, err := d.t.free(name, channel.Signed.Version)
		if err != nil {
			return err
		}
		channel.Signed.Version, channel.Signed.Expires = version, ends(d.now, d.p.Validity.channel())
		var ids []string
		for _, role := range targets.Signed.Delegations.Roles {
			if role.Name == name {
				ids = role.KeyIDs
			}
		}
		data, err := sign(ctx, d.p.Signers, ids, channel)
		if err != nil {
			return fmt.Errorf("signing channel %s: %w", name, err)
		}
		if err := enough(targets, name, channel); err != nil {
			return err
		}
		d.files = append(d.files, file{metaFile(name, version), data})
	}
	return nil
}

// signSnapshot gives what the timestamp says of the new snapshot; nil for none.
func (d *draft) signSnapshot(ctx context.Context) (*metadata.MetaFiles, error) {
	if len(d.files) == 0 && !d.e.snapshot {
		return nil, nil
	}
	snapshot, err := copyOf(d.t.snapshot)
	if err != nil {
		return nil, err
	}
	texts := map[string][]byte{}
	for _, f := range d.files {
		texts[f.name] = f.data
	}
	if d.e.targets != nil {
		version := d.e.targets.Signed.Version
		snapshot.Signed.Meta[metaName(metadata.TARGETS)] = described(version, texts[metaFile(metadata.TARGETS, version)])
	}
	for name, channel := range d.e.channels {
		version := channel.Signed.Version
		snapshot.Signed.Meta[metaName(name)] = described(version, texts[metaFile(name, version)])
	}
	version, err := d.t.free(metadata.SNAPSHOT, d.t.snapshot.Signed.Version)
	if err != nil {
		return nil, err
	}
	snapshot.Signed.Version, snapshot.Signed.Expires = version, ends(d.now, d.p.Validity.snapshot())
	data, err := signTop(ctx, d, metadata.SNAPSHOT, snapshot)
	d.files = append(d.files, file{metaFile(metadata.SNAPSHOT, version), data})
	return described(version, data), err
}
