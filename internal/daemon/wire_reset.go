package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/holdfast-os/holdfast/internal/layout"
	"github.com/holdfast-os/holdfast/internal/reset"
	"github.com/holdfast-os/holdfast/internal/system/block"
	"github.com/holdfast-os/holdfast/internal/system/run"
	"github.com/holdfast-os/holdfast/internal/system/tpm"
	"github.com/holdfast-os/holdfast/internal/system/tpm2clear"
)

// espDir is where the ESP is mounted.
const espDir = "/boot"

// hostResets is Resets and its Hands.
type hostResets struct {
	*Host
	esp string
}

func (h hostResets) Hands() reset.Hands { return h }

func (hostResets) HasTPM() (bool, error) {
	kind, err := tpm.Host{Root: root}.Kind()
	return kind != tpm.None, err
}

func (h hostResets) Seed(ctx context.Context) (io.ReadCloser, error) {
	device, err := h.partition(ctx, layout.Seed)
	if err != nil {
		return nil, err
	}
	return os.Open(device)
}

func (h hostResets) Read(name string, limit int64) ([]byte, error) {
	f, err := os.Open(filepath.Join(h.esp, name))
	if err != nil {
		return nil, err
	}
	text, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(text)) > limit {
		err = fmt.Errorf("%s has more than %d bytes", f.Name(), limit)
	}
	return text, errors.Join(err, f.Close())
}

func (h hostResets) Write(name string, data []byte) error {
	file := filepath.Join(h.esp, name)
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return h.syncESP()
}

func (h hostResets) Remove(name string) error {
	file := filepath.Join(h.esp, path.Clean("/"+name))
	if _, err := os.Lstat(file); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := os.RemoveAll(file); err != nil {
		return err
	}
	return h.syncESP()
}

// syncESP brings names to the disk: FAT has no journal.
func (h hostResets) syncESP() error {
	f, err := os.Open(h.esp)
	if err != nil {
		return err
	}
	return errors.Join(unix.Syncfs(int(f.Fd())), f.Close())
}

func (hostResets) ClearTPM(context.Context) error {
	err := tpm2clear.TPM{}.Clear()
	if errors.Is(err, tpm2clear.ErrNone) {
		return nil
	}
	return err
}

// WriteSeed leaves what an earlier, longer archive has behind it: the end mark of the new one
// stands before that.
func (h hostResets) WriteSeed(ctx context.Context, archive []byte) error {
	device, err := h.partition(ctx, layout.Seed)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(device, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("opening the seed partition: %w", err)
	}
	return errors.Join(writeSeed(f, archive), f.Close())
}

func writeSeed(f *os.File, archive []byte) error {
	if _, err := f.WriteAt(archive, 0); err != nil {
		return fmt.Errorf("writing to %s: %w", f.Name(), err)
	}
	if err := block.Sync(f); err != nil {
		return err
	}
	written := make([]byte, len(archive))
	if _, err := f.ReadAt(written, 0); err != nil {
		return fmt.Errorf("reading back from %s: %w", f.Name(), err)
	}
	if !bytes.Equal(archive, written) {
		return fmt.Errorf("%s does not keep what was written to it: the disk is damaged", f.Name())
	}
	return nil
}

// RemovePartitions leaves the kernel with the table of before: the node still runs from them.
func (h hostResets) RemovePartitions(ctx context.Context, numbers ...int) error {
	there, err := partitionsOf(h.info.BootDisk)
	if err != nil {
		return err
	}
	args := []string{"--no-reread", "--no-tell-kernel", "--force", "--delete", h.info.BootDisk}
	first := len(args)
	for _, number := range numbers {
		if slices.Contains(there, number) { // sfdisk refuses a number that is not there
			args = append(args, strconv.Itoa(number))
		}
	}
	if len(args) == first {
		return nil
	}
	if _, err := run.Host(ctx, run.Command{Name: "sfdisk", Args: args}); err != nil {
		return err
	}
	unix.Sync()
	return nil
}

// partitionsOf are the numbers in the table on a disk, whatever the kernel knows of it.
func partitionsOf(path string) ([]int, error) {
	disk, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	size, sector, err := block.Size(disk)
	var table block.Table
	if err == nil {
		table, err = block.ReadTable(disk, size, sector)
	}
	if err = errors.Join(err, disk.Close()); err != nil {
		return nil, err
	}
	var numbers []int
	for _, entry := range table.Entries {
		numbers = append(numbers, entry.Number)
	}
	return numbers, nil
}
