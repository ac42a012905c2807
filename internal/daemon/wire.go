package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	osapi "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/apps"
	"github.com/holdfast-os/holdfast/internal/audit"
	"github.com/holdfast-os/holdfast/internal/bootinfo"
	"github.com/holdfast-os/holdfast/internal/facts"
	"github.com/holdfast-os/holdfast/internal/install"
	"github.com/holdfast-os/holdfast/internal/installer"
	"github.com/holdfast-os/holdfast/internal/layout"
	"github.com/holdfast-os/holdfast/internal/metrics"
	"github.com/holdfast-os/holdfast/internal/state"
	"github.com/holdfast-os/holdfast/internal/system/block"
	"github.com/holdfast-os/holdfast/internal/system/efi"
	"github.com/holdfast-os/holdfast/internal/system/incus"
	"github.com/holdfast-os/holdfast/internal/system/journal"
	"github.com/holdfast-os/holdfast/internal/system/luks"
	"github.com/holdfast-os/holdfast/internal/system/modules"
	"github.com/holdfast-os/holdfast/internal/system/power"
	"github.com/holdfast-os/holdfast/internal/system/run"
	"github.com/holdfast-os/holdfast/internal/system/sysext"
	"github.com/holdfast-os/holdfast/internal/system/systemd"
	"github.com/holdfast-os/holdfast/internal/system/tpm"
	"github.com/holdfast-os/holdfast/internal/system/zfs"
	"github.com/holdfast-os/holdfast/internal/trust"
	"github.com/holdfast-os/holdfast/internal/updater"
)

const (
	root = "/"
	// stateDir holds what the node keeps; its existence tells Incus where it runs.
	stateDir   = "/var/lib/incus-os"
	swapVolume = "swap"
)

// Host is this machine behind the daemon's interfaces.
type Host struct {
	log     *slog.Logger
	info    bootinfo.Info
	display *screens
	facts   facts.Collector
	zfs     *zfs.ZFS
	luks    luks.Host
	efi     efi.Vars
	access  access
	source  *Provider
	daemon  *Daemon

	mu    sync.Mutex
	store *state.Store
	seeds *nodeSeed

	replaced replacement
}

// NewHost makes the daemon for this machine. Its screens are drawn until the context
// ends.
func NewHost(ctx context.Context, log *slog.Logger) (*Daemon, error) {
	info, err := bootinfo.Read(root)
	if err != nil {
		return nil, fmt.Errorf("finding out how this machine was started: %w", err)
	}
	h := &Host{
		log: log, info: info, display: newScreens(ctx, root, log),
		facts: facts.Collector{Root: root, Run: run.Host},
		zfs:   &zfs.ZFS{Run: run.Host},
		luks:  luks.Host{Root: root, Run: run.Host},
	}
	h.access.userAgent = product
	if release, err := h.facts.Release(); err == nil {
		h.access.userAgent = release.Name + "/" + release.Version
	}
	h.access.roots, h.access.proxy = trustedRoots, h.localProxy
	h.source = h.newProvider()
	h.seeds = h.nodeSeed()
	system := h.system()
	manager := h.gated(h.apps(system))
	keys := h.secureBoot(system)
	updates := h.updates(system, keys, manager)
	h.daemon = New(Options{Root: root, Socket: Activated, Documents: h.documents, Audit: func() (audit.Files, error) { return audit.OpenDirectory(filepath.Join(stateDir, "audit")) },
		Exporter: metrics.NewHTTPExporter(metrics.NodeExporterURL), Log: log, Clock: realClock(), Machine: Machine{
			Facts: hostFacts{h}, Devices: hostDevices{}, Requirements: hostRequirements{h}, Installer: hostInstaller{h}, Seed: h.seeds,
			Keys: restoredKeys{hostKeys{h}}, Security: h.securitySetting(), Services: h.services(), Hands: h.executor(), Extensions: hostExtensions{h, manager}, Pools: hostPools{h},
			Kernel: h.kernelSetting(), Network: NewNetworkSetting(hostNetwork{h}), Logging: h.loggingSetting(),
			Provider: h.source, Identity: hostIdentity{}, Resolver: h.networkd(), Apps: hostApps{manager}, AppUpdates: judgedApps{hostApps{manager}, h.appData(manager)}, Updates: updates, Backups: hostBackups{h}, AppData: h.appData(manager), Resets: hostResets{h, espDir}, Abandoned: func() error { return h.replaced.restored.Abandoned }, SecureBoot: keys, Rescue: hostRescue{h, updates},
			Power: hostPower{power.Power{Run: run.Host}, updates.agent}, Diagnosis: hostDiagnosis{journal.Reader{Run: run.Host}},
			Display: h.display, Doing: h.display, Notify: serviceManager{}, Starts: rootVolume(root), Sooner: h.seeds.typed.Came,
		}})
	return h.daemon, nil
}

func realClock() Clock {
	return Clock{Now: time.Now, After: time.After, SinceBoot: func() time.Duration {
		text, err := os.ReadFile("/proc/uptime")
		if err != nil {
			return 0 // a machine without /proc has no phases to time either
		}
		first, _, _ := strings.Cut(string(text), " ")
		seconds, err := strconv.ParseFloat(first, 64)
		if err != nil {
			return 0
		}
		return time.Duration(seconds * float64(time.Second))
	}}
}

// documents opens the kept configuration once.
func (h *Host) documents() (Documents, error) { return h.openStore() }

func (h *Host) openStore() (*state.Store, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.store == nil {
		store, err := h.openRestored(filepath.Join(stateDir, "state"))
		if err != nil {
			return nil, err
		}
		h.store = store
	}
	return h.store, nil
}

// partition gives a partition of the disk that the node runs from.
func (h *Host) partition(ctx context.Context, number int) (string, error) {
	disks, err := block.Devices{Run: run.Host, Root: root}.List(ctx)
	if err != nil {
		return "", err
	}
	for _, disk := range disks {
		if disk.Path != h.info.BootDisk {
			continue
		}
		for _, p := range disk.Partitions {
			if p.Number == number {
				return p.Path, nil
			}
		}
	}
	return "", fmt.Errorf("disk %s, which this machine was started from: %w %d", h.info.BootDisk, errNoPartition, number)
}

func (h *Host) trust(ctx context.Context) (trust.Result, error) {
	modes, err := h.efi.Modes()
	if err != nil {
		return trust.Result{}, err
	}
	certificates, err := h.efi.Certificates()
	if err != nil {
		return trust.Result{}, err
	}
	kind, err := tpm.Host{Root: root}.Kind()
	if err != nil {
		return trust.Result{}, err
	}
	commandLine, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return trust.Result{}, fmt.Errorf("reading the kernel's command line: %w", err)
	}
	swapOpen, err := h.luks.IsOpen(swapVolume)
	if err != nil {
		return trust.Result{}, err
	}
	keys, err := h.poolKeys()
	if err != nil {
		return trust.Result{}, err
	}
	fuse := filepath.Join(stateDir, "trusted-fuse-blown")
	blown, err := exists(fuse)
	if err != nil {
		return trust.Result{}, err
	}
	// The key of swap lies on root, so that swap is as safe as root is.
	byRecovery := h.info.RootUnlock == bootinfo.Recovery
	var volumes []trust.Volume
	if h.info.RootUnlock != "" {
		volumes = []trust.Volume{{Name: "root", Open: true, ByRecovery: byRecovery}, {Name: swapVolume, Open: swapOpen, ByRecovery: byRecovery}}
	}
	result := trust.Evaluate(trust.Input{
		SecureBoot: modes.SecureBoot, Certificates: certificates, TPM: trust.TPMKind(kind), CommandLine: string(commandLine),
		FuseBlown: blown, Volumes: volumes, PoolKeys: keys, PCRMismatch: h.pcrMismatch(),
	})
	if result.BlowFuse && h.info.Mode == bootinfo.Node {
		if err := os.WriteFile(fuse, nil, 0o600); err != nil {
			return trust.Result{}, fmt.Errorf("noting that this node was not in a trusted state: %w", err)
		}
	}
	return result, ctx.Err()
}

// hostFacts is Facts.
type hostFacts struct{ *Host }

func (h hostFacts) Environment(context.Context) (osapi.Environment, error) {
	environment, err := h.facts.Environment()
	if err != nil || h.info.Mode == bootinfo.Install {
		return environment, err
	}
	environment.OSVersionAlternate, err = otherRelease("/boot/EFI/Linux", environment.OSVersion)
	return environment, err
}

func (h hostFacts) Resources(ctx context.Context) (any, error) { return facts.Resources(ctx) }

func (h hostFacts) Storage(ctx context.Context) (osapi.StorageState, error) {
	drives, err := h.facts.Drives(ctx, h.info.BootDisk)
	if err != nil {
		return osapi.StorageState{}, err
	}
	pools, err := h.zfs.List(ctx)
	if err != nil {
		return osapi.StorageState{}, err
	}
	facts.AssignPools(drives, pools)
	space, err := h.facts.RootPartition()
	return osapi.StorageState{Drives: drives, Pools: pools, RootPartition: space}, err
}

func (h hostFacts) Warnings(ctx context.Context) ([]string, error) {
	if h.info.Mode == bootinfo.Install {
		return nil, nil // there is no node yet whose state could be trusted
	}
	var warnings []string
	result, err := h.trust(ctx)
	if err == nil && !result.State.SystemStateIsTrusted {
		warnings = append(warnings, result.State.SystemStateStatus)
	}
	there, mountErr := isMounted(espDir)
	if mountErr == nil && !there {
		warnings = append(warnings, noESP)
	}
	return warnings, errors.Join(err, mountErr)
}

func (h hostFacts) Fingerprint(context.Context) (string, error) {
	return certificateFingerprint("/var/lib/incus/cluster.crt", "/var/lib/incus/server.crt")
}

// hostDevices is Devices, as udev sees them: systemd has it look at every device before the daemon
// starts, and does not wait for the end.
type hostDevices struct{}

func (hostDevices) Settle(ctx context.Context) error {
	_, err := run.Host(ctx, run.Command{Name: "udevadm", Args: []string{"settle", "--timeout=60"}})
	return err
}

// hostRequirements is Requirements: the installer's own, without a disk to choose.
type hostRequirements struct{ *Host }

func (h hostRequirements) Check(ctx context.Context) ([]string, error) {
	machine, err := installer.Gather(ctx, installer.Options{Runner: run.Host})
	if err != nil {
		return nil, err
	}
	_, found := install.Check(machine)
	if problems := nodeProblems(found); len(problems) > 0 {
		return problems, nil
	}
	if machine.InstallComplete {
		// The node runs from its own disk, so the medium is out of the way.
		return nil, h.efi.SetInstallComplete(false)
	}
	return nil, nil
}

// hostInstaller is Installer.
type hostInstaller struct{ *Host }

func (h hostInstaller) Wanted(context.Context) (bool, error) {
	return h.info.Mode == bootinfo.Install, nil
}

func (h hostInstaller) Run(ctx context.Context, show Display) error {
	set, err := h.seeds.Read(ctx)
	if err != nil {
		return err
	}
	if set.Install == nil {
		return h.seeds.noInstall()
	}
	release, err := h.facts.Release()
	if err != nil {
		return err
	}
	return installer.Run(ctx, installer.Options{
		Seed: set, External: h.seeds.external(), SourceDisk: h.info.BootDisk, Medium: h.info.Medium, Version: release.Version, Console: show.Message, Progress: show.Progress, Runner: run.Host,
	})
}

// hostPools is Pools.
type hostPools struct{ *Host }

func (h hostPools) Ensure(ctx context.Context) error {
	device, err := h.partition(ctx, layout.LocalData)
	if err != nil {
		return err
	}
	return h.zfs.EnsureLocal(ctx, device, h.zfs.KeyPath(zfs.Local))
}

// hostDiagnosis is Diagnosis.
type hostDiagnosis struct{ journal journal.Reader }

func (h hostDiagnosis) Log(ctx context.Context, query LogQuery) ([]json.RawMessage, error) {
	entries, err := h.journal.Read(ctx, journal.Query(query))
	if errors.Is(err, journal.ErrQuery) {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return entries, err
}

func (h hostDiagnosis) Processes(ctx context.Context) (string, error) {
	return h.journal.Processes(ctx)
}

// Kernel is part of Diagnosis.
func (hostDiagnosis) Kernel(context.Context) (osapi.DebugKernel, error) {
	return modules.Host{Root: root}.Read()
}

// EventLog is part of Diagnosis.
func (hostDiagnosis) EventLog(context.Context) (osapi.DebugEventLog, error) {
	return tpm.Host{Root: root}.Debug()
}

// apps makes the manager of the applications.
func (h *Host) apps(system *updater.System) *apps.Manager {
	client := incus.New(incus.DefaultSocket)
	setup := &incus.Setup{Client: client, LocalUsable: h.zfs.UsableForIncus, Log: h.log}
	return &apps.Manager{
		Store:      appStore{h},
		Provider:   updater.Applications{System: system, Channel: func() string { return h.daemon.Channel() }},
		Extensions: &sysext.Extensions{Run: run.Host, Certificates: h.applicationSigners},
		Units:      systemd.Manager{Run: run.Host},
		Programs:   map[string]apps.Program{"incus": incusProgram{Client: client, setup: setup, seed: h.seeds}},
		Catalogue:  apps.Catalogue(), Root: root, Log: h.log, OS: system.Running,
		Progress: func(name string, percent int) { h.display.Progress("downloading "+name, int64(percent), 100) },
	}
}
