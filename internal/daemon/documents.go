package daemon

import (
	"fmt"
	"log/slog"
	"sync"

	osapi "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/httpapi"
	"github.com/holdfast-os/holdfast/internal/state"
)

// Documents are kept configuration: what the owner, or the seed, asked for.
type Documents interface {
	Load(doc state.Document, into any) (state.Loaded, error)
	Save(doc state.Document, value any) error
}

var (
	updateDocument   = state.Document{Name: "update", Version: 1}
	providerDocument = state.Document{Name: "provider", Version: 1}
	networkDocument  = state.Document{Name: "network", Version: 1}
	securityDocument = state.Document{Name: "security", Version: 1}
)

// securityFlags is the document "security".
type securityFlags struct {
	// RecoveryKeysRetrieved is true once an owner has said that the keys are kept.
	RecoveryKeysRetrieved bool `json:"recovery_keys_retrieved"`
}

// config is the kept configuration in memory. Everything goes through its lock.
type config struct {
	mu     sync.Mutex
	docs   Documents
	loaded bool

	update   osapi.UpdateConfig
	provider osapi.ProviderConfig
	// network is nil until an owner or a seed has said something.
	network  *osapi.NetworkConfig
	security securityFlags
	// seeded says which documents exist.
	seeded map[string]bool
}

func defaultUpdate() osapi.UpdateConfig {
	return osapi.UpdateConfig{Channel: "stable", CheckFrequency: "6h"}
}

func defaultProvider() osapi.ProviderConfig { return osapi.ProviderConfig{Name: "images"} }

// load reads every document. damaged is told of one whose last copy had to be used.
func (c *config) load(docs Documents, log *slog.Logger, damaged func(error)) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.update, c.provider = defaultUpdate(), defaultProvider()
	c.seeded = map[string]bool{}
	network := &osapi.NetworkConfig{}
	for _, d := range []struct {
		doc  state.Document
		into any
	}{
		{updateDocument, &c.update}, {providerDocument, &c.provider},
		{networkDocument, network}, {securityDocument, &c.security},
	} {
		found, err := docs.Load(d.doc, d.into)
		if err != nil {
			return err
		}
		if found.Damage != nil {
			log.Error("state document damaged, its last copy is used", "document", d.doc.Name, "error", found.Damage)
			damaged(found.Damage)
		}
		c.seeded[d.doc.Name] = found.Found
	}
	if c.seeded[networkDocument.Name] {
		c.network = network
	}
	c.docs, c.loaded = docs, true
	return nil
}

// with runs a function on the configuration under its lock, once it is loaded.
func (c *config) with(do func() error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.loaded {
		return httpapi.Unavailable("the node has not read its state yet: see /1.0/debug/boot")
	}
	return do()
}

func (c *config) has(doc state.Document) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.seeded[doc.Name]
}

func (c *config) getUpdate() (update osapi.UpdateConfig, err error) {
	err = c.with(func() error { update = c.update; return nil })
	return update, err
}

func (c *config) getProvider() (provider osapi.ProviderConfig, err error) {
	err = c.with(func() error { provider = c.provider; return nil })
	return provider, err
}

func (c *config) getNetwork() (network *osapi.NetworkConfig, err error) {
	err = c.with(func() error { network = c.network; return nil })
	return network, err
}

func (c *config) getSecurity() (flags securityFlags, err error) {
	err = c.with(func() error { flags = c.security; return nil })
	return flags, err
}

func (c *config) setUpdate(update osapi.UpdateConfig) error {
	return c.with(func() error { return save(c, updateDocument, &c.update, update) })
}

func (c *config) setProvider(provider osapi.ProviderConfig) error {
	return c.with(func() error { return save(c, providerDocument, &c.provider, provider) })
}

func (c *config) setNetwork(network *osapi.NetworkConfig) error {
	return c.with(func() error { return save(c, networkDocument, &c.network, network) })
}

func (c *config) setSecurity(flags securityFlags) error {
	return c.with(func() error { return save(c, securityDocument, &c.security, flags) })
}

// save keeps a value on disk first, and in memory only when that worked.
func save[T any](c *config, doc state.Document, into *T, value T) error {
	if err := c.docs.Save(doc, value); err != nil {
		return fmt.Errorf("keeping the configuration: %w", err)
	}
	*into = value
	c.seeded[doc.Name] = true
	return nil
}
