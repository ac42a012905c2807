package network_test

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"

	api "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/network"
)

var (
	unitLine = regexp.MustCompile(`^(\[[A-Za-z0-9]+\]|[A-Za-z0-9]+=[ -~]*|)$`)
	keyLine  = regexp.MustCompile(`^[A-Za-z0-9+/]{43}=\n$`)
	fileName = regexp.MustCompile(`^(0[01]|1[0-3]|2[0-3])-[A-Za-z0-9._-]+\.(link|netdev|network|key)$`)
	nftLine  = regexp.MustCompile(`^[ \ta-z0-9A-Z_.:/,;@!={}"-]*$`)
)

// A configuration comes from the network. It must not crash the daemon, and no value may
// begin a line, and so a setting, of its own: settings of networkd are as good as root.
func FuzzNewPlan_AnyDocument_StaysInItsLines(f *testing.F) {
	worlds, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(worlds) == 0 {
		f.Fatalf("no worlds: %v", err)
	}
	for _, path := range worlds {
		archive, err := txtar.ParseFile(path)
		if err != nil {
			f.Fatal(err)
		}
		c, _ := given(f, archive)
		data, err := json.Marshal(c)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	world := network.World{Cards: []network.Card{{Name: "enp1s0", Hwaddr: mac, Permanent: true, MaxMTU: 9000}, {Name: "enp2s0", Hwaddr: "02:00:00:00:00:02"}}}
	f.Fuzz(func(t *testing.T, data []byte) {
		var c api.NetworkConfig
		if json.Unmarshal(data, &c) != nil {
			return
		}
		network.Hide(c)
		c, _, err := network.MakeKeys(c, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		plan, err := network.NewPlan(c, world)
		if err != nil {
			return
		}
		for name, text := range plan.Files {
			checkLines(t, name, text, unitLine)
		}
		for name, text := range plan.Secrets {
			if strings.HasSuffix(name, ".key") {
				if !fileName.MatchString(name) || !keyLine.MatchString(text) {
					t.Errorf("%q holds %q", name, text)
				}
				continue
			}
			checkLines(t, name, text, unitLine)
		}
		checkLines(t, "10-x.netdev", plan.Nftables, nftLine)
		checkLines(t, "10-x.netdev", plan.Timesyncd, unitLine)
		// What a value smuggled in would make a section or device that nobody asked for.
		want := len(c.Interfaces) + len(c.Bonds) + len(c.VLANs) + len(c.Wireguard)
		if len(c.Interfaces)+len(c.Bonds) == 0 {
			want += len(world.Cards)
		}
		if len(plan.Devices) != want || strings.Count(strings.Join(slices.Collect(maps.Values(plan.Files)), ""), "[NetDev]") != netdevs(plan) {
			t.Errorf("%d devices, want %d", len(plan.Devices), want)
		}
		network.Change(network.Plan{}, plan)
		network.Change(plan, network.Plan{})
	})
}

func netdevs(p network.Plan) int {
	n := 0
	for _, d := range p.Devices {
		n += len(d.Links)
	}
	return n
}

func checkLines(t *testing.T, name, text string, allowed *regexp.Regexp) {
	t.Helper()
	if !fileName.MatchString(name) {
		t.Errorf("%q is not a name of ours", name)
	}
	for line := range strings.SplitSeq(text, "\n") {
		if !allowed.MatchString(line) {
			t.Errorf("%s holds the line %q", name, line)
		}
	}
}

// A plan is made for each look at a dry run; it must not be felt.
func BenchmarkNewPlan_HundredInterfaces(b *testing.B) {
	var c api.NetworkConfig
	var world network.World
	for i := range 100 {
		address := fmt.Sprintf("02:00:00:00:00:%02x", i)
		world.Cards = append(world.Cards, network.Card{Name: fmt.Sprintf("eth%d", i), Hwaddr: address, Permanent: true, MaxMTU: 9000})
		c.Interfaces = append(c.Interfaces, api.NetworkInterface{Name: fmt.Sprintf("lan%d", i), Hwaddr: fmt.Sprintf("eth%d", i),
			Addresses: []string{"dhcp4", "slaac"}, FirewallRules: []api.NetworkFirewallRule{{Action: "accept", Protocol: "tcp", Port: 8443}, {Action: "drop"}}})
	}
	for b.Loop() {
		plan, err := network.NewPlan(c, world)
		if err != nil || len(plan.Files) != 700 {
			b.Fatal(len(plan.Files), err)
		}
	}
}

func BenchmarkValidate_TenThousandVLANs(b *testing.B) {
	c := api.NetworkConfig{VLANs: make([]api.NetworkVLAN, 10_000)}
	for b.Loop() {
		if len(network.Validate(c)) != 1 {
			b.Fatal("the limit was not seen")
		}
	}
}
