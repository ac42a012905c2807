package simulate

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"fmt"
	"time"

	notifier "github.com/coreos/go-systemd/v22/daemon"
	incusapi "github.com/lxc/incus/v6/shared/api"

	osapi "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/change"
	"github.com/holdfast-os/holdfast/internal/console"
	"github.com/holdfast-os/holdfast/internal/daemon"
	"github.com/holdfast-os/holdfast/internal/network"
)

// version is the release that a simulated node runs.
const version = "202611220104"

const (
	actionReboot   = "reboot"
	actionPoweroff = "poweroff"
)

// machine is the node behind the daemon's interfaces.
func (n *Node) machine() daemon.Machine {
	apps := applications{n, n.store}
	return daemon.Machine{
		Facts: facts{n}, Devices: nothing{n}, Requirements: nothing{n}, Installer: nothing{n}, Seed: seed{n},
		Keys: keys{n}, Security: n.securitySetting(), Services: n.services(), Hands: n.hands("services.apply"),
		Kernel: n.kernelSetting(), Network: n.networkSetting(), Logging: n.loggingSetting(), Provider: n.providerSetting(),
		Resolver: nothing{n}, Identity: n.identity, Extensions: nothing{n}, Pools: pools{n}, Apps: apps, AppUpdates: apps, Updates: updates{n, apps},
		Power: power{n}, Diagnosis: diagnosis{n.journal, n}, Display: display{n}, Doing: display{n}, Notify: notify{n}, Starts: starts{},
		Backups: backups{n}, AppData: appData{n, apps, &n.exchanging}, Resets: resets{n}, Abandoned: func() error { return n.abandoned }, SecureBoot: secureBoot{n.firmware},
	}
}

// facts is daemon.Facts.
type facts struct{ *Node }

func (f facts) Environment(ctx context.Context) (osapi.Environment, error) {
	return osapi.Environment{
		Hostname: f.net.hostname(f.machineID), MachineID: f.machineID, OSName: "Holdfast", OSVersion: version,
		Uptime: int64(time.Since(f.started).Seconds()),
	}, f.faults.hit(ctx, "facts.environment")
}

func (f facts) Resources(ctx context.Context) (any, error) {
	used := uint64(time.Since(f.started).Seconds()) << 20
	resources := incusapi.Resources{
		CPU: incusapi.ResourcesCPU{Architecture: "x86_64", Total: 8, Sockets: []incusapi.ResourcesCPUSocket{{
			Name: "simulated", Vendor: "simulated", Socket: 0, Cores: []incusapi.ResourcesCPUCore{},
		}}},
		Memory: incusapi.ResourcesMemory{Total: memory, Used: min(used, memory/2), HugepagesSize: hugepage},
		System: incusapi.ResourcesSystem{Vendor: "Holdfast", Product: "simulated", UUID: uuid(f.machineID), Type: "virtual-machine"},
	}
	for i, card := range f.o.Cards {
		resources.Network.Cards = append(resources.Network.Cards, incusapi.ResourcesNetworkCard{
			Driver: "simulated", PCIAddress: fmt.Sprintf("0000:0%d:00.0", i+1),
			Ports: []incusapi.ResourcesNetworkCardPort{{ID: card.Name, Address: card.Hwaddr, Port: 0}},
		})
	}
	resources.Network.Total = uint64(len(resources.Network.Cards))
	return resources, f.faults.hit(ctx, "facts.resources")
}

func (f facts) Storage(ctx context.Context) (osapi.StorageState, error) {
	const drive = "nvme-simulated_1TB_SIMULATED0"
	growing := uint64(time.Since(f.started).Seconds()) << 16
	return osapi.StorageState{
		Drives: []osapi.Drive{
			{ID: drive, ModelName: "simulated 1TB", SerialNumber: "SIMULATED0", Bus: "nvme", CapacityInBytes: 1 << 40, Boot: true, MemberPool: "local"},
			{ID: "nvme-simulated_1TB_SIMULATED1", ModelName: "simulated 1TB", SerialNumber: "SIMULATED1", Bus: "nvme", CapacityInBytes: 1 << 40},
		},
		Pools: []osapi.Pool{{
			Name: "local", Type: "zfs-raid0", Devices: []string{drive + "-part11"}, Managed: true, State: "ONLINE", EncryptionKeyStatus: "available",
			RawPoolSizeInBytes: 900 << 30, UsablePoolSizeInBytes: 900 << 30, PoolAllocatedSpaceInBytes: 1<<30 + growing,
			Volumes: []osapi.PoolVolume{{Name: "incus", UsageInBytes: 1<<30 + growing, Use: "incus"}},
		}},
		RootPartition: osapi.RootPartition{SizeInBytes: 24 << 30, AvailableInBytes: 20 << 30},
	}, f.faults.hit(ctx, "facts.storage")
}

func (f facts) Warnings(context.Context) ([]string, error) { return []string{Warning}, nil }

func (f facts) Fingerprint(context.Context) (string, error) {
	sum := sha256.Sum256(f.identity.server.Certificate[0])
	return hex.EncodeToString(sum[:]), nil
}

// cards are two network cards with addresses of this node's own.
func cards(machineID string) []network.Card {
	sum := sha256.Sum256([]byte("network cards " + machineID))
	list := make([]network.Card, 2)
	for i := range list {
		// 02 marks an address that was not given out by a maker.
		list[i] = network.Card{
			Name: fmt.Sprintf("enp%ds0", i+1), Permanent: true, MaxMTU: 9000,
			Hwaddr: fmt.Sprintf("02:%02x:%02x:%02x:%02x:%02x", sum[0], sum[1], sum[2], sum[3], i),
		}
	}
	return list
}

func uuid(machineID string) string {
	return machineID[:8] + "-" + machineID[8:12] + "-4" + machineID[13:16] + "-8" + machineID[17:20] + "-" + machineID[20:]
}

// nothing is what needs no memory: only faults happen there.
type nothing struct{ *Node }

func (h nothing) Check(ctx context.Context) ([]string, error) {
	return nil, h.faults.hit(ctx, "requirements.check")
}

func (h nothing) Settle(ctx context.Context) error                { return h.faults.hit(ctx, "devices.settle") }
func (h nothing) Wanted(context.Context) (bool, error)            { return false, nil }
func (h nothing) Run(ctx context.Context, _ daemon.Display) error { return ctx.Err() }
func (h nothing) FlushDNS(ctx context.Context) error              { return h.faults.hit(ctx, "network.flush-dns") }
func (h nothing) Refresh(ctx context.Context) error               { return h.faults.hit(ctx, "extensions.refresh") }

// power is daemon.Power.
type power struct{ *Node }

func (p power) Poweroff(ctx context.Context) error { return p.ask(ctx, actionPoweroff) }
func (p power) Reboot(ctx context.Context) error   { return p.ask(ctx, actionReboot) }

// Suspend sleeps for no time.
func (p power) Suspend(ctx context.Context) error {
	err := p.faults.hit(ctx, "power.suspend")
	if err == nil {
		p.log.Info("the simulated node slept and woke up at once")
	}
	return err
}

func (p power) ask(ctx context.Context, action string) error {
	if err := p.faults.hit(ctx, "power."+action); err != nil {
		return err
	}
	select {
	case p.actions <- action:
		return nil
	default:
		return fmt.Errorf("%w: the node goes down already", daemon.ErrConflict)
	}
}

// display is daemon.Display and daemon.Doing: the log stands for the screen.
type display struct{ *Node }

func (d display) Start(ctx context.Context, _ []osapi.KernelConsole) error {
	return d.faults.hit(ctx, "console.start")
}

func (d display) Message(level, text string) { d.log.Debug("console", "level", level, "text", text) }

func (d display) Progress(phase string, done, total int64) {
	d.log.Debug("console", "phase", phase, "done", done, "total", total)
}

func (d display) Identity(shown daemon.Shown) {
	d.log.Debug("console", "name", shown.Environment.Hostname, "addresses", shown.Addresses, "warnings", shown.Warnings)
}

func (d display) State(state console.State) { d.log.Debug("console", "state", state) }

func (d display) Failed(phase string, err error, again time.Time) {
	d.log.Debug("console", "failed", phase, "error", err, "again", again)
}

func (d display) Pending(status *change.Status) {
	if status != nil {
		d.log.Debug("console", "pending", status.Sections, "until", status.Deadline)
	}
}

// notify is daemon.Notify: the service manager, where one has started this.
type notify struct{ *Node }

func (s notify) Ready() error {
	if s.o.Ready != nil {
		s.o.Ready(s.Endpoint())
	}
	return tell(notifier.SdNotifyReady)
}

func (s notify) Status(text string) error { return tell("STATUS=" + text) }
func (s notify) Stopping() error          { return tell(notifier.SdNotifyStopping) }
func (s notify) Alive() error             { return tell(notifier.SdNotifyWatchdog) }

func (s notify) Watchdog() (time.Duration, error) { return notifier.SdWatchdogEnabled(false) }

func tell(text string) error {
	_, err := notifier.SdNotify(false, text)
	return err
}

// Certificate is part of daemon.Identity.
func (i identity) Certificate() (*tls.Certificate, error) { return &i.server, nil }

// diagnosis is daemon.Diagnosis: the journal, and a kernel and a TPM that are not there.
type diagnosis struct {
	*journal
	n *Node
}

// Kernel is part of daemon.Diagnosis.
func (d diagnosis) Kernel(context.Context) (osapi.DebugKernel, error) {
	found := osapi.DebugKernel{Version: "6.12-simulated", Architecture: "x86_64", CPUBaseline: "x86_64_v3", Modules: []osapi.KernelModule{}}
	for _, name := range d.n.hardware.kernelFacts().Modules {
		found.Modules = append(found.Modules, osapi.KernelModule{Name: name, Dependencies: []string{}})
	}
	return found, nil
}

// EventLog is part of daemon.Diagnosis.
func (diagnosis) EventLog(context.Context) (osapi.DebugEventLog, error) {
	return osapi.DebugEventLog{EventLog: []osapi.DebugEvent{}}, nil
}

// starts is daemon.Starts: nobody counts those of a machine that has no early boot.
type starts struct{}

func (starts) Finished() error { return nil }
