// Package qemuimg converts disk images with qemu-img.
//
// qemu-img reads images that may come from anywhere, so the format of each is always named:
// a raw image whose first bytes look like those of another format would otherwise be read
// as that, with references to files of this computer in it.
//
// A vmdk is written, and never read: its descriptor names the files that its content is in,
// any file of this computer or an address among them, and qemu-img opens them as soon as it
// looks at it.
package qemuimg

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"

	"github.com/holdfast-os/holdfast/internal/system/run"
)

// Package is the Debian package that has qemu-img.
const Package = "qemu-utils"

// ErrMissing means that there is no qemu-img.
var ErrMissing = errors.New("there is no qemu-img")

// Tool runs qemu-img.
type Tool struct {
	// Run starts it.
	Run run.Runner
	// Command gives the command for its arguments; default the one on the search path.
	Command func(args ...string) run.Command
}

func (t Tool) do(ctx context.Context, args ...string) ([]byte, error) {
	command := run.Command{Name: "qemu-img", Args: args}
	if t.Command != nil {
		command = t.Command(args...)
	}
	result, err := t.Run(ctx, command)
	if errors.Is(err, exec.ErrNotFound) {
		err = fmt.Errorf("%w: %w", ErrMissing, err)
	}
	return result.Stdout, err
}

// ErrNotRead means that images of a format are not read.
var ErrNotRead = errors.New("images of this format are not read, since they can name any file of this computer as their content")

// Formats are those that are written, and but for vmdk read, by the names that qemu-img has
// for them.
var Formats = []string{"raw", "qcow2", "vhdx", "vmdk"}

// Convert writes the image in, of format from, to the new file out in the format to. An
// image that refers to another file is refused, and a vmdk is ErrNotRead.
func (t Tool) Convert(ctx context.Context, in, from, out, to string) error {
	if from == "vmdk" {
		return fmt.Errorf("reading %s, a vmdk: %w", in, ErrNotRead)
	}
	if from != "raw" {
		if err := t.alone(ctx, in, from); err != nil {
			return err
		}
	}
	args := []string{"convert", "-f", from, "-O", to}
	if to == "vhdx" {
		args = append(args, "-o", "subformat=dynamic")
	}
	if _, err := t.do(ctx, append(args, in, out)...); err != nil {
		return fmt.Errorf("converting %s to %s: %w", in, to, err)
	}
	return nil
}

// alone refuses an image that is completed by other files.
func (t Tool) alone(ctx context.Context, path, format string) error {
	info, err := t.Info(ctx, path, format)
	if err != nil {
		return err
	}
	if info.Backing != "" || info.DataFile != "" {
		return fmt.Errorf("reading %s: it is only a part of an image, and refers to the file %.200q: convert that one", path, info.Backing+info.DataFile)
	}
	return nil
}

// Info is what qemu-img says of an image.
type Info struct {
	// Format is as in Formats.
	Format string
	// Size is that of the disk, in bytes.
	Size int64
	// Backing and DataFile are files that the image refers to; empty for none.
	Backing, DataFile string
}

// Info looks at an image of a format.
func (t Tool) Info(ctx context.Context, path, format string) (Info, error) {
	out, err := t.do(ctx, "info", "--output=json", "-f", format, path)
	if err != nil {
		return Info{}, fmt.Errorf("looking at %s: %w", path, err)
	}
	var answer struct {
		Format   string `json:"format"`
		Size     int64  `json:"virtual-size"`
		Backing  string `json:"backing-filename"`
		Specific struct {
			Data struct {
				DataFile string `json:"data-file"`
			} `json:"data"`
		} `json:"format-specific"`
	}
	if err := json.Unmarshal(out, &answer); err != nil {
		return Info{}, fmt.Errorf("reading what qemu-img says of %s: %w", path, err)
	}
	return Info{answer.Format, answer.Size, answer.Backing, answer.Specific.Data.DataFile}, nil
}
