package peers

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/holdfast-os/holdfast/internal/system/run"
)

// answers is ready once something listens for TCP at an address of the namespace.
func (n *Namespace) answers(address string) func(context.Context) bool {
	return func(ctx context.Context) bool {
		conn, err := n.DialFrom(ctx, nil, "tcp", address)
		return err == nil && conn.Close() == nil
	}
}

// Dnsmasq serves DNS on an address, and what lines of dnsmasq.conf say beside it.
func (n *Namespace) Dnsmasq(ctx context.Context, address string, lines ...string) error {
	text := strings.Join(append([]string{
		"keep-in-foreground", "log-facility=-", "log-queries", "log-dhcp", "no-resolv", "no-hosts", "user=root", "bind-interfaces",
		"pid-file=" + n.side.File("dnsmasq.pid"), "dhcp-leasefile=" + n.side.File("leases"),
		"listen-address=" + address, "except-interface=lo",
	}, lines...), "\n")
	file, err := n.side.write("dnsmasq.conf", text+"\n")
	if err != nil {
		return err
	}
	return n.side.start(ctx, "dnsmasq", n.Command("dnsmasq", "-C", file), n.answers(net.JoinHostPort(address, "53")))
}

// Program runs a program of the caller's in the namespace until Close, and waits until it
// listens at an address.
func (n *Namespace) Program(ctx context.Context, name, address, path string, args ...string) error {
	return n.side.start(ctx, name, n.Command(path, args...), n.answers(address))
}

// Chrony serves this computer's time on an address.
func (n *Namespace) Chrony(ctx context.Context, address string) error {
	// The program wants a folder for its socket that nobody else may enter.
	socket := n.side.File("chrony/socket")
	if err := os.Mkdir(filepath.Dir(socket), 0o700); err != nil {
		return fmt.Errorf("making the folder of the time server: %w", err)
	}
	file, err := n.side.write("chrony.conf", strings.Join([]string{
		"local stratum 8", "allow", "bindaddress " + address, "cmdport 0", "bindcmdaddress " + socket,
		"pidfile " + n.side.File("chrony.pid"), "user root", "",
	}, "\n"))
	if err != nil {
		return err
	}
	// With -x it leaves the clock of this computer alone.
	return n.side.start(ctx, "chronyd", n.Command("chronyd", "-d", "-x", "-f", file), fileThere(socket))
}

// ChronyClients is how many requests for the time came from an address.
func (n *Namespace) ChronyClients(ctx context.Context, address string) (int, error) {
	text, err := n.Run(ctx, "chronyc", "-c", "-n", "-h", n.side.File("chrony/socket"), "clients")
	if err != nil {
		return 0, fmt.Errorf("asking the time server for its clients: %w", err)
	}
	for line := range strings.Lines(text) {
		if fields := strings.Split(strings.TrimSpace(line), ","); len(fields) > 1 && fields[0] == address {
			return strconv.Atoi(fields[1])
		}
	}
	return 0, nil
}

// Syslog is where a log server listens; what came is in the logs of these names.
type Syslog struct {
	// UDP, TCP and TLS are addresses with ports.
	UDP, TCP, TLS string
	// Identity is shown to those who come over TLS.
	Identity Identity
}

// Names of the logs of Rsyslog, one for each way.
const (
	LogUDP = "udp.log"
	LogTCP = "tcp.log"
	LogTLS = "tls.log"
)

// Rsyslog receives logs over each way, each line as it came.
func (n *Namespace) Rsyslog(ctx context.Context, c Syslog) error {
	var text strings.Builder
	fmt.Fprintf(&text, "global(workDirectory=%q)\nmodule(load=\"imudp\")\nmodule(load=\"imtcp\")\n", n.side.dir)
	text.WriteString("template(name=\"raw\" type=\"string\" string=\"%rawmsg%\\n\")\n")
	for _, log := range []string{LogUDP, LogTCP, LogTLS} {
		fmt.Fprintf(&text, "ruleset(name=%q) { action(type=\"omfile\" file=%q template=\"raw\") }\n", log, n.side.File(log))
	}
	input := func(kind, address, log, more string) error {
		host, port, err := net.SplitHostPort(address)
		if err != nil {
			return fmt.Errorf("setting the log server up: %w", err)
		}
		fmt.Fprintf(&text, "input(type=%q address=%q port=%q ruleset=%q%s)\n", kind, host, port, log, more)
		return nil
	}
	tls := fmt.Sprintf(` streamDriver.name="gtls" streamDriver.mode="1" streamDriver.authMode="anon" streamDriver.CAFile=%q streamDriver.certFile=%q streamDriver.keyFile=%q`,
		c.Identity.Authority, c.Identity.Certificate, c.Identity.Key)
	for _, in := range [][4]string{{"imudp", c.UDP, LogUDP}, {"imtcp", c.TCP, LogTCP}, {"imtcp", c.TLS, LogTLS, tls}} {
		if err := input(in[0], in[1], in[2], in[3]); err != nil {
			return err
		}
	}
	file, err := n.side.write("rsyslog.conf", text.String())
	if err != nil {
		return err
	}
	c2 := n.Command("rsyslogd", "-n", "-i", n.side.File("rsyslog.pid"), "-f", file)
	return n.side.start(ctx, "rsyslogd", c2, n.answers(c.TLS))
}

// Proxy is an HTTP proxy that asks who comes.
type Proxy struct {
	// Address is where it listens, with its port.
	Address string
	// User and Password are what it takes with the scheme Basic.
	User, Password string
	// Keytab and Principal are its own in Kerberos, for the scheme Negotiate.
	Keytab, Principal string
	// Hosts are names that it alone knows, with their addresses.
	Hosts map[string]string
}

// LogProxy has a line for each request to Squid: the user ("-" for none), the answer's
// code, the method and the URL.
const LogProxy = "access.log"

// Squid serves a proxy that lets nobody through who does not say who it is.
func (n *Namespace) Squid(ctx context.Context, c Proxy) error {
	secret, err := do(ctx, "openssl", "passwd", "-apr1", c.Password)
	if err != nil {
		return fmt.Errorf("making the proxy's list of users: %w", err)
	}
	users, err := n.side.write("squid.users", c.User+":"+secret)
	if err != nil {
		return err
	}
	var known strings.Builder
	for name, address := range c.Hosts {
		fmt.Fprintf(&known, "%s %s\n", address, name)
	}
	hosts, err := n.side.write("squid.hosts", known.String())
	if err != nil {
		return err
	}
	// It gives up root for the user proxy, who writes here.
	logs := n.side.File("squid")
	if err := os.Mkdir(logs, 0o777); err != nil {
		return fmt.Errorf("making the folder of the proxy: %w", err)
	}
	if err := os.Chmod(logs, 0o777); err != nil {
		return fmt.Errorf("making the folder of the proxy: %w", err)
	}
	log := filepath.Join(logs, LogProxy)
	if err := os.Symlink(log, n.side.File(LogProxy)); err != nil {
		return fmt.Errorf("making the log of the proxy: %w", err)
	}
	file, err := n.side.write("squid.conf", strings.Join([]string{
		"http_port " + c.Address, "visible_hostname proxy", "pid_filename none", "coredump_dir " + logs, "hosts_file " + hosts,
		"cache deny all", "cache_log " + logs + "/cache.log", "shutdown_lifetime 0 seconds", "pinger_enable off", "icp_port 0",
		"logformat who %un %>Hs %rm %ru", "access_log stdio:" + log + " who", "buffered_logs off", "dns_nameservers 127.0.0.1",
		"auth_param negotiate program " + kerberosHelper + " -k " + c.Keytab + " -s " + c.Principal, "auth_param negotiate children 2 startup=1",
		"auth_param basic program " + basicHelper + " " + users, "auth_param basic children 2 startup=1", "auth_param basic realm proxy",
		"acl known proxy_auth REQUIRED", "http_access allow known", "http_access deny all", "",
	}, "\n"))
	if err != nil {
		return err
	}
	program := n.Command("squid", "-N", "-n", prefix(), "-f", file)
	program.Env = []string{"KRB5_CONFIG=" + n.side.File("krb5.conf"), "KRB5RCACHENAME=none:"}
	return n.side.start(ctx, "squid", program, n.answers(c.Address))
}

// Realm is a Kerberos realm.
type Realm struct {
	// Name is as EXAMPLE.ORG, Address that of its KDC, without a port.
	Name, Address string
	// Users are their passwords by name.
	Users map[string]string
	// Service is a principal with a random key, as HTTP/proxy.example.org.
	Service string
}

// KDC serves a realm and gives the keytab of its service.
func (n *Namespace) KDC(ctx context.Context, r Realm) (keytab string, err error) {
	at := func(name string) string { return n.side.File(name) }
	listen := net.JoinHostPort(r.Address, "88")
	conf, err := n.side.write("krb5.conf", fmt.Sprintf("[libdefaults]\n default_realm = %s\n dns_lookup_kdc = false\n rdns = false\n dns_canonicalize_hostname = false\n"+
		"[realms]\n %s = {\n  kdc = %s\n }\n", r.Name, r.Name, listen))
	if err != nil {
		return "", err
	}
	profile, err := n.side.write("kdc.conf", fmt.Sprintf("[kdcdefaults]\n kdc_listen = %s\n kdc_tcp_listen = %s\n[realms]\n %s = {\n"+
		"  database_name = %s\n  key_stash_file = %s\n  acl_file = %s\n }\n", listen, listen, r.Name, at("principal"), at("stash"), at("acl")))
	if err != nil {
		return "", err
	}
	env := []string{"KRB5_CONFIG=" + conf, "KRB5_KDC_PROFILE=" + profile}
	keytab = at("service.keytab")
	steps := [][]string{{"kdb5_util", "create", "-s", "-r", r.Name, "-P", "master"}}
	for user, password := range r.Users {
		steps = append(steps, []string{"kadmin.local", "-r", r.Name, "-q", "addprinc +requires_preauth -pw " + password + " " + user})
	}
	for _, query := range []string{"addprinc -randkey " + r.Service, "ktadd -k " + keytab + " " + r.Service} {
		steps = append(steps, []string{"kadmin.local", "-r", r.Name, "-q", query})
	}
	for _, step := range steps {
		if _, err := run.Host(ctx, run.Command{Name: step[0], Args: step[1:], Env: env}); err != nil {
			return "", fmt.Errorf("making the realm %s: %w", r.Name, err)
		}
	}
	// The proxy's helper is not root.
	if err := os.Chmod(keytab, 0o644); err != nil {
		return "", fmt.Errorf("handing the keytab out: %w", err)
	}
	program := n.Command("krb5kdc", "-n", "-r", r.Name)
	program.Env = env
	return keytab, n.side.start(ctx, "krb5kdc", program, n.answers(listen))
}
