package seed_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/api/os"
	api "github.com/holdfast-os/holdfast/api/seed"
	"github.com/holdfast-os/holdfast/internal/seed"
)

// archive makes a tar of name, content, name, content, ...
func archive(t testing.TB, pairs ...string) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for i := 0; i < len(pairs); i += 2 {
		header := &tar.Header{Typeflag: tar.TypeReg, Name: pairs[i], Mode: 0o644, Size: int64(len(pairs[i+1])), Format: tar.FormatUSTAR}
		if err := w.WriteHeader(header); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(pairs[i+1])); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// A seed in any of the accepted spellings says the same.
func TestParse_JSONAndYAML_GiveTheDocuments(t *testing.T) {
	set, err := seed.Parse(bytes.NewReader(append(archive(t,
		"./install.json", "", "applications.yaml", "version: 1\r\napplications:\r\n- name: incus\r\n",
		"network.yml", "interfaces:\n- &nic {name: eth0, hwaddr: enp1s0, addresses: [dhcp4], mtu: 0x5DC}\ntime: {timezone: UTC}\n",
		"incus.yaml", "apply_defaults: yes\npreseed:\n  config: {core.https_address: ':8443', images.auto_update_interval: 15}\n  certificates: [{name: me, type: client, certificate: PEM}]\n",
		"services.json", `{"ovn": {"enabled": true, "database": "ssl:x", "tunnel_address": null}}`,
		"README", "kept out"), make([]byte, 4096)...)))
	if err != nil {
		t.Fatal(err)
	}
	want := &seed.Set{
		Install:      &api.Install{},
		Applications: &api.Applications{Version: "1", Applications: []api.Application{{Name: "incus"}}},
		Network: &api.Network{NetworkConfig: os.NetworkConfig{
			Time:       &os.NetworkTime{Timezone: "UTC"},
			Interfaces: []os.NetworkInterface{{Name: "eth0", Hwaddr: "enp1s0", Addresses: []string{"dhcp4"}, MTU: 1500}},
		}},
		Incus: &api.Incus{ApplyDefaults: true, Preseed: &api.IncusPreseed{
			Config:       map[string]any{"core.https_address": ":8443", "images.auto_update_interval": float64(15)},
			Certificates: []api.IncusCertificate{{Name: "me", Type: "client", Certificate: "PEM"}},
		}},
		Services: &api.Services{OVN: &api.OVN{Enabled: true, Database: "ssl:x"}},
	}
	if diff := cmp.Diff(want, set); diff != "" {
		t.Error(diff)
	}
}

// Nothing on the partition means that nothing was said, and is no mistake.
func TestParse_NoArchive_IsMissing(t *testing.T) {
	for name, data := range map[string][]byte{"nothing": nil, "zeros": make([]byte, 4096), "short": []byte("x"), "other": bytes.Repeat([]byte("x"), 1024)} {
		if _, err := seed.Parse(bytes.NewReader(data)); !errors.Is(err, seed.Missing) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if _, err := new(seed.Set).Get("install"); !errors.Is(err, seed.Missing) {
		t.Errorf("got %v", err)
	}
}

const atTop = "seeds are read from the top of the archive or medium, in lower case: name it "

// A node has no screen to ask back on: what is wrong must be said once, all of it,
// with the place and the way on.
func TestParse_BadSeed_NamesFilePlaceAndWayOn(t *testing.T) {
	deep := strings.Repeat("[", 40) + strings.Repeat("]", 40)
	many := "a: &a [x]\nb: [" + strings.Repeat("*a,", 70) + "]"
	bomb := "a: &a [x,x,x,x,x,x,x,x,x,x]\n"
	for c := 'b'; c <= 'g'; c++ {
		bomb += fmt.Sprintf("%c: &%c [%s]\n", c, c, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*%c,", c-1), 10), ","))
	}
	cases := map[string]struct {
		data []byte
		want string
	}{
		"unknown field": {archive(t, "install.yaml", "forse_install: true\ntarget: {size: 1}"), "seed install.yaml:1: forse_install: there is no such field: did you mean \"force_install\"?\nseed install.yaml:2: target.size: there is no such field: known are bus, id, max_size, min_size, sort_order"},
		"wrong case":    {archive(t, "install.json", `{"Force_Install": true}`), `seed install.json:1: Force_Install: there is no such field: did you mean "force_install"?`},
		"wrong type":    {archive(t, "install.json", `{"force_install": "yes", "target": []}`), "seed install.json:1: force_install: \"yes\" where true or false is expected\nseed install.json:1: target: a list where a map is expected"},
		"no fraction":   {archive(t, "kernel.yaml", "console: [{device: ttyS0, baud_rate: 9600.5}]"), "seed kernel.yaml:1: console.baud_rate: number 9600.5 does not fit here"},
		"unknown seed":  {archive(t, "instal.json", "{}"), `seed instal.json: no seed has this name: did you mean "install"?`},
		"folder":        {archive(t, "t/install.yaml", "{}", "/kernel.json", "{}"), "seed t/install.yaml: " + atTop + "install.yaml, or take it out\nseed /kernel.json: " + atTop + "kernel.json, or take it out"},
		"upper case":    {archive(t, "INSTALL.YML", "{}", "Network.yaml", "{}", "update.Json", "{}"), "seed INSTALL.YML: " + atTop + "install.yml, or take it out\nseed Network.yaml: " + atTop + "network.yaml, or take it out\nseed update.Json: " + atTop + "update.json, or take it out"},
		"sealed so":     {archive(t, "a/b/Kernel.yaml.AGE", "x"), "seed a/b/Kernel.yaml.AGE: " + atTop + "kernel.yaml.age, or take it out"},
		"empty":         {archive(t, "network.yaml", "# later\n"), "seed network.yaml: the document is empty: write {} for a document without fields, or leave the file out"},
		"two documents": {archive(t, "network.yaml", "{}\n---\n{}\n"), `seed network.yaml: a second document follows ("---"): a seed holds one document`},
		"two objects":   {archive(t, "network.json", "{}{}"), "seed network.json:1: text after the end of the document: a seed holds one document"},
		"key twice":     {archive(t, "install.json", `{"target": {"id": "a", "id": "b"}}`), "seed install.json:1: target.id: the field is there twice"},
		"not UTF-8":     {archive(t, "install.json", "{\"version\": \"\xff\"}"), "seed install.json: the text is not UTF-8: save the file as UTF-8"},
		"unclosed":      {archive(t, "install.json", `{"target": {`), "seed install.json:1: the document ends too early: a bracket is not closed"},
		"syntax":        {archive(t, "install.json", "{\n  \"version\": \"1\",\n  \"target\": {\"bus\" \"nvme\"}\n}\n"), "seed install.json:3: invalid character '\"' after object key"},
		"no quotes":     {archive(t, "install.json", "{force_install: true}\n"), "seed install.json:1: invalid character 'f' looking for beginning of object key string"},
		"comma":         {archive(t, "install.json", "{\n  \"force_install\": true,\n}\n"), "seed install.json:3: invalid character '}' looking for beginning of object key string"},
		"not JSON":      {archive(t, "install.json", "force_install: true\n"), "seed install.json:1: invalid character 'o' in literal false (expecting 'a')"},
		"deep JSON":     {archive(t, "incus.json", `{"preseed": {"config": {"a": `+deep+`}}}`), "seed incus.json:1: preseed.config.a" + strings.Repeat("[0]", 30) + ": nested deeper than 32"},
		"many aliases":  {archive(t, "incus.yaml", many), "seed incus.yaml:2: b[64]: more than 64 aliases"},
		"alias bomb":    {archive(t, "incus.yaml", bomb), "seed incus.yaml:2: c[4][9]: more than 64 aliases"},
		"cut off":       {archive(t, "install.json", `{"version": "1"}`)[:520], "seed: the archive is cut off in the middle: write it again"},
		"too large":     {archive(t, "install.json", strings.Repeat(" ", 1<<20+1)), "seed install.json: 1048577 bytes, at most 1048576 are read"},
		"too many":      {archive(t, strings.Split(strings.Repeat("a,,", 65), ",")[:130]...), "seed: the archive has more than 64 members"},
		"no app":        {archive(t, "applications.json", "{}"), `seed applications.json:1: applications: at least one application is needed, as [{"name": "incus"}]; or leave the file out`},
		"recovery key":  {archive(t, "security.json", `{"encryption_recovery_keys": []}`), "seed security.json:1: encryption_recovery_keys: recovery keys cannot be in a seed, which anybody with the medium can read: take them out, and set them at /1.0/system/security once the node runs"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			_, err := seed.Parse(bytes.NewReader(c.data))
			if err == nil {
				t.Fatal("no error")
			}
			if diff := cmp.Diff(c.want, err.Error()); diff != "" {
				t.Error(diff)
			}
			var problem *seed.Problem
			if !errors.As(err, &problem) {
				t.Errorf("%T holds no *Problem", err)
			}
		})
	}
}

// What the image tools write is what the node reads, and always the same bytes.
func TestWrite_ThenParse_GivesTheSameSet(t *testing.T) {
	set := &seed.Set{
		Install: &api.Install{Target: &api.InstallTarget{Bus: "nvme"}},
		Update:  &api.Update{UpdateConfig: os.UpdateConfig{Channel: "stable", CheckFrequency: "6h"}},
	}
	var first, second bytes.Buffer
	if err := errors.Join(seed.Write(&first, set), seed.Write(&second, set)); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(first.Bytes(), second.Bytes()) {
		t.Error("two writes differ")
	}
	got, err := seed.Parse(&first)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(set, got); diff != "" {
		t.Error(diff)
	}
}

// An installed node that still finds an install seed would install itself again.
func TestMerge_AfterInstallation_DropsInstallAndTakesTheOuterSeed(t *testing.T) {
	old := archive(t, "install.yaml", "{}", "network.yaml", "{}", "provider.yml", "name: images # mine\n", "note", "text")
	var out bytes.Buffer
	if err := seed.Merge(bytes.NewReader(old), &out, &seed.Set{Network: &api.Network{Version: "2"}}, "install"); err != nil {
		t.Fatal(err)
	}
	var got []string
	r := tar.NewReader(&out)
	for {
		h, err := r.Next()
		if err != nil {
			break
		}
		data := new(bytes.Buffer)
		if _, err := data.ReadFrom(r); err != nil {
			t.Fatal(err)
		}
		got = append(got, fmt.Sprintf("%s %s", h.Name, data))
	}
	want := []string{"provider.yml name: images # mine\n", "note text", "network.json {\n  \"version\": \"2\"\n}\n"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// A seed is read as root from a partition that anyone with the medium can write.
func FuzzParse(f *testing.F) {
	f.Add(archive(f, "install.json", `{"target": {"bus": "nvme"}}`))
	f.Add(archive(f, "network.yaml", "a: &a [*a]\n", "kernel.yml", "console: [{device: ttyS0}]"))
	f.Add(archive(f, "services.yaml", "--- \n? [a]\n: !!binary aGk=\n<<: 1\n", "update.json", "nul"))
	f.Fuzz(func(t *testing.T, data []byte) {
		set, err := seed.Parse(bytes.NewReader(data))
		if err != nil {
			return
		}
		var out bytes.Buffer
		var limit *seed.Problem // A document of many aliases may be too large when written out.
		if err := seed.Write(&out, set); err != nil && !errors.As(err, &limit) {
			t.Fatalf("a set that was read cannot be written: %v", err)
		}
	})
}

// Operations Center writes null for what nobody has chosen. An install that is null still
// installs; a list that must not be empty is one that was left out.
func TestParse_NullDocuments_AreDocumentsWithoutFields(t *testing.T) {
	for name, data := range map[string][]byte{
		"YAML": archive(t, "install.yaml", "null", "incus.yaml", "null\n", "update.yaml", "~", "network.yaml", "null", "applications.yaml", "null", "provider.yaml", "null"),
		"JSON": archive(t, "install.json", "null", "incus.json", " null ", "update.json", "null", "network.json", "null", "applications.json", "null", "provider.json", "null"),
	} {
		t.Run(name, func(t *testing.T) {
			got, err := seed.Parse(bytes.NewReader(data))
			if err != nil {
				t.Fatal(err)
			}
			want := &seed.Set{Install: &api.Install{}, Incus: &api.Incus{}, Update: &api.Update{}, Network: &api.Network{}}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// What is none of ours may lie beside a seed: other tools put it there.
func TestParse_ForeignFiles_AreNotLookedAt(t *testing.T) {
	got, err := seed.Parse(bytes.NewReader(archive(t, "./kernel.yml", "{}", "README", "x", "notes/todo.yaml", ":", "._install.yaml", "x", "__MACOSX/._install.yaml", "x",
		"install.txt", "x", "install", "x", "t/instal.json", "x", seed.InstalledMark, "")))
	if diff := cmp.Diff(&seed.Set{Kernel: &api.Kernel{}}, got); err != nil || diff != "" {
		t.Errorf("%v %s", err, diff)
	}
}

// What is in the way of a seed must be removable by the name of its document.
func TestMerge_DocumentInAFolder_GoesWithItsName(t *testing.T) {
	var out bytes.Buffer
	err := seed.Merge(bytes.NewReader(archive(t, "t/install.yaml", "{}", "KERNEL.YML", "{}", "notes/todo.yaml", "x")), &out, &seed.Set{Kernel: &api.Kernel{}}, "install")
	if err != nil {
		t.Fatal(err)
	}
	got, err := seed.ReadMembers(&out)
	want := []seed.Member{{Name: "notes/todo.yaml", Data: []byte("x")}, {Name: "kernel.json", Data: []byte("{}\n")}}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v %s", err, diff)
	}
}

// Tools append to an archive what they replace elsewhere: the first counts, as in IncusOS,
// and a person is told that the second does not.
func TestParse_TwoFilesForOneDocument_TheFirstCountsWithAWarning(t *testing.T) {
	got, err := seed.Parse(bytes.NewReader(archive(t, "update.json", `{"channel": "stable"}`, "./update.yaml", "channel: [not even right]",
		"kernel.yml", "{}", "kernel.yaml.age", "age-encryption.org/v1\n")))
	if err != nil {
		t.Fatal(err)
	}
	want := &seed.Set{Update: &api.Update{UpdateConfig: os.UpdateConfig{Channel: "stable"}}, Kernel: &api.Kernel{}, Warnings: []*seed.Problem{
		{File: "update.yaml", Rule: "unique", Text: "it is not read, since update.json stands before it: remove one of them"},
		{File: "kernel.yaml.age", Rule: "unique", Text: "it is not read, since kernel.yml stands before it: remove one of them"},
	}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// A password that begins with * or ! is no text for YAML. The message must not be the place
// where it is read.
func TestParse_UnquotedPassword_IsNotInTheMessage(t *testing.T) {
	for _, password := range []string{"*hunter2", "!hunter2 x", "!!hunter2"} {
		_, err := seed.Parse(bytes.NewReader(archive(t, "network.yaml", "proxy:\n  servers:\n    a: {password: "+password+"}\n")))
		if err == nil || strings.Contains(err.Error(), "hunter") || !strings.Contains(err.Error(), "into quotes") {
			t.Errorf("%s: got %v", password, err)
		}
	}
}
