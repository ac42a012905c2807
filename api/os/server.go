package os

// Server is the answer of GET /1.0.
type Server struct {
	// Environment names the node and what runs on it.
	Environment Environment `json:"environment" yaml:"environment"`
}

// Environment names the node and what runs on it.
type Environment struct {
	// Hostname is the node's name, without domain.
	Hostname string `json:"hostname" yaml:"hostname"`
	// MachineID is the content of /etc/machine-id: 32 lower-case hexadecimal digits.
	MachineID string `json:"machine_id" yaml:"machine_id"`
	// OSName is NAME of os-release.
	OSName string `json:"os_name" yaml:"os_name"`
	// OSVersion is the release that is running: a UTC time as YYYYMMDDhhmm.
	OSVersion string `json:"os_version" yaml:"os_version"`
	// OSVersionNext is the release that runs after the next reboot, empty when it is the same.
	OSVersionNext string `json:"os_version_next" yaml:"os_version_next"`
	// OSVersionAlternate is the release in the other slot, left out when that slot is empty.
	OSVersionAlternate string `json:"os_version_alternate,omitempty" yaml:"os_version_alternate,omitempty"`
	// SystemIsReady is true once every phase of boot has ended well.
	SystemIsReady bool `json:"system_is_ready" yaml:"system_is_ready"`
	// Uptime is the time since the kernel started, in seconds.
	Uptime int64 `json:"uptime" yaml:"uptime"`
}
