// Package seed holds the first-boot documents of a node: one type per file of the
// seed archive. Names and shapes are those of IncusOS.
//
// A seed is what the owner of a node writes before the node exists: who may reach
// it, where it installs itself, what runs on it. Each document is optional. The
// field "version" that all of them have is kept and not interpreted.
//
// The tag `secret` marks what must not stay readable once a node has taken its seed over:
// "true" is the whole field, "except=a,b" a map of which only a and b may stay.
//
// The package imports the standard library and api/os alone.
package seed

import "github.com/holdfast-os/holdfast/api/os"

// Install asks for an installation. Its presence, even empty, makes a medium
// install; without it the medium runs from where it is.
type Install struct {
	// Version is kept and not interpreted; default empty.
	Version string `json:"version,omitempty"`
	// ForceInstall allows a target that already has a partition table; default false.
	ForceInstall bool `json:"force_install,omitempty"`
	// ForceInstallConfirmation must name the target for a forced installation, where the installer asks for it.
	ForceInstallConfirmation string `json:"force_install_confirmation,omitempty"`
	// ForceReboot restarts at the end without waiting for the medium to be removed; default false.
	ForceReboot bool `json:"force_reboot,omitempty"`
	// Security accepts a machine that lacks a part of the chain of trust; default none.
	Security *InstallSecurity `json:"security,omitempty"`
	// Target chooses the disk; default the only one there is.
	Target *InstallTarget `json:"target,omitempty"`
}

// InstallSecurity says which missing parts of the chain of trust are accepted.
type InstallSecurity struct {
	// MissingTPM accepts a machine without TPM 2.0; default false.
	MissingTPM bool `json:"missing_tpm,omitempty"`
	// MissingSecureBoot accepts a machine with Secure Boot off; default false.
	MissingSecureBoot bool `json:"missing_secure_boot,omitempty"`
}

// InstallTarget are conditions on the target disk; all that are given must hold.
type InstallTarget struct {
	// Bus is a part of the bus' name, in lower case, as "nvme".
	Bus string `json:"bus,omitempty"`
	// ID is a part of the disk's name in /dev/disk/by-id.
	ID string `json:"id,omitempty"`
	// MaxSize is the largest size that is accepted, as "2TiB".
	MaxSize string `json:"max_size,omitempty"`
	// MinSize is the smallest size that is accepted, as "100GiB".
	MinSize string `json:"min_size,omitempty"`
	// SortOrder is "smallest" or "largest": which one of several; default an error.
	SortOrder string `json:"sort_order,omitempty"`
}

// Applications are installed by the first boot.
type Applications struct {
	// Version is kept and not interpreted; default empty.
	Version string `json:"version,omitempty"`
	// Applications must not be empty.
	Applications []Application `json:"applications"`
}

// Application is one application to install.
type Application struct {
	// Name is as in a release, "incus" for example.
	Name string `json:"name"`
}

// Network is the node's network configuration.
type Network struct {
	// Version is kept and not interpreted; default empty.
	Version string `json:"version,omitempty"`
	os.NetworkConfig
}

// Provider says where releases come from.
type Provider struct {
	// Version is kept and not interpreted; default empty.
	Version string `json:"version,omitempty"`
	os.ProviderConfig
}

// Update says which releases are followed, and when they are applied.
type Update struct {
	// Version is kept and not interpreted; default empty.
	Version string `json:"version,omitempty"`
	os.UpdateConfig
}

// Security adds trusted certificates. Recovery keys cannot be seeded: whoever has the
// medium could read them.
type Security struct {
	// Version is kept and not interpreted; default empty.
	Version string `json:"version,omitempty"`
	// CustomCACerts are PEM certificates trusted beside Debian's own.
	CustomCACerts []string `json:"custom_ca_certs,omitempty"`
}

// Kernel names the consoles that show the node's screen.
type Kernel struct {
	// Version is kept and not interpreted; default empty.
	Version string `json:"version,omitempty"`
	// Console lists the consoles; default the firmware's.
	Console []KernelConsole `json:"console,omitempty"`
}

// KernelConsole is one console.
type KernelConsole struct {
	// Device is the name below /dev, as "ttyS0".
	Device string `json:"device"`
	// BaudRate is in bits per second; default that of the device.
	BaudRate int `json:"baud_rate,omitempty"`
}
