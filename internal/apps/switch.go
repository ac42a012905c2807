package apps

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
)

// CheckUpdate updates one application to the newest release, also to one that did not
// work before, and says whether it changed. ErrUnknown, ErrNotInstalled, ErrOlder.
func (m *Manager) CheckUpdate(ctx context.Context, name string) (bool, error) {
	m.changing.Lock()
	defer m.changing.Unlock()
	return m.update(ctx, name, true)
}

// CheckUpdates updates every application and gives the names of those that changed, also
// when others failed. A release that did not work before is skipped.
func (m *Manager) CheckUpdates(ctx context.Context) ([]string, error) {
	m.changing.Lock()
	defer m.changing.Unlock()
	state, err := m.load()
	if err != nil {
		return nil, err
	}
	names := slices.Collect(maps.Keys(state))
	startOrder(m.Catalogue, names)
	updated := []string{}
	var failed []error
	for _, name := range names {
		changed, err := m.update(ctx, name, false)
		if changed {
			updated = append(updated, name)
		}
		failed = append(failed, err)
	}
	return updated, errors.Join(failed...)
}

func (m *Manager) update(ctx context.Context, name string, retry bool) (bool, error) {
	state, err := m.installed(name)
	if err != nil {
		return false, err
	}
	record := state[name]
	release, err := m.latest(ctx, name, record.Version)
	if err != nil {
		return false, err
	}
	versions, err := m.onDisk(name)
	if err != nil {
		return false, err
	}
	needed, err := check(record, release.Version, slices.Contains(versions, record.Version), retry)
	if err != nil || !needed {
		return false, wrap(name, err)
	}
	if err := m.obtain(ctx, name, release); err != nil {
		return false, err
	}
	if m.runsAs(ctx, name, record, release.Version) {
		return true, m.adopt(name, record, release.Version)
	}
	if err := m.switchTo(ctx, name, record, release.Version); err != nil {
		return false, err
	}
	return true, m.initialize(ctx, name)
}

// runsAs tells whether what runs has the content of another version: most releases of the OS
// bring the same application once more, and nobody should notice that. What cannot be told is
// no.
func (m *Manager) runsAs(ctx context.Context, name string, record Record, version string) bool {
	if record.Next != "" || !record.Initialized || m.returning[name] {
		return false
	}
	if unit := m.Catalogue[name].Service; unit != "" {
		if active, err := m.Units.IsActive(ctx, unit); err != nil || !active {
			return false
		}
	}
	same, err := m.Extensions.Same(m.image(name, record.Version), m.image(name, version))
	if err != nil {
		m.Log.Info("an application is restarted, since its images could not be compared", "application", name, "error", err)
	}
	return err == nil && same
}

// adopt makes a version the active one without a restart: its content runs. The next start
// merges its image.
func (m *Manager) adopt(name string, record Record, version string) error {
	record.Next, record.NextTried = version, false
	if err := m.record(name, record); err != nil {
		return err
	}
	if err := m.Extensions.Link(name, m.image(name, version)); err != nil {
		return err
	}
	return m.settle(name, record)
}

// switchTo makes a version on disk the active one, or goes back to the one before.
func (m *Manager) switchTo(ctx context.Context, name string, record Record, version string) error {
	if version == record.Version {
		return m.activate(ctx, name, record, version, m.restart)
	}
	record.Next, record.NextTried = version, false
	if err := m.record(name, record); err != nil {
		return err
	}
	if err := m.activate(ctx, name, record, version, m.restart); err != nil {
		return m.goBack(ctx, name, record, err)
	}
	return m.settle(name, record)
}

// settle records that Next works, and drops what is older than the version before it.
func (m *Manager) settle(name string, record Record) error {
	record.Previous, record.Version = record.Version, record.Next
	record.Next, record.NextTried, record.Failed = "", false, ""
	if err := m.record(name, record); err != nil {
		return err
	}
	return wrap(name, m.prune(name, kept(record)))
}

// goBack returns to Version after Next did not work, and gives the whole story.
func (m *Manager) goBack(ctx context.Context, name string, record Record, cause error) error {
	failed := record.Next
	record.Failed, record.Next, record.NextTried = failed, "", false
	cause = fmt.Errorf("switching %s from %s to %s: %w", name, record.Version, failed, cause)
	if err := m.activate(ctx, name, record, record.Version, m.restart); err != nil {
		cause = errors.Join(cause, fmt.Errorf("going back to %s %s: %w", name, record.Version, err))
	}
	return errors.Join(cause, m.record(name, record), m.prune(name, kept(record)))
}

// activate links, merges and starts one version, and waits until it answers. Once begun
// it goes on when the caller leaves, so that a lost connection does not stop it halfway.
func (m *Manager) activate(ctx context.Context, name string, record Record, version string, start func(context.Context, string) error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), switchTimeout)
	defer cancel()
	if err := m.Extensions.Link(name, m.image(name, version)); err != nil {
		return err
	}
	if err := m.Extensions.Refresh(ctx); err != nil {
		return err
	}
	if _, err := m.writeDefaults(name, record.Config); err != nil {
		return err
	}
	return start(ctx, name)
}

// Merge links the version that each application should have in this boot and merges all
// of them. It comes before StartAll. An application without an image is left out; the
// others are merged, and the error names it.
func (m *Manager) Merge(ctx context.Context) error {
	m.changing.Lock()
	defer m.changing.Unlock()
	state, err := m.load()
	if err != nil {
		return err
	}
	missing, err := m.linkAll(state)
	if err != nil {
		return err
	}
	if err := m.Extensions.Refresh(ctx); err != nil {
		return errors.Join(missing, m.mergeWithoutNext(ctx, state, err))
	}
	return missing
}

// linkAll decides and links every application. The state is saved before a link changes.
// The first error is about applications without an image, the second about the rest.
func (m *Manager) linkAll(state State) (missing, err error) {
	var without []error
	before, chosen := maps.Clone(state), map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(state)) {
		versions, err := m.onDisk(name)
		if err != nil {
			return nil, err
		}
		followed, returning := follow(state[name], m.OS, versions)
		if returning {
			if m.returning == nil {
				m.returning = map[string]bool{}
			}
			m.returning[name] = true
		}
		chosen[name], state[name] = atBoot(followed, versions)
	}
	if !maps.Equal(before, state) {
		if err := m.Store.Save(state); err != nil {
			return nil, fmt.Errorf("recording the versions of this boot: %w", err)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(chosen)) {
		if chosen[name] == "" {
			without = append(without, fmt.Errorf("application %s has no image on disk; the next update check fetches it", name), m.Extensions.Unlink(name))
			continue
		}
		if err := m.Extensions.Link(name, m.image(name, chosen[name])); err != nil {
			return nil, err
		}
	}
	return errors.Join(without...), nil
}

// mergeWithoutNext takes back unfinished switches after a merge failed, and merges again.
func (m *Manager) mergeWithoutNext(ctx context.Context, state State, cause error) error {
	again := false
	for name, record := range state {
		if record.Next != "" {
			m.tellReturn(name, record, cause)
			record.Failed, record.Next, record.NextTried = record.Next, "", false
			state[name], again = record, true
		}
	}
	if !again {
		return cause
	}
	if err := m.Store.Save(state); err != nil {
		return errors.Join(cause, fmt.Errorf("recording the versions of this boot: %w", err))
	}
	missing, err := m.linkAll(state)
	if err != nil {
		return errors.Join(cause, err)
	}
	m.Log.Warn("merging with the versions before the unfinished switch", "error", cause)
	return errors.Join(missing, m.Extensions.Refresh(ctx))
}

// StartAll starts every merged application, initializes those that are not, and finishes
// or takes back a switch that a power cut interrupted. All are tried; errors are joined.
func (m *Manager) StartAll(ctx context.Context) error {
	m.changing.Lock()
	defer m.changing.Unlock()
	state, err := m.load()
	if err != nil {
		return err
	}
	names := slices.Collect(maps.Keys(state))
	startOrder(m.Catalogue, names)
	var failed []error
	for _, name := range names {
		failed = append(failed, m.startAtBoot(ctx, name, state[name]))
	}
	return errors.Join(failed...)
}

func (m *Manager) startAtBoot(ctx context.Context, name string, record Record) error {
	if _, err := m.writeDefaults(name, record.Config); err != nil {
		return err
	}
	err := m.start(ctx, name)
	switch {
	case err != nil && ctx.Err() != nil:
		return err
	case record.Next != "" && err != nil:
		m.tellReturn(name, record, err)
		return m.goBack(ctx, name, record, err)
	case err != nil:
		return err
	case record.Next != "":
		if err := m.settle(name, record); err != nil {
			return err
		}
		m.tellReturn(name, record, nil)
	default:
		if err := m.prune(name, kept(record)); err != nil {
			return wrap(name, err)
		}
	}
	return m.initialize(ctx, name)
}

// erase takes an application out of /usr, the disk and the state.
func (m *Manager) erase(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), switchTimeout)
	defer cancel()
	if err := errors.Join(m.Extensions.Unlink(name), m.Extensions.Refresh(ctx)); err != nil {
		return wrap(name, err)
	}
	state, err := m.load()
	if err != nil {
		return err
	}
	delete(state, name)
	if err := m.Store.Save(state); err != nil {
		return fmt.Errorf("recording the removal of %s: %w", name, err)
	}
	return wrap(name, m.prune(name, nil))
}

// initialize applies the seed once.
func (m *Manager) initialize(ctx context.Context, name string) error {
	state, err := m.load()
	if err != nil {
		return err
	}
	record := state[name]
	if record.Initialized {
		return nil
	}
	if program, ok := m.Programs[name]; ok {
		if err := program.Initialize(ctx); err != nil {
			return fmt.Errorf("%s runs, but its seed could not be applied; the next start tries again: %w", name, err)
		}
	}
	record.Initialized = true
	return m.record(name, record)
}

// wrap names the application in an error, and keeps nil.
func wrap(name string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("application %s: %w", name, err)
}
