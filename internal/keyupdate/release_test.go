package keyupdate_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/internal/keyupdate"
	"github.com/holdfast-os/holdfast/internal/secureboot"
)

// release is one that a key lets in, and whose PCR policy some keys sign; it brings the last.
func release(version, by string, signers ...string) keyupdate.Release {
	r := keyupdate.Release{Version: version, UKI: keyupdate.Program{Image: image(version, by)}, Key: public(signers[len(signers)-1])}
	for _, s := range signers {
		r.UKI.Signed = append(r.UKI.Signed, fingerprint(s))
	}
	return r
}

// arm puts the kernel image of a release on the ESP.
func (w *world) arm(r keyupdate.Release) {
	w.op("arm %s", r.Version)
	w.others = append(slices.DeleteFunc(w.others, func(p keyupdate.Program) bool { return p.Image.Name == r.Version }), r.UKI)
}

// drop removes all kernel images but the running one.
func (w *world) drop() {
	w.op("drop")
	w.others = nil
}

// bootInto starts the machine into one of the kernel images.
func (w *world) bootInto(version, by string) string {
	if version == w.running {
		return w.start()
	}
	at := slices.IndexFunc(w.others, func(p keyupdate.Program) bool { return p.Image.Name == version })
	if at < 0 {
		return version + " IS NOT THERE"
	}
	old := keyupdate.Program{Image: image(w.running, w.by), Signed: w.signed}
	w.running, w.by, w.signed = version, by, w.others[at].Signed
	w.others[at] = old
	return w.start()
}

// install is what the update agent does with a release whose parts are fetched.
func (w *world) install(t *testing.T, r keyupdate.Release) error {
	w.drop()
	u := w.updater()
	if opens, _, err := u.Opens(t.Context(), r); err != nil || opens {
		w.arm(r)
		return err
	}
	if err := u.Prepare(t.Context(), r); err != nil {
		return err
	}
	opens, note, err := u.Opens(t.Context(), r)
	if err != nil {
		return err
	}
	if !opens {
		return errors.New(note)
	}
	w.arm(r)
	return nil
}

// newest is what the boot loader starts.
func (w *world) newest() string {
	newest := w.running
	for _, p := range w.others {
		newest = max(newest, p.Image.Name)
	}
	return newest
}

// whatever starts what the boot loader starts, and then what it would start if that were
// no good, and says what opened the disk.
func (w *world) whatever(by map[string]string) string {
	into := []string{w.running}
	for _, p := range w.others {
		into = append(into, p.Image.Name)
	}
	slices.Sort(into)
	var lines []string
	for _, version := range slices.Backward(into) {
		lines = append(lines, version+" "+w.bootInto(version, by[version]))
	}
	return strings.Join(lines, ", back ")
}

// twoKeys is a node whose db has the next key, and the releases of a change of keys: the
// first by the old key, the second let in by the next and signed by both, the third by the
// next key alone.
func twoKeys() (*world, map[string]keyupdate.Release, map[string]string) {
	w := newWorld()
	w.variables["db"] = content("release", "next")
	w.measure()
	b := secureboot.Binding{PCR7: w.pcr7, Key: w.signed[0]}
	policy, err := keyupdate.PolicyOf(b, public("release"))
	if err != nil {
		panic(err)
	}
	w.tokens = map[int]token{0: {keyupdate.Token{Policy: policy, PublicKey: public("release")}, b}}
	w.start()
	return w, map[string]keyupdate.Release{"R2": release("R2", "next", "release", "next"), "R3": release("R3", "next", "next")},
		map[string]string{"R1": "release", "R2": "next", "R3": "next"}
}

// The power may go before each change that lasts, while a node goes from a release of the
// old key over one of both to one of the next key alone: whatever the boot loader starts
// then, and the release that it may return to, the TPM opens. The node ends on the newest.
func TestPrepare_ChangeOfKeys_PowerCutAnywhere_TPMOpensTheDisk(t *testing.T) {
	var table []string
	for at := 0; ; at++ {
		w, releases, by := twoKeys()
		w.at = at
		run := func() (keyupdate.Outcome, error) {
			for w.newest() != "R3" || w.running != "R3" {
				next := releases[map[string]string{"R1": "R2", "R2": "R3"}[w.running]]
				if w.newest() == w.running {
					if err := w.install(t, next); err != nil {
						return keyupdate.Outcome{}, err
					}
				}
				if opened := w.bootInto(w.newest(), by[w.newest()]); opened != "TPM" {
					return keyupdate.Outcome{}, errors.New(w.running + ": " + opened)
				}
				if _, err := w.updater().Start(t.Context()); err != nil {
					return keyupdate.Outcome{}, err
				}
			}
			return keyupdate.Outcome{}, nil
		}
		_, err, gone := w.until(run)
		if !gone {
			if err != nil || w.running != "R3" || at < 12 {
				t.Fatalf("without a cut: %s after %d changes, %v", w.running, at, err)
			}
			table = append(table, w.did+" | "+w.whatever(by))
			break
		}
		after := w.did
		w.at = -1
		table = append(table, after+" | "+w.whatever(by))
		w.bootInto(w.newest(), by[w.newest()])
		if _, err := w.updater().Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := run(); err != nil || w.running != "R3" {
			t.Errorf("behind %q: ends on %s, %v", after, w.running, err)
		}
	}
	if diff := cmp.Diff([]string{
		" | R1 TPM",
		"drop | R1 TPM",
		"save  | R1 TPM",
		"save  | R1 TPM",
		"bind | R1 TPM",
		"arm R2 | R2 TPM, back R1 TPM",
		// Runs R2, and makes room for R3: R1 is gone.
		"drop | R2 TPM",
		"save  | R2 TPM",
		"unbind | R2 TPM",
		"save  | R2 TPM",
		"bind | R2 TPM",
		"unbind | R2 TPM",
		"arm R3 | R3 TPM, back R2 TPM",
	}, table); diff != "" {
		t.Error(diff)
	}
}

// A machine whose firmware measures what it does not log takes releases of the same keys as
// before: nothing has to be predicted for them. One of other keys it does not risk.
func TestOpens_Release_DependsOnItsKeys(t *testing.T) {
	for name, c := range map[string]struct {
		release keyupdate.Release
		change  func(*world)
		want    string
	}{
		"the same keys":               {release("R2", "release", "release"), func(*world) {}, "true"},
		"one more PCR key":            {release("R2", "release", "release", "next"), func(*world) {}, "true"},
		"another key in db":           {release("R2", "next", "release"), func(*world) {}, "false"},
		"another PCR key alone":       {release("R2", "release", "next"), func(*world) {}, "false"},
		"the same, odd firmware":      {release("R2", "release", "release"), odd, "true"},
		"another, odd firmware":       {release("R2", "next", "release"), odd, "false"},
		"the same, recovery key":      {release("R2", "release", "release"), func(w *world) { w.tokens = nil; w.start() }, "false"},
		"the same, Secure Boot off":   {release("R2", "stranger", "release"), off, "true"},
		"another, Secure Boot off":    {release("R2", "release", "next"), off, "false"},
		"a binding of a key it lacks": {release("R2", "release", "next"), func(w *world) { w.signed = []string{fingerprint("release"), fingerprint("next")}; w.start() }, "false"},
	} {
		t.Run(name, func(t *testing.T) {
			w, _, _ := twoKeys()
			c.change(w)
			opens, note, err := w.updater().Opens(t.Context(), c.release)
			if got := fmt.Sprint(opens); got != c.want || err != nil || note == "" {
				t.Errorf("got %s (%s), %v", got, note, err)
			}
			if w.ops != 0 {
				t.Errorf("%d changes", w.ops)
			}
		})
	}
}

// bindAnew binds the disk to what the machine measures now.
func bindAnew(w *world) {
	w.start()
	b := secureboot.Binding{PCR7: w.pcr7, Key: w.signed[0]}
	policy, err := keyupdate.PolicyOf(b, public("release"))
	if err != nil {
		panic(err)
	}
	w.tokens = map[int]token{0: {keyupdate.Token{Policy: policy, PublicKey: public("release")}, b}}
	w.start()
}

func odd(w *world) { w.quirk = "an option ROM"; bindAnew(w) }

func off(w *world) { w.variables["SecureBoot"] = []byte{0}; bindAnew(w) }

// What cannot be bound leaves the header as it was, and says how to go on.
func TestPrepare_NotPossible_ChangesNoBinding(t *testing.T) {
	for name, c := range map[string]struct {
		release keyupdate.Release
		change  func(*world)
	}{
		"the next PCR key alone": {release("R2", "release", "next"), func(*world) {}},
		"db does not let it in":  {release("R2", "stranger", "release", "next"), func(*world) {}},
		"odd firmware":           {release("R2", "next", "release"), odd},
		"opened by a person":     {release("R2", "next", "release"), func(w *world) { w.tokens = map[int]token{}; w.start() }},
	} {
		t.Run(name, func(t *testing.T) {
			w, _, _ := twoKeys()
			c.change(w)
			before := len(w.tokens)
			if err := w.updater().Prepare(t.Context(), c.release); err == nil || len(w.tokens) != before {
				t.Errorf("%d bindings after %d, %v", len(w.tokens), before, err)
			}
		})
	}
}

// The daemon may end while systemd-sysupdate writes the kernel image: the bindings that were
// made for it stay until the machine has started anew.
func TestStart_ReleaseNotOnTheESPYet_KeepsItsBindings(t *testing.T) {
	w, releases, by := twoKeys()
	if err := w.updater().Prepare(t.Context(), releases["R2"]); err != nil {
		t.Fatal(err)
	}
	if _, err := w.updater().Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.arm(releases["R2"])
	if opened := w.bootInto("R2", by["R2"]); opened != "TPM" {
		t.Error(opened)
	}
	// A release that was never armed is forgotten with the next start.
	w, releases, _ = twoKeys()
	if err := w.updater().Prepare(t.Context(), releases["R2"]); err != nil {
		t.Fatal(err)
	}
	w.start()
	if _, err := w.updater().Start(t.Context()); err != nil || len(w.tokens) != 1 {
		t.Errorf("%d bindings are left, %v", len(w.tokens), err)
	}
}

// What starts the releases of the next key is, in the end, signed by it too: else the old key
// could never be revoked. The power may go before each change, and both releases start.
func TestReplaceLoaders_KeyBefore_PowerCutAnywhere_TPMOpensTheDisk(t *testing.T) {
	var table []string
	for at := 0; ; at++ {
		w, releases, by := twoKeys()
		if err := w.install(t, releases["R2"]); err != nil {
			t.Fatal(err)
		}
		if opened := w.bootInto("R2", "next"); opened != "TPM" {
			t.Fatal(opened)
		}
		w.did, w.at = "", w.ops+at
		replace := func() (keyupdate.Outcome, error) {
			replaced, err := w.updater().ReplaceLoaders(t.Context(), keyupdate.Program{Image: image("new", "next")}, func(string) error {
				w.op("copy")
				w.loaderBy = "next"
				return nil
			})
			return keyupdate.Outcome{Notes: replaced}, err
		}
		_, err, gone := w.until(replace)
		if err != nil {
			t.Fatal(err)
		}
		after := w.did
		w.at = -1
		table = append(table, after+" | "+w.whatever(by))
		if !gone {
			w.bootInto("R2", "next")
			if _, err := w.updater().Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			table = append(table, "settled | "+w.whatever(by))
			if outcome, err := replace(); err != nil || len(outcome.Notes) > 0 {
				t.Errorf("a second time: %v, %v", outcome.Notes, err)
			}
			break
		}
	}
	if diff := cmp.Diff([]string{
		" | R2 TPM, back R1 TPM",
		"save  | R2 TPM, back R1 TPM",
		"bind | R2 TPM, back R1 TPM",
		"save  | R2 TPM, back R1 TPM",
		"bind | R2 TPM, back R1 TPM",
		"copy | R2 TPM, back R1 TPM",
		"settled | R2 TPM, back R1 TPM",
	}, table); diff != "" {
		t.Error(diff)
	}
}

// A boot loader is left alone where its replacement could lock the node out, or says nothing.
func TestReplaceLoaders_NotNow_CopiesNothing(t *testing.T) {
	for name, c := range map[string]struct {
		by     string
		change func(w *world)
	}{
		"the release is of the key before": {"next", func(*world) {}},
		"by a key that is not in db":       {"stranger", func(w *world) { w.by = "next"; bindAnew(w) }},
		"on trial":                         {"next", func(w *world) { w.by = "next"; bindAnew(w); w.trial = true }},
		"odd firmware":                     {"next", func(w *world) { w.by = "next"; odd(w) }},
		"opened by a person":               {"next", func(w *world) { w.by, w.tokens = "next", map[int]token{}; w.start() }},
		"Secure Boot is off":               {"next", func(w *world) { w.by = "next"; off(w) }},
	} {
		t.Run(name, func(t *testing.T) {
			w, _, _ := twoKeys()
			c.change(w)
			tokens := len(w.tokens)
			replaced, err := w.updater().ReplaceLoaders(t.Context(), keyupdate.Program{Image: image("new", c.by)}, func(string) error {
				t.Error("the loader is replaced")
				return nil
			})
			if len(replaced) > 0 || err != nil || len(w.tokens) != tokens {
				t.Errorf("replaced %v, %d bindings after %d, %v", replaced, len(w.tokens), tokens, err)
			}
		})
	}
}
