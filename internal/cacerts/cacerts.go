// Package cacerts decides about certificates of an owner that the node trusts beside
// Debian's own.
//
// /etc of a node is made anew at each start from the template in the verified /usr, and
// its ca-certificates.crt is Debian's. So the plan is made at each start, and whenever the
// list changes: the file becomes Debian's text with the owner's certificates behind it.
// Go programs and OpenSSL read that one file; Debian's folder of single certificates
// stays as it is.
//
// A Go program reads the file once, at its first connection: what runs is restarted, in
// the order that the caller gives. systemd-timesyncd checks no certificates. holdfastd
// itself asks Pool for each connection and need not restart.
//
// Invariants: Debian's certificates are never removed; certificates are in the file in
// the owner's order; the same list always gives the same file.
package cacerts

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"strings"
	"time"

	"github.com/holdfast-os/holdfast/internal/config"
	"github.com/holdfast-os/holdfast/internal/plan"
)

// Where the certificates lie.
const (
	// File is what programs read.
	File = "/etc/ssl/certs/ca-certificates.crt"
	// SystemFile is Debian's own, in the verified /usr.
	SystemFile = "/usr/share/factory/etc/ssl/certs/ca-certificates.crt"
)

// Limits of the list.
const (
	// MaxCerts is how many certificates there may be.
	MaxCerts = 100
	// MaxSize is how long one may be, in bytes of PEM.
	MaxSize = 64 << 10
	// soon is when a note says that a certificate ends.
	soon = 30 * 24 * time.Hour
)

const path = "custom_ca_certs"

// Check gives all that is wrong with a list of PEM certificates. One that is in before is
// in force and may have ended: it is then told as a note of the plan. A list of an owner
// must not stop being valid by itself.
func Check(before, next []string, now time.Time) config.Problems {
	var problems config.Problems
	if len(next) > MaxCerts {
		problems.Add(path, "count", "there are %d certificates, at most %d are possible", len(next), MaxCerts)
		next = next[:MaxCerts]
	}
	known, seen := map[string]bool{}, map[string]int{}
	for _, text := range before {
		if cert, err := parse(text); err == nil {
			known[string(cert.Raw)] = true
		}
	}
	for i, text := range next {
		at := fmt.Sprintf("%s[%d]", path, i)
		cert, err := parse(text)
		if err != nil {
			problems.Add(at, "certificate", "%v", err)
			continue
		}
		if first, found := seen[string(cert.Raw)]; found {
			problems.Add(at, "unique", "this is the same certificate as %s[%d]", path, first)
			continue
		}
		seen[string(cert.Raw)] = i
		if !cert.BasicConstraintsValid || !cert.IsCA {
			problems.Add(at, "authority", "the certificate of %q is not one of a certificate authority (CA:TRUE): send the one that has signed it", name(cert))
		}
		if now.After(cert.NotAfter) && !known[string(cert.Raw)] {
			problems.Add(at, "expired", "the certificate of %q ended on %s", name(cert), day(cert.NotAfter))
		}
	}
	return problems
}

// parse reads the one certificate of a PEM text. What stands around it is no harm: openssl
// writes the certificate in words before it.
func parse(text string) (*x509.Certificate, error) {
	if len(text) > MaxSize {
		return nil, fmt.Errorf("it has more than %d bytes", MaxSize)
	}
	block, rest := pem.Decode([]byte(text))
	if block == nil {
		return nil, fmt.Errorf("it is not PEM: a text that begins with -----BEGIN CERTIFICATE----- is wanted")
	}
	if block.Type != "CERTIFICATE" {
		return nil, fmt.Errorf("it holds a %s and not a CERTIFICATE", strings.ToLower(block.Type))
	}
	if more, _ := pem.Decode(rest); more != nil {
		return nil, fmt.Errorf("it holds more than one PEM block: send each certificate as an entry of its own")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("it cannot be read: %w", err)
	}
	return cert, nil
}

func name(cert *x509.Certificate) string { return cert.Subject.String() }

func day(t time.Time) string { return t.UTC().Format(time.DateOnly) }

// Bundle is the text of File: Debian's certificates, then those of the list, each in the
// one form that PEM has. system is the text of SystemFile. The list has passed Check.
func Bundle(system string, certs []string) (string, error) {
	var text bytes.Buffer
	text.WriteString(system)
	if len(certs) > 0 && system != "" && !strings.HasSuffix(system, "\n") {
		text.WriteByte('\n')
	}
	for i, entry := range certs {
		cert, err := parse(entry)
		if err != nil {
			return "", fmt.Errorf("%s[%d]: %w", path, i, err)
		}
		if err := pem.Encode(&text, &pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}); err != nil {
			return "", fmt.Errorf("%s[%d]: %w", path, i, err)
		}
	}
	return text.String(), nil
}

// Facts are what a plan is made from.
type Facts struct {
	// System is the text of SystemFile.
	System string
	// Present is the text of File.
	Present string
	// Units are the running units that check certificates, in the order in which they are
	// restarted, as "holdfast-proxy.service" and "incus.service".
	Units []string
	// Now is the time.
	Now time.Time
}

// NewPlan says how the node comes to trust a list.
func NewPlan(certs []string, facts Facts) (plan.Plan, error) {
	var p plan.Plan
	text, err := Bundle(facts.System, certs)
	if err != nil {
		return p, err
	}
	for i, entry := range certs {
		cert, err := parse(entry)
		if err != nil {
			return plan.Plan{}, fmt.Errorf("%s[%d]: %w", path, i, err)
		}
		if note := validity(cert, facts.Now); note != "" {
			p.Notes = append(p.Notes, fmt.Sprintf("The certificate of %q %s.", name(cert), note))
		}
	}
	if !p.File(File, facts.Present, text) {
		return p, nil
	}
	for _, unit := range facts.Units {
		p.Add(plan.Step{Kind: plan.RestartUnit, Object: unit, Why: "a program reads the certificates that it trusts once"})
	}
	return p, nil
}

func validity(cert *x509.Certificate, now time.Time) string {
	switch {
	case now.After(cert.NotAfter):
		return "ended on " + day(cert.NotAfter) + " and is good for nothing"
	case now.Before(cert.NotBefore):
		return "is good only from " + day(cert.NotBefore) + " on"
	case now.Add(soon).After(cert.NotAfter):
		return "ends on " + day(cert.NotAfter)
	}
	return ""
}

// Pool is what the daemon's own connections trust: the certificates of a bundle.
func Pool(bundle string) *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM([]byte(bundle))
	return pool
}
