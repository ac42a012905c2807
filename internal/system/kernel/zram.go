package kernel

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	api "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/system/run"
)

const (
	zramDevice = "/dev/zram0"
	zramDir    = "sys/block/zram0"
	// zramPriority is that of the compressed swap: before the swap on disk.
	zramPriority = "100"
	// zramTries and zramPause bound the wait for others who have just opened the device.
	zramTries, zramPause = 50, 100 * time.Millisecond
)

// readZram reads whether there is zram, and the size of what is used as swap.
func (h Host) readZram(f *Facts, available map[string]bool) (err error) {
	f.ZramAvailable = available["zram"] || h.exists("sys/class/zram-control")
	used, err := h.isSwap(zramDevice)
	if err != nil || !used {
		return err
	}
	f.ZramSize, err = h.number(zramDir + "/disksize")
	return err
}

// State is what there is to tell of memory.
func (h Host) State(context.Context) (api.KernelState, error) {
	used, err := h.isSwap(zramDevice)
	if err != nil || !used {
		return api.KernelState{}, err
	}
	size, err := h.number(zramDir + "/disksize")
	if err != nil {
		return api.KernelState{}, err
	}
	text, err := h.read(zramDir + "/mm_stat")
	if err != nil {
		return api.KernelState{}, err
	}
	var numbers []int64
	for _, field := range strings.Fields(text) {
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return api.KernelState{}, fmt.Errorf("reading /%s/mm_stat: %w", zramDir, err)
		}
		numbers = append(numbers, n)
	}
	if len(numbers) < 3 {
		return api.KernelState{}, fmt.Errorf("reading /%s/mm_stat: %d numbers, not 3 or more", zramDir, len(numbers))
	}
	zram := api.KernelZramSwap{DiskSize: size, UncompressedSize: numbers[0], CompressedSize: numbers[1], TotalMemoryUse: numbers[2]}
	if zram.TotalMemoryUse > 0 {
		zram.CompressionRatio = float64(zram.UncompressedSize) / float64(zram.TotalMemoryUse)
	}
	return api.KernelState{Memory: &api.KernelMemoryState{ZramSwap: &zram}}, nil
}

// Zram makes the compressed swap anew; args is its size in bytes, 0 for none.
func (h Host) Zram(ctx context.Context, args []string) error {
	if err := count(args, 1); err != nil {
		return err
	}
	if _, err := strconv.ParseUint(args[0], 10, 63); err != nil {
		return fmt.Errorf("making the compressed swap: %w", err)
	}
	if !h.exists(zramDir) {
		if args[0] == "0" {
			return nil
		}
		if err := h.modprobe(ctx, "zram"); err != nil {
			return err
		}
	}
	if err := h.emptyZram(ctx); err != nil || args[0] == "0" {
		return err
	}
	// A kernel without zstd keeps its own algorithm.
	algorithms, err := h.read(zramDir + "/comp_algorithm")
	if err != nil {
		return err
	}
	if strings.Contains(algorithms, "zstd") {
		if err := h.write(zramDir+"/comp_algorithm", "zstd"); err != nil {
			return err
		}
	}
	if err := h.write(zramDir+"/disksize", args[0]); err != nil {
		return err
	}
	for _, command := range []run.Command{
		{Name: "mkswap", Args: []string{"--quiet", "--", zramDevice}},
		{Name: "swapon", Args: []string{"--priority", zramPriority, "--discard", "--", zramDevice}},
	} {
		if _, err := h.Run(ctx, command); err != nil {
			return fmt.Errorf("making the compressed swap: %w", err)
		}
	}
	return nil
}

// emptyZram takes the device out of use. The kernel says "busy" while anybody has it
// open, as udev for a moment after each change.
func (h Host) emptyZram(ctx context.Context) error {
	used, err := h.isSwap(zramDevice)
	if err != nil {
		return err
	}
	if used {
		if _, err := h.Run(ctx, run.Command{Name: "swapoff", Args: []string{"--", zramDevice}}); err != nil {
			return fmt.Errorf("emptying the compressed swap: %w", err)
		}
	}
	for try := 1; ; try++ {
		err := h.write(zramDir+"/reset", "1")
		if err == nil || !errors.Is(err, unix.EBUSY) || try == zramTries {
			return err
		}
		pause := time.NewTimer(zramPause)
		select {
		case <-ctx.Done():
			pause.Stop()
			return errors.Join(err, ctx.Err())
		case <-pause.C:
		}
	}
}

// isSwap tells whether a device is used as swap.
func (h Host) isSwap(device string) (bool, error) {
	text, err := h.read("proc/swaps")
	if isMissing(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	for line := range strings.Lines(text) {
		if fields := strings.Fields(line); len(fields) > 0 && fields[0] == device {
			return true, nil
		}
	}
	return false, nil
}
