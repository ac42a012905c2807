package seed

// MigrationManager initializes Migration Manager.
type MigrationManager struct {
	Version string `json:"version,omitempty"`
	// TrustedClientCertificates are PEM certificates of its first administrators.
	TrustedClientCertificates []string `json:"trusted_client_certificates,omitempty"`
	// ApplyDefaults is accepted and has no effect.
	ApplyDefaults bool                     `json:"apply_defaults,omitempty"`
	Preseed       *MigrationManagerPreseed `json:"preseed,omitempty"`
}

// MigrationManagerPreseed are the settings of Migration Manager.
type MigrationManagerPreseed struct {
	SystemCertificate *SystemCertificate             `json:"system_certificate,omitempty"`
	SystemNetwork     *MigrationManagerSystemNetwork `json:"system_network,omitempty"`
	SystemSecurity    *SystemSecurity                `json:"system_security,omitempty"`
}

// MigrationManagerSystemNetwork says where Migration Manager listens.
type MigrationManagerSystemNetwork struct {
	RestServerAddress string `json:"rest_server_address,omitempty"`
	WorkerEndpoint    string `json:"worker_endpoint,omitempty"`
}

// OperationsCenter initializes Operations Center.
type OperationsCenter struct {
	Version string `json:"version,omitempty"`
	// TrustedClientCertificates are PEM certificates of its first administrators.
	TrustedClientCertificates []string `json:"trusted_client_certificates,omitempty"`
	// ApplyDefaults is accepted and has no effect.
	ApplyDefaults bool                     `json:"apply_defaults,omitempty"`
	Preseed       *OperationsCenterPreseed `json:"preseed,omitempty"`
}

// OperationsCenterPreseed are the settings of Operations Center.
type OperationsCenterPreseed struct {
	SystemCertificate *ServerCertificate              `json:"system_certificate,omitempty"`
	SystemNetwork     *OperationsCenterSystemNetwork  `json:"system_network,omitempty"`
	SystemSecurity    *OperationsCenterSystemSecurity `json:"system_security,omitempty"`
	SystemUpdates     *OperationsCenterSystemUpdates  `json:"system_updates,omitempty"`
	SystemSettings    *OperationsCenterSystemSettings `json:"system_settings,omitempty"`
}

// OperationsCenterSystemNetwork says where Operations Center listens.
type OperationsCenterSystemNetwork struct {
	Address           string `json:"address,omitempty"`
	RestServerAddress string `json:"rest_server_address,omitempty"`
}

// OperationsCenterSystemUpdates says where it takes releases from.
type OperationsCenterSystemUpdates struct {
	Source                                string `json:"source,omitempty"`
	SignatureVerificationRootCA           string `json:"signature_verification_root_ca,omitempty"`
	FilterExpression                      string `json:"filter_expression,omitempty"`
	FileFilterExpression                  string `json:"file_filter_expression,omitempty"`
	UpdatesDefaultChannel                 string `json:"updates_default_channel,omitempty"`
	ServerDefaultChannel                  string `json:"server_default_channel,omitempty"`
	ImageServerAuthenticationByQueryParam bool   `json:"image_server_authentication_by_query_param,omitempty"`
}

// OperationsCenterSystemSettings are its other settings.
type OperationsCenterSystemSettings struct {
	LogLevel                    string `json:"log_level,omitempty"`
	ServerRegistrationScriptlet string `json:"server_registration_scriptlet,omitempty"`
}

// ServerCertificate is a server's TLS certificate with its key, PEM.
type ServerCertificate struct {
	Certificate string `json:"certificate,omitempty"`
	Key         string `json:"key,omitempty"`
}

// SystemCertificate is a server's TLS certificate with its key and its CA, PEM.
type SystemCertificate struct {
	Certificate string `json:"certificate,omitempty"`
	Key         string `json:"key,omitempty"`
	CA          string `json:"ca,omitempty"`
}

// SystemSecurity says whom a manager trusts.
type SystemSecurity struct {
	// TrustedTLSClientCertFingerprints are SHA-256 of DER certificates, hexadecimal.
	TrustedTLSClientCertFingerprints []string `json:"trusted_tls_client_cert_fingerprints,omitempty"`
	TrustedHTTPSProxies              []string `json:"trusted_https_proxies,omitempty"`
	OIDC                             *OIDC    `json:"oidc,omitempty"`
	OpenFGA                          *OpenFGA `json:"openfga,omitempty"`
	ACME                             *ACME    `json:"acme,omitempty"`
}

// OperationsCenterSystemSecurity says whom Operations Center trusts.
type OperationsCenterSystemSecurity struct {
	// TrustedTLSClientCertFingerprints are SHA-256 of DER certificates, hexadecimal.
	TrustedTLSClientCertFingerprints []string              `json:"trusted_tls_client_cert_fingerprints,omitempty"`
	TrustedHTTPSProxies              []string              `json:"trusted_https_proxies,omitempty"`
	OIDC                             *OIDC                 `json:"oidc,omitempty"`
	OpenFGA                          *OpenFGA              `json:"openfga,omitempty"`
	ACME                             *OperationsCenterACME `json:"acme,omitempty"`
}

// OIDC is the login through an identity provider.
type OIDC struct {
	Issuer   string `json:"issuer,omitempty"`
	ClientID string `json:"client_id,omitempty"`
	// Scopes are separated by commas.
	Scopes   string `json:"scopes,omitempty"`
	Audience string `json:"audience,omitempty"`
	Claim    string `json:"claim,omitempty"`
}

// OpenFGA is the server that decides who may do what.
type OpenFGA struct {
	APIToken string `json:"api_token,omitempty"`
	APIURL   string `json:"api_url,omitempty"`
	StoreID  string `json:"store_id,omitempty"`
}

// ACME gets the server's certificate from an authority.
type ACME struct {
	AgreeTOS             bool     `json:"agree_tos,omitempty"`
	CAURL                string   `json:"ca_url,omitempty"`
	Challenge            string   `json:"challenge,omitempty"`
	Domain               string   `json:"domain,omitempty"`
	Email                string   `json:"email,omitempty"`
	HTTPChallengeAddress string   `json:"http_challenge_address,omitempty"`
	Provider             string   `json:"provider,omitempty"`
	ProviderEnvironment  []string `json:"provider_environment,omitempty"`
}

// OperationsCenterACME is ACME with name servers of its own.
type OperationsCenterACME struct {
	ACME
	ProviderResolvers []string `json:"provider_resolvers,omitempty"`
}
