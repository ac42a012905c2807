// Package recovery decides about the keys that open root and swap when the TPM does not,
// and about binding the volumes to the TPM anew.
//
// Parties: the owner writes the whole list of keys; early boot and holdfastd open the
// volumes; internal/system/luks changes keyslots. The node keeps one of the keys for
// itself in a file on root: with it swap is opened at each start and keys are added.
//
// Invariants of a plan, at each point where it may be cut short:
//
//   - every key of before or every key of after opens both volumes;
//   - the key in the node's file opens both volumes: it is replaced when the new one has
//     been tried on both, and the old one is removed only after that;
//   - the plan carried out again ends with the keys of after and with no other: what an
//     interrupted change left behind is removed too.
//
// What can fail: a volume whose keyslots are full (32), and a disk that cannot be
// written. Nothing is then locked. Somebody with an old copy of the disk's first 16 MiB
// and a removed key still opens the volume with the two: that is how LUKS works.
package recovery

import (
	"slices"

	"github.com/holdfast-os/holdfast/internal/plan"
)

// The tools of a plan's steps. Arguments have keys in them and are never shown.
const (
	// ToolEnroll makes a key open a volume and tries it. Args: volume, key.
	ToolEnroll = "luks.enroll"
	// ToolKeepKey replaces the node's own key durably. Args: key.
	ToolKeepKey = "luks.keep-key"
	// ToolKeepOnly removes all keys of a volume but some. Args: volume, key...
	ToolKeepOnly = "luks.keep-only"
)

// The volumes that the keys open, as tools name them.
const (
	Root = "root"
	Swap = "swap"
)

// KeyFile is the node's own key; early boot makes it at the first start.
const KeyFile = "/var/lib/incus-os/recovery.key"

// NewPlan says how the volumes come to open with the keys of next alone. With before nil,
// what opens them now is not known and everything is looked at. next has passed Check;
// without a key in it there is no plan.
func NewPlan(before, next []string) plan.Plan {
	var p plan.Plan
	if len(next) == 0 || before != nil && slices.Equal(before, next) {
		return p
	}
	for _, key := range next {
		if slices.Contains(before, key) {
			continue
		}
		for _, volume := range []string{Root, Swap} {
			p.Add(plan.Step{Kind: plan.UseTool, Object: volume, Tool: ToolEnroll, Args: []string{volume, key}, Secret: true, Why: "add a key and try it"})
		}
	}
	p.Add(plan.Step{Kind: plan.UseTool, Object: KeyFile, Tool: ToolKeepKey, Args: next[:1:1], Secret: true, Why: "the key that the node itself uses"})
	for _, volume := range []string{Root, Swap} {
		p.Add(plan.Step{
			Kind: plan.UseTool, Object: volume, Tool: ToolKeepOnly, Args: append([]string{volume}, next...), Secret: true,
			Why: "remove every key that is not in the list",
		})
	}
	if slices.ContainsFunc(next, func(key string) bool { return !slices.Contains(before, key) }) {
		p.Notes = append(p.Notes, "Keep the new keys outside of this node before you need them.")
	}
	return p
}
