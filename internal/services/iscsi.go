package services

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"

	api "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/config"
	"github.com/holdfast-os/holdfast/internal/plan"
)

// The tools of the plans of iSCSI. Args: target, address, port.
const (
	ToolISCSILogin  = "iscsi.login"
	ToolISCSILogout = "iscsi.logout"
)

const (
	iscsiUnit = "iscsid.service"
	// iscsiNameFile is read by iscsid when it starts. The image's own must not be used:
	// it would be the same on every node.
	iscsiNameFile = "/etc/iscsi/initiatorname.iscsi"
	// iscsiPrefix is that of IncusOS: rules of a storage server for it go on working.
	iscsiPrefix = "iqn.2004-10.org.linuxcontainers:01:"
	iscsiPort   = 3260
	// maxTargets bounds the list; each is logged in to one after the other.
	maxTargets = 256
)

// ISCSISession is one login to a target.
type ISCSISession struct {
	// Target, Address and Port say where to.
	Target, Address string
	Port            int
	// State is the kernel's word for it, as "LOGGED_IN".
	State string
}

// ISCSIFacts are what is observed.
type ISCSIFacts struct {
	// MachineID is that of the node.
	MachineID string
	// NameFile is the present text of /etc/iscsi/initiatorname.iscsi; empty for none.
	NameFile string
	// Running is true when iscsid runs.
	Running bool
	// Sessions are all logins, also those that somebody else made.
	Sessions []ISCSISession
}

// NewISCSI makes the service; observe gives the facts of the node.
func NewISCSI(observe func(context.Context) (ISCSIFacts, error)) Service {
	return Typed[api.ServiceISCSIConfig, ISCSIFacts]{
		Service: "iscsi", CheckConfig: CheckISCSI, Observe: observe, PlanChange: PlanISCSI, Describe: describeISCSI,
	}
}

// InitiatorName is the node's name towards targets. It follows from the machine id, so it
// stays the same for the life of the node, and does not give the id away.
func InitiatorName(machineID string) string {
	sum := sha256.Sum256([]byte("holdfast iscsi initiator " + machineID))
	return iscsiPrefix + hex.EncodeToString(sum[:6])
}

var (
	// RFC 3720 and RFC 3980: at most 223 bytes, lower case.
	iqnForm  = regexp.MustCompile(`^iqn\.[0-9]{4}-(0[1-9]|1[0-2])\.[a-z0-9.-]+(:[a-z0-9.:_-]+)?$`)
	euiForm  = regexp.MustCompile(`^(eui\.[0-9A-Fa-f]{16}|naa\.([0-9A-Fa-f]{16}|[0-9A-Fa-f]{32}))$`)
	hostForm = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9-]{0,62})(\.[A-Za-z0-9]([A-Za-z0-9-]{0,62}))*\.?$`)
	// numbers look like an address, and are none that netip can read.
	numbers = regexp.MustCompile(`^[0-9.]+$`)
)

// CheckISCSI fills in defaults and gives all problems of a configuration.
func CheckISCSI(c *api.ServiceISCSIConfig) config.Problems {
	var problems config.Problems
	if c.Targets == nil {
		c.Targets = []api.ServiceISCSITarget{}
	}
	if len(c.Targets) > maxTargets {
		problems.Add("targets", "count", "there are %d targets, at most %d are possible", len(c.Targets), maxTargets)
		return problems
	}
	for i := range c.Targets {
		t, at := &c.Targets[i], fmt.Sprintf("targets[%d]", i)
		t.Port = cmp.Or(t.Port, iscsiPort)
		if len(t.Target) > 223 || !iqnForm.MatchString(t.Target) && !euiForm.MatchString(t.Target) {
			problems.Add(at+".target", "name", "%q is not the name of a target, as \"iqn.2003-01.org.example:disk1\" in lower case", t.Target)
		}
		if address, err := netip.ParseAddr(t.Address); err == nil {
			t.Address = address.String()
		} else if len(t.Address) > 253 || !hostForm.MatchString(t.Address) || numbers.MatchString(t.Address) {
			problems.Add(at+".address", "address", "%q is neither an IP address nor a host name", t.Address)
		}
		if t.Port < 1 || t.Port > 65535 {
			problems.Add(at+".port", "range", "%d is not a TCP port, 1 to 65535", t.Port)
		}
		if first := slices.Index(c.Targets, *t); first < i {
			problems.Add(at, "unique", "this is the same as targets[%d]", first)
		}
	}
	return problems
}

// PlanISCSI goes from one configuration to another. Logins that are in neither were made
// by Incus or by another service, and stay; while there are some, iscsid is not stopped,
// since they would not survive the next hiccup of the network without it.
func PlanISCSI(before, next api.ServiceISCSIConfig, facts ISCSIFacts) plan.Plan {
	var p plan.Plan
	wanted := activeTargets(next)
	var gone []api.ServiceISCSITarget
	for _, t := range activeTargets(before) {
		if !slices.Contains(wanted, t) && facts.has(t) {
			gone = append(gone, t)
		}
	}
	if next.Enabled {
		startISCSI(&p, facts)
	}
	for _, t := range gone {
		p.Add(useTarget(ToolISCSILogout, t))
		p.Notes = append(p.Notes, fmt.Sprintf("The disks of %s go away; what uses them fails.", t.Target))
	}
	for _, t := range wanted {
		if !facts.has(t) {
			p.Add(useTarget(ToolISCSILogin, t))
		}
	}
	if !next.Enabled && facts.Running {
		if foreign := facts.others(gone); foreign > 0 {
			p.Notes = append(p.Notes, fmt.Sprintf("%d logins were not made by this service: they stay, and iscsid goes on running for them.", foreign))
		} else {
			p.Add(plan.Step{Kind: plan.StopUnit, Object: iscsiUnit})
		}
	}
	return p
}

// startISCSI has iscsid run with the node's own name.
func startISCSI(p *plan.Plan, facts ISCSIFacts) {
	text := "InitiatorName=" + InitiatorName(facts.MachineID) + "\n"
	p.Add(plan.Step{Kind: plan.WriteFile, Object: iscsiNameFile, Before: facts.NameFile, After: text, Mode: 0o600})
	switch {
	case !facts.Running:
		p.Add(plan.Step{Kind: plan.StartUnit, Object: iscsiUnit})
	case facts.NameFile != text:
		p.Add(plan.Step{Kind: plan.RestartUnit, Object: iscsiUnit, Why: "it reads the node's name when it starts"})
	}
}

func activeTargets(c api.ServiceISCSIConfig) []api.ServiceISCSITarget {
	if !c.Enabled {
		return nil
	}
	return c.Targets
}

func useTarget(tool string, t api.ServiceISCSITarget) plan.Step {
	port := strconv.Itoa(t.Port)
	return plan.Step{
		Kind: plan.UseTool, Object: t.Target, Tool: tool, Args: []string{t.Target, t.Address, port},
		Why: "at " + t.Address + " port " + port,
	}
}

// others counts the logins to none of the targets.
func (f ISCSIFacts) others(targets []api.ServiceISCSITarget) int {
	count := 0
	for _, s := range f.Sessions {
		one := ISCSIFacts{Sessions: []ISCSISession{s}}
		if !slices.ContainsFunc(targets, one.has) {
			count++
		}
	}
	return count
}

// has is true when there is a login to a target, whatever its state: iscsid itself mends
// one that has failed.
func (f ISCSIFacts) has(t api.ServiceISCSITarget) bool {
	return slices.ContainsFunc(f.Sessions, func(s ISCSISession) bool {
		return s.Target == t.Target && s.Port == t.Port && sameAddress(s.Address, t.Address)
	})
}

// sameAddress compares what the kernel writes with what an owner wrote.
func sameAddress(a, b string) bool {
	one, errOne := netip.ParseAddr(a)
	other, errOther := netip.ParseAddr(b)
	if errOne != nil || errOther != nil {
		return a == b
	}
	return one == other
}

func describeISCSI(facts ISCSIFacts) any {
	state := api.ServiceISCSIState{InitiatorName: InitiatorName(facts.MachineID)}
	for _, s := range facts.Sessions {
		state.Sessions = append(state.Sessions, api.ServiceISCSISession(s))
	}
	return state
}
