// Package earlyboot is what holdfast-initrd does in the initrd: it opens the system
// disk, or makes it on the first boot, and prepares /etc for the system to come.
//
// Parties: systemd has verified and mounted /usr from the disk that the firmware
// booted (usrhash= on the signed command line names it); systemd-repart makes
// partitions out of the definitions in that /usr; systemd-cryptsetup opens LUKS
// volumes with the TPM. This package decides which of them to call, in which order.
//
// Invariants:
//
//   - The system disk is the one whose ESP the boot loader was read from, and its
//     partitions are found by number on that disk, never by a label: another disk may
//     carry the same labels.
//   - A medium with an install seed is not written to: the system runs on a tmpfs. A
//     disk without a root volume whose seed cannot be read is not written to either.
//   - Seeds on other media count only for a disk without a root volume: a stick that
//     somebody plugs in makes no install medium of a node.
//   - A recovery key is asked for only when no key opened the volume. Any other fault
//     would stay with the right key, and a prompt that a changed header can bring
//     about teaches people to type keys into it.
//   - The root volume opens by the TPM at most once in a boot: opening it extends
//     PCR 15 with the volume key, and the TPM's policy wants PCR 15 to be zero.
//   - A root volume without a machine id was never handed to the system: the first
//     boot was interrupted, and it is made again.
//
// What fails here is said on the console, and the machine starts again; there is no
// shell to fall into.
package earlyboot

import (
	"context"
	"errors"
	"fmt"

	"github.com/holdfast-os/holdfast/internal/bootinfo"
)

// Where the root volume keeps what early boot needs of it, below its mount point.
const (
	StateDir        = "var/lib/incus-os"
	MachineIDFile   = StateDir + "/machine-id"
	RecoveryKeyFile = StateDir + "/recovery.key"
)

// Disk is the system disk as early boot sees it.
type Disk struct {
	// Path is the whole disk, as "/dev/vda".
	Path string
	// Partitions are the device paths by partition number.
	Partitions map[int]string
}

// Machine is what early boot needs of the machine.
type Machine interface {
	// SystemDisk waits for the disk that the boot loader was read from.
	SystemDisk(ctx context.Context) (Disk, error)
	// HasInstallSeed reads the seed partition, and with media also what is plugged in. An
	// error means that it cannot be told.
	HasInstallSeed(ctx context.Context, device string, media bool) (bool, error)
	// Partition makes the partitions that are missing; new volumes open with the key.
	Partition(ctx context.Context, disk string, recoveryKey string) error
	// RemovePartitions deletes partitions by number.
	RemovePartitions(ctx context.Context, disk string, numbers ...int) error
	// Unlock opens the root volume and mounts it at /sysroot. With ask it asks a person
	// for the recovery key until it is right, else only the TPM is tried. No key that
	// opens is ErrLocked; any other error would be the same with another key.
	Unlock(ctx context.Context, device string, ask bool) error
	// Root gives the files of /sysroot.
	Root() RootFiles
}

// RootFiles are the few files of the root volume that early boot reads and writes.
type RootFiles interface {
	// MountTemporary mounts a tmpfs at /sysroot, for an installation.
	MountTemporary() error
	// Unmount closes the root volume again.
	Unmount(ctx context.Context) error
	// Exists tells whether a file is there.
	Exists(name string) (bool, error)
	// WriteNew writes a file durably, readable by root alone.
	WriteNew(name, content string) error
}

// Keys makes the secrets of a new node.
type Keys struct {
	// RecoveryKey gives a fresh key in systemd's recovery key format.
	RecoveryKey func() (string, error)
	// MachineID gives 32 fresh lower-case hexadecimal digits.
	MachineID func() (string, error)
}

// Partition numbers of the system disk; internal/layout has the table.
const (
	partESP  = 1
	partSeed = 2
	partSwap = 9
	partRoot = 10
	partData = 11
)

// OpenRoot brings /sysroot about and says how. Say prints a line for a person.
func OpenRoot(ctx context.Context, m Machine, keys Keys, say func(string)) (bootinfo.Info, error) {
	disk, err := m.SystemDisk(ctx)
	if err != nil {
		return bootinfo.Info{}, fmt.Errorf("looking for the disk that this machine booted from: %w", err)
	}
	info := bootinfo.Info{Mode: bootinfo.Node, BootDisk: disk.Path, ESP: disk.Partitions[partESP]}
	install, err := m.HasInstallSeed(ctx, disk.Partitions[partSeed], disk.Partitions[partRoot] == "")
	if err != nil {
		err = fmt.Errorf("reading the seed on %s: %w", disk.Partitions[partSeed], err)
		if disk.Partitions[partRoot] == "" {
			return info, fmt.Errorf("%w; whether this is an install medium cannot be told, so nothing is written to it", err)
		}
		say(fmt.Sprintf("This node starts without its seed: %v", err))
	}
	if install {
		say("This is an install medium: the system runs in memory.")
		info.Mode = bootinfo.Install
		return info, m.Root().MountTemporary()
	}
	if disk.Partitions[partRoot] == "" {
		info.FirstBoot, info.RootUnlock = true, bootinfo.TPM
		return info, firstBoot(ctx, m, disk, keys, say)
	}
	info.RootUnlock, err = unlock(ctx, m, disk.Partitions[partRoot], say)
	if err != nil {
		return info, err
	}
	handed, err := m.Root().Exists(MachineIDFile)
	if err != nil {
		return info, fmt.Errorf("looking into the root volume: %w", err)
	}
	if handed {
		return info, nil
	}
	say("The first boot was interrupted: making the root volume again.")
	return info, startOver(ctx, m, disk)
}

// startOver removes what an interrupted first boot made. It ends with ErrStartAgain:
// PCR 15 carries the unfinished volume's key now, and the new one needs it at zero.
func startOver(ctx context.Context, m Machine, disk Disk) error {
	if err := m.Root().Unmount(ctx); err != nil {
		return fmt.Errorf("closing the unfinished root volume: %w", err)
	}
	var numbers []int
	for _, number := range []int{partSwap, partRoot, partData} {
		if disk.Partitions[number] != "" { // sfdisk refuses a number that is not there
			numbers = append(numbers, number)
		}
	}
	if err := m.RemovePartitions(ctx, disk.Path, numbers...); err != nil {
		return fmt.Errorf("removing the unfinished partitions of %s: %w", disk.Path, err)
	}
	return ErrStartAgain
}

// ErrStartAgain asks for a restart: what was unfinished is gone, and the next boot
// begins with it.
var ErrStartAgain = errors.New("an unfinished first boot was cleared away; the machine starts again")

// ErrLocked means that no key at hand opens the root volume.
var ErrLocked = errors.New("the root volume stays locked")

func unlock(ctx context.Context, m Machine, device string, say func(string)) (bootinfo.Unlock, error) {
	err := m.Unlock(ctx, device, false)
	if err == nil {
		return bootinfo.TPM, nil
	}
	if !errors.Is(err, ErrLocked) {
		return "", fmt.Errorf("opening %s: %w", device, err)
	}
	say(fmt.Sprintf("The TPM does not open %s: %v", device, err))
	say("The firmware, its keys or the machine itself changed. Enter a recovery key of this node.")
	say("If this node never finished its first start, it has none yet: install it again.")
	if err := m.Unlock(ctx, device, true); err != nil {
		return "", fmt.Errorf("opening %s with a recovery key: %w", device, err)
	}
	return bootinfo.Recovery, nil
}

func firstBoot(ctx context.Context, m Machine, disk Disk, keys Keys, say func(string)) error {
	say("First boot: making swap, root and data partitions on " + disk.Path + ".")
	key, err := keys.RecoveryKey()
	if err != nil {
		return fmt.Errorf("making the recovery key: %w", err)
	}
	if err := m.Partition(ctx, disk.Path, key); err != nil {
		return fmt.Errorf("making the partitions of %s: %w", disk.Path, err)
	}
	made, err := m.SystemDisk(ctx)
	if err != nil {
		return fmt.Errorf("reading the new partitions of %s: %w", disk.Path, err)
	}
	if made.Partitions[partRoot] == "" {
		return fmt.Errorf("systemd-repart made no partition %d on %s", partRoot, disk.Path)
	}
	if err := m.Unlock(ctx, made.Partitions[partRoot], false); err != nil {
		return fmt.Errorf("opening the new root volume with the TPM: %w", err)
	}
	id, err := keys.MachineID()
	if err != nil {
		return fmt.Errorf("making the machine id: %w", err)
	}
	// The machine id comes last: it marks the volume as complete.
	if err := m.Root().WriteNew(RecoveryKeyFile, key); err != nil {
		return fmt.Errorf("keeping the recovery key: %w", err)
	}
	if err := m.Root().WriteNew(MachineIDFile, id+"\n"); err != nil {
		return fmt.Errorf("keeping the machine id: %w", err)
	}
	return nil
}
