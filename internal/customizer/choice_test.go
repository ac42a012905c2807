package customizer_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/internal/config"
	"github.com/holdfast-os/holdfast/internal/customizer"
	"github.com/holdfast-os/holdfast/internal/seed"
)

func decode(t *testing.T, text string) customizer.Choice {
	t.Helper()
	c, err := customizer.DecodeChoice([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

const smallChoice = `{"architecture": "x86_64", "type": "raw", "seeds": {
  "install": {"target": {"bus": "nvme", "sort_order": "smallest"}},
  "applications": {"applications": [{"name": "incus"}]},
  "update": {"channel": "true"}}}`

// A person reads these files before writing an image to a disk.
func TestFiles_OfAChoice_AreReadableAndInOrder(t *testing.T) {
	files, err := decode(t, smallChoice).Files()
	if err != nil {
		t.Fatal(err)
	}
	want := []customizer.File{
		{Name: "applications.yaml", Content: "applications:\n- name: incus\n"},
		{Name: "install.yaml", Content: "target:\n  bus: nvme\n  sort_order: smallest\n"},
		{Name: "update.yaml", Content: "auto_reboot: false\nchannel: 'true'\ncheck_frequency: ''\n"},
	}
	if diff := cmp.Diff(want, files); diff != "" {
		t.Error(diff)
	}
}

// Without a network a node must not wait for a server.
func TestFiles_Offline_NeverLookForUpdates(t *testing.T) {
	files, err := decode(t, `{"architecture":"x86_64","type":"raw","offline":true,"seeds":{"applications":{"applications":[{"name":"incus"}]}}}`).Files()
	if err != nil {
		t.Fatal(err)
	}
	want := customizer.File{Name: "update.yaml", Content: "auto_reboot: false\nchannel: ''\ncheck_frequency: never\n"}
	if diff := cmp.Diff(want, files[1]); diff != "" {
		t.Error(diff)
	}
}

// Two people who choose the same share a link, and a proxy keeps one image.
func TestID_SameChoiceWrittenDifferently_IsTheSame(t *testing.T) {
	ids := map[string]bool{}
	for _, text := range []string{
		`{"architecture":"x86_64","type":"raw","seeds":{"install":{"force_install":true},"kernel":{}}}`,
		`{"type":"raw","channel":"stable","seeds":{"kernel":{"console":[]},"install":{"force_install":true,"target":null}},"architecture":"x86_64","offline":false,"version":""}`,
		`{"architecture":"x86_64","type":"raw","channel":null,"seeds":{"install":{"force_install":true},"kernel":{},"incus":null}}`,
	} {
		id, err := decode(t, text).ID()
		if err != nil {
			t.Fatal(err)
		}
		ids[id] = true
	}
	// sha256sum of {"architecture":"x86_64","channel":"stable","seeds":{"install":{"force_install":true},"kernel":{}},"type":"raw"}
	want := map[string]bool{"8540b8eaed510aa811bfdf4b85b6de60271f2af78a81a2f6b405c898f7c3f50a": true}
	if diff := cmp.Diff(want, ids); diff != "" {
		t.Error(diff)
	}
}

// Every problem is told at once, at the field that it belongs to.
func TestDecodeChoice_Wrong_NamesFieldAndRule(t *testing.T) {
	begin := `{"architecture":"x86_64","type":"raw",`
	for _, c := range []struct {
		name, text string
		want       []string
	}{
		{"nothing said", `{}`, []string{"architecture choice", "type choice"}},
		{"no object", `[]`, []string{" type", "architecture choice", "type choice"}},
		{"wrong types", `{"architecture":1,"type":true,"offline":"yes"}`, []string{"architecture type", "type type", "offline type", "architecture choice", "type choice"}},
		{"unknown fields", begin + `"chanel":"a","seeds":{"instal":{}}}`, []string{"chanel unknown-field", "seeds.instal unknown-field"}},
		{"twice", begin + `"seeds":{"install":{},"install":{}}}`, []string{"seeds.install unique"}},
		{"odd words", begin + `"version":"../1"}`, []string{"version word"}},
		{"in a seed", begin + `"seeds":{"install":{"target":{"buss":"x"}},"applications":{"applications":[]}}}`,
			[]string{"seeds.install.target.buss unknown-field", "seeds.applications.applications needed"}},
		{"sizes", begin + `"seeds":{"install":{"target":{"min_size":"big","max_size":"10GiB","sort_order":"any"}}}}`,
			[]string{"seeds.install.target.min_size target-size-form", "seeds.install.target.sort_order target-order"}},
		{"sizes crossed", begin + `"seeds":{"install":{"target":{"min_size":"20GiB","max_size":"10GiB"}}}}`, []string{"seeds.install.target.max_size target-size-order"}},
		{"no trust", begin + `"seeds":{"install":{"security":{"missing_tpm":true,"missing_secure_boot":true}}}}`, []string{"seeds.install.security both"}},
		{"network", begin + `"seeds":{"network":{"interfaces":[{"name":"a","hwaddr":"nonsense!"}]}}}`, []string{"seeds.network.interfaces[0].hwaddr mac"}},
		{"key for a certificate", begin + `"seeds":{"operations-center":{"trusted_client_certificates":["-----BEGIN PRIVATE KEY-----\nx\n-----END PRIVATE KEY-----"]}}}`,
			[]string{"seeds.operations-center.trusted_client_certificates[0] certificate"}},
		{"broken certificate", begin + `"seeds":{"incus":{"preseed":{"certificates":[{"certificate":"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"}]}}}}`,
			[]string{"seeds.incus.preseed.certificates[0].certificate certificate"}},
		{"a CD that does not install", `{"architecture":"x86_64","type":"iso"}`, []string{"seeds.install needed"}},
		{"offline without applications", begin + `"offline":true}`, []string{"seeds.applications needed"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := customizer.DecodeChoice([]byte(c.text))
			var problems config.Problems
			if !errors.As(err, &problems) {
				t.Fatalf("got %v", err)
			}
			var got []string
			for _, p := range problems {
				got = append(got, p.Path+" "+p.Rule)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestDecodeChoice_NotJSON_SaysWhere(t *testing.T) {
	for text, want := range map[string]string{
		"":                   "the document is not JSON, line 1: it is cut off",
		"{\n\"type\": \"raw": "the document is not JSON, line 2: it is cut off",
		"{} {}":              "the document goes on behind its end",
	} {
		_, err := customizer.DecodeChoice([]byte(text))
		if fmt.Sprint(err) != want {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// A link is kept by browsers, proxies and logs: no secret may get into one.
func TestSecrets_AreFoundWhereverTheyStand(t *testing.T) {
	for _, c := range []struct {
		seeds string
		want  []string
	}{
		{`{}`, nil},
		{`{"install":{"target":{"id":"x"}},"applications":{"applications":[{"name":"incus"}]},"kernel":{},"update":{"channel":"a"}}`, nil},
		{`{"network":{"dns":{"hostname":"a","domain":"b"},"interfaces":[{"name":"a","hwaddr":"eth0","addresses":["dhcp4"],"mtu":1500}]}}`, nil},
		{`{"incus":{"apply_defaults":true,"preseed":{"certificates":[{"name":"a","type":"client","certificate":"QUFB"}]}}}`, nil},
		{`{"incus":{"preseed":{"certificates":[{"trust_token":"x"}],"config":{"core.trust_password":"y"}}}}`,
			[]string{"seeds.incus.preseed.certificates.trust_token", "seeds.incus.preseed.config.core.trust_password"}},
		{`{"incus":{"preseed":{"config":{"number":5}}}}`, []string{"seeds.incus.preseed.config.number"}},
		{`{"provider":{"name":"images","config":{"server_url":"https://a/b"}}}`, nil},
		{`{"provider":{"name":"images","config":{"server_url":"https://[2001:db8::1]:8443/b"}}}`, nil},
		{`{"provider":{"name":"images","config":{"server_url":"https://u:hal"}}}`, []string{"seeds.provider.config.server_url"}},
		{`{"provider":{"name":"images","config":{"server_url":"https://u:p/w@a/b"}}}`, []string{"seeds.provider.config.server_url"}},
		{`{"provider":{"name":"images","config":{"server_url":"https://a/b#token"}}}`, []string{"seeds.provider.config.server_url"}},
		{`{"provider":{"name":"images","config":{"server_url":"https://u:p@a/b","token":"x"}}}`,
			[]string{"seeds.provider.config.server_url", "seeds.provider.config.token"}},
		{`{"services":{"tailscale":{"enabled":true,"auth_key":"k"}}}`, []string{"seeds.services.tailscale.auth_key"}},
		{`{"network":{"wireguard":[{"name":"wg0","private_key":"` + strings.Repeat("A", 43) + `="}]}}`,
			[]string{"seeds.network.wireguard.name", "seeds.network.wireguard.private_key"}},
		{`{"kernel":{"version":"-----BEGIN PRIVATE KEY-----"}}`, []string{"seeds.kernel.version"}},
	} {
		got, err := decode(t, `{"architecture":"x86_64","type":"raw","seeds":`+c.seeds+`}`).Secrets()
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s: %s", c.seeds, diff)
		}
	}
}

// Whatever is taken must arrive at the node as it was meant, whatever its texts are.
func FuzzDecodeChoice(f *testing.F) {
	f.Add([]byte(smallChoice))
	f.Add([]byte(`{"architecture":"x86_64","type":"iso","offline":true,"version":"1","seeds":{"install":null}}`))
	f.Add([]byte(`{"architecture":"aarch64","type":"raw","seeds":{"incus":{"preseed":{"config":{"a":" \t\u2028- x: #\n"},"cluster":{"b":[1.5,null,[]]}}},"kernel":{"version":"0x10"}}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := customizer.DecodeChoice(data)
		if err != nil {
			return
		}
		text, err := c.Canonical()
		if err != nil {
			t.Fatal(err)
		}
		again, err := customizer.DecodeChoice(text)
		if err != nil {
			t.Fatalf("the canonical form is refused: %v\n%s", err, text)
		}
		second, err := again.Canonical()
		if err != nil || !bytes.Equal(text, second) {
			t.Fatalf("the canonical form changes (%v)\n%s\n%s", err, text, second)
		}
		archive, err := c.Archive()
		if err != nil {
			t.Fatal(err)
		}
		c.Offline = false
		plain, err := c.Archive()
		if err != nil {
			t.Fatal(err)
		}
		set, err := seed.Parse(bytes.NewReader(plain))
		if err != nil && !errors.Is(err, seed.Missing) {
			t.Fatalf("the node refuses the archive: %v", err)
		}
		if read := (customizer.Choice{Architecture: c.Architecture, Type: c.Type, Channel: c.Channel, Version: c.Version, Seeds: *set}); !same(t, c, read) {
			t.Fatal("the node reads another choice")
		}
		if len(archive)%512 != 0 {
			t.Fatalf("an archive of %d bytes", len(archive))
		}
	})
}

func same(t *testing.T, a, b customizer.Choice) bool {
	t.Helper()
	first, err := a.Canonical()
	if err != nil {
		t.Fatal(err)
	}
	second, err := b.Canonical()
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Equal(first, second)
}
