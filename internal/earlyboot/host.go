package earlyboot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode/utf16"

	"golang.org/x/sys/unix"

	"github.com/holdfast-os/holdfast/internal/system/loop"
	"github.com/holdfast-os/holdfast/internal/system/multipath"
	"github.com/holdfast-os/holdfast/internal/system/run"
	"github.com/holdfast-os/holdfast/internal/system/tpm2clear"
)

// Host is the Machine of a real initrd. NewHost makes one.
type Host struct {
	run    run.Runner
	paths  Paths
	mounts Mounter
	wait   time.Duration
	pause  time.Duration
	clear  func() error
}

// HostOptions are the parts of a Host that a test replaces.
type HostOptions struct {
	// Run starts programs; default run.Host.
	Run run.Runner
	// Paths are the directories.
	Paths Paths
	// Mounts mounts; default the kernel.
	Mounts Mounter
	// Wait is how long the system disk may take to appear; default 10 minutes.
	Wait time.Duration
	// Pause is how long a warning stays on the screen; default 30 seconds.
	Pause time.Duration
	// ClearTPM makes the TPM forget its keys; default that of this machine.
	ClearTPM func() error
}

// NewHost fills in the defaults.
func NewHost(o HostOptions) Host {
	h := Host{run: o.Run, paths: o.Paths.withDefaults(), mounts: o.Mounts, wait: o.Wait, pause: o.Pause, clear: o.ClearTPM}
	if h.run == nil {
		h.run = run.Host
	}
	if h.mounts == nil {
		h.mounts = kernelMounts{}
	}
	if h.wait == 0 {
		h.wait = 10 * time.Minute
	}
	if h.pause == 0 {
		h.pause = 30 * time.Second
	}
	if h.clear == nil {
		h.clear = tpm2clear.TPM{}.Clear
	}
	return h
}

const (
	repartDir    = "usr/lib/repart.d"
	loaderDevice = "firmware/efi/efivars/LoaderDevicePartUUID-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"
	rootMapper   = "/dev/mapper/root"
	cryptsetup   = "/usr/bin/systemd-cryptsetup"
	tpmPublicKey = "systemd/tpm2-pcr-public-key.pem"
)

var partUUID = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)

// SystemDisk finds the ESP by the unique id that the boot loader left in a firmware
// variable, and its disk with all partitions through sysfs. Firmware that starts a CD by El
// Torito knows no partition: the disk then is the CD that FindMedium has attached.
func (h Host) SystemDisk(ctx context.Context) (Disk, error) {
	id, err := h.bootedPartition()
	if errors.Is(err, fs.ErrNotExist) {
		if attached, readErr := os.ReadFile(filepath.Join(h.paths.Run, mediumNote)); readErr == nil {
			return h.diskOf(filepath.Base(strings.TrimSpace(string(attached))) + "p" + strconv.Itoa(partESP))
		}
		return Disk{}, errors.New("the firmware has no variable LoaderDevicePartUUID: Holdfast starts only by UEFI and systemd-boot; set the machine's firmware to UEFI mode")
	}
	if err != nil {
		return Disk{}, err
	}
	esp, err := waitFor(ctx, filepath.Join(h.paths.Dev, "disk/by-partuuid", id), h.wait)
	if err != nil {
		return Disk{}, err
	}
	return h.diskOf(filepath.Base(esp))
}

// bootedPartition is the id of the partition that the boot loader was read from, in lower
// case; fs.ErrNotExist when it left none.
func (h Host) bootedPartition() (string, error) {
	raw, err := os.ReadFile(filepath.Join(h.paths.Sys, loaderDevice))
	if err != nil {
		return "", fmt.Errorf("reading the firmware variable LoaderDevicePartUUID: %w", err)
	}
	id := strings.ToLower(decodeUTF16(raw))
	if !partUUID.MatchString(id) {
		return "", fmt.Errorf("the firmware variable LoaderDevicePartUUID has %q, which is no partition's id", id)
	}
	return id, nil
}

// diskOf reads the disk of a partition in sysfs.
func (h Host) diskOf(partition string) (Disk, error) {
	joined, number, err := h.maps().Partition(partition)
	if err != nil {
		return Disk{}, err
	}
	if number != 0 {
		return h.joinedDisk(joined)
	}
	resolved, err := filepath.EvalSymlinks(filepath.Join(h.paths.Sys, "class/block", partition))
	if err != nil {
		return Disk{}, fmt.Errorf("finding %s in sysfs: %w", partition, err)
	}
	parent := filepath.Dir(resolved)
	disk := Disk{Path: devicePath(filepath.Base(parent)), Partitions: map[int]string{}}
	if err := h.describe(parent, &disk); err != nil {
		return Disk{}, fmt.Errorf("looking at %s: %w", disk.Path, err)
	}
	entries, err := os.ReadDir(parent)
	if err != nil {
		return Disk{}, fmt.Errorf("listing the partitions of %s: %w", disk.Path, err)
	}
	for _, entry := range entries {
		text, err := os.ReadFile(filepath.Join(parent, entry.Name(), "partition"))
		if err != nil {
			continue // not a partition
		}
		number, err := strconv.Atoi(strings.TrimSpace(string(text)))
		if err != nil {
			return Disk{}, fmt.Errorf("reading the number of %s: %w", entry.Name(), err)
		}
		disk.Partitions[number] = devicePath(entry.Name())
	}
	return disk, nil
}

// joinedDisk is a disk that is made of paths, as "dm-0".
func (h Host) joinedDisk(device string) (Disk, error) {
	path, err := h.maps().Path(device)
	if err != nil {
		return Disk{}, err
	}
	disk := Disk{Path: path}
	if err := h.describe(filepath.Join(h.paths.Sys, "class/block", device), &disk); err != nil {
		return Disk{}, fmt.Errorf("looking at %s: %w", path, err)
	}
	disk.Partitions, err = h.maps().Partitions(device)
	return disk, err
}

func (h Host) maps() multipath.Devices { return multipath.Devices{Run: h.run, Sys: h.paths.Sys} }

// describe fills in what sysfs says of the whole disk.
func (h Host) describe(dir string, disk *Disk) error {
	number := func(name string) (int64, error) {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return 0, err
		}
		return strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	}
	const sector = 512 // whatever the disk has, sysfs counts in these
	sectors, err := number("size")
	if err != nil {
		return fmt.Errorf("reading its size: %w", err)
	}
	readOnly, err := number("ro")
	if err != nil {
		return fmt.Errorf("reading whether it can be written: %w", err)
	}
	disk.Size, disk.ReadOnly, disk.Medium = sectors*sector, readOnly != 0, disk.Path
	backing, err := loop.Backing(h.paths.Sys, disk.Path)
	if err == nil && backing != "" {
		disk.Medium = backing
	}
	return err
}

// devicePath is the node of a device that sysfs names; "!" stands for "/" there.
func devicePath(name string) string { return "/dev/" + strings.ReplaceAll(name, "!", "/") }

// waitFor waits until a link below /dev/disk exists, and resolves it.
func waitFor(ctx context.Context, link string, limit time.Duration) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		if target, err := filepath.EvalSymlinks(link); err == nil {
			return target, nil
		}
		select {
		case <-ctx.Done():
			return "", fmt.Errorf("%s did not appear within %s: the disk that the firmware booted from is not seen by the kernel; its driver may be missing", link, limit)
		case <-tick.C:
		}
	}
}

// decodeUTF16 gives the text of a firmware variable: 4 bytes of attributes, then
// UTF-16 up to a NUL.
func decodeUTF16(variable []byte) string {
	if len(variable) < 4 {
		return ""
	}
	var units []uint16
	for body := variable[4:]; len(body) >= 2; body = body[2:] {
		unit := uint16(body[0]) | uint16(body[1])<<8
		if unit == 0 {
			break
		}
		units = append(units, unit)
	}
	return string(utf16.Decode(units))
}

// Table changes partition tables.
func (h Host) Table() Table { return hostTable{h} }

type hostTable struct{ Host }

// Make runs systemd-repart with the definitions of the verified /usr. The new volumes get
// two ways to open: the recovery key, and the TPM with PCR 7, the signed policy for PCR 11
// and PCR 15 at zero; with BindPrograms PCR 4 as well.
func (h hostTable) Make(ctx context.Context, disk string, o PartitionOptions) error {
	keyFile := filepath.Join(h.paths.Run, "holdfast/recovery.key")
	if err := os.MkdirAll(filepath.Dir(keyFile), 0o755); err != nil {
		return fmt.Errorf("making a place for the key: %w", err)
	}
	if err := os.WriteFile(keyFile, []byte(o.RecoveryKey), 0o400); err != nil {
		return fmt.Errorf("writing the key for systemd-repart: %w", err)
	}
	defer os.Remove(keyFile)
	registers := "7+15:sha256=" + strings.Repeat("0", 64)
	if o.BindPrograms {
		registers = "4+" + registers
	}
	_, err := h.run(ctx, run.Command{Name: "systemd-repart", Args: []string{
		"--dry-run=no", "--no-pager", "--definitions=" + filepath.Join(h.paths.Sysusr, repartDir), "--key-file=" + keyFile,
		"--tpm2-device=auto", "--tpm2-pcrs=" + registers,
		"--tpm2-public-key=" + filepath.Join(h.paths.Run, tpmPublicKey), "--tpm2-public-key-pcrs=11",
		disk,
	}})
	if err != nil {
		return err
	}
	if err := h.updateMap(ctx, disk); err != nil {
		return err
	}
	return h.settle(ctx)
}

// updateMap maps the partitions of a disk that is made of paths; of any other the kernel knows
// them.
func (h Host) updateMap(ctx context.Context, disk string) error {
	device, err := filepath.EvalSymlinks(filepath.Join(h.paths.Dev, strings.TrimPrefix(disk, "/dev/")))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // no link, and a map has one
	}
	if err != nil {
		return fmt.Errorf("looking for %s: %w", disk, err)
	}
	joined, err := h.maps().IsMap(filepath.Base(device))
	if err != nil || !joined {
		return err
	}
	return h.maps().Update(ctx, disk)
}

// Remove deletes partitions that an interrupted first boot or a factory reset left.
func (h hostTable) Remove(ctx context.Context, disk string, numbers ...int) error {
	args := []string{"--no-reread", "--force", "--delete", disk}
	for _, number := range numbers {
		args = append(args, strconv.Itoa(number))
	}
	if _, err := h.run(ctx, run.Command{Name: "sfdisk", Args: args}); err != nil {
		return err
	}
	unix.Sync()
	return nil
}

func (h Host) settle(ctx context.Context) error {
	_, err := h.run(ctx, run.Command{Name: "udevadm", Args: []string{"settle", "--timeout=60"}})
	return err
}

// Unlock opens the volume with systemd-cryptsetup, which measures the volume key into
// PCR 15 whatever opened it, refuses a volume that is not encrypted for real, checks
// the file system and mounts it.
func (h Host) Unlock(ctx context.Context, device string, ask bool) error {
	options := "luks,tpm2-device=auto,tpm2-measure-pcr=yes,headless=yes,timeout=60"
	if ask {
		options = "luks,tpm2-measure-pcr=yes,tries=0,timeout=0"
	}
	if _, err := h.run(ctx, run.Command{Name: cryptsetup, Args: []string{"attach", "root", device, "-", options}}); err != nil {
		return fmt.Errorf("%w: %w", ErrLocked, err)
	}
	if err := h.mountRoot(ctx); err != nil {
		return errors.Join(err, h.detach(ctx))
	}
	return nil
}

func (h Host) mountRoot(ctx context.Context) error {
	if err := h.checkCipher(ctx); err != nil {
		return err
	}
	_, err := h.run(ctx, run.Command{Name: "fsck.ext4", Args: []string{"-p", rootMapper}})
	// 1: errors were corrected.
	if code, ran := run.ExitCode(err); err != nil && (!ran || code > 1) {
		return fmt.Errorf("checking the file system of the root volume: %w", err)
	}
	if err := os.MkdirAll(h.paths.Sysroot, 0o755); err != nil {
		return fmt.Errorf("making %s: %w", h.paths.Sysroot, err)
	}
	flags := uintptr(unix.MS_NODEV | unix.MS_NOSUID | unix.MS_NOEXEC)
	if err := h.mounts.Mount(rootMapper, h.paths.Sysroot, "ext4", flags, ""); err != nil {
		return fmt.Errorf("mounting %s: %w", rootMapper, err)
	}
	return nil
}

// checkCipher refuses a volume whose header was changed to a cipher that hides nothing:
// the header of LUKS2 is not authenticated.
func (h Host) checkCipher(ctx context.Context) error {
	result, err := h.run(ctx, run.Command{Name: "dmsetup", Args: []string{"table", "root"}})
	if err != nil {
		return fmt.Errorf("reading the mapping of the root volume: %w", err)
	}
	fields := strings.Fields(string(result.Stdout))
	if len(fields) < 4 || fields[2] != "crypt" || fields[3] != "aes-xts-plain64" {
		return errors.New("the root volume is not encrypted with aes-xts-plain64: its header was changed; reinstall this node, or restore the header from a backup")
	}
	return nil
}

func (h Host) detach(ctx context.Context) error {
	_, err := h.run(ctx, run.Command{Name: cryptsetup, Args: []string{"detach", "root"}})
	return err
}
