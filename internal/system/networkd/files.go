package networkd

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// KeyGroup is the group as which networkd runs; files with keys are readable for it.
const KeyGroup = "systemd-network"

// Access says who may read a file.
type Access struct {
	// Mode are the permission bits; default 0644.
	Mode fs.FileMode
	// Group is the name of a group of this system; default root's.
	Group string
}

// owned is an Access with the group resolved.
type owned struct {
	mode fs.FileMode
	gid  int
}

// difference is what changed between two sets of files, by name, sorted.
type difference struct {
	first                   bool
	added, changed, removed []string
}

// links is true when udev has something new to read.
func (d difference) links() bool {
	isLink := func(name string) bool { return strings.HasSuffix(name, ".link") }
	return d.first || slices.ContainsFunc(slices.Concat(d.added, d.changed, d.removed), isLink)
}

// reloads is true when a reload of networkd puts the difference into force.
func (d difference) reloads() bool {
	unread := func(name string) bool { return !slices.Contains([]string{".network", ".netdev"}, filepath.Ext(name)) }
	return !d.links() && !slices.ContainsFunc(d.changed, unread)
}

// writeUnits puts a directory with the files in the place of the present one, in
// one step: networkd never sees half of a plan. A file that stays the same stays the
// same inode, so that networkd, which looks at inode and time, leaves its devices
// alone.
func (h Host) writeUnits(files map[string]string, access map[string]Access) (difference, error) {
	dir, next := h.path(unitDir), h.path(unitDir+".next")
	if err := os.RemoveAll(next); err != nil {
		return difference{}, err
	}
	if err := os.MkdirAll(next, 0o755); err != nil {
		return difference{}, err
	}
	before, err := unitNames(dir)
	if err != nil {
		return difference{}, err
	}
	diff := difference{first: before == nil}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if name != filepath.Base(name) || strings.HasPrefix(name, ".") {
			return difference{}, fmt.Errorf("%q is not a file name", name)
		}
		to, err := h.resolve(access[name])
		if err != nil {
			return difference{}, fmt.Errorf("%s: %w", name, err)
		}
		same, err := writeUnit(filepath.Join(dir, name), filepath.Join(next, name), files[name], to)
		switch {
		case err != nil:
			return difference{}, err
		case same:
		case before[name]:
			diff.changed = append(diff.changed, name)
		default:
			diff.added = append(diff.added, name)
		}
		delete(before, name)
	}
	diff.removed = slices.Sorted(maps.Keys(before))
	return diff, exchange(next, dir)
}

// unitNames are the files of a directory; nil when there is none.
func unitNames(dir string) (map[string]bool, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	names := map[string]bool{}
	for _, entry := range entries {
		names[entry.Name()] = true
	}
	return names, err
}

// writeUnit takes over an old file that is the same already, or writes a new one.
func writeUnit(old, path, content string, to owned) (same bool, err error) {
	if isSame(old, content, to) {
		return true, os.Link(old, path)
	}
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return false, err
	}
	// Group and mode come first: a key is never readable for others.
	err = errors.Join(file.Chown(-1, to.gid), file.Chmod(to.mode))
	if err == nil {
		_, err = file.WriteString(content)
	}
	return false, errors.Join(err, file.Close())
}

func isSame(path, content string, to owned) bool {
	info, err := os.Lstat(path)
	if err != nil || !info.Mode().IsRegular() || info.Mode().Perm() != to.mode {
		return false
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(stat.Gid) == to.gid && sameContent(path, content, info.Size())
}

func sameContent(path, content string, size int64) bool {
	if size != int64(len(content)) {
		return false
	}
	data, err := os.ReadFile(path)
	return err == nil && string(data) == content
}

func exchange(next, dir string) error {
	err := unix.Renameat2(unix.AT_FDCWD, next, unix.AT_FDCWD, dir, unix.RENAME_EXCHANGE)
	if errors.Is(err, fs.ErrNotExist) {
		return os.Rename(next, dir)
	}
	if err != nil {
		return err
	}
	return os.RemoveAll(next)
}

// resolve looks the group up in /etc/group; the files of a default access keep the
// group of the daemon.
func (h Host) resolve(a Access) (owned, error) {
	to := owned{mode: a.Mode.Perm(), gid: os.Getegid()}
	if to.mode == 0 {
		to.mode = 0o644
	}
	if a.Group == "" {
		return to, nil
	}
	data, err := os.ReadFile(h.path("etc/group"))
	if err != nil {
		return to, fmt.Errorf("looking up the group %s: %w", a.Group, err)
	}
	lines := bufio.NewScanner(bytes.NewReader(data))
	for lines.Scan() {
		fields := strings.Split(lines.Text(), ":")
		if len(fields) < 3 || fields[0] != a.Group {
			continue
		}
		if to.gid, err = strconv.Atoi(fields[2]); err != nil {
			return to, fmt.Errorf("looking up the group %s: %w", a.Group, err)
		}
		return to, nil
	}
	return to, fmt.Errorf("this system has no group %s", a.Group)
}
