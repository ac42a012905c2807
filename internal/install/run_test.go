package install

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/internal/layout"
)

var errPower = errors.New("power cut")

// memDisk is a disk in memory that loses its power after some operations. What was
// not made durable is then lost, or kept, as a real disk may do either.
type memDisk struct {
	now, durable []byte
	// left counts the operations until the cut; negative is never.
	left int
	// loses drops what was not made durable.
	loses bool
	// flips damages what is written.
	flips bool
	// from and to bound what is not durable.
	from, to int64
}

func (d *memDisk) spend() error {
	if d.left == 0 {
		if d.loses {
			copy(d.now[d.from:d.to], d.durable[d.from:d.to])
		}
		return errPower
	}
	d.left--
	return nil
}

func (d *memDisk) ReadAt(p []byte, offset int64) (int, error) {
	return bytes.NewReader(d.now).ReadAt(p, offset)
}

func (d *memDisk) WriteAt(p []byte, offset int64) (int, error) {
	if err := d.spend(); err != nil {
		return 0, err
	}
	n := copy(d.now[offset:], p)
	d.touch(offset, int64(n))
	if d.flips && offset > 1<<20 {
		d.now[offset] ^= 1
	}
	return n, nil
}

func (d *memDisk) Zero(_ context.Context, offset, length int64) error {
	if err := d.spend(); err != nil {
		return err
	}
	clear(d.now[offset:][:length])
	d.touch(offset, length)
	return nil
}

func (d *memDisk) Sync() error {
	if err := d.spend(); err != nil {
		return err
	}
	copy(d.durable[d.from:d.to], d.now[d.from:d.to])
	d.from, d.to = 0, 0
	return nil
}

func (d *memDisk) touch(offset, length int64) {
	if d.from == d.to {
		d.from, d.to = offset, offset
	}
	d.from, d.to = min(d.from, offset), max(d.to, offset+length)
}

// memEnv is a machine in memory. Its table is a line of text at both ends of the disk.
type memEnv struct {
	medium   []byte
	disk     *memDisk
	complete bool
	loader   Loader
	left     bool
	marks    []string
	deaf     error // what the firmware answers
}

const memSize = 6 << 20

func (e *memEnv) Medium() io.ReaderAt                  { return bytes.NewReader(e.medium) }
func (e *memEnv) Target() TargetDisk                   { return e.disk }
func (e *memEnv) Platform() Platform                   { return e }
func (e *memEnv) WipeSignatures(context.Context) error { return nil }
func (e *memEnv) SetInstallComplete(c bool) error {
	if e.deaf == nil {
		e.complete = c
	}
	return e.deaf
}
func (e *memEnv) MarkESP(_ context.Context, names []string) error { e.marks = names; return nil }
func (e *memEnv) SetBootEntry(l Loader) error                     { e.loader = l; return e.deaf }
func (e *memEnv) Leave(context.Context, bool) error               { e.left = true; return nil }
func (e *memEnv) WriteTable(_ context.Context, script string) error {
	for _, offset := range []int64{memSize - 1024, 512} { // backup first, as sfdisk does
		if _, err := e.disk.WriteAt([]byte(script), offset); err != nil {
			return err
		}
		if err := e.disk.Sync(); err != nil {
			return err
		}
	}
	return nil
}
func (e *memEnv) Reread(context.Context) (string, error) { return e.tableAt(512), nil }

func (e *memEnv) tableAt(offset int) string {
	guid, ok := strings.CutPrefix(string(e.disk.now[offset:][:6+len(espGUID)]), "TABLE ")
	if !ok {
		return ""
	}
	return guid
}

func (e *memEnv) content() Content {
	content := Content{Mark: ParseMark(e.disk.now[MarkOffset:][:MarkSize])}
	guid := e.tableAt(512)
	if guid != "" {
		content.Table = ValidTable
	} else if guid = e.tableAt(memSize - 1024); guid != "" {
		content.Table = DamagedTable
	}
	if guid != "" {
		content.Parts = []Part{{Number: 1, GUID: guid}}
	}
	return content
}

// smallPlan is a plan whose partitions take 128 KiB each, so that every cut can be tried.
func smallPlan(t *testing.T) Plan { t.Helper(); return usedPlan(t, nil) }

// usedPlan is smallPlan with the ranges that the medium uses.
func usedPlan(t *testing.T, used map[int][]Range) Plan {
	t.Helper()
	table, err := layout.Table("x86_64")
	if err != nil {
		t.Fatal(err)
	}
	for i := range table {
		table[i].Start, table[i].Size = 2<<20+int64(i)*(128<<10), 128<<10
	}
	tar, marks := []byte("a seed without a request to install"), []string{MarkNoTPM}
	return Plan{Target: "/dev/vda", TargetSize: memSize, Marks: marks, Steps: steps(table, Input{Medium: Medium{Version: "202611220104"}, Seed: tar, Used: used, Marks: marks}),
		Table: "TABLE " + espGUID, ESP: espGUID, Seed: tar, Loader: Loader{Label: "Holdfast", GUID: espGUID}}
}

// pattern is what the medium holds: a 64 KiB block of data, one of zeros, and so on.
var pattern = func() []byte {
	medium := make([]byte, memSize)
	for at := 0; at < memSize; at += 128 << 10 {
		copy(medium[at:][:64<<10], bytes.Repeat([]byte(fmt.Sprintf("block at %07d.", at)), 4<<10))
	}
	return medium
}()

func newEnv(before byte) *memEnv {
	disk := &memDisk{now: bytes.Repeat([]byte{before}, memSize), left: -1}
	disk.durable = bytes.Clone(disk.now)
	return &memEnv{medium: pattern, disk: disk}
}

// The promise: pull the plug at any moment, start the medium again, and get what an
// undisturbed installation gives, without having to set force_install.
func TestRun_PowerCutBeforeAnyOperation_NextRunEndsTheSame(t *testing.T) {
	for name, plan := range map[string]Plan{"everything": smallPlan(t), "what is used": usedPlan(t, smallUsed)} {
		for _, loses := range []bool{false, true} {
			for _, before := range []byte{0, 0xa5} {
				t.Run(fmt.Sprintf("%s, disk of %#x, loses %t", name, before, loses), func(t *testing.T) {
					cutEverywhere(t, plan, before, loses)
				})
			}
		}
	}
}

// cutEverywhere cuts an installation before each of its operations.
func cutEverywhere(t *testing.T, plan Plan, before byte, loses bool) {
	t.Helper()
	whole := newEnv(before)
	if err := Run(context.Background(), plan, whole, Observer{}); err != nil {
		t.Fatal(err)
	}
	for cut := 0; ; cut++ {
		env := newEnv(before)
		env.disk.left, env.disk.loses = cut, loses
		err := Run(context.Background(), plan, env, Observer{})
		if err == nil {
			if cut < 36 {
				t.Fatalf("only %d operations were cut", cut)
			}
			return
		}
		if !errors.Is(err, errPower) {
			t.Fatal(err)
		}
		env.disk.left = -1
		again(t, fmt.Sprintf("cut %d", cut), plan, env, whole)
	}
}

// again starts the medium once more after a cut, and compares.
func again(t *testing.T, name string, plan Plan, env, whole *memEnv) {
	t.Helper()
	if !env.complete { // else the next start asks for the medium to be removed
		if occupied := env.content().Occupied(); occupied != "" {
			t.Errorf("%s: the next start would refuse the disk: it holds %s", name, occupied)
			return
		}
		if err := Run(context.Background(), plan, env, Observer{}); err != nil {
			t.Errorf("%s: %v", name, err)
			return
		}
	}
	clear(env.disk.now[MarkOffset:][:MarkSize])
	if !bytes.Equal(env.disk.now, whole.disk.now) || env.complete != whole.complete || env.loader != whole.loader {
		t.Errorf("%s: the machine differs from one that was installed undisturbed", name)
	}
}

// The table is the commit: until it stands, no firmware may find a system to start.
func TestRun_CutBeforeStep_DiskIsStartableOnlyFromTheTableOn(t *testing.T) {
	plan := smallPlan(t)
	for n, step := range plan.Steps {
		env, part := newEnv(0), plan
		part.Steps = plan.Steps[:n]
		if err := Run(context.Background(), part, env, Observer{}); err != nil {
			t.Fatal(err)
		}
		want := step.Action == Reread || step.Action == MarkESP || step.Action == BootEntry || step.Action == Complete || step.Action == Unmark || step.Action == Leave
		if got := env.content().Table == ValidTable; got != want {
			t.Errorf("cut before %s: startable is %t, want %t", step, got, want)
		}
	}
}

// The installed bytes are those of the medium, and the seed is the one given.
func TestRun_WholePlan_TargetHoldsMediumAndSeed(t *testing.T) {
	env, plan := newEnv(0xa5), smallPlan(t)
	var seen []int64
	err := Run(context.Background(), plan, env, Observer{Progress: func(step string, done, total int64) {
		if step == "copy esp" {
			seen = append(seen, done, total)
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	for _, offset := range []int{2 << 20, 2<<20 + 256<<10, 2<<20 + 384<<10, 2<<20 + 512<<10} { // 1, 3, 4, 5
		if !bytes.Equal(env.disk.now[offset:][:128<<10], env.medium[offset:][:128<<10]) {
			t.Errorf("the partition at %d is not that of the medium", offset)
		}
	}
	if got := string(bytes.TrimRight(env.disk.now[2<<20+128<<10:][:128<<10], "\x00")); got != "a seed without a request to install" {
		t.Errorf("got seed %q", got)
	}
	if diff := cmp.Diff([]int64{128 << 10, 128 << 10}, seen); diff != "" {
		t.Error(diff)
	}
	if !env.left || !env.complete || env.content().Mark != "" {
		t.Errorf("left %t, complete %t, mark %q", env.left, env.complete, env.content().Mark)
	}
}

// A disk that stores something else than it was given must not become a node.
func TestRun_DiskThatDamagesData_IsFoundBeforeTheTable(t *testing.T) {
	env := newEnv(0)
	env.disk.flips = true
	err := Run(context.Background(), smallPlan(t), env, Observer{})
	if err == nil || env.content().Table != NoTable || env.complete {
		t.Errorf("got error %v and content %+v", err, env.content())
	}
}

// Some firmware refuses new variables; the disk can be started all the same.
func TestRun_FirmwareRefusesVariables_WarnsAndGoesOn(t *testing.T) {
	env, warnings := newEnv(0), 0
	env.deaf = errors.New("no space")
	err := Run(context.Background(), smallPlan(t), env, Observer{Warn: func(string) { warnings++ }})
	if err != nil || warnings != 2 || !env.left {
		t.Errorf("got error %v, %d warnings, left %t", err, warnings, env.left)
	}
}

func TestRun_Cancelled_StopsBeforeTheNextStep(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	env := newEnv(0)
	err := Run(ctx, smallPlan(t), env, Observer{Step: func(s Step) {
		if s.Action == Copy {
			cancel()
		}
	}})
	if !errors.Is(err, context.Canceled) || env.content().Table != NoTable {
		t.Errorf("got error %v", err)
	}
}
