package os

// Network is /1.0/system/network.
type Network struct {
	Config *NetworkConfig `json:"config" yaml:"config"`
	State  NetworkState   `json:"state" yaml:"state"`
}

// NetworkConfig is what the owner asked for. It is also the seed named "network".
type NetworkConfig struct {
	DNS        *NetworkDNS        `json:"dns,omitempty" yaml:"dns,omitempty"`
	Time       *NetworkTime       `json:"time,omitempty" yaml:"time,omitempty"`
	Interfaces []NetworkInterface `json:"interfaces,omitempty" yaml:"interfaces,omitempty"`
}

// NetworkDNS names the node and its resolvers.
type NetworkDNS struct {
	Domain        string   `json:"domain" yaml:"domain"`
	Hostname      string   `json:"hostname" yaml:"hostname"`
	Nameservers   []string `json:"nameservers,omitempty" yaml:"nameservers,omitempty"`
	SearchDomains []string `json:"search_domains,omitempty" yaml:"search_domains,omitempty"`
	DNSOverTLS    bool     `json:"dns_over_tls,omitempty" yaml:"dns_over_tls,omitempty"`
}

// NetworkTime is where the node takes its time from.
type NetworkTime struct {
	NTPServers []string `json:"ntp_servers,omitempty" yaml:"ntp_servers,omitempty"`
	// Timezone is a name of the IANA database; default "UTC".
	Timezone string `json:"timezone,omitempty" yaml:"timezone,omitempty"`
}

// NetworkInterface is one network card.
type NetworkInterface struct {
	// Name is at most 13 characters.
	Name string `json:"name" yaml:"name"`
	// Hwaddr is the card's MAC address, or the kernel's name of it.
	Hwaddr string `json:"hwaddr" yaml:"hwaddr"`
	// Addresses are "dhcp4", "dhcp6", "slaac", or an address with its prefix length.
	Addresses []string       `json:"addresses,omitempty" yaml:"addresses,omitempty"`
	Routes    []NetworkRoute `json:"routes,omitempty" yaml:"routes,omitempty"`
	// Roles are "management", "cluster", "instances", "storage".
	Roles []string `json:"roles,omitempty" yaml:"roles,omitempty"`
	MTU   int      `json:"mtu,omitempty" yaml:"mtu,omitempty"`
	// RequiredForOnline is "", "ipv4", "ipv6", "both", "any" or "no".
	RequiredForOnline string `json:"required_for_online,omitempty" yaml:"required_for_online,omitempty"`
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
	// Interfaces are the devices by name, loopback left out.
	Interfaces map[string]NetworkInterfaceState `json:"interfaces" yaml:"interfaces"`
	// ConfigurationInProcess is true while a change is being applied.
	ConfigurationInProcess bool `json:"configuration_in_process" yaml:"configuration_in_process"`
}

// NetworkInterfaceState is one observed device.
type NetworkInterfaceState struct {
	// Type is "interface", "bond", "bond_member", "vlan", "wireguard" or "physical".
	Type string `json:"type,omitempty" yaml:"type,omitempty"`
	// State is networkd's operational state, as "routable".
	State string `json:"state" yaml:"state"`
	// Addresses leave out link-local ones.
	Addresses []string `json:"addresses,omitempty" yaml:"addresses,omitempty"`
	Hwaddr    string   `json:"hwaddr,omitempty" yaml:"hwaddr,omitempty"`
	MTU       int      `json:"mtu,omitempty" yaml:"mtu,omitempty"`
	// Speed is in Mbit/s, or "unknown".
	Speed  string           `json:"speed,omitempty" yaml:"speed,omitempty"`
	Roles  []string         `json:"roles,omitempty" yaml:"roles,omitempty"`
	Routes []NetworkRoute   `json:"routes,omitempty" yaml:"routes,omitempty"`
	Stats  NetworkStatistic `json:"stats" yaml:"stats"`
}

// NetworkStatistic counts traffic since the device appeared.
type NetworkStatistic struct {
	RXBytes  uint64 `json:"rx_bytes" yaml:"rx_bytes"`
	RXErrors uint64 `json:"rx_errors" yaml:"rx_errors"`
	TXBytes  uint64 `json:"tx_bytes" yaml:"tx_bytes"`
	TXErrors uint64 `json:"tx_errors" yaml:"tx_errors"`
}
