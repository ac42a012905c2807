package os

// SecureBootKeys is /internal/secureboot: the certificates in the firmware's variables.
type SecureBootKeys struct {
	// PK is the platform key's certificate, PEM; empty when there is none.
	PK string `json:"pk" yaml:"pk"`
	// KEK are the certificates of the keys that may change DB and DBX, PEM; never null.
	KEK []string `json:"kek" yaml:"kek"`
	// DB are the certificates of the keys that may sign what starts, PEM; never null.
	DB []string `json:"db" yaml:"db"`
	// DBX are the certificates of the keys that are revoked, PEM; never null.
	DBX []string `json:"dbx" yaml:"dbx"`
}

// SecureBootState is how far the last archive of Secure Boot keys has come.
type SecureBootState struct {
	// Version is the release that brought the archive; empty for one that a person sent.
	Version string `json:"version" yaml:"version"`
	// FullyApplied is true when every certificate of the archive is in its variable.
	FullyApplied bool `json:"fully_applied" yaml:"fully_applied"`
	// NeedsReboot is true when the node has to restart before it goes on.
	NeedsReboot bool `json:"needs_reboot" yaml:"needs_reboot"`
	// Stage is "pending", "bound", "writing", "restart", "done", "refused" or "failed".
	Stage string `json:"stage" yaml:"stage"`
	// Status says in words what goes on, or why it ended.
	Status string `json:"status" yaml:"status"`
	// Notes are what was passed over and why, each a sentence.
	Notes []string `json:"notes,omitempty" yaml:"notes,omitempty"`
}
