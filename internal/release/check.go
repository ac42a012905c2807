package release

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"strings"

	"github.com/holdfast-os/holdfast/api/release"
)

var (
	versionForm = regexp.MustCompile(`^[0-9]{12}$`)
	nameForm    = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._+-]*$`)
	sumForm     = regexp.MustCompile(`^[0-9a-f]{64}$`)
	channelForm = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,63}$`)
)

// architectures that a release can have files for.
var architectures = []string{"x86_64", "aarch64"}

// maxFile bounds what an index may promise for one file, in bytes.
const maxFile = 16 << 30

// choose picks the release to run out of a verified index.
func choose(index release.Index, channel, arch, running string) (release.Update, error) {
	for _, update := range index.Updates {
		wanted := slices.Contains(update.Channels, channel) || (running != "" && update.Version == running)
		if !wanted || !hasSystem(update, arch) {
			continue
		}
		if err := checkUpdate(update); err != nil {
			return release.Update{}, err
		}
		if update.Version < running {
			return release.Update{}, fmt.Errorf("%w: %s runs, the channel %q has %s", ErrOlder, running, channel, update.Version)
		}
		return update, nil
	}
	return release.Update{}, fmt.Errorf("%w %q for %s", ErrNoUpdate, channel, arch)
}

func hasSystem(update release.Update, arch string) bool {
	return slices.ContainsFunc(update.Files, func(f release.File) bool {
		return f.Architecture == arch && f.Type == release.TypeUpdateUsr
	})
}

// checkUpdate refuses what could lead outside a release's directory or could not
// be checked. Words that it does not know (types, components) are left alone: they
// are a newer publisher's.
func checkUpdate(update release.Update) error {
	if !versionForm.MatchString(update.Version) {
		return fmt.Errorf("%w: version %q is not 12 digits", ErrIndex, update.Version)
	}
	seen := map[string]bool{}
	for _, file := range update.Files {
		if seen[file.Filename] {
			return fmt.Errorf("%w: %s lists %q twice", ErrIndex, update.Version, file.Filename)
		}
		seen[file.Filename] = true
		if err := checkFile(file); err != nil {
			return fmt.Errorf("%w: release %s: %w", ErrIndex, update.Version, err)
		}
	}
	return nil
}

func checkFile(file release.File) error {
	parts := strings.Split(file.Filename, "/")
	if !fs.ValidPath(file.Filename) || len(parts) > 2 || slices.ContainsFunc(parts, func(p string) bool { return !nameForm.MatchString(p) }) {
		return fmt.Errorf("file name %q", file.Filename)
	}
	if file.Architecture != "" && (len(parts) != 2 || parts[0] != file.Architecture) {
		return fmt.Errorf("file %s is not of %s", file.Filename, file.Architecture)
	}
	if !sumForm.MatchString(file.SHA256) {
		return fmt.Errorf("file %s: the sum is not 64 hexadecimal digits", file.Filename)
	}
	if file.Size <= 0 || file.Size > maxFile {
		return fmt.Errorf("file %s: %d bytes", file.Filename, file.Size)
	}
	return nil
}

func parseIndex(text []byte) (release.Index, error) {
	var index release.Index
	if err := json.Unmarshal(text, &index); err != nil {
		return release.Index{}, fmt.Errorf("%w: %w", ErrIndex, err)
	}
	if index.Format != release.Format {
		return release.Index{}, fmt.Errorf("%w: format %q, %q is understood", ErrIndex, index.Format, release.Format)
	}
	return index, nil
}
