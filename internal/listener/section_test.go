package listener_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	api "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/config"
	"github.com/holdfast-os/holdfast/internal/listener"
	"github.com/holdfast-os/holdfast/internal/plan"
)

func rules(all config.Problems) []string {
	var out []string
	for _, p := range all {
		out = append(out, p.Path+" "+p.Rule)
	}
	return out
}

// All that is wrong comes at once, so that it is mended in one go.
func TestCheck_WrongConfiguration_GivesEveryProblem(t *testing.T) {
	good := pemOf(newCertificate(t, "a"))
	many := make([]string, 101)
	for name, test := range map[string]struct {
		config api.FallbackListenerConfig
		want   []string
	}{
		"nothing asked for":     {api.FallbackListenerConfig{}, nil},
		"an address for nobody": {api.FallbackListenerConfig{ListenAddress: "192.0.2.10:8443"}, []string{"trusted_client_certificates required"}},
		"name":                  {api.FallbackListenerConfig{ListenAddress: "localhost:8443", TrustedClientCertificates: []string{good}}, []string{"listen_address address"}},
		"no port":               {api.FallbackListenerConfig{ListenAddress: "192.0.2.1", TrustedClientCertificates: []string{good}}, []string{"listen_address address"}},
		"port only":             {api.FallbackListenerConfig{ListenAddress: ":8443", TrustedClientCertificates: []string{good}}, []string{"listen_address address"}},
		"zone":                  {api.FallbackListenerConfig{ListenAddress: "[fe80::1%eth0]:8443", TrustedClientCertificates: []string{good}}, []string{"listen_address address"}},
		"too many":              {api.FallbackListenerConfig{TrustedClientCertificates: many}, []string{"trusted_client_certificates limit"}},
		"certificates": {api.FallbackListenerConfig{TrustedClientCertificates: []string{"", good + good, good,
			"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"}},
			[]string{"trusted_client_certificates[0] certificate", "trusted_client_certificates[1] certificate",
				"trusted_client_certificates[3] certificate", "trusted_client_certificates[4] certificate"}},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(test.want, rules(listener.Check(&test.config))); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestCheck_SameCertificateTwice_IsKeptOnce(t *testing.T) {
	a, b := pemOf(newCertificate(t, "a")), pemOf(newCertificate(t, "b"))
	c := api.FallbackListenerConfig{ListenAddress: "[::]:8443", TrustedClientCertificates: []string{a, b, a + "\n"}}
	if problems := listener.Check(&c); len(problems) > 0 {
		t.Fatal(problems)
	}
	if diff := cmp.Diff([]string{a, b}, c.TrustedClientCertificates); diff != "" {
		t.Error(diff)
	}
	if n := len(listener.Fingerprints(c)); n != 2 {
		t.Errorf("%d fingerprints", n)
	}
}

func TestNewPlan_RunningListener_MovesOnlyWithItsAddress(t *testing.T) {
	old := api.FallbackListenerConfig{ListenAddress: "192.0.2.1:8443", TrustedClientCertificates: []string{"a"}}
	moved, trusts := old, old
	moved.ListenAddress = "192.0.2.2:8443"
	trusts.TrustedClientCertificates = []string{"b"}
	for name, test := range map[string]struct {
		next   api.FallbackListenerConfig
		active bool
		want   plan.Plan
	}{
		"same":    {old, true, plan.Plan{}},
		"trust":   {trusts, true, plan.Plan{Disconnects: true}},
		"stopped": {moved, false, plan.Plan{Notes: []string{"The listener starts when the primary application does not run."}}},
		"moved": {moved, true, plan.Plan{Disconnects: true, Steps: []plan.Step{{Kind: plan.UseTool, Object: "fallback listener",
			Before: "192.0.2.1:8443", After: "192.0.2.2:8443", Tool: "fallback-listener-restart", Why: "it moves to the new address"}}}},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(test.want, listener.NewPlan(old, test.next, listener.Facts{Active: test.active})); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// A node without its application, or on its older release, can still be reached; but
// not before there is a certificate to serve with.
func TestNeeded_Situations_SayWhy(t *testing.T) {
	got := map[listener.Situation]string{}
	for _, s := range []listener.Situation{{}, {Initialized: true}, {OlderRelease: true, Failed: true},
		{Initialized: true, OlderRelease: true}, {Initialized: true, Failed: true}} {
		got[s] = listener.Needed(s)
	}
	want := map[listener.Situation]string{
		{}: "", {Initialized: true}: "", {OlderRelease: true, Failed: true}: "",
		{Initialized: true, OlderRelease: true}: "the node runs from its older release",
		{Initialized: true, Failed: true}:       "the primary application does not run",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// Configurations come from outside.
func FuzzCheck(f *testing.F) {
	f.Add("192.0.2.1:8443", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
	f.Fuzz(func(t *testing.T, address, certificate string) {
		c := api.FallbackListenerConfig{ListenAddress: address, TrustedClientCertificates: []string{certificate}}
		ok := len(listener.Check(&c)) == 0
		if prints := listener.Fingerprints(c); ok && len(prints) != 1 {
			t.Errorf("%d fingerprints of a configuration without problems", len(prints))
		}
	})
}
