package cacerts_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/internal/cacerts"
	"github.com/holdfast-os/holdfast/internal/config"
	"github.com/holdfast-os/holdfast/internal/plan"
)

var now = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// certificate makes one that ends a number of days from now.
func certificate(t *testing.T, name string, days int, change func(*x509.Certificate)) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: now.AddDate(-1, 0, 0), NotAfter: now.AddDate(0, 0, days),
	}
	if change != nil {
		change(template)
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: raw}))
}

func rules(problems config.Problems) []string {
	var all []string
	for _, p := range problems {
		all = append(all, p.Path+" "+p.Rule)
	}
	return all
}

// A text that is no authority's certificate would be accepted in silence by OpenSSL, and
// the connection that it was for would still fail.
func TestCheck_Certificates_GiveEveryProblem(t *testing.T) {
	good, ended := certificate(t, "good", 365, nil), certificate(t, "ended", -1, nil)
	leaf := certificate(t, "leaf", 365, func(c *x509.Certificate) { c.IsCA = false })
	plainLeaf := certificate(t, "leaf", 365, func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = false, false })
	key := string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("secret")}))
	broken := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("no certificate")}))
	const at = "custom_ca_certs"
	for name, c := range map[string]struct {
		before, next []string
		want         []string
	}{
		"none":               {nil, nil, nil},
		"good":               {nil, []string{good}, nil},
		"words before it":    {nil, []string{"Certificate:\n    Data:\n" + good}, nil},
		"all kinds of wrong": {nil, []string{"", good + good, key, broken, leaf, plainLeaf, ended}, []string{at + "[0] certificate", at + "[1] certificate", at + "[2] certificate", at + "[3] certificate", at + "[4] authority", at + "[5] authority", at + "[6] expired"}},
		"ended in force":     {[]string{ended}, []string{ended, good}, nil},
		"twice":              {nil, []string{good, "again:\n" + good}, []string{at + "[1] unique"}},
		"too long":           {nil, []string{good + strings.Repeat("\n", 64<<10)}, []string{at + "[0] certificate"}},
		"too many":           {nil, make([]string, 101), append([]string{at + " count"}, hundred(at)...)},
	} {
		if diff := cmp.Diff(c.want, rules(cacerts.Check(c.before, c.next, now))); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

func hundred(at string) []string {
	var all []string
	for i := range 100 {
		all = append(all, at+"["+big.NewInt(int64(i)).String()+"] certificate")
	}
	return all
}

// Somebody pastes a key beside the certificate: it must not come back in an error.
func TestCheck_PrivateKey_IsNotRepeated(t *testing.T) {
	key := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("the private key")})
	text := cacerts.Check(nil, []string{string(key)}, now).Error()
	if strings.Contains(text, strings.Split(string(key), "\n")[1]) {
		t.Errorf("the key is in: %s", text)
	}
}

const debian = "-----BEGIN CERTIFICATE-----\ndebian\n-----END CERTIFICATE-----\n"

// The node still reaches what Debian's certificates are for; programs that run learn of
// the new ones by a restart.
func TestNewPlan_NewCertificate_IsBehindDebiansAndRestartsWhatReadsThem(t *testing.T) {
	one, two := certificate(t, "one", 365, nil), certificate(t, "two", 365, nil)
	got, err := cacerts.NewPlan([]string{"in words\n" + one, two}, cacerts.Facts{
		System: debian, Present: debian, Units: []string{"holdfast-proxy.service", "incus.service"}, Now: now,
	})
	if err != nil {
		t.Fatal(err)
	}
	const why = "a program reads the certificates that it trusts once"
	want := plan.Plan{Steps: []plan.Step{
		{Kind: plan.WriteFile, Object: "/etc/ssl/certs/ca-certificates.crt", Before: debian, After: debian + one + two},
		{Kind: plan.RestartUnit, Object: "holdfast-proxy.service", Why: why},
		{Kind: plan.RestartUnit, Object: "incus.service", Why: why},
	}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// Every start makes the plan; a node that is right already must not restart Incus.
func TestNewPlan_Same_DoesNothing(t *testing.T) {
	one := certificate(t, "one", 365, nil)
	for name, facts := range map[string]cacerts.Facts{
		"same list": {System: debian, Present: debian + one, Units: []string{"incus.service"}, Now: now},
	} {
		got, err := cacerts.NewPlan([]string{one}, facts)
		if err != nil || !got.Empty() || len(got.Notes) > 0 {
			t.Errorf("%s: got %+v, %v", name, got, err)
		}
	}
}

// A list that becomes empty gives Debian's file back, byte for byte.
func TestNewPlan_EmptyList_GivesDebiansFile(t *testing.T) {
	const unusual = "no line break at its end"
	got, err := cacerts.NewPlan(nil, cacerts.Facts{System: unusual, Present: unusual + "\nmore\n", Now: now})
	if err != nil {
		t.Fatal(err)
	}
	want := plan.Plan{Steps: []plan.Step{{Kind: plan.WriteFile, Object: cacerts.File, Before: unusual + "\nmore\n", After: unusual}}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// What a certificate is not good for any more is said before a connection fails.
func TestNewPlan_Validity_IsANote(t *testing.T) {
	certs := []string{
		certificate(t, "ended", -1, nil), certificate(t, "ends", 29, nil), certificate(t, "good", 31, nil),
		certificate(t, "begins", 365, func(c *x509.Certificate) { c.NotBefore = now.AddDate(0, 0, 1) }),
	}
	got, err := cacerts.NewPlan(certs, cacerts.Facts{Now: now})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		`The certificate of "CN=ended" ended on 2026-11-21 and is good for nothing.`,
		`The certificate of "CN=ends" ends on 2026-12-21.`,
		`The certificate of "CN=begins" is good only from 2026-11-23 on.`,
	}
	if diff := cmp.Diff(want, got.Notes); diff != "" {
		t.Error(diff)
	}
}

// The daemon downloads releases from a server of the owner's own authority.
func TestPool_Bundle_TrustsTheCertificatesOfIt(t *testing.T) {
	one := certificate(t, "one", 365, nil)
	text, err := cacerts.Bundle("", []string{one})
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode([]byte(one))
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cert.Verify(x509.VerifyOptions{Roots: cacerts.Pool(text), CurrentTime: now}); err != nil {
		t.Error(err)
	}
}
