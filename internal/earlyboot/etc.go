package earlyboot

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/holdfast-os/holdfast/internal/bootinfo"
)

// factoryEtc is the template of /etc in the verified /usr.
const factoryEtc = "usr/share/factory/etc"

// MakeEtc fills /sysroot/etc, a fresh tmpfs, from the image's template, so that no
// node ever drifts from its release: what an owner configures is kept in
// /var/lib/incus-os and applied at each start. It also mounts the ESP at /boot, by its
// device: a label could be on a second disk as well.
func (h Host) MakeEtc(info bootinfo.Info) error {
	target := filepath.Join(h.paths.Sysroot, "etc")
	if err := os.MkdirAll(target, 0o755); err != nil {
		return fmt.Errorf("making %s: %w", target, err)
	}
	if err := h.mounts.Mount("tmpfs", target, "tmpfs", unix.MS_NODEV|unix.MS_NOSUID|unix.MS_NOEXEC, "mode=0755,size=64M"); err != nil {
		return fmt.Errorf("mounting a tmpfs at %s: %w", target, err)
	}
	if err := copyTree(filepath.Join(h.paths.Sysusr, factoryEtc), target); err != nil {
		return fmt.Errorf("copying the template of /etc: %w", err)
	}
	id, err := h.machineID(info)
	if err != nil {
		return err
	}
	if err := os.WriteFile(target+"/machine-id", []byte(id+"\n"), 0o444); err != nil {
		return fmt.Errorf("writing the machine id: %w", err)
	}
	if err := h.writeMultipath(info, target); err != nil {
		// The disk stays as early boot has joined it.
		fmt.Fprintln(os.Stderr, "starting without multipathd:", err)
	}
	if info.Mode == bootinfo.Install {
		return nil
	}
	if err := h.writeModuleFiles(); err != nil {
		// The daemon meets the same file, has a copy to go back to, and says so to the owner.
		fmt.Fprintln(os.Stderr, "starting without the owner's list of kernel modules:", err)
	}
	if err := h.mountBoot(info.ESP); err != nil {
		// What needs it says so, and the node is within reach.
		fmt.Fprintln(os.Stderr, "starting without the ESP at /boot:", err)
	}
	return h.writeTrial()
}

// bootCount is there when the boot loader counts this start: the release is on trial.
const bootCount = "firmware/efi/efivars/LoaderBootCountPath-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"

// TrialDropIn makes a daemon that ends again and again in a trial leave the release; below
// /run. The daemon removes it with the trial.
const TrialDropIn = "systemd/system/holdfastd.service.d/50-trial.conf"

// writeTrial has the service manager watch over a start that the boot loader counts: what
// is in the new release cannot be trusted to watch over itself.
func (h Host) writeTrial() error {
	if _, err := os.Stat(filepath.Join(h.paths.Sys, bootCount)); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return fmt.Errorf("looking whether this start is counted: %w", err)
	}
	dropIn := filepath.Join(h.paths.Run, TrialDropIn)
	wants := filepath.Join(h.paths.Run, "systemd/system/sysinit.target.wants")
	for _, dir := range []string{filepath.Dir(dropIn), wants} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("making %s: %w", dir, err)
		}
	}
	text := "[Unit]\nStartLimitIntervalSec=300\nStartLimitBurst=4\nOnFailure=holdfast-trial.service\n"
	if err := os.WriteFile(dropIn, []byte(text), 0o644); err != nil {
		return fmt.Errorf("watching over the trial: %w", err)
	}
	err := os.Symlink("/usr/lib/systemd/system/holdfast-trial.timer", wants+"/holdfast-trial.timer")
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("watching over the trial: %w", err)
	}
	return nil
}

func (h Host) machineID(info bootinfo.Info) (string, error) {
	if info.Mode == bootinfo.Install {
		return NewMachineID()
	}
	raw, err := os.ReadFile(filepath.Join(h.paths.Sysroot, MachineIDFile))
	if err != nil {
		return "", fmt.Errorf("reading the machine id: %w", err)
	}
	return strings.TrimSpace(string(raw)), nil
}

// mountBoot mounts the ESP at /boot of the system that is about to start. By a unit of its own
// it would wait there until udev has looked at every device once more, and all the rest with it.
func (h Host) mountBoot(esp string) error {
	if esp == "" {
		return errors.New("the note of early boot names no EFI system partition")
	}
	target := filepath.Join(h.paths.Sysroot, "boot")
	if err := os.MkdirAll(target, 0o755); err != nil {
		return fmt.Errorf("making %s: %w", target, err)
	}
	return h.mounts.Mount(esp, target, "vfat", espFlags, "umask=0077")
}

// copyTree copies folders, files and symbolic links with owner and mode.
func copyTree(from, to string) error {
	return filepath.WalkDir(from, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		return copyEntry(path, filepath.Join(to, name), entry)
	})
}

func copyEntry(from, to string, entry fs.DirEntry) error {
	info, err := entry.Info()
	if err != nil {
		return err
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return fmt.Errorf("%s has no owner", from)
	}
	switch {
	case entry.IsDir():
		if err := os.MkdirAll(to, 0o755); err != nil {
			return err
		}
	case entry.Type() == fs.ModeSymlink:
		target, err := os.Readlink(from)
		if err != nil {
			return err
		}
		return os.Symlink(target, to)
	case entry.Type().IsRegular():
		if err := copyFile(from, to); err != nil {
			return err
		}
	default:
		return nil
	}
	if err := os.Chown(to, int(owner.Uid), int(owner.Gid)); err != nil {
		return err
	}
	return os.Chmod(to, info.Mode().Perm())
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}
