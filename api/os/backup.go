package os

import (
	"encoding/json"
	"time"
)

// BackupPost is the body of the two requests for a backup. An empty body is one without
// any field.
type BackupPost struct {
	// Complete also takes what an application can fetch or make again, as the downloaded
	// updates of operations-center; default false. Applications without such data, and the
	// system itself, ignore it.
	Complete bool `json:"complete,omitempty" yaml:"complete,omitempty"`
	// Recipient is an age public key, as "age1...". The node encrypts the archive to it and
	// answers application/octet-stream. Default empty: the archive is not encrypted, and
	// the answer is application/gzip.
	Recipient string `json:"recipient,omitempty" yaml:"recipient,omitempty"`
}

// FactoryResetPost is the body of POST /1.0/system/:factory-reset. An empty body resets the
// node with the seed that it has.
type FactoryResetPost struct {
	// AllowTPMResetFailure goes on when the TPM cannot be cleared; default false: the reset
	// ends there, and the node is as it was.
	AllowTPMResetFailure bool `json:"allow_tpm_reset_failure,omitempty" yaml:"allow_tpm_reset_failure,omitempty"`
	// WipeExistingSeeds leaves none of the documents of the seed that the node has; default
	// false: those that are not given stay.
	WipeExistingSeeds bool `json:"wipe_existing_seeds,omitempty" yaml:"wipe_existing_seeds,omitempty"`
	// Seeds are new documents by name, as "network" or "incus": each a JSON object that a
	// seed file NAME.json could hold. "install" is not allowed.
	Seeds map[string]json.RawMessage `json:"seeds,omitempty" yaml:"seeds,omitempty"`
}

// ApplicationResetPost is the body of POST /1.0/applications/NAME/:factory-reset. An empty
// body resets the application with the seed that the node has.
type ApplicationResetPost struct {
	// Seeds are new documents by name, each a JSON object that a seed file NAME.json could
	// hold. Only that of the application itself is taken: "incus" for the application incus,
	// "operations-center" and "migration-manager" for theirs; another one is an error. It
	// takes the place of the one that the node has, when the reset works. Default none.
	Seeds map[string]json.RawMessage `json:"seeds,omitempty" yaml:"seeds,omitempty"`
}

// BackupManifest is the first member of a backup, holdfast-backup.json.
type BackupManifest struct {
	// Format is the version of the archive's format; 1 in this release.
	Format int `json:"format" yaml:"format"`
	// Kind is "system" or "application".
	Kind string `json:"kind" yaml:"kind"`
	// Application is the name of the application; empty for the system.
	Application string `json:"application,omitempty" yaml:"application,omitempty"`
	// Release is the release of the system that made the backup, as "202611220104".
	Release string `json:"release" yaml:"release"`
	// MachineID is that of the node that made it, 32 hexadecimal digits.
	MachineID string `json:"machine_id" yaml:"machine_id"`
	// CreatedAt is when it was made, in UTC.
	CreatedAt time.Time `json:"created_at" yaml:"created_at"`
	// Cards are the network cards of that machine, so that a configuration can be moved to
	// another one; only in a backup of the system.
	Cards []BackupCard `json:"cards,omitempty" yaml:"cards,omitempty"`
	// Members are all others; never null.
	Members []BackupMember `json:"members" yaml:"members"`
	// LeftOut are names that no archive can hold, as sockets and devices, which the
	// application makes anew.
	LeftOut []string `json:"left_out,omitempty" yaml:"left_out,omitempty"`
}

// BackupCard is a network card of the machine that made a backup.
type BackupCard struct {
	// Name is the kernel's name of it, as "enp1s0".
	Name string `json:"name" yaml:"name"`
	// Hwaddr is its MAC address, in lower case with colons.
	Hwaddr string `json:"hwaddr" yaml:"hwaddr"`
}

// BackupMember is one member of a backup.
type BackupMember struct {
	// Name is its path, relative to the folder that was backed up.
	Name string `json:"name" yaml:"name"`
	// Type is "file", "directory" or "symlink".
	Type string `json:"type" yaml:"type"`
	// Size is the content of a file in bytes; 0 for all else.
	Size int64 `json:"size" yaml:"size"`
	// SHA256 is that of a file's content, or of a link's target, in hexadecimal; empty for
	// a directory.
	SHA256 string `json:"sha256,omitempty" yaml:"sha256,omitempty"`
}
