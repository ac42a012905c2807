package audit_test

import (
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/internal/audit"
)

// A header must not make one caller look like another.
func TestCaller_EachWayIn_IsNamed(t *testing.T) {
	certificate := &x509.Certificate{Raw: []byte("der")}
	cases := map[string]struct {
		tls       *tls.ConnectionState
		remote    string
		forwarded []string
		via       string
		who, from string
	}{
		"socket":            {nil, "@", nil, "", "local", ""},
		"socket, a header":  {nil, "@", []string{"10.0.0.1"}, "", "local", ""},
		"Incus":             {nil, "@", []string{"6.6.6.6", "7.7.7.7, 10.0.0.1"}, "incus", "application incus", "10.0.0.1"},
		"Incus, IPv6":       {nil, "@", []string{"fd00::1"}, "incus", "application incus", "fd00::1"},
		"Incus, no address": {nil, "@", nil, "incus", "application incus", ""},
		"Incus, a lie":      {nil, "@", []string{"<script>"}, "incus", "application incus", ""},
		"certificate":       {&tls.ConnectionState{PeerCertificates: []*x509.Certificate{certificate}}, "10.0.0.2:4711", []string{"6.6.6.6"}, "incus", "sha256:5050d80d22ecd471ea55df7034042c1e041341ff4066e7f6ff38e20b720df8ea", "10.0.0.2"},
		"without":           {&tls.ConnectionState{}, "[::ffff:10.0.0.2]:4711", []string{"6.6.6.6"}, "incus", "nobody", "10.0.0.2"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			r := httptest.NewRequest("GET", "/1.0", nil)
			r.TLS, r.RemoteAddr = c.tls, c.remote
			r.Header = http.Header{"X-Forwarded-For": c.forwarded}
			who, from := audit.Caller(r, c.via)
			if diff := cmp.Diff([2]string{c.who, c.from}, [2]string{who, from}); diff != "" {
				t.Error(diff)
			}
		})
	}
}
