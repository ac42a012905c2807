package tuf

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// inUse is how long a file stays that nothing names any more: somebody may have read the
// timestamp of before, and be about to ask for it.
const inUse = time.Hour

var numbered = regexp.MustCompile(`^([1-9][0-9]{0,9})\.(.+)\.json$`)

// Prune removes what no node asks for any more, and gives the names: versions of snapshot,
// targets and channels that are older than those which the timestamp leads to, manifests that
// no channel names, and the rests of cut writes. Every root stays, since a node goes from one
// to the next, and so does a number that is higher than the present one: it is never used
// again. What is younger than an hour stays until the next time, and files of other names
// are not its own.
func (d *Dir) Prune(now time.Time) (removed []string, err error) {
	t, err := load(d)
	if err != nil {
		return nil, fmt.Errorf("tidying up the metadata: %w", err)
	}
	present, named := t.named()
	err = fs.WalkDir(d.root.FS(), ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !superfluous(name, present, named) {
			return err
		}
		info, err := entry.Info()
		if err != nil || now.Sub(info.ModTime()) < inUse {
			return err
		}
		removed = append(removed, name)
		return d.root.Remove(name)
	})
	if err != nil {
		return removed, fmt.Errorf("tidying up the metadata: %w", err)
	}
	if len(removed) > 0 {
		err = syncFolder(d.root, ".")
	}
	return removed, err
}

// named are the versions that hold, by role, and the files of manifests that a channel names.
func (t *tree) named() (present map[string]int64, manifests []string) {
	present = map[string]int64{metadata.SNAPSHOT: t.snapshot.Signed.Version, metadata.TARGETS: t.targets.Signed.Version}
	for name, channel := range t.channels {
		present[name] = channel.Signed.Version
		for target, file := range channel.Signed.Targets {
			if channel, arch, version, ok := splitTarget(target); ok {
				manifests = append(manifests, targetFile(channel, arch, version, file.Hashes["sha256"]))
			}
		}
	}
	return present, manifests
}

// manifestFile is the name of a manifest, as targetFile makes it.
var manifestFile = regexp.MustCompile(`^targets/[^/]+/[^/]+/[0-9a-f]{64}\.[0-9]{12}\.json$`)

func superfluous(name string, present map[string]int64, manifests []string) bool {
	if strings.HasPrefix(path.Base(name), ".new-") {
		return true
	}
	if manifestFile.MatchString(name) {
		return !slices.Contains(manifests, name)
	}
	match := numbered.FindStringSubmatch(name)
	if match == nil {
		return false
	}
	version, err := strconv.ParseInt(match[1], 10, 64)
	current, known := present[match[2]]
	return err == nil && known && version < current
}

// Prune is Dir.Prune for a tree; one without metadata has nothing to remove.
func Prune(tree string, now time.Time) (removed []string, err error) {
	dir, err := OpenDir(tree)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, dir.Close()) }()
	if _, err := dir.Read(timestampFile); missing(err) {
		return nil, nil
	}
	return dir.Prune(now)
}
