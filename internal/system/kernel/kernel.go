// Package kernel is the adapter of /proc/sys, /sys, modprobe and the programs of swap:
// it reads what settings of the kernel this machine has, and does what is more than
// writing one value.
//
// Everything hangs below Host.Root. What is read has a limit. A device that a virtual
// machine uses is never taken away: the kernel would wait for the machine to end.
//
// Under Secure Boot the kernel is locked down. None of this needs what lockdown
// forbids; a kernel that refuses all the same is told with that fact (Explain).
package kernel

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/holdfast-os/holdfast/internal/system/run"
)

// OriginalsFile keeps the values that the kernel had when the node started, as JSON.
const OriginalsFile = "run/holdfast/kernel-originals.json"

// maxFile is how much is read of one file, in bytes; modules.dep has about 1 MiB.
const maxFile = 16 << 20

var addressForm = regexp.MustCompile(`^[0-9a-f]{4,8}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7]$`)

// Host is the machine whose kernel is set.
type Host struct {
	// Root is the directory that stands for "/".
	Root string
	// Run starts programs; on a machine run.Host.
	Run run.Runner
	// Version is the version of the kernel, as `uname -r` has it; default the running one.
	Version string
	// Busy tells whether a device is in use; default: it cannot be opened exclusively.
	Busy func(device string) (bool, error)
}

// Ask names what a caller wants to know beyond the machine itself.
type Ask struct {
	// Settings are files below /proc/sys, Files are texts to read, both by absolute path.
	Settings, Files []string
	// Qdiscs are the queuing disciplines that are of interest.
	Qdiscs []string
}

// Explain adds to an error of the kernel that it is locked down, when it is and may
// have refused for that.
func (h Host) Explain(err error) error {
	if !errors.Is(err, unix.EPERM) {
		return err
	}
	if mode := h.Lockdown(); mode != "none" {
		return fmt.Errorf("%w: under Secure Boot this kernel is locked down (%s) and does not allow it", err, mode)
	}
	return err
}

// Lockdown is "none", "integrity" or "confidentiality".
func (h Host) Lockdown() string {
	text, err := h.read("sys/kernel/security/lockdown")
	if err != nil {
		return "none"
	}
	if _, rest, ok := strings.Cut(text, "["); ok {
		mode, _, _ := strings.Cut(rest, "]")
		return mode
	}
	return "none"
}

// Remember keeps the settings, and the governors of the processors, as they are, so that
// a setting that is taken back can return to them. It does so once for each start of the
// machine and has to be called before anything is changed.
func (h Host) Remember(settings []string) error {
	path := h.path(OriginalsFile)
	if _, err := os.Stat(path); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	governors, err := h.governorFiles()
	if err != nil {
		return err
	}
	values, err := h.values(append(slices.Clone(settings), governors...))
	if err != nil {
		return err
	}
	text, err := json.Marshal(values)
	if err != nil {
		return fmt.Errorf("keeping the settings of the kernel: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("keeping the settings of the kernel: %w", err)
	}
	if err := os.WriteFile(path+".new", text, 0o600); err != nil {
		return fmt.Errorf("keeping the settings of the kernel: %w", err)
	}
	return os.Rename(path+".new", path)
}

// originals are what Remember kept; none before it was called.
func (h Host) originals() (map[string]string, error) {
	text, err := h.read(OriginalsFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	values := map[string]string{}
	if err := json.Unmarshal([]byte(text), &values); err != nil {
		return nil, fmt.Errorf("reading /%s: %w", OriginalsFile, err)
	}
	return values, nil
}

// values reads files of the kernel; one that is not there is left out, since a kernel
// need not have all of them.
func (h Host) values(paths []string) (map[string]string, error) {
	values := map[string]string{}
	for _, path := range paths {
		text, err := h.read(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		values[path] = strings.Join(strings.Fields(text), " ")
	}
	return values, nil
}

// modules are what the kernel can load or has built in, by name, as "sch_fq".
func (h Host) modules() (map[string]bool, error) {
	release := h.Version
	if release == "" {
		var name unix.Utsname
		if err := unix.Uname(&name); err != nil {
			return nil, fmt.Errorf("reading the version of the kernel: %w", err)
		}
		release = unix.ByteSliceToString(name.Release[:])
	}
	found := map[string]bool{}
	for _, list := range []string{"modules.dep", "modules.builtin"} {
		text, err := h.read("usr/lib/modules/" + release + "/" + list)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(text) {
			file, _, _ := strings.Cut(strings.TrimSpace(line), ":")
			name, _, _ := strings.Cut(filepath.Base(file), ".ko")
			found[strings.ReplaceAll(name, "-", "_")] = true
		}
	}
	return found, nil
}

// loaded are the modules that are in the kernel now, sorted.
func (h Host) loaded() ([]string, error) {
	text, err := h.read("proc/modules")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	names := map[string]bool{}
	for line := range strings.Lines(text) {
		name, _, _ := strings.Cut(line, " ")
		names[name] = true
	}
	return slices.Sorted(maps.Keys(names)), nil
}

func (h Host) path(name string) string { return filepath.Join(h.Root, name) }

// read gives the text of a file of at most maxFile.
func (h Host) read(name string) (string, error) {
	file, err := os.Open(h.path(name))
	if err != nil {
		return "", fmt.Errorf("reading a file of the kernel: %w", err)
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, maxFile+1))
	if err == nil && len(text) > maxFile {
		err = fmt.Errorf("more than %d bytes", maxFile)
	}
	if err != nil {
		return "", fmt.Errorf("reading /%s: %w", strings.TrimPrefix(name, "/"), err)
	}
	return string(text), nil
}

// number reads a file that holds one number; one that is not there is 0.
func (h Host) number(name string) (int64, error) {
	text, err := h.read(name)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseInt(strings.TrimSpace(text), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("reading /%s: %w", name, err)
	}
	return n, nil
}

// write writes a value into a file of the kernel, which has to be there.
func (h Host) write(name, value string) error {
	file, err := os.OpenFile(h.path(name), os.O_WRONLY, 0)
	if err != nil {
		return h.Explain(fmt.Errorf("setting /%s to %q: %w", name, value, err))
	}
	_, err = file.WriteString(value)
	if err := errors.Join(err, file.Close()); err != nil {
		return h.Explain(fmt.Errorf("setting /%s to %q: %w", name, value, err))
	}
	return nil
}

// modprobe loads a module.
func (h Host) modprobe(ctx context.Context, name string) error {
	if _, err := h.Run(ctx, run.Command{Name: "modprobe", Args: []string{"--", name}}); err != nil {
		return fmt.Errorf("loading module %s: %w", name, err)
	}
	return nil
}

// busy is the default of Host.Busy: what is mounted, used as swap, part of a pool or of
// another device cannot be opened exclusively. A device that cannot be looked at counts
// as in use; one that is not there does not.
func busy(device string) (bool, error) {
	fd, err := unix.Open(device, unix.O_RDONLY|unix.O_EXCL|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	switch {
	case err == nil:
		return false, unix.Close(fd)
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENXIO), errors.Is(err, unix.ENOMEDIUM), errors.Is(err, unix.ENODEV):
		return false, nil
	}
	return true, nil
}

func (h Host) inUse(device string) (bool, error) {
	if h.Busy != nil {
		return h.Busy(device)
	}
	return busy(h.path(device))
}
