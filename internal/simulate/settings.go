package simulate

import (
	"context"
	"crypto/sha256"
	"time"

	osapi "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/cacerts"
	"github.com/holdfast-os/holdfast/internal/daemon"
	"github.com/holdfast-os/holdfast/internal/kernel"
	"github.com/holdfast-os/holdfast/internal/logging"
	"github.com/holdfast-os/holdfast/internal/plan"
	"github.com/holdfast-os/holdfast/internal/services"
)

func (n *Node) kernelSetting() daemon.Setting[osapi.KernelConfig, osapi.KernelState] {
	return daemon.Planned[osapi.KernelConfig, osapi.KernelState, kernel.Facts]{
		Facts:       func(context.Context) (kernel.Facts, error) { return n.hardware.kernelFacts(), nil },
		CheckConfig: daemon.CheckKernel, PlanConfig: daemon.PlanKernel, Do: n.hands("kernel.apply").Do,
		Observe: func(ctx context.Context, _ osapi.KernelConfig) (osapi.KernelState, error) {
			size := n.hardware.kernelFacts().ZramSize
			if size == 0 {
				return osapi.KernelState{}, n.faults.hit(ctx, "kernel.state")
			}
			used := min(int64(time.Since(n.started).Seconds())<<16, size)
			swap := osapi.KernelZramSwap{DiskSize: size, UncompressedSize: used, CompressedSize: used / 3, TotalMemoryUse: used/3 + 4096}
			swap.CompressionRatio = float64(used) / float64(swap.TotalMemoryUse)
			return osapi.KernelState{Memory: &osapi.KernelMemoryState{ZramSwap: &swap}}, n.faults.hit(ctx, "kernel.state")
		},
	}
}

func (n *Node) loggingSetting() daemon.Setting[osapi.LoggingConfig, osapi.LoggingState] {
	return daemon.Planned[osapi.LoggingConfig, osapi.LoggingState, logging.Facts]{
		Facts: func(context.Context) (logging.Facts, error) {
			facts := logging.Facts{Files: map[string]string{}}
			for _, path := range logging.FilePaths() {
				facts.Files[path], facts.Running = n.hardware.look(path, logging.Unit)
			}
			return facts, nil
		},
		CheckConfig: daemon.CheckLogging, PlanConfig: daemon.PlanLogging, Do: n.hands("logging.apply").Do,
		Observe: func(ctx context.Context, _ osapi.LoggingConfig) (osapi.LoggingState, error) {
			state := osapi.LoggingState{Forwarder: "inactive"}
			if _, running := n.hardware.look("", logging.Unit); running {
				state.Forwarder = "active"
			}
			return state, n.faults.hit(ctx, "logging.state")
		},
	}
}

func (n *Node) securitySetting() daemon.Setting[osapi.SecurityConfig, osapi.SecurityState] {
	return daemon.Planned[osapi.SecurityConfig, osapi.SecurityState, cacerts.Facts]{
		Facts: func(context.Context) (cacerts.Facts, error) {
			present, _ := n.hardware.look(cacerts.File, "")
			return cacerts.Facts{Present: present, Now: time.Now()}, nil
		},
		CheckConfig: daemon.CheckSecurity, PlanConfig: daemon.PlanSecurity, HideConfig: daemon.HideSecurity, Do: n.hands("security.apply").Do,
		Observe: func(ctx context.Context, _ osapi.SecurityConfig) (osapi.SecurityState, error) {
			return osapi.SecurityState{
				EncryptedVolumes:  []osapi.EncryptedVolume{{Volume: "root", State: "simulated"}, {Volume: "swap", State: "simulated"}},
				DriveRecoveryKeys: map[string]string{}, PoolRecoveryKeys: map[string]string{},
				SecureBootCertificates: []osapi.SecureBootCertificate{}, SystemStateStatus: "simulated", TPMStatus: "simulated",
			}, n.faults.hit(ctx, "security.state")
		},
	}
}

// keys is daemon.Keys: there is nothing that they could open.
type keys struct{ *Node }

func (k keys) Prepare(ctx context.Context) error { return k.faults.hit(ctx, "security.prepare") }

func (k keys) Rebind(ctx context.Context) error { return k.faults.hit(ctx, "security.rebind") }

// Recovery gives a key in the form that early boot makes: eight groups of eight letters.
func (k keys) Recovery(context.Context) (string, error) {
	const letters = "cbdefghijklnrtuv"
	key := ""
	for i, b := range sha256.Sum256([]byte("recovery key " + k.machineID)) {
		if i > 0 && i%4 == 0 {
			key += "-"
		}
		key += string(letters[b>>4]) + string(letters[b&15])
	}
	return key, nil
}

// providerSetting is the source of releases, which a simulated node never asks.
func (n *Node) providerSetting() daemon.Setting[osapi.ProviderConfig, osapi.ProviderState] {
	return daemon.Planned[osapi.ProviderConfig, osapi.ProviderState, struct{}]{
		Facts:       func(context.Context) (struct{}, error) { return struct{}{}, nil },
		CheckConfig: checkProvider,
		PlanConfig: func(*osapi.ProviderConfig, osapi.ProviderConfig, struct{}) (plan.Plan, error) {
			return plan.Plan{}, nil
		},
		Do: n.hands("provider.apply").Do, HideConfig: daemon.HideProvider,
		Observe: func(context.Context, osapi.ProviderConfig) (osapi.ProviderState, error) {
			return osapi.ProviderState{}, nil
		},
	}
}

func (n *Node) services() services.Registry {
	return services.NewRegistry(services.NewISCSI(func(ctx context.Context) (services.ISCSIFacts, error) {
		name, running := n.hardware.look("/etc/iscsi/initiatorname.iscsi", "iscsid.service")
		n.hardware.mu.Lock()
		defer n.hardware.mu.Unlock()
		facts := services.ISCSIFacts{MachineID: n.machineID, NameFile: name, Running: running, Sessions: n.hardware.sessions}
		return facts, n.faults.hit(ctx, "services.state")
	}))
}
