package earlyboot_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/internal/bootinfo"
	"github.com/holdfast-os/holdfast/internal/earlyboot"
	"github.com/holdfast-os/holdfast/internal/reset"
)

func (w *world) ESP(_ context.Context, disk earlyboot.Disk) (earlyboot.ESP, error) {
	if w.espErr != nil {
		return nil, w.espErr
	}
	w.espMounted = true
	return worldESP{w}, nil
}

// worldESP is the ESP of a world, and the real course of a reset upon it.
type worldESP struct{ *world }

func (e worldESP) ContinueReset(ctx context.Context, say func(string)) (bool, error) {
	if !slices.ContainsFunc(reset.Files(), func(name string) bool { _, there := e.esp[name]; return there }) {
		return false, nil
	}
	return reset.Continue(ctx, e, say)
}

func (e worldESP) Platform(context.Context) (earlyboot.Platform, error) {
	p := e.platform
	_, p.NoTPM = e.esp[earlyboot.MarkNoTPM]
	_, p.NoSecureBoot = e.esp[earlyboot.MarkNoSecureBoot]
	return p, nil
}

func (e worldESP) Mark(name string) error {
	if _, there := e.esp[name]; there {
		return nil
	}
	return e.Write(name, []byte("1"))
}

func (e worldESP) StartTPM(context.Context) error {
	if err := e.change("emulate a TPM"); err != nil {
		return err
	}
	e.emulated = true
	return nil
}

func (e worldESP) Pause(context.Context) { e.calls = append(e.calls, "pause") }

func (e worldESP) Close(context.Context) error {
	if !e.espMounted {
		return errors.New("closed twice")
	}
	e.espMounted, e.emulated = false, false
	return nil
}

func (e worldESP) Read(name string, _ int64) ([]byte, error) {
	text, there := e.esp[name]
	if !there {
		return nil, fs.ErrNotExist
	}
	return []byte(text), nil
}

func (e worldESP) Write(name string, data []byte) error {
	if err := e.change("esp %s", name); err != nil {
		return err
	}
	e.esp[name] = string(data)
	return nil
}

func (e worldESP) Remove(name string) error {
	has := func(n string) bool { return n == name || strings.HasPrefix(n, name+"/") }
	for _, n := range slices.Sorted(mapKeys(e.esp)) {
		if !has(n) {
			continue
		}
		if err := e.change("esp without %s", n); err != nil {
			return err
		}
		delete(e.esp, n)
	}
	return nil
}

func mapKeys(m map[string]string) func(func(string) bool) {
	return func(yield func(string) bool) {
		for key := range m {
			if !yield(key) {
				return
			}
		}
	}
}

func (e worldESP) ClearTPM(context.Context) error {
	if e.tpmErr != nil {
		return e.tpmErr
	}
	if err := e.change("clear the TPM"); err != nil {
		return err
	}
	e.tpm = "empty"
	return nil
}

func (e worldESP) WriteSeed(_ context.Context, archive []byte) error {
	if err := e.change("write the seed"); err != nil {
		return err
	}
	e.seed = string(archive)
	return nil
}

func (e worldESP) RemovePartitions(ctx context.Context, numbers ...int) error {
	there := slices.DeleteFunc(slices.Clone(numbers), func(n int) bool { return !e.parts[n] })
	if len(there) == 0 {
		return nil
	}
	return e.Table().Remove(ctx, "/dev/vda", there...)
}

// resetting is a node whose owner has asked for a reset; nothing of it was done yet.
func resetting(t *testing.T) *world {
	t.Helper()
	w := node()
	w.left, w.seed = -1, "old seed"
	w.esp["swtpm/state"] = "x"
	if err := reset.Begin(worldESP{w}, reset.Journal{By: "owner"}, []byte("new seed")); err != nil {
		t.Fatal(err)
	}
	return w
}

// The owner gave a node away and pulled the plug too early: wherever that was, and wherever
// the plug is pulled a second time, the next start ends what was begun, and the one after it
// is a first one with the new seed. The old key opens nothing, nobody has to ask again.
func TestOpenRoot_ResetCutAnywhere_EndsInANewNode(t *testing.T) {
	cuts := 0
	for first := range 12 {
		for second := range 12 {
			t.Run(fmt.Sprintf("after %d, then after %d", first, second), func(t *testing.T) {
				w := resetting(t)
				var err error
				for _, cut := range []int{first, second} {
					if _, err = w.boot(cut); !errors.Is(err, errPower) {
						break
					}
					cuts++
				}
				for range 4 {
					if err == nil {
						break
					}
					_, err = w.boot(-1)
				}
				got := map[string]any{"error": err, "esp": w.esp, "seed": w.seed, "tpm": w.tpm, "parts": w.numbers(), "mounted": w.mounted}
				want := map[string]any{"error": nil, "esp": map[string]string{}, "seed": "new seed", "tpm": "empty", "parts": all, "mounted": true}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Error(diff)
				}
			})
		}
	}
	if cuts < 100 {
		t.Errorf("only %d cuts happened: the table tests too little", cuts)
	}
}

// An unfinished reset comes before the seed is looked at, and its end is a restart.
func TestOpenRoot_ResetBegun_DoesThatAndNothingElse(t *testing.T) {
	begun := []string{
		"clear the TPM", "esp holdfast/reset-committed", "write the seed", "esp without swtpm/state", "remove /dev/vda [9 10 11]",
		"esp without holdfast/reset.json", "esp without holdfast/reset-committed", "esp without holdfast/reset-seed.tar",
	}
	for name, test := range map[string]struct {
		with  func(*world)
		calls []string
		err   error
		parts []int
	}{
		"a node":                          {func(*world) {}, begun, earlyboot.ErrStartAgain, []int{1, 2, 3, 4, 5, 6, 7, 8}},
		"whose seed asks to install":      {func(w *world) { w.install = true }, begun, earlyboot.ErrStartAgain, []int{1, 2, 3, 4, 5, 6, 7, 8}},
		"whose TPM cannot be cleared":     {func(w *world) { w.tpmErr = errDisk }, []string{"esp without holdfast/reset.json", "esp without holdfast/reset-seed.tar", "unlock /dev/vda10 ask=false"}, nil, all},
		"whose journal was cut":           {func(w *world) { w.esp[reset.JournalFile] = "{" }, []string{"esp without holdfast/reset.json", "esp without holdfast/reset-seed.tar", "unlock /dev/vda10 ask=false"}, nil, all},
		"whose ESP cannot be read":        {func(w *world) { w.espErr = errDisk }, []string{"unlock /dev/vda10 ask=false"}, nil, all},
		"without root, ESP unreadable":    {func(w *world) { delete(w.parts, 10); w.espErr = errDisk }, nil, errDisk, []int{1, 2, 3, 4, 5, 6, 7, 8, 9, 11}},
		"to be installed, ESP unreadable": {func(w *world) { w.install, w.espErr = true, errDisk }, []string{"tmpfs"}, nil, all},
	} {
		t.Run(name, func(t *testing.T) {
			w := resetting(t)
			test.with(w)
			_, err := w.boot(-1)
			if !errors.Is(err, test.err) {
				t.Errorf("got %v, want %v", err, test.err)
			}
			if diff := cmp.Diff(test.calls, w.calls); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(test.parts, w.numbers()); diff != "" {
				t.Error(diff)
			}
			if w.espMounted {
				t.Error("the ESP stays mounted")
			}
		})
	}
}

// What a machine lacks decides whether it becomes a node at all, and how its disk is bound.
func TestOpenRoot_PartsOfTheChainMissing_AsAskedForOrNotAtAll(t *testing.T) {
	installed := func() *world {
		w := medium()
		w.parts[6], w.parts[7], w.parts[8] = true, true, true
		return w
	}
	marked := func(mark string, make func() *world) func() *world {
		return func() *world { w := make(); w.esp[mark] = "1"; return w }
	}
	const (
		made  = "partition /dev/vda"
		bound = "partition /dev/vda and bind programs"
		open  = "unlock /dev/vda10 ask=false"
		ask   = "unlock /dev/vda10 ask=true"
		key   = "write var/lib/incus-os/recovery.key"
		id    = "write var/lib/incus-os/machine-id"
	)
	none, off := earlyboot.Platform{SecureBoot: true}, earlyboot.Platform{TPM: true}
	for name, test := range map[string]struct {
		world    func() *world
		platform earlyboot.Platform
		calls    []string
		says     string // of the error
	}{
		"live, no TPM":             {medium, none, []string{"pause", "esp holdfast/missing-tpm", "emulate a TPM", made, open, key, id}, ""},
		"live, no Secure Boot":     {medium, off, []string{"pause", "esp holdfast/missing-secure-boot", bound, open, key, id}, ""},
		"live, neither":            {medium, earlyboot.Platform{}, nil, "neither a TPM 2.0 nor Secure Boot"},
		"live, audit mode":         {medium, earlyboot.Platform{SecureBoot: true, TPM: true, AuditMode: true}, nil, "audit mode"},
		"installed, no TPM":        {installed, none, nil, "security.missing_tpm"},
		"installed, no TPM, asked": {marked(earlyboot.MarkNoTPM, installed), none, []string{"pause", "emulate a TPM", made, open, key, id}, ""},
		"installed, asked for the other": {
			marked(earlyboot.MarkNoTPM, installed), off, nil, "security.missing_secure_boot"},
		"installed, no Secure Boot":        {installed, off, nil, "security.missing_secure_boot"},
		"installed, no Secure Boot, asked": {marked(earlyboot.MarkNoSecureBoot, installed), off, []string{"pause", bound, open, key, id}, ""},
		"installed, neither, both asked": {
			marked(earlyboot.MarkNoSecureBoot, marked(earlyboot.MarkNoTPM, installed)), earlyboot.Platform{}, nil, "neither a TPM 2.0 nor Secure Boot"},
		"later, emulated TPM":                   {marked(earlyboot.MarkNoTPM, node), none, []string{"emulate a TPM", open}, ""},
		"later, emulated TPM, no Secure Boot":   {marked(earlyboot.MarkNoTPM, node), earlyboot.Platform{}, nil, "neither a TPM 2.0 nor Secure Boot"},
		"later, the TPM has gone":               {node, none, []string{open, ask}, ""},
		"later, Secure Boot is off, as ever":    {marked(earlyboot.MarkNoSecureBoot, node), off, []string{open}, ""},
		"later, Secure Boot was switched off":   {node, off, []string{open}, ""}, // PCR 7 decides
		"later, a TPM where there was none":     {marked(earlyboot.MarkNoTPM, node), earlyboot.Platform{SecureBoot: true, TPM: true}, []string{open}, ""},
		"later, both gone, a key opens it":      {node, earlyboot.Platform{}, []string{open, ask}, ""},
		"to be installed, neither: it can tell": {func() *world { w := medium(); w.install = true; return w }, earlyboot.Platform{}, []string{"tmpfs"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			w := test.world()
			w.platform = test.platform
			_, err := w.boot(-1)
			if test.says == "" && err != nil || test.says != "" && (err == nil || !strings.Contains(err.Error(), test.says)) {
				t.Errorf("got %v, want %q", err, test.says)
			}
			if diff := cmp.Diff(test.calls, w.calls); diff != "" {
				t.Error(diff)
			}
			if w.emulated {
				t.Error("the emulated TPM is still served")
			}
		})
	}
}

// A medium without a seed lives on its own disk; on one that cannot hold a node it says so,
// and writes nothing.
func TestOpenRoot_MediumThatCannotLive_SaysWhy(t *testing.T) {
	for name, test := range map[string]struct {
		with func(*world)
		says string
	}{
		"a CD":            {func(w *world) { w.readOnly = true }, "/dev/vda cannot be written"},
		"a small stick":   {func(w *world) { w.size = 16 << 30 }, "/dev/vda has 16 GiB, and a node needs 20"},
		"large enough":    {func(*world) {}, ""},
		"a CD to install": {func(w *world) { w.readOnly, w.install, w.size = true, true, 5<<30 }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			w := medium()
			test.with(w)
			info, err := w.boot(-1)
			if test.says == "" && err != nil || test.says != "" && (err == nil || !strings.Contains(err.Error(), test.says)) {
				t.Errorf("got %v, want %q", err, test.says)
			}
			if test.says != "" && (len(w.calls) > 0 || info.Mode != bootinfo.Node) {
				t.Errorf("did %q", w.calls)
			}
		})
	}
}
