package seed_test

import (
	"bytes"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	api "github.com/holdfast-os/holdfast/api/seed"
	"github.com/holdfast-os/holdfast/internal/seed"
)

// full has a secret, the word HIDE, in each place that can have one, and KEEP elsewhere.
var full = []string{
	"network.yaml", `
interfaces: [{name: KEEP1, hwaddr: enp1s0, ethernet: {wakeonlan_password: "HIDE"}}]
proxy: {servers: {a: {host: "KEEP2", username: KEEP3, password: HIDE}, b: {host: "http://user:HIDE@proxy"}}}
`, "provider.yaml", `
name: operations-center
config: {server_url: "https://KEEP4", server_token: HIDE, token: HIDE, server_certificate: KEEP5, of_the_future: HIDE}
`, "services.yaml", `
netbird: {setup_key: HIDE, management_url: KEEP6}
ovn: {database: "KEEP7", tls_client_key: HIDE, tls_client_certificate: KEEP8}
tailscale: {auth_key: HIDE, login_server: "https://HIDE@example.org/", exit_node: KEEP9}
`, "incus.yaml", `
preseed:
  config: {core.https_address: ":8443", openfga.api.token: HIDE, user.KEEP10: 1}
  networks: [{name: KEEP11, config: {bgp.peers.a.password: HIDE}}]
  storage_pools: [{name: KEEP12, config: {size: KEEP13, source: "https://user:HIDE@san"}}]
  profiles: [{name: p, config: {cloud-init.user-data: "passwd HIDE", environment.TOKEN: HIDE, limits.cpu: "4", limits.x: 0}, list: [0, "", KEEP14, "-----BEGIN EC PRIVATE KEY-----HIDE"]}]
  certificates: [{name: KEEP15, certificate: KEEP16, trust_token: HIDE}]
  cluster: {enabled: true, cluster_token: HIDE, member_config: [{entity: KEEP17, value: KEEP18}]}
`, "migration-manager.yaml", `
trusted_client_certificates: [KEEP19]
preseed:
  system_certificate: {certificate: KEEP20, key: HIDE}
  system_security: {openfga: {api_token: HIDE, store_id: KEEP21}, acme: {provider_environment: [HIDE=HIDE], email: KEEP22}}
`, "operations-center.yaml", `
preseed:
  system_certificate: {certificate: KEEP23, key: HIDE}
  system_security: {acme: {provider_environment: [HIDE=HIDE], provider_resolvers: [KEEP24]}, openfga: {api_token: HIDE}}
`, "kernel.yaml", "console: [{device: KEEP25}]\n", "security.yaml", "custom_ca_certs: [KEEP26]\n", "update.yaml", "channel: KEEP27\n",
}

// A node that runs has its seed on an encrypted disk; what stays beside it can be read by
// anybody who takes the machine along.
func TestWipe_SecretsEverywhere_AreGoneAndTheRestStays(t *testing.T) {
	set, err := seed.Parse(bytes.NewReader(archive(t, full...)))
	if err != nil {
		t.Fatal(err)
	}
	set.Sealed = []seed.Member{{Name: "applications.yaml.age", Data: []byte("age-encryption.org/v1\nHIDE")}}
	var before bytes.Buffer
	if err := seed.Write(&before, set); err != nil {
		t.Fatal(err)
	}
	original := *set
	removed := set.Wipe()
	want := []string{
		"applications.yaml.age",
		"incus.preseed.certificates.trust_token", "incus.preseed.cluster.cluster_token",
		"incus.preseed.config.openfga.api.token", "incus.preseed.networks.config.bgp.peers.a.password",
		"incus.preseed.profiles.config.cloud-init.user-data", "incus.preseed.profiles.config.environment.TOKEN",
		"incus.preseed.profiles.list", "incus.preseed.storage_pools.config.source",
		"migration-manager.preseed.system_certificate.key", "migration-manager.preseed.system_security.acme.provider_environment",
		"migration-manager.preseed.system_security.openfga.api_token", "network.interfaces.ethernet.wakeonlan_password",
		"network.proxy.servers.a.password", "network.proxy.servers.b.host",
		"operations-center.preseed.system_certificate.key", "operations-center.preseed.system_security.acme.provider_environment",
		"operations-center.preseed.system_security.openfga.api_token", "provider.config.of_the_future", "provider.config.server_token",
		"provider.config.token", "services.netbird.setup_key", "services.ovn.tls_client_key", "services.tailscale.auth_key",
		"services.tailscale.login_server",
	}
	if diff := cmp.Diff(want, removed); diff != "" {
		t.Error(diff)
	}
	var after bytes.Buffer
	if err := seed.Write(&after, set); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(after.String(), "HIDE") {
		t.Errorf("left: %s", after.String())
	}
	kept := regexp.MustCompile(`KEEP\d+`)
	if diff := cmp.Diff(kept.FindAllString(before.String(), -1), kept.FindAllString(after.String(), -1)); diff != "" {
		t.Error(diff)
	}
	if profiles := set.Incus.Preseed.Profiles; cmp.Diff([]any{0.0, "", "KEEP14"}, profiles[0]["list"]) != "" {
		t.Errorf("got %v", profiles)
	}
	if original.Network.Proxy.Servers["a"].Password != "HIDE" {
		t.Error("what the node works with was wiped too")
	}
	if again := set.Wipe(); len(again) != 0 {
		t.Errorf("a second time finds %v", again)
	}
}

// A field that is added later and looks like a secret needs a decision.
func TestSecretTags_FieldsNamedLikeSecrets_HaveOne(t *testing.T) {
	// What is called like a secret and is none.
	harmless := []string{"network.NetworkConfig.Wireguard.Peers.PublicKey"}
	word := regexp.MustCompile(`(?i)(password|passphrase|secret|token|key)s?$`)
	for _, name := range seed.Names() {
		document, ok := reflect.TypeFor[seed.Set]().FieldByNameFunc(func(field string) bool {
			return strings.EqualFold(field, strings.ReplaceAll(name, "-", ""))
		})
		if !ok {
			t.Fatalf("no field for %s", name)
		}
		walkTypes(document.Type, name, nil, func(at string, f reflect.StructField) {
			if word.MatchString(f.Name) && f.Type.Kind() != reflect.Bool && f.Tag.Get("secret") == "" && !slices.Contains(harmless, at) {
				t.Errorf("%s: give it the tag secret, or list it as harmless", at)
			}
		})
	}
}

func walkTypes(t reflect.Type, at string, above []reflect.Type, look func(string, reflect.StructField)) {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice || t.Kind() == reflect.Map {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct || slices.Contains(above, t) {
		return
	}
	for i := range t.NumField() {
		f := t.Field(i)
		look(at+"."+f.Name, f)
		walkTypes(f.Type, at+"."+f.Name, append(above, t), look)
	}
}

// Token in Incus' list of certificates asks for a token and holds none.
func TestSecretTags_TokenOfACertificate_IsAQuestion(t *testing.T) {
	f, _ := reflect.TypeFor[api.IncusCertificate]().FieldByName("Token")
	if f.Type.Kind() != reflect.Bool || f.Tag.Get("secret") != "" {
		t.Errorf("got %v", f)
	}
}
