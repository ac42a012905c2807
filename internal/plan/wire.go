package plan

import (
	"slices"
	"strings"

	"github.com/aymanbagabas/go-udiff"

	osapi "github.com/holdfast-os/holdfast/api/os"
)

// maxDiff is how much of a difference is shown, in bytes.
const maxDiff = 64 << 10

// Wire is the plan as the API shows it: with differences, without secrets.
func (p Plan) Wire() osapi.Plan {
	shown := osapi.Plan{
		Changes: !p.Empty(), Steps: make([]osapi.PlanStep, 0, len(p.Steps)),
		MayDisconnect: p.Disconnects, NeedsReboot: p.Reboot, Notes: p.Notes,
	}
	for _, step := range p.Steps {
		shown.Steps = append(shown.Steps, step.wire())
		if step.Kind == RestartUnit && !slices.Contains(shown.Restarts, step.Object) {
			shown.Restarts = append(shown.Restarts, step.Object)
		}
	}
	return shown
}

func (s Step) wire() osapi.PlanStep {
	shown := osapi.PlanStep{Action: string(s.Kind), Object: s.Object, Secret: s.Secret, Why: s.Why}
	if s.Secret || s.Before == s.After {
		return shown
	}
	shown.Diff = Diff(s.Object, s.Before, s.After)
	return shown
}

// Diff is a unified difference of two texts, cut off where it is too long to be read.
func Diff(name, before, after string) string {
	from, to := "a"+name, "b"+name
	if !strings.HasPrefix(name, "/") {
		from, to = "a/"+name, "b/"+name
	}
	if before == "" {
		from = "/dev/null"
	}
	if after == "" {
		to = "/dev/null"
	}
	text := udiff.Unified(from, to, lined(before), lined(after))
	if len(text) > maxDiff {
		text = strings.ToValidUTF8(text[:maxDiff], "") + "\n(cut off: the difference is longer)\n"
	}
	return text
}

// lined ends a text with a line break, as values of the kernel do not.
func lined(text string) string {
	if text == "" || strings.HasSuffix(text, "\n") {
		return text
	}
	return text + "\n"
}
