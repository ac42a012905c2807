package api_test

import (
	"errors"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	osapi "github.com/holdfast-os/holdfast/api/os"
)

// A node that is killed behind the answer to a factory reset has promised it: the next start
// goes on, for the whole node and for an application, whatever was going on.
func TestKill_DuringAFactoryReset_TheNextStartEndsIt(t *testing.T) {
	const data = "root/var/lib/incus/data"
	for point, c := range map[string]struct{ path, operation string }{
		"apps.data-stop":   {"/1.0/applications/incus/:factory-reset", "Resetting the application incus"},
		"apps.data-start":  {"/1.0/applications/incus/:factory-reset", "Resetting the application incus"},
		"apps.initialize":  {"/1.0/applications/incus/:factory-reset", "Resetting the application incus"},
		"reset.seed":       {"/1.0/system/:factory-reset", "Resetting the node"},
		"reset.partitions": {"/1.0/system/:factory-reset", "Resetting the node"},
	} {
		t.Run(point, func(t *testing.T) {
			t.Parallel()
			dir := folder(t)
			p := run(t, dir, "--listen", "", "--fault", point+"@1h")
			p.untilReady()
			if err := os.WriteFile(filepath.Join(dir, data), []byte("of before"), 0o600); err != nil {
				t.Fatal(err)
			}
			if got := p.must(http.MethodPost, c.path, nil); got.code != http.StatusOK {
				t.Fatalf("%d %s", got.code, got.Error)
			}
			p.untilGoesOn(c.operation)
			p.kill()
			p = run(t, dir, "--listen", "")
			p.untilReady()
			if _, err := os.Stat(filepath.Join(dir, data)); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("the data of before is there: %v", err)
			}
			for _, pattern := range []string{"root/var/lib/incus.*", "kept/state/application-reset*", "esp/holdfast/reset*"} {
				left, err := filepath.Glob(filepath.Join(dir, pattern))
				if err != nil || len(left) > 0 {
					t.Errorf("left behind: %q %v", left, err)
				}
			}
		})
	}
}

// untilGoesOn waits until an operation runs.
func (n *node) untilGoesOn(description string) {
	n.t.Helper()
	for limit := time.Now().Add(slow * 20 * time.Second); time.Now().Before(limit); {
		var all map[string][]osapi.Operation
		n.get("/1.0/operations?recursion=1", &all)
		for _, list := range all {
			for _, op := range list {
				if op.Description == description && op.StatusCode == osapi.OperationRunning {
					return
				}
			}
		}
	}
	n.t.Fatalf("%q does not begin", description)
}
