package daemon

import (
	"fmt"
	"sync"

	osapi "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/change"
	"github.com/holdfast-os/holdfast/internal/httpapi"
	"github.com/holdfast-os/holdfast/internal/state"
)

// Documents are what the node keeps: the configuration and its history (package change),
// and what else it has to remember.
type Documents = change.Store

var securityDocument = state.Document{Name: "security", Version: 1}

// securityFlags is the document "security".
type securityFlags struct {
	// RecoveryKeysRetrieved is true once an owner has said that the keys are kept.
	RecoveryKeysRetrieved bool `json:"recovery_keys_retrieved"`
}

// memory is what the node has to remember beside its configuration.
type memory struct {
	mu       sync.Mutex
	docs     Documents
	security securityFlags
}

// load reads the documents. damaged is told of one whose last copy had to be used.
func (m *memory) load(docs Documents, damaged func(error)) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	found, err := docs.Load(securityDocument, &m.security)
	if err != nil {
		return err
	}
	if found.Damage != nil {
		damaged(found.Damage)
	}
	m.docs = docs
	return nil
}

func (m *memory) getSecurity() (securityFlags, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.docs == nil {
		return securityFlags{}, httpapi.Unavailable("the node has not read its state yet: see /1.0/debug/boot")
	}
	return m.security, nil
}

// documents gives the documents, once the node has read its state.
func (m *memory) documents() (Documents, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.docs == nil {
		return nil, httpapi.Unavailable("the node has not read its state yet: see /1.0/debug/boot")
	}
	return m.docs, nil
}

// setSecurity keeps a value on disk first, and in memory only when that worked.
func (m *memory) setSecurity(flags securityFlags) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.docs == nil {
		return httpapi.Unavailable("the node has not read its state yet: see /1.0/debug/boot")
	}
	if err := m.docs.Save(securityDocument, flags); err != nil {
		return fmt.Errorf("keeping what the node has to remember: %w", err)
	}
	m.security = flags
	return nil
}

func defaultUpdate() osapi.UpdateConfig {
	return osapi.UpdateConfig{Channel: "stable", CheckFrequency: "6h"}
}
