package earlyboot

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/internal/system/run"
)

// Whoever stands before a node that does not start reads this, and nothing else.
func TestFailed_FailedStart_SaysWhatAndWhatComesNext(t *testing.T) {
	runner := func(_ context.Context, c run.Command) (run.Result, error) {
		if c.Name == "systemctl" {
			return run.Result{Stdout: []byte("holdfast-root.service loaded failed failed Open the system disk\nlonely.service\n\n")}, nil
		}
		return run.Result{Stdout: []byte("error: the disk is gone\n\n  \x1b[2Jcleared\n" + strings.Repeat("ä", 301) + "\n")}, errors.New("journalctl: killed")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // nobody waits in a test
	var out bytes.Buffer
	if err := Failed(ctx, runner, &out); err != nil {
		t.Fatal(err)
	}
	want := `
  Holdfast could not start.

  What failed:
    holdfast-root.service
    lonely.service
  What was said last:
    error: the disk is gone
    ?[2Jcleared
    ` + strings.Repeat("ä", 300) + `...
  (journalctl: killed)

  The machine starts again in 30s. While tries are left it starts this release,
  then the one before it.

`
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Error(diff)
	}
}
