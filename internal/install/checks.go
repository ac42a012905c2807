package install

import (
	"fmt"
	"strings"

	"github.com/holdfast-os/holdfast/api/seed"
	"github.com/holdfast-os/holdfast/internal/layout"
)

// Problem is one reason not to go on, for a person.
type Problem struct {
	// Rule names the check, for programs.
	Rule string
	// Where is the thing looked at: firmware, TPM, a disk, a field of the seed.
	Where string
	// What is wrong.
	What string
	// Do is the way on.
	Do string
}

// Error says where, what and the way on in one line.
func (p Problem) Error() string { return p.Where + ": " + p.What + "; " + p.Do }

// Problems are all reasons at once. It is an error when there is at least one.
type Problems []Problem

// Error lists the problems, one a line.
func (p Problems) Error() string {
	lines := make([]string, len(p))
	for i, problem := range p {
		lines[i] = problem.Error()
	}
	return strings.Join(lines, "\n")
}

// rule is one check. It gives nil when there is nothing to say.
type rule struct {
	name  string
	check func(Machine) *Problem
}

// machineRules hold for every start, installing or not.
var machineRules = []rule{
	{"uefi", func(m Machine) *Problem {
		return when(!m.UEFI, "firmware",
			"the machine was not started by UEFI firmware",
			"switch legacy boot (CSM) off in the firmware's setup")
	}},
	{"neither", func(m Machine) *Problem {
		return when(m.UEFI && !m.SecureBoot && !m.TPMPresent, "firmware",
			"the machine has neither a TPM 2.0 nor Secure Boot, and nothing would protect its disk",
			"switch both on in the firmware's setup; one of them is needed at least")
	}},
	{RuleTPM, func(m Machine) *Problem {
		return when(!m.TPMPresent && !m.TPMEmulated && !m.without().MissingTPM && !m.neither(), "TPM",
			"no TPM was found",
			"switch the TPM on in the firmware's setup, or give the virtual machine one; security.missing_tpm in the install seed installs without, and the disk is then protected from nobody who has it")
	}},
	{"tpm-version", func(m Machine) *Problem {
		return when(m.TPMPresent && m.TPMVersion == 1, "TPM",
			"this is a TPM 1.2, and a TPM 2.0 is needed",
			"look for a firmware update or a switch to TPM 2.0 in the firmware's setup")
	}},
	{"tpm-fault", func(m Machine) *Problem {
		return when(m.TPMFault != "", "TPM",
			"it does not work, and could not open the disk: "+m.TPMFault,
			"switch the machine off and on again; if that does not help, clear the TPM in the firmware's setup and look for an update of its firmware")
	}},
	{"audit-mode", func(m Machine) *Problem {
		return when(m.UEFI && m.AuditMode, "Secure Boot",
			"the firmware is in audit mode, in which it starts anything",
			"leave audit mode in the firmware's setup")
	}},
	{RuleSetupMode, func(m Machine) *Problem {
		return when(m.needsSecureBoot() && m.SetupMode, "Secure Boot",
			"the firmware has no keys",
			"start the medium once more: its boot loader enrols them; if that does not help, enrol the files under keys on the medium by hand")
	}},
	{RuleSecureBoot, func(m Machine) *Problem {
		return when(m.needsSecureBoot() && !m.SetupMode, "Secure Boot",
			"it is off",
			"switch it on in the firmware's setup, with its keys reset to setup mode; security.missing_secure_boot in the install seed installs without")
	}},
}

// Rules that an installed node may break and start all the same, untrusted.
const (
	RuleTPM        = "tpm"
	RuleSecureBoot = "secure-boot"
	RuleSetupMode  = "setup-mode"
)

// without is what the seed asks to be installed without.
func (m Machine) without() seed.InstallSecurity {
	if m.Install == nil || m.Install.Security == nil {
		return seed.InstallSecurity{}
	}
	return *m.Install.Security
}

// neither is said once, and not as two things besides.
func (m Machine) neither() bool { return m.UEFI && !m.SecureBoot && !m.TPMPresent }

func (m Machine) needsSecureBoot() bool {
	return m.UEFI && !m.SecureBoot && !m.without().MissingSecureBoot && !m.neither()
}

// Marks of a target on its ESP: what it was installed without. Early boot looks for them.
const (
	MarkNoTPM        = "holdfast/missing-tpm"
	MarkNoSecureBoot = "holdfast/missing-secure-boot"
)

// Degraded gives what a machine that was checked is installed without: the marks for the
// target, and a warning for whoever stands before it. Both are empty for a whole machine.
func Degraded(m Machine) (marks, warnings []string) {
	if m.without().MissingTPM && !m.TPMPresent {
		marks = append(marks, MarkNoTPM)
		warnings = append(warnings, "WARNING: this machine has no TPM. One will be emulated, and its secrets lie unencrypted on the disk: who has the disk can read it. The node will always be shown as not trusted.")
	}
	if m.without().MissingSecureBoot && !m.SecureBoot {
		marks = append(marks, MarkNoSecureBoot)
		warnings = append(warnings, "WARNING: Secure Boot is off. Any program can be started on this machine. The node will always be shown as not trusted.")
	}
	return marks, warnings
}

// seedRules hold when the seed asks for an installation.
var seedRules = []rule{
	{"degraded-both", func(m Machine) *Problem {
		s := m.Install.Security
		return when(s != nil && s.MissingTPM && s.MissingSecureBoot, "seed install, security",
			"missing_tpm and missing_secure_boot together leave nothing to trust",
			"ask for at most one of them")
	}},
	{"degraded-tpm", func(m Machine) *Problem {
		w := m.without()
		return when(w.MissingTPM && !w.MissingSecureBoot && m.TPMPresent, "seed install, security.missing_tpm",
			"the machine has a TPM, which would be left unused",
			"take the field out")
	}},
	{"degraded-secure-boot", func(m Machine) *Problem {
		w := m.without()
		return when(w.MissingSecureBoot && !w.MissingTPM && m.SecureBoot, "seed install, security.missing_secure_boot",
			"Secure Boot is on, which would be given up",
			"take the field out")
	}},
	{"applications", func(m Machine) *Problem {
		return when(m.NoApplications, "seed applications",
			"the list is empty",
			"name at least one application, or leave the file out")
	}},
	{"medium", func(m Machine) *Problem {
		return when(!mediumFits(m.Medium), "medium "+m.Medium.Path,
			"its partitions are not those of a Holdfast medium",
			"write the medium again from the image")
	}},
}

// targetRules hold for the disk that was chosen.
var targetRules = []struct {
	name  string
	check func(Machine, Disk) *Problem
}{
	{"target-unreadable", func(_ Machine, d Disk) *Problem {
		return when(d.Unreadable != "", d.Path, "the disk cannot be read: "+d.Unreadable,
			"replace the disk, or choose another one with target in the install seed")
	}},
	{"target-read-only", func(_ Machine, d Disk) *Problem {
		return when(d.ReadOnly, d.Path, "the disk is read-only", "take its write protection off")
	}},
	{"target-in-use", func(_ Machine, d Disk) *Problem {
		return when(d.InUse, d.Path,
			"something on the disk is in use",
			"disconnect what uses it, or choose another disk with target in the install seed")
	}},
	{"target-size", func(_ Machine, d Disk) *Problem {
		return when(d.Size < layout.MinimumDisk, d.Path,
			fmt.Sprintf("the disk has %s, and %s are needed", formatSize(d.Size), formatSize(layout.MinimumDisk)),
			"use a larger disk")
	}},
	{"target-sector", func(m Machine, d Disk) *Problem {
		return when(d.Sector > m.Medium.ESPSector || (d.Sector != 512 && d.Sector != 4096), d.Path,
			fmt.Sprintf("the disk has sectors of %d bytes, and the medium is made for %d", d.Sector, m.Medium.ESPSector),
			"switch the disk to sectors of 512 bytes (nvme format --lbaf), or use another one")
	}},
	{"target-occupied", func(m Machine, d Disk) *Problem {
		occupied := d.Content.Occupied()
		return when(occupied != "" && !m.Install.ForceInstall, d.Path,
			"the disk holds "+occupied,
			"set force_install in the install seed when it may be lost")
	}},
	{"target-confirmation", func(m Machine, d Disk) *Problem {
		value, installed := d.Content.Installed(m.Medium.Version)
		return when(installed && m.Install.ForceInstall && m.Install.ForceInstallConfirmation != value, d.Path,
			"the disk already holds this release, "+m.Medium.Version,
			"remove the medium to start it, or set force_install_confirmation to "+value+" in the install seed to lose it")
	}},
}

func when(bad bool, where, what, do string) *Problem {
	if !bad {
		return nil
	}
	return &Problem{Where: where, What: what, Do: do}
}

// Check gives every problem of a machine, and the disk that the installation would
// take. Without a request to install, only the machine itself is looked at. The disk
// is meaningful when there is no problem.
func Check(m Machine) (Disk, Problems) {
	problems := apply(machineRules, m)
	if m.Install == nil {
		return Disk{}, problems
	}
	problems = append(problems, apply(seedRules, m)...)
	if m.InstallComplete && !m.Install.ForceInstall {
		return Disk{}, append(problems, Problem{Rule: "medium-left", Where: "medium " + m.Medium.Path,
			What: "this machine is already installed, and the medium is still connected",
			Do:   "remove the medium and restart; to install again, set force_install in the install seed"})
	}
	candidates, ignored := Candidates(m.Disks, m.Medium.Path)
	disk, problem := Select(candidates, m.Install.Target)
	if problem != nil {
		if len(ignored) > 0 && problem.Rule == "target-none" {
			problem.What += " (left out: " + strings.Join(ignored, "; ") + ")"
		}
		return Disk{}, append(problems, *problem)
	}
	for _, rule := range targetRules {
		if problem := rule.check(m, disk); problem != nil {
			problem.Rule = rule.name
			problems = append(problems, *problem)
		}
	}
	return disk, problems
}

func apply(rules []rule, m Machine) Problems {
	var problems Problems
	for _, rule := range rules {
		if problem := rule.check(m); problem != nil {
			problem.Rule = rule.name
			problems = append(problems, *problem)
		}
	}
	return problems
}

// mediumFits compares the medium's partitions with the table that the disk gets.
func mediumFits(medium Medium) bool {
	found := 0
	for _, p := range medium.Parts {
		if p.Number >= layout.ESP && p.Number <= layout.UsrA &&
			p.Start == layout.Start(p.Number) && p.Size == layout.Size(p.Number) {
			found++
		}
	}
	return found == layout.UsrA
}
