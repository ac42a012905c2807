package daemon

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	osapi "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/apply"
	"github.com/holdfast-os/holdfast/internal/bootinfo"
	"github.com/holdfast-os/holdfast/internal/cacerts"
	"github.com/holdfast-os/holdfast/internal/layout"
	"github.com/holdfast-os/holdfast/internal/network"
	"github.com/holdfast-os/holdfast/internal/recovery"
	"github.com/holdfast-os/holdfast/internal/services"
	"github.com/holdfast-os/holdfast/internal/system/iscsi"
	"github.com/holdfast-os/holdfast/internal/system/run"
	"github.com/holdfast-os/holdfast/internal/system/swap"
	"github.com/holdfast-os/holdfast/internal/system/systemd"
	"github.com/holdfast-os/holdfast/internal/system/tpm"
)

// hostKeys is Keys.
type hostKeys struct{ *Host }

// Prepare opens swap with the recovery key that early boot made; without it the node
// could not be rescued.
func (h hostKeys) Prepare(ctx context.Context) error {
	key, err := h.Recovery(ctx)
	if err != nil {
		return err
	}
	if key == "" {
		return fmt.Errorf("the recovery key in %s is empty", recovery.KeyFile)
	}
	device, err := h.partition(ctx, layout.Swap)
	if err != nil {
		return err
	}
	if err := h.luks.Open(ctx, swapVolume, device, recovery.KeyFile); err != nil {
		return err
	}
	if err := h.luks.Lighten(ctx, device, key); err != nil {
		h.log.Warn("swap will be opened slowly at the next start too", "error", err)
	}
	return swap.Host{Root: root, Run: run.Host}.On(ctx, "/dev/mapper/"+swapVolume)
}

// Recovery is part of Keys.
func (hostKeys) Recovery(context.Context) (string, error) {
	text, err := os.ReadFile(recovery.KeyFile)
	if err != nil {
		return "", fmt.Errorf("reading the recovery key: %w", err)
	}
	return strings.TrimSpace(string(text)), nil
}

// Rebind is part of Keys.
func (h hostKeys) Rebind(ctx context.Context) error {
	kind, err := tpm.Host{Root: root}.Kind()
	if err != nil {
		return err
	}
	_, err = os.Stat("/run/systemd/tpm2-pcr-public-key.pem")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	refused := recovery.CheckRebind(recovery.BindFacts{
		TPM: kind != tpm.None, Node: h.info.Mode == bootinfo.Node, OpenedByTPM: h.info.RootUnlock == bootinfo.TPM, PolicyKey: err == nil,
	})
	if refused != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, refused)
	}
	devices, err := h.volumes(ctx)
	if err != nil {
		return err
	}
	modes, err := h.efi.Modes()
	if err != nil {
		return err
	}
	return h.luks.Rebind(ctx, recovery.KeyFile, kind == tpm.Hardware && !modes.SecureBoot, devices[recovery.Root], devices[recovery.Swap])
}

func (h *Host) volumes(ctx context.Context) (map[string]string, error) {
	devices := map[string]string{}
	for name, number := range map[string]int{recovery.Root: layout.Root, recovery.Swap: layout.Swap} {
		device, err := h.partition(ctx, number)
		if err != nil {
			return nil, err
		}
		devices[name] = device
	}
	return devices, nil
}

// keyTools change keyslots.
func (h *Host) keyTools() map[string]apply.Tool {
	on := func(do func(ctx context.Context, device string, args []string) error) apply.Tool {
		return func(ctx context.Context, args []string) error {
			devices, err := h.volumes(ctx)
			if err != nil {
				return err
			}
			device, ok := devices[args[0]]
			if !ok {
				return fmt.Errorf("there is no volume %q", args[0])
			}
			return do(ctx, device, args[1:])
		}
	}
	return map[string]apply.Tool{
		recovery.ToolEnroll: on(func(ctx context.Context, device string, args []string) error {
			return h.luks.Enroll(ctx, device, recovery.KeyFile, args[0])
		}),
		recovery.ToolKeepOnly: on(func(ctx context.Context, device string, args []string) error {
			return h.luks.KeepOnly(ctx, device, args)
		}),
		recovery.ToolKeepKey: func(_ context.Context, args []string) error { return h.luks.KeepKey(recovery.KeyFile, args[0]) },
	}
}

func (h *Host) securitySetting() Setting[osapi.SecurityConfig, osapi.SecurityState] {
	return Planned[osapi.SecurityConfig, osapi.SecurityState, cacerts.Facts]{
		Facts:       h.certificateFacts,
		CheckConfig: CheckSecurity, PlanConfig: PlanSecurity, HideConfig: HideSecurity, Do: h.executor().Do,
		Observe: func(ctx context.Context, _ osapi.SecurityConfig) (osapi.SecurityState, error) {
			result, err := h.trust(ctx)
			return result.State, err
		},
	}
}

func (h *Host) certificateFacts(ctx context.Context) (cacerts.Facts, error) {
	texts, err := readFiles([]string{cacerts.SystemFile, cacerts.File})
	if err != nil {
		return cacerts.Facts{}, err
	}
	facts := cacerts.Facts{System: texts[cacerts.SystemFile], Present: texts[cacerts.File], Now: time.Now()}
	manager := systemd.Manager{Run: run.Host}
	for _, unit := range []string{network.ProxyUnit, "incus.service"} {
		running, err := manager.IsActive(ctx, unit)
		if err != nil {
			return cacerts.Facts{}, err
		}
		if running {
			facts.Units = append(facts.Units, unit)
		}
	}
	return facts, nil
}

// services are those of this release.
func (h *Host) services() services.Registry {
	return services.NewRegistry(services.NewISCSI(func(ctx context.Context) (services.ISCSIFacts, error) {
		host := iscsi.Host{Root: root, Run: run.Host}
		environment, err := h.facts.Environment()
		if err != nil {
			return services.ISCSIFacts{}, err
		}
		name, err := host.NameFile()
		if err != nil {
			return services.ISCSIFacts{}, err
		}
		found, err := host.Sessions()
		if err != nil {
			return services.ISCSIFacts{}, err
		}
		running, err := systemd.Manager{Run: run.Host}.IsActive(ctx, "iscsid.service")
		facts := services.ISCSIFacts{MachineID: environment.MachineID, NameFile: name, Running: running}
		for _, s := range found {
			facts.Sessions = append(facts.Sessions, services.ISCSISession(s))
		}
		return facts, err
	}))
}

func (h *Host) serviceTools() map[string]apply.Tool {
	host := iscsi.Host{Root: root, Run: run.Host}
	at := func(do func(ctx context.Context, target, address string, port int) error) apply.Tool {
		return func(ctx context.Context, args []string) error {
			port, err := strconv.Atoi(args[2])
			if err != nil {
				return err
			}
			return do(ctx, args[0], args[1], port)
		}
	}
	return map[string]apply.Tool{services.ToolISCSILogin: at(host.Login), services.ToolISCSILogout: at(host.Logout)}
}

// trustedRoots are the certificates that programs of this node trust by now.
func trustedRoots() (*x509.CertPool, error) {
	text, err := os.ReadFile(cacerts.File)
	if err != nil {
		return nil, err
	}
	return cacerts.Pool(string(text)), nil
}

// localProxy leads through the node's own proxy when an owner has configured one. It knows
// where each destination goes.
func (h *Host) localProxy(r *http.Request) (*url.URL, error) {
	config, err := current(r.Context(), h.daemon, sectionNetwork, h.daemon.machine.Network)
	if err != nil || config.Proxy == nil {
		return nil, err
	}
	return &url.URL{Scheme: "http", Host: network.ProxyListen}, nil
}
