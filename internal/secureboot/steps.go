package secureboot

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/holdfast-os/holdfast/internal/plan"
)

// StepKind says what a step does.
type StepKind string

const (
	// Bind adds Binding to the volumes, behind those there are, which stay.
	Bind StepKind = "bind"
	// Unbind removes Binding.
	Unbind StepKind = "unbind"
	// CheckBindings reads the header and compares it with Bindings. It ends everything
	// when they differ; nothing has been switched then.
	CheckBindings StepKind = "check-bindings"
	// AppendVariable hands Update to the firmware.
	AppendVariable StepKind = "append-variable"
	// ReadBack compares the variable with Content. Firmware that stored something else
	// needs another prediction and another Bind before the restart.
	ReadBack StepKind = "read-back"
	// InstallRelease writes the new release into the other slot, its UKI last.
	InstallRelease StepKind = "install-release"
	// CopyLoader puts the boot loader of the new /usr in the place of Object, in one
	// rename.
	CopyLoader StepKind = "copy-loader"
	// Restart ends the plan. What comes of it is the business of the next start.
	Restart StepKind = "restart"
)

// Step is one thing to do. Steps are done in their order, and the first that fails ends
// the plan: the node then starts as it would have before, or as one of the starts that
// were bound.
type Step struct {
	Kind StepKind
	// Object is a variable, a file on the ESP, or a binding, for people.
	Object string
	// Binding is for Bind and Unbind, Bindings for CheckBindings.
	Binding  *Binding
	Bindings []Binding
	// Update is for AppendVariable, Content for ReadBack.
	Update  *Auth
	Content []byte
	// Why is a short reason.
	Why string
}

// Forecast is what will hold after a variable was written, as package pcr predicted it.
type Forecast struct {
	// Content is the content of the variable that the prediction was made with.
	Content []byte
	// Starts are what the node may start as then: one for each boot loader with each UKI
	// that can be chosen.
	Starts []Start
}

// WriteSteps gives what is done for a Decision to write. have are the bindings of the root
// volume in the order of its header, present what the node may start as now.
//
// Until AppendVariable the firmware measures as before, and the old binding opens the disk;
// from then on as forecast, and the new one does. Both are there all the time. Settle
// removes the old one when a start has shown that the new one works.
func WriteSteps(d Decision, have []Binding, present []Start, next Forecast) ([]Step, error) {
	fail := func(err error) ([]Step, error) {
		return nil, fmt.Errorf("planning the update of Secure Boot keys: %w", err)
	}
	if d.Action != Write || d.Update == nil {
		return fail(fmt.Errorf("there is nothing to write: %s", d.Why))
	}
	if len(present) == 0 || len(next.Starts) == 0 || !bytes.Equal(next.Content, d.After) {
		return fail(fmt.Errorf("what the TPM will measure with the new %s was not predicted, so it is not written", d.Update.Variable))
	}
	_, steps, err := prepare(have, present, next.Starts)
	if err != nil {
		return fail(err)
	}
	name := string(d.Update.Variable)
	return append(steps,
		Step{Kind: AppendVariable, Object: name, Update: d.Update, Why: d.Why},
		Step{Kind: ReadBack, Object: name, Content: d.After, Why: "firmware may store another content than was predicted"},
		Step{Kind: Restart, Why: "the next variable is written after a start that measured this one"},
	), nil
}

// Switch is a release that is to be installed.
type Switch struct {
	// Release is its version.
	Release string
	// Loaders are the boot loaders on the ESP that are replaced by that of the new /usr,
	// in this order; none unless the old one is signed by another key. The path that the
	// firmware starts comes last.
	Loaders []string
	// Between are what the node may start as while the release is installed, and when it
	// returns to the present one: the old UKI with the new boot loader. The new UKI never
	// meets the old boot loader, because the UKI comes last.
	Between []Start
	// After is the new UKI with the boot loader it will have.
	After Start
}

// SwitchSteps gives what is done to install a release that is measured in another way than
// the present one: signed by another key, or on a node without Secure Boot. have and
// present are as for WriteSteps. The old release stays bound, so that a node that returns
// to it opens its disk without a person; the release whose slot is overwritten is not
// among present. Several releases may be installed before one restart; each call takes the
// bindings that the one before left.
func SwitchSteps(s Switch, have []Binding, present []Start) ([]Step, error) {
	if len(present) == 0 || s.After.Name == "" || (len(s.Loaders) > 0 && len(s.Between) == 0) {
		return nil, fmt.Errorf("planning the switch to release %s: not every start that can come of it was predicted", s.Release)
	}
	_, steps, err := prepare(have, present, append(slices.Clone(s.Between), s.After))
	if err != nil {
		return nil, fmt.Errorf("planning the switch to release %s: %w", s.Release, err)
	}
	for _, file := range s.Loaders {
		steps = append(steps, Step{Kind: CopyLoader, Object: file,
			Why: "the boot loader on the ESP is signed by the key before; the new one starts both releases"})
	}
	return append(steps, Step{Kind: InstallRelease, Object: s.Release, Why: "every start that can come of it is bound"},
		Step{Kind: Restart, Why: "the release runs after the next start"}), nil
}

// Settle gives the steps that remove the bindings which no start needs any more. present
// is how the node started, remaining what it may start as from now on. Nothing is removed
// unless the present start was opened by one of the bindings.
func Settle(have []Binding, present Start, remaining []Start) []Step {
	if _, open := Opens(have, present); !open {
		return nil
	}
	needed := append([]Start{present}, remaining...)
	var steps []Step
	kept := slices.Clone(have)
	for i := len(kept) - 1; i >= 0; i-- {
		b := kept[i]
		fewer := slices.Delete(slices.Clone(kept), i, i+1)
		if opensAll(fewer, openedBy(kept, needed)) != nil {
			continue
		}
		kept = fewer
		steps = append(steps, Step{Kind: Unbind, Object: b.String(), Binding: &b, Why: "no start needs it any more"})
	}
	return steps
}

// openedBy gives those of the starts that some binding opens.
func openedBy(bindings []Binding, starts []Start) []Start {
	var list []Start
	for _, s := range starts {
		if _, open := Opens(bindings, s); open {
			list = append(list, s)
		}
	}
	return list
}

// Show gives the steps as a plan that can be printed and sent.
func Show(steps []Step) plan.Plan {
	var p plan.Plan
	for _, s := range steps {
		if s.Kind == Restart {
			p.Reboot = s.Why
			continue
		}
		p.Add(plan.Step{Kind: plan.UseTool, Object: s.Object, Tool: "secureboot." + string(s.Kind), Why: s.Why})
	}
	return p
}
