package reset_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	osapi "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/api/seed"
	"github.com/holdfast-os/holdfast/internal/config"
	"github.com/holdfast-os/holdfast/internal/plan"
	"github.com/holdfast-os/holdfast/internal/reset"
	seeds "github.com/holdfast-os/holdfast/internal/seed"
)

// errCut is the power that is cut.
var errCut = errors.New("power cut")

// machine is a node in memory. Its power may be cut before an effect; a write that is cut
// has left half of its file.
type machine struct {
	esp        map[string]string
	seed       string
	tpm        string
	partitions []int
	tpmErr     error
	diskErr    error
	power      int
}

func newMachine() *machine {
	return &machine{
		esp:  map[string]string{"EFI/Linux/Holdfast_1.efi": "uki", "swtpm/state": "x", "sb-disabled": ""},
		seed: "old seed", tpm: "bound", partitions: []int{1, 2, 9, 10, 11}, power: -1,
	}
}

func (m *machine) effect() {
	if m.power == 0 {
		panic(errCut)
	}
	m.power--
}

func (m *machine) Read(name string, limit int64) ([]byte, error) {
	text, ok := m.esp[name]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return []byte(text), nil
}

func (m *machine) Write(name string, data []byte) error {
	m.effect()
	m.esp[name] = string(data[:len(data)/2])
	m.effect()
	m.esp[name] = string(data)
	return nil
}

func (m *machine) Remove(name string) error {
	for file := range m.esp {
		if file == name || strings.HasPrefix(file, name+"/") {
			m.effect()
			delete(m.esp, file)
		}
	}
	return nil
}

func (m *machine) ClearTPM(context.Context) error {
	m.effect()
	if m.tpmErr != nil {
		return m.tpmErr
	}
	m.tpm = "clear"
	return nil
}

func (m *machine) WriteSeed(_ context.Context, archive []byte) error {
	m.effect()
	m.seed = string(archive[:len(archive)/2])
	m.effect()
	m.seed = string(archive)
	return nil
}

func (m *machine) RemovePartitions(_ context.Context, numbers ...int) error {
	m.effect()
	if m.diskErr != nil {
		return m.diskErr
	}
	m.partitions = slices.DeleteFunc(m.partitions, func(n int) bool { return slices.Contains(numbers, n) })
	return nil
}

// looks is what is left of a machine, without strays that mean nothing.
func (m *machine) looks() map[string]any {
	esp := []string{}
	for name := range m.esp {
		if name != reset.SeedFile && name != reset.CommittedFile {
			esp = append(esp, name)
		}
	}
	slices.Sort(esp)
	return map[string]any{"esp": esp, "seed": m.seed, "tpm": m.tpm, "partitions": m.partitions}
}

var (
	before = map[string]any{"esp": []string{"EFI/Linux/Holdfast_1.efi", "sb-disabled", "swtpm/state"}, "seed": "old seed", "tpm": "bound", "partitions": []int{1, 2, 9, 10, 11}}
	after  = map[string]any{"esp": []string{"EFI/Linux/Holdfast_1.efi"}, "seed": "new seed", "tpm": "clear", "partitions": []int{1, 2}}
)

// whole is a reset from its beginning to its end, as the daemon does it.
func whole(m *machine, j reset.Journal) error {
	if err := reset.Begin(m, j, []byte("new seed")); err != nil {
		return err
	}
	if err := reset.Commit(context.Background(), m); err != nil {
		return err
	}
	return reset.Finish(context.Background(), m)
}

// until runs do until the power is cut, and says whether it was.
func (m *machine) until(power int, do func() error) (cut bool, err error) {
	m.power = power
	defer func() {
		m.power = -1
		if r := recover(); r != nil {
			if r != errCut {
				panic(r)
			}
			cut = true
		}
	}()
	return false, do()
}

func next(m *machine) error {
	_, err := reset.Continue(context.Background(), m, func(string) {})
	return err
}

// A power cut at any point of a reset, and a second one while the next start carries on,
// leave the node of before or a new one.
func TestContinue_PowerCutAnywhere_EndsInTheOldNodeOrANewOne(t *testing.T) {
	outcomes := map[string]int{}
	for first := 0; ; first++ {
		cut := false
		for second := 0; ; second++ {
			m := newMachine()
			var err error
			if cut, err = m.until(first, func() error { return whole(m, reset.Journal{}) }); err != nil {
				t.Fatal(err)
			}
			again, err := m.until(second, func() error { return next(m) })
			if again {
				_, err = m.until(-1, func() error { return next(m) })
			}
			if err != nil {
				t.Fatalf("cut before effect %d, then %d: %v", first, second, err)
			}
			switch got := m.looks(); {
			case cmp.Equal(before, withoutTorn(got)):
				outcomes["old"]++
			case cmp.Equal(after, got):
				outcomes["new"]++
			default:
				t.Fatalf("cut before effect %d, then %d: %s", first, second, cmp.Diff(after, got))
			}
			// A new node must not be reset by what is left of this one.
			if done, err := reset.Continue(context.Background(), m, func(string) {}); err != nil || done {
				t.Fatalf("cut before effect %d, then %d: the next start resets again: %v %v", first, second, done, err)
			}
			if !again {
				break
			}
		}
		if !cut {
			break
		}
	}
	if outcomes["old"] < 3 || outcomes["new"] < 20 {
		t.Errorf("outcomes: %v", outcomes)
	}
}

// withoutTorn leaves out a journal that was cut off while it was written.
func withoutTorn(looks map[string]any) map[string]any {
	looks["esp"] = slices.DeleteFunc(looks["esp"].([]string), func(name string) bool { return name == reset.JournalFile && looks["tpm"] == "bound" })
	return looks
}

// A TPM that keeps its keys would make a reset that is none: it ends there, unless the owner
// has said that it may go on.
func TestCommit_TPMRefuses_EndsOrGoesOn(t *testing.T) {
	m := newMachine()
	m.tpmErr = errors.New("locked out")
	if err := whole(m, reset.Journal{}); !errors.Is(err, reset.ErrTPM) || !errors.Is(err, m.tpmErr) {
		t.Errorf("error %v", err)
	}
	if diff := cmp.Diff(before, m.looks()); diff != "" || len(m.esp) != 3 {
		t.Errorf("%s%v", diff, m.esp)
	}
	if err := whole(m, reset.Journal{AllowTPMFailure: true}); err != nil {
		t.Error(err)
	}
	want := map[string]any{"esp": after["esp"], "seed": "new seed", "tpm": "bound", "partitions": []int{1, 2}}
	if diff := cmp.Diff(want, m.looks()); diff != "" {
		t.Error(diff)
	}
}

// What an earlier reset has left on the ESP says nothing about this one: a TPM that refuses
// ends it all the same.
func TestCommit_LeftoverOfAnEarlierReset_DoesNotCount(t *testing.T) {
	m := newMachine()
	m.esp[reset.CommittedFile], m.tpmErr = "1", errors.New("locked out")
	if err := whole(m, reset.Journal{}); !errors.Is(err, reset.ErrTPM) {
		t.Errorf("error %v", err)
	}
	if diff := cmp.Diff(before, m.looks()); diff != "" {
		t.Error(diff)
	}
}

// A seed that the ESP has lost would make a node without one: the reset is none then.
func TestContinue_SeedOfTheResetDamaged_StartsTheOldNode(t *testing.T) {
	m := newMachine()
	if err := reset.Begin(m, reset.Journal{}, []byte("new seed")); err != nil {
		t.Fatal(err)
	}
	m.esp[reset.SeedFile] = "new sead"
	if done, err := reset.Continue(context.Background(), m, func(string) {}); done || err != nil {
		t.Error(done, err)
	}
	if diff := cmp.Diff(before, withoutTorn(m.looks())); diff != "" {
		t.Error(diff)
	}
}

// A disk that fails in the middle leaves the journal, and the next start ends what began.
func TestFinish_DiskFails_IsCarriedOnLater(t *testing.T) {
	m := newMachine()
	m.diskErr = errors.New("input/output error")
	if err := whole(m, reset.Journal{}); !errors.Is(err, m.diskErr) {
		t.Errorf("error %v", err)
	}
	m.diskErr, m.tpmErr = nil, errors.New("it is clear already")
	done, err := reset.Continue(context.Background(), m, func(string) {})
	if err != nil || !done {
		t.Errorf("done %v, %v", done, err)
	}
	if diff := cmp.Diff(after, m.looks()); diff != "" {
		t.Error(diff)
	}
}

// present is a seed with two documents.
func present(t *testing.T) []byte {
	t.Helper()
	var archive bytes.Buffer
	set := &seeds.Set{Network: &seed.Network{}, Applications: &seed.Applications{Applications: []seed.Application{{Name: "incus"}}}}
	if err := seeds.Write(&archive, set); err != nil {
		t.Fatal(err)
	}
	return archive.Bytes()
}

func request(t *testing.T, text string) osapi.FactoryResetPost {
	t.Helper()
	var r osapi.FactoryResetPost
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		t.Fatal(err)
	}
	return r
}

// What is given takes the place of what was; what is not given stays, unless it is to go.
func TestNewSeed_GivenDocuments_TakeThePlaceOfTheOld(t *testing.T) {
	for name, c := range map[string]struct {
		request string
		want    string
	}{
		"nothing given": {`{}`, "it has applications, network, and had applications, network"},
		"one more":      {`{"seeds":{"update":{"channel":"testing"}}}`, "it has applications, network, update, and had applications, network"},
		"all wiped":     {`{"wipe_existing_seeds":true}`, "it has no document, and had applications, network"},
		"only the new":  {`{"wipe_existing_seeds":true,"seeds":{"update":{"channel":"testing"}}}`, "it has update, and had applications, network"},
	} {
		r := request(t, c.request)
		archive, err := reset.NewSeed(bytes.NewReader(present(t)), r)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		p := reset.NewPlan(r, true, bytes.NewReader(present(t)), archive)
		i := slices.IndexFunc(p.Steps, func(s plan.Step) bool { return s.Tool == reset.ToolSeed })
		if diff := cmp.Diff(c.want, p.Steps[i].Why); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

// A seed with a mistake would make a node that nobody reaches: it is refused before anything
// is done, with every mistake.
func TestNewSeed_WrongDocuments_AreRefusedAllAtOnce(t *testing.T) {
	r := request(t, `{"seeds":{"install":{},"netwrok":{},"network":[],"update":{"chanel":"x"}}}`)
	_, err := reset.NewSeed(bytes.NewReader(present(t)), r)
	var problems config.Problems
	if !errors.As(err, &problems) {
		t.Fatal(err)
	}
	var got []string
	for _, p := range problems {
		got = append(got, p.Path+" "+p.Rule)
	}
	want := []string{"seeds.install install", "seeds.network object", "seeds.netwrok known", "seeds.update.chanel unknown-field"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// A document that the image tools refuse would be left out by the new node, which then is
// not where its owner looks for it.
func TestNewSeed_DocumentsThatNoMediumTakes_AreRefused(t *testing.T) {
	for given, want := range map[string]string{
		`{"network":{"interfaces":[{"name":"a","hwaddr":"52:54:00:12:34:56","mtu":12}]}}`: "seeds.network.interfaces[0].mtu range",
		`{"security":{"custom_ca_certs":["hello"]}}`:                                      "seeds.security.custom_ca_certs[0] certificate",
		`{"migration-manager":{"trusted_client_certificates":["hello"]}}`:                 "seeds.migration-manager.trusted_client_certificates[0] certificate",
	} {
		_, err := reset.NewSeed(bytes.NewReader(present(t)), request(t, `{"seeds":`+given+`}`))
		var problems config.Problems
		if !errors.As(err, &problems) {
			t.Errorf("%s: %v", given, err)
			continue
		}
		var got []string
		for _, p := range problems {
			got = append(got, p.Path+" "+p.Rule)
		}
		if diff := cmp.Diff([]string{want}, got); diff != "" {
			t.Errorf("%s: %s", given, diff)
		}
	}
}

// A damaged seed can only be left behind, and the answer says how.
func TestNewSeed_DamagedSeed_CanBeWiped(t *testing.T) {
	damaged := present(t)[:520]
	if _, err := reset.NewSeed(bytes.NewReader(damaged), osapi.FactoryResetPost{}); err == nil || !strings.Contains(err.Error(), "wipe_existing_seeds") {
		t.Errorf("error %v", err)
	}
	if _, err := reset.NewSeed(bytes.NewReader(damaged), osapi.FactoryResetPost{WipeExistingSeeds: true}); err != nil {
		t.Error(err)
	}
	// A partition that was never written has no seed.
	if _, err := reset.NewSeed(bytes.NewReader(make([]byte, 4096)), osapi.FactoryResetPost{}); err != nil {
		t.Error(err)
	}
}

// An owner sees what is lost before it is.
func TestNewPlan_ShowsEachStepAndTheWarnings(t *testing.T) {
	p := reset.NewPlan(osapi.FactoryResetPost{}, false, bytes.NewReader(nil), nil).Wire()
	want := osapi.Plan{
		Changes: true, MayDisconnect: true, NeedsReboot: "the next start makes the node anew",
		Steps: []osapi.PlanStep{
			{Action: "use-tool", Object: "the seed", Why: "it has no document, and had no document"},
			{Action: "use-tool", Object: "partitions 9, 10 and 11", Why: "swap, root and local-data are removed with all that is on them"},
		},
		Notes: []string{
			"This machine has no TPM: there is nothing to clear.",
			"What is on other disks stays, but the keys of pools and drives that this node has made are lost: keep them elsewhere before.",
			"Nothing of this can be undone.",
		},
	}
	if diff := cmp.Diff(want, p); diff != "" {
		t.Error(diff)
	}
}

// A journal says when it began, for the person at the console.
func TestContinue_Journal_IsToldOnTheConsole(t *testing.T) {
	m := newMachine()
	if err := reset.Begin(m, reset.Journal{Started: time.Unix(1795309440, 0), By: "local"}, []byte("new seed")); err != nil {
		t.Fatal(err)
	}
	var said []string
	if done, err := reset.Continue(context.Background(), m, func(text string) { said = append(said, text) }); err != nil || !done {
		t.Fatal(done, err)
	}
	if len(said) != 1 || !strings.Contains(said[0], "2026-11-22T") {
		t.Errorf("%q", said)
	}
}
