package networkd_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	api "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/system/networkd"
	"github.com/holdfast-os/holdfast/internal/system/run"
)

// programs answers commands by their text and notes them.
type programs struct {
	answers map[string]string
	fail    map[string]error
	got     []string
}

func (p *programs) run(_ context.Context, c run.Command) (run.Result, error) {
	text := strings.Join(append([]string{c.Name}, c.Args...), " ")
	p.got = append(p.got, text)
	return run.Result{Stdout: []byte(p.answers[text])}, p.fail[text]
}

func write(t *testing.T, root string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func read(t *testing.T, parts ...string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(parts...))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

const (
	askLinks  = "ip -json -details -stats address show"
	linksJSON = `[{},
{"ifname":"lo","link_type":"loopback","address":"00:00:00:00:00:00","mtu":65536,"addr_info":[{"local":"127.0.0.1"},{"local":"::1"}],"stats64":{"rx":{"bytes":9},"tx":{"bytes":9}}},
{"ifname":"_p525400123456","link_type":"ether","address":"BE:00:00:00:00:01","permaddr":"52:54:00:12:34:56","mtu":1500,"max_mtu":65535,"addr_info":[],
 "stats64":{"rx":{"bytes":1000,"errors":1},"tx":{"bytes":2000,"errors":2}}},
{"ifname":"enp0s2","link_type":"ether","address":"aa:00:00:00:00:01","mtu":1500,"linkinfo":{"info_kind":"bridge"},"addr_info":[],"stats64":{"rx":{},"tx":{}}},
{"ifname":"_venp0s2","link_type":"ether","address":"52:54:00:12:34:56","mtu":1400,"linkinfo":{"info_kind":"veth"},
 "addr_info":[{"local":"10.0.2.15"},{"local":"fec0::1"},{"local":"fe80::1"},{"local":"169.254.0.1"}],"stats64":{"rx":{"bytes":7},"tx":{"bytes":7}}},
{"ifname":"enp0s3","link_type":"ether","address":"52:54:00:00:00:03","mtu":1500,"max_mtu":9000,"addr_info":[],"stats64":{"rx":{},"tx":{}}},
{"ifname":"wlan0","link_type":"ether","address":"52:54:00:00:00:04","mtu":1500,"addr_info":[],"stats64":{"rx":{},"tx":{}}},
{"ifname":"enp0s4v1","link_type":"ether","address":"52:54:00:00:00:05","mtu":1500,"addr_info":[],"stats64":{"rx":{},"tx":{}}}]`
)

// node is a machine with one configured card and one that is not.
func node(t *testing.T) (string, *programs) {
	t.Helper()
	root := t.TempDir()
	write(t, root, map[string]string{
		"sys/class/net/_p525400123456/device/vendor": "", "sys/class/net/_p525400123456/speed": "1000\n",
		"sys/class/net/_p525400123456/addr_assign_type": "3\n",
		"sys/class/net/enp0s2/brif/_p525400123456":      "",
		"sys/class/net/_venp0s2/mtu":                    "",
		"sys/class/net/enp0s3/device/vendor":            "", "sys/class/net/enp0s3/addr_assign_type": "0\n",
		"sys/class/net/enp0s3/speed":        "-1\n",
		"sys/class/net/wlan0/device/vendor": "", "sys/class/net/wlan0/phy80211/name": "",
		"sys/class/net/enp0s4v1/device/physfn/vendor": "",
	})
	return root, &programs{answers: map[string]string{
		askLinks: linksJSON,
		"networkctl --json=short list": `{"Interfaces":[{"Index":1,"Name":"lo","OperationalState":"carrier"},
 {"Index":4,"Name":"_venp0s2","OperationalState":"routable"},{"Index":5,"Name":"enp0s3","OperationalState":"off"}]}`,
		"ip -json -4 route show": `[{"dst":"default","gateway":"10.0.2.2","dev":"_venp0s2","metric":100},
 {"dst":"10.0.2.0/24","dev":"_venp0s2"},{"dst":"198.51.100.7","gateway":"10.0.2.2","dev":"_venp0s2"}]`,
		"ip -json -6 route show": `[{"dst":"default","gateway":"fe80::2","dev":"_venp0s2"},{"dst":"default","gateway":"fe80::2","dev":"_venp0s2"}]`,
	}, fail: map[string]error{}}
}

// The owner sees the node's addresses under the name that was configured, and the
// cards that nobody configured.
func TestReadState_Node_GivesItsInterfaces(t *testing.T) {
	root, p := node(t)
	got, err := networkd.Host{Root: root, Run: p.run}.ReadState(context.Background(), []networkd.Interface{
		{Name: "enp0s2", Host: "_venp0s2", Card: "_p525400123456", Hwaddr: "52:54:00:12:34:56"},
		{Name: "lan", Host: "_vlan", Card: "_p02", Hwaddr: "02:00:00:00:00:02"},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]api.NetworkInterfaceState{
		"enp0s2": {
			Type: "interface", State: "routable", Addresses: []string{"10.0.2.15", "fec0::1"}, Hwaddr: "52:54:00:12:34:56", MTU: 1400, Speed: "1000",
			Routes: []api.NetworkRoute{{To: "0.0.0.0/0", Via: "10.0.2.2"}, {To: "198.51.100.7/32", Via: "10.0.2.2"}, {To: "::/0", Via: "fe80::2"}},
			Stats:  api.NetworkStatistic{RXBytes: 1000, RXErrors: 1, TXBytes: 2000, TXErrors: 2},
		},
		"lan":    {Type: "interface", State: "missing", Hwaddr: "02:00:00:00:00:02", Speed: "unknown"},
		"enp0s3": {Type: "physical", State: "off", Hwaddr: "52:54:00:00:00:03", MTU: 1500, Speed: "unknown"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// A node without any route has an empty answer in some versions of ip.
func TestReadState_NoRoutesAtAll_IsNoError(t *testing.T) {
	root, p := node(t)
	p.answers["ip -json -4 route show"], p.answers["ip -json -6 route show"] = "", "[ ]"
	got, err := networkd.Host{Root: root, Run: p.run}.ReadState(context.Background(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(got["_p525400123456"].Routes) != 0 || got["_p525400123456"].Hwaddr != "52:54:00:12:34:56" {
		t.Errorf("got %+v", got)
	}
}

// networkd must never see files of an earlier plan beside those of this one.
func TestApply_EarlierFiles_AreReplacedAsAWhole(t *testing.T) {
	root, p := node(t)
	write(t, root, map[string]string{"run/systemd/network/90-old.network": "old"})
	_, err := networkd.Host{Root: root, Run: p.run}.Apply(context.Background(), networkd.Change{
		Files: map[string]string{"20-lan.network": "new"}, Cards: map[string]string{"52:54:00:12:34:56": "_p525400123456", "02:00:00:00:00:99": "_p020000000099"}})
	if err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(filepath.Join(root, "run/systemd"))
	if err != nil || len(entries) != 1 {
		t.Errorf("got %v, %v; want network alone", entries, err)
	}
	entries, err = os.ReadDir(filepath.Join(root, "run/systemd/network"))
	if err != nil || len(entries) != 1 || read(t, root, "run/systemd/network/20-lan.network") != "new" {
		t.Errorf("got %v, %v", entries, err)
	}
	if diff := cmp.Diff([]string{askLinks, "networkctl reload"}, p.got); diff != "" {
		t.Error(diff)
	}
}

// A card that kept its name would keep the bridge of that name from being made, and
// the node off the network.
func TestApply_CardThatUdevDidNotRename_IsRenamed(t *testing.T) {
	root, p := node(t)
	_, err := networkd.Host{Root: root, Run: p.run}.Apply(context.Background(), networkd.Change{
		Cards: map[string]string{"52:54:00:00:00:03": "_p525400000003"}})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"ip link set dev enp0s3 down", "ip link set dev enp0s3 name _p525400000003",
		"udevadm trigger --settle --action=add --subsystem-match=net --sysname-match=_p525400000003",
		"systemctl restart systemd-networkd.service",
	}
	if diff := cmp.Diff(want, p.got[3:]); diff != "" {
		t.Error(diff)
	}
}

// A change of the network must not take it from running instances.
func TestApply_StaleBridgeWithInstances_IsKept(t *testing.T) {
	root, p := node(t)
	write(t, root, map[string]string{"sys/class/net/busy/brif/_p1": "", "sys/class/net/busy/brif/veth1234": ""})
	kept, err := networkd.Host{Root: root, Run: p.run}.Apply(context.Background(), networkd.Change{
		Stale: []string{"_venp0s2", "busy", "enp0s2", "gone"}})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"busy"}, kept); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"ip link delete dev _venp0s2", "ip link delete dev enp0s2"}, p.got[:2]); diff != "" {
		t.Error(diff)
	}
}

func TestApply_FileNameWithDirectory_IsRefused(t *testing.T) {
	root, p := node(t)
	_, err := networkd.Host{Root: root, Run: p.run}.Apply(context.Background(), networkd.Change{Files: map[string]string{"../x": ""}})
	if want := `writing /run/systemd/network: "../x" is not a file name`; err == nil || err.Error() != want {
		t.Errorf("got %v", err)
	}
}

// By default no interface is required, and wait-online would then wait for nothing
// until its time is over: the devices must be named.
func TestWaitOnline_NoneRequired_NamesTheDevices(t *testing.T) {
	var p programs
	host := networkd.Host{Run: p.run}
	if err := host.WaitOnline(context.Background(), []string{"_va", "_vb"}, 1500*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	if err := host.WaitOnline(context.Background(), nil, 30*time.Second); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"/usr/lib/systemd/systemd-networkd-wait-online --timeout=2 --any --interface=_va:routable --interface=_vb:routable",
		"/usr/lib/systemd/systemd-networkd-wait-online --timeout=30",
	}
	if diff := cmp.Diff(want, p.got); diff != "" {
		t.Error(diff)
	}
}

// Time over and program missing call for different help.
func TestWaitOnline_TimeOver_IsOffline(t *testing.T) {
	const command = "/usr/lib/systemd/systemd-networkd-wait-online --timeout=30"
	p := programs{fail: map[string]error{command: &run.Error{ExitCode: 1, Err: errors.New("exit status 1")}}}
	if err := (networkd.Host{Run: p.run}).WaitOnline(context.Background(), nil, 30*time.Second); !errors.Is(err, networkd.ErrOffline) {
		t.Errorf("got %v", err)
	}
	p.fail[command] = &run.Error{ExitCode: -1, Err: errors.New("no such file")}
	if err := (networkd.Host{Run: p.run}).WaitOnline(context.Background(), nil, 30*time.Second); err == nil || errors.Is(err, networkd.ErrOffline) {
		t.Errorf("got %v", err)
	}
}

func TestSetHostname_Name_IsSetNowAndForLater(t *testing.T) {
	root := t.TempDir()
	write(t, root, map[string]string{"proc/sys/kernel/hostname": "localhost-and-more\n", "etc/hostname": "x"})
	if err := (networkd.Host{Root: root}).SetHostname("node1.example.org"); err != nil {
		t.Fatal(err)
	}
	if now, later := read(t, root, "proc/sys/kernel/hostname"), read(t, root, "etc/hostname"); now != "node1.example.org" || later != "node1.example.org\n" {
		t.Errorf("got %q and %q", now, later)
	}
}

// A zone that is not there would silently mean UTC.
func TestSetTimezone_KnownZonesAlone(t *testing.T) {
	root := t.TempDir()
	write(t, root, map[string]string{"usr/share/zoneinfo/Europe/Zurich": "", "usr/share/zoneinfo/UTC": "", "etc/localtime": "", "etc/shadow": ""})
	host := networkd.Host{Root: root}
	for _, zone := range []string{"UTC", "Europe/Zurich"} {
		if err := host.SetTimezone(zone); err != nil {
			t.Fatal(err)
		}
		if got, err := os.Readlink(filepath.Join(root, "etc/localtime")); err != nil || got != "../usr/share/zoneinfo/"+zone {
			t.Errorf("got %q, %v", got, err)
		}
	}
	for zone, want := range map[string]string{
		"Mars/Base":           `setting the time zone: this system has no zone "Mars/Base"; names are as Europe/Zurich`,
		"Europe":              `setting the time zone: this system has no zone "Europe"; names are as Europe/Zurich`,
		"../../../etc/shadow": `setting the time zone: "../../../etc/shadow" is not the name of a zone`,
	} {
		if err := host.SetTimezone(zone); err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

func TestSetTimesyncd_EmptyContent_RemovesTheDropIn(t *testing.T) {
	root := t.TempDir()
	var p programs
	host := networkd.Host{Root: root, Run: p.run}
	if err := host.SetTimesyncd(context.Background(), "[Time]\n"); err != nil {
		t.Fatal(err)
	}
	const name = "run/systemd/timesyncd.conf.d/10-holdfast.conf"
	if got := read(t, root, name); got != "[Time]\n" {
		t.Errorf("got %q", got)
	}
	for range 2 {
		if err := host.SetTimesyncd(context.Background(), ""); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(filepath.Join(root, name)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

// A card that the node has taken is still known by the name that is on its label.
func TestOwnName_ATakenCard_IsWhatUdevCallsIt(t *testing.T) {
	root := t.TempDir()
	for path, text := range map[string]string{
		"sys/class/net/_p525400123456/ifindex": "2\n", "sys/class/net/_p525400123457/ifindex": "3\n",
		"run/udev/data/n2": "I:1\nE:ID_NET_NAME_MAC=enx525400123456\nE:ID_NET_NAME_PATH=enp0s3\nE:ID_NET_NAME_SLOT=ens3\n",
		"run/udev/data/n3": "I:1\n",
	} {
		full := filepath.Join(root, path)
		if err := errors.Join(os.MkdirAll(filepath.Dir(full), 0o755), os.WriteFile(full, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	host := networkd.Host{Root: root}
	for name, want := range map[string]string{"_p525400123456": "ens3", "_p525400123457": "_p525400123457", "_pgone": "_pgone", "eth0": "eth0"} {
		if got := host.OwnName(networkd.Link{Name: name}); got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
}
