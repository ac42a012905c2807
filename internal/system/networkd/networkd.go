// Package networkd is the adapter for systemd-networkd and what belongs to it: its
// files, udev's names for network cards, the node's name, time and time zone, the
// resolver, and the devices, addresses and routes that are there.
//
// It decides nothing about the network: names and contents come from the planner. It
// does decide how little must be disturbed to bring a new set of files into force. All
// paths hang under Host.Root.
//
// # Reload or restart
//
// Told to reload, systemd-networkd 257 makes the devices that are missing, also one that
// was deleted a moment before, and brings those of changed .netdev files up to date as
// far as the kernel can change them. What it cannot change (the id of a VLAN, the mode of
// a bond with members) the planner has listed as Stale, and it is gone by then. Changed
// .network files reconfigure the links that they match, and no others: networkd compares
// inode and time, so a file that stays is the same inode in the new directory. A removed
// .netdev file removes no device; that is Stale, too. The answer comes when the links are
// reconfigured. test/host tries all this with the real program.
//
// A reload does not apply .link files, which are udev's, does not look at a file with a
// key when the .netdev file that names it is as before, and networkd may hold on to the
// old name of a card. So Apply restarts when it is the first, when an earlier one did not
// come to its end, after a change of such files, after renaming a card by hand, and when
// the reload fails, as it does while networkd is not running. In all other cases it
// reloads. A restart keeps addresses, but asks DHCP servers again.
//
// # What can fail
//
// udev may leave a card with its old name, because the name was taken for a moment or
// the card was in use. Then the bridge of that name cannot be made and the node has no
// network, so Apply renames such a card itself.
package networkd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/holdfast-os/holdfast/internal/system/run"
)

// Host is the machine whose network is set up.
type Host struct {
	// Root is the directory that stands for "/".
	Root string
	// Run starts programs: ip, networkctl (where there is no D-Bus), resolvectl, systemctl,
	// udevadm, wg.
	Run run.Runner
	// Resolver is the address of the resolver that DNSProbe asks; default that of
	// systemd-resolved, 127.0.0.53:53.
	Resolver string
}

// Change is what Apply puts on the machine.
type Change struct {
	// Files are the whole content of /run/systemd/network, by file name.
	Files map[string]string
	// Access are the files that not everybody may read, by file name: those with keys
	// need the mode 0640 and the group KeyGroup. Default: 0644.
	Access map[string]Access
	// Stale are virtual devices to delete, in any order.
	Stale []string
	// Cards are the names that network cards must have, by MAC address in lower case.
	Cards map[string]string
}

const (
	unitDir = "run/systemd/network"
	// pendingFile is there while a change is under way.
	pendingFile = "run/systemd/holdfast-network.pending"
)

// Apply writes the files, deletes stale devices, has udev name the cards and has
// networkd take the files up, with as little disturbance as possible. It does not wait
// for addresses; see WaitOnline. A bridge that carries ports of others, such as
// instances, is kept; the names of those kept are returned.
func (h Host) Apply(ctx context.Context, change Change) (kept []string, err error) {
	unfinished, err := h.begin()
	if err != nil {
		return nil, err
	}
	diff, err := h.writeUnits(change.Files, change.Access)
	if err != nil {
		return nil, fmt.Errorf("writing /%s: %w", unitDir, err)
	}
	diff.first = diff.first || unfinished
	if kept, err = h.deleteDevices(ctx, change.Stale); err != nil {
		return nil, err
	}
	renamed, err := h.nameCards(ctx, change.Cards, diff.links())
	if err != nil {
		return nil, err
	}
	if err := h.takeUp(ctx, diff.reloads() && !renamed); err != nil {
		return nil, err
	}
	if err := os.Remove(h.path(pendingFile)); err != nil {
		return nil, fmt.Errorf("noting that the network is set up: %w", err)
	}
	return kept, nil
}

// begin notes that a change is under way. unfinished is true when an earlier one did
// not come to its end: what it wrote may not be in force.
func (h Host) begin() (unfinished bool, err error) {
	path := h.path(pendingFile)
	if _, err := os.Stat(path); err == nil {
		return true, nil
	}
	err = os.MkdirAll(filepath.Dir(path), 0o755)
	if err == nil {
		err = os.WriteFile(path, nil, 0o644)
	}
	if err != nil {
		return false, fmt.Errorf("noting that the network is being set up: %w", err)
	}
	return false, nil
}

// takeUp has networkd read its files.
func (h Host) takeUp(ctx context.Context, gentle bool) error {
	if gentle {
		err := h.reload(ctx)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("reloading systemd-networkd: %w", err)
		}
	}
	if err := h.do(ctx, "systemctl", "restart", "systemd-networkd.service"); err != nil {
		return fmt.Errorf("restarting systemd-networkd: %w", err)
	}
	return nil
}

func (h Host) do(ctx context.Context, name string, args ...string) error {
	_, err := h.Run(ctx, run.Command{Name: name, Args: args})
	return err
}

func (h Host) path(parts ...string) string {
	return filepath.Join(append([]string{h.Root}, parts...)...)
}

// deleteOrder are kinds of devices in the order in which they must go: what lies on
// another device first, or the kernel takes it along unasked. A veth pair has none in
// sysfs and counts as "".
var deleteOrder = []string{"wireguard", "vlan", "", "bridge", "bond"}

// deleteDevices deletes virtual devices that are there.
func (h Host) deleteDevices(ctx context.Context, names []string) (kept []string, err error) {
	sorted := slices.Clone(names)
	slices.SortStableFunc(sorted, func(a, b string) int {
		return slices.Index(deleteOrder, h.kind(a)) - slices.Index(deleteOrder, h.kind(b))
	})
	for _, name := range sorted {
		if !h.hasDevice(name) {
			continue
		}
		foreign, err := h.hasForeignPort(name)
		if err != nil {
			return nil, fmt.Errorf("reading the ports of %s: %w", name, err)
		}
		if foreign {
			kept = append(kept, name)
			continue
		}
		err = h.do(ctx, "ip", "link", "delete", "dev", name)
		if err != nil && h.hasDevice(name) {
			return nil, fmt.Errorf("deleting the network device %s: %w", name, err)
		}
	}
	return kept, nil
}

// kind is what a virtual device is, empty for one that says nothing of it.
func (h Host) kind(device string) string {
	for line := range strings.Lines(h.sysfs(device, "uevent")) {
		if kind, ok := strings.CutPrefix(strings.TrimSpace(line), "DEVTYPE="); ok && slices.Contains(deleteOrder, kind) {
			return kind
		}
	}
	return ""
}

func (h Host) hasDevice(name string) bool {
	_, err := os.Lstat(h.path("sys/class/net", name))
	return err == nil
}

// hasForeignPort is true for a bridge with a port that is not the node's own.
func (h Host) hasForeignPort(bridge string) (bool, error) {
	ports, err := os.ReadDir(h.path("sys/class/net", bridge, "brif"))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	for _, port := range ports {
		if !strings.HasPrefix(port.Name(), "_") {
			return true, err
		}
	}
	return false, err
}

// nameCards has udev apply .link files that are new, then looks whether all cards have
// their names. renamed is true when one was named by hand.
func (h Host) nameCards(ctx context.Context, cards map[string]string, links bool) (renamed bool, err error) {
	if links {
		if err := h.do(ctx, "udevadm", "control", "--reload"); err != nil {
			return false, fmt.Errorf("reloading udev: %w", err)
		}
		if err := h.do(ctx, "udevadm", "trigger", "--settle", "--action=add", "--subsystem-match=net"); err != nil {
			return false, fmt.Errorf("renaming network cards: %w", err)
		}
	}
	if h.named(cards) {
		return false, nil
	}
	found, err := h.Links(ctx)
	if err != nil {
		return false, err
	}
	for _, mac := range slices.Sorted(maps.Keys(cards)) {
		did, err := h.nameCard(ctx, found, mac, cards[mac])
		if err != nil {
			return false, fmt.Errorf("naming the network card %s %s: %w", mac, cards[mac], err)
		}
		renamed = renamed || did
	}
	return renamed, nil
}

// named is true when there is a card under each name. A name comes from the card's own MAC
// address, and nothing but that card ever gets it. Looking closer would start a program.
func (h Host) named(cards map[string]string) bool {
	for _, name := range cards {
		if _, err := os.Stat(h.path("sys/class/net", name, "device")); err != nil {
			return false
		}
	}
	return true
}

// nameCard does by hand what udev left undone for a card that is there.
func (h Host) nameCard(ctx context.Context, links []Link, mac, name string) (did bool, err error) {
	at := slices.IndexFunc(links, func(l Link) bool { return l.Physical && l.CardAddress() == mac })
	if at < 0 || links[at].Name == name {
		return false, nil
	}
	old := links[at].Name
	if err := h.do(ctx, "ip", "link", "set", "dev", old, "down"); err != nil {
		return false, err
	}
	if err := h.do(ctx, "ip", "link", "set", "dev", old, "name", name); err != nil {
		return false, err
	}
	// A second add event lets udev give the card its random address.
	return true, h.do(ctx, "udevadm", "trigger", "--settle", "--action=add", "--subsystem-match=net", "--sysname-match="+name)
}
