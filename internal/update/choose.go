package update

import (
	"fmt"
	"regexp"

	"github.com/holdfast-os/holdfast/api/release"
)

var versionForm = regexp.MustCompile(`^[0-9]{12}$`)

// choose decides whether to take what was found. A nil error with false means that the
// node has it already; why says so. force takes also a release that was found bad.
func choose(f Found, arch string, d Document, m Machine, force bool) (take bool, why string, err error) {
	version := f.Manifest.Version
	switch {
	case f.Manifest.Format != release.ManifestFormat:
		return false, "", fmt.Errorf("%w: format %.20q, this release reads %q", ErrUntrusted, f.Manifest.Format, release.ManifestFormat)
	case !versionForm.MatchString(version):
		return false, "", fmt.Errorf("%w: version %.40q is not 12 digits", ErrUntrusted, version)
	case f.Manifest.Architecture != arch:
		return false, "", fmt.Errorf("%w: it is for %.20q, this machine is %s", ErrUntrusted, f.Manifest.Architecture, arch)
	case version == m.Running:
		return false, fmt.Sprintf("%s runs and is the newest", version), changed(d.Proved, f)
	case version < m.Running:
		return false, "", fmt.Errorf("%w: version %s is newer than available update %s, skipping", ErrOlder, m.Running, version)
	}
	if d.Armed != nil {
		switch {
		case version == d.Armed.Version:
			return false, fmt.Sprintf("%s is staged and is the newest", version), changed(d.Armed, f)
		case version < d.Armed.Version:
			return false, "", fmt.Errorf("%w: version %s, which is staged, is newer than available update %s, skipping", ErrOlder, d.Armed.Version, version)
		}
	}
	if reason := against(version, d, m); reason != "" && !force {
		return false, "", fmt.Errorf("%w: %s: %s; the next release is taken, or this one by a check with force", ErrBadRelease, version, reason)
	}
	return true, "", nil
}

// against says what was wrong with a release here; empty for one that nothing is known of.
func against(version string, d Document, m Machine) string {
	if b, ok := d.bad(version); ok {
		return b.Reason
	}
	if e, ok := m.entry(version); ok && e.Bad() {
		return "its tries are used up"
	}
	return ""
}

// changed refuses a version that the node has with other content.
func changed(has *Release, f Found) error {
	if has != nil && has.Version == f.Manifest.Version && has.Digest != "" && has.Digest != f.Digest {
		return fmt.Errorf("%w: %s; what the node has stays", ErrChanged, has.Version)
	}
	return nil
}
