// Package swap is the adapter of swapon.
package swap

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/holdfast-os/holdfast/internal/system/run"
)

// Host is the machine whose swap is used.
type Host struct {
	// Root is the directory that stands for "/".
	Root string
	// Run starts programs.
	Run run.Runner
}

// On uses a device as swap. One that is in use already is left alone.
func (h Host) On(ctx context.Context, device string) error {
	used, err := os.ReadFile(filepath.Join(h.Root, "proc/swaps"))
	if err != nil {
		return fmt.Errorf("reading what is used as swap: %w", err)
	}
	real, err := filepath.EvalSymlinks(filepath.Join(h.Root, device))
	if err != nil {
		return fmt.Errorf("finding swap device %s: %w", device, err)
	}
	real = "/" + strings.TrimPrefix(strings.TrimPrefix(real, filepath.Clean(h.Root)), "/")
	for line := range strings.Lines(string(used)) {
		if fields := strings.Fields(line); len(fields) > 0 && (fields[0] == device || fields[0] == real) {
			return nil
		}
	}
	if _, err := h.Run(ctx, run.Command{Name: "swapon", Args: []string{"--discard", "--", device}}); err != nil {
		return fmt.Errorf("using %s as swap: %w", device, err)
	}
	return nil
}
