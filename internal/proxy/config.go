package proxy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	api "github.com/holdfast-os/holdfast/api/os"
)

// What is read of a configuration at most.
const (
	// MaxConfig is in bytes.
	MaxConfig = 1 << 20
	// MaxServers and MaxRules are counts.
	MaxServers, MaxRules = 256, 256
	// maxText is the length of one value, in bytes.
	maxText = 1024
)

// Reserved targets of a rule.
const (
	targetDirect = "direct"
	targetNone   = "none"
)

// noRule is the number of a rule that nobody wrote.
const noRule = -1

// Config is a checked configuration. Parse makes one; the zero value refuses all.
type Config struct {
	servers map[string]server
	rules   []rule
}

// server is one upstream proxy.
type server struct {
	name string
	// host is without port and brackets, address is for dialing.
	host, address string
	tls           bool
	auth          string
	user          string
	password      string
	realm         string
}

// rule sends the hosts of some patterns to a target.
type rule struct {
	// number counts from 0, as in the configuration; or noRule.
	number   int
	text     string
	patterns []string
	target   string
}

// Parse reads a configuration: the JSON form of api/os.NetworkProxy, passwords
// included. An unknown field is an error. Every problem is named, with its path; a
// password never is.
func Parse(data []byte) (Config, error) {
	if len(data) > MaxConfig {
		return Config{}, fmt.Errorf("reading the proxy configuration: more than %d bytes", MaxConfig)
	}
	var document api.NetworkProxy
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&document); err != nil {
		return Config{}, fmt.Errorf("reading the proxy configuration: %w", hideValue(err))
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return Config{}, errors.New("reading the proxy configuration: there is more behind the document")
	}
	config, err := newConfig(document)
	if err != nil {
		return Config{}, fmt.Errorf("checking the proxy configuration: %w", err)
	}
	return config, nil
}

// hideValue keeps what stood in the document, which may be a password, out of the
// error of a value of the wrong type.
func hideValue(err error) error {
	var wrong *json.UnmarshalTypeError
	if errors.As(err, &wrong) {
		return fmt.Errorf("%s must be a %s", wrong.Field, wrong.Type)
	}
	return err
}

func newConfig(document api.NetworkProxy) (Config, error) {
	if len(document.Servers) > MaxServers || len(document.Rules) > MaxRules {
		return Config{}, fmt.Errorf("more than %d servers or %d rules", MaxServers, MaxRules)
	}
	config := Config{servers: map[string]server{}}
	var problems []error
	names := slices.Sorted(maps.Keys(document.Servers))
	for _, name := range names {
		parsed, err := newServer(name, document.Servers[name])
		if err != nil {
			problems = append(problems, fmt.Errorf("servers.%s: %w", name, err))
		}
		config.servers[name] = parsed
	}
	for i, r := range document.Rules {
		parsed, err := newRule(i, r, config.servers)
		if err != nil {
			problems = append(problems, fmt.Errorf("rules[%d]: %w", i, err))
		}
		config.rules = append(config.rules, parsed)
	}
	if len(document.Rules) == 0 {
		target := targetDirect
		if len(names) > 0 {
			target = names[0]
		}
		config.rules = []rule{{number: noRule, text: "*", patterns: []string{"*"}, target: target}}
	}
	return config, errors.Join(problems...)
}

func newServer(name string, from api.NetworkProxyServer) (server, error) {
	s := server{name: name, tls: from.UseTLS, auth: from.Auth, user: from.Username, password: from.Password, realm: from.Realm}
	switch {
	case name == "" || name == targetDirect || name == targetNone:
		return s, fmt.Errorf("the name %q is not free", name)
	case max(len(name), len(from.Host), len(s.user), len(s.password), len(s.realm)) > maxText:
		return s, fmt.Errorf("a value is longer than %d bytes", maxText)
	case !slices.Contains([]string{"anonymous", "basic", "kerberos"}, s.auth):
		return s, fmt.Errorf("auth is %q; it must be anonymous, basic or kerberos", s.auth)
	case s.auth != "anonymous" && (s.user == "" || s.password == ""):
		return s, fmt.Errorf("auth %s needs a username and a password", s.auth)
	case s.auth == "basic" && strings.ContainsAny(s.user, ":\r\n\x00"):
		return s, errors.New("the username of auth basic must have no colon")
	case s.auth == "kerberos" && (s.realm == "" || strings.ContainsAny(s.realm, " \t\r\n{}[]=#\x00")):
		return s, errors.New("auth kerberos needs a realm, as EXAMPLE.ORG")
	}
	return s.at(from.Host)
}

// at fills in where the server is: "host", "host:port", with http:// or https://.
func (s server) at(text string) (server, error) {
	rest := strings.TrimSuffix(text, "/")
	if scheme, after, ok := strings.Cut(rest, "://"); ok {
		if scheme != "http" && scheme != "https" {
			return s, fmt.Errorf("host %q: the scheme must be http or https", text)
		}
		rest, s.tls = after, scheme == "https"
	}
	port := "80"
	if s.tls {
		port = "443"
	}
	s.host = rest
	if host, given, err := net.SplitHostPort(rest); err == nil {
		s.host, port = host, given
	}
	s.host = strings.TrimSuffix(strings.TrimPrefix(s.host, "["), "]")
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil || number == 0 {
		return s, fmt.Errorf("host %q: the port must be 1 to 65535", text)
	}
	if !isHost(s.host) {
		return s, fmt.Errorf("host %q is not a host name or address, with :port where needed", text)
	}
	s.address = net.JoinHostPort(s.host, port)
	return s, nil
}

// isHost is true for an address, and for what can be a name.
func isHost(text string) bool {
	if _, err := netip.ParseAddr(text); err == nil {
		return true
	}
	const allowed = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._"
	return text != "" && len(text) <= 253 && strings.Trim(text, allowed) == ""
}

func newRule(number int, from api.NetworkProxyRule, servers map[string]server) (rule, error) {
	r := rule{number: number, text: from.Destination, target: from.Target}
	if len(from.Destination) > maxText {
		return r, fmt.Errorf("destination is longer than %d bytes", maxText)
	}
	for pattern := range strings.SplitSeq(from.Destination, "|") {
		pattern = normalHost(strings.TrimSpace(pattern))
		if pattern == "" || strings.ContainsAny(pattern, " \t\r\n") {
			return r, fmt.Errorf("destination %q must be host names, * for any text, | between several", from.Destination)
		}
		r.patterns = append(r.patterns, pattern)
	}
	if _, known := servers[r.target]; !known && r.target != targetDirect && r.target != targetNone {
		return r, fmt.Errorf("target %q is neither a server nor direct nor none", r.target)
	}
	return r, nil
}

// normalHost is the one form in which hosts and patterns are compared.
func normalHost(host string) string {
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	return strings.ToLower(strings.TrimSuffix(host, "."))
}

// find gives the first rule for a host without port. A host that no rule speaks of is
// refused: somebody who writes rules wants to know where requests go.
func (c Config) find(host string) rule {
	host = normalHost(host)
	for _, r := range c.rules {
		if slices.ContainsFunc(r.patterns, func(p string) bool { return matches(p, host) }) {
			return r
		}
	}
	return rule{number: noRule, target: targetNone}
}

// matches compares a text with a pattern in which * stands for any text, in time
// proportional to the product of their lengths.
func matches(pattern, text string) bool {
	star, mark := -1, 0
	p, t := 0, 0
	for t < len(text) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, mark = p, t
			p++
		case p < len(pattern) && pattern[p] == text[t]:
			p++
			t++
		case star >= 0:
			mark++
			p, t = star+1, mark
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "*") == ""
}
