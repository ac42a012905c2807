package network_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v4"

	api "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/network"
)

var update = flag.Bool("update", false, "write the files under testdata/*/want anew; read the difference before you keep it")

// Each folder of testdata is a small world: a configuration, the cards, and the
// files that must come out. A node whose files differ may not be reachable.
func TestNewPlan_World_GivesTheFilesOfItsFolder(t *testing.T) {
	worlds, err := filepath.Glob("testdata/*/config.yaml")
	if err != nil || len(worlds) == 0 {
		t.Fatalf("no worlds: %v", err)
	}
	for _, path := range worlds {
		dir := filepath.Dir(path)
		t.Run(filepath.Base(dir), func(t *testing.T) {
			plan, err := network.NewPlan(readConfig(t, path), readWorld(t, dir))
			if err != nil {
				t.Fatal(err)
			}
			got := flatten(plan)
			if *update {
				writeAll(t, filepath.Join(dir, "want"), got)
			}
			if diff := cmp.Diff(readAll(t, filepath.Join(dir, "want")), got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func flatten(p network.Plan) map[string]string {
	files := map[string]string{"etc-hosts": p.Hosts}
	for name, content := range p.Files {
		files[name] = content
	}
	if p.Timesyncd != "" {
		files["timesyncd.conf"] = p.Timesyncd
	}
	summary := fmt.Sprintf("hostname %s\ntimezone %s\nwait all %t any %v\n", p.Hostname, p.Timezone, p.WaitAll, p.WaitAny)
	for _, i := range p.Interfaces {
		summary += fmt.Sprintf("interface %s host %s card %s hwaddr %s\n", i.Name, i.Host, i.Card, i.Hwaddr)
	}
	files["plan.txt"] = summary
	return files
}

func readConfig(t *testing.T, path string) (config api.NetworkConfig) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(data, &config); err != nil {
		t.Fatal(err)
	}
	return config
}

func readWorld(t *testing.T, dir string) (world network.World) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, "world.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, &world); err != nil {
		t.Fatal(err)
	}
	return world
}

func readAll(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := fs.WalkDir(os.DirFS(dir), ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(filepath.Join(dir, path))
		files[path] = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func writeAll(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
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
func TestDefault_AwkwardCards_GetUsableNames(t *testing.T) {
	got := network.Default([]network.Card{
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
