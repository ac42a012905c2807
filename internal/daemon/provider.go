package daemon

import (
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	osapi "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/config"
	"github.com/holdfast-os/holdfast/internal/imageauth"
	"github.com/holdfast-os/holdfast/internal/operationscenter"
	"github.com/holdfast-os/holdfast/internal/updater"
)

// authCertificate is whom proofs of the node are for.
const authCertificate = "/usr/lib/holdfast/releases/auth.crt"

// Keys of the provider "images".
const (
	keyServer    = "server_url"
	keyMirrors   = "mirrors"
	keyMetadata  = "metadata"
	keyRoot      = "update_root"
	keyCA        = "update_ca"
	keyBandwidth = "bandwidth_limit"
)

// What a release tree is trusted by.
const (
	metadataTUF   = "tuf"
	metadataIndex = "index"
)

// maxMirrors bounds the servers of one tree.
const maxMirrors = 16

// ImagesChoice is a configuration of the provider "images", read.
type ImagesChoice struct {
	// Servers are base URLs of the same tree, best first; none for a node without a server.
	Servers []string
	// Metadata is "tuf" or "index".
	Metadata string
	// Root and CA are whom the tree is trusted by; empty for the image's own.
	Root, CA []byte
	// Bandwidth is in bytes a second; 0 is without limit.
	Bandwidth int64
	// Token lets the node register with the first server; empty for none. A secret.
	Token string
	// Mode is how the first server is told who asks.
	Mode imageauth.Mode
}

// authenticated is the server that is told who asks; empty for none.
func (c ImagesChoice) authenticated() string {
	if c.Token == "" || len(c.Servers) == 0 {
		return ""
	}
	return c.Servers[0]
}

// ProviderFacts are what a machine can, as far as the section "provider" depends on it.
type ProviderFacts struct {
	// Local is true when the primary application is an Operations Center.
	Local bool
	// Authenticates is true when the image has the certificate of an image server.
	Authenticates bool
	// Architecture is "x86_64" or "aarch64", Running the release that runs.
	Architecture, Running string
}

// CheckProvider is the check of the section "provider": it puts the kept secret (kept may be
// nil) in the place of a reference to it, and gives every problem.
func CheckProvider(value, kept *osapi.ProviderConfig, facts ProviderFacts) error {
	var had osapi.ProviderConfig
	if kept != nil {
		had = *kept
	}
	// A reference that Keep cannot resolve stays one, and the checks refuse it.
	if value.Name == operationscenter.Name {
		*value, _ = operationscenter.Keep(*value, had)
		return operationscenter.Check(*value, facts.Local).Err()
	}
	*value, _ = imageauth.Keep(*value, had)
	problems := checkProvider(*value)
	if value.Name == providerImages && value.Config[imageauth.KeyToken] != "" && !facts.Authenticates {
		problems.Add("config."+imageauth.KeyToken, "supported",
			"this image has no certificate of an image server (%s), so the node cannot prove who it is: leave the token out, or install an image of that server", authCertificate)
	}
	return problems.Err()
}

// HideProvider gives a copy with references in the place of secrets.
func HideProvider(value osapi.ProviderConfig) osapi.ProviderConfig {
	return operationscenter.Hide(imageauth.Hide(value))
}

// readProvider reads a configuration that was checked.
func readProvider(value osapi.ProviderConfig) ImagesChoice {
	c := value.Config
	choice := ImagesChoice{Metadata: c[keyMetadata], Root: []byte(c[keyRoot]), CA: []byte(c[keyCA]), Token: c[imageauth.KeyToken], Mode: imageauth.ModeOf(value)}
	if choice.Metadata == "" {
		choice.Metadata = metadataTUF
		if c[keyCA] != "" {
			// Whoever names the certificate that must have signed the index means the index.
			choice.Metadata = metadataIndex
		}
	}
	if c[keyServer] != "" {
		choice.Servers = append([]string{c[keyServer]}, strings.Fields(c[keyMirrors])...)
	}
	choice.Bandwidth, _ = strconv.ParseInt(c[keyBandwidth], 10, 64) // empty is 0: without limit
	return choice
}

// checkProvider gives every problem of a configuration of "images", each with its path.
func checkProvider(value osapi.ProviderConfig) config.Problems {
	var problems config.Problems
	if value.Name != providerImages {
		problems.Add("name", "known", "%q is not a provider of this release, which has %q and %q", value.Name, providerImages, operationscenter.Name)
	}
	known := []string{keyServer, keyMirrors, keyMetadata, keyRoot, keyCA, keyBandwidth, imageauth.KeyToken, imageauth.KeyByQuery}
	var unknown []string
	for key := range value.Config {
		if !slices.Contains(known, key) {
			unknown = append(unknown, key)
		}
	}
	slices.Sort(unknown)
	for _, key := range unknown {
		problems.Add("config."+key, "known", "unknown, the provider %q has %s", providerImages, strings.Join(known, ", "))
	}
	choice := readProvider(value)
	checkServers(&problems, value.Config, choice)
	checkAnchors(&problems, value.Config, choice)
	if text := value.Config[keyBandwidth]; text != "" {
		if n, err := strconv.ParseInt(text, 10, 64); err != nil || n < 1024 {
			problems.Add("config."+keyBandwidth, "number", "%q is not a number of bytes a second, at least 1024", text)
		}
	}
	return append(problems, imageauth.Check(value)...)
}

func checkServers(problems *config.Problems, c map[string]string, choice ImagesChoice) {
	if c[keyMirrors] != "" && c[keyServer] == "" {
		problems.Add("config."+keyMirrors, "together", "mirrors are more servers beside server_url, which is not set")
	}
	if len(choice.Servers) > maxMirrors {
		problems.Add("config."+keyMirrors, "limit", "%d servers are given, at most %d are asked", len(choice.Servers), maxMirrors)
	}
	for i, server := range choice.Servers {
		key := keyMirrors
		if i == 0 {
			key = keyServer
		}
		parsed, err := url.Parse(server)
		if err != nil || parsed.Host == "" || (parsed.Scheme != "http" && parsed.Scheme != "https") || parsed.RawQuery != "" || parsed.User != nil {
			shown := fmt.Sprintf("%.100q", server)
			if strings.ContainsAny(server, "@?") {
				shown = "it" // a password or a token may be in it, and this gets into logs
			}
			problems.Add("config."+key, "url", "%s is not the URL of a release tree, as \"https://releases.example.org/os\"", shown)
		}
	}
	if choice.Metadata == metadataIndex && len(choice.Servers) > 1 {
		problems.Add("config."+keyMirrors, "together", "a tree that is trusted by its index alone is read from one server")
	}
}

func checkAnchors(problems *config.Problems, c map[string]string, choice ImagesChoice) {
	if choice.Metadata != metadataTUF && choice.Metadata != metadataIndex {
		problems.Add("config."+keyMetadata, "known", "%q is neither %q nor %q", choice.Metadata, metadataTUF, metadataIndex)
	}
	if found, _ := pem.Decode(choice.CA); c[keyCA] != "" && (found == nil || found.Type != "CERTIFICATE") {
		problems.Add("config."+keyCA, "certificate", "it is not a certificate in PEM form")
	}
	if choice.Metadata == metadataIndex && c[keyCA] == "" && c[keyServer] != "" {
		problems.Add("config."+keyCA, "required", "a tree that is trusted by its index needs the certificate that has signed it")
	}
	if choice.Metadata == metadataIndex && c[keyRoot] != "" {
		problems.Add("config."+keyRoot, "together", "a root document is for metadata %q", metadataTUF)
	}
	if c[keyRoot] != "" && !json.Valid(choice.Root) {
		problems.Add("config."+keyRoot, "json", "it is not a root document, which is JSON")
	}
}

// access is how this node reaches release trees.
type access struct {
	userAgent string
	// proxy and roots are asked for at each connection; nil is the environment's.
	proxy func(*http.Request) (*url.URL, error)
	roots func() (*x509.CertPool, error)
}

func (a access) to(choice ImagesChoice) updater.Access {
	limit := choice.Bandwidth
	return updater.Access{Servers: choice.Servers, UserAgent: a.userAgent, Proxy: a.proxy, Roots: a.roots, BandwidthLimit: func() int64 { return limit }}
}

// errNoRoot is an image without the root document of its makers.
func errNoRoot(path string, err error) error {
	return fmt.Errorf("reading whom this node trusts with releases, %s: %w: set config.update_root of /1.0/system/provider", path, err)
}
