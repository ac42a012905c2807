package daemon

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"

	osapi "github.com/holdfast-os/holdfast/api/os"
	apirelease "github.com/holdfast-os/holdfast/api/release"
	"github.com/holdfast-os/holdfast/internal/config"
	"github.com/holdfast-os/holdfast/internal/plan"
	"github.com/holdfast-os/holdfast/internal/release"
)

// providerSource is the setting "provider", and the release.Provider of the applications: the release
// tree that is configured at the moment.
type providerSource struct {
	userAgent string
	// proxy and roots are asked for at each connection; nil is the environment's.
	proxy func(*http.Request) (*url.URL, error)
	roots func() (*x509.CertPool, error)

	mu  sync.Mutex
	now release.Provider
}

// Check gives every problem of a configuration of the provider "images".
func (p *providerSource) Check(_ context.Context, value, _ *osapi.ProviderConfig) error {
	return CheckProvider(value)
}

// CheckProvider is the check of the section "provider": every problem, and whether a
// source can be made of it.
func CheckProvider(value *osapi.ProviderConfig) error {
	problems := checkProvider(*value)
	if len(problems) == 0 {
		if _, err := (&providerSource{}).source(*value); err != nil {
			problems.Add("config", "usable", "%s", err)
		}
	}
	return problems.Err()
}

// Plan is empty: nothing on the machine changes, the next question goes elsewhere.
func (*providerSource) Plan(context.Context, *osapi.ProviderConfig, osapi.ProviderConfig) (plan.Plan, error) {
	return plan.Plan{}, nil
}

// Apply takes a configuration. Without a server the node runs what it has; asking for a
// release then says what to configure.
func (p *providerSource) Apply(_ context.Context, _ *osapi.ProviderConfig, next osapi.ProviderConfig) error {
	made, err := p.source(next)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.now = made
	return nil
}

// Hide changes nothing: a URL and a certificate are no secrets.
func (*providerSource) Hide(value osapi.ProviderConfig) osapi.ProviderConfig { return value }

// State is that of "images", which knows no registration.
func (*providerSource) State(context.Context, osapi.ProviderConfig) (osapi.ProviderState, error) {
	return osapi.ProviderState{}, nil
}

// source makes the source for a configuration; nil without a server.
func (p *providerSource) source(config osapi.ProviderConfig) (release.Provider, error) {
	server := config.Config["server_url"]
	if server == "" {
		return nil, nil
	}
	return release.NewSource(release.Options{
		ServerURL: server, UpdateCA: []byte(config.Config["update_ca"]), UserAgent: p.userAgent,
		Proxy: p.proxy, Roots: p.roots})
}

// checkProvider gives every problem, each with its path.
func checkProvider(value osapi.ProviderConfig) config.Problems {
	var problems config.Problems
	if value.Name != providerImages {
		problems.Add("name", "known", "%q is not a provider of this release, which has %q", value.Name, providerImages)
	}
	known := []string{"server_url", "update_ca"}
	var unknown []string
	for key := range value.Config {
		if !slices.Contains(known, key) {
			unknown = append(unknown, key)
		}
	}
	slices.Sort(unknown)
	for _, key := range unknown {
		problems.Add("config."+key, "known", "unknown, the provider %q has %s", providerImages, strings.Join(known, " and "))
	}
	server, ca := value.Config["server_url"], value.Config["update_ca"]
	if (server == "") != (ca == "") {
		problems.Add("config", "together", "server_url and update_ca go together: set both or none")
	}
	if parsed, err := url.Parse(server); server != "" && (err != nil || parsed.Host == "") {
		problems.Add("config.server_url", "url", "%s", "it is not a URL, as \"https://releases.example.org/os\"")
	}
	if found, _ := pem.Decode([]byte(ca)); ca != "" && (found == nil || found.Type != "CERTIFICATE") {
		problems.Add("config.update_ca", "certificate", "it is not a certificate in PEM form")
	}
	return problems
}

func (p *providerSource) current() (release.Provider, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.now == nil {
		return nil, errors.New("no release server is configured: set config.server_url and config.update_ca of /1.0/system/provider, or of the seed named provider")
	}
	return p.now, nil
}

// Latest asks the configured server.
func (p *providerSource) Latest(ctx context.Context, channel, arch, running string) (apirelease.Update, error) {
	source, err := p.current()
	if err != nil {
		return apirelease.Update{}, err
	}
	return source.Latest(ctx, channel, arch, running)
}

// Fetch downloads from the configured server.
func (p *providerSource) Fetch(ctx context.Context, update apirelease.Update, file apirelease.File, dst string, progress release.Progress) error {
	source, err := p.current()
	if err != nil {
		return err
	}
	return source.Fetch(ctx, update, file, dst, progress)
}
