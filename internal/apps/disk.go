package apps

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	api "github.com/holdfast-os/holdfast/api/os"
)

const (
	// imagesDirectory holds one folder per release, under Root.
	imagesDirectory = "var/lib/incus-os-extensions"
	// defaultsFile is read by the units of Incus and LXCFS. They do not start without it.
	defaultsFile = "etc/default/incus"
)

func (m *Manager) image(name, version string) string {
	return filepath.Join(m.Root, imagesDirectory, version, name+".raw")
}

// onDisk lists the versions of an application whose image is on disk, oldest first.
func (m *Manager) onDisk(name string) ([]string, error) {
	folders, err := os.ReadDir(filepath.Join(m.Root, imagesDirectory))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("listing the images of %s: %w", name, err)
	}
	versions := []string{}
	for _, folder := range folders {
		if info, err := os.Lstat(m.image(name, folder.Name())); err == nil && info.Mode().IsRegular() {
			versions = append(versions, folder.Name())
		}
	}
	slices.Sort(versions)
	return versions, nil
}

// obtain brings a verified image on disk. What was refused or not finished is removed.
// An image that is there already is verified again and not fetched.
func (m *Manager) obtain(ctx context.Context, name string, release Release) error {
	image := m.image(name, release.Version)
	if _, err := os.Lstat(image); err == nil {
		if err := m.Extensions.Verify(ctx, image); err == nil {
			return nil
		}
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("verifying %s %s: %w", name, release.Version, err)
		}
		m.Log.Warn("image on disk is damaged and is fetched again", "application", name, "version", release.Version)
	}
	part := filepath.Join(filepath.Dir(image), "."+name+".part")
	if err := m.fetch(ctx, name, release, part, image); err != nil {
		return errors.Join(err, m.discard(part))
	}
	return nil
}

func (m *Manager) fetch(ctx context.Context, name string, release Release, part, image string) error {
	if err := m.discard(part); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(image), 0o700); err != nil {
		return fmt.Errorf("making the folder of %s %s: %w", name, release.Version, err)
	}
	var progress func(int)
	if m.Progress != nil {
		progress = func(percent int) { m.Progress(name, percent) }
	}
	if err := m.Provider.Fetch(ctx, release, name+".raw", part, progress); err != nil {
		return fmt.Errorf("fetching %s %s: %w", name, release.Version, err)
	}
	if err := m.Extensions.Verify(ctx, part); err != nil {
		return fmt.Errorf("verifying %s %s: %w", name, release.Version, err)
	}
	if err := os.Chmod(part, 0o600); err != nil {
		return fmt.Errorf("protecting the image of %s: %w", name, err)
	}
	if err := flush(part); err != nil {
		return err
	}
	if err := os.Rename(part, image); err != nil {
		return fmt.Errorf("naming the image of %s: %w", name, err)
	}
	return errors.Join(flush(filepath.Dir(image)), flush(filepath.Dir(filepath.Dir(image))))
}

// discard removes a file, what a provider had not finished of it, and their folder when
// that is empty then.
func (m *Manager) discard(file string) error {
	for _, name := range []string{file, file + ".part"} {
		if err := os.RemoveAll(name); err != nil {
			return fmt.Errorf("removing %s: %w", name, err)
		}
	}
	rest, err := os.ReadDir(filepath.Dir(file))
	if err != nil || len(rest) > 0 {
		return ignoreMissing(err)
	}
	return ignoreMissing(os.Remove(filepath.Dir(file)))
}

// prune removes the images of an application that its record does not keep, and
// downloads that were not finished.
func (m *Manager) prune(name string, keep []string) error {
	versions, err := m.onDisk(name)
	if err != nil {
		return err
	}
	var failed []error
	for _, v := range versions {
		if !slices.Contains(keep, v) {
			failed = append(failed, m.discard(m.image(name, v)))
		}
	}
	parts, err := filepath.Glob(filepath.Join(m.Root, imagesDirectory, "*", "."+name+".part*"))
	failed = append(failed, err)
	for _, part := range parts {
		failed = append(failed, m.discard(part))
	}
	return errors.Join(failed...)
}

// defaults is the content of /etc/default/incus.
func defaults(config api.ApplicationConfig) string {
	var options []string
	if config.LXCFS != nil && config.LXCFS.CPUShares {
		options = append(options, "--enable-cfs")
	}
	if config.LXCFS != nil && config.LXCFS.LoadAverage {
		options = append(options, "--enable-loadavg")
	}
	return fmt.Sprintf("LXCFS_OPTS=%q\n", strings.Join(options, " "))
}

// writeDefaults writes /etc/default/incus when its content differs, and says so.
func (m *Manager) writeDefaults(name string, config api.ApplicationConfig) (bool, error) {
	if !isIncus(name) {
		return false, nil
	}
	path, text := filepath.Join(m.Root, defaultsFile), defaults(config)
	if current, err := os.ReadFile(path); err == nil && string(current) == text {
		return false, nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return false, fmt.Errorf("making the folder of %s: %w", path, err)
	}
	next := path + ".next"
	if err := os.WriteFile(next, []byte(text), 0o644); err != nil {
		return false, fmt.Errorf("writing the options of %s: %w", name, err)
	}
	if err := flush(next); err != nil {
		return false, err
	}
	if err := os.Rename(next, path); err != nil {
		return false, fmt.Errorf("writing the options of %s: %w", name, err)
	}
	return true, flush(filepath.Dir(path))
}

func isIncus(name string) bool { return name == "incus" || name == "incus-lts-7.0" }

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// flush writes a file or a folder to disk.
func flush(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("opening %s to write it to disk: %w", path, err)
	}
	if err := errors.Join(file.Sync(), file.Close()); err != nil {
		return fmt.Errorf("writing %s to disk: %w", path, err)
	}
	return nil
}
