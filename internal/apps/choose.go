package apps

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

// ErrNoVersion is a version that cannot be switched to.
var ErrNoVersion = errors.New("no such version to switch to")

// FindVersion gives the version that a switch would lead to; empty asks for the newest that
// is older than the present one. ErrUnknown, ErrNotInstalled, ErrNoVersion.
func (m *Manager) FindVersion(name, version string) (string, error) {
	state, err := m.installed(name)
	if err != nil {
		return "", err
	}
	versions, err := m.onDisk(name)
	if err != nil {
		return "", err
	}
	present := state[name].Version
	switch {
	case version != "" && !slices.Contains(versions, version):
		return "", fmt.Errorf("%w: %s %.80q is not on this node, which has %v", ErrNoVersion, name, version, versions)
	case version != "":
		return version, nil
	case len(versions) < 2:
		return "", fmt.Errorf("%w: this node has one version of %s only", ErrNoVersion, name)
	}
	i, _ := slices.BinarySearch(versions, present)
	if i == 0 {
		return "", fmt.Errorf("%w: this node has no version of %s before %s", ErrNoVersion, name, present)
	}
	return versions[i-1], nil
}

// SwitchVersion makes a version on disk the active one, or goes back when it does not
// start. A newer one that is left so is not taken again by itself. Its errors are those of
// FindVersion, and those of starting it.
func (m *Manager) SwitchVersion(ctx context.Context, name, version string) error {
	m.changing.Lock()
	defer m.changing.Unlock()
	version, err := m.FindVersion(name, version)
	if err != nil {
		return err
	}
	state, err := m.load()
	if err != nil {
		return err
	}
	record := state[name]
	if version == record.Version {
		return nil
	}
	if err := m.switchTo(ctx, name, record, version); err != nil {
		return err
	}
	if state, err = m.load(); err != nil {
		return err
	}
	now := state[name]
	if older(now.Version, record.Version) {
		now.Failed = record.Version
		return m.record(name, now)
	}
	return nil
}
