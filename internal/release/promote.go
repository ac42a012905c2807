package release

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/holdfast-os/holdfast/api/release"
)

// TreeOptions name a tree that is there already.
type TreeOptions struct {
	// Tree is the tree's directory.
	Tree string
	// Signer is needed.
	Signer Signer
	// Metadata is told what changes; default nobody is.
	Metadata Metadata

	cut func(step string) error
}

var (
	// ErrNoRelease means that the tree does not have the release.
	ErrNoRelease = errors.New("the tree does not have this release")
	// ErrChannel means that the release is not in the channel.
	ErrChannel = errors.New("the release is not in this channel")
)

// Promote brings a release of the tree into one more channel, with a changelog against the
// one before it there. In the channel already: nothing changes.
func Promote(ctx context.Context, o TreeOptions, version, channel string) (release.Update, error) {
	update, err := o.with(version, func(t *tree, update release.Update) (release.Update, error) {
		if err := checkChannel(channel); err != nil {
			return update, err
		}
		update.Channels = union(update.Channels, []string{channel})
		update, err := t.revise(ctx, update, "")
		if err != nil {
			return update, err
		}
		return update, t.finish(ctx)
	})
	if err != nil {
		return release.Update{}, fmt.Errorf("promoting %s to %s: %w", version, channel, err)
	}
	return update, nil
}

// Demote takes a release out of a channel, together with its changelog there. A release in
// no channel stays in the tree and the index until it is pruned. ErrChannel when it is not
// in the channel.
func Demote(ctx context.Context, o TreeOptions, version, channel string) (release.Update, error) {
	update, err := o.with(version, func(t *tree, update release.Update) (release.Update, error) {
		if !slices.Contains(update.Channels, channel) {
			return update, fmt.Errorf("%w (it is in: %s)", ErrChannel, strings.Join(update.Channels, ", "))
		}
		// First the metadata: a cut behind it leaves a release that can be demoted again.
		if err := t.withdraw(ctx, channel, version); err != nil {
			return update, err
		}
		update.Channels = slices.DeleteFunc(slices.Clone(update.Channels), func(c string) bool { return c == channel })
		var gone []string
		update.Files = slices.DeleteFunc(slices.Clone(update.Files), func(f release.File) bool {
			if f.Type != release.TypeChangelog || f.Filename != changelogFile(f.Architecture, channel) {
				return false
			}
			gone = append(gone, f.Filename)
			return true
		})
		update, err := t.revise(ctx, update, channel)
		if err != nil {
			return update, err
		}
		if err := t.finish(ctx); err != nil {
			return update, err
		}
		for _, name := range gone {
			if err := os.Remove(t.path(version, name)); ignore(err, os.ErrNotExist) != nil {
				return update, fmt.Errorf("removing the changelog: %w", err)
			}
		}
		return update, nil
	})
	if err != nil {
		return release.Update{}, fmt.Errorf("demoting %s from %s: %w", version, channel, err)
	}
	return update, nil
}

// SetSeverity changes how urgent a release is.
func SetSeverity(ctx context.Context, o TreeOptions, version string, severity release.Severity) (release.Update, error) {
	update, err := o.with(version, func(t *tree, update release.Update) (release.Update, error) {
		if !severity.Valid() {
			return update, fmt.Errorf("severity %q: known are none, low, medium, high, critical", severity)
		}
		update.Severity = severity
		update, err := t.revise(ctx, update, "")
		if err != nil {
			return update, err
		}
		return update, t.finish(ctx)
	})
	if err != nil {
		return release.Update{}, fmt.Errorf("setting the severity of %s: %w", version, err)
	}
	return update, nil
}

// open locks a tree that must be there.
func (o TreeOptions) open() (*tree, error) {
	if o.Signer == nil {
		return nil, errors.New("a signer is needed: nodes refuse a tree that is not signed")
	}
	if _, err := os.Stat(o.Tree); err != nil {
		return nil, fmt.Errorf("opening the tree: %w", err)
	}
	t, err := openTree(o.Tree, o.Signer)
	if err != nil {
		return nil, err
	}
	t.metadata, t.cut = o.Metadata, o.cut
	return t, nil
}

// with does something to one release of the tree.
func (o TreeOptions) with(version string, do func(*tree, release.Update) (release.Update, error)) (release.Update, error) {
	if !versionForm.MatchString(version) {
		return release.Update{}, fmt.Errorf("version %q is not 12 digits", version)
	}
	t, err := o.open()
	if err != nil {
		return release.Update{}, err
	}
	update, err := t.readUpdate(version)
	if errors.Is(err, os.ErrNotExist) {
		return release.Update{}, errors.Join(fmt.Errorf("%w: %s", ErrNoRelease, o.Tree), t.close())
	}
	if err == nil {
		update, err = do(t, update)
	}
	return update, errors.Join(err, t.close())
}

// revise brings the documents of a release up to date after what is said about it has
// changed: in every architecture, without new files of a build.
func (t *tree) revise(ctx context.Context, update release.Update, leaves string) (out release.Update, err error) {
	stage, err := os.MkdirTemp(t.dir, staging)
	if err != nil {
		return update, fmt.Errorf("making a place for the documents: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(stage)) }()
	arches := archesOf(update)
	for _, arch := range arches {
		d := describer{tree: t, stage: stage, arch: arch, leaves: leaves}
		if update, err = d.describe(ctx, update, nil); err != nil {
			return update, err
		}
	}
	return update, t.moveInto(ctx, update, stage, arches...)
}

// withdraw takes a release out of a channel's metadata.
func (t *tree) withdraw(ctx context.Context, channel, version string) error {
	if t.metadata == nil {
		return nil
	}
	if err := t.step("withdrawal from " + channel); err != nil {
		return err
	}
	if err := t.metadata.Withdraw(ctx, channel, version); err != nil {
		return fmt.Errorf("withdrawing from the metadata of the channel %s: %w", channel, err)
	}
	return nil
}
