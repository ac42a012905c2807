package logging_test

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

	api "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/config"
	"github.com/holdfast-os/holdfast/internal/logging"
	"github.com/holdfast-os/holdfast/internal/plan"
)

func rules(all config.Problems) []string {
	var out []string
	for _, p := range all {
		out = append(out, p.Path+" "+p.Rule)
	}
	return out
}

func newAuthority(t *testing.T) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "logs"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// Values go into a configuration file: nothing may close a quote or begin a line there.
func TestCheck_WrongServer_GivesEveryProblem(t *testing.T) {
	authority := newAuthority(t)
	type s = api.LoggingSyslog
	for name, test := range map[string]struct {
		syslog s
		want   []string
	}{
		"unknown words":      {s{Address: "192.0.2.1", Protocol: "relp", LogFormat: "json"}, []string{"syslog.protocol known", "syslog.log_format known"}},
		"quote":              {s{Address: `a"b:514`}, []string{"syslog.address host"}},
		"line":               {s{Address: "a\nb:514"}, []string{"syslog.address host"}},
		"space":              {s{Address: "logs example:514"}, []string{"syslog.address host"}},
		"no host":            {s{Address: ":514"}, []string{"syslog.address host"}},
		"a path":             {s{Address: "/dev/log"}, []string{"syslog.address host"}},
		"a URL":              {s{Address: "tcp://logs:514"}, []string{"syslog.address address"}},
		"port 0":             {s{Address: "logs:0"}, []string{"syslog.address port"}},
		"port too large":     {s{Address: "logs:65536"}, []string{"syslog.address port"}},
		"zone":               {s{Address: "[fe80::1%eth0]:514"}, []string{"syslog.address host"}},
		"certificate of udp": {s{Address: "logs:514", TLSCertificateAuthority: authority, TLSServerName: "logs"}, []string{"syslog.tls_certificate_authority tls", "syslog.tls_server_name tls"}},
		"no certificate":     {s{Address: "logs:514", Protocol: "tls", TLSCertificateAuthority: "x", TLSServerName: `"`}, []string{"syslog.tls_server_name name", "syslog.tls_certificate_authority pem"}},
		"no name":            {s{Address: "[2001:db8::1]:6514", Protocol: "tls"}, []string{"syslog.tls_server_name required"}},
		"an address as name": {s{Address: "192.0.2.1", Protocol: "tls", TLSServerName: "192.0.2.1"}, []string{"syslog.tls_server_name name"}},
		"a key":              {s{Protocol: "tls", TLSCertificateAuthority: authority + "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"}, []string{"syslog.tls_certificate_authority pem"}},
		"too large":          {s{Protocol: "tls", TLSCertificateAuthority: strings.Repeat(authority, 1000)}, []string{"syslog.tls_certificate_authority limit"}},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(test.want, rules(logging.Check(&api.LoggingConfig{Syslog: test.syslog}))); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestCheck_Addresses_GetTheirPort(t *testing.T) {
	got := map[string]string{}
	for _, address := range []string{"", "192.0.2.1", "192.0.2.1:1514", "2001:db8::1", "[2001:db8::1]", "[2001:db8::1]:601", "logs.example.org", "logs:0514"} {
		for _, protocol := range []string{"udp", "tls"} {
			c := api.LoggingConfig{Syslog: api.LoggingSyslog{Address: address, Protocol: protocol}}
			if protocol == "tls" {
				c.Syslog.TLSServerName = "logs"
			}
			if problems := logging.Check(&c); len(problems) > 0 {
				t.Fatal(problems)
			}
			got[protocol+" "+address] = c.Syslog.Address
		}
	}
	want := map[string]string{"udp ": "", "tls ": "", "udp 192.0.2.1": "192.0.2.1:514", "tls 192.0.2.1": "192.0.2.1:6514",
		"udp 192.0.2.1:1514": "192.0.2.1:1514", "tls 192.0.2.1:1514": "192.0.2.1:1514", "udp 2001:db8::1": "[2001:db8::1]:514", "tls 2001:db8::1": "[2001:db8::1]:6514",
		"udp [2001:db8::1]": "[2001:db8::1]:514", "tls [2001:db8::1]": "[2001:db8::1]:6514", "udp [2001:db8::1]:601": "[2001:db8::1]:601", "tls [2001:db8::1]:601": "[2001:db8::1]:601",
		"udp logs.example.org": "logs.example.org:514", "tls logs.example.org": "logs.example.org:6514", "udp logs:0514": "logs:514", "tls logs:0514": "logs:514"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

const head = `# Made by Holdfast from system/logging.
global(workDirectory="/var/lib/holdfast-syslog" maxMessageSize="64k" internalmsg.ratelimit.interval="60")
main_queue(queue.type="LinkedList" queue.size="10000" queue.fileName="main" queue.maxDiskSpace="64m" queue.saveOnShutdown="on")
module(load="imjournal" StateFile="journal" PersistStateInterval="100" IgnorePreviousMessages="on" Ratelimit.Interval="0")
template(name="rfc5424" type="string" string="<%PRI%>1 %TIMESTAMP:::date-rfc3339% %HOSTNAME% %APP-NAME% %PROCID% %MSGID% %STRUCTURED-DATA%%msg:::sp-if-no-1st-sp%%msg:::drop-last-lf%")
`

const retry = ` action.resumeRetryCount="-1" action.resumeInterval="5" action.resumeIntervalMax="60"`

func checked(t *testing.T, s api.LoggingSyslog) api.LoggingConfig {
	t.Helper()
	c := api.LoggingConfig{Syslog: s}
	if problems := logging.Check(&c); len(problems) > 0 {
		t.Fatal(problems)
	}
	return c
}

// A server on, changed, and off again, with the texts that rsyslog reads.
func TestNewPlan_Server_WritesTheConfigurationAndRestarts(t *testing.T) {
	authority := newAuthority(t)
	file, ca, unit := "/run/holdfast-syslog/rsyslog.conf", "/run/holdfast-syslog/ca.pem", "holdfast-syslog.service"
	udp := head + `action(type="omfwd" target="192.0.2.1" port="514" template="rfc5424"` + retry + ` protocol="udp")` + "\n"
	tcp := head + `action(type="omfwd" target="2001:db8::1" port="601" template="RSYSLOG_TraditionalForwardFormat"` + retry + ` protocol="tcp" keepAlive="on")` + "\n"
	tls := head + `action(type="omfwd" target="logs.example.org" port="6514" template="RSYSLOG_ForwardFormat"` + retry + ` protocol="tcp" keepAlive="on" TCP_Framing="octet-counted"
	streamDriver="ossl" streamDriverMode="1" streamDriverAuthMode="x509/name" streamDriverPermittedPeers="syslog.internal"
	streamDriver.CAFile="/run/holdfast-syslog/ca.pem" gnutlsPriorityString="MinProtocol=TLSv1.2")` + "\n"
	store := head + `action(type="omfwd" target="logs.example.org." port="6514" template="rfc5424"` + retry + ` protocol="tcp" keepAlive="on" TCP_Framing="octet-counted"
	streamDriver="ossl" streamDriverMode="1" streamDriverAuthMode="x509/name" streamDriverPermittedPeers="logs.example.org"
	streamDriver.CAFile="/etc/ssl/certs/ca-certificates.crt" gnutlsPriorityString="MinProtocol=TLSv1.2")` + "\n"
	restart := plan.Step{Kind: plan.RestartUnit, Object: unit, Why: "it reads its configuration when it starts"}
	note := func(p string) []string {
		return []string{"The log is sent over " + p + ", which everybody on the way can read; tls hides it."}
	}
	for name, test := range map[string]struct {
		next  api.LoggingSyslog
		facts logging.Facts
		want  plan.Plan
	}{
		"nothing": {api.LoggingSyslog{}, logging.Facts{}, plan.Plan{}},
		"udp": {api.LoggingSyslog{Address: "192.0.2.1"}, logging.Facts{},
			plan.Plan{Steps: []plan.Step{{Kind: plan.WriteFile, Object: file, After: udp}, restart}, Notes: note("udp")}},
		"already so": {api.LoggingSyslog{Address: "192.0.2.1"}, logging.Facts{Files: map[string]string{file: udp}, Running: true}, plan.Plan{}},
		"fallen over": {api.LoggingSyslog{Address: "192.0.2.1"}, logging.Facts{Files: map[string]string{file: udp}},
			plan.Plan{Steps: []plan.Step{restart}}},
		"tcp": {api.LoggingSyslog{Address: "[2001:db8::1]:601", Protocol: "tcp", LogFormat: "rfc3164"}, logging.Facts{Files: map[string]string{file: udp}, Running: true},
			plan.Plan{Steps: []plan.Step{{Kind: plan.WriteFile, Object: file, Before: udp, After: tcp}, restart}, Notes: note("tcp")}},
		"tls": {api.LoggingSyslog{Address: "logs.example.org", Protocol: "tls", LogFormat: "rfc3339", TLSCertificateAuthority: "a note\n" + authority, TLSServerName: "syslog.internal"}, logging.Facts{},
			plan.Plan{Steps: []plan.Step{{Kind: plan.WriteFile, Object: ca, After: authority}, {Kind: plan.WriteFile, Object: file, After: tls}, restart}}},
		"tls with the node's authorities": {api.LoggingSyslog{Address: "logs.example.org.", Protocol: "tls"}, logging.Facts{Files: map[string]string{ca: authority, file: tls}, Running: true},
			plan.Plan{Steps: []plan.Step{{Kind: plan.RemoveFile, Object: ca, Before: authority}, {Kind: plan.WriteFile, Object: file, Before: tls, After: store}, restart}}},
		"off": {api.LoggingSyslog{}, logging.Facts{Files: map[string]string{ca: authority, file: tls}, Running: true},
			plan.Plan{Steps: []plan.Step{{Kind: plan.StopUnit, Object: unit}, {Kind: plan.RemoveFile, Object: ca, Before: authority}, {Kind: plan.RemoveFile, Object: file, Before: tls}}}},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(test.want, logging.NewPlan(api.LoggingConfig{}, checked(t, test.next), test.facts)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// Whatever passes the check adds no line and no setting to the configuration.
func FuzzCheck_Text_HasNoForeignLine(f *testing.F) {
	f.Add("logs.example.org:514", "tls", "rfc5424", "name")
	f.Add("a\"b", "udp", "", "")
	f.Fuzz(func(t *testing.T, address, protocol, format, name string) {
		c := api.LoggingConfig{Syslog: api.LoggingSyslog{Address: address, Protocol: protocol, LogFormat: format, TLSServerName: name}}
		if len(logging.Check(&c)) > 0 || c.Syslog.Address == "" {
			return
		}
		steps := logging.NewPlan(api.LoggingConfig{}, c, logging.Facts{}).Steps
		text := steps[0].After
		want := map[string][2]int{"udp": {6, 48}, "tcp": {6, 50}, "tls": {8, 64}}[c.Syslog.Protocol]
		if got := [2]int{strings.Count(text, "\n"), strings.Count(text, `"`)}; got != want {
			t.Errorf("lines and quotes are %v, not %v:\n%s", got, want, text)
		}
	})
}
