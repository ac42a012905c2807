package os

import "time"

// Application is one system extension on the node, such as Incus itself.
type Application struct {
	// State is what the node observes; it is not read from a request.
	State ApplicationState `json:"state" yaml:"state"`
	// Config is what the owner asked for.
	Config ApplicationConfig `json:"config" yaml:"config"`
}

// ApplicationState is what the node knows of an installed application.
type ApplicationState struct {
	// Initialized is true once the application's first-boot seed has been applied.
	Initialized bool `json:"initialized" yaml:"initialized"`
	// IsPrimary is true for the one application whose TLS listener carries this API.
	IsPrimary bool `json:"is_primary" yaml:"is_primary"`
	// FriendlyVersion is the program's own version and the release, as "7.0.2 [202611220104]".
	FriendlyVersion string `json:"friendly_version" yaml:"friendly_version"`
	// Version is the release that is active.
	Version string `json:"version" yaml:"version"`
	// AvailableVersions are the releases on disk, oldest first.
	AvailableVersions []string `json:"available_versions" yaml:"available_versions"`
	// LastRestored is when a backup was last restored; left out when never.
	LastRestored *time.Time `json:"last_restored,omitempty" yaml:"last_restored,omitempty"`
}

// ApplicationConfig is what an owner may set for an application.
type ApplicationConfig struct {
	// LXCFS is read by the incus application only.
	LXCFS *LXCFSConfig `json:"lxcfs,omitempty" yaml:"lxcfs,omitempty"`
}

// LXCFSConfig chooses what containers see of the host through LXCFS.
type LXCFSConfig struct {
	// CPUShares shows a container its CPU shares; default false.
	CPUShares bool `json:"cpu_shares" yaml:"cpu_shares"`
	// LoadAverage shows a container its own load average; default false.
	LoadAverage bool `json:"load_average" yaml:"load_average"`
}

// ApplicationsPost is the body of POST /1.0/applications.
type ApplicationsPost struct {
	// Name is the application to install, as "incus".
	Name string `json:"name" yaml:"name"`
}

// ApplicationVersionPost is the body of POST /1.0/applications/{name}/:switch-version; it
// may be empty.
type ApplicationVersionPost struct {
	// Version is one of state.available_versions; default the newest that is older than the
	// one that runs.
	Version string `json:"version,omitempty" yaml:"version,omitempty"`
}
