package tuf

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
	"github.com/theupdateframework/go-tuf/v2/metadata/trustedmetadata"

	"github.com/holdfast-os/holdfast/api/release"
)

// Versions lists the releases of a channel for an architecture, newest first; never an
// empty list: ErrNoRelease says that there is none. It uses what the last Refresh
// accepted, and refreshes when there is none yet or it has expired since.
func (c *Client) Versions(ctx context.Context, channel, arch string) ([]string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	found, err := c.releases(ctx, channel, arch)
	if err != nil {
		return nil, fmt.Errorf("listing the releases of channel %q for %s: %w", channel, arch, err)
	}
	versions := []string{}
	for _, one := range found {
		versions = append(versions, one.version)
	}
	return versions, nil
}

// Newest gives the manifest of the highest version in a channel. It can be older than
// what runs, when a release was withdrawn: the caller compares.
func (c *Client) Newest(ctx context.Context, channel, arch string) (release.Manifest, error) {
	return c.Manifest(ctx, channel, arch, "")
}

// Manifest gives the manifest of one release in a channel; an empty version is the
// highest. ErrNoRelease says that the channel does not have it, or no longer.
func (c *Client) Manifest(ctx context.Context, channel, arch, version string) (release.Manifest, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	manifest, err := c.manifest(ctx, channel, arch, version)
	if err != nil {
		return release.Manifest{}, fmt.Errorf("reading release %s of channel %q for %s: %w", orNewest(version), channel, arch, err)
	}
	return manifest, nil
}

func orNewest(version string) string {
	if version == "" {
		return "newest"
	}
	return version
}

// listed is a release as a channel's role lists it.
type listed struct {
	version string
	file    *metadata.TargetFiles
}

func (c *Client) manifest(ctx context.Context, channel, arch, version string) (release.Manifest, error) {
	found, err := c.releases(ctx, channel, arch)
	if err != nil {
		return release.Manifest{}, err
	}
	at := 0
	if version != "" {
		at = slices.IndexFunc(found, func(one listed) bool { return one.version == version })
	}
	if at < 0 {
		return release.Manifest{}, ErrNoRelease
	}
	one := found[at]
	if one.file.Length > maxManifest {
		return release.Manifest{}, fmt.Errorf("%w: the manifest has %d bytes, at most %d", ErrLimit, one.file.Length, maxManifest)
	}
	// A version is a time. One from after the metadata's end would move the time that the
	// node takes for proven beyond all that the publisher can sign.
	if built, err := time.Parse("200601021504", one.version); err != nil || built.After(c.set.Timestamp.Signed.Expires) {
		return release.Manifest{}, fmt.Errorf("%w: version %s is no time before the end of the metadata", ErrManifest, one.version)
	}
	var manifest release.Manifest
	ok, refused := c.each(ctx, targetFile(channel, arch, one.version, one.file.Hashes["sha256"]), one.file.Length, func(data []byte) error {
		if err := one.file.VerifyLengthHashes(data); err != nil {
			return translate(err)
		}
		manifest, err = parseManifest(data, arch, one.version)
		return err
	})
	if !ok {
		return release.Manifest{}, errors.Join(refused...)
	}
	return manifest, nil
}

// releases gives what the role of a channel lists for an architecture, newest first.
func (c *Client) releases(ctx context.Context, channel, arch string) ([]listed, error) {
	if err := CheckChannel(channel); err != nil {
		return nil, err
	}
	if !slices.Contains(architectures, arch) {
		return nil, fmt.Errorf("architecture %q: known are %s", arch, strings.Join(architectures, ", "))
	}
	if err := c.ensure(ctx, channel); err != nil {
		return nil, err
	}
	c.set.RefTime = c.now()
	role, err := c.channel(ctx, c.set, channel)
	if err != nil {
		return nil, err
	}
	found := []listed{}
	for path, file := range role.Signed.Targets {
		inChannel, inArch, version, ok := splitTarget(path)
		// Paths of another channel are not this role's to list, whoever signed them.
		if ok && inChannel == channel && inArch == arch {
			found = append(found, listed{version: version, file: file})
		}
	}
	if len(found) == 0 {
		return nil, ErrNoRelease
	}
	slices.SortFunc(found, func(a, b listed) int { return strings.Compare(b.version, a.version) })
	return found, nil
}

// ensure refreshes when nothing was accepted yet, or it has expired since.
func (c *Client) ensure(ctx context.Context, channel string) error {
	if c.set != nil && !c.now().After(c.status(c.set, evidence{}).Expires) {
		return nil
	}
	_, err := c.refresh(ctx, []string{channel})
	return err
}

// channel gives the verified role of a channel. Roles below it are not looked at.
func (c *Client) channel(ctx context.Context, set *trustedmetadata.TrustedMetadata, channel string) (*metadata.Metadata[metadata.TargetsType], error) {
	if role, ok := set.Targets[channel]; ok && !role.Signed.IsExpired(set.RefTime) {
		return role, nil
	}
	if err := checkDelegation(set.Targets[metadata.TARGETS], channel); err != nil {
		return nil, err
	}
	named, ok := set.Snapshot.Signed.Meta[metaName(channel)]
	if !ok {
		return nil, fmt.Errorf("%w: the snapshot does not name the channel", ErrNoRelease)
	}
	found, refused := c.each(ctx, metaFile(channel, named.Version), named.Length, func(data []byte) error {
		return acceptTargets(set, channel, metadata.TARGETS, data)
	})
	if !found {
		return nil, errors.Join(refused...)
	}
	return set.Targets[channel], nil
}

// now is the clock when it is confirmed, else the time of the last refresh.
func (c *Client) now() time.Time {
	if now, confirmed := c.options.Clock(); confirmed {
		return later(c.set.RefTime, now).UTC()
	}
	return c.set.RefTime
}

// checkDelegation wants the channel's role to be the only one that may speak for it.
func checkDelegation(targets *metadata.Metadata[metadata.TargetsType], channel string) error {
	if targets.Signed.Delegations == nil {
		return fmt.Errorf("%w: the tree has no channel", ErrNoRelease)
	}
	for _, arch := range architectures {
		roles := targets.Signed.Delegations.GetRolesForTarget(targetPath(channel, arch, "000000000000"))
		if len(roles) == 0 {
			return fmt.Errorf("%w: the tree does not have the channel", ErrNoRelease)
		}
		if len(roles) != 1 || roles[0].Name != channel || !roles[0].Terminating {
			return fmt.Errorf("%w: other roles than its own may speak for the channel", ErrMetadata)
		}
	}
	return nil
}

// parseManifest reads a manifest and checks it.
func parseManifest(data []byte, arch, version string) (release.Manifest, error) {
	if len(data) > maxManifest {
		return release.Manifest{}, fmt.Errorf("%w of %d bytes", ErrLimit, maxManifest)
	}
	if err := checkText(data); err != nil {
		return release.Manifest{}, fmt.Errorf("%w: %w", ErrManifest, err)
	}
	var manifest release.Manifest
	if err := json.Unmarshal(data, &manifest); err != nil {
		return release.Manifest{}, fmt.Errorf("%w: %w", ErrManifest, err)
	}
	if manifest.Version != version || manifest.Architecture != arch {
		return release.Manifest{}, fmt.Errorf("%w: it is of release %.16q for %.16q", ErrManifest, manifest.Version, manifest.Architecture)
	}
	return manifest, CheckManifest(manifest)
}
