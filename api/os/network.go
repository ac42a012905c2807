package os

// Network is /1.0/system/network.
type Network struct {
	// Config is what the owner asked for; secrets are hidden in it.
	Config *NetworkConfig `json:"config" yaml:"config"`
	// State is what the node observes now.
	State NetworkState `json:"state" yaml:"state"`
}

// NetworkConfig is what the owner asked for. It is also the seed named "network".
type NetworkConfig struct {
	// ConfirmationTimeout is a positive Go duration, as "2m". When it is set, a change
	// is taken back unless it is confirmed in that time. It is for one PUT and never
	// shown. Default: none, the change stays.
	ConfirmationTimeout string `json:"confirmation_timeout,omitempty" yaml:"confirmation_timeout,omitempty"`
	// DNS names the node and its resolvers; default: a name of the machine's own, and
	// the resolvers that DHCP and router advertisements give.
	DNS *NetworkDNS `json:"dns,omitempty" yaml:"dns,omitempty"`
	// Time is where the node takes its time from; default: UTC and built-in servers.
	Time *NetworkTime `json:"time,omitempty" yaml:"time,omitempty"`
	// Proxy says through which proxies the node reaches the web; default: none.
	Proxy *NetworkProxy `json:"proxy,omitempty" yaml:"proxy,omitempty"`
	// Firewall holds what is for all devices; default: accept what no rule speaks of.
	Firewall *NetworkFirewall `json:"firewall,omitempty" yaml:"firewall,omitempty"`
	// ForwardingRules say what the node forwards between its own devices, the first
	// that matches; at most 256. Default: nothing is forwarded between two of them.
	ForwardingRules []NetworkForwardingRule `json:"forwarding_rules,omitempty" yaml:"forwarding_rules,omitempty"`
	// Interfaces are single network cards. With bonds, VLANs and WireGuard devices
	// there are at most 256. Without interface and bond each card asks for an address over
	// DHCPv4 and router advertisements, also beside WireGuard devices.
	Interfaces []NetworkInterface `json:"interfaces,omitempty" yaml:"interfaces,omitempty"`
	// Bonds are several cards as one.
	Bonds []NetworkBond `json:"bonds,omitempty" yaml:"bonds,omitempty"`
	// VLANs are the node's own devices on a VLAN of an interface or bond.
	VLANs []NetworkVLAN `json:"vlans,omitempty" yaml:"vlans,omitempty"`
	// Wireguard are encrypted tunnels.
	Wireguard []NetworkWireguard `json:"wireguard,omitempty" yaml:"wireguard,omitempty"`
}

// NetworkDNS names the node and its resolvers.
type NetworkDNS struct {
	// Domain is put behind the host name and searched; it needs a host name.
	Domain string `json:"domain" yaml:"domain"`
	// Hostname is a name without dots, at most 63 characters. Default: the UUID of the
	// machine.
	Hostname string `json:"hostname" yaml:"hostname"`
	// Nameservers are addresses, with a port or "#name" behind where needed; at most 256.
	Nameservers []string `json:"nameservers,omitempty" yaml:"nameservers,omitempty"`
	// SearchDomains are tried behind short names; at most 256.
	SearchDomains []string `json:"search_domains,omitempty" yaml:"search_domains,omitempty"`
	// DNSOverTLS encrypts what is asked of the nameservers, and asks nothing when they
	// cannot; default false.
	DNSOverTLS bool `json:"dns_over_tls,omitempty" yaml:"dns_over_tls,omitempty"`
}

// NetworkTime is where the node takes its time from.
type NetworkTime struct {
	// NTPServers are names or addresses, at most 256; default: those built in.
	NTPServers []string `json:"ntp_servers,omitempty" yaml:"ntp_servers,omitempty"`
	// Timezone is a name of the IANA database; default "UTC".
	Timezone string `json:"timezone,omitempty" yaml:"timezone,omitempty"`
}

// NetworkProxy says through which proxies the node reaches the web.
type NetworkProxy struct {
	// Servers are the proxies by a name of the owner's; "direct" and "none" are not free.
	// At most 256.
	Servers map[string]NetworkProxyServer `json:"servers,omitempty" yaml:"servers,omitempty"`
	// Rules say which destination goes where, the first that matches; at most 256.
	// Default: everything goes to the first server by name, or directly when there is none.
	Rules []NetworkProxyRule `json:"rules,omitempty" yaml:"rules,omitempty"`
}

// NetworkProxyServer is one proxy.
type NetworkProxyServer struct {
	// Auth is "anonymous", "basic" or "kerberos".
	Auth string `json:"auth" yaml:"auth"`
	// Host is a name or address, with ":port" behind where needed, and "http://" or
	// "https://" before, which decides UseTLS. Default port: 80, with TLS 443.
	Host string `json:"host" yaml:"host"`
	// Username is for the auths "basic" and "kerberos", which need one.
	Username string `json:"username,omitempty" yaml:"username,omitempty"`
	// Password is for the auths "basic" and "kerberos", which need one. It is shown
	// hidden.
	Password string `json:"password,omitempty" yaml:"password,omitempty" secret:"true"`
	// Realm is the Kerberos realm, which the auth "kerberos" needs.
	Realm string `json:"realm,omitempty" yaml:"realm,omitempty"`
	// UseTLS encrypts what goes to the proxy; default false.
	UseTLS bool `json:"use_tls" yaml:"use_tls"`
}

// NetworkProxyRule says where requests to a destination go.
type NetworkProxyRule struct {
	// Destination is a host name with "*" for any text; "|" separates several.
	Destination string `json:"destination" yaml:"destination"`
	// Target is the name of a server, "direct" for no proxy, or "none" to refuse.
	Target string `json:"target" yaml:"target"`
}

// NetworkFirewall holds what is for all devices.
type NetworkFirewall struct {
	// InputPolicy says what becomes of packets for the node that no firewall rule speaks
	// of: "accept" or "drop". Default "accept". With "drop" answers to the node, ICMP and
	// DHCP still come in, and what Incus lets in on its own bridges.
	InputPolicy string `json:"input_policy,omitempty" yaml:"input_policy,omitempty"`
}

// NetworkFirewallRule decides on packets for the node that come in at one device.
type NetworkFirewallRule struct {
	// Action is "accept", "drop" or "reject".
	Action string `json:"action" yaml:"action"`
	// Source is an address or CIDR; default: any.
	Source string `json:"source,omitempty" yaml:"source,omitempty"`
	// Protocol is "tcp" or "udp", together with Port; default: any.
	Protocol string `json:"protocol,omitempty" yaml:"protocol,omitempty"`
	// Port is that of the node, 1 to 65535, together with Protocol; default: any.
	Port int `json:"port,omitempty" yaml:"port,omitempty"`
}

// NetworkForwardingRule decides on packets that the node forwards from one of its
// devices to another. Answers to what a rule accepts pass as well.
type NetworkForwardingRule struct {
	// Action is "accept", "drop" or "reject".
	Action string `json:"action" yaml:"action"`
	// From is the configured name of the device at which a packet comes in.
	From string `json:"from" yaml:"from"`
	// To is the configured name of the device at which it goes out.
	To string `json:"to" yaml:"to"`
	// Protocol is "tcp" or "udp", together with Port; default: any.
	Protocol string `json:"protocol,omitempty" yaml:"protocol,omitempty"`
	// Port is that of the destination, 1 to 65535, together with Protocol; default: any.
	Port int `json:"port,omitempty" yaml:"port,omitempty"`
	// Source is an address or CIDR; default: any.
	Source string `json:"source,omitempty" yaml:"source,omitempty"`
	// Destination is an address or CIDR of Source's family; default: any.
	Destination string `json:"destination,omitempty" yaml:"destination,omitempty"`
}

// NetworkInterface is one network card.
type NetworkInterface struct {
	// Name is at most 13 characters.
	Name string `json:"name" yaml:"name"`
	// Hwaddr is the card's MAC address, or the kernel's name of it.
	Hwaddr string `json:"hwaddr" yaml:"hwaddr"`
	// Addresses are "dhcp4", "dhcp6", "slaac", or an address with its prefix length; at
	// most 256. Default: none, the device is for instances alone.
	Addresses []string `json:"addresses,omitempty" yaml:"addresses,omitempty"`
	// Routes are static; at most 256.
	Routes []NetworkRoute `json:"routes,omitempty" yaml:"routes,omitempty"`
	// Roles are "management", "cluster", "instances", "storage".
	Roles []string `json:"roles,omitempty" yaml:"roles,omitempty"`
	// MTU is 1280 to 9000 bytes, lowered to what the card takes. Default: 1500, or what
	// DHCP says.
	MTU int `json:"mtu,omitempty" yaml:"mtu,omitempty"`
	// VLANTags are VLAN ids, 1 to 4094, that instances may use on the device. Those of
	// the VLANs configured on it need not be given.
	VLANTags []int `json:"vlan_tags,omitempty" yaml:"vlan_tags,omitempty"`
	// LLDP tells the neighbours about the node; default false. Neighbours are listened to
	// in any case.
	LLDP bool `json:"lldp,omitempty" yaml:"lldp,omitempty"`
	// RequiredForOnline says what the device must have for the node to be online:
	// "ipv4", "ipv6", "both", "any", or "no". Default "any"; "no" without addresses.
	RequiredForOnline string `json:"required_for_online,omitempty" yaml:"required_for_online,omitempty"`
	// StrictHwaddr lets frames out with the card's own MAC address alone, for switches
	// that block a port with several; default false. Instances then cannot be reached
	// through the device.
	StrictHwaddr bool `json:"strict_hwaddr,omitempty" yaml:"strict_hwaddr,omitempty"`
	// FirewallRules decide on packets for the node, the first that matches; at most 256.
	FirewallRules []NetworkFirewallRule `json:"firewall_rules,omitempty" yaml:"firewall_rules,omitempty"`
	// Ethernet are options of the card; default: the driver's.
	Ethernet *NetworkEthernet `json:"ethernet,omitempty" yaml:"ethernet,omitempty"`
}

// NetworkBond is several network cards as one.
type NetworkBond struct {
	// Name is at most 13 characters.
	Name string `json:"name" yaml:"name"`
	// Mode is "balance-rr", "active-backup", "balance-xor", "broadcast", "802.3ad",
	// "balance-tlb" or "balance-alb".
	Mode string `json:"mode" yaml:"mode"`
	// Members are the cards by MAC address or kernel name, 1 to 256.
	Members []string `json:"members,omitempty" yaml:"members,omitempty"`
	// Hwaddr is the MAC address of the node on the bond; default: that of the first
	// member.
	Hwaddr string `json:"hwaddr,omitempty" yaml:"hwaddr,omitempty"`
	// Addresses are as those of an interface.
	Addresses []string `json:"addresses,omitempty" yaml:"addresses,omitempty"`
	// Routes are static; at most 256.
	Routes []NetworkRoute `json:"routes,omitempty" yaml:"routes,omitempty"`
	// Roles are "management", "cluster", "instances", "storage".
	Roles []string `json:"roles,omitempty" yaml:"roles,omitempty"`
	// MTU is 1280 to 9000 bytes, lowered to what all members take. Default: 1500, or what
	// DHCP says.
	MTU int `json:"mtu,omitempty" yaml:"mtu,omitempty"`
	// VLANTags are VLAN ids, 1 to 4094, that instances may use on the bond.
	VLANTags []int `json:"vlan_tags,omitempty" yaml:"vlan_tags,omitempty"`
	// LLDP tells the neighbours of the members about the node; default false.
	LLDP bool `json:"lldp,omitempty" yaml:"lldp,omitempty"`
	// RequiredForOnline is as that of an interface.
	RequiredForOnline string `json:"required_for_online,omitempty" yaml:"required_for_online,omitempty"`
	// FirewallRules decide on packets for the node, the first that matches; at most 256.
	FirewallRules []NetworkFirewallRule `json:"firewall_rules,omitempty" yaml:"firewall_rules,omitempty"`
	// Ethernet are options of all members; default: the driver's.
	Ethernet *NetworkEthernet `json:"ethernet,omitempty" yaml:"ethernet,omitempty"`
}

// NetworkVLAN is the node's own device on a VLAN.
type NetworkVLAN struct {
	// Name is at most 13 characters.
	Name string `json:"name" yaml:"name"`
	// Parent is the name of an interface or bond.
	Parent string `json:"parent" yaml:"parent"`
	// ID is the VLAN id, 0 to 4094. 0 marks frames with a priority but no VLAN.
	ID int `json:"id" yaml:"id"`
	// Addresses are as those of an interface.
	Addresses []string `json:"addresses,omitempty" yaml:"addresses,omitempty"`
	// Routes are static; at most 256.
	Routes []NetworkRoute `json:"routes,omitempty" yaml:"routes,omitempty"`
	// Roles are "management", "cluster", "instances", "storage".
	Roles []string `json:"roles,omitempty" yaml:"roles,omitempty"`
	// MTU is 1280 to 9000 bytes, lowered to what the parent has. Default: 1500.
	MTU int `json:"mtu,omitempty" yaml:"mtu,omitempty"`
	// RequiredForOnline is as that of an interface.
	RequiredForOnline string `json:"required_for_online,omitempty" yaml:"required_for_online,omitempty"`
	// FirewallRules decide on packets for the node, the first that matches; at most 256.
	FirewallRules []NetworkFirewallRule `json:"firewall_rules,omitempty" yaml:"firewall_rules,omitempty"`
}

// NetworkWireguard is an encrypted tunnel to peers.
type NetworkWireguard struct {
	// Name is at most 13 characters.
	Name string `json:"name" yaml:"name"`
	// PrivateKey is 32 bytes in base64. Default: the one kept for a device of that name, or
	// one that the node makes. It is shown hidden.
	PrivateKey string `json:"private_key,omitempty" yaml:"private_key,omitempty" secret:"true"`
	// Port is the UDP port to listen on, 1 to 65535; default: one that is free.
	Port int `json:"port,omitempty" yaml:"port,omitempty"`
	// Peers are the other ends; at most 256.
	Peers []NetworkWireguardPeer `json:"peers,omitempty" yaml:"peers,omitempty"`
	// Addresses are addresses with their prefix lengths; at most 256.
	Addresses []string `json:"addresses,omitempty" yaml:"addresses,omitempty"`
	// Routes are static; at most 256.
	Routes []NetworkRoute `json:"routes,omitempty" yaml:"routes,omitempty"`
	// Roles are "management", "cluster", "instances", "storage".
	Roles []string `json:"roles,omitempty" yaml:"roles,omitempty"`
	// MTU is 1280 to 9000 bytes; default 1420, what fits into 1500 over IPv6.
	MTU int `json:"mtu,omitempty" yaml:"mtu,omitempty"`
	// RequiredForOnline is as that of an interface, but "no" by default: the device has
	// its addresses whether or not a peer answers.
	RequiredForOnline string `json:"required_for_online,omitempty" yaml:"required_for_online,omitempty"`
	// FirewallRules decide on packets for the node, the first that matches; at most 256.
	FirewallRules []NetworkFirewallRule `json:"firewall_rules,omitempty" yaml:"firewall_rules,omitempty"`
}

// NetworkWireguardPeer is the other end of a tunnel.
type NetworkWireguardPeer struct {
	// PublicKey is 32 bytes in base64, no two peers of a device with the same.
	PublicKey string `json:"public_key" yaml:"public_key"`
	// AllowedIPs are the CIDRs that are sent to the peer and taken from it; at most 256.
	AllowedIPs []string `json:"allowed_ips" yaml:"allowed_ips"`
	// Endpoint is host:port; default: the peer has to call first.
	Endpoint string `json:"endpoint,omitempty" yaml:"endpoint,omitempty"`
	// PresharedKey is 32 bytes in base64; default: none. It is shown hidden.
	PresharedKey string `json:"preshared_key,omitempty" yaml:"preshared_key,omitempty" secret:"true"`
	// PersistentKeepalive is after how many seconds without traffic a packet is sent, 1
	// to 65535; default 0, never.
	PersistentKeepalive int `json:"persistent_keepalive,omitempty" yaml:"persistent_keepalive,omitempty"`
}

// NetworkEthernet are options of a network card.
type NetworkEthernet struct {
	// DisableEnergyEfficient turns Energy-Efficient Ethernet off; default false.
	DisableEnergyEfficient bool `json:"disable_energy_efficient,omitempty" yaml:"disable_energy_efficient,omitempty"`
	// DisableGRO turns generic receive offload off, in the card as well; default false.
	DisableGRO bool `json:"disable_gro,omitempty" yaml:"disable_gro,omitempty"`
	// DisableGSO turns generic segmentation offload off; default false.
	DisableGSO bool `json:"disable_gso,omitempty" yaml:"disable_gso,omitempty"`
	// DisableIPv4TSO turns TCP segmentation offload off for IPv4; default false.
	DisableIPv4TSO bool `json:"disable_ipv4_tso,omitempty" yaml:"disable_ipv4_tso,omitempty"`
	// DisableIPv6TSO turns TCP segmentation offload off for IPv6; default false.
	DisableIPv6TSO bool `json:"disable_ipv6_tso,omitempty" yaml:"disable_ipv6_tso,omitempty"`
	// WakeOnLAN lets the card start the machine; default false.
	WakeOnLAN bool `json:"wakeonlan,omitempty" yaml:"wakeonlan,omitempty"`
	// WakeOnLANModes are what starts it: "phy", "unicast", "multicast", "broadcast",
	// "arp", "magic", "secureon". Default "magic". They need WakeOnLAN.
	WakeOnLANModes []string `json:"wakeonlan_modes,omitempty" yaml:"wakeonlan_modes,omitempty"`
	// WakeOnLANPassword is six bytes in the form of a MAC address, for the mode
	// "secureon", which needs one. It is shown hidden.
	WakeOnLANPassword string `json:"wakeonlan_password,omitempty" yaml:"wakeonlan_password,omitempty" secret:"true"`
}

// NetworkRoute is a static route.
type NetworkRoute struct {
	// To is a CIDR.
	To string `json:"to" yaml:"to"`
	// Via is an address, or "dhcp4", "dhcp6", "slaac" for the gateway learnt there.
	Via string `json:"via" yaml:"via"`
}

// NetworkState is what the node observes.
type NetworkState struct {
	// Interfaces are the devices by configured name, loopback left out.
	Interfaces map[string]NetworkInterfaceState `json:"interfaces" yaml:"interfaces"`
	// ConfigurationInProcess is true while a change is being applied.
	ConfigurationInProcess bool `json:"configuration_in_process" yaml:"configuration_in_process"`
}

// NetworkInterfaceState is one observed device.
type NetworkInterfaceState struct {
	// Type is "interface", "bond", "bond_member", "vlan", "wireguard", or "physical" for
	// a card that is not configured.
	Type string `json:"type,omitempty" yaml:"type,omitempty"`
	// State is networkd's operational state, as "routable".
	State string `json:"state" yaml:"state"`
	// Addresses leave out link-local ones.
	Addresses []string `json:"addresses,omitempty" yaml:"addresses,omitempty"`
	// Hwaddr is the MAC address; empty for WireGuard.
	Hwaddr string `json:"hwaddr,omitempty" yaml:"hwaddr,omitempty"`
	// MTU is in bytes.
	MTU int `json:"mtu,omitempty" yaml:"mtu,omitempty"`
	// Speed is in Mbit/s, or "unknown".
	Speed string `json:"speed,omitempty" yaml:"speed,omitempty"`
	// Roles are those configured, and those given to devices when nobody configured any.
	Roles []string `json:"roles,omitempty" yaml:"roles,omitempty"`
	// Routes are those through a gateway.
	Routes []NetworkRoute `json:"routes,omitempty" yaml:"routes,omitempty"`
	// Stats count traffic.
	Stats NetworkStatistic `json:"stats" yaml:"stats"`
	// LLDP are the neighbours that made themselves known on the card.
	LLDP []NetworkLLDP `json:"lldp,omitempty" yaml:"lldp,omitempty"`
	// LACP is for a member of a bond of the mode "802.3ad".
	LACP *NetworkLACP `json:"lacp,omitempty" yaml:"lacp,omitempty"`
	// Members are the cards of a bond by device name, as "_p525400123456".
	Members map[string]NetworkInterfaceState `json:"members,omitempty" yaml:"members,omitempty"`
	// Wireguard is for WireGuard devices.
	Wireguard *NetworkWireguardState `json:"wireguard,omitempty" yaml:"wireguard,omitempty"`
}

// NetworkStatistic counts traffic since the device appeared.
type NetworkStatistic struct {
	// RXBytes is what was received, in bytes.
	RXBytes uint64 `json:"rx_bytes" yaml:"rx_bytes"`
	// RXErrors is how many packets were received broken.
	RXErrors uint64 `json:"rx_errors" yaml:"rx_errors"`
	// TXBytes is what was sent, in bytes.
	TXBytes uint64 `json:"tx_bytes" yaml:"tx_bytes"`
	// TXErrors is how many packets could not be sent.
	TXErrors uint64 `json:"tx_errors" yaml:"tx_errors"`
}

// NetworkLLDP is a neighbour, as a switch, that made itself known.
type NetworkLLDP struct {
	// ChassisID is the neighbour's identity, most often a MAC address.
	ChassisID string `json:"chassis_id" yaml:"chassis_id"`
	// Name is the neighbour's name.
	Name string `json:"name" yaml:"name"`
	// PortID is the neighbour's port that the cable is in.
	PortID string `json:"port_id" yaml:"port_id"`
	// Port is that port in words; empty when the neighbour gives none.
	Port string `json:"port,omitempty" yaml:"port,omitempty"`
}

// NetworkLACP is what the two ends of a link of a bond know of each other.
type NetworkLACP struct {
	// LocalMAC is the node's system address; all members of a bond must have the same.
	LocalMAC string `json:"local_mac" yaml:"local_mac"`
	// RemoteMAC is the switch's; all members of a bond must see the same.
	RemoteMAC string `json:"remote_mac" yaml:"remote_mac"`
}

// NetworkWireguardState is an observed WireGuard device.
type NetworkWireguardState struct {
	// ListeningPort is the UDP port in use.
	ListeningPort int `json:"listening_port,omitempty" yaml:"listening_port,omitempty"`
	// PublicKey is what peers must be given, 32 bytes in base64.
	PublicKey string `json:"public_key" yaml:"public_key"`
	// Peers are the other ends.
	Peers []NetworkWireguardPeerState `json:"peers,omitempty" yaml:"peers,omitempty"`
}

// NetworkWireguardPeerState is an observed peer.
type NetworkWireguardPeerState struct {
	// PublicKey is the peer's, 32 bytes in base64.
	PublicKey string `json:"public_key" yaml:"public_key"`
	// Endpoint is where the peer was last seen; empty when it was not.
	Endpoint string `json:"endpoint" yaml:"endpoint"`
	// AllowedIPs are the CIDRs that are sent to the peer and taken from it.
	AllowedIPs []string `json:"allowed_ips" yaml:"allowed_ips"`
	// LatestHandshake is the time of the last handshake, in RFC 3339; empty when there
	// was none.
	LatestHandshake string `json:"latest_handshake,omitempty" yaml:"latest_handshake,omitempty"`
	// PersistentKeepalive is in seconds, as digits; empty when it is off.
	PersistentKeepalive string `json:"persistent_keepalive,omitempty" yaml:"persistent_keepalive,omitempty"`
	// Stats count traffic with the peer; errors are not counted and stay 0.
	Stats NetworkStatistic `json:"stats" yaml:"stats"`
}
