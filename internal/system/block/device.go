package block

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/holdfast-os/holdfast/internal/system/multipath"
	"github.com/holdfast-os/holdfast/internal/system/run"
)

const (
	blkZeroOut = 0x127f // BLKZEROOUT
	zeroStep   = 64 << 20
)

// Size gives the size in bytes and the logical sector size of a disk, or of a
// regular file, whose sectors are 512 bytes.
func Size(f *os.File) (size int64, sector int, err error) {
	info, err := f.Stat()
	if err != nil {
		return 0, 0, fmt.Errorf("reading the size of %s: %w", f.Name(), err)
	}
	if info.Mode().IsRegular() {
		return info.Size(), 512, nil
	}
	if info.Mode()&fs.ModeDevice == 0 || info.Mode()&fs.ModeCharDevice != 0 {
		return 0, 0, fmt.Errorf("reading the size of %s: it is neither a disk nor a file", f.Name())
	}
	var bytes uint64
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), unix.BLKGETSIZE64, uintptr(unsafe.Pointer(&bytes))); errno != 0 {
		return 0, 0, fmt.Errorf("reading the size of %s: %w", f.Name(), errno)
	}
	sector, err = unix.IoctlGetInt(int(f.Fd()), unix.BLKSSZGET)
	if err != nil {
		return 0, 0, fmt.Errorf("reading the sector size of %s: %w", f.Name(), err)
	}
	return int64(bytes), sector, nil
}

// Zero makes a range read as zeros: by the kernel on a disk, as a hole in a file,
// and by writing zeros where neither is known. Offset and length are in bytes and,
// on a disk, multiples of its sector.
func Zero(ctx context.Context, f *os.File, offset, length int64) error {
	for length > 0 {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("zeroing %s at %d: %w", f.Name(), offset, err)
		}
		n := min(length, zeroStep)
		if err := zeroRange(f, offset, n); err != nil {
			return fmt.Errorf("zeroing %d bytes of %s at %d: %w", n, f.Name(), offset, err)
		}
		offset, length = offset+n, length-n
	}
	return nil
}

func zeroRange(f *os.File, offset, length int64) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if info.Mode().IsRegular() {
		err = unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, offset, length)
	} else {
		span := [2]uint64{uint64(offset), uint64(length)}
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), blkZeroOut, uintptr(unsafe.Pointer(&span))); errno != 0 {
			err = errno
		}
	}
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOTTY) || errors.Is(err, unix.ENOSYS) {
		return writeZeros(f, offset, length)
	}
	return err
}

func writeZeros(f *os.File, offset, length int64) error {
	zeros := make([]byte, min(length, 1<<20))
	for length > 0 {
		n, err := f.WriteAt(zeros[:min(length, int64(len(zeros)))], offset)
		if err != nil {
			return err
		}
		offset, length = offset+int64(n), length-int64(n)
	}
	return nil
}

// Sync makes what was written durable and drops the cached copy, so that the next
// read comes from the disk itself.
func Sync(f *os.File) error {
	if err := f.Sync(); err != nil {
		return fmt.Errorf("flushing %s: %w", f.Name(), err)
	}
	return DropCache(f)
}

// WriteWhole makes data all that is on a disk: zeros follow it, over whatever was there. It
// reads back what has become of the data.
func WriteWhole(ctx context.Context, f *os.File, data []byte) error {
	size, sector, err := Size(f)
	if err != nil {
		return err
	}
	if rest := len(data) % sector; rest > 0 {
		data = append(bytes.Clone(data), make([]byte, sector-rest)...)
	}
	if int64(len(data)) > size {
		return fmt.Errorf("writing to %s: %d bytes have no room on %d", f.Name(), len(data), size)
	}
	if _, err := f.WriteAt(data, 0); err != nil {
		return fmt.Errorf("writing to %s: %w", f.Name(), err)
	}
	if err := Zero(ctx, f, int64(len(data)), size-int64(len(data))); err != nil {
		return err
	}
	if err := Sync(f); err != nil {
		return err
	}
	written := make([]byte, len(data))
	if _, err := f.ReadAt(written, 0); err != nil {
		return fmt.Errorf("reading back from %s: %w", f.Name(), err)
	}
	if !bytes.Equal(data, written) {
		return fmt.Errorf("%s does not keep what was written to it: the disk is damaged", f.Name())
	}
	return nil
}

// DropCache forgets what the kernel remembers of a disk; what is not yet written is
// written first. A regular file is only advised.
func DropCache(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("dropping the cache of %s: %w", f.Name(), err)
	}
	if info.Mode().IsRegular() {
		err = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
	} else if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), unix.BLKFLSBUF, 0); errno != 0 {
		err = errno
	}
	if err != nil {
		return fmt.Errorf("dropping the cache of %s: %w", f.Name(), err)
	}
	return nil
}

// InUse reports whether something on the disk is mounted, swapped to or claimed by
// a mapping. A regular file is never in use.
func InUse(path string) (bool, error) {
	info, err := os.Stat(path)
	if err != nil {
		return false, fmt.Errorf("looking at disk %s: %w", path, err)
	}
	if info.Mode().IsRegular() {
		return false, nil
	}
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_EXCL, 0)
	if errors.Is(err, unix.EBUSY) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("claiming disk %s: %w", path, err)
	}
	if err := f.Close(); err != nil {
		return false, fmt.Errorf("closing disk %s: %w", path, err)
	}
	return false, nil
}

// WriteTable replaces the partition table of a disk or file by the one that an
// sfdisk script describes, and flushes it. The kernel is not told: see Reread.
func (d Devices) WriteTable(ctx context.Context, disk, script string) error {
	_, err := d.Run(ctx, run.Command{Name: "sfdisk", Stdin: strings.NewReader(script), Args: []string{
		"--quiet", "--label", "gpt", "--no-reread", "--no-tell-kernel", "--wipe", "never", "--wipe-partitions", "never", disk}})
	if err != nil {
		return fmt.Errorf("writing the partition table of %s: %w", disk, err)
	}
	f, err := os.OpenFile(disk, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("flushing the partition table of %s: %w", disk, err)
	}
	return errors.Join(Sync(f), f.Close())
}

// Reread makes the kernel take up a changed partition table. The whole table is
// read again where nothing uses the disk; else partx adds what is new. Those of a disk
// made of paths are mapped by kpartx. A regular file needs nothing.
func (d Devices) Reread(ctx context.Context, disk string) error {
	device, err := filepath.EvalSymlinks(disk)
	if err != nil {
		return fmt.Errorf("looking for %s: %w", disk, err)
	}
	maps := multipath.Devices{Run: d.Run, Sys: filepath.Join(cmp.Or(d.Root, "/"), "sys")}
	joined, err := maps.IsMap(filepath.Base(device))
	if err != nil {
		return err
	}
	if joined {
		return maps.Update(ctx, disk)
	}
	f, err := os.Open(disk)
	if err != nil {
		return fmt.Errorf("opening %s to read its partitions again: %w", disk, err)
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), unix.BLKRRPART, 0); errno != 0 {
			err = errno
		}
	}
	if closed := f.Close(); closed != nil {
		return fmt.Errorf("closing %s: %w", disk, closed)
	}
	if err == nil {
		return nil
	}
	if !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("reading the partitions of %s again: %w", disk, err)
	}
	if _, err := d.Run(ctx, run.Command{Name: "partx", Args: []string{"--update", disk}}); err != nil {
		return fmt.Errorf("reading the partitions of %s again: %w", disk, err)
	}
	return nil
}

// Signatures gives what is recognised on a whole disk, as "ext4", "zfs_member", "gpt" or
// "PMBR", sorted and each once. Unlike blkid, wipefs tells all of them when there are several
// that contradict each other.
func (d Devices) Signatures(ctx context.Context, disk string) ([]string, error) {
	out, err := d.Run(ctx, run.Command{Name: "wipefs", Args: []string{"--no-act", "--json", "--output", "TYPE", disk}})
	if err != nil {
		return nil, fmt.Errorf("looking for signatures on %s: %w", disk, err)
	}
	if len(bytes.TrimSpace(out.Stdout)) == 0 {
		return nil, nil
	}
	var answer struct {
		Signatures []struct {
			Type string `json:"type"`
		} `json:"signatures"`
	}
	if err := json.Unmarshal(out.Stdout, &answer); err != nil {
		return nil, fmt.Errorf("reading the answer of wipefs: %w", err)
	}
	var types []string
	for _, signature := range answer.Signatures {
		types = append(types, signature.Type)
	}
	slices.Sort(types)
	return slices.Compact(types), nil
}

// WipeSignatures removes what blkid would recognise on the whole disk. Ranges are
// not zeroed: that is Zero's part.
func (d Devices) WipeSignatures(ctx context.Context, disk string) error {
	if _, err := d.Run(ctx, run.Command{Name: "wipefs", Args: []string{"--all", "--force", "--quiet", disk}}); err != nil {
		return fmt.Errorf("removing signatures from %s: %w", disk, err)
	}
	return nil
}

// Lock asks udev to leave the disk alone until f is closed. It is refused with
// EWOULDBLOCK while udev looks at the disk.
func Lock(f *os.File) error {
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return fmt.Errorf("locking %s: %w", f.Name(), err)
	}
	return nil
}

// Present reports whether a disk is still connected, and for an optical drive
// whether a disc is in it.
func Present(path string) (bool, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0) // without it, the drive would pull its tray in
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENXIO) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENOMEDIUM) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("looking for %s: %w", path, err)
	}
	const driveStatus, currentSlot, discOK = 0x5326, 0x7fffffff, 4 // CDROM_DRIVE_STATUS, CDSL_CURRENT, CDS_DISC_OK
	status, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), driveStatus, currentSlot)
	if err := f.Close(); err != nil {
		return false, fmt.Errorf("closing %s: %w", path, err)
	}
	// A disk that is no optical drive does not know the question.
	return errno != 0 || status == 0 || status == discOK, nil
}
