package media

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"math/big"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	apios "github.com/holdfast-os/holdfast/api/os"
	api "github.com/holdfast-os/holdfast/api/seed"
	"github.com/holdfast-os/holdfast/internal/seed"
)

func certificate(t testing.TB) (text string, der []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Date(2050, 1, 1, 0, 0, 0, 0, time.UTC)}
	if der, err = x509.CreateCertificate(rand.Reader, template, template, key.Public(), key); err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), der
}

// The short fields are another spelling of seeds: the same image has the same identifier.
func TestChoice_ShortFieldsOrSeeds_AreTheSameChoice(t *testing.T) {
	const short = `{"applications": ["incus"], "install_target": {"bus": "nvme"}, "network": {"time": {"timezone": "UTC"}}}`
	const long = `{"type": "raw", "channel": "stable", "architecture": "x86_64", "seeds": {
		"network": {"time": {"timezone": "UTC"}}, "install": {"target": {"bus": "nvme"}}, "applications": {"applications": [{"name": "incus"}]}, "update": null}}`
	const canonical = `{"architecture":"x86_64","channel":"stable","seeds":{"applications":{"applications":[{"name":"incus"}]},` +
		`"install":{"target":{"bus":"nvme"}},"network":{"time":{"timezone":"UTC"}}},"type":"raw"}`
	const id = "58671fd2d3c5a52ea7d5def196acf8b13d85fdf84ba637e14bde0a904c658a55" // sha256sum of the line above
	for name, text := range map[string]string{"short": short, "long": long} {
		c, err := DecodeOptions(File{Data: []byte(text)})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		choice, err := c.Choice()
		if err != nil {
			t.Fatal(err)
		}
		got, err := choice.Canonical()
		if err != nil {
			t.Fatal(err)
		}
		sameText(t, name+" "+string(got), name+" "+canonical)
		gotID, err := choice.ID()
		if err != nil {
			t.Fatal(err)
		}
		sameText(t, gotID, id)
	}
}

// A certificate goes to what the node will run.
func TestChoice_TrustedCertificate_GoesToTheChosenApplications(t *testing.T) {
	text, der := certificate(t)
	trusted := api.IncusCertificate{Name: "admin-1", Type: "client", Certificate: base64.StdEncoding.EncodeToString(der)}
	plain := &api.Incus{ApplyDefaults: true, Preseed: &api.IncusPreseed{
		Config: map[string]any{"core.https_address": ":8443"}, Certificates: []api.IncusCertificate{trusted}}}
	own := &api.Incus{Preseed: &api.IncusPreseed{Certificates: []api.IncusCertificate{{Name: "first"}, trusted}}}
	list := func(names ...string) *api.Applications {
		l := &api.Applications{}
		for _, n := range names {
			l.Applications = append(l.Applications, api.Application{Name: n})
		}
		return l
	}
	for name, c := range map[string]struct {
		choice ChoiceOptions
		want   *seed.Set
	}{
		"none":    {ChoiceOptions{}, &seed.Set{Incus: plain}},
		"incus":   {ChoiceOptions{Applications: []string{"incus"}}, &seed.Set{Applications: list("incus"), Incus: plain}},
		"own":     {ChoiceOptions{Seeds: map[string]json.RawMessage{"incus": []byte(`{"preseed":{"certificates":[{"name":"first"}]}}`)}}, &seed.Set{Incus: own}},
		"manager": {ChoiceOptions{Applications: []string{"operations-center"}}, &seed.Set{Applications: list("operations-center"), OperationsCenter: &api.OperationsCenter{TrustedClientCertificates: []string{text}}}},
		"both": {ChoiceOptions{Applications: []string{"incus", "migration-manager"}},
			&seed.Set{Applications: list("incus", "migration-manager"), Incus: plain, MigrationManager: &api.MigrationManager{TrustedClientCertificates: []string{text}}}},
	} {
		c.choice.TrustedCertificates = []string{text}
		got, err := c.choice.Choice()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if diff := cmp.Diff(c.want, &got.Seeds); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

func TestDecodeOptions_Wrong_NamesEveryField(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"unknown": {`{"chanel": "stable", "force_install": "yes"}`,
			"chanel: there is no such field: did you mean \"channel\"?\nforce_install: \"yes\" where true or false is expected"},
		"values": {`{"architecture": "arm", "type": "usb", "version": "../x", "trusted_certificates": ["x"], "applications": ["incus", "incus"]}`,
			`architecture: "arm" is not one of x86_64, aarch64` + "\n" + `type: "usb" is not one of raw, iso` + "\n" +
				"version: letters, digits, dots and dashes, at most 64\n" +
				"trusted_certificates[0]: this is no PEM certificate: it begins with -----BEGIN CERTIFICATE-----\n" +
				`applications.applications[1].name: "incus" is listed twice`},
		"twice":   {`{"applications": ["incus"], "seeds": {"applications": {}}}`, "seeds.applications: the choice has seed applications twice: take one of them out"},
		"seeds":   {`{"seeds": {"netwrk": {}, "install": {"forse": 1}}}`, "seeds.install.forse: there is no such field: known are version, force_install, force_install_confirmation, force_reboot, security, target\nseeds.netwrk: no seed has this name: did you mean \"network\"?"},
		"network": {`{"network": {"interfaces": [{"name": "eth0", "hwaddr": "enp1s0", "mtu": 12}]}}`, "network.interfaces[0].mtu: 12 is outside 1280 to 9000; leave it out for the default"},
		"CD":      {`{"type": "iso"}`, "seeds.install: a CD cannot be run from, it can only install: add an install seed, or take the type raw"},
		"key":     {`{"trusted_certificates": ["-----BEGIN PRIVATE KEY-----"]}`, "trusted_certificates[0]: this is a private key: keep it, and give the certificate"},
	} {
		_, err := DecodeOptions(File{Data: []byte(c.text)})
		if err == nil {
			t.Fatalf("%s: no error", name)
		}
		var problems Problems
		if !errors.As(err, &problems) {
			t.Errorf("%s: %T", name, err)
		}
		sameText(t, name+": "+err.Error(), name+": "+c.want)
	}
}

// Whoever wrote a file looks for a line in it, whatever is wrong there.
func TestDecodeOptions_WrongFile_NamesLineAndField(t *testing.T) {
	for name, c := range map[string]struct{ file, text, want string }{
		"type":    {"node.yaml", "channel: stable\napplications: incus\n", "node.yaml:2: applications: a value where a list is expected"},
		"nested":  {"node.yaml", "install_target:\n  buss: nvme\n", `node.yaml:2: install_target.buss: there is no such field: did you mean "bus"?`},
		"JSON":    {"dir/node.json", "{\n  \"install_target\": {\n    \"buss\": \"nvme\"}}", `dir/node.json:3: install_target.buss: there is no such field: did you mean "bus"?`},
		"syntax":  {"node.json", "{\n  \"type\": \"raw\"\n  \"channel\": 1}", "node.json:3: invalid character '\"' after object key:value pair"},
		"seed":    {"node.yaml", "seeds:\n  kernel: {}\n  install:\n    target: {sise: 1}\n", "node.yaml:4: seeds.install.target.sise: there is no such field: known are bus, id, max_size, min_size, sort_order"},
		"meaning": {"node.yaml", "type: raw\nnetwork:\n  interfaces:\n  - name: eth0\n    hwaddr: enp1s0\n    mtu: 12\n", "node.yaml:6: network.interfaces[0].mtu: 12 is outside 1280 to 9000; leave it out for the default"},
		"value":   {"node.yaml", "channel: stable\ntype: usb\n", `node.yaml:2: type: "usb" is not one of raw, iso`},
		"list":    {"node.yaml", "- type: raw\n", "node.yaml:1: a list where a map is expected"},
	} {
		_, err := DecodeOptions(File{c.file, []byte(c.text)})
		if err == nil {
			t.Fatalf("%s: no error", name)
		}
		sameText(t, name+": "+err.Error(), name+": "+c.want)
	}
}

// A line that is told must be that of the mistake, also where YAML would count otherwise.
func TestDocuments_JSONWithAMistake_NamesItsLine(t *testing.T) {
	for text, want := range map[string]string{
		"{\n  \"version\": \"1\",\n  \"target\": {\"bus\" \"nvme\"}\n}\n": "in/install.json:3: invalid character '\"' after object key",
		"{force_install: true}\n": "in/install.json:1: invalid character 'f' looking for beginning of object key string",
	} {
		_, err := Documents([]File{{"in/install.json", []byte(text)}})
		if err == nil {
			t.Fatalf("%s: no error", text)
		}
		sameText(t, err.Error(), want)
	}
}

// Links stay in browsers, proxies and logs: what makes them asks for the secrets first.
func TestChoice_Secret_IsFoundAndNotShown(t *testing.T) {
	for where, document := range map[string]string{
		"network.proxy.servers.a.password":                            `{"seeds": {"network": {"proxy": {"servers": {"a": {"host": "p:3128", "auth": "basic", "username": "me", "password": "hidden"}}}}}}`,
		"operations-center.preseed.system_certificate.key":            `{"seeds": {"operations-center": {"preseed": {"system_certificate": {"key": "hidden"}}}}}`,
		"incus.preseed.config.oidc.secret":                            `{"seeds": {"incus": {"preseed": {"config": {"oidc.secret": "hidden"}}}}}`,
		"incus.preseed.certificates.trust_token":                      `{"seeds": {"incus": {"preseed": {"certificates": [{"trust_token": "hidden"}]}}}}`,
		"provider.config.token":                                       `{"seeds": {"provider": {"name": "images", "config": {"token": "hidden"}}}}`,
		"provider.config.server_url":                                  `{"seeds": {"provider": {"name": "images", "config": {"server_url": "https://me:hidden@example.org"}}}}`,
		"services.tailscale.auth_key":                                 `{"seeds": {"services": {"tailscale": {"auth_key": "hidden"}}}}`,
		"migration-manager.preseed.system_security.openfga.api_token": `{"seeds": {"migration-manager": {"preseed": {"system_security": {"openfga": {"api_token": "hidden"}}}}}}`,
	} {
		c, err := DecodeOptions(File{Data: []byte(document)})
		if err != nil {
			t.Fatalf("%s: %v", where, err)
		}
		choice, err := c.Choice()
		if err != nil {
			t.Fatal(err)
		}
		found, err := choice.Secrets()
		if err != nil {
			t.Fatal(err)
		}
		shown, err := Hidden(&choice.Seeds)
		if err != nil {
			t.Fatal(err)
		}
		text, err := json.Marshal(shown)
		if err != nil {
			t.Fatal(err)
		}
		if bytesContain(text, "hidden") {
			t.Errorf("%s: the secret is shown: %s", where, text)
		}
		if !contains(found, "seeds."+where) {
			t.Errorf("%s: found %v", where, found)
		}
	}
}

// A link with a choice is kept by browsers and logs: no form of a password in an address may
// stand in it, wherever in a list. What has none is shown.
func TestChoice_AddressWithAPassword_IsASecret(t *testing.T) {
	for text, secret := range map[string]bool{
		"https://a.example.org":                                     false,
		"https://a.example.org/tree https://[2001:db8::1]:8443/":    false,
		"a.example.org:8443":                                        false,
		"https://me:hidden@a.example.org":                           true,
		"https://hidden@a.example.org/tree":                         true,
		"https://a.example.org https://me:hidden@b.example.org":     true,
		"https://a.example.org\nhttps://b.example.org?token=hidden": true,
		"me:hidden@a.example.org":                                   true,
		"hidden@a.example.org":                                      true,
		"a.example.org me:hidden@b.example.org":                     true,
		"//me:hidden@a.example.org":                                 true,
		"https://me:hid/den@a.example.org":                          true,
		"https://a.example.org/tree#token=hidden":                   true,
		"a.example.org/tree#token=hidden":                           true,
		"a.example.org/tree?token=hidden":                           true,
	} {
		for _, field := range []string{"server_url", "mirrors"} {
			set := &seed.Set{Provider: &api.Provider{ProviderConfig: apios.ProviderConfig{Name: "images", Config: map[string]string{field: text}}}}
			var want []string
			if secret {
				want = []string{"provider.config." + field}
			}
			got, err := Secrets(set)
			if diff := cmp.Diff(want, got); diff != "" || err != nil {
				t.Errorf("%s %q: %v %s", field, text, err, diff)
			}
		}
	}
	// Elsewhere a name may have an @, and a login may not.
	for name, secret := range map[string]bool{"me@laptop": false, "me:hidden@laptop": true} {
		set := &seed.Set{Incus: &api.Incus{Preseed: &api.IncusPreseed{Certificates: []api.IncusCertificate{{Name: name}}}}}
		if got, err := Secrets(set); err != nil || len(got) > 0 != secret {
			t.Errorf("%q: %v, %v", name, got, err)
		}
	}
}

// What is shown is what a person needs to recognize a seed.
func TestHidden_OrdinarySeed_IsShownWhole(t *testing.T) {
	set, err := Documents([]File{{"install.yaml", []byte("target: {id: SSD1}\n")}, {"provider.yaml", []byte("name: images\nconfig: {server_url: 'https://example.org', update_ca: PEM}\n")},
		{"network.yaml", []byte("time: {timezone: UTC}\ninterfaces: [{name: eth0, hwaddr: enp1s0, mtu: 1500}]\n")}})
	if err != nil {
		t.Fatal(err)
	}
	got, err := Hidden(set)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"install":  map[string]any{"target": map[string]any{"id": "SSD1"}},
		"provider": map[string]any{"name": "images", "config": map[string]any{"server_url": "https://example.org", "update_ca": "PEM"}},
		"network": map[string]any{"time": map[string]any{"timezone": "UTC"},
			"interfaces": []any{map[string]any{"name": "eth0", "hwaddr": "enp1s0", "mtu": float64(1500)}}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
