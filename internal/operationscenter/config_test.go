package operationscenter_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	osapi "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/config"
	"github.com/holdfast-os/holdfast/internal/operationscenter"
)

func settings(pairs ...string) osapi.ProviderConfig {
	value := osapi.ProviderConfig{Name: "operations-center", Config: map[string]string{}}
	for i := 0; i < len(pairs); i += 2 {
		value.Config[pairs[i]] = pairs[i+1]
	}
	return value
}

const server = "https://manager.example.org:8443"

// An owner sees all that is wrong at once, and never the token.
func TestCheck_EachConfiguration_HasItsProblems(t *testing.T) {
	certificate := newIdentity(t, nil).pem
	for _, test := range []struct {
		name  string
		value osapi.ProviderConfig
		local bool
		want  []string
	}{
		{"good", settings("server_url", server, "server_token", token, "server_certificate", certificate), false, nil},
		{"without pin", settings("server_url", server+"/", "server_token", token), false, nil},
		{"a manager on the node", settings(), true, nil},
		{"nothing", settings(), false, []string{"config.server_url required", "config.server_token required"}},
		{"of another provider", osapi.ProviderConfig{Name: "images", Config: map[string]string{"update_ca": "x"}}, true,
			[]string{"name known", "config.update_ca known"}},
		{"http", settings("server_url", "http://manager.example.org", "server_token", token), false, []string{"config.server_url url"}},
		{"no host", settings("server_url", "https://", "server_token", token), false, []string{"config.server_url url"}},
		{"user", settings("server_url", "https://a:b@manager.example.org", "server_token", token), false, []string{"config.server_url url"}},
		{"query", settings("server_url", server+"?a=b", "server_token", token), false, []string{"config.server_url url"}},
		{"no URL", settings("server_url", "https://a b", "server_token", token), false, []string{"config.server_url url"}},
		{"token of two lines", settings("server_url", server, "server_token", token+"\n"), false, []string{"config.server_token token"}},
		{"long token", settings("server_url", server, "server_token", strings.Repeat("x", 513)), false, []string{"config.server_token token"}},
		{"reference to nothing", settings("server_url", server, "server_token", config.Secret), false, []string{"config.server_token secret"}},
		{"no certificate", settings("server_url", server, "server_token", token, "server_certificate", "hello"), false, []string{"config.server_certificate certificate"}},
		{"broken certificate", settings("server_url", server, "server_token", token, "server_certificate", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"), false,
			[]string{"config.server_certificate certificate"}},
		{"two certificates", settings("server_url", server, "server_token", token, "server_certificate", certificate+certificate), false, []string{"config.server_certificate certificate"}},
	} {
		problems := operationscenter.Check(test.value, test.local)
		var got []string
		for _, p := range problems {
			got = append(got, p.Path+" "+p.Rule)
		}
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s: %s", test.name, diff)
		}
		if strings.Contains(problems.Error(), token) {
			t.Errorf("%s: the token is in %q", test.name, problems)
		}
	}
}

func TestHide_Token_IsAReference(t *testing.T) {
	kept := settings("server_url", server, "server_token", token)
	if diff := cmp.Diff(settings("server_url", server, "server_token", config.Secret), operationscenter.Hide(kept)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(settings("server_url", server, "server_token", token), kept); diff != "" {
		t.Errorf("the configuration was changed: %s", diff)
	}
	if diff := cmp.Diff(osapi.ProviderConfig{Name: "images"}, operationscenter.Hide(osapi.ProviderConfig{Name: "images"})); diff != "" {
		t.Error(diff)
	}
}

// A document that was shown can be sent back; with another server it would send the token there.
func TestKeep_Reference_GetsTheTokenOfTheSameServerAlone(t *testing.T) {
	kept := settings("server_url", server, "server_token", token)
	for _, test := range []struct {
		name            string
		sent, kept      osapi.ProviderConfig
		want            osapi.ProviderConfig
		wantProblemPath string
	}{
		{"sent back", settings("server_url", server, "server_token", config.Secret), kept, settings("server_url", server, "server_token", token), ""},
		{"new token", settings("server_url", server, "server_token", "new"), kept, settings("server_url", server, "server_token", "new"), ""},
		{"no token", settings("server_url", server), kept, settings("server_url", server), ""},
		{"another server", settings("server_url", "https://evil.example.org", "server_token", config.Secret), kept,
			settings("server_url", "https://evil.example.org", "server_token", config.Secret), "config.server_token"},
		{"nothing kept", settings("server_url", server, "server_token", config.Secret), osapi.ProviderConfig{},
			settings("server_url", server, "server_token", config.Secret), "config.server_token"},
	} {
		got, problems := operationscenter.Keep(test.sent, test.kept)
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s: %s", test.name, diff)
		}
		path := ""
		for _, p := range problems {
			path += p.Path
		}
		if path != test.wantProblemPath {
			t.Errorf("%s: problems %v", test.name, problems)
		}
	}
}

func device(roles string, addresses ...string) osapi.NetworkInterfaceState {
	return osapi.NetworkInterfaceState{Roles: strings.Fields(roles), Addresses: addresses}
}

// The manager connects to what this says: a wrong one leaves the node unmanaged.
func TestConnectionURL_EachNetwork_IsWhereTheNodeIsReached(t *testing.T) {
	type devices = map[string]osapi.NetworkInterfaceState
	both := devices{"b": device("management", "192.0.2.9", "2001:db8::9"), "a": device("management cluster", "192.0.2.7"), "0": device("instances", "2001:db8::1")}
	v4 := devices{"a": device("management", "192.0.2.7"), "b": device("management", "192.0.2.8")}
	for _, test := range []struct {
		name    string
		devices devices
		listen  string
		want    string
		wantErr error
	}{
		{"IPv6 is preferred, over devices", both, "", "https://[2001:db8::9]:8443", nil},
		{"the first device by name", v4, "", "https://192.0.2.7:8443", nil},
		{"with the length of the prefix", devices{"a": device("management", "192.0.2.7/24")}, "", "https://192.0.2.7:8443", nil},
		{"link-local and loopback are of no use", devices{"a": device("management", "fe80::1", "169.254.1.1", "::1", "127.0.0.1", "nonsense", "192.0.2.7")}, "", "https://192.0.2.7:8443", nil},
		{"port alone", v4, ":9443", "https://192.0.2.7:9443", nil},
		{"every address", v4, "[::]:9443", "https://192.0.2.7:9443", nil},
		{"every IPv4 address", v4, "0.0.0.0:9443", "https://192.0.2.7:9443", nil},
		{"every address, as a star", v4, "*:9443", "https://192.0.2.7:9443", nil},
		{"one address", v4, "198.51.100.1:9443", "https://198.51.100.1:9443", nil},
		{"one address without port", v4, "198.51.100.1", "https://198.51.100.1:8443", nil},
		{"one IPv6 address without port", v4, "2001:db8::5", "https://[2001:db8::5]:8443", nil},
		{"the same in brackets", v4, "[2001:db8::5]", "https://[2001:db8::5]:8443", nil},
		{"a name", nil, "node1.example.org", "https://node1.example.org:8443", nil},
		{"a name and a port", nil, "node1.example.org:9443", "https://node1.example.org:9443", nil},
		{"loopback alone", v4, "127.0.0.1:8443", "", operationscenter.ErrNoAddress},
		{"no management", devices{"a": device("instances", "192.0.2.7")}, "", "", operationscenter.ErrNoAddress},
		{"no network", nil, ":8443", "", operationscenter.ErrNoAddress},
	} {
		got, err := operationscenter.ConnectionURL(test.devices, test.listen)
		if got != test.want || !errors.Is(err, test.wantErr) {
			t.Errorf("%s: got %q, %v, want %q, %v", test.name, got, err, test.want, test.wantErr)
		}
	}
	for _, listen := range []string{"a:b:c:d", "host:0", "host:65536", "host:http", "a/b:80", "user@host:80", "[::1"} {
		if got, err := operationscenter.ConnectionURL(v4, listen); err == nil {
			t.Errorf("%q gives %q", listen, got)
		}
	}
}
