package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/holdfast-os/holdfast/internal/media"
	"github.com/holdfast-os/holdfast/internal/system/block"
	"github.com/holdfast-os/holdfast/internal/system/disks"
)

func imageFlashCommand(env *Env) *cobra.Command {
	var force bool
	var confirm string
	c := &cobra.Command{
		Use:   "flash IMAGE DEVICE",
		Short: "Write an image to a USB stick, and read it back",
		Long: "Write an image (raw or .gz) to a USB stick, and read it back.\n\n" +
			"All that is on the device is lost. It is shown before, and its serial number has to be\n" +
			"typed (the model where there is none). A device that is mounted, in use, read-only or too\n" +
			"small is refused, and so is one that cannot be taken out, unless --force is given.",
		Example: "  holdfast image flash Holdfast.img.gz /dev/sdb\n" +
			"  holdfast image flash Holdfast.img /dev/sdb --confirm 4C530001",
		Args: args("IMAGE", "DEVICE"),
	}
	c.Flags().BoolVar(&force, "force", false, "write to a disk that cannot be taken out, too")
	c.Flags().StringVar(&confirm, "confirm", "", "serial number of the device, instead of the question")
	c.RunE = func(c *cobra.Command, args []string) error {
		return flash(c.Context(), env, args[0], args[1], force, confirm)
	}
	return c
}

func flash(ctx context.Context, env *Env, image, device string, force bool, confirm string) (err error) {
	need, err := imageNeeds(image)
	if err != nil {
		return err
	}
	found, err := disks.Describe(ctx, env.Run, device)
	if errors.Is(err, disks.ErrNotDevice) {
		return withTry(err, "lsblk, which lists the disks; an image is copied to a file with cp")
	}
	if err != nil {
		return err
	}
	disk := media.Disk{Path: found.Path, Model: found.Model, Serial: found.Serial, Transport: found.Transport, Kind: found.Kind,
		Size: found.Size, Removable: found.Removable, ReadOnly: found.ReadOnly, Mounts: found.Mounts, Users: found.Users, Contents: found.Contents}
	if err := showDisk(env, disk); err != nil {
		return err
	}
	if err := media.CheckDisk(disk, need, force); err != nil {
		return fmt.Errorf("the image is not written: %w", err)
	}
	if err := confirmDisk(env, disk, confirm); err != nil {
		return err
	}
	taken, err := disks.Take(disk.Path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, taken.Close()) }()
	room, sector, err := taken.Size()
	if err != nil {
		return err
	}
	if sector != 512 {
		return fmt.Errorf("writing to %s: it has sectors of %d bytes, and the image is for 512: use another device", disk.Path, sector)
	}
	in, done, err := openStream(image)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, done()) }()
	size, err := media.Flash(ctx, in, taken, room, flashProgress(env, need))
	if err != nil {
		return cutImage(fmt.Errorf("writing to %s: %w", disk.Path, err))
	}
	if err := (block.Devices{Run: env.Run}).Reread(ctx, disk.Path); err != nil {
		// The image is there; only this computer does not see its partitions yet.
		if _, err := fmt.Fprintf(env.Stderr, "note: take the device out and put it in again, to see its partitions (%s)\n", clean(err.Error())); err != nil {
			return err
		}
	}
	return write(env.Stdout, fmt.Appendf(nil, "Wrote %s to %s, and read it back\n", bytesText(uint64(size)), clean(disk.Path)))
}

// imageNeeds reads the beginning of an image, and gives the bytes that a device must have
// for it. What is no image for a disk, or can be seen to be cut off, is refused before
// anything is asked; of a packed image only unpacking all of it tells.
func imageNeeds(path string) (need int64, err error) {
	in, done, err := openStream(path)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, done()) }()
	table, err := media.ReadBeginning(in)
	if f, raw := in.(*os.File); raw && err == nil {
		var size int64
		if size, _, err = block.Size(f); err == nil {
			err = table.CheckWhole(size)
		}
	}
	if err != nil {
		return 0, cutImage(fmt.Errorf("looking into %s: %w", path, err))
	}
	if table.Sector != 512 {
		return 0, withTry(fmt.Errorf("%s is an image for a CD: firmware does not start it from a stick", path), "the raw image (.img)")
	}
	return table.Needs(), nil
}

func showDisk(env *Env, d media.Disk) error {
	v := view{fields: []field{{"Device", d.Path}, {"Model", d.Model}, {"Serial number", d.Serial}, {"Connected by", d.Transport},
		{"Size", bytesText(uint64(max(d.Size, 0)))}, {"Removable", yesNo(d.Removable)}, {"Mounted at", strings.Join(d.Mounts, " ")}}}
	t := table{title: "On it"}
	t.head = []string{"WHAT"}
	for _, line := range d.Contents {
		t.rows = append(t.rows, []string{line})
	}
	v.tables = append(v.tables, t)
	return printView(env.Stderr, v)
}

// confirmDisk has a person name the disk. The word is short and no secret, so a plain
// comparison is enough.
func confirmDisk(env *Env, d media.Disk, given string) error {
	word := clean(d.Word())
	if given == "" {
		if !env.StdinTerminal {
			return withTry(fmt.Errorf("nobody is here to be asked whether all on %s may be lost", d.Path), "--confirm with the serial number of the device (where it has none, its model or path)")
		}
		fmt.Fprintf(env.Stderr, "All of this will be lost. Type %s to go on: ", word)
		line, err := bufio.NewReader(io.LimitReader(env.Stdin, 1024)).ReadString('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("reading the answer: %w", err)
		}
		given = strings.TrimSpace(line)
	}
	if given != word {
		return fmt.Errorf("not confirmed, nothing was written: %s is not this device", clean(fmt.Sprintf("%.64q", given)))
	}
	return nil
}

// flashProgress says each tenth.
func flashProgress(env *Env, total int64) media.Progress {
	last, phase := int64(-1), false
	return func(done int64, checking bool) {
		if checking != phase {
			last, phase = -1, checking
		}
		tenth := done * 10 / max(total, 1)
		if tenth <= last {
			return
		}
		last = tenth
		what := "wrote"
		if checking {
			what = "read back"
		}
		// That a line cannot be written must not end the writing of the image.
		_, _ = fmt.Fprintf(env.Stderr, "%s %s of %s\n", what, bytesText(uint64(done)), bytesText(uint64(total)))
	}
}
