// Package networkd is the adapter for systemd-networkd and what belongs to it: its
// files, udev's names for network cards, the node's name and time zone, and the
// addresses and routes that are there.
//
// It decides nothing: names and contents come from the planner. All paths hang under
// Host.Root.
//
// What can fail: udev may leave a card with its old name, because the name was taken
// for a moment or the card was in use. Then the bridge of that name cannot be made
// and the node has no network, so Apply renames such a card itself.
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

	"golang.org/x/sys/unix"

	"github.com/holdfast-os/holdfast/internal/system/run"
)

// Host is the machine whose network is set up.
type Host struct {
	// Root is the directory that stands for "/".
	Root string
	// Run starts programs: ip, networkctl, systemctl, udevadm.
	Run run.Runner
}

// Change is what Apply puts on the machine.
type Change struct {
	// Files are the whole content of /run/systemd/network, by file name.
	Files map[string]string
	// Stale are virtual devices to delete first.
	Stale []string
	// Cards are the names that network cards must have, by MAC address in lower case.
	Cards map[string]string
}

const unitDir = "run/systemd/network"

// Apply deletes stale devices, writes the files, has udev rename the cards and
// restarts networkd. It does not wait for addresses; see WaitOnline. A bridge that
// carries ports of others, such as instances, is kept; the names of those kept are
// returned.
func (h Host) Apply(ctx context.Context, change Change) (kept []string, err error) {
	if err := h.writeUnits(change.Files); err != nil {
		return nil, fmt.Errorf("writing /%s: %w", unitDir, err)
	}
	if kept, err = h.deleteDevices(ctx, change.Stale); err != nil {
		return nil, err
	}
	if err := h.nameCards(ctx, change.Cards); err != nil {
		return nil, err
	}
	if err := h.do(ctx, "systemctl", "restart", "systemd-networkd.service"); err != nil {
		return nil, fmt.Errorf("restarting systemd-networkd: %w", err)
	}
	return kept, nil
}

func (h Host) do(ctx context.Context, name string, args ...string) error {
	_, err := h.Run(ctx, run.Command{Name: name, Args: args})
	return err
}

func (h Host) path(parts ...string) string {
	return filepath.Join(append([]string{h.Root}, parts...)...)
}

// writeUnits puts a directory with the files in the place of the present one, in
// one step: networkd never sees half of a plan.
func (h Host) writeUnits(files map[string]string) error {
	dir, next := h.path(unitDir), h.path(unitDir+".next")
	if err := os.RemoveAll(next); err != nil {
		return err
	}
	if err := os.MkdirAll(next, 0o755); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if name != filepath.Base(name) || strings.HasPrefix(name, ".") {
			return fmt.Errorf("%q is not a file name", name)
		}
		if err := os.WriteFile(filepath.Join(next, name), []byte(files[name]), 0o644); err != nil {
			return err
		}
	}
	err := unix.Renameat2(unix.AT_FDCWD, next, unix.AT_FDCWD, dir, unix.RENAME_EXCHANGE)
	if errors.Is(err, fs.ErrNotExist) {
		return os.Rename(next, dir)
	}
	if err != nil {
		return err
	}
	return os.RemoveAll(next)
}

// deleteDevices deletes virtual devices that are there.
func (h Host) deleteDevices(ctx context.Context, names []string) (kept []string, err error) {
	for _, name := range names {
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
		if err := h.do(ctx, "ip", "link", "delete", "dev", name); err != nil {
			return nil, fmt.Errorf("deleting the network device %s: %w", name, err)
		}
	}
	return kept, nil
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

// nameCards has udev apply the new .link files, then looks whether it did.
func (h Host) nameCards(ctx context.Context, cards map[string]string) error {
	if err := h.do(ctx, "udevadm", "control", "--reload"); err != nil {
		return fmt.Errorf("reloading udev: %w", err)
	}
	if err := h.do(ctx, "udevadm", "trigger", "--settle", "--action=add", "--subsystem-match=net"); err != nil {
		return fmt.Errorf("renaming network cards: %w", err)
	}
	links, err := h.Links(ctx)
	if err != nil {
		return err
	}
	for _, mac := range slices.Sorted(maps.Keys(cards)) {
		if err := h.nameCard(ctx, links, mac, cards[mac]); err != nil {
			return fmt.Errorf("naming the network card %s %s: %w", mac, cards[mac], err)
		}
	}
	return nil
}

// nameCard does by hand what udev left undone for a card that is there.
func (h Host) nameCard(ctx context.Context, links []Link, mac, name string) error {
	at := slices.IndexFunc(links, func(l Link) bool { return l.Physical && l.CardAddress() == mac })
	if at < 0 || links[at].Name == name {
		return nil
	}
	old := links[at].Name
	if err := h.do(ctx, "ip", "link", "set", "dev", old, "down"); err != nil {
		return err
	}
	if err := h.do(ctx, "ip", "link", "set", "dev", old, "name", name); err != nil {
		return err
	}
	// A second add event lets udev give the card its random address.
	return h.do(ctx, "udevadm", "trigger", "--settle", "--action=add", "--subsystem-match=net", "--sysname-match="+name)
}
