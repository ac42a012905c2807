package install

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/api/seed"
	"github.com/holdfast-os/holdfast/internal/layout"
)

const espGUID = "3fa9c1d2-0000-4000-8000-000000000001"

func goodMedium() Medium {
	medium := Medium{Path: "/dev/sda", Version: "202611220104", ESPSector: 512}
	for number := layout.ESP; number <= layout.UsrA; number++ {
		medium.Parts = append(medium.Parts, Part{Number: number, GUID: "0000000" + string(rune('0'+number)) + "-1111-4111-8111-111111111111",
			Start: layout.Start(number), Size: layout.Size(number)})
	}
	return medium
}

func goodMachine() Machine {
	return Machine{UEFI: true, SecureBoot: true, TPMPresent: true, TPMVersion: 2, Install: &seed.Install{},
		Medium: goodMedium(), Disks: []Disk{stick, small}}
}

func held(content Content) []Disk {
	disk := small
	disk.Content = content
	return []Disk{stick, disk}
}

// One change of a machine that is in order, and the rules that it breaks.
func TestCheck_OneThingWrong_NamesItsRule(t *testing.T) {
	installed := Content{Table: ValidTable, Parts: []Part{{Number: 1, GUID: espGUID}, {Number: 5, Label: "Holdfast_202611220104"}, {Number: 9}}}
	older := Content{Table: ValidTable, Parts: []Part{{Number: 1, GUID: espGUID}, {Number: 5, Label: "Holdfast_202601010000"}}}
	cut := Content{Table: ValidTable, Mark: espGUID, Parts: []Part{{Number: 1, GUID: espGUID}, {Number: 5, Label: "Holdfast_202611220104"}}}
	tests := map[string]struct {
		change func(*Machine)
		want   []string
	}{
		"nothing":        {func(*Machine) {}, nil},
		"legacy boot":    {func(m *Machine) { m.UEFI, m.SecureBoot = false, false }, []string{"uefi"}},
		"no TPM":         {func(m *Machine) { m.TPMPresent, m.TPMVersion = false, 0 }, []string{"tpm"}},
		"broken TPM":     {func(m *Machine) { m.TPMFault = "it says no" }, []string{"tpm-fault"}},
		"TPM 1.2":        {func(m *Machine) { m.TPMVersion = 1 }, []string{"tpm-version"}},
		"audit mode":     {func(m *Machine) { m.AuditMode = true }, []string{"audit-mode"}},
		"setup mode":     {func(m *Machine) { m.SecureBoot, m.SetupMode = false, true }, []string{"setup-mode"}},
		"no Secure Boot": {func(m *Machine) { m.SecureBoot = false }, []string{"secure-boot"}},
		"all at once": {func(m *Machine) { *m = Machine{Install: &seed.Install{}, NoApplications: true} },
			[]string{"uefi", "tpm", "applications", "medium", "target-none"}},
		"both degraded": {func(m *Machine) {
			m.Install.Security = &seed.InstallSecurity{MissingTPM: true, MissingSecureBoot: true}
		}, []string{"degraded-both"}},
		"neither": {func(m *Machine) { m.SecureBoot, m.TPMPresent, m.TPMVersion = false, false, 0 }, []string{"neither"}},
		"neither, one asked for": {func(m *Machine) {
			m.SecureBoot, m.TPMPresent, m.TPMVersion = false, false, 0
			m.Install.Security = &seed.InstallSecurity{MissingTPM: true}
		}, []string{"neither"}},
		"without TPM, and there is one": {func(m *Machine) { m.Install.Security = &seed.InstallSecurity{MissingTPM: true} }, []string{"degraded-tpm"}},
		"without TPM, as asked for": {func(m *Machine) {
			m.TPMPresent, m.TPMVersion = false, 0
			m.Install.Security = &seed.InstallSecurity{MissingTPM: true}
		}, nil},
		"without Secure Boot, and it is on": {func(m *Machine) { m.Install.Security = &seed.InstallSecurity{MissingSecureBoot: true} },
			[]string{"degraded-secure-boot"}},
		"without Secure Boot, as asked for": {func(m *Machine) {
			m.SecureBoot, m.Install.Security = false, &seed.InstallSecurity{MissingSecureBoot: true}
		}, nil},
		"without Secure Boot, keys missing": {func(m *Machine) {
			m.SecureBoot, m.SetupMode, m.Install.Security = false, true, &seed.InstallSecurity{MissingSecureBoot: true}
		}, nil},
		"without what is there, the other missing": {func(m *Machine) {
			m.SecureBoot, m.Install.Security = false, &seed.InstallSecurity{MissingTPM: true}
		}, []string{"secure-boot", "degraded-tpm"}},
		"audit mode, asked for without": {func(m *Machine) {
			m.SecureBoot, m.AuditMode, m.Install.Security = false, true, &seed.InstallSecurity{MissingSecureBoot: true}
		}, []string{"audit-mode"}},
		"cannot be read": {func(m *Machine) { m.Disks[1].Unreadable = "input/output error" }, []string{"target-unreadable"}},
		"one of two cannot be read": {func(m *Machine) {
			broken := big
			broken.Unreadable = "input/output error"
			m.Disks = append(m.Disks, broken)
		}, []string{"target-several"}},
		"rest of a table":                 {func(m *Machine) { m.Disks = held(Content{Signatures: []string{"PMBR"}}) }, []string{"target-occupied"}},
		"cut while the table was written": {func(m *Machine) { m.Disks = held(Content{Mark: espGUID, Signatures: []string{"PMBR"}}) }, nil},
		"no application":                  {func(m *Machine) { m.NoApplications = true }, []string{"applications"}},
		"another medium":                  {func(m *Machine) { m.Medium.Parts[1].Start++ }, []string{"medium"}},
		"medium left":                     {func(m *Machine) { m.InstallComplete = true; m.Disks = held(installed) }, []string{"medium-left"}},
		"read-only":                       {func(m *Machine) { m.Disks[1].ReadOnly = true }, []string{"target-read-only"}},
		"in use":                          {func(m *Machine) { m.Disks[1].InUse = true }, []string{"target-in-use"}},
		"one byte short":                  {func(m *Machine) { m.Disks[1].Size = 20*gib - 1 }, []string{"target-size"}},
		"just enough":                     {func(m *Machine) { m.Disks[1].Size = 20 * gib }, nil},
		"large sectors":                   {func(m *Machine) { m.Disks[1].Sector = 4096 }, []string{"target-sector"}},
		"large both":                      {func(m *Machine) { m.Disks[1].Sector = 4096; m.Medium.ESPSector = 4096 }, nil},
		"no target":                       {func(m *Machine) { m.Disks = []Disk{stick} }, []string{"target-none"}},
		"several targets":                 {func(m *Machine) { m.Disks = append(m.Disks, big) }, []string{"target-several"}},
		"old table":                       {func(m *Machine) { m.Disks = held(Content{Table: ValidTable}) }, []string{"target-occupied"}},
		"old table, backup alone": {func(m *Machine) { m.Disks = held(Content{Table: DamagedTable}) },
			[]string{"target-occupied"}},
		"file system":         {func(m *Machine) { m.Disks = held(Content{Signatures: []string{"ext4"}}) }, []string{"target-occupied"}},
		"old table, forced":   {func(m *Machine) { m.Disks = held(Content{Table: ValidTable}); m.Install.ForceInstall = true }, nil},
		"older release":       {func(m *Machine) { m.Disks = held(older); m.Install.ForceInstall = true }, nil},
		"cut installation":    {func(m *Machine) { m.Disks = held(cut) }, nil},
		"cut before a table":  {func(m *Machine) { m.Disks = held(Content{Mark: espGUID}) }, nil},
		"mark under new data": {func(m *Machine) { m.Disks = held(Content{Mark: espGUID, Signatures: []string{"xfs"}}) }, []string{"target-occupied"}},
		"mark of another table": {func(m *Machine) { m.Disks = held(Content{Mark: "x", Table: ValidTable, Parts: cut.Parts}) },
			[]string{"target-occupied"}},
		"marked disk that has lived": {func(m *Machine) {
			m.Disks = held(Content{Mark: espGUID, Table: ValidTable, Parts: installed.Parts})
		}, []string{"target-occupied"}},
		"same release, forced": {func(m *Machine) { m.Disks = held(installed); m.Install.ForceInstall = true; m.InstallComplete = true },
			[]string{"target-confirmation"}},
		"same release, confirmed": {func(m *Machine) {
			m.Disks, m.InstallComplete = held(installed), true
			m.Install.ForceInstall, m.Install.ForceInstallConfirmation = true, "3fa9c1"
		}, nil},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			machine := goodMachine()
			test.change(&machine)
			disk, problems := Check(machine)
			var got []string
			for _, p := range problems {
				got = append(got, p.Rule)
				if p.Where == "" || p.What == "" || p.Do == "" {
					t.Errorf("problem without where, what or way on: %+v", p)
				}
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Error(diff)
			}
			if test.want == nil && disk.Path != "/dev/vda" {
				t.Errorf("got target %q", disk.Path)
			}
		})
	}
}

// A medium without a request to install runs as it is: its disks are its own affair.
func TestCheck_NoRequestToInstall_LooksAtTheMachineAlone(t *testing.T) {
	_, problems := Check(Machine{UEFI: true, SecureBoot: true})
	want := Problems{{Rule: "tpm", Where: "TPM", What: "no TPM was found",
		Do: "switch the TPM on in the firmware's setup, or give the virtual machine one; security.missing_tpm in the install seed installs without, and the disk is then protected from nobody who has it"}}
	if diff := cmp.Diff(want, problems); diff != "" {
		t.Error(diff)
	}
}

// A node that was installed to emulate its TPM is no machine without one.
func TestCheck_NodeWithAnEmulatedTPM_IsInOrder(t *testing.T) {
	if _, problems := Check(Machine{UEFI: true, SecureBoot: true, TPMEmulated: true}); problems != nil {
		t.Error(problems)
	}
}

// What is missing is told on the screen and left on the target, and nothing else is.
func TestDegraded_WhatIsMissing_IsMarkedAndSaid(t *testing.T) {
	type answer struct {
		Marks    []string
		Warnings int
	}
	for name, test := range map[string]struct {
		change func(*Machine)
		want   answer
	}{
		"whole": {func(*Machine) {}, answer{}},
		"no TPM": {func(m *Machine) {
			m.TPMPresent, m.Install.Security = false, &seed.InstallSecurity{MissingTPM: true}
		}, answer{[]string{"holdfast/missing-tpm"}, 1}},
		"no Secure Boot": {func(m *Machine) {
			m.SecureBoot, m.Install.Security = false, &seed.InstallSecurity{MissingSecureBoot: true}
		}, answer{[]string{"holdfast/missing-secure-boot"}, 1}},
		"no request": {func(m *Machine) { m.TPMPresent, m.Install = false, nil }, answer{}},
	} {
		machine := goodMachine()
		test.change(&machine)
		marks, warnings := Degraded(machine)
		if diff := cmp.Diff(test.want, answer{marks, len(warnings)}); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

// The mark is read from disks that hold anything.
func FuzzParseMark_AnyBytes_OnlyOwnMarksCount(f *testing.F) {
	f.Add(encodeMark(espGUID))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		if guid := ParseMark(data); guid != "" && string(encodeMark(guid)[:60]) != string(data[:60]) {
			t.Errorf("took %q for a mark", data[:60])
		}
	})
}

func TestMark_WrittenThenRead_GivesItsGUID(t *testing.T) {
	mark := encodeMark(espGUID)
	if got := ParseMark(mark); got != espGUID {
		t.Errorf("got %q", got)
	}
	mark[20] ^= 1
	if got := ParseMark(mark); got != "" {
		t.Errorf("a damaged mark gave %q", got)
	}
}
