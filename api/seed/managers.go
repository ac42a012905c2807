package seed

// MigrationManager initializes Migration Manager.
type MigrationManager struct {
	// Version is kept and not interpreted; default empty.
	Version string `json:"version,omitempty"`
	// TrustedClientCertificates are PEM certificates of its first administrators.
	TrustedClientCertificates []string `json:"trusted_client_certificates,omitempty"`
	// ApplyDefaults is accepted and has no effect.
	ApplyDefaults bool `json:"apply_defaults,omitempty"`
	// Preseed are settings made before the first start; default none.
	Preseed *MigrationManagerPreseed `json:"preseed,omitempty"`
}

// MigrationManagerPreseed are the settings of Migration Manager.
type MigrationManagerPreseed struct {
	// SystemCertificate is the TLS certificate to serve with; default one made by itself.
	SystemCertificate *SystemCertificate `json:"system_certificate,omitempty"`
	// SystemNetwork says where it listens; default port 8443 of every address.
	SystemNetwork *MigrationManagerSystemNetwork `json:"system_network,omitempty"`
	// SystemSecurity says whom it trusts; default nobody but the certificates above.
	SystemSecurity *SystemSecurity `json:"system_security,omitempty"`
}

// MigrationManagerSystemNetwork says where Migration Manager listens.
type MigrationManagerSystemNetwork struct {
	// RestServerAddress is the address and port to listen on; default "[::]:8443".
	RestServerAddress string `json:"rest_server_address,omitempty"`
	// WorkerEndpoint is the URL under which workers reach it; default port 8443 of the management
	// address.
	WorkerEndpoint string `json:"worker_endpoint,omitempty"`
}

// OperationsCenter initializes Operations Center.
type OperationsCenter struct {
	// Version is kept and not interpreted; default empty.
	Version string `json:"version,omitempty"`
	// TrustedClientCertificates are PEM certificates of its first administrators.
	TrustedClientCertificates []string `json:"trusted_client_certificates,omitempty"`
	// ApplyDefaults is accepted and has no effect.
	ApplyDefaults bool `json:"apply_defaults,omitempty"`
	// Preseed are settings made before the first start; default none.
	Preseed *OperationsCenterPreseed `json:"preseed,omitempty"`
}

// OperationsCenterPreseed are the settings of Operations Center.
type OperationsCenterPreseed struct {
	// SystemCertificate is the TLS certificate to serve with; default one made by itself.
	SystemCertificate *ServerCertificate `json:"system_certificate,omitempty"`
	// SystemNetwork says where it listens; default port 8443 of every address.
	SystemNetwork *OperationsCenterSystemNetwork `json:"system_network,omitempty"`
	// SystemSecurity says whom it trusts; default nobody but the certificates above.
	SystemSecurity *OperationsCenterSystemSecurity `json:"system_security,omitempty"`
	// SystemUpdates says where it takes releases from; default its own choice.
	SystemUpdates *OperationsCenterSystemUpdates `json:"system_updates,omitempty"`
	// SystemSettings are its other settings; default its own choice.
	SystemSettings *OperationsCenterSystemSettings `json:"system_settings,omitempty"`
}

// OperationsCenterSystemNetwork says where Operations Center listens.
type OperationsCenterSystemNetwork struct {
	// Address is the URL under which nodes reach it; default port 8443 of the management address.
	Address string `json:"address,omitempty"`
	// RestServerAddress is the address and port to listen on; default "[::]:8443".
	RestServerAddress string `json:"rest_server_address,omitempty"`
}

// OperationsCenterSystemUpdates says where it takes releases from.
type OperationsCenterSystemUpdates struct {
	// Source is the URL of the server that it takes releases from.
	Source string `json:"source,omitempty"`
	// SignatureVerificationRootCA is the PEM certificate that signatures of releases must lead to.
	SignatureVerificationRootCA string `json:"signature_verification_root_ca,omitempty"`
	// FilterExpression chooses among releases, in Operations Center's own language; default all.
	FilterExpression string `json:"filter_expression,omitempty"`
	// FileFilterExpression chooses among the files of a release, in Operations Center's own
	// language; default all.
	FileFilterExpression string `json:"file_filter_expression,omitempty"`
	// UpdatesDefaultChannel is the channel that new releases are put into, as "stable".
	UpdatesDefaultChannel string `json:"updates_default_channel,omitempty"`
	// ServerDefaultChannel is the channel that new nodes follow, as "stable".
	ServerDefaultChannel string `json:"server_default_channel,omitempty"`
	// ImageServerAuthenticationByQueryParam sends the token in the URL instead of a header;
	// default false.
	ImageServerAuthenticationByQueryParam bool `json:"image_server_authentication_by_query_param,omitempty"`
}

// OperationsCenterSystemSettings are its other settings.
type OperationsCenterSystemSettings struct {
	// LogLevel is how much is logged, as "INFO".
	LogLevel string `json:"log_level,omitempty"`
	// ServerRegistrationScriptlet is a program in Starlark that is run for each node that
	// registers; default none.
	ServerRegistrationScriptlet string `json:"server_registration_scriptlet,omitempty"`
}

// ServerCertificate is a server's TLS certificate with its key, PEM.
type ServerCertificate struct {
	// Certificate is PEM, with its chain behind.
	Certificate string `json:"certificate,omitempty"`
	// Key is the certificate's private key, PEM. It is secret.
	Key string `json:"key,omitempty" secret:"true"`
}

// SystemCertificate is a server's TLS certificate with its key and its CA, PEM.
type SystemCertificate struct {
	// Certificate is PEM, with its chain behind.
	Certificate string `json:"certificate,omitempty"`
	// Key is the certificate's private key, PEM. It is secret.
	Key string `json:"key,omitempty" secret:"true"`
	// CA is the PEM certificate of the authority; default none.
	CA string `json:"ca,omitempty"`
}

// SystemSecurity says whom a manager trusts.
type SystemSecurity struct {
	// TrustedTLSClientCertFingerprints are SHA-256 of DER certificates, hexadecimal.
	TrustedTLSClientCertFingerprints []string `json:"trusted_tls_client_cert_fingerprints,omitempty"`
	// TrustedHTTPSProxies are the addresses of proxies whose word about the client's address is
	// taken; default none.
	TrustedHTTPSProxies []string `json:"trusted_https_proxies,omitempty"`
	// OIDC lets people log in through an identity provider; default off.
	OIDC *OIDC `json:"oidc,omitempty"`
	// OpenFGA has another server decide who may do what; default off.
	OpenFGA *OpenFGA `json:"openfga,omitempty"`
	// ACME gets the server's certificate from an authority; default off.
	ACME *ACME `json:"acme,omitempty"`
}

// OperationsCenterSystemSecurity says whom Operations Center trusts.
type OperationsCenterSystemSecurity struct {
	// TrustedTLSClientCertFingerprints are SHA-256 of DER certificates, hexadecimal.
	TrustedTLSClientCertFingerprints []string `json:"trusted_tls_client_cert_fingerprints,omitempty"`
	// TrustedHTTPSProxies are the addresses of proxies whose word about the client's address is
	// taken; default none.
	TrustedHTTPSProxies []string `json:"trusted_https_proxies,omitempty"`
	// OIDC lets people log in through an identity provider; default off.
	OIDC *OIDC `json:"oidc,omitempty"`
	// OpenFGA has another server decide who may do what; default off.
	OpenFGA *OpenFGA `json:"openfga,omitempty"`
	// ACME gets the server's certificate from an authority; default off.
	ACME *OperationsCenterACME `json:"acme,omitempty"`
}

// OIDC is the login through an identity provider.
type OIDC struct {
	// Issuer is the URL of the identity provider.
	Issuer string `json:"issuer,omitempty"`
	// ClientID is the name under which the identity provider knows this server.
	ClientID string `json:"client_id,omitempty"`
	// Scopes are separated by commas.
	Scopes string `json:"scopes,omitempty"`
	// Audience is what a token must be made for; default not looked at.
	Audience string `json:"audience,omitempty"`
	// Claim is the part of a token that names the person, as "email".
	Claim string `json:"claim,omitempty"`
}

// OpenFGA is the server that decides who may do what.
type OpenFGA struct {
	// APIToken is shown to the OpenFGA server. It is secret.
	APIToken string `json:"api_token,omitempty" secret:"true"`
	// APIURL is where the OpenFGA server answers.
	APIURL string `json:"api_url,omitempty"`
	// StoreID names the store of the OpenFGA server to ask.
	StoreID string `json:"store_id,omitempty"`
}

// ACME gets the server's certificate from an authority.
type ACME struct {
	// AgreeTOS agrees to the authority's terms of service; without it no certificate is asked for.
	// Default false.
	AgreeTOS bool `json:"agree_tos,omitempty"`
	// CAURL is the directory of the authority; default that of Let's Encrypt.
	CAURL string `json:"ca_url,omitempty"`
	// Challenge is how the domain is proved, as "HTTP-01" or "DNS-01".
	Challenge string `json:"challenge,omitempty"`
	// Domain is the name that the certificate is for.
	Domain string `json:"domain,omitempty"`
	// Email is whom the authority writes to.
	Email string `json:"email,omitempty"`
	// HTTPChallengeAddress is the address and port that answers an HTTP challenge, as ":80".
	HTTPChallengeAddress string `json:"http_challenge_address,omitempty"`
	// Provider is the DNS service that answers a DNS challenge, by its name in lego.
	Provider string `json:"provider,omitempty"`
	// ProviderEnvironment are the DNS service's settings, each "NAME=VALUE". They may be secret.
	ProviderEnvironment []string `json:"provider_environment,omitempty" secret:"true"`
}

// OperationsCenterACME is ACME with name servers of its own.
type OperationsCenterACME struct {
	ACME
	// ProviderResolvers are the name servers that a DNS challenge looks names up with; default
	// the node's.
	ProviderResolvers []string `json:"provider_resolvers,omitempty"`
}
