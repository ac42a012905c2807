package lab

import (
	"context"
	"fmt"
	"maps"
	"os"

	"github.com/holdfast-os/holdfast/internal/system/qemu"
	"github.com/holdfast-os/holdfast/internal/system/swtpm"
)

// makeParts makes what the machine needs before its first start.
func (u *up) makeParts(ctx context.Context, cert []byte) error {
	for i, disk := range u.s.Machine.Disks {
		if disk.Removable {
			continue
		}
		if err := blankDisk(disk.Path, diskSizes(u.o.Hardware)[i]); err != nil {
			return err
		}
	}
	if u.s.Machine.Vars != "" {
		if err := qemu.CopySparse(u.s.Machine.Vars, orText(u.o.Vars, u.tools.File("usr/share/OVMF/OVMF_VARS_4M.fd"))); err != nil {
			return fmt.Errorf("making the firmware variables: %w", err)
		}
	}
	if u.s.Machine.TPM != "" {
		if err := swtpm.Setup(ctx, u.runner, u.tools, u.d.tpm()); err != nil {
			return err
		}
	}
	if u.o.Hardware.NoMedium && !u.o.Hardware.Live {
		return nil
	}
	if u.o.Medium != "" {
		return qemu.CopySparse(u.d.file("medium.raw"), u.o.Medium)
	}
	in := seedInput{ClientCert: cert, ReleasePort: u.s.ReleasePort, Replace: u.o.Seed}
	if u.o.Hardware.Live {
		in.Replace = maps.Clone(in.Replace)
		if in.Replace == nil {
			in.Replace = map[string]any{}
		}
		in.Replace["install"] = nil
	}
	files, err := seedFiles(in)
	if err != nil {
		return err
	}
	if u.o.SealSeed {
		var keys []string
		if files, keys, err = sealed(files, u.o.Passphrase); err != nil {
			return err
		}
		u.s.Machine.SMBIOS = append(u.s.Machine.SMBIOS, keys...)
	}
	if u.o.Hardware.SeedStick != "" {
		if err := u.makeStick(ctx, files); err != nil {
			return err
		}
		files = nil
	}
	if u.o.Disk != "" {
		return u.takeDisk(ctx)
	}
	archive, err := seedArchive(files)
	if err != nil {
		return err
	}
	return u.makeMedia(archive)
}

// takeDisk makes the first disk of a file that is a disk already.
func (u *up) takeDisk(ctx context.Context) error {
	disk := &u.s.Machine.Disks[0]
	if err := qemu.CopySparse(disk.Path, u.o.Disk); err != nil {
		return err
	}
	disk.Format = "qcow2"
	size := fmt.Sprintf("%dG", diskSizes(u.o.Hardware)[0])
	if _, err := u.runner(ctx, u.tools.Command("qemu-img", "resize", "-q", disk.Path, size)); err != nil {
		return fmt.Errorf("making the disk %s: %w", disk.Path, err)
	}
	return nil
}

// makeMedia writes the image to what the machine is started from.
func (u *up) makeMedia(seed []byte) error {
	if u.o.Hardware.Live {
		disk := u.s.Machine.Disks[0].Path
		if err := makeMedium(disk, u.o.BuildDir, u.s.Release, seed); err != nil {
			return err
		}
		if err := os.Truncate(disk, int64(diskSizes(u.o.Hardware)[0])<<30); err != nil {
			return fmt.Errorf("making the disk %s: %w", disk, err)
		}
		return nil
	}
	medium := u.d.file("medium.raw")
	if err := makeMedium(medium, u.o.BuildDir, u.s.Release, seed); err != nil {
		return err
	}
	if u.o.Hardware.MediumBus == qemu.CDROM {
		return makeCD(medium)
	}
	return nil
}

func blankDisk(path string, gib int) error {
	if err := writeFile(path, nil); err != nil {
		return err
	}
	if err := os.Truncate(path, int64(gib)<<30); err != nil {
		return fmt.Errorf("making the disk %s: %w", path, err)
	}
	return nil
}
