package cli

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/lxc/incus/v6/shared/units"
	"github.com/spf13/cobra"

	"github.com/holdfast-os/holdfast/internal/layout"
	"github.com/holdfast-os/holdfast/internal/media"
)

var convertFormats = []string{"raw", "qcow2", "vmdk", "ova", "vhdx"}

func imageConvertCommand(env *Env) *cobra.Command {
	var format, diskSize string
	c := &cobra.Command{
		Use:   "convert IMAGE OUT",
		Short: "Make a disk for another hypervisor",
		Long: "Make a disk for another hypervisor out of an image of any form that `inspect` reads.\n\n" +
			"vmdk and ova are made by holdfast itself, and the same image gives the same bytes; for\n" +
			"qcow2 and vhdx qemu-img is needed.",
		Example: "  holdfast image convert Holdfast.img.gz Holdfast.qcow2 --format qcow2\n" +
			"  holdfast image convert Holdfast.img Holdfast.ova --format ova --disk-size 100GiB",
		Args: args("IMAGE", "OUT"),
	}
	c.Flags().StringVar(&format, "format", "", strings.Join(convertFormats, ", ")+" (default by the ending of OUT)")
	c.Flags().StringVar(&diskSize, "disk-size", "", "size of the disk in a vmdk or ova (default that of the image; in an ova 50GiB)")
	c.RunE = func(c *cobra.Command, args []string) error {
		if format == "" {
			format = strings.TrimPrefix(filepath.Ext(args[1]), ".")
		}
		if !slices.Contains(convertFormats, format) {
			return usage(c, fmt.Errorf("--format %q: want %s", format, strings.Join(convertFormats, ", ")))
		}
		if diskSize != "" && format != "vmdk" && format != "ova" {
			return usage(c, errors.New("--disk-size is for vmdk and ova: other disks are enlarged with the hypervisor's own tool"))
		}
		size, err := parseDiskSize(diskSize)
		if err != nil {
			return usage(c, err)
		}
		if err := convertImage(c.Context(), env, args[0], args[1], format, size); err != nil {
			return err
		}
		return write(env.Stdout, fmt.Appendf(nil, "Wrote %s\n", clean(args[1])))
	}
	return c
}

func parseDiskSize(text string) (int64, error) {
	if text == "" {
		return 0, nil
	}
	size, err := units.ParseByteSizeString(text)
	if err != nil || size <= 0 || size > 64<<40 {
		return 0, fmt.Errorf("--disk-size %q: want a size as 100GiB, at most 64TiB", text)
	}
	return size, nil
}

// defaultOVA is the size of a machine's disk: enough for the system and some instances.
const defaultOVA = 50 * layout.GiB

func convertImage(ctx context.Context, env *Env, from, to, format string, diskSize int64) (err error) {
	image, err := openImage(ctx, env, from)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, image.close()) }()
	// What is no image of ours is not converted: it would start nowhere.
	table, err := media.ReadTable(image, image.size)
	if err != nil {
		return fmt.Errorf("looking into %s: %w", from, err)
	}
	kind, err := table.KindOf()
	if err != nil {
		return fmt.Errorf("looking into %s: %w", from, err)
	}
	if err := table.CheckWhole(image.size); err != nil {
		return cutImage(fmt.Errorf("looking into %s: %w", from, err))
	}
	if table.Sector != 512 {
		return fmt.Errorf("%s is an image for a CD, and no disk: begin with the raw image", from)
	}
	if diskSize != 0 && diskSize < image.size {
		return fmt.Errorf("--disk-size: the image has %s, a disk of %s is too small", bytesText(uint64(image.size)), bytesText(uint64(diskSize)))
	}
	switch format {
	case "raw":
		return newImage(to, func(out io.Writer) error {
			_, err := io.Copy(struct{ io.Writer }{out}, contextReader{ctx, io.NewSectionReader(image, 0, image.size)})
			return err
		})
	case "vmdk":
		return newImage(to, func(out io.Writer) error {
			return media.WriteVMDK(ctx, out, image, max(diskSize, image.size), to)
		})
	case "ova":
		if diskSize == 0 {
			diskSize = max(defaultOVA, image.size)
		}
		return writeOVA(ctx, image, to, kind, diskSize)
	}
	return convertWithQemu(ctx, env, image, to, format)
}

// convertWithQemu hands the image over as a file: it may have been unpacked.
func convertWithQemu(ctx context.Context, env *Env, image openedImage, to, format string) error {
	f, ok := image.ReaderAt.(*os.File)
	if !ok {
		return errors.New("converting: the image is no file")
	}
	if _, err := os.Lstat(to); !errors.Is(err, fs.ErrNotExist) {
		return withTry(fmt.Errorf("writing %s: %w", to, fs.ErrExist), "another name, or remove it first")
	}
	part := to + ".part"
	if err := qemuImg(env).Convert(ctx, f.Name(), "raw", part, format); err != nil {
		if removed := os.Remove(part); removed != nil && !errors.Is(removed, fs.ErrNotExist) {
			err = errors.Join(err, removed)
		}
		return noQemuImg(err)
	}
	if err := errors.Join(os.Chmod(part, 0o600), os.Rename(part, to)); err != nil {
		return fmt.Errorf("writing the image: %w", err)
	}
	return nil
}

// writeOVA packs the disk twice: its size and sum stand before it.
func writeOVA(ctx context.Context, image openedImage, to string, kind media.Kind, size int64) (err error) {
	name := layout.Name + "_" + kind.Version
	disk := to + ".disk.part"
	if err := os.Remove(disk); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing what an earlier try left: %w", err)
	}
	f, err := os.OpenFile(disk, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("making the disk: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close(), os.Remove(disk)) }()
	sum := sha256.New()
	if err := media.WriteVMDK(ctx, io.MultiWriter(f, sum), image, size, name+"-disk1.vmdk"); err != nil {
		return err
	}
	length, err := f.Seek(0, io.SeekCurrent)
	if err != nil {
		return fmt.Errorf("making the disk: %w", err)
	}
	return newImage(to, func(out io.Writer) error {
		return media.WriteOVA(out, media.OVA{Name: name, Kind: kind, Capacity: size,
			Disk: contextReader{ctx, io.NewSectionReader(f, 0, length)}, DiskSize: length, DiskSHA256: hex.EncodeToString(sum.Sum(nil))})
	})
}
