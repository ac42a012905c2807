// Package loop attaches loop devices: a file or a disk becomes a disk of its own, with
// another sector size and with its partitions.
//
// The kernel does it, by the ioctl LOOP_CONFIGURE (Linux 5.8); no program is needed. A
// loop device lives until it is detached or the machine restarts, whoever has made it.
// What can fail: no free device, a kernel without the module "loop", and a disk that
// cannot be opened, as a drive without a disc.
package loop

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Numbers of the kernel (include/uapi/linux/loop.h, cdrom.h).
const (
	ctlGetFree      = 0x4c82
	configure       = 0x4c0a
	clearFD         = 0x4c01
	flagReadOnly    = 1
	flagPartScan    = 8
	clearCDOptions  = 0x5321
	cdLockWhileOpen = 0x8
	control         = "/dev/loop-control"
	tries           = 16
)

// info is struct loop_info64.
type info struct {
	Device, Inode, RDevice, Offset, SizeLimit uint64
	Number, EncryptType, EncryptKeySize       uint32
	Flags                                     uint32
	FileName, CryptName                       [64]byte
	EncryptKey                                [32]byte
	Init                                      [2]uint64
}

// config is struct loop_config.
type config struct {
	FD        uint32
	BlockSize uint32
	Info      info
	_         [8]uint64
}

// Options say how a disk is attached.
type Options struct {
	// BlockSize is the sector size of the new disk in bytes: 512, 1024, 2048 or 4096; 0
	// is that of what is attached.
	BlockSize int
	// Partitions lets the kernel read the partition table; default false.
	Partitions bool
}

// Attach makes a read-only disk of a file or device, and gives its path, as "/dev/loop0".
// Somebody who takes the same free device at the same moment makes it try the next one.
func Attach(ctx context.Context, backing string, o Options) (path string, err error) {
	fail := func(err error) (string, error) { return "", fmt.Errorf("attaching %s as a disk: %w", backing, err) }
	unlockDoor(backing)
	file, err := os.Open(backing)
	if err != nil {
		return fail(err)
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	ctl, err := os.OpenFile(control, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%w: the kernel's module loop is not loaded", err)
	}
	if err != nil {
		return fail(err)
	}
	defer func() { err = errors.Join(err, ctl.Close()) }()
	for range tries {
		if ctx.Err() != nil {
			return fail(ctx.Err())
		}
		number, _, errno := unix.Syscall(unix.SYS_IOCTL, ctl.Fd(), ctlGetFree, 0)
		if errno != 0 {
			return fail(fmt.Errorf("asking for a free loop device: %w", errno))
		}
		path := fmt.Sprintf("/dev/loop%d", number)
		err := attach(path, file, o)
		if err == nil {
			return path, nil
		}
		if !errors.Is(err, unix.EBUSY) {
			return fail(err)
		}
	}
	return fail(errors.New("every free loop device was taken by somebody else"))
}

func attach(path string, file *os.File, o Options) error {
	device, err := os.OpenFile(path, os.O_RDONLY, 0)
	if err != nil {
		return err
	}
	c := config{FD: uint32(file.Fd()), BlockSize: uint32(o.BlockSize), Info: info{Flags: flagReadOnly}}
	if o.Partitions {
		c.Info.Flags |= flagPartScan
	}
	copy(c.Info.FileName[:len(c.Info.FileName)-1], file.Name())
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, device.Fd(), configure, uintptr(unsafe.Pointer(&c))); errno != 0 {
		err = fmt.Errorf("configuring %s: %w", path, errno)
	}
	return errors.Join(err, device.Close())
}

// unlockDoor lets a person take a disc out while the loop device holds its drive open: an
// installation waits for just that. What is no such drive does not know the question.
func unlockDoor(path string) {
	drive, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return // Attach meets the same
	}
	_, _, _ = unix.Syscall(unix.SYS_IOCTL, drive.Fd(), clearCDOptions, cdLockWhileOpen)
	_ = drive.Close() // nothing was written
}

// Detach lets go of what a loop device stands for. While it is in use that comes later.
func Detach(path string) error {
	device, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("detaching %s: %w", path, err)
	}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, device.Fd(), clearFD, 0); errno != 0 {
		err = fmt.Errorf("detaching %s: %w", path, errno)
	}
	return errors.Join(err, device.Close())
}

// Backing gives what a loop device stands for, as "/dev/sr0"; "" for a device that is not
// attached, or no loop device. sys is where sysfs is, as "/sys".
func Backing(sys, path string) (string, error) {
	text, err := os.ReadFile(filepath.Join(sys, "class/block", filepath.Base(path), "loop/backing_file"))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("reading what %s stands for: %w", path, err)
	}
	return strings.TrimSpace(string(text)), nil
}
