package os

// FallbackListener is /1.0/system/fallback-listener: the way to the API when the
// application that usually passes requests on does not run.
type FallbackListener struct {
	// Config is what the owner asked for.
	Config FallbackListenerConfig `json:"config" yaml:"config"`
	// State is what the node observes; it is ignored in a request.
	State FallbackListenerState `json:"state" yaml:"state"`
}

// FallbackListenerConfig says where it listens, and to whom.
type FallbackListenerConfig struct {
	// ListenAddress is an IP address and a port, as "192.0.2.10:8443" or "[::]:8443";
	// default: all addresses, and a port that the kernel chooses and the log names.
	ListenAddress string `json:"listen_address,omitempty" yaml:"listen_address,omitempty"`
	// TrustedClientCertificates are PEM certificates, one in each string, at least one
	// and at most 100. Whoever has the key of one of them is let in.
	TrustedClientCertificates []string `json:"trusted_client_certificates,omitempty" yaml:"trusted_client_certificates,omitempty"`
}

// FallbackListenerState is what the node observes.
type FallbackListenerState struct {
	// Active is true while it listens.
	Active bool `json:"active" yaml:"active"`
	// Address is where it listens, with the port; empty while it does not.
	Address string `json:"address,omitempty" yaml:"address,omitempty"`
}
