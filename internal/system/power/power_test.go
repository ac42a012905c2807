package power_test

import (
	"context"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/internal/system/power"
	"github.com/holdfast-os/holdfast/internal/system/run"
)

func TestPower_EachAction_IsOneCallOfSystemctl(t *testing.T) {
	var ran []string
	p := power.Power{Run: func(_ context.Context, c run.Command) (run.Result, error) {
		ran = append(ran, c.Name+" "+strings.Join(c.Args, " "))
		return run.Result{}, nil
	}}
	for _, do := range []func(context.Context) error{p.Poweroff, p.Reboot, p.Suspend} {
		if err := do(context.Background()); err != nil {
			t.Error(err)
		}
	}
	want := []string{
		"systemctl poweroff --no-ask-password",
		"systemctl reboot --no-ask-password",
		"systemctl suspend --no-ask-password",
	}
	if diff := cmp.Diff(want, ran); diff != "" {
		t.Error(diff)
	}
}
