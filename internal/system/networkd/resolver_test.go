package networkd_test

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/holdfast-os/holdfast/internal/system/networkd"
	"github.com/holdfast-os/holdfast/internal/system/run"
)

// resolver answers questions with the codes in turn, the last one for ever, and those
// for other names not at all.
func resolver(t *testing.T, codes ...dnsmessage.RCode) string {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	go func() {
		buffer := make([]byte, 512)
		for {
			n, from, err := conn.ReadFrom(buffer)
			if err != nil {
				return
			}
			var message dnsmessage.Message
			if message.Unpack(buffer[:n]) != nil || len(message.Questions) != 1 || message.Questions[0].Name.String() != "example.org." {
				continue
			}
			message.Response, message.RCode = true, codes[0]
			if len(codes) > 1 {
				codes = codes[1:]
			}
			if packed, err := message.Pack(); err == nil {
				_, _ = conn.WriteTo(packed, from)
			}
		}
	}()
	return conn.LocalAddr().String()
}

// A network without the internet has nameservers all the same, and they are enough.
func TestDNSProbe_AnyNameserverThatAnswers_WillDo(t *testing.T) {
	for _, codes := range [][]dnsmessage.RCode{
		{dnsmessage.RCodeSuccess}, {dnsmessage.RCodeNameError}, {dnsmessage.RCodeRefused},
		{dnsmessage.RCodeServerFailure, dnsmessage.RCodeSuccess},
	} {
		if err := (networkd.Host{Resolver: resolver(t, codes...)}).DNSProbe(t.Context(), "example.org"); err != nil {
			t.Errorf("%v: %v", codes, err)
		}
	}
}

// systemd-resolved answers SERVFAIL when it knows no nameserver.
func TestDNSProbe_NoNameserver_IsSaidInTime(t *testing.T) {
	for name, address := range map[string]string{
		"fails": resolver(t, dnsmessage.RCodeServerFailure), "nobody listens": "127.0.0.1:1",
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
		err := networkd.Host{Resolver: address}.DNSProbe(ctx, "example.org")
		cancel()
		if !errors.Is(err, networkd.ErrNoDNS) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// timesyncd is a service that sets the clock when it is restarted.
type timesyncd struct {
	file string
	sets bool
	got  string
}

func (s *timesyncd) run(_ context.Context, c run.Command) (run.Result, error) {
	s.got = c.Name + " " + c.Args[0] + " " + c.Args[1]
	if !s.sets {
		return run.Result{}, nil
	}
	return run.Result{}, os.WriteFile(s.file, nil, 0o644)
}

// A clock that was set before the change says nothing about the new servers.
func TestSyncTime_WaitsForTheNewServers(t *testing.T) {
	for _, sets := range []bool{true, false} {
		root := t.TempDir()
		write(t, root, map[string]string{"run/systemd/timesync/synchronized": ""})
		s := &timesyncd{file: filepath.Join(root, "run/systemd/timesync/synchronized"), sets: sets}
		err := networkd.Host{Root: root, Run: s.run}.SyncTime(t.Context(), 10*time.Millisecond)
		if s.got != "systemctl restart systemd-timesyncd.service" {
			t.Errorf("ran %s", s.got)
		}
		if sets != (err == nil) || !sets && !errors.Is(err, networkd.ErrNotSynchronized) {
			t.Errorf("sets %v: got %v", sets, err)
		}
	}
}

func TestFlushDNS_AsksResolved(t *testing.T) {
	var p programs
	if err := (networkd.Host{Run: p.run}).FlushDNS(t.Context()); err != nil || len(p.got) != 1 || p.got[0] != "resolvectl flush-caches" {
		t.Errorf("got %v, %v", p.got, err)
	}
}

// Cards that have no such thing, as those of virtual machines, are no obstacle.
func TestDisableEEE_CardsWithoutIt_AreLeft(t *testing.T) {
	if err := networkd.DisableEEE([]string{"lo", "no-such-card"}); err != nil {
		t.Error(err)
	}
	if err := networkd.DisableEEE([]string{"a-name-that-is-too-long"}); err == nil {
		t.Error("no error")
	}
}
