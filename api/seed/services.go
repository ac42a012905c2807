package seed

// Services configures the node's services. Ceph and LINSTOR cannot be seeded.
type Services struct {
	Version   string     `json:"version,omitempty"`
	ISCSI     *ISCSI     `json:"iscsi,omitempty"`
	LVM       *LVM       `json:"lvm,omitempty"`
	Multipath *Multipath `json:"multipath,omitempty"`
	Netbird   *Netbird   `json:"netbird,omitempty"`
	NVMe      *NVMe      `json:"nvme,omitempty"`
	OVN       *OVN       `json:"ovn,omitempty"`
	Tailscale *Tailscale `json:"tailscale,omitempty"`
	USBIP     *USBIP     `json:"usbip,omitempty"`
}

// ISCSI connects to disks over iSCSI.
type ISCSI struct {
	// Enabled starts the service; default false.
	Enabled bool          `json:"enabled"`
	Targets []ISCSITarget `json:"targets,omitempty"`
}

// ISCSITarget is one target.
type ISCSITarget struct {
	// Target is the target's IQN.
	Target  string `json:"target"`
	Address string `json:"address"`
	Port    int    `json:"port"`
}

// LVM shares volume groups between nodes.
type LVM struct {
	// Enabled starts the service; default false.
	Enabled bool `json:"enabled"`
	// SystemID is the node's own number among those that share.
	SystemID int `json:"system_id"`
}

// Multipath joins several paths to a disk into one.
type Multipath struct {
	// Enabled starts the service; default false.
	Enabled bool `json:"enabled"`
	// WWNs are the disks, without the prefix "wwn-".
	WWNs []string `json:"wwns,omitempty"`
}

// Netbird joins a Netbird network.
type Netbird struct {
	// Enabled starts the service; default false.
	Enabled             bool     `json:"enabled"`
	SetupKey            string   `json:"setup_key,omitempty"`
	ManagementURL       string   `json:"management_url,omitempty"`
	AdminURL            string   `json:"admin_url,omitempty"`
	Anonymize           bool     `json:"anonymize,omitempty"`
	BlockInbound        bool     `json:"block_inbound,omitempty"`
	BlockLANAccess      bool     `json:"block_lan_access,omitempty"`
	DisableClientRoutes bool     `json:"disable_client_routes,omitempty"`
	DisableServerRoutes bool     `json:"disable_server_routes,omitempty"`
	DisableDNS          bool     `json:"disable_dns,omitempty"`
	DisableFirewall     bool     `json:"disable_firewall,omitempty"`
	DNSResolverAddress  string   `json:"dns_resolver_address,omitempty"`
	ExternalIPMap       []string `json:"external_ip_map,omitempty"`
	ExtraDNSLabels      []string `json:"extra_dns_labels,omitempty"`
}

// NVMe connects to disks over NVMe fabrics.
type NVMe struct {
	// Enabled starts the service; default false.
	Enabled bool         `json:"enabled"`
	Targets []NVMeTarget `json:"targets,omitempty"`
}

// NVMeTarget is one target.
type NVMeTarget struct {
	// Transport is "tcp" or "fc".
	Transport   string `json:"transport"`
	Address     string `json:"address"`
	HostAddress string `json:"host_address,omitempty"`
	Port        int    `json:"port"`
	// NQN names one subsystem; default all that the target offers.
	NQN string `json:"nqn,omitempty"`
}

// OVN makes the node a chassis of an OVN network.
type OVN struct {
	// Enabled starts the service; default false.
	Enabled bool `json:"enabled"`
	// ICChassis makes the node a gateway between OVN deployments; default false.
	ICChassis bool `json:"ic_chassis,omitempty"`
	// Database is the southbound database; needed when enabled.
	Database             string `json:"database"`
	TLSClientCertificate string `json:"tls_client_certificate,omitempty"`
	TLSClientKey         string `json:"tls_client_key,omitempty"`
	TLSCACertificate     string `json:"tls_ca_certificate,omitempty"`
	// TunnelAddress defaults to the first address of the role "cluster".
	TunnelAddress string `json:"tunnel_address,omitempty"`
	// TunnelProtocol defaults to "geneve".
	TunnelProtocol string `json:"tunnel_protocol,omitempty"`
}

// Tailscale joins a Tailscale network.
type Tailscale struct {
	// Enabled starts the service; default false.
	Enabled                bool     `json:"enabled"`
	LoginServer            string   `json:"login_server,omitempty"`
	AuthKey                string   `json:"auth_key,omitempty"`
	AcceptRoutes           bool     `json:"accept_routes,omitempty"`
	AcceptDNS              bool     `json:"accept_dns,omitempty"`
	AdvertisedRoutes       []string `json:"advertised_routes,omitempty"`
	AdvertiseExitNode      bool     `json:"advertise_exit_node,omitempty"`
	ExitNode               string   `json:"exit_node,omitempty"`
	ExitNodeAllowLANAccess bool     `json:"exit_node_allow_lan_access,omitempty"`
	ServeEnabled           bool     `json:"serve_enabled,omitempty"`
	// ServePort is the TCP port that the API is served at inside the network.
	ServePort    int    `json:"serve_port,omitempty"`
	ServeService string `json:"serve_service,omitempty"`
}

// USBIP attaches USB devices of other machines.
type USBIP struct {
	// Enabled starts the service; default false.
	Enabled bool          `json:"enabled"`
	Targets []USBIPTarget `json:"targets,omitempty"`
}

// USBIPTarget is one device.
type USBIPTarget struct {
	Address string `json:"address"`
	BusID   string `json:"bus_id"`
}
