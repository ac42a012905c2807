package daemon_test

import (
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	osapi "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/config"
	"github.com/holdfast-os/holdfast/internal/operationscenter/octest"
	"github.com/holdfast-os/holdfast/internal/update"
)

// shown is a configuration as it is shown: without its token.
func shown(c osapi.ProviderConfig) osapi.ProviderConfig {
	c.Config = maps.Clone(c.Config)
	c.Config["server_token"] = config.Secret
	return c
}

// A node that an owner gives to a manager is known there, lets it in, and says so.
func TestProvider_OperationsCenter_RegistersAndLetsItIn(t *testing.T) {
	m, w := newManager(t), newWorld()
	n := startManaged(t, w, newHands(t, w), nil)
	n.must(t, m.config(), "")
	want := osapi.Provider{Config: shown(m.config()), State: osapi.ProviderState{Registered: true, Server: m.http.URL}}
	if diff := cmp.Diff(want, n.provider(t)); diff != "" {
		t.Error(diff)
	}
	if !n.hands.trusts(m.granted.pem) {
		t.Error("the primary application does not let the manager in")
	}
	nodes := m.Nodes()
	if len(nodes) != 1 || nodes[0].Name != "node1" || nodes[0].ConnectionURL != "https://192.0.2.7:8443" || nodes[0].MachineID != "0123456789abcdef0123456789abcdef" {
		t.Errorf("the manager knows %+v", nodes)
	}
	// What was shown can be sent back: nothing is asked of the manager for it.
	n.must(t, n.provider(t).Config, "")
	if diff := cmp.Diff([]string{"POST /1.0/provisioning/servers"}, m.Requests()); diff != "" {
		t.Error(diff)
	}
}

// Releases and applications come from the manager, and from nowhere once it is left.
func TestProvider_Releases_ComeFromTheManager(t *testing.T) {
	m, w := newManager(t), newWorld()
	m.Publish(octest.Release{UUID: "00000000-0000-4000-8000-000000000001", Version: "202611290104", Channels: []string{"testing"}, Files: []octest.File{
		{Filename: "x86_64/incus.raw.gz", Component: "incus", Type: "application", Architecture: "x86_64", Content: []byte("incus")}}})
	n := startManaged(t, w, newHands(t, w), nil)
	n.must(t, m.config(), "")
	source, err := n.source.Current()
	if err != nil {
		t.Fatal(err)
	}
	found, err := source.Newest(t.Context(), "testing", true)
	if err != nil || found.Manifest.Version != "202611290104" || len(found.Manifest.Parts) != 1 || found.Manifest.Parts[0].Name != "incus.raw" {
		t.Errorf("%+v, %v", found, err)
	}
	n.must(t, images, "")
	if source, err := n.source.Current(); err == nil || !strings.Contains(err.Error(), "no release server is configured") {
		t.Errorf("%v, %v", source, err)
	}
}

// Whoever may read must not be able to register nodes.
func TestProvider_Token_IsShownNowhere(t *testing.T) {
	m, w := newManager(t), newWorld()
	n := startManaged(t, w, newHands(t, w), nil)
	n.must(t, m.config(), "")
	wrong := m.config()
	wrong.Config["server_token"] = managerToken + "-of-before"
	wrong.Config["server_url"] += "/" // the same manager
	n.must(t, wrong, "")
	n.must(t, images, "")
	for _, path := range []string{"/1.0/system/provider", "/1.0/system/config", "/1.0/system/history", "/1.0/system/history/1", "/1.0/system/history/1?to=3", "/1.0/audit"} {
		_, message, metadata := call(t, n.fixture, "GET", path, "")
		if text := message + string(metadata); strings.Contains(text, managerToken) {
			t.Errorf("%s: %s", path, text)
		}
	}
	files := download(t, n.fixture, "/1.0/debug/:support-bundle")
	for name, text := range files {
		if strings.Contains(text, managerToken) {
			t.Errorf("the support bundle has the token in %s", name)
		}
	}
	if !strings.Contains(files["history.json"], "provider") {
		t.Errorf("the support bundle has no history: %q", files["history.json"])
	}
	for _, message := range n.told() {
		if strings.Contains(message, managerToken) {
			t.Errorf("the console shows %s", message)
		}
	}
}

// A manager that says no is told to the caller with its reason, and nothing has changed.
func TestProvider_RegistrationRefused_OldProviderStays(t *testing.T) {
	m, w := newManager(t), newWorld()
	n := startManaged(t, w, newHands(t, w), nil)
	for name, test := range map[string]struct {
		change  func(osapi.ProviderConfig)
		prepare func()
		code    int
		says    string
	}{
		"a token that the manager does not know": {func(c osapi.ProviderConfig) { c.Config["server_token"] = "unknown" }, func() {}, 400,
			`the Operations Center answers 403: token "(the token)" is not valid; the configuration of before is in effect again`},
		"no address": {func(osapi.ProviderConfig) {}, func() { n.hands.noAddress = true }, 400, "no address for a manager to connect to"},
		"no certificate yet": {func(osapi.ProviderConfig) {}, func() { n.hands.noIdentity = true }, 409,
			"the primary application has no certificate yet"},
		"another server's certificate": {func(c osapi.ProviderConfig) { c.Config["server_certificate"] = m.granted.pem }, func() {}, 500,
			"the server's certificate is not the pinned one"},
	} {
		n.hands.mu.Lock()
		n.hands.noAddress, n.hands.noIdentity = false, false
		test.prepare()
		n.hands.mu.Unlock()
		c := m.config()
		test.change(c)
		code, message := n.put(t, c, "")
		if code != test.code || !strings.Contains(message, test.says) {
			t.Errorf("%s: %d %s", name, code, message)
		}
		if diff := cmp.Diff(osapi.Provider{Config: images}, n.provider(t)); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
	if nodes := m.Nodes(); len(nodes) > 0 || n.hands.trusts(m.granted.pem) {
		t.Errorf("the manager knows %+v", nodes)
	}
}

// Every mistake is told at once, with its path, before anybody is asked.
func TestProvider_WrongConfiguration_AllProblemsWithTheirPath(t *testing.T) {
	w := newWorld()
	n := startManaged(t, w, newHands(t, w), nil)
	for name, test := range map[string]struct {
		config osapi.ProviderConfig
		want   string
	}{
		"a manager": {osapi.ProviderConfig{Name: "operations-center", Config: map[string]string{"server_url": "http://manager", "server_token": config.Secret, "token": "x"}},
			`config.config.token: unknown, the provider "operations-center" has server_certificate, server_token, server_url (rule known); ` +
				`config.config.server_url: it must begin with https:// and name a host, as "https://manager.example.org:8443" (rule url); ` +
				`config.config.server_token: it refers to a kept token, and none is kept for this server: send the token itself (rule secret)`},
		"an image server that the image does not know": {osapi.ProviderConfig{Name: "images", Config: map[string]string{"server_url": "https://images.example.org", "token": "x", "authentication_by_query_param": "maybe"}},
			`config.config.authentication_by_query_param: "maybe" is neither "true" nor "false" (rule boolean); ` +
				`config.config.token: this image has no certificate of an image server (/usr/lib/holdfast/releases/auth.crt), so the node cannot prove who it is: leave the token out, or install an image of that server (rule supported)`},
	} {
		if code, message := n.put(t, test.config, ""); code != 400 || message != test.want {
			t.Errorf("%s: %d\n got %s\nwant %s", name, code, message, test.want)
		}
	}
}

// Fault 15: two managers that both believe to have a node would work against each other.
func TestProvider_SecondManager_IsRefusedBeforeItIsAsked(t *testing.T) {
	first, second, w := newManager(t), newManager(t), newWorld()
	n := startManaged(t, w, newHands(t, w), nil)
	n.must(t, first.config(), "")
	for _, query := range []string{"", "?dry-run=1"} {
		code, message := n.put(t, second.config(), query)
		want := "conflict: the node belongs to another manager, " + first.http.URL + `: set the provider to "images" first, which leaves it, and then to ` + second.http.URL
		if code != 409 || message != want {
			t.Errorf("%s: %d %s", query, code, message)
		}
	}
	if requests := second.Requests(); len(requests) > 0 {
		t.Errorf("the second manager was asked: %q", requests)
	}
	if got := n.provider(t).State; got.Server != first.http.URL {
		t.Errorf("it belongs to %q", got.Server)
	}
	n.must(t, images, "")
	n.must(t, second.config(), "")
	if got := n.provider(t).State; got.Server != second.http.URL || !n.hands.trusts(second.granted.pem) || n.hands.trusts(first.granted.pem) {
		t.Errorf("it belongs to %q", got.Server)
	}
}

// A manager must not be able to hold a node, least of all by being away.
func TestProvider_MovingAway_WorksWhileTheManagerIsGone(t *testing.T) {
	m, w := newManager(t), newWorld()
	n := startManaged(t, w, newHands(t, w), nil)
	n.must(t, m.config(), "")
	m.http.CloseClientConnections()
	m.http.Close()
	warning := "an Operations Center does not support deregistration: the node is still listed at " + m.http.URL + ", remove it there"
	_, _, metadata := call(t, n.fixture, "PUT", "/1.0/system/provider?dry-run=1", `{"config":{"name":"images"}}`)
	var plan osapi.Plan
	if err := json.Unmarshal(metadata, &plan); err != nil || !slices.Contains(plan.Notes, warning) {
		t.Errorf("the plan: %+v, %v", plan, err)
	}
	n.must(t, images, "")
	want := osapi.Provider{Config: images, State: osapi.ProviderState{Warnings: []string{warning}}}
	if diff := cmp.Diff(want, n.provider(t)); diff != "" {
		t.Error(diff)
	}
	if n.hands.trusts(m.granted.pem) || !slices.Contains(n.told(), "warning: provider: "+warning) {
		t.Errorf("trusted %t, told %q", n.hands.trusts(m.granted.pem), n.told())
	}
}

// An application that does not answer keeps nobody in a manager; the trust is taken back
// when it can be.
func TestProvider_MovingAwayFromIncusThatIsDown_IsSettledLater(t *testing.T) {
	m, w := newManager(t), newWorld()
	n := startManaged(t, w, newHands(t, w), nil)
	n.must(t, m.config(), "")
	down := errors.New("incus does not answer")
	w.mu.Lock()
	w.failures["distrust"] = []error{down, down}
	w.mu.Unlock()
	n.must(t, images, "")
	if got := n.provider(t); got.State.Registered || !n.hands.trusts(m.granted.pem) {
		t.Fatalf("%+v", got)
	}
	<-n.pauses // it has failed twice: with the change, and behind it
	n.again <- time.Time{}
	for range 3 {
		w.wait(t, "distrust")
	}
	n.stop()
	if n.hands.trusts(m.granted.pem) {
		t.Error("the manager is let in still")
	}
}

// What nobody confirms goes back, although the manager registers a node once only.
func TestProvider_MovingAwayTakenBack_BelongsToTheManagerAgain(t *testing.T) {
	m, w := newManager(t), newWorld()
	n := startManaged(t, w, newHands(t, w), nil)
	n.must(t, m.config(), "")
	n.must(t, images, "?confirmation_timeout=1m")
	if n.hands.trusts(m.granted.pem) {
		t.Fatal("the manager is let in")
	}
	if code, message, _ := call(t, n.fixture, "POST", "/1.0/system/config/:revert", ""); code != 200 {
		t.Fatal(message)
	}
	want := osapi.Provider{Config: shown(m.config()), State: osapi.ProviderState{Registered: true, Server: m.http.URL}}
	if diff := cmp.Diff(want, n.provider(t)); diff != "" {
		t.Error(diff)
	}
	if nodes := m.Nodes(); len(nodes) != 1 || !n.hands.trusts(m.granted.pem) {
		t.Errorf("%+v", nodes)
	}
}

// The same, while the manager cannot be reached, or nobody could reach the node: what was
// taken back must be had again.
func TestProvider_TakenBackWhileCutOff_BelongsToItAgain(t *testing.T) {
	for name, cut := range map[string]func(*manager, *managed){
		"the manager is gone": func(m *manager, _ *managed) {
			m.http.CloseClientConnections()
			m.http.Close()
		},
		"the node has no address": func(_ *manager, n *managed) {
			n.hands.mu.Lock()
			n.hands.noAddress = true
			n.hands.mu.Unlock()
		},
	} {
		m, w := newManager(t), newWorld()
		n := startManaged(t, w, newHands(t, w), nil)
		n.must(t, m.config(), "")
		n.must(t, images, "?confirmation_timeout=1m")
		cut(m, n)
		if code, message, _ := call(t, n.fixture, "POST", "/1.0/system/config/:revert", ""); code != 200 {
			t.Fatalf("%s: %s", name, message)
		}
		if got := n.provider(t).State; !got.Registered || !n.hands.trusts(m.granted.pem) {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

// A manager that has lost the node, or was made anew, gets to know it again.
func TestProvider_MovingBackToOneThatForgot_Registers(t *testing.T) {
	m, w := newManager(t), newWorld()
	n := startManaged(t, w, newHands(t, w), nil)
	n.must(t, m.config(), "")
	n.must(t, images, "")
	m.Server = octest.New(m.granted.pem)
	m.AddToken(managerToken)
	n.must(t, m.config(), "")
	want := []string{"PUT /1.0/provisioning/servers/:self", "POST /1.0/provisioning/servers"}
	if diff := cmp.Diff(want, m.Requests()); diff != "" || len(m.Nodes()) != 1 {
		t.Errorf("%+v %s", m.Nodes(), diff)
	}
}

// A manager sees what happens on its nodes without asking them all the time.
func TestProvider_EachCause_IsReported(t *testing.T) {
	m, w := newManager(t), newWorld()
	n := startManaged(t, w, newHands(t, w), nil)
	n.must(t, m.config(), "")
	if code, message, _ := call(t, n.fixture, "PUT", "/1.0/system/network", lan); code != 200 {
		t.Fatal(message)
	}
	m.wait(t, "network-config-changed")
	n.tell <- update.Notice{Kind: update.NoticeOS, State: update.Good, Version: "202611220104"}
	m.wait(t, "os-update-applied")
	n.tell <- update.Notice{Kind: update.NoticeApplications, State: update.Checking, Text: "incus"}
	m.wait(t, "application-update-applied")
	for path, cause := range map[string]string{"/1.0/system/:reboot": "system-reboot-triggered", "/1.0/system/:poweroff": "system-shutdown-triggered"} {
		if code, message, _ := call(t, n.fixture, "POST", path, ""); code != 200 {
			t.Fatal(message)
		}
		n.act(t, m.reports, cause)
	}
	want := octest.Report{ConnectionURL: "https://192.0.2.7:8443", Cause: "network-config-changed"}
	if diff := cmp.Diff(want, m.Nodes()[0].Reports[0]); diff != "" {
		t.Error(diff)
	}
}

// A manager that hangs is its own trouble: the node's changes and restarts go on.
func TestProvider_ManagerHangs_NothingWaitsForIt(t *testing.T) {
	m, w := newManager(t), newWorld()
	n := startManaged(t, w, newHands(t, w), nil)
	n.must(t, m.config(), "")
	open := make(chan struct{})
	m.Fail(octest.Fault{Path: "/1.0/provisioning/servers/:self", Hold: open})
	defer close(open)
	if code, message, _ := call(t, n.fixture, "PUT", "/1.0/system/network", lan); code != 200 {
		t.Fatal(message)
	}
	if code, message, _ := call(t, n.fixture, "POST", "/1.0/system/:reboot", ""); code != 200 {
		t.Fatal(message)
	}
	n.act(t, w.happened, "reboot")
}

// A node that is born with a manager in its seed has no certificate before its application
// has run. It starts all the same, and registers then.
func TestProvider_FromTheSeed_RegistersOnceItCan(t *testing.T) {
	m, w := newManager(t), newWorld()
	seed := m.config()
	w.seed.provider = &seed
	h := newHands(t, w)
	h.noIdentity = true
	n := startManaged(t, w, h, nil)
	<-n.pauses // it has tried, and waits
	if got := n.provider(t).State; got.Registered || len(got.Warnings) != 1 || !strings.Contains(got.Warnings[0], "has no certificate yet") {
		t.Errorf("%+v", got)
	}
	h.mu.Lock()
	h.noIdentity = false
	h.mu.Unlock()
	n.again <- time.Time{}
	m.wait(t, "system-is-ready")
	w.wait(t, "trust")
	if got := n.provider(t).State; !got.Registered || len(got.Warnings) > 0 {
		t.Errorf("%+v", got)
	}
}

// After a restart a node belongs to whom it did before, and a restored application learns
// of its manager anew.
func TestProvider_Restart_BelongsToItStill(t *testing.T) {
	m, w := newManager(t), newWorld()
	n := startManaged(t, w, newHands(t, w), nil)
	n.must(t, m.config(), "")
	n.stop()
	again := newWorld()
	h := newHands(t, again)
	h.node = n.hands.node
	next := startManaged(t, again, h, n.docs)
	m.wait(t, "system-is-ready")
	again.saw(t, "trust") // beside the start
	want := osapi.Provider{Config: shown(m.config()), State: osapi.ProviderState{Registered: true, Server: m.http.URL}}
	if diff := cmp.Diff(want, next.provider(t)); diff != "" {
		t.Error(diff)
	}
	if nodes := m.Nodes(); len(nodes) != 1 {
		t.Errorf("%+v", nodes)
	}
}

// A manager that gets a public certificate is not lost to its nodes.
func TestProvider_PinDoesNotHold_IsTakenOutOfTheConfiguration(t *testing.T) {
	m, w := newManager(t), newWorld()
	h := newHands(t, w)
	h.roots.AppendCertsFromPEM([]byte(m.shown.pem))
	n := startManaged(t, w, h, nil)
	c := m.config()
	c.Config["server_certificate"] = m.granted.pem // which it showed long ago
	n.must(t, c, "")
	limit := time.After(20 * time.Second)
	for getAs[osapi.ConfigurationDocument](t, n.fixture, "/1.0/system/config").State.Number < 2 {
		select {
		case <-limit:
			t.Fatalf("the pin is still there: %q", n.told())
		case <-n.pauses: // the change of the owner was still under way
		case n.again <- time.Time{}:
		default:
		}
	}
	want := shown(m.config())
	delete(want.Config, "server_certificate")
	if diff := cmp.Diff(want, n.provider(t).Config); diff != "" {
		t.Error(diff)
	}
}
