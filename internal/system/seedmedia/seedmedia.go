// Package seedmedia reads small files from media that somebody has plugged in: a stick, a
// CD or a disk of a cloud, found by its label.
//
// A medium is mounted read-only below /run, its files are read, and it is unmounted
// before Read returns; nothing of it stays. It is found as udev has named it: the name of
// a partition goes before the label of a file system, and of several media with one
// label udev's order of preference decides.
//
// The file system is foreign: no device, no program and no symbolic link on it counts,
// files are bounded in number and size, and only FAT and ISO 9660 are tried.
package seedmedia

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// maxFiles is how many wanted files one folder may have.
	maxFiles = 64
	// maxEntries is how many entries of a folder are looked at.
	maxEntries = 4096
	// usbWait is how long a USB device that holds a medium may take to show it.
	usbWait = 10 * time.Second
	place   = "holdfast/medium"
)

// types are the file systems that are tried, in this order.
var types = []string{"vfat", "iso9660"}

// Mounter mounts and unmounts; its methods are the system calls.
type Mounter interface {
	Mount(source, target, fstype string, flags uintptr, data string) error
	Unmount(target string, flags int) error
}

// Host reads the media of a machine.
type Host struct {
	// Dev, Run and Sys are the folders of that name; default those of the machine.
	Dev, Run, Sys string
	// Mounts mounts; default the kernel.
	Mounts Mounter
	// Poll gives a channel that gets a value after the time; default time.After.
	Poll func(time.Duration) <-chan time.Time
}

func (h Host) withDefaults() Host {
	h.Dev, h.Run, h.Sys = cmp.Or(h.Dev, "/dev"), cmp.Or(h.Run, "/run"), cmp.Or(h.Sys, "/sys")
	if h.Mounts == nil {
		h.Mounts = kernelMounts{}
	}
	if h.Poll == nil {
		h.Poll = time.After
	}
	return h
}

// Settle waits until each USB device for storage has a disk, at most ten seconds: a stick
// shows its medium a second after it was found.
func (h Host) Settle(ctx context.Context) error {
	h = h.withDefaults()
	const step = 200 * time.Millisecond
	for waited := time.Duration(0); waited < usbWait; waited += step {
		ready, err := h.usbReady()
		if err != nil || ready {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-h.Poll(step):
		}
	}
	return nil // a device without a medium must not keep the machine from starting
}

// usbReady looks at the interfaces of class 08, mass storage.
func (h Host) usbReady() (bool, error) {
	classes, err := filepath.Glob(filepath.Join(h.Sys, "bus/usb/devices/*:*/bInterfaceClass"))
	if err != nil {
		return false, fmt.Errorf("looking for USB media: %w", err)
	}
	for _, file := range classes {
		class, err := os.ReadFile(file)
		if err != nil || string(class[:min(len(class), 2)]) != "08" {
			continue // it was pulled out meanwhile, or holds no medium
		}
		disks, err := filepath.Glob(filepath.Join(filepath.Dir(file), "host*/target*/*/block/*"))
		if err != nil {
			return false, fmt.Errorf("looking for USB media: %w", err)
		}
		if len(disks) == 0 {
			return false, nil
		}
	}
	return true, nil
}

// Read gives the regular files of the folder dir, on the medium with the label, whose
// names are wanted. False: there is no such medium. A folder that is not there has no
// files; a file of more than limit bytes is an error, and so are more than 64 files.
func (h Host) Read(ctx context.Context, label, dir string, limit int64, wanted func(name string) bool) (files map[string][]byte, there bool, err error) {
	h = h.withDefaults()
	device, err := h.Device(label)
	if err != nil || device == "" {
		return nil, false, err
	}
	if err := ctx.Err(); err != nil {
		return nil, true, err
	}
	target := filepath.Join(h.Run, place)
	if err := os.MkdirAll(target, 0o700); err != nil {
		return nil, true, fmt.Errorf("making %s: %w", target, err)
	}
	if err := h.mount(device, target); err != nil {
		return nil, true, err
	}
	defer func() {
		if undone := h.Mounts.Unmount(target, 0); undone != nil {
			err = errors.Join(err, fmt.Errorf("unmounting %s: %w", device, undone))
		}
	}()
	files, err = readDir(target, dir, limit, wanted)
	if err != nil {
		err = fmt.Errorf("reading %s: %w", device, err)
	}
	return files, true, err
}

// Device gives the device node of the medium with a label; "" when there is none.
func (h Host) Device(label string) (string, error) {
	h = h.withDefaults()
	for _, by := range []string{"by-partlabel", "by-label"} {
		link := filepath.Join(h.Dev, "disk", by, label)
		device, err := filepath.EvalSymlinks(link)
		if err == nil {
			return device, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("finding the medium %s: %w", label, err)
		}
	}
	return "", nil
}

func (h Host) mount(device, target string) error {
	const flags = unix.MS_RDONLY | unix.MS_NODEV | unix.MS_NOSUID | unix.MS_NOEXEC | unix.MS_NOSYMFOLLOW
	var failures []error
	for _, kind := range types {
		err := h.Mounts.Mount(device, target, kind, flags, "")
		if err == nil {
			return nil
		}
		failures = append(failures, fmt.Errorf("as %s: %w", kind, err))
	}
	return fmt.Errorf("mounting %s, which should be FAT or ISO 9660: %w", device, errors.Join(failures...))
}

func readDir(mounted, dir string, limit int64, wanted func(string) bool) (files map[string][]byte, err error) {
	root, err := os.OpenRoot(mounted)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	folder, err := root.Open(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	entries, err := folder.ReadDir(maxEntries)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	if err := errors.Join(err, folder.Close()); err != nil {
		return nil, err
	}
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return cmp.Compare(a.Name(), b.Name()) })
	files = map[string][]byte{}
	for _, entry := range entries {
		if !entry.Type().IsRegular() || !wanted(entry.Name()) {
			continue
		}
		if len(files) == maxFiles {
			return nil, fmt.Errorf("it has more than %d such files", maxFiles)
		}
		if files[entry.Name()], err = readFile(root, filepath.Join(dir, entry.Name()), limit); err != nil {
			return nil, err
		}
	}
	return files, nil
}

func readFile(root *os.Root, name string, limit int64) ([]byte, error) {
	f, err := root.Open(name)
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("file %s has more than %d bytes", name, limit)
	}
	return data, nil
}

type kernelMounts struct{}

func (kernelMounts) Mount(source, target, fstype string, flags uintptr, data string) error {
	return unix.Mount(source, target, fstype, flags, data)
}

func (kernelMounts) Unmount(target string, flags int) error { return unix.Unmount(target, flags) }
