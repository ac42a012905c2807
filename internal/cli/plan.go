package cli

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/holdfast-os/holdfast/api/os"
)

// actions are the steps of a plan in words; the object stands behind.
var actions = map[string]string{
	"keep-document": "keep the configuration of",
	"write-file":    "write",
	"remove-file":   "remove",
	"set-value":     "set",
	"start-unit":    "start",
	"stop-unit":     "stop",
	"restart-unit":  "restart",
	"reload-unit":   "reload",
	"create-device": "create the device",
	"delete-device": "delete the device",
	"use-tool":      "change",
}

// printPlan writes a plan for a person: the steps in their order with what differs, then
// what else there is to know.
func printPlan(env *Env, raw json.RawMessage) (os.Plan, error) {
	var p os.Plan
	if err := json.Unmarshal(raw, &p); err != nil {
		return p, fmt.Errorf("the node's plan: %w", err)
	}
	return p, write(env.Stdout, []byte(planText(p, colours(env))))
}

func planText(p os.Plan, coloured bool) string {
	if !p.Changes {
		return "Nothing would change.\n"
	}
	var b strings.Builder
	for i, step := range p.Steps {
		line := fmt.Sprintf("%d. %s", i+1, stepText(step))
		fmt.Fprintln(&b, clean(line))
		if step.Secret {
			b.WriteString("    (what is in it is secret)\n")
		}
		b.WriteString(diffText(step.Diff, "    ", coloured))
	}
	if len(p.Restarts) > 0 {
		fmt.Fprintf(&b, "Restarts: %s\n", clean(strings.Join(p.Restarts, ", ")))
	}
	if p.MayDisconnect {
		b.WriteString("Your connection may drop.\n")
	}
	if p.NeedsReboot != "" {
		fmt.Fprintf(&b, "Needs a restart: %s\n", clean(p.NeedsReboot))
	}
	for _, note := range p.Notes {
		fmt.Fprintf(&b, "Note: %s\n", clean(note))
	}
	return b.String()
}

func stepText(step os.PlanStep) string {
	text := actions[step.Action]
	if text == "" {
		text = step.Action
	}
	text += " " + step.Object
	if step.Why != "" {
		text += " (" + step.Why + ")"
	}
	return text
}

// colours tells whether the output is for the eyes of a person who wants colours.
func colours(env *Env) bool { return env.StdoutTerminal && env.Getenv("NO_COLOR") == "" }

// diffText is a unified diff with each line indented. With an indent the two lines that
// name the object are left out: it is named above.
func diffText(diff, indent string, coloured bool) string {
	if diff == "" {
		return ""
	}
	lines := strings.Split(strings.TrimRight(diff, "\n"), "\n")
	if indent != "" && len(lines) > 2 && strings.HasPrefix(lines[0], "--- ") && strings.HasPrefix(lines[1], "+++ ") {
		lines = lines[2:]
	}
	var b strings.Builder
	for _, line := range lines {
		colour := ""
		switch {
		case strings.HasPrefix(line, "--- "), strings.HasPrefix(line, "+++ "):
			colour = "1"
		case strings.HasPrefix(line, "-"):
			colour = "31"
		case strings.HasPrefix(line, "+"):
			colour = "32"
		case strings.HasPrefix(line, "@@"):
			colour = "36"
		}
		// A tab at the beginning of a line of a file is part of what differs.
		line = clean(strings.ReplaceAll(line, "\t", "    "))
		if coloured && colour != "" {
			line = "\x1b[" + colour + "m" + line + "\x1b[0m"
		}
		b.WriteString(strings.TrimRight(indent+line, " ") + "\n")
	}
	return b.String()
}
