package media

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// Disk is what is known of a device that an image is to be written to.
type Disk struct {
	// Path is as "/dev/sdb".
	Path string
	// Model and Serial are what the device says of itself; empty when it says nothing.
	Model, Serial string
	// Transport is as "usb" or "nvme"; empty when unknown.
	Transport string
	// Kind is "disk", "part", "loop", "rom" and so on.
	Kind string
	// Size is in bytes.
	Size int64
	// Removable and ReadOnly are what the kernel says.
	Removable, ReadOnly bool
	// Mounts are the places where it, or something on it, is mounted; "[SWAP]" for swap.
	Mounts []string
	// Users are what is built on it, as "lvm vg0-root" or "raid1 md0".
	Users []string
	// Contents say what is on it, as "sdb1: vfat \"BACKUP\" (28.9 GiB)".
	Contents []string
}

// Word is what a person types to say that this disk is meant: its serial number, else its
// model, else its path.
func (d Disk) Word() string {
	return cmp.Or(d.Serial, cmp.Or(d.Model, d.Path))
}

// systemMounts are where the disk of this computer's own system is mounted.
var systemMounts = []string{"/", "/usr", "/boot", "/boot/efi", "/efi", "/var", "/home", "[SWAP]"}

// CheckDisk gives every reason not to write an image of need bytes to a disk. With force a
// disk that cannot be taken out is accepted; nothing else is.
func CheckDisk(d Disk, need int64, force bool) error {
	var problems Problems
	add := func(rule, format string, args ...any) {
		problems = append(problems, Problem{File: d.Path, Rule: rule, Text: fmt.Sprintf(format, args...)})
	}
	own := slices.ContainsFunc(d.Mounts, func(m string) bool { return slices.Contains(systemMounts, m) })
	switch {
	case own:
		add("system", "this computer runs from it (%s)", strings.Join(d.Mounts, ", "))
	case len(d.Mounts) > 0:
		add("mounted", "it is mounted at %s: unmount it first", strings.Join(d.Mounts, ", "))
	}
	if len(d.Users) > 0 {
		add("used", "it is a part of %s", strings.Join(d.Users, ", "))
	}
	if d.Kind != "disk" && d.Kind != "loop" {
		add("kind", "it is no whole disk (%s): give the disk itself, as /dev/sdb", cmp.Or(d.Kind, "unknown"))
	}
	if d.ReadOnly {
		add("read-only", "it is read-only: take its write protection off")
	}
	if d.Size < need {
		add("size", "it has %d bytes, and the image needs %d", d.Size, need)
	}
	if !d.Removable && !force {
		add("fixed", "it cannot be taken out of this computer, so it may be a disk that is needed: --force writes to it all the same")
	}
	return problems.Err()
}

// Device is a disk that is written to.
type Device interface {
	Target
	// Forget makes the next read come from the disk itself.
	Forget() error
}

// Progress is told how many bytes are done; checking is false while they are written, and
// true while they are read back.
type Progress func(done int64, checking bool)

// halfFlashed says what a device is after an image that was not written to its end.
const halfFlashed = "what was on the device is lost, it now holds half an image without its beginning, and starts nothing: write a whole image to it"

// Flash writes an image to a device and reads it back. The first mebibyte, with the
// partition table, comes last: a device that was written by half starts nothing. What an
// earlier user left at its end (a second table, marks of RAID) is wiped. It gives the size
// of the image, in bytes. An image that ends before its table says so is ErrCut; nothing is
// written of one that ends within the first mebibyte, or has no table.
func Flash(ctx context.Context, in io.Reader, to Device, room int64, tell Progress) (int64, error) {
	whole := &wholeReader{in: in}
	head, err := whole.begin()
	if err != nil {
		return 0, err
	}
	n := len(head)
	if _, err := to.WriteAt(make([]byte, n), 0); err != nil {
		return 0, fmt.Errorf("erasing the beginning of the device: %w", err)
	}
	if err := wipeEnd(to, room); err != nil {
		return 0, err
	}
	sum := sha256.New()
	sum.Write(head)
	size, err := flashBody(ctx, io.TeeReader(whole, sum), to, int64(n), room, tell)
	if err != nil {
		return 0, fmt.Errorf("%w; %s", err, halfFlashed)
	}
	if err := to.Sync(); err != nil {
		return 0, fmt.Errorf("writing the image: %w; %s", err, halfFlashed)
	}
	if _, err := to.WriteAt(head, 0); err != nil {
		return 0, fmt.Errorf("writing the beginning of the image: %w", err)
	}
	if err := errors.Join(to.Sync(), to.Forget()); err != nil {
		return 0, fmt.Errorf("writing the image: %w", err)
	}
	again := sha256.New()
	for at := int64(0); at < size; at += grain {
		if err := ctx.Err(); err != nil {
			return 0, fmt.Errorf("reading the image back: %w", err)
		}
		if _, err := io.Copy(again, io.NewSectionReader(to, at, min(grain, size-at))); err != nil {
			return 0, fmt.Errorf("reading the image back: %w", err)
		}
		tell(min(at+grain, size), true)
	}
	if string(again.Sum(nil)) != string(sum.Sum(nil)) {
		return 0, errors.New("what was read back is not what was written: the device is worn out, or smaller than it says; use another one")
	}
	return size, nil
}

// wipeEnd clears the last mebibyte.
func wipeEnd(to Device, room int64) error {
	from := max(room-grain, grain)
	if from >= room {
		return nil
	}
	if _, err := to.WriteAt(make([]byte, room-from), from); err != nil {
		return fmt.Errorf("erasing the end of the device: %w", err)
	}
	return nil
}

func flashBody(ctx context.Context, in io.Reader, to Device, at, room int64, tell Progress) (int64, error) {
	buffer := make([]byte, 4*grain)
	for {
		if err := ctx.Err(); err != nil {
			return 0, fmt.Errorf("writing the image: %w", err)
		}
		n, err := io.ReadFull(in, buffer)
		over := errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
		if err != nil && !over {
			return 0, fmt.Errorf("reading the image: %w", err)
		}
		if at+int64(n) > room {
			return 0, fmt.Errorf("writing the image: the device ends after %d bytes, and the image goes on", room)
		}
		if n > 0 {
			if _, err := to.WriteAt(buffer[:n], at); err != nil {
				return 0, fmt.Errorf("writing the image at byte %d: %w", at, err)
			}
		}
		at += int64(n)
		tell(at, false)
		if over {
			return at, nil
		}
	}
}
