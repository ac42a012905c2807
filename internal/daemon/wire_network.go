package daemon

import (
	"context"
	"errors"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	osapi "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/apply"
	"github.com/holdfast-os/holdfast/internal/network"
	"github.com/holdfast-os/holdfast/internal/plan"
	"github.com/holdfast-os/holdfast/internal/system/networkd"
	"github.com/holdfast-os/holdfast/internal/system/nft"
	"github.com/holdfast-os/holdfast/internal/system/run"
)

// onlineTimeout is how long a change of the network, and the start, waits for addresses.
const onlineTimeout = 30 * time.Second

func (h *Host) networkd() networkd.Host { return networkd.Host{Root: root, Run: run.Host} }

// hostNetwork is NetworkHands.
type hostNetwork struct{ *Host }

func (h hostNetwork) World(ctx context.Context) (network.World, error) {
	found, err := h.facts.Cards(ctx)
	if err != nil {
		return network.World{}, err
	}
	uuid, err := h.facts.ProductUUID()
	if err != nil {
		return network.World{}, err
	}
	environment, err := h.facts.Environment()
	if err != nil {
		return network.World{}, err
	}
	world := network.World{ProductUUID: uuid, MachineID: environment.MachineID, OSName: environment.OSName}
	for _, card := range found {
		world.Cards = append(world.Cards, network.Card(card))
	}
	return world, nil
}

// Carry takes the steps in their order. Those that are networkd's are one: its adapter
// replaces the whole directory at once and disturbs as little as it can.
func (h hostNetwork) Carry(ctx context.Context, before, next network.Plan) error {
	if err := os.MkdirAll(filepath.Dir(network.ProxyFile), 0o755); err != nil {
		return err
	}
	executor, done := h.executor(), false
	for _, step := range network.Change(before, next).Steps {
		if !networkdStep(step) {
			if err := executor.Do(ctx, plan.Plan{Steps: []plan.Step{step}}); err != nil {
				return err
			}
			continue
		}
		if done {
			continue
		}
		done = true
		if err := h.devices(ctx, before, next); err != nil {
			return err
		}
	}
	return nil
}

// networkdStep is true for what networkd.Host.Apply does.
func networkdStep(step plan.Step) bool {
	switch step.Kind {
	case plan.WriteFile, plan.RemoveFile:
		return strings.HasPrefix(step.Object, network.UnitDir+"/")
	case plan.CreateDevice, plan.DeleteDevice:
		return true
	case plan.RestartUnit:
		return step.Object == "systemd-networkd.service"
	case plan.UseTool:
		return step.Tool == network.ToolCards || step.Tool == network.ToolGroup
	}
	return false
}

func (h hostNetwork) devices(ctx context.Context, before, next network.Plan) error {
	change := networkd.Change{
		Files: map[string]string{}, Access: map[string]networkd.Access{}, Stale: network.Stale(before, next), Cards: next.Cards,
	}
	for name, text := range next.Files {
		change.Files[name] = text
	}
	for name, text := range next.Secrets {
		change.Files[name] = text
		change.Access[name] = networkd.Access{Mode: network.SecretMode, Group: network.SecretGroup}
	}
	kept, err := h.networkd().Apply(ctx, change)
	if len(kept) > 0 {
		h.log.Warn("bridges that instances use are kept", "devices", kept)
	}
	return err
}

// WaitOnline is part of NetworkHands.
func (h hostNetwork) WaitOnline(ctx context.Context, now network.Plan, starting bool) error {
	if !now.WaitAll && len(now.WaitAny) == 0 {
		return nil
	}
	err := h.networkd().WaitOnline(ctx, now.WaitAny, onlineTimeout)
	if starting && errors.Is(err, networkd.ErrOffline) {
		h.log.Warn("starting without a network", "error", err)
		h.display.Message("warning", networkd.ErrOffline.Error())
		return nil
	}
	return err
}

// Warn is part of NetworkHands.
func (h hostNetwork) Warn(ctx context.Context, text string) {
	h.log.WarnContext(ctx, text)
	h.display.Message("warning", text)
}

// Observe is part of NetworkHands.
func (h hostNetwork) Observe(ctx context.Context, now network.Plan) (map[string]osapi.NetworkInterfaceState, error) {
	devices := make([]networkd.Device, 0, len(now.Devices))
	for _, d := range now.Devices {
		devices = append(devices, networkd.Device{Type: d.Type, Name: d.Name, Host: d.Host, Bond: d.Bond, Cards: d.Cards, Hwaddr: d.Hwaddr})
	}
	return h.networkd().ReadDevices(ctx, devices)
}

// networkTools are what only a tool can do for the network.
func (h *Host) networkTools() map[string]apply.Tool {
	return map[string]apply.Tool{
		network.ToolTimezone: func(_ context.Context, args []string) error { return h.networkd().SetTimezone(args[0]) },
		network.ToolEEE:      func(_ context.Context, args []string) error { return networkd.DisableEEE(args) },
		network.ToolGroup:    func(_ context.Context, args []string) error { return giveToGroup(args[0], args[1:]) },
		network.ToolNftables: func(ctx context.Context, args []string) error {
			ruleset, err := os.ReadFile(args[0])
			if err != nil {
				return err
			}
			return nft.Host{Run: run.Host}.Apply(ctx, string(ruleset))
		},
	}
}

func giveToGroup(name string, paths []string) error {
	group, err := user.LookupGroup(name)
	if err != nil {
		return err
	}
	id, err := strconv.Atoi(group.Gid)
	if err != nil {
		return err
	}
	for _, path := range paths {
		if err := os.Chown(path, 0, id); err != nil {
			return err
		}
	}
	return nil
}
