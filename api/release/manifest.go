package release

import "time"

// ManifestFormat is the value of Manifest.Format that this package describes.
const ManifestFormat = "1"

// Manifest is all that a Holdfast node has to know of one release for one architecture.
// It is what the trusted metadata names; everything else is named by it, with its size
// and its sum. Tools of IncusOS read index.json and never see it.
type Manifest struct {
	// Format is "1".
	Format string `json:"format"`
	// Version is a UTC time as YYYYMMDDhhmm, 12 digits.
	Version string `json:"version"`
	// Architecture is "x86_64" or "aarch64".
	Architecture string `json:"architecture"`
	// PublishedAt is in UTC.
	PublishedAt time.Time `json:"published_at"`
	// Severity says how urgent the release is.
	Severity Severity `json:"severity"`
	// Parts are what a node runs: /usr with its hash tree and signature, the UKI, and
	// every application. Names are unique.
	Parts []Part `json:"parts"`
	// Documents are what people and auditors read.
	Documents []Document `json:"documents,omitempty"`
}

// Part is one file that a node runs, unpacked, and the ways to get it.
type Part struct {
	// Name is the unpacked file's, as "Holdfast_202611220104.efi" or "incus.raw".
	Name string `json:"name"`
	// Component is the part of the product that the file belongs to.
	Component Component `json:"component"`
	// Type says what to do with the file.
	Type Type `json:"type"`
	// Size is that of the unpacked file, in bytes.
	Size int64 `json:"size"`
	// SHA256 is of the unpacked file, hexadecimal.
	SHA256 string `json:"sha256"`
	// Full is the whole file, packed with gzip.
	Full Blob `json:"full"`
	// Chunks is the file cut into pieces that can be fetched one by one; nil when there
	// is none.
	Chunks *Chunks `json:"chunks,omitempty"`
	// Deltas make the file out of one of an earlier release, newest base first.
	Deltas []Delta `json:"deltas,omitempty"`
}

// Blob is a file of the release tree.
type Blob struct {
	// Path is relative to the tree, as "202611220104/x86_64/incus.raw.gz".
	Path string `json:"path"`
	// Size is in bytes.
	Size int64 `json:"size"`
	// SHA256 is hexadecimal.
	SHA256 string `json:"sha256"`
}

// Chunks are two files: a list of the pieces in their order, and the pieces themselves,
// each packed by itself, one behind the other.
type Chunks struct {
	// Index is the list of the pieces.
	Index Blob `json:"index"`
	// Pack are the pieces.
	Pack Blob `json:"pack"`
}

// Delta makes a file out of another one.
type Delta struct {
	// From is the version of the release that the base belongs to.
	From string `json:"from"`
	// BaseSize is the unpacked base's, in bytes.
	BaseSize int64 `json:"base_size"`
	// BaseSHA256 is of the unpacked base, hexadecimal.
	BaseSHA256 string `json:"base_sha256"`
	// Patch is the file to fetch.
	Patch Blob `json:"patch"`
}

// DocumentKind says what a document is.
type DocumentKind string

const (
	// DocumentPackages lists every Debian package of a component with its version.
	DocumentPackages DocumentKind = "packages"
	// DocumentChangelog is what is new against the previous release of a channel.
	DocumentChangelog DocumentKind = "changelog"
	// DocumentSBOM is an SPDX 2.3 document as JSON.
	DocumentSBOM DocumentKind = "sbom"
)

// Document is a file about a release that no node needs to run.
type Document struct {
	// Kind says what it is.
	Kind DocumentKind `json:"kind"`
	// Component is the part of the product that it is about.
	Component Component `json:"component,omitempty"`
	// From is the release that a changelog compares with; empty for the other kinds.
	From string `json:"from,omitempty"`
	// Blob is the file.
	Blob Blob `json:"blob"`
}

// PackageList is a document of the kind "packages", and the source of the others.
type PackageList struct {
	// Component is the part of the product whose packages these are.
	Component Component `json:"component"`
	// Packages are sorted by name.
	Packages []Package `json:"packages"`
}

// Package is one Debian package as it is installed.
type Package struct {
	// Name is the binary package's.
	Name string `json:"name"`
	// Version is the binary package's, as Debian writes it.
	Version string `json:"version"`
	// Architecture is Debian's name, as "amd64" or "all".
	Architecture string `json:"architecture"`
	// Source is the source package that it was built from.
	Source string `json:"source"`
	// SourceVersion is that package's version.
	SourceVersion string `json:"source_version"`
	// Changes are the newest entries of the Debian changelog that name a CVE, newest
	// first, at most 50.
	Changes []PackageChange `json:"changes,omitempty"`
}

// PackageChange is an entry of a Debian changelog, reduced to the CVE numbers in it.
type PackageChange struct {
	// Version is the source version of the entry.
	Version string `json:"version"`
	// CVEs are as "CVE-2026-12345", sorted.
	CVEs []string `json:"cves"`
}

// Changelog is a document of the kind "changelog". Its YAML form has the fields of
// IncusOS' changelogs, and CVEs beside them.
type Changelog struct {
	// CurrentVersion is the release that is described.
	CurrentVersion string `json:"current_version" yaml:"current_version"`
	// PriorVersion is the channel's release before it.
	PriorVersion string `json:"prior_version" yaml:"prior_version"`
	// Channel is the channel, as "stable".
	Channel string `json:"channel" yaml:"channel"`
	// Components is keyed by the component's name.
	Components map[Component]ComponentChanges `json:"components" yaml:"components"`
}

// ComponentChanges are lines as "openssl 3.5.1-1" (added, removed) and
// "openssl 3.5.1-1 to 3.5.1-2" (updated), sorted.
type ComponentChanges struct {
	// Added are packages that are new.
	Added []string `json:"added,omitempty" yaml:"added,omitempty"`
	// Updated are packages with another version.
	Updated []string `json:"updated,omitempty" yaml:"updated,omitempty"`
	// Removed are packages that are gone.
	Removed []string `json:"removed,omitempty" yaml:"removed,omitempty"`
	// CVEs are those that the changelogs of the updated packages name between the two
	// versions, sorted.
	CVEs []string `json:"cves,omitempty" yaml:"cves,omitempty"`
}
