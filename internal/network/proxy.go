package network

import (
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	api "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/config"
)

// ProxyListen is where the node's own proxy listens.
const ProxyListen = "127.0.0.1:3128"

// Targets of a rule that are no servers.
const (
	ProxyDirect = "direct"
	ProxyNone   = "none"
)

// maxText is the length of one text for the proxy, in bytes.
const maxText = 256

// ProxyPlan is what the node's own proxy does.
type ProxyPlan struct {
	// Listen is ProxyListen.
	Listen string
	// Servers are the proxies by name, sorted.
	Servers []ProxyServer
	// Rules are in their order, the first that matches decides; never empty. What none
	// matches is refused.
	Rules []ProxyRule
}

// ProxyServer is one proxy.
type ProxyServer struct {
	// Name is what rules call it.
	Name string
	// Auth is "anonymous", "basic" or "kerberos".
	Auth string
	// Host is a name or address without brackets, Port its port.
	Host string
	Port int
	// TLS is true when what goes to the proxy is encrypted.
	TLS bool
	// Username and Password are for basic and kerberos, Realm for kerberos.
	Username, Password, Realm string
}

// ProxyRule says where requests to some hosts go.
type ProxyRule struct {
	// Destinations are host names in lower case, in which "*" stands for any text.
	Destinations []string
	// Target is the name of a server, ProxyDirect or ProxyNone.
	Target string
}

// Document is the JSON form of api/os.NetworkProxy, with the passwords: the
// configuration of holdfast-proxy. It is a secret.
func (p ProxyPlan) Document() (string, error) {
	document := api.NetworkProxy{Servers: map[string]api.NetworkProxyServer{}}
	for _, s := range p.Servers {
		document.Servers[s.Name] = api.NetworkProxyServer{Auth: s.Auth, Host: net.JoinHostPort(s.Host, strconv.Itoa(s.Port)),
			UseTLS: s.TLS, Username: s.Username, Password: s.Password, Realm: s.Realm}
	}
	for _, r := range p.Rules {
		document.Rules = append(document.Rules, api.NetworkProxyRule{Destination: strings.Join(r.Destinations, "|"), Target: r.Target})
	}
	data, err := json.Marshal(document)
	if err != nil {
		return "", fmt.Errorf("writing the proxy configuration: %w", err)
	}
	return string(data) + "\n", nil
}

// planProxy is for a configuration that was checked.
func planProxy(c *api.NetworkProxy) *ProxyPlan {
	if c == nil {
		return nil
	}
	plan := &ProxyPlan{Listen: ProxyListen}
	names := slices.Sorted(maps.Keys(c.Servers))
	for _, name := range names {
		s := c.Servers[name]
		host, port, tls, _ := proxyHost(s.Host, s.UseTLS)
		server := ProxyServer{Name: name, Auth: s.Auth, Host: host, Port: port, TLS: tls}
		if s.Auth != "anonymous" {
			server.Username, server.Password = s.Username, s.Password
		}
		if s.Auth == "kerberos" {
			server.Realm = s.Realm
		}
		plan.Servers = append(plan.Servers, server)
	}
	for _, r := range c.Rules {
		plan.Rules = append(plan.Rules, ProxyRule{Destinations: destinations(r.Destination), Target: r.Target})
	}
	if len(plan.Rules) == 0 {
		target := ProxyDirect
		if len(names) > 0 {
			target = names[0]
		}
		plan.Rules = []ProxyRule{{Destinations: []string{"*"}, Target: target}}
	}
	return plan
}

// environment is for programs that look for a proxy there.
func environment(proxy *ProxyPlan) string {
	if proxy == nil {
		return ""
	}
	text := ""
	for _, name := range []string{"http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"} {
		text += name + "=http://" + proxy.Listen + "\n"
	}
	for _, name := range []string{"no_proxy", "NO_PROXY"} {
		text += name + "=localhost,127.0.0.1,::1\n"
	}
	return text
}

// proxyHost reads "host", "host:port", with "http://" or "https://" before it.
func proxyHost(text string, tls bool) (host string, port int, encrypted, ok bool) {
	rest := strings.TrimSuffix(text, "/")
	if after, found := strings.CutPrefix(rest, "http://"); found {
		rest, tls = after, false
	} else if after, found := strings.CutPrefix(rest, "https://"); found {
		rest, tls = after, true
	}
	port = 80
	if tls {
		port = 443
	}
	host = rest
	if name, number, err := net.SplitHostPort(rest); err == nil {
		given, err := strconv.ParseUint(number, 10, 16)
		if err != nil || given == 0 {
			return "", 0, false, false
		}
		host, port = name, int(given)
	} else if addr, found := strings.CutPrefix(rest, "["); found {
		host, found = strings.CutSuffix(addr, "]")
		if parsed, err := netip.ParseAddr(host); !found || err != nil || !parsed.Is6() {
			return "", 0, false, false
		}
	}
	return host, port, tls, hostOrAddress(host)
}

// destinations are the patterns of a rule in the form in which hosts are compared.
func destinations(text string) []string {
	patterns := strings.Split(text, "|")
	for i, pattern := range patterns {
		pattern = strings.ToLower(strings.TrimSpace(pattern))
		pattern = strings.TrimSuffix(strings.TrimPrefix(pattern, "["), "]")
		patterns[i] = strings.TrimSuffix(pattern, ".")
	}
	return patterns
}

func (p *checker) proxy(c api.NetworkProxy) {
	if p.limit("proxy.servers", len(c.Servers), maxEntries) {
		for _, name := range slices.Sorted(maps.Keys(c.Servers)) {
			p.proxyServer(name, c.Servers[name])
		}
	}
	if !p.limit("proxy.rules", len(c.Rules), maxEntries) {
		return
	}
	for i, rule := range c.Rules {
		at := fmt.Sprintf("proxy.rules[%d]", i)
		for _, pattern := range destinations(rule.Destination) {
			if pattern == "" || len(rule.Destination) > maxText || !only(pattern, ".-_*:") {
				p.Add(at+".destination", "pattern", "%q is not host names with * for any text, and | between several", rule.Destination)
				break
			}
		}
		if _, known := c.Servers[rule.Target]; !known && rule.Target != ProxyDirect && rule.Target != ProxyNone {
			p.Add(at+".target", "target", "%q is neither a server nor %s nor %s", rule.Target, ProxyDirect, ProxyNone)
		}
	}
}

func (p *checker) proxyServer(name string, s api.NetworkProxyServer) {
	at := "proxy.servers." + name
	if name == "" || len(name) > 63 || !only(name, "._-") {
		at = fmt.Sprintf("proxy.servers[%q]", name)
		p.Add(at, "name", "is not a name of 1 to 63 letters, digits, dots, dashes and underscores")
	}
	if name == ProxyDirect || name == ProxyNone {
		p.Add(at, "name", "is reserved; it is a target without a server")
	}
	p.word(at+".auth", s.Auth, false, []string{"anonymous", "basic", "kerberos"})
	if _, _, _, ok := proxyHost(s.Host, s.UseTLS); !ok {
		shown := fmt.Sprintf("%q", s.Host)
		if strings.Contains(s.Host, "@") {
			// Somebody has written the password into it, as browsers take it.
			shown = "what is there, with a user name in it (use username and password),"
		}
		p.Add(at+".host", "host", "%s is not a host name or address, with a port or http:// or https:// where needed", shown)
	}
	p.text(at+".username", s.Username)
	p.text(at+".realm", s.Realm)
	if s.Password == config.Secret {
		p.kept(at + ".password")
	} else if !plain(s.Password) {
		p.Add(at+".password", "text", "has more than %d bytes or a control character", maxText)
	}
	if s.Auth != "basic" && s.Auth != "kerberos" {
		return
	}
	if s.Username == "" {
		p.Add(at+".username", "required", "is missing; the auth %s needs one", s.Auth)
	}
	if s.Password == "" {
		p.Add(at+".password", "required", "is missing; the auth %s needs one", s.Auth)
	}
	if s.Auth == "basic" && strings.Contains(s.Username, ":") {
		p.Add(at+".username", "text", "has a colon, which the auth basic cannot send")
	}
	if s.Auth == "kerberos" && (!domain(s.Realm)) {
		p.Add(at+".realm", "realm", "%q is not a Kerberos realm, as EXAMPLE.ORG", s.Realm)
	}
}

func (p *checker) text(path, value string) {
	if !plain(value) {
		p.Add(path, "text", "has more than %d bytes or a control character", maxText)
	}
}

// plain is true for a text without control characters that is short enough.
func plain(text string) bool {
	return len(text) <= maxText && !strings.ContainsFunc(text, func(r rune) bool { return r < 0x20 || r >= 0x7f && r < 0xa0 || r == 0x2028 || r == 0x2029 })
}
