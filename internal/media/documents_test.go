package media

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	api "github.com/holdfast-os/holdfast/api/seed"
)

// All that is wrong is said at once, with the place where the person has to look.
func TestDocuments_Wrong_NamesFileLineAndField(t *testing.T) {
	files := []File{
		{"seeds/install.yaml", []byte("version: 1\ntarget:\n  size: 1\n  min_size: many\nforse_install: true\n")},
		{"install2/network.json", []byte("{\n  \"interfaces\": [\n    {\"name\": \"eth0\", \"hwaddr\": \"enp1s0\",\n     \"mtu\": 12}\n  ]\n}\n")},
		{"kernel.yaml", []byte("console:\n- device: ttyS0\n  baud_rate: [\n")},
		{"provider.json", []byte(`{"name": ""}`)},
		{"provider.yaml", []byte("name: images\n")},
		{"wifi.yaml", nil},
	}
	_, err := Documents(files)
	var got Problems
	if !errors.As(err, &got) {
		t.Fatalf("got %v", err)
	}
	want := []string{
		`seeds/install.yaml:3: target.size: there is no such field: known are bus, id, max_size, min_size, sort_order`,
		`seeds/install.yaml:5: forse_install: there is no such field: did you mean "force_install"?`,
		`kernel.yaml:4: yaml: line 4: did not find expected node content`,
		`provider.json:1: name: a provider needs a name, as "images"; or leave the file out`,
		`provider.yaml: provider.json is given too: they are the same seed`,
		`wifi.yaml: no seed has this name: known are install, applications, incus, migration-manager, operations-center, network, provider, update, security, services, kernel`,
		`install2/network.json:4: interfaces[0].mtu: 12 is outside 1280 to 9000; leave it out for the default`,
	}
	lines := []string{}
	for _, p := range got {
		lines = append(lines, p.String())
	}
	if diff := cmp.Diff(want, lines); diff != "" {
		t.Error(diff)
	}
}

// The rules that a node has for an installation hold at the desk too.
func TestDocuments_InstallThatCannotBe_IsTold(t *testing.T) {
	_, err := Documents([]File{{"install.yaml", []byte("target:\n  min_size: many\nsecurity:\n  missing_tpm: true\n  missing_secure_boot: true\n")}})
	if err == nil {
		t.Fatal("no error")
	}
	sameText(t, err.Error(), "install.yaml:3: security: missing_tpm and missing_secure_boot together leave nothing to trust: ask for at most one of them\n"+
		`install.yaml:2: target.min_size: "many" is not a size: write it as 100GiB`)
}

func TestDocuments_Right_AreOneSet(t *testing.T) {
	set, err := Documents([]File{{"a/install.yaml", []byte("target: {bus: nvme}\n")}, {"b/applications.json", []byte(`{"applications":[{"name":"incus"}]}`)}})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(&api.Install{Target: &api.InstallTarget{Bus: "nvme"}}, set.Install); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(&api.Applications{Applications: []api.Application{{Name: "incus"}}}, set.Applications); diff != "" {
		t.Error(diff)
	}
}
