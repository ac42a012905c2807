package seed

// Incus initializes Incus.
type Incus struct {
	// Version is kept and not interpreted; default empty.
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
	Config map[string]any `json:"config,omitempty"`
	// Networks are made by Incus, as in its API; default none.
	Networks []map[string]any `json:"networks,omitempty"`
	// StoragePools are made by Incus, as in its API; default none.
	StoragePools []map[string]any `json:"storage_pools,omitempty"`
	// StorageVolumes are made by Incus, as in its API; default none.
	StorageVolumes []map[string]any `json:"storage_volumes,omitempty"`
	// Profiles are made or changed by Incus, as in its API; default none.
	Profiles []map[string]any `json:"profiles,omitempty"`
	// Projects are made by Incus, as in its API; default none.
	Projects []map[string]any `json:"projects,omitempty"`
	// Certificates are trusted by Incus, and thereby by the node.
	Certificates []IncusCertificate `json:"certificates,omitempty"`
	// ClusterGroups are made by Incus, as in its API; default none.
	ClusterGroups []map[string]any `json:"cluster_groups,omitempty"`
	// Cluster makes the node a member of a cluster, as in the preseed of Incus; default none.
	Cluster map[string]any `json:"cluster,omitempty"`
}

// IncusCertificate is one entry of Incus' list of trusted certificates.
type IncusCertificate struct {
	// Name is shown in Incus' list of certificates.
	Name string `json:"name,omitempty"`
	// Type is "client" or "metrics".
	Type string `json:"type,omitempty"`
	// Restricted limits the client to Projects; default false.
	Restricted bool `json:"restricted,omitempty"`
	// Projects are those that a restricted client may use; default none.
	Projects []string `json:"projects,omitempty"`
	// Certificate is PEM, or the base64 of the DER certificate.
	Certificate string `json:"certificate,omitempty"`
	// Description is free text; default empty.
	Description string `json:"description,omitempty"`
	// TrustToken is a token that the client would show instead of a certificate; default none.
	TrustToken string `json:"trust_token,omitempty" secret:"true"`
	// Token asks Incus for a token instead of adding a certificate; default false.
	Token bool `json:"token,omitempty"`
}
