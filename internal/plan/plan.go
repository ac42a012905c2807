// Package plan is what a change would do, as data: it can be printed, compared, sent as
// the answer to a dry run, and carried out by internal/apply.
//
// A planner is a pure function of what is and what is to be. It gives a Plan whose
// steps are in the order in which they are carried out. Undoing a change is the plan in
// the other direction.
//
// Invariants: a step names one object and what it is before and after; a step that
// would change nothing is not in a plan (Plan.Add leaves it out); what is secret is
// carried out but never printed.
package plan

import (
	"io/fs"
)

// Kind says what a step does.
type Kind string

const (
	// WriteFile puts a file in the place of what was there, in one step.
	WriteFile Kind = "write-file"
	// RemoveFile removes a file.
	RemoveFile Kind = "remove-file"
	// SetValue writes a value of the kernel, below /proc/sys or /sys.
	SetValue Kind = "set-value"
	// StartUnit starts a unit of systemd.
	StartUnit Kind = "start-unit"
	// StopUnit stops one.
	StopUnit Kind = "stop-unit"
	// RestartUnit restarts one, or starts it.
	RestartUnit Kind = "restart-unit"
	// ReloadUnit has one read its configuration again.
	ReloadUnit Kind = "reload-unit"
	// CreateDevice makes a network device; systemd-networkd does it when it reads its files.
	CreateDevice Kind = "create-device"
	// DeleteDevice deletes a network device.
	DeleteDevice Kind = "delete-device"
	// KeepDocument keeps a section of the configuration; every change begins with it.
	KeepDocument Kind = "keep-document"
	// UseTool has an adapter do what only its tool can: Tool and Args say which and what.
	UseTool Kind = "use-tool"
)

// Step is one effect on one object.
type Step struct {
	Kind Kind
	// Object is an absolute path, a unit, a device, or what the tool acts on.
	Object string
	// Before and After are the text of a file or value; empty where there is none.
	Before, After string
	// Mode is that of a file written; 0 is 0644.
	Mode fs.FileMode
	// Secret keeps Before and After out of everything that is shown.
	Secret bool
	// Optional steps may fail with a warning, as unloading a module that is in use.
	Optional bool
	// Tool and Args are for UseTool: the name of an adapter's function and its arguments.
	Tool string
	Args []string
	// Why is a short reason for a person; empty where the step speaks for itself.
	Why string
}

// Plan is everything that a change would do.
type Plan struct {
	Steps []Step
	// Disconnects is true when the caller's own connection may drop.
	Disconnects bool
	// Reboot says why the change needs a restart of the machine to hold in full; empty
	// when it does not.
	Reboot string
	// Notes are what a person should know before, each a sentence.
	Notes []string
}

// Empty is true when nothing would change.
func (p Plan) Empty() bool { return len(p.Steps) == 0 && p.Reboot == "" }

// Add appends a step, unless it is one on a file or value that is already so.
func (p *Plan) Add(s Step) {
	if (s.Kind == WriteFile || s.Kind == SetValue) && s.Before == s.After {
		return
	}
	p.Steps = append(p.Steps, s)
}

// File adds what makes a file have a text; empty texts stand for no file. It reports
// whether anything would change.
func (p *Plan) File(path, before, after string) bool {
	switch {
	case before == after:
		return false
	case after == "":
		p.Add(Step{Kind: RemoveFile, Object: path, Before: before})
	default:
		p.Add(Step{Kind: WriteFile, Object: path, Before: before, After: after})
	}
	return true
}

// Append adds the steps, flags and notes of another plan behind.
func (p *Plan) Append(other Plan) {
	p.Steps = append(p.Steps, other.Steps...)
	p.Notes = append(p.Notes, other.Notes...)
	p.Disconnects = p.Disconnects || other.Disconnects
	if p.Reboot == "" {
		p.Reboot = other.Reboot
	}
}
