package earlyboot

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	api "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/kernel"
)

const (
	// keptConfiguration is the node's configuration, below the root partition; package
	// change owns it.
	keptConfiguration = "var/lib/incus-os/state/configuration.json"
	// maxConfiguration is how much of it is read, in bytes.
	maxConfiguration = 4 << 20
)

// writeModuleFiles tells modprobe which modules the owner wants left out, before the
// first driver of the node's own system is loaded: later, unloading one is all that
// can be tried. The daemon writes the same files again, and says what is wrong.
func (h Host) writeModuleFiles() error {
	config, err := h.keptKernel()
	if err != nil {
		return err
	}
	for path, text := range kernel.ModprobeFiles(config) {
		below, err := filepath.Rel("/run", path)
		if err != nil {
			return err
		}
		target := filepath.Join(h.paths.Run, below)
		if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
			return fmt.Errorf("making %s: %w", filepath.Dir(target), err)
		}
		if err := os.WriteFile(target, []byte(text), 0o644); err != nil {
			return fmt.Errorf("writing %s: %w", target, err)
		}
	}
	return nil
}

// keptKernel is the section "kernel" as it was last accepted; nothing when there is none.
func (h Host) keptKernel() (config api.KernelConfig, err error) {
	file, err := os.Open(filepath.Join(h.paths.Sysroot, keptConfiguration))
	if errors.Is(err, fs.ErrNotExist) {
		return config, nil
	}
	if err != nil {
		return config, fmt.Errorf("reading the kept configuration: %w", err)
	}
	defer file.Close()
	var kept struct {
		Data struct {
			Sections struct {
				Kernel *api.KernelConfig `json:"kernel"`
			} `json:"sections"`
		} `json:"data"`
	}
	if err := json.NewDecoder(io.LimitReader(file, maxConfiguration)).Decode(&kept); err != nil {
		return config, fmt.Errorf("reading the kept configuration: %w", err)
	}
	if kept.Data.Sections.Kernel != nil {
		config = *kept.Data.Sections.Kernel
	}
	return config, nil
}
