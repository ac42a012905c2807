//go:build linux

package host

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	api "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/logging"
	"github.com/holdfast-os/holdfast/internal/plan"
	"github.com/holdfast-os/holdfast/test/needs"
)

// logLimit is how long a forwarder may take until its line is there.
const logLimit = 30 * time.Second

// newLogIdentity makes a server's certificate for logs.test and 127.0.0.1.
func newLogIdentity(t *testing.T) (tls.Certificate, string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "syslog"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		DNSNames: []string{"logs.test"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key},
		string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// forward runs the forwarder of the tools tree with the configuration that a plan writes,
// with a socket in the place of the journal, and gives it one line.
func forward(t *testing.T, syslog api.LoggingSyslog) {
	t.Helper()
	tree := needs.Tree(t, "rsyslogd")
	modules := tree.File("usr/lib/x86_64-linux-gnu/rsyslog")
	if _, err := os.Stat(modules + "/lmnsd_ossl.so"); err != nil {
		needs.MissingBuild(t, "package in the tools tree: rsyslog-openssl")
	}
	c := api.LoggingConfig{Syslog: syslog}
	if problems := logging.Check(&c); len(problems) > 0 {
		t.Fatal(problems)
	}
	dir := t.TempDir()
	for _, step := range logging.NewPlan(api.LoggingConfig{}, c, logging.Facts{}).Steps {
		if step.Kind != plan.WriteFile {
			continue
		}
		text := strings.NewReplacer(logging.AuthorityFile, dir+"/ca.pem", logging.StateFolder, dir).Replace(step.After)
		text = regexp.MustCompile(`(?m)^module\(load="imjournal".*$`).ReplaceAllString(text,
			`module(load="imuxsock" SysSock.Use="off") input(type="imuxsock" Socket="`+dir+`/log")`)
		writeFile(t, filepath.Join(dir, filepath.Base(step.Object)), text)
	}
	command := tree.Command("rsyslogd", "-n", "-iNONE", "-M", modules, "-f", dir+"/rsyslog.conf")
	running, stop := context.WithCancel(context.Background())
	program := exec.CommandContext(running, command.Name, command.Args...)
	program.Cancel = func() error { return program.Process.Signal(syscall.SIGTERM) }
	program.WaitDelay = 5 * time.Second
	output, err := os.Create(dir + "/output")
	if err != nil {
		t.Fatal(err)
	}
	program.Stdout, program.Stderr = output, output
	if err := program.Start(); err != nil {
		stop()
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stop()
		_ = program.Wait() // how it ends after a signal does not matter
		output.Close()
		if raw, err := os.ReadFile(output.Name()); t.Failed() {
			t.Logf("%s %v", raw, err)
		}
	})
	var socket net.Conn
	for limit := time.Now().Add(logLimit); socket == nil; {
		if socket, err = net.Dial("unixgram", dir+"/log"); err != nil && time.Now().After(limit) {
			t.Fatal(err)
		}
	}
	defer socket.Close()
	if _, err := io.WriteString(socket, "<13>Nov 22 06:00:00 holdfast: the line"); err != nil {
		t.Fatal(err)
	}
}

// shape hides what differs from run to run: times, the name of this computer, numbers.
func shape(line string) string {
	line = regexp.MustCompile(`\d{4}-\d\d-\d\dT[0-9:.]+([+-]\d\d:\d\d|Z)`).ReplaceAllString(line, "TIME")
	line = regexp.MustCompile(`[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d`).ReplaceAllString(line, "Mmm dd hh:mm:ss")
	if name, err := os.Hostname(); err == nil {
		line = strings.ReplaceAll(line, " "+name+" ", " HOST ")
	}
	return line
}

// The server gets the owner's line over udp and tcp, in each of the formats.
func TestLogging_PlainServer_GetsTheLineInItsFormat(t *testing.T) {
	want := map[string]string{
		"rfc5424": "<13>1 TIME HOST holdfast - - - the line",
		"rfc3164": "<13>Mmm dd hh:mm:ss HOST holdfast: the line",
		"rfc3339": "<13>TIME HOST holdfast: the line",
	}
	for format, line := range want {
		t.Run("udp "+format, func(t *testing.T) {
			server, err := net.ListenPacket("udp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer server.Close()
			forward(t, api.LoggingSyslog{Address: server.LocalAddr().String(), LogFormat: format})
			if err := server.SetReadDeadline(time.Now().Add(logLimit)); err != nil {
				t.Fatal(err)
			}
			packet := make([]byte, 4096)
			n, _, err := server.ReadFrom(packet)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(line, shape(string(packet[:n]))); diff != "" {
				t.Error(diff)
			}
		})
		t.Run("tcp "+format, func(t *testing.T) {
			conn := acceptLog(t, api.LoggingSyslog{Protocol: "tcp", LogFormat: format}, nil)
			got, err := bufio.NewReader(conn).ReadString('\n')
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(line+"\n", shape(got)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// acceptLog opens a server, has the forwarder send there, and gives its connection.
func acceptLog(t *testing.T, syslog api.LoggingSyslog, config *tls.Config) net.Conn {
	t.Helper()
	server, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	syslog.Address = server.Addr().String()
	forward(t, syslog)
	if err := server.(*net.TCPListener).SetDeadline(time.Now().Add(logLimit)); err != nil {
		t.Fatal(err)
	}
	conn, err := server.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(logLimit)); err != nil {
		t.Fatal(err)
	}
	if config != nil {
		return tls.Server(conn, config)
	}
	return conn
}

// Over tls each line has its length before it, as RFC 5425 wants.
func TestLogging_TLSServerWithTheRightName_GetsTheLine(t *testing.T) {
	identity, authority := newLogIdentity(t)
	conn := acceptLog(t, api.LoggingSyslog{Protocol: "tls", TLSCertificateAuthority: authority, TLSServerName: "logs.test"}, &tls.Config{Certificates: []tls.Certificate{identity}})
	reader := bufio.NewReader(conn)
	length, err := reader.ReadString(' ')
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(strings.TrimSpace(length))
	if err != nil || n > 4096 {
		t.Fatalf("length %q: %v", length, err)
	}
	line := make([]byte, n)
	if _, err := io.ReadFull(reader, line); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff("<13>1 TIME HOST holdfast - - - the line", shape(string(line))); diff != "" {
		t.Error(diff)
	}
}

// Whoever else answers at that address learns nothing.
func TestLogging_TLSServerWithoutTheRightCertificate_GetsNothing(t *testing.T) {
	identity, authority := newLogIdentity(t)
	_, other := newLogIdentity(t)
	for name, syslog := range map[string]api.LoggingSyslog{
		"another authority": {Protocol: "tls", TLSCertificateAuthority: other, TLSServerName: "logs.test"},
		"another name":      {Protocol: "tls", TLSCertificateAuthority: authority, TLSServerName: "other.test"},
		"public authority":  {Protocol: "tls", TLSServerName: "logs.test"},
	} {
		t.Run(name, func(t *testing.T) {
			conn := acceptLog(t, syslog, &tls.Config{Certificates: []tls.Certificate{identity}})
			got, err := io.ReadAll(conn)
			if timeout, ok := err.(net.Error); ok && timeout.Timeout() {
				t.Fatal("the forwarder keeps the connection")
			}
			if len(got) > 0 {
				t.Errorf("the server got %q", got)
			}
		})
	}
}
