package client

import (
	"context"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	api "github.com/holdfast-os/holdfast/api/os"
)

// asked is a request as the node saw it.
type asked struct {
	Method, Path, Query, Body, IfMatch string
}

// serve starts a TLS node that answers everything by handler, and a client that trusts it.
func serve(t *testing.T, handler http.HandlerFunc) (*Client, *[]asked) {
	t.Helper()
	var seen []asked
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		seen = append(seen, asked{r.Method, r.URL.EscapedPath(), r.URL.RawQuery, string(body), r.Header.Get("If-Match")})
		handler(w, r)
	}))
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // refused handshakes belong to the tests
	server.StartTLS()
	t.Cleanup(server.Close)
	file := filepath.Join(t.TempDir(), "server.crt")
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if err := os.WriteFile(file, block, 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := New(Options{Endpoint: server.URL, ServerCertFile: file})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c, &seen
}

func answer(metadata string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("ETag", `"abc"`)
		_, err := io.WriteString(w, `{"type":"sync","status":"Success","status_code":200,"operation":"","error_code":0,"error":"","metadata":`+metadata+`}`)
		if err != nil {
			log.Print(err)
		}
	}
}

// A program that uses the client relies on each method asking for the right thing.
func TestClient_EachMethod_AsksForItsPath(t *testing.T) {
	for name, test := range map[string]struct {
		call     func(context.Context, *Client) error
		metadata string
		want     asked
	}{
		"server": {func(ctx context.Context, c *Client) error { _, err := c.Server(ctx); return err }, `{}`,
			asked{Method: "GET", Path: "/os/1.0"}},
		"applications": {func(ctx context.Context, c *Client) error { _, err := c.Applications(ctx); return err }, `[]`,
			asked{Method: "GET", Path: "/os/1.0/applications"}},
		"application": {func(ctx context.Context, c *Client) error { _, _, err := c.Application(ctx, "a/b?"); return err }, `{}`,
			asked{Method: "GET", Path: "/os/1.0/applications/a%2Fb%3F"}},
		"set application": {func(ctx context.Context, c *Client) error {
			return c.SetApplication(ctx, "incus", api.ApplicationConfig{}, `"x"`)
		}, `{}`, asked{Method: "PUT", Path: "/os/1.0/applications/incus", Body: `{"config":{}}`, IfMatch: `"x"`}},
		"add": {func(ctx context.Context, c *Client) error { return c.AddApplication(ctx, "incus") }, `{}`,
			asked{Method: "POST", Path: "/os/1.0/applications", Body: `{"name":"incus"}`}},
		"restart": {func(ctx context.Context, c *Client) error { return c.RestartApplication(ctx, "incus") }, `{}`,
			asked{Method: "POST", Path: "/os/1.0/applications/incus/:restart"}},
		"remove": {func(ctx context.Context, c *Client) error { return c.RemoveApplication(ctx, "incus") }, `{}`,
			asked{Method: "POST", Path: "/os/1.0/applications/incus/:remove"}},
		"check": {func(ctx context.Context, c *Client) error { return c.CheckApplication(ctx, "incus") }, `{}`,
			asked{Method: "POST", Path: "/os/1.0/applications/incus/:check-update"}},
		"security": {func(ctx context.Context, c *Client) error { _, err := c.Security(ctx); return err }, `{}`,
			asked{Method: "GET", Path: "/os/1.0/system/security"}},
		"retrieved": {func(ctx context.Context, c *Client) error { return c.SecurityRetrieved(ctx) }, `{}`,
			asked{Method: "POST", Path: "/os/1.0/system/security/:retrieved"}},
		"storage": {func(ctx context.Context, c *Client) error { _, err := c.Storage(ctx); return err }, `{}`,
			asked{Method: "GET", Path: "/os/1.0/system/storage"}},
		"network": {func(ctx context.Context, c *Client) error { _, err := c.Network(ctx); return err }, `{}`,
			asked{Method: "GET", Path: "/os/1.0/system/network"}},
		"resources": {func(ctx context.Context, c *Client) error { _, err := c.Resources(ctx); return err }, `{}`,
			asked{Method: "GET", Path: "/os/1.0/system/resources"}},
		"update": {func(ctx context.Context, c *Client) error { _, _, err := c.Update(ctx); return err }, `{}`,
			asked{Method: "GET", Path: "/os/1.0/system/update"}},
		"check update": {func(ctx context.Context, c *Client) error { return c.CheckUpdate(ctx, api.UpdateCheckPost{}) }, `{}`,
			asked{Method: "POST", Path: "/os/1.0/system/update/:check"}},
		"check os": {func(ctx context.Context, c *Client) error {
			return c.CheckUpdate(ctx, api.UpdateCheckPost{OSOnly: true})
		}, `{}`,
			asked{Method: "POST", Path: "/os/1.0/system/update/:check", Body: `{"os_only":true}`}},
		"set provider": {func(ctx context.Context, c *Client) error {
			return c.SetProvider(ctx, api.ProviderConfig{Name: "images"}, "")
		}, `{}`, asked{Method: "PUT", Path: "/os/1.0/system/provider", Body: `{"config":{"name":"images"}}`}},
		"poweroff": {func(ctx context.Context, c *Client) error { return c.PowerOff(ctx) }, `{}`,
			asked{Method: "POST", Path: "/os/1.0/system/:poweroff"}},
		"reboot": {func(ctx context.Context, c *Client) error { return c.Reboot(ctx) }, `{}`,
			asked{Method: "POST", Path: "/os/1.0/system/:reboot"}},
		"suspend": {func(ctx context.Context, c *Client) error { return c.Suspend(ctx) }, `{}`,
			asked{Method: "POST", Path: "/os/1.0/system/:suspend"}},
		"log": {func(ctx context.Context, c *Client) error {
			_, err := c.DebugLog(ctx, LogQuery{Unit: "a b.service", Boot: "-1", Entries: 5, Since: "-1h"})
			return err
		}, `[]`, asked{Method: "GET", Path: "/os/1.0/debug/log", Query: "boot=-1&entries=5&since=-1h&unit=a+b.service"}},
		"processes": {func(ctx context.Context, c *Client) error { _, err := c.DebugProcesses(ctx); return err }, `"x"`,
			asked{Method: "GET", Path: "/os/1.0/debug/processes"}},
		"boot": {func(ctx context.Context, c *Client) error { _, err := c.DebugBoot(ctx); return err }, `{}`,
			asked{Method: "GET", Path: "/os/1.0/debug/boot"}},
		"kernel": {func(ctx context.Context, c *Client) error { _, _, err := c.Kernel(ctx); return err }, `{}`,
			asked{Method: "GET", Path: "/os/1.0/system/kernel"}},
		"logging": {func(ctx context.Context, c *Client) error { _, _, err := c.Logging(ctx); return err }, `{}`,
			asked{Method: "GET", Path: "/os/1.0/system/logging"}},
		"fallback listener": {func(ctx context.Context, c *Client) error { _, _, err := c.FallbackListener(ctx); return err }, `{}`,
			asked{Method: "GET", Path: "/os/1.0/system/fallback-listener"}},
		"config": {func(ctx context.Context, c *Client) error { _, _, err := c.Config(ctx); return err }, `{}`,
			asked{Method: "GET", Path: "/os/1.0/system/config"}},
		"set config": {func(ctx context.Context, c *Client) error {
			return c.SetConfig(ctx, api.Configuration{Update: &api.UpdateConfig{Channel: "testing"}}, ChangeOptions{ETag: `"x"`})
		}, `{}`, asked{Method: "PUT", Path: "/os/1.0/system/config", IfMatch: `"x"`,
			Body: `{"config":{"update":{"auto_reboot":false,"channel":"testing","check_frequency":""}}}`}},
		"set section": {func(ctx context.Context, c *Client) error {
			return c.SetSection(ctx, SectionLogging, api.LoggingConfig{}, ChangeOptions{})
		}, `{}`, asked{Method: "PUT", Path: "/os/1.0/system/logging",
			Body: `{"config":{"syslog":{"address":"","protocol":"","log_format":""}}}`}},
		"confirm": {func(ctx context.Context, c *Client) error { _, err := c.ConfirmConfig(ctx); return err }, `{"number":5}`,
			asked{Method: "POST", Path: "/os/1.0/system/config/:confirm"}},
		"revert": {func(ctx context.Context, c *Client) error { return c.RevertConfig(ctx) }, `{}`,
			asked{Method: "POST", Path: "/os/1.0/system/config/:revert"}},
		"confirm network": {func(ctx context.Context, c *Client) error { return c.ConfirmNetwork(ctx) }, `{}`,
			asked{Method: "POST", Path: "/os/1.0/system/network/:confirm"}},
		"history": {func(ctx context.Context, c *Client) error { _, err := c.History(ctx); return err }, `[]`,
			asked{Method: "GET", Path: "/os/1.0/system/history"}},
		"change": {func(ctx context.Context, c *Client) error { _, err := c.ChangeOf(ctx, 4); return err }, `{}`,
			asked{Method: "GET", Path: "/os/1.0/system/history/4"}},
		"difference": {func(ctx context.Context, c *Client) error { _, err := c.ChangeDiff(ctx, 2, 4); return err }, `{}`,
			asked{Method: "GET", Path: "/os/1.0/system/history/2", Query: "to=4"}},
		"rollback": {func(ctx context.Context, c *Client) error { _, err := c.Rollback(ctx, 3, 0); return err }, `{"number":5}`,
			asked{Method: "POST", Path: "/os/1.0/system/history/3/:rollback"}},
		"operations": {func(ctx context.Context, c *Client) error { _, err := c.Operations(ctx); return err }, `{}`,
			asked{Method: "GET", Path: "/os/1.0/operations", Query: "recursion=1"}},
		"operation": {func(ctx context.Context, c *Client) error { _, err := c.Operation(ctx, "a/b"); return err }, `{}`,
			asked{Method: "GET", Path: "/os/1.0/operations/a%2Fb"}},
		"wait": {func(ctx context.Context, c *Client) error { _, err := c.WaitOperation(ctx, "x"); return err }, `{"status_code":200}`,
			asked{Method: "GET", Path: "/os/1.0/operations/x/wait", Query: "timeout=30"}},
		"cancel": {func(ctx context.Context, c *Client) error { return c.CancelOperation(ctx, "x") }, `{}`,
			asked{Method: "DELETE", Path: "/os/1.0/operations/x"}},
		"audit": {func(ctx context.Context, c *Client) error {
			_, err := c.Audit(ctx, AuditQuery{Since: 7, Limit: 5})
			return err
		}, `{}`, asked{Method: "GET", Path: "/os/1.0/audit", Query: "limit=5&since=7"}},
		"verify audit": {func(ctx context.Context, c *Client) error { _, err := c.VerifyAudit(ctx); return err }, `{}`,
			asked{Method: "POST", Path: "/os/1.0/audit/:verify"}},
		"services": {func(ctx context.Context, c *Client) error { _, err := c.Services(ctx); return err }, `[]`,
			asked{Method: "GET", Path: "/os/1.0/services"}},
		"service": {func(ctx context.Context, c *Client) error { _, _, err := c.Service(ctx, "ovn"); return err }, `{}`,
			asked{Method: "GET", Path: "/os/1.0/services/ovn"}},
		"set service": {func(ctx context.Context, c *Client) error {
			return c.SetService(ctx, "ovn", map[string]bool{"enabled": true}, `"x"`)
		}, `{}`, asked{Method: "PUT", Path: "/os/1.0/services/ovn", Body: `{"config":{"enabled":true}}`, IfMatch: `"x"`}},
		"reset service": {func(ctx context.Context, c *Client) error { return c.ResetService(ctx, "ovn") }, `{}`,
			asked{Method: "POST", Path: "/os/1.0/services/ovn/:reset"}},
		"flush DNS": {func(ctx context.Context, c *Client) error { return c.FlushDNS(ctx) }, `{}`,
			asked{Method: "POST", Path: "/os/1.0/system/network/:flush-dns"}},
		"rebind": {func(ctx context.Context, c *Client) error { return c.RebindTPM(ctx) }, `{}`,
			asked{Method: "POST", Path: "/os/1.0/system/security/:tpm-rebind"}},
		"debug kernel": {func(ctx context.Context, c *Client) error { _, err := c.DebugKernel(ctx); return err }, `{}`,
			asked{Method: "GET", Path: "/os/1.0/debug/kernel"}},
		"event log": {func(ctx context.Context, c *Client) error { _, err := c.DebugEventLog(ctx); return err }, `{}`,
			asked{Method: "GET", Path: "/os/1.0/debug/secureboot/event-log"}},
		"raw": {func(ctx context.Context, c *Client) error {
			_, err := c.Raw(ctx, "PUT", "/1.0/system/kernel", []byte(`{"config":{}}`))
			return err
		}, `{}`, asked{Method: "PUT", Path: "/os/1.0/system/kernel", Body: `{"config":{}}`}},
	} {
		t.Run(name, func(t *testing.T) {
			c, seen := serve(t, answer(test.metadata))
			if err := test.call(t.Context(), c); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff([]asked{test.want}, *seen); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// A change that was made on top of somebody else's is only refused if the ETag gets
// from the reading to the writing.
func TestUpdate_NodeSendsETag_CallerGetsIt(t *testing.T) {
	c, _ := serve(t, answer(`{"config":{"channel":"testing","check_frequency":"1h","auto_reboot":true},"state":{"status":"ok"}}`))
	got, etag, err := c.Update(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := api.Update{
		Config: api.UpdateConfig{Channel: "testing", CheckFrequency: "1h", AutoReboot: true},
		State:  api.UpdateState{Status: "ok"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if etag != `"abc"` {
		t.Errorf("etag %s", etag)
	}
}

// The list of the API holds URLs, with or without the prefix; people want names.
func TestApplications_URLsOfEitherWay_AreNames(t *testing.T) {
	c, _ := serve(t, answer(`["/os/1.0/applications/incus","/1.0/applications/debug"]`))
	got, err := c.Applications(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"incus", "debug"}, got); diff != "" {
		t.Error(diff)
	}
}

// Whatever is at the other end, the caller learns what it said.
func TestDo_RefusedOrForeignAnswer_IsATypedError(t *testing.T) {
	for name, test := range map[string]struct {
		status int
		body   string
		want   *Error // nil for an error that is no refusal
		text   string
	}{
		"refusal": {404, `{"type":"error","error_code":404,"error":"not found","metadata":null}`,
			&Error{Code: 404, Message: "not found", Path: "/1.0"}, "/1.0: not found (404)"},
		"refusal in a 200": {200, `{"type":"error","error_code":500,"error":"the drive is in use"}`,
			&Error{Code: 500, Message: "the drive is in use", Path: "/1.0"}, "/1.0: the drive is in use (500)"},
		"refusal without words": {409, `{"type":"error"}`,
			&Error{Code: 409, Message: "conflict", Path: "/1.0"}, "/1.0: conflict (409)"},
		"text": {403, "Forbidden\n", &Error{Code: 403, Message: "Forbidden", Path: "/1.0"}, "/1.0: Forbidden (403)"},
		"page": {200, "<html>\n<title>Log in</title>", nil,
			`the answer for /1.0 is not one of a node (HTTP 200): "<html> <title>Log in</title>"`},
		"other JSON": {200, `{"type":"async"}`, nil,
			`the answer for /1.0 is not one of a node (HTTP 200): "{\"type\":\"async\"}"`},
		"wrong shape": {200, `{"type":"sync","metadata":[]}`, nil,
			"decoding the answer for /1.0: json: cannot unmarshal array into Go value of type os.Server"},
	} {
		t.Run(name, func(t *testing.T) {
			c, _ := serve(t, func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(test.status)
				if _, err := io.WriteString(w, test.body); err != nil {
					t.Error(err)
				}
			})
			_, err := c.Server(t.Context())
			var got *Error
			errors.As(err, &got)
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Error(diff)
			}
			if err == nil || err.Error() != test.text {
				t.Errorf("got %v, want %s", err, test.text)
			}
		})
	}
}

// An answer without an end must not fill the memory of the computer that asked.
func TestDo_EndlessAnswer_IsCut(t *testing.T) {
	c, _ := serve(t, func(w http.ResponseWriter, r *http.Request) {
		chunk := []byte(strings.Repeat("x", 1<<20))
		for r.Context().Err() == nil {
			if _, err := w.Write(chunk); err != nil {
				return
			}
		}
	})
	_, err := c.Raw(t.Context(), "GET", "/1.0", nil)
	if want := "the answer for /1.0 is longer than 67108864 bytes"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

// A node never sends a client elsewhere; following would show the certificate to others.
func TestDo_Redirect_IsRefused(t *testing.T) {
	c, seen := serve(t, func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/elsewhere", http.StatusFound) })
	_, err := c.Server(t.Context())
	var failed *ConnectError
	if !errors.As(err, &failed) || !strings.Contains(err.Error(), "/elsewhere") {
		t.Errorf("got %v", err)
	}
	if len(*seen) != 1 {
		t.Errorf("asked %v", *seen)
	}
}

// Whoever stands between client and node learns nothing but that somebody called.
func TestDo_OtherServerCertificate_SendsNothing(t *testing.T) {
	c, seen := serve(t, answer(`{}`))
	// A second server has the same test certificate; so the pin is moved instead.
	other := filepath.Join(t.TempDir(), "other.crt")
	if err := os.WriteFile(other, []byte(otherCertificate), 0o600); err != nil {
		t.Fatal(err)
	}
	wrong, err := New(Options{Endpoint: strings.TrimSuffix(c.base, "/os"), ServerCertFile: other})
	if err != nil {
		t.Fatal(err)
	}
	if err := wrong.Reboot(t.Context()); !errors.Is(err, ErrServerCertificate) {
		t.Errorf("got %v", err)
	}
	if len(*seen) != 0 {
		t.Errorf("asked %v", *seen)
	}
}

// On the node itself the API has no prefix and asks for no certificate.
func TestNew_UnixSocket_HasNoPrefix(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	var path string
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		path = r.URL.Path
		answer(`{"environment":{"hostname":"n"}}`)(w, r)
	})}
	go func() {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	}()
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	})
	for _, endpoint := range []string{socket, "unix://" + socket} {
		c, err := New(Options{Endpoint: endpoint})
		if err != nil {
			t.Fatal(err)
		}
		got, err := c.Server(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
		if got.Environment.Hostname != "n" || path != "/1.0" {
			t.Errorf("%s: hostname %q by path %q", endpoint, got.Environment.Hostname, path)
		}
	}
}

// A slip in an address is told at once, and never leads to a request without TLS.
func TestNew_Endpoint_IsCheckedAndCompleted(t *testing.T) {
	for endpoint, want := range map[string]string{
		"https://node":             "https://node:8443/os",
		"https://node:443/":        "https://node:443/os",
		"https://[2001:db8::1]":    "https://[2001:db8::1]:8443/os",
		"http://node":              "",
		"node:8443":                "",
		"https://":                 "",
		"https://a:b@node":         "",
		"https://node/os":          "",
		"https://node/?x=y":        "",
		"":                         "",
		"https://node:8443\x00bad": "",
	} {
		c, err := New(Options{Endpoint: endpoint})
		got := ""
		if err == nil {
			got = c.base
		}
		if got != want {
			t.Errorf("%q: got %q (%v), want %q", endpoint, got, err, want)
		}
	}
}

// A name from a user becomes one part of a path, whatever it holds.
func TestApplicationPath_NameThatClimbs_IsRefused(t *testing.T) {
	for _, name := range []string{"", ".", ".."} {
		if got, err := ApplicationPath(name); err == nil {
			t.Errorf("%q: got %s", name, got)
		}
	}
}

// otherCertificate belongs to no server of these tests.
const otherCertificate = `-----BEGIN CERTIFICATE-----
MIIBdzCCAR2gAwIBAgIUeNuy3pZ9RGopax+e1iQATbqwOnMwCgYIKoZIzj0EAwIw
EDEOMAwGA1UEAwwFb3RoZXIwIBcNMjYxMTIyMDIxMjE4WhgPMjEyNjEwMjkwMjEy
MThaMBAxDjAMBgNVBAMMBW90aGVyMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE
Ws+tgYfw0duc+DkrzBlFpCT8v1H4H4x9yALv+6gH7vN4vaQyBjoTd89+WdZa7PAP
xVbPrcx9ApxAZ3CskWctHKNTMFEwHQYDVR0OBBYEFOJjE8wEpYSHWUI9LQQ7OOmF
c2J7MB8GA1UdIwQYMBaAFOJjE8wEpYSHWUI9LQQ7OOmFc2J7MA8GA1UdEwEB/wQF
MAMBAf8wCgYIKoZIzj0EAwIDSAAwRQIhALRMadSHYz/v7DDDb6bmh5zbrRMTugNm
Ay+P7Hn+hY7XAiAMfxyR1CUh0TguQNkCMg8naUTRC+XbLVrILoigZ/J32A==
-----END CERTIFICATE-----
`
