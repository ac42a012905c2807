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
//   - A factory reset that was stopped goes on before anything else is looked at, and its
//     end is a restart.
//   - A machine without TPM, or without Secure Boot, becomes a node only where that was
//     asked for when it was installed, or on a medium that runs by itself; never without both.
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
//   - Nothing is written to a slot but a release whose publisher the image trusts, and its
//     kernel image becomes bootable last.
//
// What fails here is said on every console, and the machine starts again while that can lead
// to another release; else it waits for a rescue medium (failed.go, after.go, recover.go,
// restore.go). There is no shell to fall into.
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
	// Medium is what a person removes: Path, or the drive of a CD behind it.
	Medium string
	// Size is in bytes.
	Size int64
	// ReadOnly is true for a CD and for a disk with a write protection.
	ReadOnly bool
}

// PartitionOptions say how the volumes of a new node open.
type PartitionOptions struct {
	// RecoveryKey opens them too.
	RecoveryKey string
	// BindPrograms adds register 4 to what the TPM wants to see: without Secure Boot
	// nothing else tells which programs were started.
	BindPrograms bool
}

// Machine is what early boot needs of the machine.
type Machine interface {
	// SystemDisk waits for the disk that the boot loader was read from.
	SystemDisk(ctx context.Context) (Disk, error)
	// HasInstallSeed reads the seed partition, and with media also what is plugged in. An
	// error means that it cannot be told.
	HasInstallSeed(ctx context.Context, device string, media bool) (bool, error)
	// Table changes the partition table.
	Table() Table
	// Unlock opens the root volume and mounts it at /sysroot. With ask it asks a person
	// for the recovery key until it is right, else only the TPM is tried. No key that
	// opens is ErrLocked; any other error would be the same with another key.
	Unlock(ctx context.Context, device string, ask bool) error
	// Root gives the files of /sysroot.
	Root() RootFiles
	// ESP mounts the ESP of the system disk.
	ESP(ctx context.Context, disk Disk) (ESP, error)
}

// Table changes the partition table of a disk.
type Table interface {
	// Make makes the partitions that are missing.
	Make(ctx context.Context, disk string, o PartitionOptions) error
	// Remove deletes partitions by number.
	Remove(ctx context.Context, disk string, numbers ...int) error
}

// ESP is what early boot finds and leaves on the ESP.
type ESP interface {
	// ContinueReset carries on with a factory reset that was stopped, and tells whether one
	// has ended now. An error leaves it for the next start.
	ContinueReset(ctx context.Context, say func(string)) (done bool, err error)
	// Platform tells what the firmware and the ESP say of the chain of trust.
	Platform(ctx context.Context) (Platform, error)
	// Mark leaves one of the marks; one that is there is no error.
	Mark(name string) error
	// StartTPM serves the emulated TPM of the ESP, until Close.
	StartTPM(ctx context.Context) error
	// Pause lets a person read what was said.
	Pause(ctx context.Context)
	// Close ends all that and unmounts it.
	Close(ctx context.Context) error
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
	// partSlotB is the /usr of slot B.
	partSlotB = 8
	partSwap  = 9
	partRoot  = 10
	partData  = 11
)

// OpenRoot brings /sysroot about and says how. Say prints a line for a person.
func OpenRoot(ctx context.Context, m Machine, keys Keys, say func(string)) (bootinfo.Info, error) {
	disk, err := m.SystemDisk(ctx)
	if err != nil {
		return bootinfo.Info{}, fmt.Errorf("looking for the disk that this machine booted from: %w", err)
	}
	o := opening{Machine: m, disk: disk, keys: keys, say: say,
		info: bootinfo.Info{Mode: bootinfo.Node, BootDisk: disk.Path, ESP: disk.Partitions[partESP]}}
	if disk.Medium != disk.Path {
		o.info.Medium = disk.Medium
	}
	esp, err := m.ESP(ctx, disk)
	if err != nil {
		o.espErr = fmt.Errorf("mounting the ESP %s: %w", disk.Partitions[partESP], err)
		return o.info, o.start(ctx)
	}
	o.esp = esp
	err = o.start(ctx)
	return o.info, errors.Join(err, esp.Close(ctx))
}

// opening is one call of OpenRoot.
type opening struct {
	Machine
	disk Disk
	// esp is nil when espErr says why.
	esp    ESP
	espErr error
	keys   Keys
	say    func(string)
	info   bootinfo.Info
}

func (o *opening) start(ctx context.Context) error {
	if o.esp != nil {
		done, err := o.esp.ContinueReset(ctx, o.say)
		if err != nil {
			return fmt.Errorf("carrying on with a factory reset: %w", err)
		}
		if done {
			return fmt.Errorf("a factory reset has ended: %w", ErrStartAgain)
		}
	}
	root := o.disk.Partitions[partRoot]
	install, err := o.HasInstallSeed(ctx, o.disk.Partitions[partSeed], root == "")
	if err != nil {
		err = fmt.Errorf("reading the seed on %s: %w", o.disk.Partitions[partSeed], err)
		if root == "" {
			return fmt.Errorf("%w; whether this is an install medium cannot be told, so nothing is written to it", err)
		}
		o.say(fmt.Sprintf("This node starts without its seed: %v", err))
	}
	switch {
	case install:
		o.say("This is an install medium: the system runs in memory.")
		o.info.Mode = bootinfo.Install
		return o.Root().MountTemporary()
	case root == "":
		o.info.FirstBoot, o.info.RootUnlock = true, bootinfo.TPM
		return o.firstBoot(ctx)
	}
	return o.laterBoot(ctx, root)
}

func (o *opening) laterBoot(ctx context.Context, root string) error {
	if o.espErr != nil {
		o.say(fmt.Sprintf("This node starts without looking at its ESP: %v", o.espErr))
	} else if _, err := o.trust(ctx, laterStart); err != nil {
		return err
	}
	var err error
	if o.info.RootUnlock, err = unlock(ctx, o, root, o.say); err != nil {
		return err
	}
	handed, err := o.Root().Exists(MachineIDFile)
	if err != nil {
		return fmt.Errorf("looking into the root volume: %w", err)
	}
	if handed {
		return nil
	}
	o.say("The first boot was interrupted: making the root volume again.")
	return startOver(ctx, o, o.disk)
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
	if err := m.Table().Remove(ctx, disk.Path, numbers...); err != nil {
		return fmt.Errorf("removing the unfinished partitions of %s: %w", disk.Path, err)
	}
	return ErrStartAgain
}

// ErrStartAgain asks for a restart: what was unfinished is gone, and the next boot begins
// without it.
var ErrStartAgain = errors.New("what was unfinished is cleared away, and the machine starts again")

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

// firstBoot makes a node of a disk that was installed, or of a medium that runs by itself.
func (o *opening) firstBoot(ctx context.Context) error {
	if o.espErr != nil {
		return fmt.Errorf("%w; whether a factory reset was stopped cannot be told, so nothing is written to the disk", o.espErr)
	}
	kind := installedStart
	if o.disk.Partitions[partSlotB] == "" { // the installer makes it, and no medium has it
		kind = liveStart
		if err := canLive(o.disk); err != nil {
			return err
		}
	}
	trust, err := o.trust(ctx, kind)
	if err != nil {
		return err
	}
	return makeRoot(ctx, o, o.disk, o.keys, trust.BindPrograms, o.say)
}

func makeRoot(ctx context.Context, m Machine, disk Disk, keys Keys, bindPrograms bool, say func(string)) error {
	say("First boot: making swap, root and data partitions on " + disk.Path + ".")
	key, err := keys.RecoveryKey()
	if err != nil {
		return fmt.Errorf("making the recovery key: %w", err)
	}
	if err := m.Table().Make(ctx, disk.Path, PartitionOptions{RecoveryKey: key, BindPrograms: bindPrograms}); err != nil {
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
