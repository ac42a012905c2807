package earlyboot

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
	"unicode/utf16"

	"golang.org/x/sys/unix"

	"github.com/holdfast-os/holdfast/internal/system/run"
)

// Host is the Machine of a real initrd.
type Host struct {
	Run run.Runner
	// Wait is how long the system disk may take to appear.
	Wait time.Duration
}

const (
	sysroot      = "/sysroot"
	repartDir    = "/sysusr/usr/lib/repart.d"
	loaderDevice = "/sys/firmware/efi/efivars/LoaderDevicePartUUID-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"
	rootMapper   = "/dev/mapper/root"
)

// SystemDisk finds the ESP by the unique id that the boot loader left in a firmware
// variable, and its disk with all partitions through sysfs.
func (h Host) SystemDisk(ctx context.Context) (Disk, error) {
	raw, err := os.ReadFile(loaderDevice)
	if errors.Is(err, fs.ErrNotExist) {
		return Disk{}, errors.New("the firmware has no variable LoaderDevicePartUUID: Holdfast starts only by UEFI and systemd-boot; set the machine's firmware to UEFI mode")
	}
	if err != nil {
		return Disk{}, fmt.Errorf("reading the firmware variable LoaderDevicePartUUID: %w", err)
	}
	id := strings.ToLower(decodeUTF16(raw))
	link := "/dev/disk/by-partuuid/" + id
	esp, err := waitFor(ctx, link, h.Wait)
	if err != nil {
		return Disk{}, err
	}
	return diskOf("/sys/class/block", filepath.Base(esp))
}

// diskOf reads the disk of a partition below sysfs' class/block.
func diskOf(class, partition string) (Disk, error) {
	resolved, err := filepath.EvalSymlinks(filepath.Join(class, partition))
	if err != nil {
		return Disk{}, fmt.Errorf("finding %s in sysfs: %w", partition, err)
	}
	parent := filepath.Dir(resolved)
	disk := Disk{Path: "/dev/" + filepath.Base(parent), Partitions: map[int]string{}}
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
		disk.Partitions[number] = "/dev/" + entry.Name()
	}
	return disk, nil
}

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

func decodeUTF16(variable []byte) string {
	if len(variable) < 4 {
		return ""
	}
	var units []uint16
	for body := variable[4:]; len(body) >= 2; body = body[2:] {
		if unit := uint16(body[0]) | uint16(body[1])<<8; unit != 0 {
			units = append(units, unit)
		}
	}
	return string(utf16.Decode(units))
}

// Partition runs systemd-repart with the definitions of the verified /usr. The new
// volumes get two ways to open: the recovery key, and the TPM with PCR 7, the signed
// policy for PCR 11 and PCR 15 at zero.
func (h Host) Partition(ctx context.Context, disk, recoveryKey string) error {
	const keyFile = "/run/holdfast/recovery.key"
	if err := os.MkdirAll(filepath.Dir(keyFile), 0o755); err != nil {
		return fmt.Errorf("making a place for the key: %w", err)
	}
	if err := os.WriteFile(keyFile, []byte(recoveryKey), 0o400); err != nil {
		return fmt.Errorf("writing the key for systemd-repart: %w", err)
	}
	defer os.Remove(keyFile)
	_, err := h.Run(ctx, run.Command{Name: "systemd-repart", Args: []string{
		"--dry-run=no", "--no-pager", "--definitions=" + repartDir, "--key-file=" + keyFile,
		"--tpm2-device=auto", "--tpm2-pcrs=7+15:sha256=" + strings.Repeat("0", 64),
		"--tpm2-public-key=/run/systemd/tpm2-pcr-public-key.pem", "--tpm2-public-key-pcrs=11",
		disk,
	}})
	if err != nil {
		return err
	}
	return h.settle(ctx)
}

// RemovePartitions deletes partitions that an interrupted first boot left.
func (h Host) RemovePartitions(ctx context.Context, disk string, numbers ...int) error {
	args := []string{"--no-reread", "--force", "--delete", disk}
	for _, number := range numbers {
		args = append(args, strconv.Itoa(number))
	}
	if _, err := h.Run(ctx, run.Command{Name: "sfdisk", Args: args}); err != nil {
		return err
	}
	unix.Sync()
	return nil
}

func (h Host) settle(ctx context.Context) error {
	_, err := h.Run(ctx, run.Command{Name: "udevadm", Args: []string{"settle", "--timeout=60"}})
	return err
}

// Unlock opens the volume with systemd-cryptsetup, which measures the volume key into
// PCR 15, refuses a volume that is not encrypted for real, checks the file system and
// mounts it.
func (h Host) Unlock(ctx context.Context, device string, ask bool) error {
	options := "luks,tpm2-device=auto,tpm2-measure-pcr=yes,headless=yes,timeout=60"
	if ask {
		options = "luks,tries=0,timeout=0"
	}
	if _, err := h.Run(ctx, run.Command{Name: "/usr/bin/systemd-cryptsetup", Args: []string{"attach", "root", device, "-", options}}); err != nil {
		return err
	}
	if err := h.checkCipher(ctx); err != nil {
		return errors.Join(err, h.detach(ctx))
	}
	_, err := h.Run(ctx, run.Command{Name: "fsck.ext4", Args: []string{"-p", rootMapper}})
	// 1: errors were corrected.
	if code, ran := run.ExitCode(err); err != nil && (!ran || code > 1) {
		return errors.Join(fmt.Errorf("checking the file system of the root volume: %w", err), h.detach(ctx))
	}
	flags := uintptr(unix.MS_NODEV | unix.MS_NOSUID | unix.MS_NOEXEC)
	if err := unix.Mount(rootMapper, sysroot, "ext4", flags, ""); err != nil {
		return errors.Join(fmt.Errorf("mounting %s: %w", rootMapper, err), h.detach(ctx))
	}
	return nil
}

// checkCipher refuses a volume whose header was changed to a cipher that hides nothing:
// the header of LUKS2 is not authenticated.
func (h Host) checkCipher(ctx context.Context) error {
	result, err := h.Run(ctx, run.Command{Name: "dmsetup", Args: []string{"table", "root"}})
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
	_, err := h.Run(ctx, run.Command{Name: "/usr/bin/systemd-cryptsetup", Args: []string{"detach", "root"}})
	return err
}

// Root gives the files under /sysroot.
func (h Host) Root() RootFiles { return hostRoot{h} }

type hostRoot struct{ host Host }

func (r hostRoot) MountTemporary() error {
	if err := unix.Mount("tmpfs", sysroot, "tmpfs", unix.MS_NODEV|unix.MS_NOSUID, "mode=0755,size=50%"); err != nil {
		return fmt.Errorf("mounting a tmpfs at %s: %w", sysroot, err)
	}
	return nil
}

func (r hostRoot) Unmount(ctx context.Context) error {
	if err := unix.Unmount(sysroot, 0); err != nil {
		return fmt.Errorf("unmounting %s: %w", sysroot, err)
	}
	return r.host.detach(ctx)
}

func (r hostRoot) Exists(name string) (bool, error) {
	_, err := os.Stat(filepath.Join(sysroot, name))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

func (r hostRoot) WriteNew(name, content string) error {
	path := filepath.Join(sysroot, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	// The folders above the state belong to everybody; the umask may say otherwise.
	for _, dir := range []string{sysroot, sysroot + "/var", sysroot + "/var/lib"} {
		if err := os.Chmod(dir, 0o755); err != nil {
			return err
		}
	}
	f, err := os.OpenFile(path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o400)
	if err != nil {
		return err
	}
	if _, err := io.WriteString(f, content); err != nil {
		return errors.Join(err, f.Close())
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(path+".new", path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(unix.Syncfs(int(dir.Fd())), dir.Close())
}

// NewMachineID makes a machine id as machine-id(5) has it: a random UUID (version 4)
// in 32 lower-case hexadecimal digits.
func NewMachineID() (string, error) {
	var id [16]byte
	if _, err := rand.Read(id[:]); err != nil {
		return "", fmt.Errorf("reading random bytes: %w", err)
	}
	id[6] = id[6]&0x0f | 0x40
	id[8] = id[8]&0x3f | 0x80
	return hex.EncodeToString(id[:]), nil
}

// option gives the value of name=value on a kernel command line, or nothing.
func option(cmdline, name string) string {
	for _, word := range strings.Fields(cmdline) {
		if value, found := strings.CutPrefix(word, name+"="); found {
			return value
		}
	}
	return ""
}
