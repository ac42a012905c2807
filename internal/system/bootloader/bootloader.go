// Package bootloader reads and changes the kernel images that systemd-boot offers, and
// knows which one it will start.
//
// An image is a file EFI/Linux/NAME_VERSION.efi on the ESP. While it is on trial, its
// name carries a counter, as NAME_VERSION+2-1.efi: two tries left, one done. systemd-boot
// counts before it starts an image and leaves the new name in the variable
// LoaderBootCountPath; an image without tries is started only when nothing else is there.
// Whoever finds the start good takes the counter off (Bless); nobody has to do anything
// for a bad one.
//
// What always holds: nothing is written to the firmware's variables, so read-only or full
// ones do not matter; every change is one rename or one removal, flushed before the method
// returns; the image that runs is never removed. Files that are no image of this system,
// such as what fsck leaves, are reported and left alone.
//
// What can fail: an ESP that is not mounted or not writable. A machine without firmware
// variables has no trial, and what was booted is then known by the version alone.
package bootloader

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode/utf16"

	"golang.org/x/sys/unix"

	"github.com/holdfast-os/holdfast/internal/system/efi"
	"github.com/holdfast-os/holdfast/internal/system/run"
)

const (
	// DefaultESP is where a node mounts its ESP.
	DefaultESP = "/boot"
	// Folder is where the images are on the ESP.
	Folder = "EFI/Linux"
	// DefaultProgram is where Debian has systemd-bless-boot.
	DefaultProgram = "/usr/lib/systemd/systemd-bless-boot"
	// maxFiles bounds what is reported of a folder.
	maxFiles = 1000
	// temporaryPrefix is how systemd-sysupdate names a file that it has not finished.
	temporaryPrefix = ".#"
)

var (
	// ErrBooted is the removal of the image that runs.
	ErrBooted = errors.New("the machine was started from it")
	// ErrNoRoom is an ESP that a kernel image does not fit onto.
	ErrNoRoom = errors.New("the ESP is too full for the kernel image")
)

// slack is what a file needs beside its bytes: its last cluster and its folder's next, in
// bytes. FAT32 has clusters of at most 32 KiB.
const slack = 64 << 10

// Loader is the boot loader of one ESP.
type Loader struct {
	// Run starts programs; on a machine run.Host. Only Bless and MarkBad need it.
	Run run.Runner
	// ESP is where the partition is mounted; default DefaultESP.
	ESP string
	// Name is the image id, as "Holdfast".
	Name string
	// Running is the version of the release that runs, from os-release.
	Running string
	// Vars are the variables of the firmware.
	Vars efi.Vars
	// Program is systemd-bless-boot; default DefaultProgram.
	Program string
}

// Entry is one kernel image.
type Entry struct {
	// File is the name in Folder, with the counter.
	File string
	// ID is how systemd-boot calls it: lower case, without the counter.
	ID string
	// Version is the release.
	Version string
	// TriesLeft and TriesDone are the counter; both -1 when there is none.
	TriesLeft, TriesDone int
	// Size is in bytes.
	Size int64
	// Booted is true for the image that runs.
	Booted bool
}

// Bad reports whether no tries are left.
func (e Entry) Bad() bool { return e.TriesLeft == 0 }

// State is all there is to say of an ESP.
type State struct {
	// Entries are sorted as systemd-boot sorts them.
	Entries []Entry
	// Trial is true while the image that runs still carries the counter of this start.
	Trial bool
	// Counted is true when this start was counted, also after Bless or MarkBad.
	Counted bool
	// Temporary are unfinished files in Folder, as a cut update leaves them: see Clean.
	Temporary []string
	// Junk are other files that no boot needs, as "FSCK0000.REC" of fsck, relative to the
	// ESP and sorted. They take room and are in nobody's way.
	Junk []string
	// Size and Free are of the file system, in bytes.
	Size, Free int64
	// temporarySize is what the unfinished files take, in bytes.
	temporarySize int64
}

// CheckRoom says whether an update with a kernel image of size bytes will fit: unfinished
// files and the images that do not run are removed before it is written. It has to be
// asked before, since systemd-pull calls a full ESP an "Input/output error". The error
// wraps ErrNoRoom.
func (s State) CheckRoom(size int64) error {
	room := s.Free + s.temporarySize
	for _, entry := range s.Entries {
		if !entry.Booted {
			room += entry.Size
		}
	}
	if size+slack <= room {
		return nil
	}
	return fmt.Errorf("%w: it needs %d bytes, and %d of %d are free; files that no boot needs: %d", ErrNoRoom, size+slack, room, s.Size, len(s.Junk))
}

func (l Loader) esp() string {
	if l.ESP == "" {
		return DefaultESP
	}
	return l.ESP
}

func (l Loader) folder() string { return filepath.Join(l.esp(), Folder) }

// Read looks at the ESP and at the variables of the boot loader.
func (l Loader) Read() (State, error) {
	var state State
	var space unix.Statfs_t
	if err := unix.Statfs(l.esp(), &space); err != nil {
		return State{}, fmt.Errorf("reading the size of the ESP at %s: %w", l.esp(), err)
	}
	state.Size, state.Free = int64(space.Blocks)*space.Bsize, int64(space.Bavail)*space.Bsize
	if err := l.readFolder(&state); err != nil {
		return State{}, err
	}
	top, err := readDir(l.esp())
	if err != nil {
		return State{}, err
	}
	for _, file := range top {
		if file.Type().IsRegular() && isJunk(file.Name()) {
			state.Junk = append(state.Junk, file.Name())
		}
	}
	slices.Sort(state.Junk)
	return state, l.markBooted(&state)
}

func readDir(name string) ([]fs.DirEntry, error) {
	dir, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("reading the ESP: %w", err)
	}
	entries, err := dir.ReadDir(maxFiles + 1)
	if errors.Is(err, io.EOF) { // an empty folder
		err = nil
	}
	if err = errors.Join(err, dir.Close()); err != nil {
		return nil, fmt.Errorf("reading the ESP: %w", err)
	}
	if len(entries) > maxFiles {
		return nil, fmt.Errorf("reading the ESP: %s has more than %d files", name, maxFiles)
	}
	return entries, nil
}

// isJunk tells what fsck.vfat makes of lost chains.
func isJunk(name string) bool {
	upper := strings.ToUpper(name)
	return strings.HasPrefix(upper, "FSCK") && strings.HasSuffix(upper, ".REC")
}

func (l Loader) readFolder(state *State) error {
	files, err := readDir(l.folder())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, file := range files {
		name := file.Name()
		info, err := file.Info()
		if err != nil {
			return fmt.Errorf("reading the size of %s: %w", name, err)
		}
		entry, ok := ParseEntry(l.Name, name)
		switch {
		case strings.HasPrefix(name, temporaryPrefix) && file.Type().IsRegular():
			state.Temporary = append(state.Temporary, name)
			state.temporarySize += info.Size()
		case !ok || !file.Type().IsRegular():
			state.Junk = append(state.Junk, path.Join(Folder, name))
		default:
			entry.Size = info.Size()
			state.Entries = append(state.Entries, entry)
		}
	}
	slices.Sort(state.Temporary)
	slices.SortFunc(state.Entries, func(a, b Entry) int { return strings.Compare(a.File, b.File) })
	slices.SortStableFunc(state.Entries, compare)
	return nil
}

// ParseEntry reads the name of an image of the system name; false for any other file.
func ParseEntry(name, file string) (Entry, bool) {
	base, ok := strings.CutSuffix(file, ".efi")
	rest, fits := strings.CutPrefix(base, name+"_")
	if !ok || !fits {
		return Entry{}, false
	}
	version, counter, counted := strings.Cut(rest, "+")
	entry := Entry{File: file, Version: version, TriesLeft: -1, TriesDone: -1, ID: strings.ToLower(name + "_" + version + ".efi")}
	if version == "" || strings.ContainsFunc(version, func(r rune) bool { return !isDigit(r) }) {
		return Entry{}, false
	}
	if !counted {
		return entry, true
	}
	left, done, hasDone := strings.Cut(counter, "-")
	if !hasDone {
		done = "0"
	}
	var err [2]error
	entry.TriesLeft, err[0] = number(left)
	entry.TriesDone, err[1] = number(done)
	return entry, err[0] == nil && err[1] == nil
}

// number reads digits alone, as systemd-boot does: no sign, at most INT_MAX.
func number(text string) (int, error) {
	n, err := strconv.ParseUint(text, 10, 31)
	return int(n), err
}

// markBooted finds the image that runs: by the name that systemd-boot left, and where it
// left none, by the version.
func (l Loader) markBooted(state *State) error {
	counted, err := l.variable("LoaderBootCountPath")
	if err != nil {
		return err
	}
	selected, err := l.variable("LoaderEntrySelected")
	if err != nil {
		return err
	}
	file := path.Base(strings.ReplaceAll(counted, `\`, "/"))
	if entry, ok := ParseEntry(l.Name, file); ok && counted != "" {
		state.Counted, selected = true, entry.ID
	}
	if selected == "" {
		selected = strings.ToLower(l.Name + "_" + l.Running + ".efi")
	}
	for i := range state.Entries {
		entry := &state.Entries[i]
		entry.Booted = entry.ID == strings.ToLower(selected)
		state.Trial = state.Trial || state.Counted && entry.Booted && strings.EqualFold(entry.File, file)
	}
	return nil
}

// variable reads a text that systemd-boot left; "" when there is none.
func (l Loader) variable(name string) (string, error) {
	value, err := l.Vars.Read(name, efi.Loader)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	var units []uint16
	for data := value.Data; len(data) >= 2; data = data[2:] {
		unit := binary.LittleEndian.Uint16(data)
		if unit == 0 {
			break
		}
		units = append(units, unit)
	}
	return string(utf16.Decode(units)), nil
}

// Patterns are what Next needs beside the entries: what the firmware's variables say of
// the next start, most important first.
func (l Loader) Patterns() ([]string, error) {
	var patterns []string
	for _, name := range []string{"LoaderEntryOneShot", "LoaderEntryDefault"} {
		value, err := l.variable(name)
		if err != nil {
			return nil, err
		}
		if value != "" {
			patterns = append(patterns, value)
		}
	}
	return patterns, nil
}
