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
		"TPM 1.2":        {func(m *Machine) { m.TPMVersion = 1 }, []string{"tpm-version"}},
		"audit mode":     {func(m *Machine) { m.AuditMode = true }, []string{"audit-mode"}},
		"setup mode":     {func(m *Machine) { m.SecureBoot, m.SetupMode = false, true }, []string{"setup-mode"}},
		"no Secure Boot": {func(m *Machine) { m.SecureBoot = false }, []string{"secure-boot"}},
		"all at once": {func(m *Machine) { *m = Machine{Install: &seed.Install{}, NoApplications: true} },
			[]string{"uefi", "tpm", "applications", "medium", "target-none"}},
		"both degraded": {func(m *Machine) {
			m.Install.Security = &seed.InstallSecurity{MissingTPM: true, MissingSecureBoot: true}
		}, []string{"degraded-both"}},
		"degraded TPM": {func(m *Machine) { m.Install.Security = &seed.InstallSecurity{MissingTPM: true} }, []string{"degraded-tpm"}},
		"degraded Secure Boot": {func(m *Machine) { m.Install.Security = &seed.InstallSecurity{MissingSecureBoot: true} },
			[]string{"degraded-secure-boot"}},
		"no application":  {func(m *Machine) { m.NoApplications = true }, []string{"applications"}},
		"another medium":  {func(m *Machine) { m.Medium.Parts[1].Start++ }, []string{"medium"}},
		"medium left":     {func(m *Machine) { m.InstallComplete = true; m.Disks = held(installed) }, []string{"medium-left"}},
		"read-only":       {func(m *Machine) { m.Disks[1].ReadOnly = true }, []string{"target-read-only"}},
		"in use":          {func(m *Machine) { m.Disks[1].InUse = true }, []string{"target-in-use"}},
		"one byte short":  {func(m *Machine) { m.Disks[1].Size = 20*gib - 1 }, []string{"target-size"}},
		"just enough":     {func(m *Machine) { m.Disks[1].Size = 20 * gib }, nil},
		"large sectors":   {func(m *Machine) { m.Disks[1].Sector = 4096 }, []string{"target-sector"}},
		"large both":      {func(m *Machine) { m.Disks[1].Sector = 4096; m.Medium.ESPSector = 4096 }, nil},
		"no target":       {func(m *Machine) { m.Disks = []Disk{stick} }, []string{"target-none"}},
		"several targets": {func(m *Machine) { m.Disks = append(m.Disks, big) }, []string{"target-several"}},
		"old table":       {func(m *Machine) { m.Disks = held(Content{Table: ValidTable}) }, []string{"target-occupied"}},
		"old table, backup alone": {func(m *Machine) { m.Disks = held(Content{Table: DamagedTable}) },
			[]string{"target-occupied"}},
		"file system":         {func(m *Machine) { m.Disks = held(Content{Signature: "ext4"}) }, []string{"target-occupied"}},
		"old table, forced":   {func(m *Machine) { m.Disks = held(Content{Table: ValidTable}); m.Install.ForceInstall = true }, nil},
		"older release":       {func(m *Machine) { m.Disks = held(older); m.Install.ForceInstall = true }, nil},
		"cut installation":    {func(m *Machine) { m.Disks = held(cut) }, nil},
		"cut before a table":  {func(m *Machine) { m.Disks = held(Content{Mark: espGUID}) }, nil},
		"mark under new data": {func(m *Machine) { m.Disks = held(Content{Mark: espGUID, Signature: "xfs"}) }, []string{"target-occupied"}},
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
		Do: "switch the TPM on in the firmware's setup, or give the virtual machine one"}}
	if diff := cmp.Diff(want, problems); diff != "" {
		t.Error(diff)
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
