package media

import (
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/holdfast-os/holdfast/internal/config"
	"github.com/holdfast-os/holdfast/internal/seed"
)

// open are the fields of seeds that may be shown and may stand in a link. A name stands
// for all below it, and lists are not counted. What is not in this list is taken for a
// secret: a field that is new, or that Incus reads and we do not, must not be shown by
// mistake.
var open = []string{
	"install", "applications", "update", "kernel", "security",
	"network.version", "network.dns", "network.time", "network.firewall", "network.forwarding_rules",
	"network.interfaces", "network.bonds", "network.vlans",
	"provider.version", "provider.name", "provider.config.server_url", "provider.config.mirrors", "provider.config.metadata",
	"provider.config.update_ca", "provider.config.update_root", "provider.config.bandwidth_limit",
	"incus.version", "incus.preseed.config.core.https_address", "incus.preseed.certificates",
	"migration-manager.version", "migration-manager.trusted_client_certificates",
	"operations-center.version", "operations-center.trusted_client_certificates",
	"services.version", "services.lvm", "services.multipath", "services.usbip",
}

// closed are names of fields that are secret wherever they stand.
var closed = []string{"wakeonlan_password", "trust_token", "token", "password", "key"}

// Sealed is shown for a document that is encrypted.
const Sealed = "(sealed)"

// Secrets are the paths of the fields that may hold a secret, as
// "network.proxy.servers.a.password", sorted.
func Secrets(set *seed.Set) ([]string, error) {
	var found []string
	_, err := walk(set, func(where string) { found = append(found, where) })
	slices.Sort(found)
	return slices.Compact(found), err
}

// Hidden are the documents of a set by name, ready to be shown: a mark stands for each
// value that may be a secret.
func Hidden(set *seed.Set) (map[string]any, error) { return walk(set, func(string) {}) }

func walk(set *seed.Set, secret func(where string)) (map[string]any, error) {
	shown := map[string]any{}
	for _, name := range seed.Names() {
		document, err := set.Get(name)
		if err != nil {
			continue // not there
		}
		text, err := json.Marshal(document)
		if err != nil {
			return nil, fmt.Errorf("encoding seed %s: %w", name, err)
		}
		var tree any
		if err := json.Unmarshal(text, &tree); err != nil {
			return nil, fmt.Errorf("encoding seed %s: %w", name, err)
		}
		shown[name] = hide(tree, name, secret)
	}
	for _, m := range set.Sealed {
		secret(stem(m.Name))
		shown[stem(m.Name)] = Sealed
	}
	return shown, nil
}

// hide gives a value with marks in the place of secrets.
func hide(value any, where string, secret func(string)) any {
	switch v := value.(type) {
	case map[string]any:
		for name, below := range v {
			v[name] = hide(below, where+"."+name, secret)
		}
	case []any:
		for i, below := range v {
			v[i] = hide(below, where, secret)
		}
	case string:
		if v != "" && (!isOpen(where) || looksSecret(where, v)) {
			secret(where)
			return config.Secret
		}
	case float64:
		if !isOpen(where) {
			secret(where)
			return config.Secret
		}
	}
	return value
}

func isOpen(where string) bool {
	last := where[strings.LastIndexByte(where, '.')+1:]
	return !slices.Contains(closed, last) && slices.ContainsFunc(open, func(o string) bool {
		return where == o || strings.HasPrefix(where, o+".")
	})
}

// addresses are fields that hold addresses of servers, with or without https://, as a list
// with spaces too.
var addresses = []string{"provider.config.server_url", "provider.config.mirrors"}

// login is a word with a user and a password, as "me:password@host".
var login = regexp.MustCompile(`:\S*@`)

// looksSecret finds keys, and addresses with a login, a query or a fragment, in fields that
// should have none. Where an address begins and ends is not asked: a text that only looks
// like one costs a link, and a password that is not seen is in it for good. So is one that is
// being typed: what is no port behind a colon.
func looksSecret(where, text string) bool {
	if strings.Contains(text, "PRIVATE KEY") || login.MatchString(text) {
		return true
	}
	if !slices.Contains(addresses, where) && !strings.Contains(text, "://") {
		return false
	}
	return strings.ContainsAny(text, "@?#") || slices.ContainsFunc(strings.Fields(text), hasOddPort)
}

// hasOddPort finds an address with something else than digits behind the colon of its host.
func hasOddPort(address string) bool {
	_, rest, isURL := strings.Cut(address, "://")
	authority, _, _ := strings.Cut(rest, "/")
	_, port, _ := strings.Cut(authority[strings.LastIndexByte(authority, ']')+1:], ":")
	return isURL && strings.Trim(port, "0123456789") != ""
}

// checkCertificates finds a certificate that nobody could log in with.
func checkCertificates(set *seed.Set, files map[string]File) (found Problems) {
	check := func(name, where, text string) {
		if err := checkCertificate(text); err != nil {
			found = append(found, locate(Problem{File: name, Path: where, Rule: "certificate", Text: err.Error()}, files))
		}
	}
	if m := set.MigrationManager; m != nil {
		for i, text := range m.TrustedClientCertificates {
			check("migration-manager", fmt.Sprintf("trusted_client_certificates[%d]", i), text)
		}
	}
	if o := set.OperationsCenter; o != nil {
		for i, text := range o.TrustedClientCertificates {
			check("operations-center", fmt.Sprintf("trusted_client_certificates[%d]", i), text)
		}
	}
	if set.Incus != nil && set.Incus.Preseed != nil {
		for i, entry := range set.Incus.Preseed.Certificates {
			// Without armour it is for Incus to judge.
			if strings.Contains(entry.Certificate, "-----") {
				check("incus", fmt.Sprintf("preseed.certificates[%d].certificate", i), entry.Certificate)
			}
		}
	}
	return found
}

func checkCertificate(text string) error {
	_, err := certificateDER(text)
	return err
}

// certificateDER reads one PEM certificate.
func certificateDER(text string) ([]byte, error) {
	if strings.Contains(text, "PRIVATE KEY-----") {
		return nil, fmt.Errorf("this is a private key: keep it, and give the certificate")
	}
	first, rest := pem.Decode([]byte(text))
	switch {
	case first == nil || first.Type != "CERTIFICATE":
		return nil, fmt.Errorf("this is no PEM certificate: it begins with -----BEGIN CERTIFICATE-----")
	case strings.TrimSpace(string(rest)) != "":
		return nil, fmt.Errorf("something follows the certificate: give each its own entry")
	}
	if _, err := x509.ParseCertificate(first.Bytes); err != nil {
		return nil, fmt.Errorf("this certificate cannot be read: copy it again, whole")
	}
	return first.Bytes, nil
}

// bare is a certificate as Incus wants it in a preseed: base64 without armour.
func bare(text string) (string, error) {
	der, err := certificateDER(text)
	return base64.StdEncoding.EncodeToString(der), err
}
