package install

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func counter() func() string {
	n := 0
	return func() string { n++; return fmt.Sprintf("aaaaaaaa-0000-4000-8000-%012d", n) }
}

// show lists the steps, one a line.
func show(p Plan) string {
	var text strings.Builder
	fmt.Fprintf(&text, "install %s from %s\n", p.Target, p.Medium)
	for i, step := range p.Steps {
		fmt.Fprintf(&text, "%2d %s\n", i+1, step)
	}
	return text.String()
}

// Everything that is written, in its order. Every offset is checked by hand
// against the layout.
func TestNewPlan_BlankDisk_StepsInOrderAndTableLast(t *testing.T) {
	plan, err := NewPlan(Input{Arch: "x86_64", Medium: goodMedium(), Target: small, Seed: make([]byte, 1536), NewGUID: counter()})
	if err != nil {
		t.Fatal(err)
	}
	want := `install /dev/vda from /dev/sda
 1 wipe
 2 zero esp: 2 GiB at 1048576
 3 copy esp: 2 GiB at 1048576
 4 zero seed-data: 100 MiB at 2148532224
 5 seed seed-data: 1.5 KiB at 2148532224
 6 zero Holdfast_202611220104_verity_sig: 16 KiB at 2253389824
 7 copy Holdfast_202611220104_verity_sig: 16 KiB at 2253389824
 8 zero Holdfast_202611220104_verity: 64 MiB at 2253406208
 9 copy Holdfast_202611220104_verity: 64 MiB at 2253406208
10 zero Holdfast_202611220104: 2 GiB at 2320515072
11 copy Holdfast_202611220104: 2 GiB at 2320515072
12 zero start of partition 6: 16 KiB at 4467998720
13 zero start of partition 7: 1 MiB at 4468015104
14 zero start of partition 8: 1 MiB at 4535123968
15 zero start of partition 9: 1 MiB at 6682607616
16 zero start of partition 10: 1 MiB at 7756349440
17 zero start of partition 11: 1 MiB at 12588187648
18 sync
19 table
20 reread
21 boot-entry
22 complete
23 unmark
24 leave
`
	if diff := cmp.Diff(want, show(plan)); diff != "" {
		t.Error(diff)
	}
	table := `label: gpt
unit: sectors
sector-size: 512

1 : start=2048, size=4194304, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B, uuid=AAAAAAAA-0000-4000-8000-000000000001, name="esp"
2 : start=4196352, size=204800, type=0FC63DAF-8483-4772-8E79-3D69D8477DE4, uuid=AAAAAAAA-0000-4000-8000-000000000002, name="seed-data"
3 : start=4401152, size=32, type=E7BB33FB-06CF-4E81-8273-E543B413E2E2, uuid=00000003-1111-4111-8111-111111111111, name="Holdfast_202611220104_verity_sig"
4 : start=4401184, size=131072, type=77FF5F63-E7B6-4633-ACF4-1565B864C0E6, uuid=00000004-1111-4111-8111-111111111111, name="Holdfast_202611220104_verity"
5 : start=4532256, size=4194304, type=8484680C-9521-48C6-9C11-B0720656F69E, uuid=00000005-1111-4111-8111-111111111111, name="Holdfast_202611220104"
6 : start=8726560, size=32, type=E7BB33FB-06CF-4E81-8273-E543B413E2E2, uuid=AAAAAAAA-0000-4000-8000-000000000006, name="_empty"
7 : start=8726592, size=131072, type=77FF5F63-E7B6-4633-ACF4-1565B864C0E6, uuid=AAAAAAAA-0000-4000-8000-000000000007, name="_empty"
8 : start=8857664, size=4194304, type=8484680C-9521-48C6-9C11-B0720656F69E, uuid=AAAAAAAA-0000-4000-8000-000000000008, name="_empty"
`
	if diff := cmp.Diff(table, plan.Table); diff != "" {
		t.Error(diff)
	}
	loader := Loader{Label: "Holdfast", Partition: 1, Start: 2048, Size: 4194304,
		GUID: "aaaaaaaa-0000-4000-8000-000000000001", Path: `\EFI\systemd\systemd-bootx64.efi`}
	if diff := cmp.Diff(loader, plan.Loader); diff != "" {
		t.Error(diff)
	}
}

// The note of an earlier installation would stop the next start of this one.
func TestNewPlan_EarlierInstallation_IsForgottenFirst(t *testing.T) {
	plan, err := NewPlan(Input{Arch: "x86_64", Medium: goodMedium(), Target: small, Forget: true, NewGUID: counter()})
	if err != nil {
		t.Fatal(err)
	}
	if plan.Steps[0].Action != Forget || plan.Steps[1].Action != Wipe {
		t.Errorf("got %s", show(plan))
	}
}

// The disk can be started once its table is there: what it may do without is noted at once.
func TestNewPlan_MachineWithoutTPM_MarksTheTargetBehindTheTable(t *testing.T) {
	plan, err := NewPlan(Input{Arch: "x86_64", Medium: goodMedium(), Target: small, Marks: []string{MarkNoTPM}, NewGUID: counter()})
	if err != nil {
		t.Fatal(err)
	}
	var got []Action
	for _, step := range plan.Steps[len(plan.Steps)-7:] {
		got = append(got, step.Action)
	}
	if diff := cmp.Diff([]Action{WriteTab, Reread, MarkESP, BootEntry, Complete, Unmark, Leave}, got); diff != "" {
		t.Error(diff)
	}
	env := newEnv(0)
	if err := Run(t.Context(), smallPlan(t), env, Observer{}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"holdfast/missing-tpm"}, env.marks); diff != "" {
		t.Error(diff)
	}
}

// Early boot takes no path by itself where the table says so, and would wait for ever for a
// second one of a disk that has none.
func TestNewPlan_DiskOverPaths_MarksItsTable(t *testing.T) {
	for members, want := range map[string]int{"": 0, "/dev/sda,/dev/sdb": 1} {
		in := Input{Arch: "x86_64", Medium: goodMedium(), Target: small, NewGUID: counter()}
		if members != "" {
			in.Target.Members = strings.Split(members, ",")
		}
		plan, err := NewPlan(in)
		if err != nil {
			t.Fatal(err)
		}
		var marked []string
		for line := range strings.Lines(plan.Table) {
			if strings.Contains(line, `attrs="GUID:55"`) {
				marked = append(marked, line)
			}
		}
		if len(marked) != want || want > 0 && !strings.HasPrefix(marked[0], "1 : ") {
			t.Errorf("%q: %q", members, marked)
		}
	}
}

func TestNewPlan_SeedLargerThanItsPartition_IsRefused(t *testing.T) {
	_, err := NewPlan(Input{Arch: "x86_64", Medium: goodMedium(), Target: small, Seed: make([]byte, 100<<20+1), NewGUID: counter()})
	if err == nil {
		t.Error("no error")
	}
}

// Somebody watches the screen and should not have to know what "reread" is.
func TestWords_StepWithoutRange_SaysWhatItIsFor(t *testing.T) {
	plan, err := NewPlan(Input{Arch: "x86_64", Medium: goodMedium(), Target: small, Forget: true, NewGUID: counter()})
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range plan.Steps {
		if step.Size == 0 && step.Name == "" && step.Words() == step.String() {
			t.Errorf("step %s has no words", step)
		}
	}
	want := "table: writing the partition table; from here on the disk can be started"
	if got := (Step{Action: WriteTab}).Words(); got != want {
		t.Errorf("got %q", got)
	}
	if got := (Step{Action: Zero, Name: "esp", Offset: 1 << 20, Size: 2 << 30}).Words(); got != "zero esp: 2 GiB at 1048576" {
		t.Errorf("got %q", got)
	}
}
