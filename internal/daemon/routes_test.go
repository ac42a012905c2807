package daemon_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	osapi "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/daemon"
	"github.com/holdfast-os/holdfast/internal/httpapi"
)

// call speaks to the daemon as Incus does: HTTP on the unix socket.
func call(t *testing.T, f *fixture, method, path, body string, headers ...string) (int, string, json.RawMessage) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(f.root, "run/incus-os/unix.socket"))
	}}}
	request, err := http.NewRequest(method, "http://unix"+path, bytes.NewReader([]byte(body)))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	response, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	var envelope osapi.Response
	if err := json.NewDecoder(response.Body).Decode(&envelope); err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	return response.StatusCode, envelope.Error, envelope.Metadata
}

func getAs[T any](t *testing.T, f *fixture, path string) T {
	t.Helper()
	code, message, metadata := call(t, f, "GET", path, "")
	if code != 200 {
		t.Fatalf("GET %s: %d %s", path, code, message)
	}
	var value T
	if err := json.Unmarshal(metadata, &value); err != nil {
		t.Fatalf("GET %s: %v", path, err)
	}
	return value
}

// ready is a node with Incus on it.
func ready(t *testing.T) *fixture {
	t.Helper()
	w := newWorld()
	w.apps["incus"] = osapi.ApplicationConfig{}
	f := start(t, w, nil)
	w.wait(t, "status ready")
	<-f.clock.pauses // the console's, which no test turns
	return f
}

// The lists and their places are what stock clients walk.
func TestApi_Reads_HaveTheShapeThatClientsKnow(t *testing.T) {
	f := ready(t)
	for path, want := range map[string]string{
		"/":                               `["/1.0"]`,
		"/1.0":                            `{"environment":{"hostname":"node1","machine_id":"0123456789abcdef0123456789abcdef","os_name":"Holdfast","os_version":"202611220104","os_version_next":"","system_is_ready":true,"uptime":61}}`,
		"/1.0/applications":               `["/1.0/applications/incus"]`,
		"/1.0/applications/incus":         `{"state":{"initialized":false,"is_primary":true,"friendly_version":"7.0.2 [202611220104]","version":"","available_versions":null},"config":{}}`,
		"/1.0/services":                   `[]`,
		"/1.0/debug":                      `["/1.0/debug/boot","/1.0/debug/kernel","/1.0/debug/log","/1.0/debug/processes","/1.0/debug/:run-script","/1.0/debug/secureboot","/1.0/debug/:support-bundle"]`,
		"/1.0/debug/processes":            `"PID 1 init\n"`,
		"/1.0/debug/log?unit=a&entries=3": `[{"MESSAGE":"hello"}]`,
		"/1.0/system":                     `["/1.0/system/config","/1.0/system/fallback-listener","/1.0/system/history","/1.0/system/kernel","/1.0/system/logging","/1.0/system/network","/1.0/system/provider","/1.0/system/resources","/1.0/system/security","/1.0/system/storage","/1.0/system/update"]`,
		"/1.0/system/resources":           `{"cpu":2}`,
		"/1.0/system/update":              `{"config":{"auto_reboot":false,"channel":"stable","check_frequency":"6h"},"state":{"last_check":"0001-01-01T00:00:00Z","status":"","needs_reboot":false}}`,
		"/1.0/system/provider":            `{"config":{"name":"images"},"state":{"registered":false}}`,
	} {
		code, message, metadata := call(t, f, "GET", path, "")
		if diff := cmp.Diff(want, string(metadata)); diff != "" || code != 200 {
			t.Errorf("%s: %d %s %s", path, code, message, diff)
		}
	}
	_, _, metadata := call(t, f, "GET", "/1.0/applications", "", httpapi.ProxyHeader, "/os")
	if string(metadata) != `["/os/1.0/applications/incus"]` {
		t.Errorf("through Incus: %s", metadata)
	}
}

// Each refusal says what is wrong and where, and changes nothing.
func TestApi_WrongRequests_AreRefusedWithTheReason(t *testing.T) {
	f := ready(t)
	cases := []struct {
		method, path, body string
		code               int
		message            string
	}{
		{"GET", "/1.0/nothing", "", 404, "no such path: /1.0/nothing"},
		{"POST", "/1.0/nothing", "", 501, "no such path: POST /1.0/nothing"},
		{"DELETE", "/1.0/applications/incus", "", 501, "/1.0/applications/incus does not support DELETE"},

		{"POST", "/1.0/applications", "", 400, `name is missing: send {"name": "incus"}`},
		{"POST", "/1.0/applications", "{", 400, "the body is not JSON: unexpected end of JSON input (line 1, column 1)"},
		{"POST", "/1.0/applications", `{"nam":"incus"}`, 400, `unknown field "nam" (line 1, column 6): did you mean "name"?`},
		{"POST", "/1.0/applications", `{"name":"incus"}`, 409, "conflict: application incus is already installed"},
		{"POST", "/1.0/applications", `{"name":"docker"}`, 400, `invalid: there is no application "docker"`},
		{"POST", "/1.0/applications", `{"name":"openfga"}`, 501, "unsupported: openfga comes with a later release"},
		{"GET", "/1.0/applications/docker", "", 404, `not found: application "docker" is not installed`},
		{"PUT", "/1.0/applications/docker", `{"config":{}}`, 404, `not found: application "docker" is not installed`},
		{"PUT", "/1.0/applications/incus", `{}`, 400, `config is missing: send {"config": {...}} with the whole configuration`},
		{"PUT", "/1.0/applications/incus", `{"config":{"lxcfs":{"cpu_share":true}}}`, 400, `unknown field "config.lxcfs.cpu_share" (line 1, column 31): did you mean "cpu_shares"?`},
		{"POST", "/1.0/applications/docker/:restart", "", 404, `not found: application "docker" is not installed`},
		{"POST", "/1.0/applications/docker/:remove", "", 404, `not found: application "docker" is not installed`},
		{"POST", "/1.0/applications/incus/:remove", "", 400, "invalid: cannot remove the primary application"},
		{"POST", "/1.0/applications/docker/:check-update", "", 404, `not found: application "docker" is not installed`},

		{"GET", "/1.0/debug/log?entries=many", "", 400, `entries: "many" is not a number of entries`},
		{"GET", "/1.0/debug/log?boot=--follow", "", 400, "invalid: boot"},
		{"GET", "/1.0/services/docker", "", 404, `service "docker": there is no such service; it has: `},

		{"PUT", "/1.0/system/update", "", 400, "the body is empty: PUT /1.0/system/update needs a JSON object"},
		{"PUT", "/1.0/system/update", `{"config":{"channel":"a b","check_frequency":"soon"}}`, 400,
			`config.channel: "a b" is not the name of a channel, as "stable" (rule name); config.check_frequency: "soon" is neither "never" nor a duration, as "6h" or "90m" (rule duration)`},
		{"PUT", "/1.0/system/update", `{"config":{"check_frequency":"-1h"}}`, 400, `config.check_frequency: "-1h" is negative (rule duration)`},
		{"PUT", "/1.0/system/update", `{"config":{"maintenance_windows":[{"start_hour":1,"start_minute":0,"end_hour":2,"end_minute":0},{"start_day_of_week":"Sunday","start_hour":24,"start_minute":0,"end_hour":2,"end_minute":60}]}}`, 400,
			"config.maintenance_windows[1].start_hour: 24 is not between 0 and 23 (rule range); config.maintenance_windows[1].end_minute: 60 is not between 0 and 59 (rule range); config.maintenance_windows[1]: start_day_of_week and end_day_of_week go together: set both or none (rule days)"},
		{"PUT", "/1.0/system/update", `{"config":{"maintenance_windows":[{"start_day_of_week":"Monday","start_hour":5,"start_minute":30,"end_day_of_week":"Monday","end_hour":5,"end_minute":0}]}}`, 400,
			"config.maintenance_windows[0]: it ends 05:00 before it starts 05:30 on the same day (rule order)"},
		{"PUT", "/1.0/system/update", `{"config":{"maintenance_windows":[{"start_day_of_week":"Mon","start_hour":5,"start_minute":0,"end_day_of_week":"Mon","end_hour":6,"end_minute":0}]}}`, 400,
			`config.maintenance_windows[0].start_day_of_week: "Mon" is none of Sunday, Monday, Tuesday, Wednesday, Thursday, Friday, Saturday (rule day); config.maintenance_windows[0].end_day_of_week: "Mon" is none of Sunday, Monday, Tuesday, Wednesday, Thursday, Friday, Saturday (rule day)`},
		{"PUT", "/1.0/system/provider", `{"config":{}}`, 400, `config.name: "" is not a provider (rule known)`},
		{"PUT", "/1.0/system/provider", `{"config":{"name":"operations-center"}}`, 400, `config.name: "operations-center" is not a provider (rule known)`},
		{"PUT", "/1.0/system/security", `{}`, 400, `config is missing: send {"config": {...}} with the whole configuration`},

		{"POST", "/internal/tui/:write-message", `{"message":" "}`, 400, "no log message provided"},
		{"POST", "/internal/tui/:write-message", `{"message":"a","level":"LOUD"}`, 400, `level: "LOUD" is none of "DEBUG", "INFO", "WARN", "ERROR"`},
	}
	for _, c := range cases {
		code, message, _ := call(t, f, c.method, c.path, c.body)
		if code != c.code || message != c.message {
			t.Errorf("%s %s %s:\n got %d %s\nwant %d %s", c.method, c.path, c.body, code, message, c.code, c.message)
		}
	}
	want := osapi.UpdateConfig{Channel: "stable", CheckFrequency: "6h"}
	if diff := cmp.Diff(want, getAs[osapi.Update](t, f, "/1.0/system/update").Config); diff != "" {
		t.Errorf("a refused request changed something: %s", diff)
	}
}

// fill puts a name in the place of each variable.
func fill(path string) string {
	return strings.NewReplacer("{name}", "incus", "{number}", "1").Replace(path)
}

// The table is the API: every route of it answers, none by accident as an internal error.
func TestApi_EveryRoute_TakesBrokenJsonAndWrongMethodsWell(t *testing.T) {
	f := ready(t)
	for _, route := range f.daemon.Routes() {
		path := fill(route.Path)
		if code, message, _ := call(t, f, "PATCH", path, ""); code != 501 {
			t.Errorf("PATCH %s: %d %s", path, code, message)
		}
		if route.Later != "" {
			code, message, _ := call(t, f, route.Method, path, "{}")
			if code != 501 || !strings.Contains(message, route.Later) {
				t.Errorf("%s %s: %d %s", route.Method, path, code, message)
			}
			continue
		}
		if route.Request == nil {
			continue
		}
		for _, body := range []string{"{", `{"surely_unknown":1}`, `[]`, `{} {}`, strings.Repeat("[", 1000)} {
			if code, message, _ := call(t, f, route.Method, path, body); code != 400 {
				t.Errorf("%s %s with %.20s: %d %s", route.Method, path, body, code, message)
			}
		}
	}
}

// Through the network, whatever the caller may do in Incus, internal routes stay closed.
func TestApi_InternalRoutes_AreClosedToTheNetwork(t *testing.T) {
	f := ready(t)
	seen := 0
	for _, route := range f.daemon.Routes() {
		internal := strings.HasPrefix(route.Path, "/internal/")
		if internal != (route.Access == httpapi.SocketOnly) {
			t.Errorf("%s has access %s", route.Path, route.Access)
		}
		if !internal {
			continue
		}
		seen++
		if code, message, _ := call(t, f, route.Method, fill(route.Path), `{}`, httpapi.ProxyHeader, "/os"); code != 403 {
			t.Errorf("%s: %d %s", route.Path, code, message)
		}
	}
	if seen != 4 {
		t.Errorf("%d internal routes, want 4", seen)
	}
}

// A change survives a restart because it is on disk before the answer.
func TestApi_PutUpdate_IsKept(t *testing.T) {
	f := ready(t)
	body := `{"config":{"auto_reboot":true,"channel":"testing","check_frequency":"never"},"state":{"status":"x","future":1}}`
	if code, message, _ := call(t, f, "PUT", "/1.0/system/update", body); code != 200 {
		t.Fatal(message)
	}
	docs := f.docs
	f.stop()
	again := start(t, f.world, func() (daemon.Documents, error) { return docs, nil })
	f.wait(t, "status ready")
	want := osapi.UpdateConfig{AutoReboot: true, Channel: "testing", CheckFrequency: "never"}
	if diff := cmp.Diff(want, getAs[osapi.Update](t, again, "/1.0/system/update").Config); diff != "" {
		t.Error(diff)
	}
}

// A full disk must not make the node say one thing and be another.
func TestApi_PutProviderThatCannotBeKept_GoesBack(t *testing.T) {
	f := ready(t)
	f.docs.mu.Lock()
	f.docs.fail = errors.New("no space left on device")
	f.docs.mu.Unlock()
	code, message, _ := call(t, f, "PUT", "/1.0/system/provider", `{"config":{"name":"images","config":{"server_url":"https://b.example"}}}`)
	if code != 500 || message != "keeping the configuration: no space left on device" {
		t.Errorf("got %d %s", code, message)
	}
	if diff := cmp.Diff(any(osapi.ProviderConfig{Name: "images"}), f.applied["provider"]); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(osapi.ProviderConfig{Name: "images"}, getAs[osapi.Provider](t, f, "/1.0/system/provider").Config); diff != "" {
		t.Error(diff)
	}
}

// The answer must reach the caller before the node, or Incus that carries it, goes away.
func TestApi_Actions_AnswerFirstAndActAMomentLater(t *testing.T) {
	for path, event := range map[string]string{
		"/1.0/system/:poweroff":                   "poweroff",
		"/1.0/system/:reboot":                     "reboot",
		"/1.0/system/:suspend":                    "suspend",
		"/1.0/system/update/:check":               "check for updates false false",
		"/1.0/applications/incus/:restart":        "restart incus",
		"/1.0/applications/incus/:check-update":   "check incus",
		"/1.0/applications/incus/:switch-version": "switch incus 202611220003",
	} {
		t.Run(path, func(t *testing.T) {
			f := ready(t)
			if code, message, metadata := call(t, f, "POST", path, ""); code != 200 || string(metadata) != "{}" {
				t.Fatalf("%d %s %s", code, message, metadata)
			}
			if pause := <-f.clock.pauses; pause != time.Second {
				t.Errorf("it waits %s", pause)
			}
			if log := f.log(); log[len(log)-1] == event {
				t.Error("it acted before the pause")
			}
			// The console waits for the same clock, so one tick may not be enough.
			for happened := ""; happened != event; {
				select {
				case f.clock.tick <- time.Time{}:
				case <-f.clock.pauses: // the console's, which comes back for each tick
				case happened = <-f.happened:
				}
			}
		})
	}
}

// The warning on the console goes away when the owner has the keys.
func TestApi_KeysRetrieved_IsKeptAndTheWarningGoes(t *testing.T) {
	f := ready(t)
	if before := getAs[osapi.Security](t, f, "/1.0/system/security"); before.State.EncryptionRecoveryKeysRetrieved {
		t.Error("retrieved before anybody said so: reading the keys is not keeping them")
	}
	if code, message, _ := call(t, f, "POST", "/1.0/system/security/:retrieved", ""); code != 200 {
		t.Fatal(message)
	}
	after := getAs[osapi.Security](t, f, "/1.0/system/security")
	if !after.State.EncryptionRecoveryKeysRetrieved || string(f.docs.docs["security"]) != `{"recovery_keys_retrieved":true}` {
		t.Errorf("got %+v, kept %s", after, f.docs.docs["security"])
	}
	if diff := cmp.Diff([]string{"using swtpm"}, f.shown.Warnings); diff != "" {
		t.Error(diff)
	}
}

// Tools that ask for the log of the daemon by its name in IncusOS get ours.
func TestApi_LogOfIncusOsd_IsTheLogOfHoldfastd(t *testing.T) {
	f := ready(t)
	for unit, want := range map[string]string{"incus-osd": "holdfastd.service", "incus-osd.service": "holdfastd.service", "incus.service": "incus.service"} {
		getAs[[]json.RawMessage](t, f, "/1.0/debug/log?unit="+unit)
		if f.query.Unit != want {
			t.Errorf("%s: asked for %s", unit, f.query.Unit)
		}
	}
}
