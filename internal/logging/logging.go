// Package logging decides how the node's log is sent to a syslog server.
//
// The parties: an owner names a server in api.LoggingConfig; Check says all that is
// wrong; NewPlan writes the configuration of rsyslog and (re)starts the node's own unit
// for it, which reads the journal and sends each line.
//
// What always holds: every value in the configuration text went through Check, so that
// none can close a quote or begin a line. With tls the server's certificate is checked
// against the authorities and against the server's name, and nothing is sent before.
// The files are below /run and made anew at each start. There is nothing secret in them.
//
// What can fail: the server may be away. The forwarder then waits and reads on where it
// stopped, since the journal keeps the lines; what udp loses is lost.
//
// Why rsyslog and not systemd-netlogd, which IncusOS uses: the version in Debian 13 puts
// nothing between two lines over tls, so that no server can read them, and compares no
// name with the certificate.
package logging

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"

	api "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/config"
	"github.com/holdfast-os/holdfast/internal/plan"
)

// What a plan writes, and the unit that reads it.
const (
	ConfigFile    = "/run/holdfast-syslog/rsyslog.conf"
	AuthorityFile = "/run/holdfast-syslog/ca.pem"
	Unit          = "holdfast-syslog.service"
	// StateFolder is where the unit keeps how far it has read.
	StateFolder = "/var/lib/holdfast-syslog"
	// SystemAuthorities are the authorities that the node trusts.
	SystemAuthorities = "/etc/ssl/certs/ca-certificates.crt"
)

// maxAuthority is the size of the certificates, in bytes.
const maxAuthority = 256 << 10

var (
	protocols = []string{"udp", "tcp", "tls"}
	formats   = []string{"rfc5424", "rfc3164", "rfc3339"}
	hostForm  = regexp.MustCompile(`^([A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?\.)*[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.?$`)
)

// Facts are what the machine is.
type Facts struct {
	// Files are the texts of the files that a plan writes, by path.
	Files map[string]string
	// Running is true while the forwarder runs.
	Running bool
}

// FilePaths are the files whose texts belong into the Facts.
func FilePaths() []string { return []string{ConfigFile, AuthorityFile} }

// Check fills in defaults and gives all that is wrong with a configuration.
func Check(c *api.LoggingConfig) config.Problems {
	var p config.Problems
	s := &c.Syslog
	if s.Protocol == "" {
		s.Protocol = protocols[0]
	}
	if s.LogFormat == "" {
		s.LogFormat = formats[0]
	}
	if !slices.Contains(protocols, s.Protocol) {
		p.Add("syslog.protocol", "known", "%q is not a protocol; it is one of %s", s.Protocol, strings.Join(protocols, ", "))
	}
	if !slices.Contains(formats, s.LogFormat) {
		p.Add("syslog.log_format", "known", "%q is not a format; it is one of %s", s.LogFormat, strings.Join(formats, ", "))
	}
	checkAddress(&p, s)
	checkTLS(&p, *s)
	return p
}

func checkAddress(p *config.Problems, s *api.LoggingSyslog) {
	if s.Address == "" {
		return
	}
	address := s.Address
	bare := address
	if strings.HasPrefix(bare, "[") && strings.HasSuffix(bare, "]") {
		bare = bare[1 : len(bare)-1]
	}
	if ip, err := netip.ParseAddr(bare); err == nil {
		address = net.JoinHostPort(ip.String(), "")
	} else if !strings.Contains(address, ":") {
		address += ":"
	}
	host, port, err := net.SplitHostPort(address)
	if port == "" {
		port = map[bool]string{true: "6514", false: "514"}[s.Protocol == "tls"]
	}
	number, portErr := strconv.ParseUint(port, 10, 16)
	switch {
	case err != nil:
		p.Add("syslog.address", "address", "%q is not a host with a port, as logs.example.org:514 or [2001:db8::7]:514", s.Address)
	case !isHost(host):
		p.Add("syslog.address", "host", "%q is neither an IP address nor a name", host)
	case portErr != nil || number == 0:
		p.Add("syslog.address", "port", "%q is not a port between 1 and 65535", port)
	default:
		s.Address = net.JoinHostPort(host, strconv.FormatUint(number, 10))
	}
}

// isHost is true for an IP address or a name. An address with a zone is neither: names
// of network cards change.
func isHost(host string) bool {
	if ip, err := netip.ParseAddr(host); err == nil {
		return ip.Zone() == ""
	}
	return len(host) <= 253 && hostForm.MatchString(host)
}

func isIP(host string) bool {
	_, err := netip.ParseAddr(host)
	return err == nil
}

func checkTLS(p *config.Problems, s api.LoggingSyslog) {
	if s.Protocol != "tls" {
		if s.TLSCertificateAuthority != "" {
			p.Add("syslog.tls_certificate_authority", "tls", "only tls has certificates: set protocol to tls or leave this out")
		}
		if s.TLSServerName != "" {
			p.Add("syslog.tls_server_name", "tls", "only tls has certificates: set protocol to tls or leave this out")
		}
		return
	}
	host, _, err := net.SplitHostPort(s.Address)
	switch {
	case s.TLSServerName != "" && (!isHost(s.TLSServerName) || isIP(s.TLSServerName)):
		p.Add("syslog.tls_server_name", "name", "%q is not a name, as logs.example.org", s.TLSServerName)
	case s.TLSServerName == "" && err == nil && isIP(host):
		p.Add("syslog.tls_server_name", "required", "a certificate is known by a name and not by the address %s: give the name that is in it", host)
	}
	if s.TLSCertificateAuthority == "" {
		return
	}
	if len(s.TLSCertificateAuthority) > maxAuthority {
		p.Add("syslog.tls_certificate_authority", "limit", "%d bytes are more than %d", len(s.TLSCertificateAuthority), maxAuthority)
		return
	}
	if _, err := authorities(s.TLSCertificateAuthority); err != nil {
		p.Add("syslog.tls_certificate_authority", "pem", "%v", err)
	}
}

// authorities reads PEM certificates and gives them in one form, without what may stand
// between them.
func authorities(text string) (string, error) {
	out, rest := "", []byte(text)
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return "", fmt.Errorf("a block of type %q is not a certificate; a key does not belong here", block.Type)
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return "", fmt.Errorf("not a certificate: %w", err)
		}
		out += string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: block.Bytes}))
	}
	if out == "" || strings.TrimSpace(string(rest)) != "" {
		return "", fmt.Errorf("not a list of certificates in PEM form, as it begins with -----BEGIN CERTIFICATE-----")
	}
	return out, nil
}

// NewPlan says what makes the forwarder be as a configuration has it. Both went through
// Check. What is depends on the machine alone, so that before is not looked at.
func NewPlan(_, next api.LoggingConfig, facts Facts) plan.Plan {
	var p plan.Plan
	text, authority := "", ""
	if next.Syslog.Address != "" {
		text = configText(next.Syslog)
		if next.Syslog.TLSCertificateAuthority != "" {
			authority, _ = authorities(next.Syslog.TLSCertificateAuthority) // checked
		}
	}
	if text == "" && facts.Running {
		p.Add(plan.Step{Kind: plan.StopUnit, Object: Unit})
	}
	changed := p.File(AuthorityFile, facts.Files[AuthorityFile], authority)
	changed = p.File(ConfigFile, facts.Files[ConfigFile], text) || changed
	if text != "" && (changed || !facts.Running) {
		p.Add(plan.Step{Kind: plan.RestartUnit, Object: Unit, Why: "it reads its configuration when it starts"})
	}
	if text != "" && next.Syslog.Protocol != "tls" && changed {
		p.Notes = append(p.Notes, "The log is sent over "+next.Syslog.Protocol+", which everybody on the way can read; tls hides it.")
	}
	return p
}

// templates are rsyslog's names of the formats; that of RFC 5424 is ours, since rsyslog's
// own ends each line with a line feed that is part of it.
var templates = map[string]string{
	"rfc5424": "rfc5424", "rfc3164": "RSYSLOG_TraditionalForwardFormat", "rfc3339": "RSYSLOG_ForwardFormat",
}

const template5424 = `template(name="rfc5424" type="string" string="<%PRI%>1 %TIMESTAMP:::date-rfc3339% %HOSTNAME% %APP-NAME% %PROCID% %MSGID% %STRUCTURED-DATA%%msg:::sp-if-no-1st-sp%%msg:::drop-last-lf%")
`

// configText is the configuration of rsyslog. The queue is in memory and short: the
// journal is the long one, and imjournal waits while the queue is full.
func configText(s api.LoggingSyslog) string {
	host, port, _ := net.SplitHostPort(s.Address) // checked
	text := `# Made by Holdfast from system/logging.
global(workDirectory="` + StateFolder + `" maxMessageSize="64k" internalmsg.ratelimit.interval="60")
main_queue(queue.type="LinkedList" queue.size="10000" queue.fileName="main" queue.maxDiskSpace="64m" queue.saveOnShutdown="on")
module(load="imjournal" StateFile="journal" PersistStateInterval="100" IgnorePreviousMessages="on" Ratelimit.Interval="0")
` + template5424
	action := fmt.Sprintf(`action(type="omfwd" target="%s" port="%s" template="%s" action.resumeRetryCount="-1" action.resumeInterval="5" action.resumeIntervalMax="60"`,
		host, port, templates[s.LogFormat])
	switch s.Protocol {
	case "tcp":
		action += ` protocol="tcp" keepAlive="on"`
	case "tls":
		authority, name := SystemAuthorities, s.TLSServerName
		if s.TLSCertificateAuthority != "" {
			authority = AuthorityFile
		}
		if name == "" {
			name = host
		}
		// RFC 5425: each line begins with its length.
		action += fmt.Sprintf(` protocol="tcp" keepAlive="on" TCP_Framing="octet-counted"
	streamDriver="ossl" streamDriverMode="1" streamDriverAuthMode="x509/name" streamDriverPermittedPeers="%s"
	streamDriver.CAFile="%s" gnutlsPriorityString="MinProtocol=TLSv1.2"`, strings.TrimSuffix(name, "."), authority)
	default:
		action += ` protocol="udp"`
	}
	return text + action + ")\n"
}
