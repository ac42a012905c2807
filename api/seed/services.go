package seed

// Services configures the node's services. Ceph and LINSTOR cannot be seeded.
type Services struct {
	// Version is kept and not interpreted; default empty.
	Version string `json:"version,omitempty"`
	// ISCSI connects to disks over iSCSI; default off.
	ISCSI *ISCSI `json:"iscsi,omitempty"`
	// LVM shares volume groups between nodes; default off.
	LVM *LVM `json:"lvm,omitempty"`
	// Multipath joins several paths to a disk into one; default off.
	Multipath *Multipath `json:"multipath,omitempty"`
	// Netbird joins a Netbird network; default off.
	Netbird *Netbird `json:"netbird,omitempty"`
	// NVMe connects to disks over NVMe fabrics; default off.
	NVMe *NVMe `json:"nvme,omitempty"`
	// OVN makes the node a chassis of an OVN network; default off.
	OVN *OVN `json:"ovn,omitempty"`
	// Tailscale joins a Tailscale network; default off.
	Tailscale *Tailscale `json:"tailscale,omitempty"`
	// USBIP attaches USB devices of other machines; default off.
	USBIP *USBIP `json:"usbip,omitempty"`
}

// ISCSI connects to disks over iSCSI.
type ISCSI struct {
	// Enabled starts the service; default false.
	Enabled bool `json:"enabled"`
	// Targets are what the node logs in to; default none.
	Targets []ISCSITarget `json:"targets,omitempty"`
}

// ISCSITarget is one target.
type ISCSITarget struct {
	// Target is the target's IQN.
	Target string `json:"target"`
	// Address is the IP address or name of the portal.
	Address string `json:"address"`
	// Port is the TCP port of the portal; usually 3260.
	Port int `json:"port"`
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
	Enabled bool `json:"enabled"`
	// SetupKey lets the node join without a person. It is secret.
	SetupKey string `json:"setup_key,omitempty" secret:"true"`
	// ManagementURL is the management server's; default that of Netbird's makers.
	ManagementURL string `json:"management_url,omitempty"`
	// AdminURL is that of the server's pages for people; default that of Netbird's makers.
	AdminURL string `json:"admin_url,omitempty"`
	// Anonymize leaves addresses and names out of logs; default false.
	Anonymize bool `json:"anonymize,omitempty"`
	// BlockInbound refuses connections from the network to the node; default false.
	BlockInbound bool `json:"block_inbound,omitempty"`
	// BlockLANAccess keeps the network out of the node's own one, when the node is a router of it;
	// default false.
	BlockLANAccess bool `json:"block_lan_access,omitempty"`
	// DisableClientRoutes takes no routes from the management server; default false.
	DisableClientRoutes bool `json:"disable_client_routes,omitempty"`
	// DisableServerRoutes never lets the node be a router; default false.
	DisableServerRoutes bool `json:"disable_server_routes,omitempty"`
	// DisableDNS leaves the node's resolver alone; default false.
	DisableDNS bool `json:"disable_dns,omitempty"`
	// DisableFirewall leaves the node's packet filter alone; default false.
	DisableFirewall bool `json:"disable_firewall,omitempty"`
	// DNSResolverAddress is the address and port of Netbird's own resolver on the node; default
	// its own choice.
	DNSResolverAddress string `json:"dns_resolver_address,omitempty"`
	// ExternalIPMap are the node's addresses as others see them, each "EXTERNAL" or
	// "EXTERNAL/INTERNAL"; default none.
	ExternalIPMap []string `json:"external_ip_map,omitempty"`
	// ExtraDNSLabels are further names of the node inside the network; default none.
	ExtraDNSLabels []string `json:"extra_dns_labels,omitempty"`
}

// NVMe connects to disks over NVMe fabrics.
type NVMe struct {
	// Enabled starts the service; default false.
	Enabled bool `json:"enabled"`
	// Targets are what the node connects to; default none.
	Targets []NVMeTarget `json:"targets,omitempty"`
}

// NVMeTarget is one target.
type NVMeTarget struct {
	// Transport is "tcp" or "fc".
	Transport string `json:"transport"`
	// Address is the target's IP address, or its Fibre Channel name.
	Address string `json:"address"`
	// HostAddress is the node's own address to connect from; for "fc" default every port.
	HostAddress string `json:"host_address,omitempty"`
	// Port is the TCP port of the target; usually 4420, or 8009 to discover.
	Port int `json:"port"`
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
	Database string `json:"database"`
	// TLSClientCertificate is the PEM certificate that the node shows; default none.
	TLSClientCertificate string `json:"tls_client_certificate,omitempty"`
	// TLSClientKey is its private key, PEM. It is secret.
	TLSClientKey string `json:"tls_client_key,omitempty" secret:"true"`
	// TLSCACertificate is the PEM certificate that must have signed the database's; default none.
	TLSCACertificate string `json:"tls_ca_certificate,omitempty"`
	// TunnelAddress defaults to the first address of the role "cluster".
	TunnelAddress string `json:"tunnel_address,omitempty"`
	// TunnelProtocol defaults to "geneve".
	TunnelProtocol string `json:"tunnel_protocol,omitempty"`
}

// Tailscale joins a Tailscale network.
type Tailscale struct {
	// Enabled starts the service; default false.
	Enabled bool `json:"enabled"`
	// LoginServer is the URL of the control server; default that of Tailscale's makers.
	LoginServer string `json:"login_server,omitempty"`
	// AuthKey lets the node join without a person. It is secret.
	AuthKey string `json:"auth_key,omitempty" secret:"true"`
	// AcceptRoutes takes the routes that others advertise; default false.
	AcceptRoutes bool `json:"accept_routes,omitempty"`
	// AcceptDNS takes the resolvers of the network; default false.
	AcceptDNS bool `json:"accept_dns,omitempty"`
	// AdvertisedRoutes are CIDRs that others may reach through the node; default none.
	AdvertisedRoutes []string `json:"advertised_routes,omitempty"`
	// AdvertiseExitNode offers the node as a way to the internet; default false.
	AdvertiseExitNode bool `json:"advertise_exit_node,omitempty"`
	// ExitNode is the name or address of the machine that all traffic goes through; default none.
	ExitNode string `json:"exit_node,omitempty"`
	// ExitNodeAllowLANAccess still reaches the node's own network beside an exit node; default
	// false.
	ExitNodeAllowLANAccess bool `json:"exit_node_allow_lan_access,omitempty"`
	// ServeEnabled serves the node's API inside the network; default false.
	ServeEnabled bool `json:"serve_enabled,omitempty"`
	// ServePort is the TCP port that the API is served at inside the network.
	ServePort int `json:"serve_port,omitempty"`
	// ServeService is the Tailscale service that the API is served as, as "svc:incus"; default the
	// node itself.
	ServeService string `json:"serve_service,omitempty"`
}

// USBIP attaches USB devices of other machines.
type USBIP struct {
	// Enabled starts the service; default false.
	Enabled bool `json:"enabled"`
	// Targets are the devices to attach; default none.
	Targets []USBIPTarget `json:"targets,omitempty"`
}

// USBIPTarget is one device.
type USBIPTarget struct {
	// Address is the IP address or name of the machine that has the device.
	Address string `json:"address"`
	// BusID is the device's place on that machine, as "1-1.2".
	BusID string `json:"bus_id"`
}
