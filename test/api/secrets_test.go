package api_test

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/holdfast-os/holdfast/internal/simulate"
)

// forms are the ways in which a secret may be written.
func forms(secret string) []string {
	quoted, err := json.Marshal(secret)
	if err != nil {
		panic(err)
	}
	all := []string{secret, strings.Trim(string(quoted), `"`), url.QueryEscape(secret), url.PathEscape(secret),
		base64.StdEncoding.EncodeToString([]byte(secret)), hex.EncodeToString([]byte(secret))}
	if decoded, err := base64.StdEncoding.DecodeString(secret); err == nil {
		all = append(all, string(decoded), hex.EncodeToString(decoded))
	}
	return append(all, strings.ReplaceAll(secret, ":", ""), strings.ToUpper(secret))
}

// sink collects text.
type sink struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (s *sink) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(p)
}

func (s *sink) Bytes() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return bytes.Clone(s.text.Bytes())
}

// leaks looks for every secret, except for those that may be there.
func leaks(t *testing.T, where string, text []byte, but ...string) {
	t.Helper()
	for name, secret := range map[string]string{
		"private key": secrets.private, "preshared key": secrets.preshared, "password of the proxy": secrets.proxy,
		"wake-on-LAN password": secrets.wake, "recovery key": secrets.recovery, "private key of before": key('Q'),
	} {
		if len(but) > 0 && secret == but[0] {
			continue
		}
		for _, form := range forms(secret) {
			if i := bytes.Index(text, []byte(form)); i >= 0 {
				t.Errorf("%s has the %s: ...%.200q", where, name, text[max(0, i-100):])
			}
		}
	}
}

// What was entrusted to a node once is nowhere to be read, whatever was done with it:
// shown, planned, undone, refused, listened to, looked up.
func TestSecrets_EverSet_AreNowhereToBeRead(t *testing.T) {
	var log sink
	n := start(t, simulate.Options{Log: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	events := n.events("")
	reply := func(where string, got answer, but ...string) { leaks(t, where, got.text, but...) }
	// Another key first, so that there is a secret that only the history has.
	first := richNetwork()
	first["wireguard"].(list)[0].(object)["private_key"] = key('Q')
	for name, query := range map[string]string{"the plan": "?dry-run=1", "the change": "", "the operation": "?async=1"} {
		reply(name, n.must(http.MethodPut, networkPath+query, object{"config": first}))
	}
	for at, config := range rich() {
		for _, query := range []string{"?dry-run=1", ""} {
			for {
				got := n.must(http.MethodPut, at+query, object{"config": config})
				if reply("PUT "+at+query, got); got.code == http.StatusConflict {
					continue // the change before is still going on
				}
				if got.code != http.StatusOK {
					t.Fatalf("PUT %s: %d %s", at, got.code, got.Error)
				}
				break
			}
		}
	}
	n.refusedSecrets(reply)
	reply("a rollback", n.must(http.MethodPost, "/1.0/system/history/1/:rollback", nil))
	reply("the plan of a rollback", n.must(http.MethodPost, "/1.0/system/history/2/:rollback?dry-run=1", nil))
	n.everywhere(reply)
	for _, route := range n.sim.Daemon().Routes() {
		if strings.Contains(route.Path, ":bundle") || strings.Contains(route.Path, "support") {
			got := n.must(route.Method, route.Path, nil)
			if got.code != http.StatusOK {
				t.Errorf("%s %s: %d %s", route.Method, route.Path, got.code, got.Error)
			}
			leaks(t, route.Path, unpacked(t, got.text))
		}
	}
	leaks(t, "the log", log.Bytes())
	for {
		select {
		case one := <-events:
			leaks(t, "an event", one.Metadata)
			continue
		default:
		}
		break
	}
}

// refusedSecrets sends secrets in places where they are an error.
func (n *node) refusedSecrets(reply func(string, answer, ...string)) {
	for name, body := range map[string]string{
		"a list in the place of a password":  `{"config":{"proxy":{"servers":{"corp":{"password":["` + secrets.proxy + `"]}}}}}`,
		"a key with something behind it":     `{"config":{"wireguard":[{"name":"vpn","private_key":"` + secrets.private + `x"}]}}`,
		"a preshared key that is too long":   `{"config":{"wireguard":[{"name":"vpn","peers":[{"public_key":"x","preshared_key":"` + secrets.preshared + secrets.preshared + `"}]}]}}`,
		"a wake-on-LAN password with a dot":  `{"config":{"interfaces":[{"name":"lan","hwaddr":"enp1s0","ethernet":{"wakeonlan":true,"wakeonlan_password":"` + secrets.wake + `."}}]}}`,
		"a password that breaks a line":      `{"config":{"proxy":{"servers":{"corp":{"auth":"basic","host":"p.example.org","username":"node","password":"` + secrets.proxy + `\n"}}}}}`,
		"a password in the URL of the proxy": `{"config":{"proxy":{"servers":{"corp":{"auth":"anonymous","host":"https://node:` + secrets.proxy + `@p.example.org"}}}}}`,
	} {
		got := n.must(http.MethodPut, networkPath, body)
		if got.code != http.StatusBadRequest {
			n.t.Errorf("%s: %d %s", name, got.code, got.Error)
		}
		reply(name, got)
	}
	inURL := object{"name": "images", "config": object{"server_url": "https://node:" + secrets.private + "@releases.example.org", "update_ca": certificate()}}
	got := n.must(http.MethodPut, "/1.0/system/provider", object{"config": inURL})
	if got.code != http.StatusBadRequest {
		n.t.Errorf("a password in the URL of the provider, which is shown to everybody: %d %s", got.code, got.Error)
	}
	reply("a password in the URL of the provider", got)
	short := `{"config":{"encryption_recovery_keys":["` + secrets.recovery + `","` + secrets.recovery + `"]}}`
	reply("a recovery key twice", n.must(http.MethodPut, "/1.0/system/security", short))
}

// everywhere reads all that there is to be read.
func (n *node) everywhere(reply func(string, answer, ...string)) {
	for _, route := range n.sim.Daemon().Routes() {
		at, there := path(route)
		if route.Method != http.MethodGet || route.Handler == nil || !there || at == "/1.0/events" {
			continue
		}
		if strings.HasSuffix(route.Path, "{number}") {
			for _, one := range []string{"1", "2", "3", "4", "5", "1?to=5", "5?to=1", "2?to=0"} {
				reply(one, n.must(http.MethodGet, strings.TrimSuffix(at, "1")+one, nil))
			}
			continue
		}
		if at == "/1.0/system/security" {
			// This is where an owner gets the recovery keys from.
			reply(at, n.must(http.MethodGet, at, nil), secrets.recovery)
			continue
		}
		reply(at, n.must(http.MethodGet, at+"?recursion=1&limit=1000", nil))
	}
}

// unpacked is a compressed archive without its compression.
func unpacked(t *testing.T, text []byte) []byte {
	t.Helper()
	reader, err := gzip.NewReader(bytes.NewReader(text))
	if err != nil {
		return text
	}
	all, err := io.ReadAll(io.LimitReader(reader, 64<<20))
	if err != nil {
		t.Fatal(err)
	}
	return all
}
