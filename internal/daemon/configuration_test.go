package daemon_test

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	osapi "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/daemon"
	"github.com/holdfast-os/holdfast/internal/httpapi"
)

const lan = `{"config":{"interfaces":[{"name":"lan","hwaddr":"52:54:00:12:34:56"}]}}`

func firstName(t *testing.T, f *fixture) string {
	t.Helper()
	return getAs[osapi.Network](t, f, "/1.0/system/network").Config.Interfaces[0].Name
}

// Before a change is made it is shown: what is kept, what is written, and that the caller
// may be cut off. Nothing has happened then.
func TestDryRun_ShowsThePlanAndChangesNothing(t *testing.T) {
	f := ready(t)
	code, message, metadata := call(t, f, "PUT", "/1.0/system/network?dry-run=1", lan)
	if code != 200 {
		t.Fatalf("%d %s", code, message)
	}
	var got osapi.Plan
	if err := json.Unmarshal(metadata, &got); err != nil {
		t.Fatal(err)
	}
	var actions []string
	for _, step := range got.Steps {
		actions = append(actions, step.Action+" "+step.Object)
	}
	if diff := cmp.Diff([]string{"keep-document network", "write-file /etc/network"}, actions); diff != "" || !got.Changes || !got.MayDisconnect {
		t.Errorf("%+v\n%s", got, diff)
	}
	if name := firstName(t, f); name != "eth0" {
		t.Errorf("the network is %q", name)
	}
}

func TestChange_UnknownParameterValues_AreRefused(t *testing.T) {
	f := ready(t)
	for path, want := range map[string]string{
		"/1.0/system/network?dry-run=yes":              `dry-run: "yes" is neither 1 nor true`,
		"/1.0/system/network?confirmation_timeout=5":   `confirmation_timeout: "5" is not a positive duration, as "30s" or "5m"`,
		"/1.0/system/network?confirmation_timeout=-1s": `confirmation_timeout: "-1s" is not a positive duration, as "30s" or "5m"`,
		"/1.0/system/network?confirmation_timeout=99h": "config.confirmation_timeout: 99h0m0s is not between 0 and 24h0m0s (rule range)",
	} {
		if code, message, _ := call(t, f, "PUT", path, lan); code != 400 || message != want {
			t.Errorf("%s: %d %s", path, code, message)
		}
	}
}

// An owner who has cut off the way to the node gets it back.
func TestChange_NobodyConfirms_GoesBack(t *testing.T) {
	f := ready(t)
	body := strings.Replace(lan, `{"config":{`, `{"config":{"confirmation_timeout":"1m",`, 1)
	if code, message, _ := call(t, f, "PUT", "/1.0/system/network", body); code != 200 {
		t.Fatal(message)
	}
	if pause := <-f.clock.pauses; pause != time.Minute {
		t.Errorf("it waits %s", pause)
	}
	network := getAs[osapi.Network](t, f, "/1.0/system/network")
	if network.Config.Interfaces[0].Name != "lan" || !network.State.ConfigurationInProcess {
		t.Errorf("%+v", network)
	}
	code, message, _ := call(t, f, "PUT", "/1.0/system/kernel", `{"config":{}}`)
	if want := "another change is going on: PUT /1.0/system/network by local since 2026-11-22T01:04:00Z"; code != 409 || !strings.HasPrefix(message, want) {
		t.Errorf("a second change: %d %s", code, message)
	}
	f.wait(t, "network") // of the start, or of the change
	for taken := false; !taken; {
		select {
		case f.clock.tick <- time.Time{}:
		case <-f.clock.pauses: // the console's, which comes back for each tick
		default:
			f.mu.Lock()
			config, ok := f.applied["network"].(osapi.NetworkConfig)
			f.mu.Unlock()
			taken = ok && config.Interfaces[0].Name == "eth0"
		}
	}
}

func TestChange_Confirmed_StaysAndIsInTheHistory(t *testing.T) {
	f := ready(t)
	if code, message, _ := call(t, f, "PUT", "/1.0/system/network?confirmation_timeout=1m", lan); code != 200 {
		t.Fatal(message)
	}
	if code, message, _ := call(t, f, "POST", "/1.0/system/network/:confirm", ""); code != 200 {
		t.Fatal(message)
	}
	if code, message, _ := call(t, f, "POST", "/1.0/system/network/:confirm", ""); code != 400 || message != "no configuration is pending a confirmation" {
		t.Errorf("%d %s", code, message)
	}
	want := []osapi.Change{{
		Number: 1, Time: time.Date(2026, 11, 22, 1, 4, 0, 0, time.UTC), Who: "local", What: "PUT /1.0/system/network", Sections: []string{"network"},
	}}
	if diff := cmp.Diff(want, getAs[[]osapi.Change](t, f, "/1.0/system/history")); diff != "" {
		t.Error(diff)
	}
	if one := getAs[osapi.Change](t, f, "/1.0/system/history/1"); !strings.Contains(one.Diff, `+      "name": "lan",`) {
		t.Errorf("%+v", one)
	}
}

// What was changed last week is undone by its number; so is the undoing.
func TestRollback_ToAnyChange(t *testing.T) {
	f := ready(t)
	for _, channel := range []string{"one", "two", "three"} {
		if code, message, _ := call(t, f, "PUT", "/1.0/system/update", `{"config":{"channel":"`+channel+`"}}`); code != 200 {
			t.Fatal(message)
		}
	}
	if code, message, metadata := call(t, f, "POST", "/1.0/system/history/1/:rollback", ""); code != 200 || string(metadata) != `{"number":4}` {
		t.Fatalf("%d %s %s", code, message, metadata)
	}
	if got := getAs[osapi.Update](t, f, "/1.0/system/update").Config.Channel; got != "one" {
		t.Errorf("channel %q", got)
	}
	code, message, _ := call(t, f, "POST", "/1.0/system/history/9/:rollback", "")
	if code != 404 || message != "change 9: there is none: those from 0 to 4 can be gone back to" {
		t.Errorf("%d %s", code, message)
	}
}

// One document is what a Git repository holds: taken as a whole, or not at all.
func TestConfiguration_SeveralSections_AllOrNone(t *testing.T) {
	f := ready(t)
	f.mu.Lock()
	f.failures["logging"] = []error{errors.New("the unit does not start")}
	f.mu.Unlock()
	body := `{"config":{"network":{"interfaces":[{"name":"lan","hwaddr":"x"}]},"logging":{"syslog":{"address":"192.0.2.1:514"}}}}`
	code, message, _ := call(t, f, "PUT", "/1.0/system/config", body)
	if want := "applying logging: the unit does not start; the configuration of before is in effect again"; code != 500 || message != want {
		t.Errorf("%d %s", code, message)
	}
	if name := firstName(t, f); name != "eth0" {
		t.Errorf("the network is %q after a change that failed", name)
	}
	if code, message, _ := call(t, f, "PUT", "/1.0/system/config", body); code != 200 {
		t.Fatal(message)
	}
	got := getAs[osapi.ConfigurationDocument](t, f, "/1.0/system/config")
	if got.Config.Network.Interfaces[0].Name != "lan" || got.Config.Logging.Syslog.Address != "192.0.2.1:514" || got.State.Number != 1 {
		t.Errorf("%+v", got)
	}
	code, message, _ = call(t, f, "PUT", "/1.0/system/config", `{"config":{"update":{"auto_reboot":false,"channel":"a b","check_frequency":"1h"},"network":{"interfaces":[{"name":"","hwaddr":"x"}]}}}`)
	want := `config.network.interfaces[0].name: is empty (rule required); config.update.channel: "a b" is not the name of a channel, as "stable" (rule name)`
	if code != 400 || message != want {
		t.Errorf("%d %s", code, message)
	}
}

// Secrets are kept, never shown, and stay when their reference is sent back.
func TestSecrets_AreNeverShown_AndStayByReference(t *testing.T) {
	f := ready(t)
	body := `{"config":{"interfaces":[{"name":"lan","hwaddr":"x"}],"wireguard":[{"name":"wg0","private_key":"hunter2"}]}}`
	if code, message, _ := call(t, f, "PUT", "/1.0/system/network", body); code != 200 {
		t.Fatal(message)
	}
	for _, path := range []string{"/1.0/system/network", "/1.0/system/config", "/1.0/system/history", "/1.0/system/history/1"} {
		if _, _, metadata := call(t, f, "GET", path, ""); strings.Contains(string(metadata), "hunter2") {
			t.Errorf("%s shows the key: %s", path, metadata)
		}
	}
	if _, _, metadata := call(t, f, "PUT", "/1.0/system/network?dry-run=1", strings.ReplaceAll(body, "lan", "wan")); strings.Contains(string(metadata), "hunter2") {
		t.Errorf("the plan shows the key: %s", metadata)
	}
	_, _, metadata := call(t, f, "GET", "/1.0/system/network", "")
	back := strings.Replace(string(metadata), `"lan"`, `"wan"`, 1)
	if code, message, _ := call(t, f, "PUT", "/1.0/system/network", back); code != 200 {
		t.Fatal(message)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	kept := f.applied["network"].(osapi.NetworkConfig)
	if kept.Interfaces[0].Name != "wan" || kept.Wireguard[0].PrivateKey != "hunter2" {
		t.Errorf("%+v", kept)
	}
}

// Two people who read, then write: the second is told, nothing is lost.
func TestIfMatch_StaleConfiguration_IsRefusedBeforeAnythingIsDone(t *testing.T) {
	f := ready(t)
	if code, message, _ := call(t, f, "PUT", "/1.0/system/network", lan, "If-Match", `"0000"`); code != 412 {
		t.Errorf("%d %s", code, message)
	}
	if name := firstName(t, f); name != "eth0" {
		t.Errorf("the network is %q", name)
	}
}

// A power cut before the confirmation: the next start has the network of before.
func TestRestart_BeforeConfirmation_GoesBack(t *testing.T) {
	f := ready(t)
	if code, message, _ := call(t, f, "PUT", "/1.0/system/network?confirmation_timeout=1h", lan); code != 200 {
		t.Fatal(message)
	}
	docs := f.docs
	f.stop()
	again := start(t, f.world, func() (daemon.Documents, error) { return docs, nil })
	f.wait(t, "status ready")
	if name := firstName(t, again); name != "eth0" {
		t.Errorf("the network is %q", name)
	}
	if state := getAs[osapi.ConfigurationDocument](t, again, "/1.0/system/config").State; state.Number != 0 || state.Pending != nil {
		t.Errorf("%+v", state)
	}
}

// Whoever asks for a plan gets one or is refused, on every PUT of the API: a parameter that
// is not understood would make the change.
func TestDryRun_EveryPut_ChangesNothing(t *testing.T) {
	f := ready(t)
	before := map[string]string{}
	puts := 0
	for _, route := range f.daemon.Routes() {
		if route.Method != "PUT" || route.Later != "" {
			continue
		}
		puts++
		path := fill(route.Path)
		_, _, shown := call(t, f, "GET", path, "")
		before[path] = string(shown)
		code, message, _ := call(t, f, "PUT", path+"?dry-run=1", `{"config":{}}`)
		if code != 200 && code != 400 && code != 404 {
			t.Errorf("%s: %d %s", path, code, message)
		}
		if found := slices.ContainsFunc(route.Query, func(p httpapi.Param) bool { return p.Name == "dry-run" }); !found {
			t.Errorf("%s does not say that it takes dry-run", path)
		}
	}
	for path, want := range before {
		if _, _, shown := call(t, f, "GET", path, ""); string(shown) != want {
			t.Errorf("%s was changed by a plan: %s", path, shown)
		}
	}
	if puts < 9 || len(getAs[[]osapi.Change](t, f, "/1.0/system/history")) != 0 {
		t.Errorf("%d PUTs, history %v", puts, getAs[[]osapi.Change](t, f, "/1.0/system/history"))
	}
}
