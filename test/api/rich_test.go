package api_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"math/big"
	"strings"
	"sync"
	"time"
)

// Secrets that are set in rich. Each is of the form that its field wants.
var secrets = struct{ private, preshared, proxy, wake, recovery string }{
	private:   key('P'),
	preshared: key('S'),
	proxy:     "pr0xy-Pa55word-ünsäglich",
	wake:      "de:ad:be:ef:57:01",
	recovery:  "Zq7!vXw2#nLr9$kTpB4^gHs",
}

// key is 32 bytes in base64.
func key(letter byte) string {
	return base64.StdEncoding.EncodeToString([]byte(strings.Repeat(string(letter), 31) + "x"))
}

// certificate is one of an authority, as PEM.
var certificate = sync.OnceValue(func() string {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		panic(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
})

type object = map[string]any

type list = []any

// rich is a configuration that uses what there is, by the path that it is put to.
func rich() map[string]object {
	return map[string]object{
		"/1.0/system/kernel": {
			"console": list{object{"device": "ttyS1", "baud_rate": 115200}}, "blacklist_modules": list{"nouveau"},
			"cpu": object{"scaling_governor": "performance"}, "memory": object{"persistent_hugepages": 16, "zram_swap_size": "1GiB"},
			"network": object{"buffer_size": 1048576, "queuing_discipline": "fq", "tcp_congestion_algorithm": "bbr", "tcp_mtu_probing": true},
			"pci":     object{"passthrough": list{object{"vendor_id": "10de", "product_id": "2204", "pci_address": "0000:01:00.0"}}, "sriov": list{object{"pci_address": "0000:02:00.0", "vf_count": 4}}},
		},
		"/1.0/system/network":  richNetwork(),
		"/1.0/system/logging":  {"syslog": object{"address": "logs.example.org", "protocol": "tls", "log_format": "rfc3164", "tls_certificate_authority": certificate(), "tls_server_name": "logs.example.org"}},
		"/1.0/system/provider": {"name": "images", "config": object{"server_url": "https://releases.example.org/os", "update_ca": certificate()}},
		"/1.0/system/update": {"auto_reboot": true, "channel": "stable", "check_frequency": "12h", "maintenance_windows": list{
			object{"start_day_of_week": "Sunday", "start_hour": 2, "start_minute": 0, "end_day_of_week": "Sunday", "end_hour": 4, "end_minute": 30}}},
		"/1.0/system/fallback-listener": {"listen_address": "127.0.0.1:0", "trusted_client_certificates": list{certificate()}},
		"/1.0/system/security":          {"encryption_recovery_keys": list{secrets.recovery}, "custom_ca_certs": list{certificate()}},
		"/1.0/services/iscsi":           {"enabled": true, "targets": list{object{"target": "iqn.2003-01.org.example:disk1", "address": "192.0.2.9", "port": 3260}}},
		"/1.0/applications/incus":       {"lxcfs": object{"cpu_shares": true, "load_average": true}},
	}
}

func richNetwork() object {
	return object{
		"dns":      object{"hostname": "node1", "domain": "example.org", "nameservers": list{"192.0.2.53#dns.example.org"}, "dns_over_tls": true},
		"time":     object{"ntp_servers": list{"ntp.example.org"}, "timezone": "UTC"},
		"firewall": object{"input_policy": "drop"},
		"proxy": object{
			"servers": object{"corp": object{"auth": "basic", "host": "https://proxy.example.org", "username": "node", "password": secrets.proxy, "use_tls": false}},
			"rules":   list{object{"destination": "*.example.org|localhost", "target": "direct"}, object{"destination": "*", "target": "corp"}},
		},
		"forwarding_rules": list{object{"action": "accept", "from": "lan", "to": "vpn", "protocol": "tcp", "port": 443, "source": "203.0.113.0/24"}},
		"interfaces": list{object{
			"name": "lan", "hwaddr": "02:00:00:00:00:01", "addresses": list{"203.0.113.10/24", "2001:db8::10/64", "slaac"},
			"routes": list{object{"to": "0.0.0.0/0", "via": "203.0.113.1"}}, "roles": list{"management"}, "mtu": 1492, "vlan_tags": list{100, 101},
			"lldp": true, "required_for_online": "no", "firewall_rules": list{object{"action": "accept", "protocol": "tcp", "port": 8443, "source": "203.0.113.0/24"}},
			"ethernet": object{"disable_gro": true, "wakeonlan": true, "wakeonlan_modes": list{"magic", "secureon"}, "wakeonlan_password": secrets.wake},
		}},
		"bonds":     list{object{"name": "uplink", "mode": "active-backup", "members": list{"02:00:00:00:00:02", "02:00:00:00:00:03"}, "addresses": list{"dhcp4"}}},
		"vlans":     list{object{"name": "storage", "parent": "uplink", "id": 20, "addresses": list{"198.51.100.5/24"}}},
		"wireguard": list{object{"name": "vpn", "private_key": secrets.private, "port": 51820, "addresses": list{"10.9.0.1/24"}, "peers": list{object{"public_key": key('U'), "allowed_ips": list{"10.9.0.2/32"}, "preshared_key": secrets.preshared, "endpoint": "[2001:db8::9]:51820"}}}},
	}
}
