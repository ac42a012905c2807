package seed

// Incus initializes Incus.
type Incus struct {
	Version string `json:"version,omitempty"`
	// ApplyDefaults makes the usual pool, network and profile first; default false.
	ApplyDefaults bool `json:"apply_defaults,omitempty"`
	// Preseed goes to Incus as it is; default none.
	Preseed *IncusPreseed `json:"preseed,omitempty"`
}

// IncusPreseed is the preseed of `incus admin init`. What lies deeper than the
// lists below is Incus' own matter and is passed on unread.
type IncusPreseed struct {
	// Config is the server's configuration, as core.https_address.
	Config         map[string]any   `json:"config,omitempty"`
	Networks       []map[string]any `json:"networks,omitempty"`
	StoragePools   []map[string]any `json:"storage_pools,omitempty"`
	StorageVolumes []map[string]any `json:"storage_volumes,omitempty"`
	Profiles       []map[string]any `json:"profiles,omitempty"`
	Projects       []map[string]any `json:"projects,omitempty"`
	// Certificates are trusted by Incus, and thereby by the node.
	Certificates  []IncusCertificate `json:"certificates,omitempty"`
	ClusterGroups []map[string]any   `json:"cluster_groups,omitempty"`
	Cluster       map[string]any     `json:"cluster,omitempty"`
}

// IncusCertificate is one entry of Incus' list of trusted certificates.
type IncusCertificate struct {
	Name string `json:"name,omitempty"`
	// Type is "client" or "metrics".
	Type       string   `json:"type,omitempty"`
	Restricted bool     `json:"restricted,omitempty"`
	Projects   []string `json:"projects,omitempty"`
	// Certificate is PEM, or the base64 of the DER certificate.
	Certificate string `json:"certificate,omitempty"`
	Description string `json:"description,omitempty"`
	TrustToken  string `json:"trust_token,omitempty"`
	Token       bool   `json:"token,omitempty"`
}
