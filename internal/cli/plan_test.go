package cli

import (
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	api "github.com/holdfast-os/holdfast/api/os"
)

func writeFile(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// On a terminal what goes and what comes is seen by its colour; a file from the node can
// still not drive the terminal.
func TestPlanText_OnATerminal_HasColoursOfItsOwnAlone(t *testing.T) {
	plan := api.Plan{Changes: true, Steps: []api.PlanStep{
		{Action: "write-file", Object: "/etc/a\x1b[2J", Diff: "--- a/etc/a\n+++ b/etc/a\n@@ -1 +1 @@\n-old\x1b[5m\n+new\n"},
		{Action: "warp-core", Object: "one", Why: "a newer release knows it"},
	}}
	want := "1. write /etc/a[2J\n    \x1b[36m@@ -1 +1 @@\x1b[0m\n    \x1b[31m-old[5m\x1b[0m\n    \x1b[32m+new\x1b[0m\n" +
		"2. warp-core one (a newer release knows it)\n"
	for coloured, want := range map[bool]string{
		true:  want,
		false: "1. write /etc/a[2J\n    @@ -1 +1 @@\n    -old[5m\n    +new\n2. warp-core one (a newer release knows it)\n",
	} {
		if diff := cmp.Diff(want, planText(plan, coloured)); diff != "" {
			t.Errorf("coloured %v: %s", coloured, diff)
		}
	}
}

// Whoever does not want colours, or reads a file, gets none.
func TestColours_TerminalAndNoColor_Decide(t *testing.T) {
	for _, test := range []struct {
		terminal bool
		noColor  string
		want     bool
	}{{true, "", true}, {true, "1", false}, {false, "", false}} {
		env, _, _ := testEnv(t, "")
		env.StdoutTerminal = test.terminal
		env.Getenv = func(string) string { return test.noColor }
		if got := colours(env); got != test.want {
			t.Errorf("%+v: got %v", test, got)
		}
	}
}

func TestShortDuration_WithoutEmptyParts(t *testing.T) {
	for d, want := range map[time.Duration]string{
		2 * time.Minute: "2m", 90 * time.Second: "1m30s", time.Hour: "1h", 10 * time.Second: "10s", 20 * time.Minute: "20m",
		10 * time.Hour: "10h", 90 * time.Minute: "1h30m", 0: "0s", time.Hour + 5*time.Second: "1h0m5s",
	} {
		if got := shortDuration(d); got != want {
			t.Errorf("%s: got %s, want %s", d, got, want)
		}
	}
}
