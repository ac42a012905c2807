package vm

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"flag"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	api "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/client"
	"github.com/holdfast-os/holdfast/internal/system/qemu"
	"github.com/holdfast-os/holdfast/internal/system/run"
	"github.com/holdfast-os/holdfast/test/vm/observe"
	"github.com/holdfast-os/holdfast/test/vm/peers"
	"github.com/holdfast-os/holdfast/test/vm/peers/stock"
)

// sendLog has the node send its log.
func (r *rig) sendLog(t *testing.T, c api.LoggingSyslog) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), changeLimit)
	defer cancel()
	if err := r.api.SetSection(ctx, client.SectionLogging, api.LoggingConfig{Syslog: c}, client.ChangeOptions{}); err != nil {
		t.Fatal(err)
	}
}

// saySomething makes the node log a line with a word in it: it logs what it refuses.
func (r *rig) saySomething(ctx context.Context, word string) {
	_, _ = r.api.Raw(ctx, "GET", "/1.0/nothing-"+word, nil)
}

// An owner who collects logs in one place gets the node's, each line as a line, over each
// way; and over TLS nobody else does.
func (r *rig) syslog(t *testing.T) {
	r.set(t, r.onLAN(func(*api.NetworkConfig, *api.NetworkInterface) {}))
	r.reach(t, nodeV4)
	for _, c := range []struct {
		log string
		to  api.LoggingSyslog
	}{
		{peers.LogUDP, api.LoggingSyslog{Address: peerV4 + ":514", Protocol: "udp"}},
		{peers.LogTCP, api.LoggingSyslog{Address: peerV4 + ":601", Protocol: "tcp", LogFormat: "rfc3164"}},
		{peers.LogTLS, api.LoggingSyslog{Address: peerV4 + ":6514", Protocol: "tls", TLSCertificateAuthority: r.logs.PEM, TLSServerName: logsName}},
	} {
		t.Run(c.to.Protocol, func(t *testing.T) {
			r.sendLog(t, c.to)
			word := rand.Text()
			until(t, reachLimit, "waiting for the line at the server", func(ctx context.Context) (bool, error) {
				r.saySomething(ctx, word)
				text, err := r.side.ReadLog(c.log)
				return lineWith(text, word), err
			})
		})
	}
	t.Run("tls with another authority", func(t *testing.T) {
		other, err := peers.NewAuthority("somebody else", time.Now())
		if err != nil {
			t.Fatal(err)
		}
		r.expectNoLine(t, ":6515", api.LoggingSyslog{Protocol: "tls", TLSCertificateAuthority: other.PEM, TLSServerName: logsName})
	})
	t.Run("tls with another name", func(t *testing.T) {
		r.expectNoLine(t, ":6516", api.LoggingSyslog{Protocol: "tls", TLSCertificateAuthority: r.logs.PEM, TLSServerName: "other.example.test"})
	})
}

// lineWith tells whether a line has the word, and is one line of the log alone: with a
// priority at its beginning and none behind it.
func lineWith(text, word string) bool {
	for line := range strings.Lines(text) {
		if strings.Contains(line, word) && strings.HasPrefix(line, "<") && strings.Count(line, "msg=") == 1 {
			return true
		}
	}
	return false
}

// expectNoLine waits until the node has called a server that it must not trust, and fails
// when it says anything to it.
func (r *rig) expectNoLine(t *testing.T, port string, to api.LoggingSyslog) {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(r.side.File(logsName+".crt"), r.side.File(logsName+".key"))
	if err != nil {
		t.Fatal(err)
	}
	listener, err := r.lan.Listen(t.Context(), peerV4+port)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	calls := make(chan int, 16) // how many bytes each call said
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			said, buffer := 0, make([]byte, 1024)
			_ = conn.SetDeadline(time.Now().Add(10 * time.Second)) // a silent call is over then
			if n, err := tls.Server(conn, &tls.Config{Certificates: []tls.Certificate{pair}}).Read(buffer); err == nil {
				said = n
			}
			_ = conn.Close()
			calls <- said
		}
	}()
	to.Address = peerV4 + port
	r.sendLog(t, to)
	word := rand.Text()
	for range 2 {
		r.saySomething(t.Context(), word)
		select {
		case said := <-calls:
			if said > 0 {
				t.Errorf("the node said %d bytes to a server that is not the owner's", said)
			}
		case <-time.After(reachLimit):
			t.Fatal("the node did not call the server, so nothing was shown")
		}
	}
}

// The owner's time server sets the clock.
func (r *rig) clock(t *testing.T) {
	before, err := r.lan.ChronyClients(t.Context(), nodeV4)
	if err != nil {
		t.Fatal(err)
	}
	r.set(t, r.onLAN(func(c *api.NetworkConfig, _ *api.NetworkInterface) {
		clock := *c.Time
		clock.NTPServers = []string{peerV4}
		c.Time = &clock
	}))
	until(t, reachLimit, "waiting for the node to ask for the time", func(ctx context.Context) (bool, error) {
		asked, err := r.lan.ChronyClients(ctx, nodeV4)
		return asked > before, err
	})
	until(t, reachLimit, "waiting for the clock to be set", func(context.Context) (bool, error) {
		synchronized := r.inGuest(t, "timedatectl", "show-timesync", "--property=ServerAddress", "--property=NTPMessage")
		return strings.Contains(synchronized, "ServerAddress="+peerV4+"\n") && strings.Contains(synchronized, "Stratum=8"), nil
	})
}

// In a company the way out is a proxy: with the password or the ticket that the owner
// configured releases come through it, with a wrong password they do not.
func (r *rig) proxies(t *testing.T) {
	through := func(password string) api.NetworkConfig {
		return r.onLAN(func(c *api.NetworkConfig, _ *api.NetworkInterface) {
			host := net.JoinHostPort(proxyName, proxyPort)
			c.Proxy = &api.NetworkProxy{
				Servers: map[string]api.NetworkProxyServer{
					"word":   {Auth: "basic", Host: host, Username: basicUser, Password: password},
					"ticket": {Auth: "kerberos", Host: host, Username: realmUser, Password: realmWord, Realm: realm},
				},
				Rules: []api.NetworkProxyRule{
					{Destination: releasesBasic, Target: "word"}, {Destination: releasesKerberos, Target: "ticket"}, {Destination: "*", Target: "direct"},
				},
			}
		})
	}
	r.set(t, through("guess"))
	if status := r.checkAt(t, releasesBasic); !strings.HasPrefix(status, "Failed") {
		t.Errorf("with a wrong password the check says %q", status)
	}
	r.set(t, through(basicWord))
	for host, user := range map[string]string{releasesBasic: basicUser, releasesKerberos: realmUser + "@" + realm} {
		if status := r.checkAt(t, host); strings.HasPrefix(status, "Failed") {
			t.Errorf("through the proxy to %s the check says %q", host, status)
		}
		log, err := r.side.ReadLog(peers.LogProxy)
		if err != nil {
			t.Fatal(err)
		}
		if line := user + " 200 GET http://" + host + ":8081/index.sjson\n"; !strings.Contains("\n"+log, "\n"+line) {
			t.Errorf("the proxy's log has no %q:\n%s", line, log)
		}
	}
}

// checkAt checks for updates at a server of releases and gives how it went.
func (r *rig) checkAt(t *testing.T, host string) string {
	t.Helper()
	ca, err := os.ReadFile(filepath.Join(machines.root, ".keys", "update.crt"))
	if err != nil {
		t.Fatal(err)
	}
	config := api.ProviderConfig{Name: "images", Config: map[string]string{"server_url": "http://" + host + ":8081", "update_ca": string(ca)}}
	if err := r.api.SetProvider(t.Context(), config, ""); err != nil {
		t.Fatal(err)
	}
	return r.check(t)
}

var update = flag.Bool("update", false, "write docs/reference/incus-admin-os.md instead of comparing with it")

// stockArguments are what commands of the client get beside the node; most need nothing.
var stockArguments = map[string]string{
	"application action":                    "node:incus -d {}",
	"application add":                       "node:incus",
	"application backup":                    "node:incus -",
	"application check-update":              "node:incus",
	"application debug":                     "node:incus",
	"application edit":                      "node:incus",
	"application factory-reset":             "node:incus --force",
	"application remove":                    "node:incus --force",
	"application restart":                   "node:incus --force",
	"application restore":                   "node:incus - --force",
	"application show":                      "node:incus",
	"application switch-version":            "node:incus --force",
	"debug log":                             "node: --entries 5",
	"service edit":                          "node:iscsi",
	"service reset":                         "node:iscsi --force",
	"service show":                          "node:iscsi",
	"system backup":                         "node: -",
	"system factory-reset":                  "node: --force",
	"system poweroff":                       "node: --force",
	"system reboot":                         "node: --force",
	"system restore":                        "node: - --force",
	"system security tpm-rebind":            "node: --force",
	"system storage create-volume":          "node: -d {}",
	"system storage delete":                 "node: -d {} --force",
	"system storage delete-volume":          "node: -d {} --force",
	"system storage encrypt-drive":          "node: -d {} --force",
	"system storage import-encrypted-drive": "node: -d {}",
	"system storage import-storage-pool":    "node: -d {}",
	"system storage scrub-pool":             "node: -d {}",
	"system storage trim-pool":              "node: -d {}",
	"system storage wipe-drive":             "node: -d {} --force",
	"system suspend":                        "node: --force",
	"system update check":                   "node: --force",
}

// stockEnd is a command that ends or interrupts the node.
type stockEnd struct {
	command string
	// event is that of the machine which it leads to; empty for none.
	event string
	// restarts says that Incus starts anew instead.
	restarts bool
	// input is the command whose output it reads; empty for none.
	input string
}

// stockLast are these, in the order in which they are tried.
var stockLast = []stockEnd{
	{command: "application restart", restarts: true},
	{command: "application restore", restarts: true, input: "application backup"},
	{command: "application factory-reset", restarts: true},
	{command: "system reboot", event: "RESET"},
	{command: "system restore", event: "RESET", input: "system backup"},
	{command: "system factory-reset", event: "RESET"},
	{command: "system poweroff", event: "SHUTDOWN"},
	{command: "system suspend"},
}

// stockRun is the client with the node that it talks to.
type stockRun struct {
	*node
	client incus
}

// tell gives the result of one command in words, and what it wrote.
func (s stockRun) tell(t *testing.T, command, input string) (result, output string) {
	t.Helper()
	arguments := "node:"
	if text, ok := stockArguments[command]; ok {
		arguments = text
	}
	limited, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	program := machines.tools.Command("incus", slices.Concat([]string{"admin", "os"}, strings.Fields(command), strings.Fields(arguments))...)
	program.Env = append(program.Env, "HOME="+s.client.home, "INCUS_CONF="+s.client.home)
	program.Stdin = strings.NewReader(input)
	done, err := run.Host(limited, program)
	if limited.Err() != nil {
		t.Fatalf("%s: %v", command, err)
	}
	return stock.Result(err != nil, string(done.Stderr)), string(done.Stdout)
}

// Who has scripts for Incus' own client keeps them: each of its commands does what it
// says, or is told in a sentence why not. The reference has the list.
func TestStockClient_EveryCommand(t *testing.T) {
	longOnly(t)
	s := stockRun{node: fresh(t)}
	s.client = stockClient(t, s.node)
	commands, err := stock.Commands(func(words []string) (string, error) {
		return s.client.try(t.Context(), shortLimit, slices.Concat([]string{"admin", "os"}, words, []string{"--help"})...)
	})
	if err != nil {
		t.Fatal(err)
	}
	results := map[string]string{}
	for _, command := range commands {
		if !s.isLast(command) {
			results[command] = s.tryOne(t, command)
		}
	}
	s.expectEdit(t)
	for _, last := range stockLast {
		results[last.command] = s.tryLast(t, last)
	}
	rows := make([]stock.Row, 0, len(commands))
	for _, command := range commands {
		rows = append(rows, stock.Row{Command: command, Result: results[command]})
	}
	comparePage(t, stock.Page(rows))
}

func (stockRun) isLast(command string) bool {
	for _, last := range stockLast {
		if last.command == command {
			return true
		}
	}
	return false
}

// tryOne tries a command that leaves the node running. What is edited is what is shown.
func (s stockRun) tryOne(t *testing.T, command string) string {
	t.Helper()
	input := ""
	if section, ok := strings.CutSuffix(command, " edit"); ok {
		var shown string
		if shown, input = s.tell(t, section+" show", ""); shown != "works" {
			t.Errorf("%s show: %s", section, shown)
		}
	}
	if command == "system network confirm" {
		s.pend(t)
	}
	result, output := s.tell(t, command, input)
	words := strings.Fields(command)
	if reads := slices.Contains([]string{"show", "info", "list", "log", "processes", "kernel", "event-log"}, words[len(words)-1]); reads && result == "works" && strings.TrimSpace(output) == "" {
		t.Errorf("%s shows nothing", command)
	}
	return result
}

// pend leaves a harmless change that waits to be confirmed.
func (s stockRun) pend(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), changeLimit)
	defer cancel()
	shown, err := s.api.Network(ctx)
	if err != nil {
		t.Fatal(err)
	}
	shown.Config.DNS = &api.NetworkDNS{SearchDomains: []string{"example.test"}}
	if err := s.api.SetSection(ctx, client.SectionNetwork, shown.Config, client.ChangeOptions{ConfirmWithin: 10 * time.Minute}); err != nil {
		t.Fatal(err)
	}
}

// expectEdit fails unless what the client edits is in effect.
func (s stockRun) expectEdit(t *testing.T) {
	t.Helper()
	_, shown := s.tell(t, "system update show", "")
	if result, _ := s.tell(t, "system update edit", strings.Replace(shown, "check_frequency: 6h", "check_frequency: 7h", 1)); result != "works" {
		t.Errorf("an edit of system update: %s", result)
	}
	got, _, err := s.api.Update(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got.Config.CheckFrequency != "7h" {
		t.Errorf("after the edit the node checks every %s, want 7h", got.Config.CheckFrequency)
	}
}

// tryLast tries a command behind which the node is away, and waits for what it leads to.
func (s *stockRun) tryLast(t *testing.T, last stockEnd) string {
	t.Helper()
	s.node = fresh(t)
	s.client = stockClient(t, s.node)
	pid, input := s.pidOf(t, "incusd"), ""
	if last.input != "" {
		var taken string
		if taken, input = s.tell(t, last.input, ""); taken != "works" {
			t.Errorf("%s: %s", last.input, taken)
		}
	}
	events := s.listen(t)
	result, _ := s.tell(t, last.command, input)
	switch {
	case result != "works":
	case last.restarts:
		until(t, 5*time.Minute, "waiting for the application", func(ctx context.Context) (bool, error) {
			text, err := s.api.DebugProcesses(ctx)
			if err != nil {
				return false, err
			}
			list, err := observe.Processes(text)
			return slices.ContainsFunc(list, func(p observe.Process) bool { return p.Name == "incusd" && p.PID != pid }), err
		})
	case last.event != "":
		awaitEvent(t, events, last.event, 5*time.Minute)
	}
	return result
}

// awaitEvent waits for an event of the machine.
func awaitEvent(t *testing.T, events *qemu.Client, name string, limit time.Duration) {
	t.Helper()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	for {
		select {
		case event, open := <-events.Events():
			if event.Name == name {
				return
			}
			if !open {
				t.Fatalf("waiting for %s: QEMU ended", name)
			}
		case <-timer.C:
			t.Fatalf("there was no %s within %s", name, limit)
		}
	}
}

// comparePage compares the reference with what was seen, or writes it with -update.
func comparePage(t *testing.T, page string) {
	t.Helper()
	path := filepath.Join(machines.root, "docs", "reference", "incus-admin-os.md")
	if *update {
		if err := os.WriteFile(path, []byte(page), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), page); diff != "" {
		t.Errorf("%s is not what was seen (-page +seen); write it with -update:\n%s", path, diff)
	}
}
