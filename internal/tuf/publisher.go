package tuf

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/holdfast-os/holdfast/api/release"
)

// Publisher changes a tree. Only one may work on a store at a time (OpenDir sees to it).
type Publisher struct {
	// Store is the tree's folder "tuf".
	Store Store
	// Signers are the keys that are at hand; each signs what its role lets it sign.
	Signers []Signer
	// Now is the clock; default the system's.
	Now func() time.Time
	// Validity says how long signatures hold.
	Validity Validity
}

// Validity says how long documents hold from their signing. Zero is the default.
type Validity struct {
	// Root and Targets default to 365 days: their keys are offline, and people have to
	// meet to use them. They only say who may sign, so an old one is no old release.
	Root, Targets time.Duration
	// Channel defaults to 90 days: it is signed with each release, and a quiet quarter
	// must not stop anybody.
	Channel time.Duration
	// Snapshot defaults to 30 days: its key is online.
	Snapshot time.Duration
	// Timestamp defaults to 14 days: that is how long a mirror can hold a node back
	// unnoticed, and how old a copy on a USB stick may be.
	Timestamp time.Duration
}

const day = 24 * time.Hour

func orDefault(d, otherwise time.Duration) time.Duration {
	if d <= 0 {
		return otherwise
	}
	return d
}

func (v Validity) root() time.Duration      { return orDefault(v.Root, 365*day) }
func (v Validity) targets() time.Duration   { return orDefault(v.Targets, 365*day) }
func (v Validity) channel() time.Duration   { return orDefault(v.Channel, 90*day) }
func (v Validity) snapshot() time.Duration  { return orDefault(v.Snapshot, 30*day) }
func (v Validity) timestamp() time.Duration { return orDefault(v.Timestamp, 14*day) }

func (p *Publisher) now() time.Time {
	if p.Now == nil {
		return time.Now().UTC().Truncate(time.Second)
	}
	return p.Now().UTC().Truncate(time.Second)
}

// Roles say who signs what in a new tree.
type Roles struct {
	Root, Targets, Snapshot, Timestamp Role
	// Channels are the first channels; more come with AddChannel.
	Channels map[string]Role
}

// Init makes a new tree without releases. All its keys have to be at hand, up to the
// thresholds. Keys of root and targets must not sign snapshot or timestamp. ErrExists
// says that there is a tree; the rest of an Init that was cut is none.
func (p *Publisher) Init(ctx context.Context, roles Roles) error {
	if _, err := p.Store.Read(timestampFile); !missing(err) {
		if err == nil {
			err = ErrExists
		}
		return fmt.Errorf("making the metadata: %w", err)
	}
	t, e, err := blank(roles)
	if err == nil {
		t.store = p.Store
		err = p.commit(ctx, t, e)
	}
	if err != nil {
		return fmt.Errorf("making the metadata: %w", err)
	}
	return nil
}

// blank is the state before version 1 of everything, and the edit that leads to it.
func blank(roles Roles) (*tree, *edit, error) {
	root, targets := metadata.Root(time.Time{}), metadata.Targets(time.Time{})
	top := []struct {
		name string
		role Role
	}{{metadata.ROOT, roles.Root}, {metadata.TARGETS, roles.Targets}, {metadata.SNAPSHOT, roles.Snapshot}, {metadata.TIMESTAMP, roles.Timestamp}}
	for _, one := range top {
		if err := setRole(&root.Signed, one.name, one.role); err != nil {
			return nil, nil, err
		}
	}
	targets.Signed.Delegations = &metadata.Delegations{Keys: map[string]*metadata.Key{}, Roles: []metadata.DelegatedRole{}}
	t := &tree{root: root, channels: map[string]*metadata.Metadata[metadata.TargetsType]{}}
	t.snapshot, t.timestamp = metadata.Snapshot(time.Time{}), metadata.Timestamp(time.Time{})
	e := &edit{targets: targets, channels: map[string]*metadata.Metadata[metadata.TargetsType]{}}
	for _, name := range slices.Sorted(maps.Keys(roles.Channels)) {
		if err := addChannel(targets, e, name, roles.Channels[name]); err != nil {
			return nil, nil, err
		}
	}
	var err error
	if e.root, err = copyOf(root); err != nil {
		return nil, nil, err
	}
	t.root.Signed.Version, t.snapshot.Signed.Version, t.timestamp.Signed.Version = 0, 0, 0
	t.targets = metadata.Targets(time.Time{})
	t.targets.Signed.Version = 0
	return t, e, nil
}

func addChannel(targets *metadata.Metadata[metadata.TargetsType], e *edit, name string, role Role) error {
	if err := CheckChannel(name); err != nil {
		return err
	}
	if err := setChannel(&targets.Signed, name, role); err != nil {
		return err
	}
	channel := metadata.Targets(time.Time{})
	channel.Signed.Version = 0
	e.channels[name] = channel
	return nil
}

// AddChannel makes a channel without releases; it needs the keys of targets, of the
// channel, snapshot and timestamp. One that is there with the same keys stays.
func (p *Publisher) AddChannel(ctx context.Context, name string, role Role) error {
	err := p.change(ctx, func(t *tree, e *edit) error {
		if t.channels[name] != nil {
			same, err := sameChannel(t, name, role)
			if err == nil && !same {
				err = fmt.Errorf("%w: it has other keys: rotate them", ErrExists)
			}
			return err
		}
		if err := e.editTargets(t); err != nil {
			return err
		}
		return addChannel(e.targets, e, name, role)
	})
	if err != nil {
		return fmt.Errorf("adding channel %q: %w", name, err)
	}
	return nil
}

// change loads the tree, lets edit say what changes, and commits it.
func (p *Publisher) change(ctx context.Context, edit func(*tree, *edit) error) error {
	t, err := load(p.Store)
	if err != nil {
		return err
	}
	e, err := t.begin()
	if err != nil {
		return err
	}
	if err := edit(t, e); err != nil {
		return err
	}
	return p.commit(ctx, t, e)
}

// Publish brings releases into a channel. What is there already changes no byte. A
// manifest may change afterwards (severity, deltas, documents), its parts may not:
// ErrPublished, in whichever channel they are. It needs the keys of the channel, of
// snapshot and timestamp.
func (p *Publisher) Publish(ctx context.Context, channel string, manifests ...release.Manifest) error {
	err := p.change(ctx, func(t *tree, e *edit) error {
		if _, err := t.delegation(channel); err != nil {
			return err
		}
		for _, manifest := range manifests {
			if err := p.add(t, e, channel, manifest); err != nil {
				return fmt.Errorf("release %.16q: %w", manifest.Version, err)
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("publishing in channel %q: %w", channel, err)
	}
	return nil
}

func (p *Publisher) add(t *tree, e *edit, channel string, manifest release.Manifest) error {
	if err := CheckManifest(manifest); err != nil {
		return err
	}
	// Nodes take the time of their release for proven; see the decision on trusted time.
	built, err := time.Parse("200601021504", manifest.Version)
	if err != nil || built.After(p.now().Add(day)) {
		return fmt.Errorf("%w: the version is no time of today or before: look at the clock of the build", ErrManifest)
	}
	data, err := encodeManifest(manifest)
	if err != nil {
		return err
	}
	for name := range t.channels {
		if err := t.unchanged(name, manifest); err != nil {
			return err
		}
	}
	path := targetPath(channel, manifest.Architecture, manifest.Version)
	sum := sha256.Sum256(data)
	f := file{targetFile(channel, manifest.Architecture, manifest.Version, sum[:]), data}
	if old, err := p.Store.Read(f.name); err == nil && bytes.Equal(old, data) {
		f.data = nil
	} else if err != nil && !missing(err) {
		return err
	}
	if f.data != nil {
		e.first = append(e.first, f)
	}
	file := &metadata.TargetFiles{Length: int64(len(data)), Hashes: metadata.Hashes{"sha256": sum[:]}, Path: path}
	if old := t.channels[channel].Signed.Targets[path]; old != nil && old.Equal(*file) {
		return nil
	}
	role, err := e.editChannel(t, channel)
	if err != nil {
		return err
	}
	role.Signed.Targets[path] = file
	if len(role.Signed.Targets) > maxReleases {
		return fmt.Errorf("%w: a channel lists at most %d releases: withdraw old ones", ErrLimit, maxReleases)
	}
	return nil
}

func encodeManifest(manifest release.Manifest) ([]byte, error) {
	data, err := json.Marshal(manifest)
	if err != nil {
		return nil, fmt.Errorf("encoding the manifest: %w", err)
	}
	if len(data) >= maxManifest {
		return nil, fmt.Errorf("%w: the manifest has %d bytes, at most %d", ErrLimit, len(data), maxManifest)
	}
	return append(data, '\n'), nil
}

// unchanged wants a release that a channel has to keep its parts.
func (t *tree) unchanged(channel string, manifest release.Manifest) error {
	old := t.channels[channel].Signed.Targets[targetPath(channel, manifest.Architecture, manifest.Version)]
	if old == nil {
		return nil
	}
	before, err := t.manifest(channel, manifest.Architecture, manifest.Version, old)
	if err != nil {
		return err
	}
	if !slices.Equal(identity(before), identity(manifest)) {
		return fmt.Errorf("%w, in channel %s", ErrPublished, channel)
	}
	return nil
}

// identity is what must not change in a release.
func identity(m release.Manifest) []string {
	lines := []string{}
	for _, part := range m.Parts {
		lines = append(lines, fmt.Sprintf("%s %s %s %d %s", part.Name, part.Component, part.Type, part.Size, part.SHA256))
	}
	slices.Sort(lines)
	return lines
}

// manifest reads one of the tree's manifests.
func (t *tree) manifest(channel, arch, version string, named *metadata.TargetFiles) (release.Manifest, error) {
	name := targetFile(channel, arch, version, named.Hashes["sha256"])
	data, err := t.store.Read(name)
	if err != nil {
		return release.Manifest{}, err
	}
	if err := named.VerifyLengthHashes(data); err != nil {
		return release.Manifest{}, fmt.Errorf("reading %s: %w", name, translate(err))
	}
	manifest, err := parseManifest(data, arch, version)
	if err != nil {
		return release.Manifest{}, fmt.Errorf("reading %s: %w", name, err)
	}
	return manifest, nil
}

// Withdraw takes a release out of a channel, for every architecture. Nodes that run it
// stay on it; its files remain. ErrNoRelease says that the channel does not have it.
func (p *Publisher) Withdraw(ctx context.Context, channel, version string) error {
	err := p.change(ctx, func(t *tree, e *edit) error {
		if _, err := t.delegation(channel); err != nil {
			return err
		}
		for path := range t.channels[channel].Signed.Targets {
			if strings.HasSuffix(path, "/"+version+".json") {
				role, err := e.editChannel(t, channel)
				if err != nil {
					return err
				}
				delete(role.Signed.Targets, path)
			}
		}
		if e.channels[channel] == nil {
			return ErrNoRelease
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("withdrawing release %.16q from channel %q: %w", version, channel, err)
	}
	return nil
}

// Manifests gives the releases of a channel, newest first, verified. Promotion is
// publishing some of them in another channel.
func (p *Publisher) Manifests(channel string) ([]release.Manifest, error) {
	t, err := load(p.Store)
	if err == nil {
		_, err = t.delegation(channel)
	}
	if err != nil {
		return nil, fmt.Errorf("listing channel %q: %w", channel, err)
	}
	found := []release.Manifest{}
	for path, named := range t.channels[channel].Signed.Targets {
		inChannel, arch, version, ok := splitTarget(path)
		if !ok || inChannel != channel {
			return nil, fmt.Errorf("listing channel %q: %w: it lists %.80q", channel, ErrMetadata, path)
		}
		manifest, err := t.manifest(channel, arch, version, named)
		if err != nil {
			return nil, fmt.Errorf("listing channel %q: %w", channel, err)
		}
		found = append(found, manifest)
	}
	slices.SortFunc(found, func(a, b release.Manifest) int {
		return strings.Compare(b.Version+b.Architecture, a.Version+a.Architecture)
	})
	return found, nil
}
