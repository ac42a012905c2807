package network_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/rogpeppe/go-internal/txtar"
	"go.yaml.in/yaml/v4"

	api "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/network"
	"github.com/holdfast-os/holdfast/internal/plan"
)

var update = flag.Bool("update", false, "write what comes out into testdata/*.txtar; read the difference before you keep it")

// Each file of testdata is a small world: a configuration (config.yaml), the cards
// (world.json), and what must come out: the files that systemd reads, the rules of
// nftables, and the plans of setting it up on a fresh machine (setup.txt) and of going
// back to the defaults (removal.txt). A node whose files differ may not be reachable.
func TestNewPlan_World_GivesWhatItsFileSays(t *testing.T) {
	worlds, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(worlds) == 0 {
		t.Fatalf("no worlds: %v", err)
	}
	for _, path := range worlds {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txtar"), func(t *testing.T) {
			archive, err := txtar.ParseFile(path)
			if err != nil {
				t.Fatal(err)
			}
			want := map[string]string{}
			for _, f := range archive.Files {
				if name, ok := strings.CutPrefix(f.Name, "want/"); ok {
					want[name] = string(f.Data)
				}
			}
			c, world := given(t, archive)
			plan, err := network.NewPlan(c, world)
			if err != nil {
				t.Fatal(err)
			}
			bare, err := network.NewPlan(api.NetworkConfig{}, world)
			if err != nil {
				t.Fatal(err)
			}
			got := flatten(t, plan)
			got["setup.txt"] = planText(network.Change(network.Plan{}, plan))
			got["removal.txt"] = planText(network.Change(plan, bare))
			if *update {
				writeWant(t, path, archive, got)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// given reads the configuration and the machine of a world.
func given(t testing.TB, archive *txtar.Archive) (c api.NetworkConfig, world network.World) {
	t.Helper()
	for _, f := range archive.Files {
		var err error
		switch f.Name {
		case "config.yaml":
			loader := yaml.NewDecoder(bytes.NewReader(f.Data))
			loader.KnownFields(true)
			err = loader.Decode(&c)
		case "world.json":
			err = json.Unmarshal(f.Data, &world)
		}
		if err != nil {
			t.Fatalf("reading %s: %v", f.Name, err)
		}
	}
	return c, world
}

func writeWant(t *testing.T, path string, archive *txtar.Archive, got map[string]string) {
	t.Helper()
	archive.Files = slices.DeleteFunc(archive.Files, func(f txtar.File) bool { return strings.HasPrefix(f.Name, "want/") })
	for _, name := range slices.Sorted(maps.Keys(got)) {
		archive.Files = append(archive.Files, txtar.File{Name: "want/" + name, Data: []byte(got[name])})
	}
	if err := os.WriteFile(path, txtar.Format(archive), 0o644); err != nil {
		t.Fatal(err)
	}
}

// flatten gives all texts of a plan by a name, and the rest as a summary.
func flatten(t *testing.T, p network.Plan) map[string]string {
	t.Helper()
	files := map[string]string{"etc-hosts": p.Hosts, "nftables": p.Nftables}
	maps.Copy(files, p.Files)
	for name, content := range p.Secrets {
		if _, both := p.Files[name]; both {
			t.Errorf("%s is both secret and not", name)
		}
		files["secret/"+name] = content
	}
	if p.Timesyncd != "" {
		files["timesyncd.conf"] = p.Timesyncd
	}
	if p.Environment != "" {
		files["etc-environment"] = p.Environment
	}
	if p.Proxy != nil {
		document, err := p.Proxy.Document()
		if err != nil {
			t.Fatal(err)
		}
		files["secret/proxy.json"] = document
	}
	var s strings.Builder
	fmt.Fprintf(&s, "hostname %s\ntimezone %s\nwait all %t any %v\n", p.Hostname, p.Timezone, p.WaitAll, p.WaitAny)
	if p.Forwarding {
		s.WriteString("forwarding\n")
	}
	for _, i := range p.Interfaces {
		fmt.Fprintf(&s, "interface %s host %s card %s hwaddr %s\n", i.Name, i.Host, i.Card, i.Hwaddr)
	}
	for _, d := range p.Devices {
		fmt.Fprintf(&s, "device %s %s host %s addresses %t hwaddr %q bond %q parent %q cards %v links %v\n",
			d.Type, d.Name, d.Host, d.Addresses, d.Hwaddr, d.Bond, d.Parent, d.Cards, d.Links)
	}
	for _, mac := range slices.Sorted(maps.Keys(p.Cards)) {
		fmt.Fprintf(&s, "card %s is %s\n", mac, p.Cards[mac])
	}
	for _, name := range p.EEEOff {
		fmt.Fprintf(&s, "eee off %s\n", name)
	}
	for _, note := range p.Notes {
		fmt.Fprintf(&s, "note %s\n", note)
	}
	files["plan.txt"] = s.String()
	return files
}

// planText shows a plan without the texts of files, which are beside it.
func planText(p plan.Plan) string {
	var s strings.Builder
	fmt.Fprintf(&s, "disconnects %t\n", p.Disconnects)
	for _, step := range p.Steps {
		fmt.Fprintf(&s, "%s %s", step.Kind, step.Object)
		if step.Mode != 0 {
			fmt.Fprintf(&s, " mode %04o", step.Mode)
		}
		if step.Secret {
			s.WriteString(" secret")
		}
		if step.Optional {
			s.WriteString(" optional")
		}
		if step.Tool != "" {
			fmt.Fprintf(&s, " %s %v", step.Tool, step.Args)
		}
		s.WriteString("\n")
	}
	for _, note := range p.Notes {
		fmt.Fprintf(&s, "note %s\n", note)
	}
	return s.String()
}

// A bridge that is deleted takes the network of all its instances with it: a new
// MTU must not do that, a new card must not either.
func TestStale_ChangedInterface_NamesOnlyTheNodesEnd(t *testing.T) {
	before := network.Plan{Files: map[string]string{
		"10-lan.netdev": "bridge", "10-_vlan.netdev": "veth mtu 1500", "20-lan.network": "a",
		"10-old.netdev": "bridge", "10-_vold.netdev": "veth",
	}}
	next := network.Plan{Files: map[string]string{
		"10-lan.netdev": "bridge", "10-_vlan.netdev": "veth mtu 9000", "20-lan.network": "b",
	}}
	want := []string{"_vlan", "_vold", "old"}
	if diff := cmp.Diff(want, network.Stale(before, next)); diff != "" {
		t.Error(diff)
	}
}

// The kernel's names are not always fit for a bridge, and a machine may have two
// functions with one address; the node must come up all the same.
func TestWithDefaults_AwkwardCards_GetUsableNames(t *testing.T) {
	got := network.WithDefaults(api.NetworkConfig{}, []network.Card{
		{Name: "enx525400123456", Hwaddr: "52:54:00:12:34:56"},
		{Name: "_p0242ac110002", Hwaddr: "02:42:ac:11:00:02"},
		{Name: "eno1", Hwaddr: "3C:EC:EF:00:00:01"},
		{Name: "eno2", Hwaddr: "3c:ec:ef:00:00:01"},
		{Name: "ib0", Hwaddr: "not an ethernet address"},
	})
	automatic := []string{"dhcp4", "slaac"}
	want := api.NetworkConfig{
		Time: &api.NetworkTime{Timezone: "UTC"},
		Interfaces: []api.NetworkInterface{
			{Name: "n0242ac110002", Hwaddr: "02:42:ac:11:00:02", Addresses: automatic, RequiredForOnline: "no"},
			{Name: "eno1", Hwaddr: "3c:ec:ef:00:00:01", Addresses: automatic, RequiredForOnline: "no"},
			{Name: "n525400123456", Hwaddr: "52:54:00:12:34:56", Addresses: automatic, RequiredForOnline: "no"},
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if problems := network.Validate(got); len(problems) != 0 {
		t.Error(problems)
	}
}

// A disk on a new board must be a node that can be reached; one card that is still there is
// enough to leave everything as its owner wants it.
func TestWithStrangers_OnlyWhenEveryCardIsAnotherOne_AddsThem(t *testing.T) {
	automatic := []string{"dhcp4", "slaac"}
	old, other := "52:54:00:00:00:01", "52:54:00:00:00:02"
	kept := api.NetworkConfig{
		Interfaces: []api.NetworkInterface{{Name: "enp1s0", Hwaddr: old, Addresses: []string{"192.0.2.1/24"}}},
		Bonds:      []api.NetworkBond{{Name: "bond0", Mode: "802.3ad", Members: []string{"52:54:00:00:00:03", "52:54:00:00:00:04"}}},
	}
	for _, c := range []struct {
		name  string
		kept  api.NetworkConfig
		cards []network.Card
		want  []string
	}{
		{"all are others", kept, []network.Card{{Name: "enp1s0", Hwaddr: other}, {Name: "enp2s0", Hwaddr: "3c:ec:ef:00:00:01"}}, []string{"n525400000002", "enp2s0"}},
		{"one is there", kept, []network.Card{{Name: "enp1s0", Hwaddr: other}, {Name: "enp2s0", Hwaddr: "52:54:00:00:00:01"}}, nil},
		{"a member is there, in capitals", kept, []network.Card{{Name: "enp2s0", Hwaddr: strings.ToUpper("52:54:00:00:00:04")}}, nil},
		{"there is none", kept, nil, nil},
		{"the configuration has none", api.NetworkConfig{}, []network.Card{{Name: "enp1s0", Hwaddr: other}}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, added := network.WithStrangers(c.kept, c.cards)
			if diff := cmp.Diff(c.want, added, cmpopts.EquateEmpty()); diff != "" {
				t.Fatal(diff)
			}
			if len(c.want) == 0 {
				if diff := cmp.Diff(c.kept, got); diff != "" {
					t.Error(diff)
				}
				return
			}
			for i, name := range c.want {
				n := got.Interfaces[len(c.kept.Interfaces)+i]
				if n.Name != name || !slices.Equal(n.Addresses, automatic) {
					t.Errorf("added %+v, want %s with %v", n, name, automatic)
				}
			}
			if problems := network.Validate(got); len(problems) != 0 {
				t.Error(problems)
			}
			if len(c.kept.Interfaces) != 1 {
				t.Error("the configuration given was changed")
			}
		})
	}
}

// A node whose owner named no management interface must still say where to reach it.
func TestAssignRoles_NoneConfigured_RoutableInterfacesManage(t *testing.T) {
	config := api.NetworkConfig{Interfaces: []api.NetworkInterface{{Name: "a", Roles: []string{"storage"}}, {Name: "b"}}}
	states := map[string]api.NetworkInterfaceState{
		"a": {Type: "interface", State: "routable"}, "b": {Type: "interface", State: "off"},
		"eth7": {Type: "physical", State: "routable"},
	}
	network.AssignRoles(config, states)
	want := map[string]api.NetworkInterfaceState{
		"a": {Type: "interface", State: "routable", Roles: []string{"storage", "management", "cluster"}},
		"b": {Type: "interface", State: "off"}, "eth7": {Type: "physical", State: "routable"},
	}
	if diff := cmp.Diff(want, states); diff != "" {
		t.Error(diff)
	}
}

func TestAssignRoles_ManagementConfigured_OthersStayWithout(t *testing.T) {
	config := api.NetworkConfig{Interfaces: []api.NetworkInterface{
		{Name: "a", Roles: []string{"management"}}, {Name: "b", Roles: []string{"cluster"}}, {Name: "c"}}}
	states := map[string]api.NetworkInterfaceState{"a": {State: "routable"}, "b": {State: "routable"}, "c": {State: "routable"}}
	network.AssignRoles(config, states)
	want := map[string]api.NetworkInterfaceState{
		"a": {State: "routable", Roles: []string{"management"}}, "b": {State: "routable", Roles: []string{"cluster"}},
		"c": {State: "routable"},
	}
	if diff := cmp.Diff(want, states); diff != "" {
		t.Error(diff)
	}
}

// A card named by its kernel name must be there, as only then its address is known.
func TestNewPlan_UnknownCardName_SaysWhichThereAre(t *testing.T) {
	config := api.NetworkConfig{Interfaces: []api.NetworkInterface{
		{Name: "a", Hwaddr: "eth5"}, {Name: "b", Hwaddr: "eth0"}, {Name: "c", Hwaddr: "02:00:00:00:00:01"}}}
	_, err := network.NewPlan(config, network.World{Cards: []network.Card{{Name: "eth0", Hwaddr: "02:00:00:00:00:01", Permanent: true}}})
	want := network.Problems{
		{Path: "interfaces[0].hwaddr", Rule: "card", Text: `no network card has the name "eth5"; name one of ("eth0"), or give a MAC address`},
		{Path: "interfaces[2].hwaddr", Rule: "unique", Text: `is the card of interfaces[1] already`},
	}
	if diff := cmp.Diff(error(want), err); diff != "" {
		t.Error(diff)
	}
}

// Without rules everything goes through a proxy: the first by name, as IncusOS does.
func TestNewPlan_ProxyWithoutRules_SendsAllToTheFirstByName(t *testing.T) {
	anonymous := func(host string, tls bool) api.NetworkProxyServer {
		return api.NetworkProxyServer{Auth: "anonymous", Host: host, UseTLS: tls, Username: "not sent"}
	}
	for name, c := range map[string]struct {
		servers map[string]api.NetworkProxyServer
		want    network.ProxyPlan
	}{
		"servers": {map[string]api.NetworkProxyServer{"b": anonymous("http://b.example", true), "a": anonymous("https://[2001:db8::1]:444/", false), "c": anonymous("192.0.2.1", true)},
			network.ProxyPlan{Listen: "127.0.0.1:3128", Servers: []network.ProxyServer{
				{Name: "a", Auth: "anonymous", Host: "2001:db8::1", Port: 444, TLS: true},
				{Name: "b", Auth: "anonymous", Host: "b.example", Port: 80},
				{Name: "c", Auth: "anonymous", Host: "192.0.2.1", Port: 443, TLS: true},
			}, Rules: []network.ProxyRule{{Destinations: []string{"*"}, Target: "a"}}}},
		"none": {nil, network.ProxyPlan{Listen: "127.0.0.1:3128", Rules: []network.ProxyRule{{Destinations: []string{"*"}, Target: "direct"}}}},
	} {
		plan, err := network.NewPlan(api.NetworkConfig{Proxy: &api.NetworkProxy{Servers: c.servers}}, network.World{})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(&c.want, plan.Proxy); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}
