package os

// Logging is /1.0/system/logging.
type Logging struct {
	// Config is what the owner asked for.
	Config LoggingConfig `json:"config" yaml:"config"`
	// State is what the node observes; it is ignored in a request.
	State LoggingState `json:"state" yaml:"state"`
}

// LoggingConfig is where the node's log goes besides its own disk.
type LoggingConfig struct {
	// Syslog is a server that gets every line; default none.
	Syslog LoggingSyslog `json:"syslog" yaml:"syslog"`
}

// LoggingSyslog is a syslog server.
type LoggingSyslog struct {
	// Address is the server with its port, as "192.0.2.7:514", "[2001:db8::7]:6514" or
	// "logs.example.org:514"; empty, the default, sends nothing. Without a port it is
	// 514, with tls 6514.
	Address string `json:"address" yaml:"address"`
	// Protocol is "udp", "tcp" or "tls"; default "udp".
	Protocol string `json:"protocol" yaml:"protocol"`
	// LogFormat is "rfc5424", "rfc3164" (the traditional line) or "rfc3339" (the
	// traditional line with a precise time); default "rfc5424".
	LogFormat string `json:"log_format" yaml:"log_format"`
	// TLSCertificateAuthority are PEM certificates, for tls only: the server's
	// certificate must come from one of them. Default: those that the node trusts.
	TLSCertificateAuthority string `json:"tls_certificate_authority,omitempty" yaml:"tls_certificate_authority,omitempty"`
	// TLSServerName is the name that must be in the server's certificate, for tls only.
	// Default: the host of Address; needed where that is an IP address.
	TLSServerName string `json:"tls_server_name,omitempty" yaml:"tls_server_name,omitempty"`
}

// LoggingState is what the node observes.
type LoggingState struct {
	// Forwarder is the systemd state of the program that sends the log, as "active",
	// "inactive" or "failed".
	Forwarder string `json:"forwarder,omitempty" yaml:"forwarder,omitempty"`
}
