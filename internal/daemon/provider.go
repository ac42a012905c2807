package daemon

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"

	osapi "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/config"
	"github.com/holdfast-os/holdfast/internal/plan"
	"github.com/holdfast-os/holdfast/internal/updater"
)

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

// providerSource is the setting "provider": the release tree that is configured at the
// moment.
type providerSource struct {
	// open makes the source for a configuration that was checked.
	open func(providerChoice) (updater.Source, error)

	mu  sync.Mutex
	now updater.Source
}

// providerChoice is a configuration of the provider "images", read.
type providerChoice struct {
	Servers   []string
	Metadata  string
	Root, CA  []byte
	Bandwidth int64
}

// Check gives every problem of a configuration of the provider "images".
func (p *providerSource) Check(_ context.Context, value, _ *osapi.ProviderConfig) error {
	return CheckProvider(value)
}

// CheckProvider is the check of the section "provider": every problem of it.
func CheckProvider(value *osapi.ProviderConfig) error { return checkProvider(*value).Err() }

// Plan is empty: nothing on the machine changes, the next question goes elsewhere.
func (*providerSource) Plan(context.Context, *osapi.ProviderConfig, osapi.ProviderConfig) (plan.Plan, error) {
	return plan.Plan{}, nil
}

// Apply takes a configuration. Without a server the node runs what it has; asking for a
// release then says what to configure.
func (p *providerSource) Apply(_ context.Context, _ *osapi.ProviderConfig, next osapi.ProviderConfig) error {
	var made updater.Source
	if choice := readProvider(next); len(choice.Servers) > 0 {
		var err error
		if made, err = p.open(choice); err != nil {
			return err
		}
	}
	p.mu.Lock()
	before := p.now
	p.now = made
	p.mu.Unlock()
	if before == nil {
		return nil
	}
	return before.Close()
}

// Hide changes nothing: a URL and a certificate are no secrets.
func (*providerSource) Hide(value osapi.ProviderConfig) osapi.ProviderConfig { return value }

// State is that of "images", which knows no registration.
func (*providerSource) State(context.Context, osapi.ProviderConfig) (osapi.ProviderState, error) {
	return osapi.ProviderState{}, nil
}

// readProvider reads a configuration that was checked.
func readProvider(value osapi.ProviderConfig) providerChoice {
	c := value.Config
	choice := providerChoice{Metadata: c[keyMetadata], Root: []byte(c[keyRoot]), CA: []byte(c[keyCA])}
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

// checkProvider gives every problem, each with its path.
func checkProvider(value osapi.ProviderConfig) config.Problems {
	var problems config.Problems
	if value.Name != providerImages {
		problems.Add("name", "known", "%q is not a provider of this release, which has %q", value.Name, providerImages)
	}
	known := []string{keyServer, keyMirrors, keyMetadata, keyRoot, keyCA, keyBandwidth}
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
	return problems
}

func checkServers(problems *config.Problems, c map[string]string, choice providerChoice) {
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
			problems.Add("config."+key, "url", "%.100q is not the URL of a release tree, as \"https://releases.example.org/os\"", server)
		}
	}
	if choice.Metadata == metadataIndex && len(choice.Servers) > 1 {
		problems.Add("config."+keyMirrors, "together", "a tree that is trusted by its index alone is read from one server")
	}
}

func checkAnchors(problems *config.Problems, c map[string]string, choice providerChoice) {
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

// current is the source in use.
func (p *providerSource) current() (updater.Source, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.now == nil {
		return nil, errors.New("no release server is configured: set config.server_url of /1.0/system/provider, or of the seed named provider")
	}
	return p.now, nil
}

// access is how this node reaches release trees.
type access struct {
	userAgent string
	// proxy and roots are asked for at each connection; nil is the environment's.
	proxy func(*http.Request) (*url.URL, error)
	roots func() (*x509.CertPool, error)
}

func (a access) to(choice providerChoice) updater.Access {
	limit := choice.Bandwidth
	return updater.Access{Servers: choice.Servers, UserAgent: a.userAgent, Proxy: a.proxy, Roots: a.roots, BandwidthLimit: func() int64 { return limit }}
}

// errNoRoot is an image without the root document of its makers.
func errNoRoot(path string, err error) error {
	return fmt.Errorf("reading whom this node trusts with releases, %s: %w: set config.update_root of /1.0/system/provider", path, err)
}
