package peers

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/holdfast-os/holdfast/internal/system/run"
)

// schema is the form of Open vSwitch's database.
const schema = "/usr/share/openvswitch/vswitch.ovsschema"

// Switch is one Ethernet switch. A port without a VLAN carries all: frames without a tag
// as they are, and those with one.
type Switch struct {
	side   *Side
	bridge string
}

// Switch starts the program of the switches, with the first of them.
func (s *Side) Switch(ctx context.Context) (*Switch, error) {
	if _, err := do(ctx, "ovsdb-tool", "create", s.File("ovs.db"), schema); err != nil {
		return nil, fmt.Errorf("making the database of the switch: %w", err)
	}
	env := []string{"OVS_RUNDIR=" + s.dir}
	database := run.Command{Name: "ovsdb-server", Env: env, Args: []string{
		"--remote=punix:" + s.File("ovs.sock"), "--unixctl=" + s.File("ovsdb.ctl"), s.File("ovs.db")}}
	if err := s.start(ctx, "ovsdb-server", database, fileThere(s.File("ovs.sock"))); err != nil {
		return nil, err
	}
	if _, err := do(ctx, "ovs-vsctl", "--db=unix:"+s.File("ovs.sock"), "--no-wait", "init"); err != nil {
		return nil, fmt.Errorf("preparing the database of the switch: %w", err)
	}
	program := run.Command{Name: "ovs-vswitchd", Env: env, Args: []string{"--disable-system", "--unixctl=" + s.File("switch.ctl"), "unix:" + s.File("ovs.sock")}}
	if err := s.start(ctx, "ovs-vswitchd", program, fileThere(s.File("switch.ctl"))); err != nil {
		return nil, err
	}
	return s.AnotherSwitch(ctx, "sw")
}

// AnotherSwitch adds a switch beside the first.
func (s *Side) AnotherSwitch(ctx context.Context, end string) (*Switch, error) {
	w := &Switch{side: s, bridge: Name(end)}
	// Only this removes its device as well.
	s.later(func() error { return w.ctl(context.Background(), "--if-exists", "del-br", w.bridge) })
	return w, w.ctl(ctx, "add-br", w.bridge, "--", "set", "bridge", w.bridge, "datapath_type=netdev", "fail-mode=standalone")
}

func (w *Switch) ctl(ctx context.Context, args ...string) error {
	_, err := do(ctx, "ovs-vsctl", append([]string{"--db=unix:" + w.side.File("ovs.sock"), "--timeout=30"}, args...)...)
	if err != nil {
		return fmt.Errorf("setting the switch %s up: %w", w.bridge, err)
	}
	return nil
}

// Tap makes a tap device for a card of a virtual machine and plugs it in. It gives its name.
func (w *Switch) Tap(ctx context.Context, end string) (string, error) {
	name := Name(end)
	if _, err := do(ctx, "ip", "tuntap", "add", "dev", name, "mode", "tap"); err != nil {
		return "", fmt.Errorf("making the tap device %s: %w", name, err)
	}
	w.side.later(undoing("ip", "link", "delete", name))
	if err := quiet(ctx, "", name); err != nil {
		return "", err
	}
	return name, w.Plug(ctx, name, 0)
}

// Plug makes a device a port; vlan is that of a port that knows no tags, or 0.
func (w *Switch) Plug(ctx context.Context, device string, vlan int) error {
	args := []string{"add-port", w.bridge, device}
	if vlan != 0 {
		args = append(args, fmt.Sprintf("tag=%d", vlan))
	}
	return w.ctl(ctx, args...)
}

// Attach plugs a namespace in with a veth pair; device is its end's name there.
func (w *Switch) Attach(ctx context.Context, n *Namespace, device string, vlan int, addresses ...string) error {
	port := Name(strings.TrimPrefix(n.Name, prefix()+"-") + device)
	if err := w.Cable(ctx, port, Name("x")); err != nil {
		return err
	}
	if _, err := do(ctx, "ip", "link", "set", Name("x"), "netns", n.Name, "name", device); err != nil {
		return fmt.Errorf("plugging the namespace %s in: %w", n.Name, err)
	}
	if err := quiet(ctx, n.Name, device); err != nil {
		return err
	}
	for _, address := range addresses {
		if err := n.ip(ctx, "address", "add", address, "dev", device, "nodad"); err != nil {
			return fmt.Errorf("giving the namespace %s an address: %w", n.Name, err)
		}
	}
	return w.Plug(ctx, port, vlan)
}

// Cable makes a veth pair between two names of this computer; both ends are up.
func (w *Switch) Cable(ctx context.Context, one, other string) error {
	if _, err := do(ctx, "ip", "link", "add", one, "type", "veth", "peer", "name", other); err != nil {
		return fmt.Errorf("making a cable: %w", err)
	}
	w.side.later(undoing("ip", "link", "delete", one))
	for _, end := range []string{one, other} {
		if err := quiet(ctx, "", end); err != nil {
			return err
		}
	}
	return nil
}

// quiet brings a device up on which this computer itself says nothing, and which leaves no
// checksum to a card that is not there. In a namespace (not empty) the computer may speak.
func quiet(ctx context.Context, namespace, device string) error {
	do := func(name string, args ...string) error {
		if namespace != "" {
			name, args = "ip", append([]string{"netns", "exec", namespace, name}, args...)
		}
		_, err := run.Host(ctx, run.Command{Name: name, Args: args})
		return err
	}
	if namespace == "" {
		// Without these the computer would answer for its own addresses on any device.
		for value, text := range map[string]string{"ipv4/conf/" + device + "/arp_ignore": "8", "ipv6/conf/" + device + "/disable_ipv6": "1"} {
			if err := os.WriteFile("/proc/sys/net/"+value, []byte(text), 0); err != nil {
				return fmt.Errorf("silencing %s: %w", device, err)
			}
		}
	}
	if err := do("ethtool", "-K", device, "tx", "off", "tso", "off", "gso", "off", "gro", "off"); err != nil {
		return fmt.Errorf("turning the offloads of %s off: %w", device, err)
	}
	return do("ip", "link", "set", device, "up")
}

// Bond makes one port of several devices, which speak LACP and ask once a second. They may
// have been ports before.
func (w *Switch) Bond(ctx context.Context, end string, devices ...string) error {
	var args []string
	for _, device := range devices {
		args = append(args, "--if-exists", "del-port", w.bridge, device, "--")
	}
	args = append(args, "add-bond", w.bridge, Name(end))
	args = append(args, devices...)
	return w.ctl(ctx, append(args, "bond_mode=balance-tcp", "lacp=active", "other_config:lacp-time=fast")...)
}

// Unbond makes the devices ports of their own again.
func (w *Switch) Unbond(ctx context.Context, end string, devices ...string) error {
	args := []string{"del-port", w.bridge, Name(end)}
	for _, device := range devices {
		args = append(args, "--", "add-port", w.bridge, device)
	}
	return w.ctl(ctx, args...)
}

// LACP is what the switch says about LACP on a bond, for a person.
func (w *Switch) LACP(ctx context.Context, end string) (string, error) {
	return do(ctx, "ovs-appctl", "-t", w.side.File("switch.ctl"), "lacp/show", Name(end))
}

// Negotiated is true once the bond's members all have a partner that carries traffic.
func Negotiated(lacp string) bool {
	members := strings.Count(lacp, "\nmember: ") + strings.Count(lacp, "\nslave: ")
	return strings.Contains(lacp, "negotiated") && members > 0 && strings.Count(lacp, ": current attached") == members
}
