package listener

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	api "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/config"
	"github.com/holdfast-os/holdfast/internal/plan"
)

// Limits of the configuration: certificates, and bytes of one.
const (
	maxTrusted     = 100
	maxCertificate = 64 << 10
)

// AnyAddress is where a fallback listener without an address listens.
const AnyAddress = ":0"

// ToolRestart is the tool that opens a running fallback listener at its new address;
// it has no arguments.
const ToolRestart = "fallback-listener-restart"

// Check leaves out certificates that are named twice and gives all that is wrong with a
// configuration.
func Check(c *api.FallbackListenerConfig) config.Problems {
	var p config.Problems
	if c.ListenAddress != "" {
		address, err := netip.ParseAddrPort(c.ListenAddress)
		if err != nil || address.Addr().Zone() != "" {
			p.Add("listen_address", "address", "%q is not an IP address with a port, as 192.0.2.10:8443 or [::]:8443", c.ListenAddress)
		}
	}
	switch n := len(c.TrustedClientCertificates); {
	case n == 0 && c.ListenAddress == "":
		return p // nothing asked for: the listener stays closed, as on a node that nobody has configured
	case n == 0:
		p.Add("trusted_client_certificates", "required", "at least one certificate is needed: nobody else can use the listener")
	case n > maxTrusted:
		p.Add("trusted_client_certificates", "limit", "%d certificates are more than %d", n, maxTrusted)
		return p
	}
	var kept []string
	seen := map[Fingerprint]bool{}
	for i, text := range c.TrustedClientCertificates {
		print, err := fingerprint(text)
		if err != nil {
			p.Add(fmt.Sprintf("trusted_client_certificates[%d]", i), "certificate", "%v", err)
		}
		if err != nil || !seen[print] {
			kept = append(kept, text)
		}
		seen[print] = err == nil
	}
	c.TrustedClientCertificates = kept
	return p
}

// Fingerprints are those of a configuration that went through Check; what is no
// certificate is left out.
func Fingerprints(c api.FallbackListenerConfig) []Fingerprint {
	var all []Fingerprint
	for _, text := range c.TrustedClientCertificates {
		if print, err := fingerprint(text); err == nil {
			all = append(all, print)
		}
	}
	return all
}

func fingerprint(text string) (Fingerprint, error) {
	if len(text) > maxCertificate {
		return Fingerprint{}, fmt.Errorf("%d bytes are more than %d", len(text), maxCertificate)
	}
	block, rest := pem.Decode([]byte(text))
	switch {
	case block == nil:
		return Fingerprint{}, errors.New("not in PEM form, as it begins with -----BEGIN CERTIFICATE-----")
	case block.Type != "CERTIFICATE":
		return Fingerprint{}, fmt.Errorf("a block of type %q and not a certificate; a key does not belong here", block.Type)
	case strings.TrimSpace(string(rest)) != "":
		return Fingerprint{}, errors.New("more than one certificate: give each its own entry")
	}
	if _, err := x509.ParseCertificate(block.Bytes); err != nil {
		return Fingerprint{}, fmt.Errorf("not a certificate: %w", err)
	}
	return sha256.Sum256(block.Bytes), nil
}

// Facts are what the node is.
type Facts struct {
	// Active is true while the fallback listener runs.
	Active bool
}

// NewPlan says what a change does to a fallback listener. Whom it trusts is looked up
// at each request and needs no step.
func NewPlan(before, next api.FallbackListenerConfig, facts Facts) plan.Plan {
	var p plan.Plan
	switch {
	case !facts.Active:
		p.Notes = append(p.Notes, "The listener starts when the primary application does not run.")
	case before.ListenAddress != next.ListenAddress:
		p.Add(plan.Step{Kind: plan.UseTool, Object: "fallback listener", Before: before.ListenAddress, After: next.ListenAddress,
			Tool: ToolRestart, Why: "it moves to the new address"})
		p.Disconnects = true
	case !slices.Equal(before.TrustedClientCertificates, next.TrustedClientCertificates):
		p.Disconnects = true
	}
	return p
}

// Situation is what decides whether the fallback listener is needed.
type Situation struct {
	// Initialized is true when the primary application was set up once, so that there is
	// a certificate to serve with.
	Initialized bool
	// OlderRelease is true when the node runs from the slot before the newest one.
	OlderRelease bool
	// Failed is true when the primary application did not start, at boot or after an update.
	Failed bool
}

// Needed says why the fallback listener has to start; empty when it need not. Once it
// runs it stays until the next start of the node.
func Needed(s Situation) string {
	switch {
	case !s.Initialized:
		return ""
	case s.OlderRelease:
		return "the node runs from its older release"
	case s.Failed:
		return "the primary application does not run"
	}
	return ""
}
