package peers

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sync/errgroup"

	"github.com/holdfast-os/holdfast/internal/system/run"
	"github.com/holdfast-os/holdfast/test/needs"
)

// side opens a side, or skips where one cannot be.
func side(t *testing.T) *Side {
	t.Helper()
	if testing.Short() {
		t.Skip("-short: this test starts servers")
	}
	if os.Geteuid() != 0 {
		t.Skip("this test makes networks: run it as root")
	}
	if missing := Missing(); missing != "" {
		needs.Missing(t, missing)
	}
	s, err := Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			s.keep(t)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// keep shows the end of what each program wrote.
func (s *Side) keep(t *testing.T) {
	t.Helper()
	for name, text := range s.Outputs() {
		t.Logf("%s: %s", name, text)
	}
}

// must gives a value, or ends the test with the error.
func must[T any](value T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		need(t, err)
		return value
	}
}

func need(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// until waits for something that sends no event.
func until(t *testing.T, what string, is func() bool) {
	t.Helper()
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	end := time.NewTimer(startLimit)
	defer end.Stop()
	for !is() {
		select {
		case <-look.C:
		case <-end.C:
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// reaches tells whether a connection from one namespace to another's listener comes about.
func reaches(t *testing.T, from *Namespace, address string) bool {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	conn, err := from.DialFrom(ctx, nil, "tcp", address)
	return err == nil && conn.Close() == nil
}

// What the node's bonds and VLANs are tried against must itself keep VLANs apart and speak
// LACP: two switches with two cables that are one bond, and a computer behind each port.
func TestSwitch_BondAndVLAN_CarryAndKeepApart(t *testing.T) {
	s := side(t)
	ctx := t.Context()
	one := must(s.Switch(ctx))(t)
	other := must(s.AnotherSwitch(ctx, "sx"))(t)
	need(t, one.Cable(ctx, Name("a1"), Name("b1")))
	need(t, one.Cable(ctx, Name("a2"), Name("b2")))
	need(t, one.Bond(ctx, "ba", Name("a1"), Name("a2")))
	need(t, other.Bond(ctx, "bb", Name("b1"), Name("b2")))
	here, there, plain := must(s.Namespace(ctx, "h"))(t), must(s.Namespace(ctx, "t"))(t), must(s.Namespace(ctx, "p"))(t)
	need(t, one.Attach(ctx, here, "eth0", 42, "198.51.100.1/24"))
	need(t, other.Attach(ctx, there, "eth0", 42, "198.51.100.2/24"))
	need(t, one.Attach(ctx, plain, "eth0", 0, "198.51.100.3/24"))
	listener := must(there.Listen(ctx, "198.51.100.2:80"))(t)
	defer listener.Close()
	until(t, "LACP", func() bool {
		text, err := one.LACP(ctx, "ba")
		return err == nil && Negotiated(text)
	})
	type reached struct{ SameVLAN, NoVLAN bool }
	got := reached{reaches(t, here, "198.51.100.2:80"), reaches(t, plain, "198.51.100.2:80")}
	if diff := cmp.Diff(reached{SameVLAN: true}, got); diff != "" {
		t.Error(diff)
	}
	_, err := do(ctx, "ip", "link", "set", Name("a1"), "down")
	need(t, err)
	until(t, "the other cable", func() bool { return reaches(t, here, "198.51.100.2:80") })
}

// The tunnel's other end works with itself, so that a node that gets nothing through is at
// fault alone.
func TestWireGuard_TwoEnds_CarryTraffic(t *testing.T) {
	s := side(t)
	ctx := t.Context()
	w := must(s.Switch(ctx))(t)
	here, there := must(s.Namespace(ctx, "h"))(t), must(s.Namespace(ctx, "t"))(t)
	need(t, w.Attach(ctx, here, "eth0", 0, "192.0.2.1/24"))
	need(t, w.Attach(ctx, there, "eth0", 0, "192.0.2.2/24"))
	mine, theirs := must(NewKeyPair())(t), must(NewKeyPair())(t)
	need(t, here.WireGuard(ctx, "w1", Tunnel{PrivateKey: mine.Private, PeerKey: theirs.Public, Port: 51820, Endpoint: "192.0.2.2:51820", Allowed: []string{"10.99.0.2/32"}, Address: "10.99.0.1/24"}))
	need(t, there.WireGuard(ctx, "w2", Tunnel{PrivateKey: theirs.Private, PeerKey: mine.Public, Port: 51820, Allowed: []string{"10.99.0.1/32"}, Address: "10.99.0.2/24"}))
	listener := must(there.Listen(ctx, "10.99.0.2:80"))(t)
	defer listener.Close()
	until(t, "the tunnel", func() bool { return reaches(t, here, "10.99.0.2:80") })
}

// Each server takes from a program of its own kind what the node will send.
func TestServers_RightAndWrongClients_AreToldApart(t *testing.T) {
	s := side(t)
	ctx := t.Context()
	w := must(s.Switch(ctx))(t)
	server, client := must(s.Namespace(ctx, "s"))(t), must(s.Namespace(ctx, "c"))(t)
	need(t, w.Attach(ctx, server, "eth0", 0, "192.0.2.1/24"))
	need(t, w.Attach(ctx, client, "eth0", 0, "192.0.2.2/24"))

	t.Run("dns", func(t *testing.T) {
		need(t, server.Dnsmasq(ctx, "192.0.2.1", "host-record=proxy.example.test,192.0.2.1", "srv-host=_kerberos._tcp.EXAMPLE.TEST,kdc.example.test,88"))
		resolver := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return client.DialFrom(ctx, nil, network, "192.0.2.1:53")
		}}
		hosts := must(resolver.LookupHost(ctx, "proxy.example.test"))(t)
		if diff := cmp.Diff([]string{"192.0.2.1"}, hosts); diff != "" {
			t.Error(diff)
		}
		_, srv, err := resolver.LookupSRV(ctx, "kerberos", "tcp", "EXAMPLE.TEST")
		need(t, err)
		if len(srv) != 1 || srv[0].Target != "kdc.example.test." || srv[0].Port != 88 {
			t.Errorf("the service's record is %+v", srv)
		}
	})
	t.Run("time", func(t *testing.T) {
		need(t, server.Chrony(ctx, "192.0.2.1"))
		// It looks at the offset and ends.
		_, err := client.Run(ctx, "chronyd", "-Q", "-U", "-t", "20", "server 192.0.2.1 iburst maxsamples 1", "pidfile "+s.File("client.pid"), "bindcmdaddress /", "cmdport 0")
		need(t, err)
		if asked := must(server.ChronyClients(ctx, "192.0.2.2"))(t); asked < 1 {
			t.Error("the time server knows no request of its client")
		}
	})
	t.Run("syslog", func(t *testing.T) { trySyslog(t, s, server, client) })
	t.Run("proxy", func(t *testing.T) { tryProxy(t, s, server, client) })
}

func trySyslog(t *testing.T, s *Side, server, client *Namespace) {
	ctx, now := t.Context(), time.Now()
	authority := must(NewAuthority("logs", now))(t)
	id := must(authority.Issue(s, "logs.example.test", now))(t)
	need(t, server.Rsyslog(ctx, Syslog{UDP: "192.0.2.1:514", TCP: "192.0.2.1:601", TLS: "192.0.2.1:6514", Identity: id}))
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(authority.PEM))
	for log, to := range map[string]string{LogUDP: "192.0.2.1:514", LogTCP: "192.0.2.1:601", LogTLS: "192.0.2.1:6514"} {
		network := "tcp"
		if log == LogUDP {
			network = "udp"
		}
		conn := must(client.DialFrom(ctx, nil, network, to))(t)
		if log == LogTLS {
			conn = tls.Client(conn, &tls.Config{RootCAs: roots, ServerName: "logs.example.test"})
		}
		message := "<13>1 2026-01-01T00:00:00Z host app - - - the line over " + log
		if log == LogTLS {
			message = fmt.Sprintf("%d %s", len(message), message)
		} else {
			message += "\n"
		}
		_, err := conn.Write([]byte(message))
		need(t, err)
		need(t, conn.Close())
		until(t, "the line in "+log, func() bool {
			text, err := s.ReadLog(log)
			return err == nil && strings.Contains(text, "the line over "+log)
		})
	}
}

func tryProxy(t *testing.T, s *Side, server, client *Namespace) {
	ctx := t.Context()
	keytab := must(server.KDC(ctx, Realm{Name: "EXAMPLE.TEST", Address: "192.0.2.1", Users: map[string]string{"node1": "hunter2"}, Service: "HTTP/proxy.example.test"}))(t)
	need(t, server.Squid(ctx, Proxy{Address: "192.0.2.1:3128", User: "node", Password: "swordfish", Keytab: keytab, Principal: "HTTP/proxy.example.test@EXAMPLE.TEST", Hosts: map[string]string{"releases.example.test": "127.0.0.1"}}))
	need(t, server.Serve(ctx, "127.0.0.1:8081", s.dir))
	env := []string{"KRB5_CONFIG=" + s.File("krb5.conf"), "KRB5CCNAME=" + s.File("cache")}
	login := client.Command("kinit", "node1")
	login.Env, login.Stdin = env, strings.NewReader("hunter2\n")
	if _, err := run.Host(ctx, login); err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for name, args := range map[string][]string{
		"nobody": nil, "basic": {"-U", "node:swordfish"}, "wrong": {"-U", "node:password"}, "kerberos": {"--proxy-negotiate", "-U", ":"},
	} {
		c := client.Command("curl", append([]string{"-sS", "-o", "/dev/null", "-w", "%{http_code}", "--max-time", "20",
			"--resolve", "proxy.example.test:3128:192.0.2.1", "-x", "http://proxy.example.test:3128", "http://releases.example.test:8081/krb5.conf"}, args...)...)
		c.Env = env
		result, err := run.Host(ctx, c)
		need(t, err)
		got[name] = string(result.Stdout)
	}
	if diff := cmp.Diff(map[string]string{"nobody": "407", "basic": "200", "wrong": "407", "kerberos": "200"}, got); diff != "" {
		t.Error(diff)
	}
	text := must(s.ReadLog(LogProxy))(t)
	for _, line := range []string{"node 200 GET http://releases.example.test:8081/krb5.conf", "node1@EXAMPLE.TEST 200 GET http://releases.example.test:8081/krb5.conf"} {
		if !strings.Contains("\n"+text, "\n"+line+"\n") {
			t.Errorf("the proxy's log has no %q:\n%s", line, text)
		}
	}
}

// Devices go while they are being removed: with the other end of their pair, with their
// namespace, by another process that sweeps.
func TestSweep_ManyAtOnce_AgreeThatItIsGone(t *testing.T) {
	side(t)
	dead := exec.CommandContext(t.Context(), "true")
	need(t, dead.Run())
	left := "hf" + strconv.Itoa(dead.Process.Pid)
	for i := range 20 {
		number := strconv.Itoa(i)
		_, err := do(t.Context(), "ip", "link", "add", left+"a"+number, "type", "veth", "peer", "name", left+"b"+number)
		need(t, err)
	}
	var group errgroup.Group
	for range 4 {
		group.Go(func() error { return sweep(t.Context()) })
	}
	need(t, group.Wait())
	if rest := must(filepath.Glob("/sys/class/net/" + left + "*"))(t); len(rest) > 0 {
		t.Error("left behind:", rest)
	}
}
