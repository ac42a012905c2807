package customizer

import (
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"slices"
	"strings"

	"github.com/lxc/incus/v6/shared/units"

	"github.com/holdfast-os/holdfast/internal/config"
	"github.com/holdfast-os/holdfast/internal/network"
)

// maxWord bounds a channel and a version, in bytes.
const maxWord = 64

// check adds what is wrong with a choice beyond its types. What only the machine can tell
// is left to the machine.
func (c *Choice) check(p *config.Problems) {
	if !slices.Contains(architectures, c.Architecture) {
		p.Add("architecture", "choice", "%q is not one of %s", c.Architecture, strings.Join(architectures, ", "))
	}
	if c.Type != TypeRaw && c.Type != TypeISO {
		p.Add("type", "choice", "%q is not one of raw, iso", c.Type)
	}
	for _, word := range []struct{ path, text string }{{"channel", c.Channel}, {"version", c.Version}} {
		if !isWord(word.text) {
			p.Add(word.path, "word", "letters, digits, dots and dashes, at most %d", maxWord)
		}
	}
	c.checkInstall(p)
	c.checkCertificates(p)
	if c.Seeds.Network != nil {
		for _, problem := range network.Validate(c.Seeds.Network.NetworkConfig) {
			p.Add("seeds.network."+problem.Path, problem.Rule, "%s", problem.Text)
		}
	}
	if c.Type == TypeISO && c.Seeds.Install == nil {
		p.Add("seeds.install", "needed", "a CD cannot be run from, it can only install: add an install seed, or take the type raw")
	}
	if c.Offline && c.Seeds.Applications == nil {
		p.Add("seeds.applications", "needed", "without a network the node gets its applications from the second medium: name at least one")
	}
}

func isWord(text string) bool {
	return len(text) <= maxWord && strings.Trim(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_") == "" &&
		!strings.HasPrefix(text, ".")
}

func (c *Choice) checkInstall(p *config.Problems) {
	i := c.Seeds.Install
	if i == nil {
		return
	}
	if i.Security != nil && i.Security.MissingTPM && i.Security.MissingSecureBoot {
		p.Add("seeds.install.security", "both", "a machine without TPM and without Secure Boot is refused: accept one of the two")
	}
	if i.Target == nil {
		return
	}
	sizes := map[string]int64{}
	for _, s := range []struct{ name, text string }{{"min_size", i.Target.MinSize}, {"max_size", i.Target.MaxSize}} {
		if s.text == "" {
			continue
		}
		size, err := units.ParseByteSizeString(s.text)
		if err != nil || size <= 0 {
			p.Add("seeds.install.target."+s.name, "size", "%q is not a size, as 100GiB", s.text)
		}
		sizes[s.name] = size
	}
	if sizes["max_size"] > 0 && sizes["max_size"] < sizes["min_size"] {
		p.Add("seeds.install.target.max_size", "order", "the largest size is below the smallest one, %s", i.Target.MinSize)
	}
	if order := strings.ToLower(i.Target.SortOrder); order != "" && order != "smallest" && order != "largest" {
		p.Add("seeds.install.target.sort_order", "choice", "%q is not one of smallest, largest", i.Target.SortOrder)
	}
}

// checkCertificates finds a certificate that nobody could log in with before the machine
// was installed with it.
func (c *Choice) checkCertificates(p *config.Problems) {
	check := func(path, text string) {
		if problem := certificateProblem(text); problem != "" {
			p.Add(path, "certificate", "%s", problem)
		}
	}
	if c.Seeds.MigrationManager != nil {
		for i, text := range c.Seeds.MigrationManager.TrustedClientCertificates {
			check(fmt.Sprintf("seeds.migration-manager.trusted_client_certificates[%d]", i), text)
		}
	}
	if c.Seeds.OperationsCenter != nil {
		for i, text := range c.Seeds.OperationsCenter.TrustedClientCertificates {
			check(fmt.Sprintf("seeds.operations-center.trusted_client_certificates[%d]", i), text)
		}
	}
	if c.Seeds.Incus != nil && c.Seeds.Incus.Preseed != nil {
		for i, entry := range c.Seeds.Incus.Preseed.Certificates {
			// Incus takes the base64 of DER as well; that is left to Incus.
			if strings.Contains(entry.Certificate, "-----") {
				check(fmt.Sprintf("seeds.incus.preseed.certificates[%d].certificate", i), entry.Certificate)
			}
		}
	}
}

func certificateProblem(text string) string {
	if strings.Contains(text, "PRIVATE KEY-----") {
		return "this is a private key: keep it, and give the certificate"
	}
	block, rest := pem.Decode([]byte(text))
	switch {
	case block == nil:
		return "this is not a PEM certificate: it begins with -----BEGIN CERTIFICATE-----"
	case block.Type != "CERTIFICATE":
		return fmt.Sprintf("this is a PEM %s, a certificate is expected", strings.ToLower(block.Type))
	case strings.TrimSpace(string(rest)) != "":
		return "there is more than one certificate: give each its own entry"
	}
	if _, err := x509.ParseCertificate(block.Bytes); err != nil {
		return "this certificate cannot be read: copy it again, whole"
	}
	return ""
}

// public are the fields that may stand in a link, which browsers, proxies and logs keep. A
// name ends a path or stands for all below it; lists are not counted. What is not in this
// list may hold a secret.
var public = []string{
	"install", "applications", "update", "kernel", "security",
	"network.dns", "network.time", "network.firewall", "network.forwarding_rules", "network.interfaces",
	"network.bonds", "network.vlans", "network.version",
	"provider.version", "provider.name", "provider.config.server_url", "provider.config.mirrors", "provider.config.metadata",
	"provider.config.update_ca", "provider.config.update_root", "provider.config.bandwidth_limit",
	"incus.version", "incus.apply_defaults", "incus.preseed.certificates", "incus.preseed.config.core.https_address",
	"migration-manager.version", "migration-manager.apply_defaults", "migration-manager.trusted_client_certificates",
	"operations-center.version", "operations-center.apply_defaults", "operations-center.trusted_client_certificates",
	"services.version", "services.lvm", "services.multipath", "services.usbip",
}

// secretFields are those below the public ones that are secret all the same.
var secretFields = []string{"wakeonlan_password", "trust_token", "token", "password", "key"}

// Secrets are the paths of fields that may hold a secret, ordered; a choice with any of
// them has no link of its own.
func (c Choice) Secrets() ([]string, error) {
	text, err := c.Canonical()
	if err != nil {
		return nil, err
	}
	var tree struct {
		Seeds map[string]any `json:"seeds"`
	}
	if err := json.Unmarshal(text, &tree); err != nil {
		return nil, fmt.Errorf("reading the choice back: %w", err)
	}
	var found []string
	for name, document := range tree.Seeds {
		findSecrets(document, name, &found)
	}
	slices.Sort(found)
	return slices.Compact(found), nil
}

func findSecrets(value any, path string, found *[]string) {
	switch v := value.(type) {
	case map[string]any:
		for name, below := range v {
			findSecrets(below, path+"."+name, found)
		}
	case []any:
		for _, below := range v {
			findSecrets(below, path, found)
		}
	case nil, bool:
	default:
		text, _ := v.(string)
		if text == "" && !isPublic(path) || text != "" && (!isPublic(path) || looksSecret(text)) {
			*found = append(*found, "seeds."+path)
		}
	}
}

func isPublic(path string) bool {
	last := path[strings.LastIndexByte(path, '.')+1:]
	if slices.Contains(secretFields, last) {
		return false
	}
	return slices.ContainsFunc(public, func(p string) bool { return path == p || strings.HasPrefix(path, p+".") })
}

// looksSecret finds keys, and addresses with a password, in fields that should have none.
func looksSecret(text string) bool {
	if strings.Contains(text, "PRIVATE KEY") {
		return true
	}
	_, host, isURL := strings.Cut(text, "://")
	authority, _, _ := strings.Cut(host, "/")
	return isURL && (strings.Contains(authority, "@") || strings.Contains(host, "?"))
}
