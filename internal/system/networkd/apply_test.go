package networkd_test

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/internal/system/networkd"
)

const (
	udevReload  = "udevadm control --reload"
	udevTrigger = "udevadm trigger --settle --action=add --subsystem-match=net"
	reload      = "networkctl reload"
	restart     = "systemctl restart systemd-networkd.service"
)

// An owner who adds an address must not lose the leases and neighbours of all other
// devices; whoever renames a card must not be left with the old name.
func TestApply_Changes_DisturbAsLittleAsIsRight(t *testing.T) {
	before := map[string]string{"00-_p1.link": "link", "10-lan.netdev": "[NetDev]\nName=lan\n", "13-wg.key": "key", "20-lan.network": "a"}
	with := func(name, content string) map[string]string {
		files := maps.Clone(before)
		files[name] = content
		return files
	}
	for name, c := range map[string]struct {
		files map[string]string
		cards map[string]string
		fail  string
		want  []string
	}{
		"nothing":                  {files: before, want: []string{reload}},
		"a network file":           {files: with("20-lan.network", "b"), want: []string{reload}},
		"a new device":             {files: with("12-vlan.netdev", "[NetDev]\nName=vlan\n"), want: []string{reload}},
		"a new key":                {files: with("13-wg2.key", "key"), want: []string{reload}},
		"another key":              {files: with("13-wg.key", "other"), want: []string{restart}},
		"a link file":              {files: with("00-_p1.link", "other"), want: []string{udevReload, udevTrigger, restart}},
		"a new link file":          {files: with("00-_p2.link", "link"), want: []string{udevReload, udevTrigger, restart}},
		"no link file":             {files: map[string]string{}, want: []string{udevReload, udevTrigger, restart}},
		"networkd is off":          {files: before, fail: reload, want: []string{reload, restart}},
		"a card that has its name": {files: before, cards: map[string]string{"52:54:00:12:34:56": "_p525400123456"}, want: []string{reload}},
		"a card's name": {files: before, cards: map[string]string{"52:54:00:00:00:03": "_p3"}, want: []string{askLinks,
			"ip link set dev enp0s3 down", "ip link set dev enp0s3 name _p3", udevTrigger + " --sysname-match=_p3", restart}},
	} {
		root, p := node(t)
		host := networkd.Host{Root: root, Run: p.run}
		if _, err := host.Apply(t.Context(), networkd.Change{Files: before}); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]string{udevReload, udevTrigger, restart}, p.got); diff != "" {
			t.Errorf("the first time: %s", diff)
		}
		p.got = nil
		if c.fail != "" {
			p.fail[c.fail] = errors.New("no networkd")
		}
		if _, err := host.Apply(t.Context(), networkd.Change{Files: c.files, Cards: c.cards}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if diff := cmp.Diff(c.want, p.got); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

// A change that broke off may have left udev without the new files.
func TestApply_AfterOneThatBrokeOff_DoesEverything(t *testing.T) {
	root, p := node(t)
	host := networkd.Host{Root: root, Run: p.run}
	change := networkd.Change{Files: map[string]string{"00-_p1.link": "link"}}
	p.fail[udevTrigger] = errors.New("interrupted")
	if _, err := host.Apply(t.Context(), change); !errors.Is(err, p.fail[udevTrigger]) {
		t.Fatalf("got %v", err)
	}
	delete(p.fail, udevTrigger)
	p.got = nil
	if _, err := host.Apply(t.Context(), change); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{udevReload, udevTrigger, restart}, p.got); diff != "" {
		t.Error(diff)
	}
}

// networkd takes a file with another inode for a changed one.
func TestApply_FileThatStays_KeepsItsInode(t *testing.T) {
	root, p := node(t)
	host := networkd.Host{Root: root, Run: p.run}
	inode := func(name string) uint64 {
		info, err := os.Stat(filepath.Join(root, "run/systemd/network", name))
		if err != nil {
			t.Fatal(err)
		}
		return info.Sys().(*syscall.Stat_t).Ino
	}
	for _, b := range []string{"b", "changed"} {
		files := map[string]string{"20-a.network": "a", "20-b.network": b}
		before := []uint64{0, 0}
		if b == "changed" {
			before = []uint64{inode("20-a.network"), inode("20-b.network")}
		}
		if _, err := host.Apply(t.Context(), networkd.Change{Files: files}); err != nil {
			t.Fatal(err)
		}
		if b == "changed" && (inode("20-a.network") != before[0] || inode("20-b.network") == before[1]) {
			t.Errorf("a has inode %d, had %d; b has %d, had %d", inode("20-a.network"), before[0], inode("20-b.network"), before[1])
		}
	}
}

// networkd does not run as root and must read the key; nobody else may.
func TestApply_FileWithKey_IsForItsGroupAlone(t *testing.T) {
	root, p := node(t)
	gid := os.Getegid()
	if os.Geteuid() == 0 {
		gid = 4242
	}
	write(t, root, map[string]string{"etc/group": "root:x:0:\nsystemd-network:x:" + strconv.Itoa(gid) + ":\n"})
	host := networkd.Host{Root: root, Run: p.run}
	change := networkd.Change{Files: map[string]string{"13-wg.netdev": "PrivateKey=x", "20-wg.network": ""}}
	look := func() map[string]string {
		got := map[string]string{}
		for name := range change.Files {
			info, err := os.Stat(filepath.Join(root, "run/systemd/network", name))
			if err != nil {
				t.Fatal(err)
			}
			got[name] = info.Mode().String() + " " + strconv.Itoa(int(info.Sys().(*syscall.Stat_t).Gid))
		}
		return got
	}
	// A file that was readable for all before must not stay so.
	own, keys := strconv.Itoa(os.Getegid()), strconv.Itoa(gid)
	for _, step := range []struct {
		access networkd.Access
		want   string
	}{
		{networkd.Access{}, "-rw-r--r-- " + own},
		{networkd.Access{Mode: 0o640}, "-rw-r----- " + own},
		{networkd.Access{Mode: 0o640, Group: networkd.KeyGroup}, "-rw-r----- " + keys},
	} {
		change.Access = map[string]networkd.Access{"13-wg.netdev": step.access}
		if _, err := host.Apply(t.Context(), change); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(map[string]string{"13-wg.netdev": step.want, "20-wg.network": "-rw-r--r-- " + own}, look()); diff != "" {
			t.Error(diff)
		}
	}
	change.Access = map[string]networkd.Access{"13-wg.netdev": {Group: "nobody-here"}}
	if _, err := host.Apply(t.Context(), change); err == nil || err.Error() != "writing /run/systemd/network: 13-wg.netdev: this system has no group nobody-here" {
		t.Errorf("got %v", err)
	}
}

// The kernel takes a VLAN along with the device below it; asked in the wrong order it
// says that there is none.
func TestApply_StaleDevices_GoFromTopToBottom(t *testing.T) {
	root, p := node(t)
	write(t, root, map[string]string{
		"sys/class/net/_bstor/uevent": "DEVTYPE=bond\nINTERFACE=_bstor\n", "sys/class/net/stor/uevent": "DEVTYPE=bridge\n",
		"sys/class/net/_vstor/uevent": "INTERFACE=_vstor\n", "sys/class/net/guests/uevent": "DEVTYPE=vlan\n", "sys/class/net/wg0/uevent": "DEVTYPE=wireguard\n",
	})
	_, err := networkd.Host{Root: root, Run: p.run}.Apply(t.Context(), networkd.Change{Stale: []string{"_bstor", "stor", "_vstor", "guests", "wg0"}})
	if err != nil {
		t.Fatal(err)
	}
	const del = "ip link delete dev "
	if diff := cmp.Diff([]string{del + "wg0", del + "guests", del + "_vstor", del + "stor", del + "_bstor"}, p.got[:5]); diff != "" {
		t.Error(diff)
	}
}
