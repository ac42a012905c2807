package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/holdfast-os/holdfast/internal/layout"
	"github.com/holdfast-os/holdfast/internal/reset"
	"github.com/holdfast-os/holdfast/internal/system/block"
	"github.com/holdfast-os/holdfast/internal/system/espdir"
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
	return espdir.Dir(h.esp).Read(name, limit)
}

func (h hostResets) Write(name string, data []byte) error { return espdir.Dir(h.esp).Write(name, data) }

func (h hostResets) Remove(name string) error { return espdir.Dir(h.esp).Remove(name) }

func (hostResets) ClearTPM(context.Context) error {
	err := tpm2clear.TPM{}.Clear()
	if errors.Is(err, tpm2clear.ErrNone) {
		return nil
	}
	return err
}

// WriteSeed leaves nothing of an earlier archive, which may have had secrets in it.
func (h hostResets) WriteSeed(ctx context.Context, archive []byte) error {
	device, err := h.partition(ctx, layout.Seed)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(device, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("opening the seed partition: %w", err)
	}
	return errors.Join(block.WriteWhole(ctx, f, archive), f.Close())
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
