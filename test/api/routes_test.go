package api_test

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	osapi "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/httpapi"
	"github.com/holdfast-os/holdfast/internal/simulate"
)

// stand-ins for the variables of paths, as they are on a node that has been changed once.
var variables = strings.NewReplacer("/services/{name}", "/services/iscsi", "/applications/{name}", "/applications/incus", "{number}", "1")

// path is one of a route that there is on a simulated node; false for one that there is
// not, as that of an operation.
func path(route httpapi.Route) (string, bool) {
	text := variables.Replace(route.Path)
	return text, !strings.Contains(text, "{")
}

// A client that reads everything must not meet anything but an answer or a reason.
func TestEveryGET_SimulatedNode_AnswersOrSaysWhatComesLater(t *testing.T) {
	t.Parallel()
	n := start(t, simulate.Options{})
	n.put("/1.0/system/kernel", map[string]any{"blacklist_modules": []string{"nouveau"}})
	asked := 0
	for _, route := range n.sim.Daemon().Routes() {
		text, there := path(route)
		if route.Method != http.MethodGet || !there {
			continue
		}
		asked++
		want := http.StatusOK
		switch {
		case route.Later != "":
			want = http.StatusNotImplemented
		case text == "/1.0/events":
			want = http.StatusBadRequest // it is a websocket
		}
		got := n.must(http.MethodGet, text, nil)
		if got.code != want || (route.Later != "" && !strings.Contains(got.Error, route.Later)) {
			t.Errorf("GET %s: %d %s, want %d %s", text, got.code, got.Error, want, route.Later)
		}
	}
	if asked < 25 {
		t.Errorf("only %d routes were asked", asked)
	}
}

// What a node shows can be sent back: this is what "edit" does when nothing is edited.
func TestEveryPUT_OfWhatGETGave_ChangesNothing(t *testing.T) {
	t.Parallel()
	n := start(t, simulate.Options{})
	for section, config := range rich() {
		n.put(section, config)
	}
	var before osapi.ConfigurationDocument
	n.get("/1.0/system/config", &before)
	for _, route := range n.sim.Daemon().Routes() {
		text, there := path(route)
		if route.Method != http.MethodPut || route.Handler == nil || !there {
			continue
		}
		t.Run(text, func(t *testing.T) {
			var shown struct {
				Config json.RawMessage `json:"config"`
			}
			tag := n.get(text, &shown)
			got := n.must(http.MethodPut, text, map[string]any{"config": shown.Config}, "If-Match", tag)
			if got.code != http.StatusOK {
				// A fallback listener without anybody to trust is the default, and cannot be asked for.
				t.Fatalf("PUT %s of %s: %d %s", text, shown.Config, got.code, got.Error)
			}
			var again struct {
				Config json.RawMessage `json:"config"`
			}
			if now := n.get(text, &again); now != tag || string(again.Config) != string(shown.Config) {
				t.Errorf("%s is now %s, was %s", text, again.Config, shown.Config)
			}
		})
	}
	var after osapi.ConfigurationDocument
	n.get("/1.0/system/config", &after)
	if diff := cmp.Diff(before, after); diff != "" {
		t.Error(diff)
	}
}

// A node in a test suite is started often.
func TestProgram_Started_AnswersWithinASecond(t *testing.T) {
	dir := folder(t)
	began := time.Now()
	n := run(t, dir)
	n.untilReady()
	if took := time.Since(began); took > slow*time.Second {
		t.Errorf("it took %s", took)
	}
}

// Somebody who looks at it must not take it for a machine.
func TestSecurity_SimulatedNode_SaysSo(t *testing.T) {
	t.Parallel()
	n := start(t, simulate.Options{})
	var security osapi.Security
	n.get("/1.0/system/security", &security)
	got := []any{security.State.SystemStateStatus, security.State.SystemStateIsTrusted, security.State.SecureBootEnabled}
	if diff := cmp.Diff([]any{"simulated", false, false}, got); diff != "" {
		t.Error(diff)
	}
}

// A client's handling of errors is tried on a node that fails as it is told.
func TestFaults_WrittenWhileItRuns_HappenAndPass(t *testing.T) {
	t.Parallel()
	n := start(t, simulate.Options{Faults: []simulate.Fault{{On: "kernel.apply", Error: "the kernel says no", Steps: 1, Times: 1}}})
	change := map[string]any{"config": map[string]any{"blacklist_modules": []string{"nouveau"}}}
	got := n.must(http.MethodPut, "/1.0/system/kernel", change)
	if got.code != http.StatusInternalServerError || !strings.Contains(got.Error, "the kernel says no") {
		t.Fatalf("%d %s", got.code, got.Error)
	}
	var kernel osapi.Kernel
	n.get("/1.0/system/kernel", &kernel)
	if diff := cmp.Diff(osapi.KernelConfig{}, kernel.Config); diff != "" {
		t.Error(diff)
	}
	if got := n.must(http.MethodPut, "/1.0/system/kernel", change); got.code != http.StatusOK {
		t.Fatalf("the second time: %d %s", got.code, got.Error)
	}
}

// A mistake in the code of one section must not keep an owner from changing the others.
func TestPanic_WhileAChangeIsApplied_DoesNotBlockTheNext(t *testing.T) {
	t.Parallel()
	n := start(t, simulate.Options{})
	if err := os.WriteFile(filepath.Join(n.dir, "faults.json"), []byte(`[{"on": "kernel.apply", "panic": true, "times": 1}]`), 0o600); err != nil {
		t.Fatal(err)
	}
	change := map[string]any{"config": map[string]any{"blacklist_modules": []string{"nouveau"}}}
	if got := n.must(http.MethodPut, "/1.0/system/kernel", change); got.code != http.StatusInternalServerError {
		t.Fatalf("%d %s", got.code, got.Error)
	}
	var kernel osapi.Kernel
	n.get("/1.0/system/kernel", &kernel)
	if diff := cmp.Diff(osapi.KernelConfig{}, kernel.Config); diff != "" {
		t.Error(diff)
	}
	if got := n.must(http.MethodPut, "/1.0/system/kernel", change); got.code != http.StatusOK {
		t.Errorf("the change after it: %d %s", got.code, got.Error)
	}
}

// What an owner turns off and on is the node, and what it was told stays.
func TestReboot_ChangedNode_KeepsItsConfiguration(t *testing.T) {
	t.Parallel()
	n := start(t, simulate.Options{})
	want := osapi.KernelConfig{BlacklistModules: []string{"nouveau"}}
	n.put("/1.0/system/kernel", want)
	n.reboot()
	var kernel osapi.Kernel
	n.get("/1.0/system/kernel", &kernel)
	if diff := cmp.Diff(want, kernel.Config); diff != "" {
		t.Error(diff)
	}
}
