package operationscenter

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"

	osapi "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/config"
)

// maxToken is the longest token that is taken, in bytes.
const maxToken = 512

// Check gives every problem of a configuration of this provider, each with its path. local
// says that the node's primary application is an Operations Center: it is asked over its
// socket, and needs neither server_url nor server_token.
func Check(value osapi.ProviderConfig, local bool) config.Problems {
	var problems config.Problems
	if value.Name != Name {
		problems.Add("name", "known", "it is %q, these are the settings of %q", value.Name, Name)
	}
	known := []string{KeyServerCertificate, KeyServerToken, KeyServerURL}
	for _, key := range slices.Sorted(maps.Keys(value.Config)) {
		if !slices.Contains(known, key) {
			problems.Add("config."+key, "known", "unknown, the provider %q has %s", Name, strings.Join(known, ", "))
		}
	}
	server, token, certificate := value.Config[KeyServerURL], value.Config[KeyServerToken], value.Config[KeyServerCertificate]
	if server == "" && !local {
		problems.Add("config."+KeyServerURL, "required", "it is needed, as \"https://manager.example.org:8443\"")
	}
	if token == "" && !local {
		problems.Add("config."+KeyServerToken, "required", "it is needed: make one on the Operations Center")
	}
	if _, err := parseServer(server); server != "" && err != nil {
		problems.Add("config."+KeyServerURL, "url", "%s", err)
	}
	switch {
	case token == config.Secret:
		problems.Add("config."+KeyServerToken, "secret", "it refers to a kept token, and none is kept for this server: send the token itself")
	case !printable(token):
		problems.Add("config."+KeyServerToken, "token", "it must be at most %d printable characters without spaces", maxToken)
	}
	if _, err := parseCertificate(certificate); certificate != "" && err != nil {
		problems.Add("config."+KeyServerCertificate, "certificate", "%s", err)
	}
	return problems
}

// printable never says what the token is.
func printable(token string) bool {
	return len(token) <= maxToken && !strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' })
}

// Hide gives a copy that may be shown, with a reference in the place of the token.
func Hide(value osapi.ProviderConfig) osapi.ProviderConfig {
	if token, there := value.Config[KeyServerToken]; there {
		config.Hide(&token)
		value.Config = maps.Clone(value.Config)
		value.Config[KeyServerToken] = token
	}
	return value
}

// Keep gives a copy with the kept token in the place of a reference to it. A token belongs
// to the server that it was given for: with another server_url a reference is a problem,
// or whoever may change the URL would be sent the token.
func Keep(value, kept osapi.ProviderConfig) (osapi.ProviderConfig, config.Problems) {
	token, there := value.Config[KeyServerToken]
	if !there {
		return value, nil
	}
	had := ""
	if kept.Name == value.Name && kept.Config[KeyServerURL] == value.Config[KeyServerURL] {
		had = kept.Config[KeyServerToken]
	}
	var problems config.Problems
	if !config.Keep(&token, had) {
		problems.Add("config."+KeyServerToken, "secret", "it refers to a kept token, and none is kept for this server: send the token itself")
		return value, problems
	}
	value.Config = maps.Clone(value.Config)
	value.Config[KeyServerToken] = token
	return value, nil
}

// parseServer reads a manager's base URL. It gives the URL without a slash at its end.
func parseServer(text string) (*url.URL, error) {
	parsed, err := url.Parse(strings.TrimRight(text, "/"))
	switch {
	case err != nil:
		// The error of url.Parse repeats the text, which may hold a password.
		return nil, errors.New("it is not a URL, as \"https://manager.example.org:8443\"")
	case parsed.Scheme != "https" || parsed.Hostname() == "":
		return nil, errors.New("it must begin with https:// and name a host, as \"https://manager.example.org:8443\"")
	case parsed.User != nil:
		return nil, errors.New("it has a user name in it, which everybody who reads the configuration would see: leave it out")
	case parsed.RawQuery != "" || parsed.Fragment != "":
		return nil, errors.New("it must end with its host or path, without \"?\" and \"#\"")
	}
	return parsed, nil
}

// parseCertificate reads one PEM certificate; text behind it is refused.
func parseCertificate(text string) (*x509.Certificate, error) {
	block, rest := pem.Decode([]byte(text))
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, errors.New("it is not a certificate in PEM form")
	}
	if strings.TrimSpace(string(rest)) != "" {
		return nil, errors.New("it must be one certificate, and there is more behind the first")
	}
	certificate, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("it is not a certificate: %w", err)
	}
	return certificate, nil
}
