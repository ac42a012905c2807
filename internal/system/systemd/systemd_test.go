package systemd_test

import (
	"context"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/internal/system/run"
	"github.com/holdfast-os/holdfast/internal/system/systemd"
)

// recorder notes what would have been run and answers with a text.
func recorder(ran *[]string, answer string) run.Runner {
	return func(_ context.Context, c run.Command) (run.Result, error) {
		*ran = append(*ran, c.Name+" "+strings.Join(c.Args, " "))
		return run.Result{Stdout: []byte(answer)}, nil
	}
}

func TestManager_EachVerb_RunsSystemctlOnce(t *testing.T) {
	ctx := context.Background()
	var ran []string
	m := systemd.Manager{Run: recorder(&ran, "")}
	for _, err := range []error{
		m.Start(ctx, "incus.service", "lxcfs.service"), m.Stop(ctx, "incus.socket"),
		m.Restart(ctx, "incus.service"), m.Reload(ctx, "incus.service"), m.DaemonReload(ctx),
	} {
		if err != nil {
			t.Error(err)
		}
	}
	want := []string{
		"systemctl start --no-ask-password -- incus.service lxcfs.service",
		"systemctl stop --no-ask-password -- incus.socket",
		"systemctl restart --no-ask-password -- incus.service",
		"systemctl reload-or-restart --no-ask-password -- incus.service",
		"systemctl daemon-reload",
	}
	if diff := cmp.Diff(want, ran); diff != "" {
		t.Error(diff)
	}
}

// A unit that failed must be told apart from one that was never there.
func TestShow_Answers_AreTyped(t *testing.T) {
	cases := map[string]struct {
		answer string
		want   systemd.State
	}{
		"running": {"LoadState=loaded\nActiveState=active\nSubState=running\nResult=success\n",
			systemd.State{Load: "loaded", Active: "active", Sub: "running", Result: "success"}},
		"failed": {"Result=exit-code\nLoadState=loaded\nActiveState=failed\nSubState=failed\n",
			systemd.State{Load: "loaded", Active: "failed", Sub: "failed", Result: "exit-code"}},
		"missing": {"LoadState=not-found\nActiveState=inactive\nSubState=dead\n",
			systemd.State{Load: "not-found", Active: "inactive", Sub: "dead"}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			var ran []string
			got, err := systemd.Manager{Run: recorder(&ran, c.answer)}.Show(context.Background(), "incus.service")
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// A name from a request must not become an option of systemctl.
func TestManager_NameThatIsNoUnit_RunsNothing(t *testing.T) {
	for _, name := range []string{"", "--root=/tmp/x.service", "a b.service", "incus", "a/b.service", "x\n.service"} {
		var ran []string
		if err := (systemd.Manager{Run: recorder(&ran, "")}).Start(context.Background(), name); err == nil || len(ran) > 0 {
			t.Errorf("%q: got error %v, ran %q", name, err, ran)
		}
	}
}
