package os

import (
	"encoding/json"
	"time"
)

// ConfigurationDocument is /1.0/system/config: what the owner asked for, all of it.
type ConfigurationDocument struct {
	// Config are the sections.
	Config Configuration `json:"config" yaml:"config"`
	// State says which change it is.
	State ConfigurationState `json:"state" yaml:"state"`
}

// Configuration is every section of a node's configuration as one document. A section
// that a PUT leaves out stays as it is. A secret is shown as "(kept secret)"; sent back
// like that it stays as it is.
type Configuration struct {
	// Kernel is that of /1.0/system/kernel.
	Kernel *KernelConfig `json:"kernel,omitempty" yaml:"kernel,omitempty"`
	// Security is that of /1.0/system/security.
	Security *SecurityConfig `json:"security,omitempty" yaml:"security,omitempty"`
	// Network is that of /1.0/system/network.
	Network *NetworkConfig `json:"network,omitempty" yaml:"network,omitempty"`
	// Logging is that of /1.0/system/logging.
	Logging *LoggingConfig `json:"logging,omitempty" yaml:"logging,omitempty"`
	// Provider is that of /1.0/system/provider.
	Provider *ProviderConfig `json:"provider,omitempty" yaml:"provider,omitempty"`
	// Update is that of /1.0/system/update.
	Update *UpdateConfig `json:"update,omitempty" yaml:"update,omitempty"`
	// FallbackListener is that of /1.0/system/fallback-listener.
	FallbackListener *FallbackListenerConfig `json:"fallback-listener,omitempty" yaml:"fallback-listener,omitempty"`
	// Services are those of /1.0/services, by name.
	Services map[string]json.RawMessage `json:"services,omitempty" yaml:"services,omitempty"`
}

// ConfigurationState says which change a configuration is.
type ConfigurationState struct {
	// Number is that of the last accepted change; 0 before the first.
	Number int `json:"number" yaml:"number"`
	// Pending is the change under way; null when there is none.
	Pending *PendingChange `json:"pending" yaml:"pending"`
}

// PendingChange is a change that is being applied, or waits to be confirmed.
type PendingChange struct {
	// Who is the fingerprint of a certificate, "application" or "local".
	Who string `json:"who" yaml:"who"`
	// What is the request, as "PUT /1.0/system/network".
	What string `json:"what" yaml:"what"`
	// Since is when it began.
	Since time.Time `json:"since" yaml:"since"`
	// Sections are those that it changes.
	Sections []string `json:"sections" yaml:"sections"`
	// Deadline is when it goes back unless it is confirmed; null while it is being applied.
	Deadline *time.Time `json:"deadline" yaml:"deadline"`
}

// Change is one accepted change of the configuration, in /1.0/system/history.
type Change struct {
	// Number counts from 1; the last 50 changes are kept.
	Number int `json:"number" yaml:"number"`
	// Time is when it was accepted.
	Time time.Time `json:"time" yaml:"time"`
	// Who is the fingerprint of a certificate, "application" or "local".
	Who string `json:"who" yaml:"who"`
	// What is the request, as "PUT /1.0/system/network".
	What string `json:"what" yaml:"what"`
	// Sections are those that it changed.
	Sections []string `json:"sections" yaml:"sections"`
	// Diff is what it changed, as a unified diff; only when one change is asked for.
	Diff string `json:"diff,omitempty" yaml:"diff,omitempty"`
}
