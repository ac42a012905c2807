package daemon

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"

	osapi "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/apply"
	"github.com/holdfast-os/holdfast/internal/kernel"
	"github.com/holdfast-os/holdfast/internal/logging"
	"github.com/holdfast-os/holdfast/internal/plan"
	kerneladapter "github.com/holdfast-os/holdfast/internal/system/kernel"
	"github.com/holdfast-os/holdfast/internal/system/run"
	"github.com/holdfast-os/holdfast/internal/system/systemd"
)

// executor carries out plans on this machine.
func (h *Host) executor() apply.Executor {
	tools := h.networkTools()
	maps.Copy(tools, h.kernelTools())
	maps.Copy(tools, h.keyTools())
	maps.Copy(tools, h.serviceTools())
	return apply.Executor{Root: root, Units: hostUnits{systemd.Manager{Run: run.Host}}, Tools: tools, Log: h.log}
}

// hostUnits is apply.Units.
type hostUnits struct{ manager systemd.Manager }

func (u hostUnits) Start(ctx context.Context, unit string) error { return u.manager.Start(ctx, unit) }
func (u hostUnits) Stop(ctx context.Context, unit string) error  { return u.manager.Stop(ctx, unit) }
func (u hostUnits) Restart(ctx context.Context, unit string) error {
	return u.manager.Restart(ctx, unit)
}
func (u hostUnits) Reload(ctx context.Context, unit string) error { return u.manager.Reload(ctx, unit) }

func hostKernel() kerneladapter.Host { return kerneladapter.Host{Root: root, Run: run.Host} }

func (h *Host) kernelTools() map[string]apply.Tool {
	host := hostKernel()
	return map[string]apply.Tool{
		kernel.ToolUnload: host.Unload, kernel.ToolHugepages: host.Hugepages, kernel.ToolBind: host.Bind,
		kernel.ToolRelease: host.Release, kernel.ToolSRIOV: host.SRIOV, kernel.ToolZram: host.Zram,
	}
}

func (h *Host) kernelSetting() Setting[osapi.KernelConfig, osapi.KernelState] {
	host := hostKernel()
	return Planned[osapi.KernelConfig, osapi.KernelState, kernel.Facts]{
		Facts: func(ctx context.Context) (kernel.Facts, error) {
			facts, err := host.Facts(ctx, kerneladapter.Ask{
				Settings: kernel.Settings(), Files: kernel.FilePaths(), Qdiscs: kernel.QueuingDisciplines(),
			})
			return kernel.Facts(facts), err
		},
		CheckConfig: CheckKernel, PlanConfig: PlanKernel,
		Do: func(ctx context.Context, p plan.Plan) error {
			if err := host.Remember(kernel.Settings()); err != nil {
				return err
			}
			return host.Explain(h.executor().Do(ctx, p))
		},
		Observe: func(ctx context.Context, _ osapi.KernelConfig) (osapi.KernelState, error) { return host.State(ctx) },
	}
}

func (h *Host) loggingSetting() Setting[osapi.LoggingConfig, osapi.LoggingState] {
	manager := systemd.Manager{Run: run.Host}
	return Planned[osapi.LoggingConfig, osapi.LoggingState, logging.Facts]{
		Facts: func(ctx context.Context) (logging.Facts, error) {
			files, err := readFiles(logging.FilePaths())
			if err != nil {
				return logging.Facts{}, err
			}
			running, err := manager.IsActive(ctx, logging.Unit)
			return logging.Facts{Files: files, Running: running}, err
		},
		CheckConfig: CheckLogging, PlanConfig: PlanLogging, Do: h.executor().Do,
		Observe: func(ctx context.Context, _ osapi.LoggingConfig) (osapi.LoggingState, error) {
			state, err := manager.Show(ctx, logging.Unit)
			return osapi.LoggingState{Forwarder: state.Active}, err
		},
	}
}

// readFiles are the texts of those files that are there.
func readFiles(paths []string) (map[string]string, error) {
	texts := map[string]string{}
	for _, path := range paths {
		text, err := os.ReadFile(filepath.Join(root, path))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		texts[path] = string(text)
	}
	return texts, nil
}

// hostIdentity is Identity: the certificate that Incus shows.
type hostIdentity struct{}

func (hostIdentity) Certificate() (*tls.Certificate, error) {
	const dir = "/var/lib/incus"
	for _, name := range []string{"cluster", "server"} {
		pair, err := tls.LoadX509KeyPair(filepath.Join(dir, name+".crt"), filepath.Join(dir, name+".key"))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("reading the certificate of Incus: %w", err)
		}
		return &pair, nil
	}
	return nil, errors.New("there is no certificate yet: Incus makes it at its first start")
}
