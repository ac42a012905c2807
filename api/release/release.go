// Package release holds the documents of a release tree: what a publisher writes
// and a node reads.
//
//	index.json, index.sjson                every update, newest first
//	<version>/update.json, update.sjson    one update
//	<version>/<arch>/<file>.gz             its files
//
// The shapes are those of the IncusOS image server, so that foreign tools can read
// a tree. An .sjson is the .json beside it inside an S/MIME signature.
//
// The package imports the standard library alone.
package release

import "time"

// Format is the only value of the format fields.
const Format = "1.0"

// Index lists every update of a tree.
type Index struct {
	// Format is "1.0".
	Format string `json:"format"`
	// Updates are ordered newest first.
	Updates []Update `json:"updates"`
}

// Update is one release.
type Update struct {
	// Format is "1.0".
	Format string `json:"format"`
	// Channels are those that carry the release, as "stable".
	Channels []string `json:"channels"`
	// Files are all that belongs to the release.
	Files []File `json:"files"`
	// Origin names the publisher, as "holdfast".
	Origin string `json:"origin"`
	// PublishedAt is in UTC.
	PublishedAt time.Time `json:"published_at"`
	// Severity says how urgent the release is; a node shows it and does not act on it.
	Severity Severity `json:"severity"`
	// Version is a UTC time as YYYYMMDDhhmm, 12 digits.
	Version string `json:"version"`
	// URL is the release's directory, as "/202611220104"; in the index only.
	URL string `json:"url,omitempty"`
}

// File is one file of a release.
type File struct {
	// Architecture is "x86_64", "aarch64", or empty for every one.
	Architecture string `json:"architecture"`
	// Component is the part of the product that the file belongs to.
	Component Component `json:"component"`
	// Filename is relative to the release's directory, as "x86_64/incus.raw.gz".
	Filename string `json:"filename"`
	// SHA256 is of the compressed file, hexadecimal.
	SHA256 string `json:"sha256"`
	// Size is that of the compressed file, in bytes.
	Size int64 `json:"size"`
	// Type says what to do with the file.
	Type Type `json:"type"`
}

// Severity says how urgent a release is.
type Severity string

// The severities.
const (
	SeverityNone     Severity = "none"
	SeverityLow      Severity = "low"
	SeverityMedium   Severity = "medium"
	SeverityHigh     Severity = "high"
	SeverityCritical Severity = "critical"
)

// Valid is true for a severity of the list above.
func (s Severity) Valid() bool {
	switch s {
	case SeverityNone, SeverityLow, SeverityMedium, SeverityHigh, SeverityCritical:
		return true
	}
	return false
}

// Component is a part of the product. Every application is a component of its own.
type Component string

// The components.
const (
	ComponentOS               Component = "os"
	ComponentDebug            Component = "debug"
	ComponentGPUSupport       Component = "gpu-support"
	ComponentIncus            Component = "incus"
	ComponentIncusCeph        Component = "incus-ceph"
	ComponentIncusLinstor     Component = "incus-linstor"
	ComponentMigrationManager Component = "migration-manager"
	ComponentOpenFGA          Component = "openfga"
	ComponentOperationsCenter Component = "operations-center"
)

// Valid is true for a component of the list above.
func (c Component) Valid() bool {
	switch c {
	case ComponentOS, ComponentDebug, ComponentGPUSupport, ComponentIncus, ComponentIncusCeph,
		ComponentIncusLinstor, ComponentMigrationManager, ComponentOpenFGA, ComponentOperationsCenter:
		return true
	}
	return false
}

// Type says what a file is.
type Type string

// The types.
const (
	TypeNone               Type = ""
	TypeImageRaw           Type = "image-raw"
	TypeImageISO           Type = "image-iso"
	TypeImageManifest      Type = "image-manifest"
	TypeChangelog          Type = "changelog"
	TypeUpdateEFI          Type = "update-efi"
	TypeUpdateUsr          Type = "update-usr"
	TypeUpdateUsrVerity    Type = "update-usr-verity"
	TypeUpdateUsrSignature Type = "update-usr-verity-signature"
	TypeUpdateSecureBoot   Type = "update-secureboot"
	TypeApplication        Type = "application"
)

// Valid is true for a type of the list above.
func (t Type) Valid() bool {
	switch t {
	case TypeNone, TypeImageRaw, TypeImageISO, TypeImageManifest, TypeChangelog, TypeUpdateEFI, TypeUpdateUsr,
		TypeUpdateUsrVerity, TypeUpdateUsrSignature, TypeUpdateSecureBoot, TypeApplication:
		return true
	}
	return false
}
