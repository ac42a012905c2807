package plan_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	osapi "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/plan"
)

func TestWire_ShowsDifferencesRestartsAndNoSecret(t *testing.T) {
	var p plan.Plan
	p.File("/etc/a", "x=1\ny=2\n", "x=1\ny=3\n")
	p.File("/etc/same", "same", "same")
	p.File("/etc/gone", "old\n", "")
	p.Add(plan.Step{Kind: plan.WriteFile, Object: "/etc/key", After: "hunter2", Secret: true})
	p.Add(plan.Step{Kind: plan.SetValue, Object: "/proc/sys/vm/nr_hugepages", Before: "0", After: "16"})
	p.Add(plan.Step{Kind: plan.RestartUnit, Object: "x.service"})
	p.Add(plan.Step{Kind: plan.RestartUnit, Object: "x.service"})
	p.Append(plan.Plan{Disconnects: true, Notes: []string{"a note"}})
	want := osapi.Plan{
		Changes: true, MayDisconnect: true, Restarts: []string{"x.service"}, Notes: []string{"a note"},
		Steps: []osapi.PlanStep{
			{Action: "write-file", Object: "/etc/a", Diff: "--- a/etc/a\n+++ b/etc/a\n@@ -1,2 +1,2 @@\n x=1\n-y=2\n+y=3\n"},
			{Action: "remove-file", Object: "/etc/gone", Diff: "--- a/etc/gone\n+++ /dev/null\n@@ -1 +0,0 @@\n-old\n"},
			{Action: "write-file", Object: "/etc/key", Secret: true},
			{Action: "set-value", Object: "/proc/sys/vm/nr_hugepages", Diff: "--- a/proc/sys/vm/nr_hugepages\n+++ b/proc/sys/vm/nr_hugepages\n@@ -1 +1 @@\n-0\n+16\n"},
			{Action: "restart-unit", Object: "x.service"},
			{Action: "restart-unit", Object: "x.service"},
		},
	}
	if diff := cmp.Diff(want, p.Wire()); diff != "" {
		t.Error(diff)
	}
}

func TestWire_NothingToDo_IsAnEmptyList(t *testing.T) {
	if diff := cmp.Diff(osapi.Plan{Steps: []osapi.PlanStep{}}, plan.Plan{}.Wire()); diff != "" {
		t.Error(diff)
	}
}

func TestDiff_Endless_IsCutOff(t *testing.T) {
	text := plan.Diff("/etc/big", "", strings.Repeat("0123456789abcdef\n", 100_000))
	if len(text) > 70_000 || !strings.HasSuffix(text, "(cut off: the difference is longer)\n") {
		t.Errorf("%d bytes", len(text))
	}
}
