package operationscenter

import (
	"fmt"
	"maps"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"

	osapi "github.com/holdfast-os/holdfast/api/os"
)

// defaultPort is where a primary application listens when nobody said otherwise.
const defaultPort = 8443

// ConnectionURL is where a manager reaches the node, as "https://[2001:db8::7]:8443": the
// first address of a device with the role "management" (devices by name, IPv6 before
// IPv4) and port 8443. listen is the address that the primary application is configured
// to listen on, as "10.0.0.7:9443", ":9443", "[::]:8443" or "node1.example.org"; empty
// when it has none. Its port is used, and its host when that is one address or name and
// not all of them. An error wraps ErrNoAddress when nothing can be reached from outside.
func ConnectionURL(interfaces map[string]osapi.NetworkInterfaceState, listen string) (string, error) {
	host, port, err := splitListen(listen)
	if err != nil {
		return "", err
	}
	if address, err := netip.ParseAddr(host); err == nil {
		if address.IsLoopback() {
			return "", fmt.Errorf("%w: the primary application listens on %s alone: let it listen on an address of the network", ErrNoAddress, host)
		}
		if address.IsUnspecified() {
			host = ""
		}
	}
	if host == "" {
		address, found := managementAddress(interfaces)
		if !found {
			return "", fmt.Errorf("%w: give a device with an address the role \"management\"", ErrNoAddress)
		}
		host = address.String()
	}
	u := url.URL{Scheme: "https", Host: net.JoinHostPort(host, strconv.Itoa(port))}
	return u.String(), nil
}

// managementAddress gives the first address with the role, IPv6 preferred.
func managementAddress(interfaces map[string]osapi.NetworkInterfaceState) (netip.Addr, bool) {
	var v4 netip.Addr
	for _, name := range slices.Sorted(maps.Keys(interfaces)) {
		device := interfaces[name]
		if !slices.Contains(device.Roles, "management") {
			continue
		}
		for _, text := range device.Addresses {
			// Some tools write the length of the prefix behind an address.
			text, _, _ = strings.Cut(text, "/")
			address, err := netip.ParseAddr(text)
			if err != nil || !reachable(address) {
				continue
			}
			if address = address.Unmap(); address.Is6() {
				return address, true
			}
			if !v4.IsValid() {
				v4 = address
			}
		}
	}
	return v4, v4.IsValid()
}

// reachable leaves out what means something else, or nothing, to another machine.
func reachable(a netip.Addr) bool {
	return !a.IsLoopback() && !a.IsUnspecified() && !a.IsLinkLocalUnicast() && !a.IsMulticast() && a.Zone() == ""
}

// splitListen gives host (empty: none) and port of a listen address.
func splitListen(listen string) (host string, port int, err error) {
	bare := strings.TrimSuffix(strings.TrimPrefix(listen, "["), "]")
	if _, err := netip.ParseAddr(bare); listen == "" || err == nil || !strings.Contains(listen, ":") {
		return hostOnly(bare, defaultPort, listen)
	}
	host, text, err := net.SplitHostPort(listen)
	if err != nil {
		return "", 0, fmt.Errorf("reading the listen address %q of the primary application: %w", listen, err)
	}
	number, err := strconv.ParseUint(text, 10, 16)
	if err != nil || number == 0 {
		return "", 0, fmt.Errorf("reading the listen address %q of the primary application: %q is not a port from 1 to 65535", listen, text)
	}
	return hostOnly(host, int(number), listen)
}

func hostOnly(host string, port int, listen string) (string, int, error) {
	if host == "*" {
		host = ""
	}
	if strings.ContainsAny(host, "/?#@%\\ \t\r\n") {
		return "", 0, fmt.Errorf("reading the listen address %q of the primary application: %q is not a host", listen, host)
	}
	return host, port, nil
}
