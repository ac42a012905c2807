package secureboot_test

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/internal/secureboot"
)

// Two keys of the PCR policy.
var (
	keyA = strings.Repeat("a", 64)
	keyB = strings.Repeat("b", 64)
)

func start(name string, pcr7 byte, signed ...string) secureboot.Start {
	return secureboot.Start{Name: name, PCR7: [32]byte{pcr7}, Signed: signed}
}

func bound(pcr7 byte, key string) secureboot.Binding {
	return secureboot.Binding{PCR7: [32]byte{pcr7}, Key: key}
}

// node is the machine between two starts: the tokens of the disk's header, and what it
// would start as. after says what a step makes of the latter.
type node struct {
	tokens []secureboot.Binding
	starts secureboot.Start
	after  map[string]secureboot.Start // by kind and object of the step
}

func (n *node) do(s secureboot.Step) {
	switch s.Kind {
	case secureboot.Bind:
		n.tokens = append(n.tokens, *s.Binding)
	case secureboot.Unbind:
		n.tokens = slices.DeleteFunc(n.tokens, func(b secureboot.Binding) bool { return b == *s.Binding })
	case secureboot.CheckBindings:
		if !slices.Equal(n.tokens, s.Bindings) {
			panic(fmt.Sprintf("the header has %v, the step wants %v", n.tokens, s.Bindings))
		}
	}
	if next, changes := n.after[string(s.Kind)+" "+s.Object]; changes {
		n.starts = next
	}
}

// opener is how the disk opens when the power is cut now: it does what systemd-cryptsetup
// does, which test/host shows.
func (n *node) opener(s secureboot.Start) string {
	for _, b := range n.tokens {
		if !slices.Contains(s.Signed, b.Key) {
			break
		}
		if b.PCR7 == s.PCR7 && b.PCR4 == s.PCR4 {
			return fmt.Sprintf("%s: by %d%s", s.Name, b.PCR7[0]+b.PCR4[0], b.Key[:1])
		}
	}
	return s.Name + ": RECOVERY KEY"
}

// cuts cuts the power after each step, and says how the next start opens the disk.
func cuts(n *node, steps []secureboot.Step) []string {
	lines := []string{"- | " + n.opener(n.starts)}
	for _, s := range steps {
		n.do(s)
		lines = append(lines, string(s.Kind)+" | "+n.opener(n.starts))
	}
	return lines
}

// The power may go between any two steps of writing db or dbx: the TPM opens the disk every
// time, and the recovery key stays in its drawer.
func TestWriteSteps_PowerCutAnywhere_TPMOpensTheDisk(t *testing.T) {
	archive := secureboot.Archive{update(t, "KEK", secureboot.DB, "next")}
	d := secureboot.Next(healthy(), archive)
	old, next := start("old db", 1, keyA), start("new db", 2, keyA)
	have := []secureboot.Binding{bound(1, keyA)}
	steps, err := secureboot.WriteSteps(d, have, []secureboot.Start{old}, secureboot.Forecast{Content: d.After, Starts: []secureboot.Start{next}})
	if err != nil {
		t.Fatal(err)
	}
	n := &node{tokens: have, starts: old, after: map[string]secureboot.Start{"append-variable db": next}}
	got := append(cuts(n, steps), cuts(n, secureboot.Settle(n.tokens, next, nil))...)
	want := []string{
		"- | old db: by 1a",
		"bind | old db: by 1a",
		"check-bindings | old db: by 1a",
		"append-variable | new db: by 2a",
		"read-back | new db: by 2a",
		"restart | new db: by 2a",
		"- | new db: by 2a",
		"unbind | new db: by 2a",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]secureboot.Binding{bound(2, keyA)}, n.tokens); diff != "" {
		t.Error(diff)
	}
}

// A release that the next key signed, and whose UKI the old PCR key signed too. It may also
// return to the release before, with the new boot loader: the TPM opens that as well.
func TestSwitchSteps_NextKey_PowerCutAnywhere_TPMOpensTheDisk(t *testing.T) {
	old, between, after := start("R1", 1, keyA), start("R1, new loader", 2, keyA), start("R2", 3, keyA, keyB)
	have := []secureboot.Binding{bound(1, keyA)}
	steps, err := secureboot.SwitchSteps(secureboot.Switch{
		Release: "R2", Loaders: []string{"EFI/systemd/systemd-bootx64.efi", "EFI/BOOT/BOOTX64.EFI"}, Between: []secureboot.Start{between}, After: after,
	}, have, []secureboot.Start{old})
	if err != nil {
		t.Fatal(err)
	}
	n := &node{tokens: have, starts: old, after: map[string]secureboot.Start{
		"copy-loader EFI/systemd/systemd-bootx64.efi": between, "install-release R2": after,
	}}
	got := cuts(n, steps)
	got = append(got, "returned | "+n.opener(between))
	got = append(got, cuts(n, secureboot.Settle(n.tokens, after, []secureboot.Start{between}))...)
	got = append(got, "returned | "+n.opener(between))
	want := []string{
		"- | R1: by 1a",
		"bind | R1: by 1a",
		"bind | R1: by 1a",
		"check-bindings | R1: by 1a",
		"copy-loader | R1, new loader: by 2a",
		"copy-loader | R1, new loader: by 2a",
		"install-release | R2: by 3a",
		"restart | R2: by 3a",
		"returned | R1, new loader: by 2a",
		"- | R2: by 3a",
		"unbind | R2: by 3a",
		"returned | R1, new loader: by 2a",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// The release after that carries the new PCR key alone. Bindings by the old key are replaced
// while the release that has both still runs; the slot of the oldest is overwritten.
func TestSwitchSteps_OldPCRKeyGone_PowerCutAnywhere_TPMOpensTheDisk(t *testing.T) {
	now, after := start("R2", 3, keyA, keyB), start("R3", 3, keyB)
	have := []secureboot.Binding{bound(2, keyA), bound(3, keyA)}
	steps, err := secureboot.SwitchSteps(secureboot.Switch{Release: "R3", After: after}, have, []secureboot.Start{now})
	if err != nil {
		t.Fatal(err)
	}
	n := &node{tokens: have, starts: now, after: map[string]secureboot.Start{"install-release R3": after}}
	got := append(cuts(n, steps), "returned | "+n.opener(now))
	want := []string{
		"- | R2: by 3a",
		"unbind | R2: by 3a",
		"bind | R2: by 3a",
		"unbind | R2: by 3b",
		"check-bindings | R2: by 3b",
		"install-release | R3: by 3b",
		"restart | R3: by 3b",
		"returned | R2: by 3b",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// Without Secure Boot each release has its own register 4. Two are installed before one
// restart, and the node may still return to the one that runs.
func TestSwitchSteps_SecureBootOff_TwoReleasesBeforeOneRestart_TPMOpensTheDisk(t *testing.T) {
	off := func(name string, pcr4 byte) secureboot.Start {
		return secureboot.Start{Name: name, PCR4: [32]byte{pcr4}, Signed: []string{keyA}}
	}
	r1, r2, r3 := off("R1", 1), off("R2", 2), off("R3", 3)
	n := &node{tokens: []secureboot.Binding{{PCR4: [32]byte{1}, Key: keyA}}, starts: r1,
		after: map[string]secureboot.Start{"install-release R2": r2, "install-release R3": r3}}
	var got []string
	for _, next := range []secureboot.Start{r2, r3} {
		// What was installed last is overwritten; it may still start until then.
		present := []secureboot.Start{r1}
		if n.starts.Name != "R1" {
			present = append(present, n.starts)
		}
		steps, err := secureboot.SwitchSteps(secureboot.Switch{Release: next.Name, After: next}, slices.Clone(n.tokens), present)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, cuts(n, steps)...)
	}
	got = append(got, "returned | "+n.opener(r1))
	got = append(got, cuts(n, secureboot.Settle(n.tokens, r3, []secureboot.Start{r1}))...)
	want := []string{
		"- | R1: by 1a", "bind | R1: by 1a", "check-bindings | R1: by 1a", "install-release | R2: by 2a", "restart | R2: by 2a",
		"- | R2: by 2a", "bind | R2: by 2a", "check-bindings | R2: by 2a", "install-release | R3: by 3a", "restart | R3: by 3a",
		"returned | R1: by 1a",
		"- | R3: by 3a", "unbind | R3: by 3a",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// The rules of systemd; test/host shows the same table to the real program.
func TestOpens_SeveralBindings_FollowsTheOrderOfTheHeader(t *testing.T) {
	for name, c := range map[string]struct {
		bindings []secureboot.Binding
		signed   []string
		at       int
		want     bool
	}{
		"its only one":                   {[]secureboot.Binding{bound(0, keyA)}, []string{keyA}, 0, true},
		"of another key":                 {[]secureboot.Binding{bound(0, keyB)}, []string{keyA}, 0, false},
		"another start's before it":      {[]secureboot.Binding{bound(1, keyA), bound(0, keyA)}, []string{keyA}, 1, true},
		"another key's before it":        {[]secureboot.Binding{bound(0, keyB), bound(0, keyA)}, []string{keyA}, 0, false},
		"another key's behind it":        {[]secureboot.Binding{bound(0, keyA), bound(0, keyB)}, []string{keyA}, 0, true},
		"a release that both keys sign":  {[]secureboot.Binding{bound(1, keyA), bound(0, keyB)}, []string{keyA, keyB}, 1, true},
		"only another start's":           {[]secureboot.Binding{bound(1, keyA)}, []string{keyA}, 0, false},
		"register 4, which is not bound": {[]secureboot.Binding{{PCR4: [32]byte{1}, Key: keyA}}, []string{keyA}, 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			if at, open := secureboot.Opens(c.bindings, start("x", 0, c.signed...)); at != c.at || open != c.want {
				t.Errorf("got %d, %v", at, open)
			}
		})
	}
}

// Both slots can start after a dbx, and one of them knows the old key alone: the new one is
// bound by the old key too, or it would hide the other.
func TestWriteSteps_TwoSlotsOneWithTheOldKeyAlone_BothAreOpened(t *testing.T) {
	d := secureboot.Next(healthy(), secureboot.Archive{update(t, "KEK", secureboot.DB, "next")})
	r1, r2 := start("R1", 1, keyA), start("R2", 2, keyB, keyA)
	next := []secureboot.Start{start("R2, new db", 4, keyB, keyA), start("R1, new db", 3, keyA)}
	n := &node{tokens: []secureboot.Binding{bound(1, keyA), bound(2, keyA)}, starts: r2, after: map[string]secureboot.Start{"append-variable db": next[0]}}
	steps, err := secureboot.WriteSteps(d, slices.Clone(n.tokens), []secureboot.Start{r1, r2}, secureboot.Forecast{Content: d.After, Starts: next})
	if err != nil {
		t.Fatal(err)
	}
	got := append(cuts(n, steps), "returned | "+n.opener(next[1]))
	want := []string{
		"- | R2: by 2a", "bind | R2: by 2a", "bind | R2: by 2a", "check-bindings | R2: by 2a",
		"append-variable | R2, new db: by 4a", "read-back | R2, new db: by 4a", "restart | R2, new db: by 4a",
		"returned | R1, new db: by 3a",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// A start that cannot be bound is not risked.
func TestSteps_NotEveryStartCanBeBound_NothingIsPlanned(t *testing.T) {
	d := secureboot.Next(healthy(), secureboot.Archive{update(t, "KEK", secureboot.DB, "next")})
	old, next := start("old", 1, keyA), start("new", 2, keyA)
	have := []secureboot.Binding{bound(1, keyA)}
	forecast := secureboot.Forecast{Content: d.After, Starts: []secureboot.Start{next}}
	write := func(d secureboot.Decision, have []secureboot.Binding, present []secureboot.Start, f secureboot.Forecast) error {
		steps, err := secureboot.WriteSteps(d, have, present, f)
		if err != nil && steps != nil {
			t.Errorf("%v, and %d steps", err, len(steps))
		}
		return err
	}
	change := func(s secureboot.Switch) error {
		steps, err := secureboot.SwitchSteps(s, have, []secureboot.Start{old})
		if err != nil && steps != nil {
			t.Errorf("%v, and %d steps", err, len(steps))
		}
		return err
	}
	if err := write(d, have, []secureboot.Start{old}, forecast); err != nil {
		t.Fatal(err)
	}
	if err := write(d, []secureboot.Binding{bound(9, keyA)}, []secureboot.Start{old}, forecast); !errors.Is(err, secureboot.ErrNotBound) {
		t.Errorf("got %v", err)
	}
	for name, err := range map[string]error{
		"nothing to write":                      write(secureboot.Decision{Action: secureboot.Done}, have, []secureboot.Start{old}, forecast),
		"predicted with another content":        write(d, have, []secureboot.Start{old}, secureboot.Forecast{Content: []byte("x"), Starts: forecast.Starts}),
		"not predicted":                         write(d, have, []secureboot.Start{old}, secureboot.Forecast{Content: d.After}),
		"the present start is not bound":        write(d, []secureboot.Binding{bound(9, keyA)}, []secureboot.Start{old}, forecast),
		"no binding at all":                     write(d, nil, []secureboot.Start{old}, forecast),
		"a UKI without PCR signatures":          change(secureboot.Switch{Release: "R2", After: start("R2", 2)}),
		"a UKI by another PCR key alone":        change(secureboot.Switch{Release: "R2", After: start("R2", 2, keyB)}),
		"a new loader, and not what is between": change(secureboot.Switch{Release: "R2", Loaders: []string{"x"}, After: start("R2", 2, keyA)}),
	} {
		if err == nil {
			t.Errorf("%s: planned", name)
		}
	}
}

// Removing bindings is for a start that the TPM opened: one that a person opened proves
// nothing about the others.
func TestSettle_StartedByRecoveryKey_RemovesNothing(t *testing.T) {
	have := []secureboot.Binding{bound(1, keyA), bound(2, keyA)}
	if got := secureboot.Settle(have, start("other", 3, keyA), nil); got != nil {
		t.Errorf("got %v", got)
	}
}

func TestShow_Steps_AreAPlanForPeople(t *testing.T) {
	d := secureboot.Next(healthy(), secureboot.Archive{update(t, "KEK", secureboot.DB, "next")})
	steps, err := secureboot.WriteSteps(d, []secureboot.Binding{bound(1, keyA)}, []secureboot.Start{start("old", 1, keyA)},
		secureboot.Forecast{Content: d.After, Starts: []secureboot.Start{start("the new db", 2, keyA)}})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	wire := secureboot.Show(steps).Wire()
	for _, s := range wire.Steps {
		got = append(got, string(s.Action)+" "+s.Object)
	}
	want := []string{"use-tool PCR 7 02000000, key aaaaaaaa", "use-tool root", "use-tool db", "use-tool db"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// What is not for register 11, or not in the bank of SHA-256, opens no disk.
func TestSignedKeys_Section_GivesTheKeysOfRegister11(t *testing.T) {
	section := `{"sha1":[{"pcrs":[11],"pkfp":"` + keyB + `"}],"sha256":[
		{"pcrs":[11],"pkfp":"` + keyA + `","pol":"00","sig":"AA=="},{"pcrs":[11],"pkfp":"` + keyA + `"},
		{"pcrs":[4,11],"pkfp":"` + strings.Repeat("c", 64) + `"},{"pcrs":[11],"pkfp":"` + keyB + `"}]}`
	got, err := secureboot.SignedKeys([]byte(section + "\x00\x00"))
	if diff := cmp.Diff([]string{keyA, keyB}, got); diff != "" || err != nil {
		t.Error(diff, err)
	}
	for _, bad := range []string{"", "{", `{"sha256":[{"pcrs":[11],"pkfp":"short"}]}`, strings.Repeat(" ", 1<<20+1)} {
		if _, err := secureboot.SignedKeys([]byte(bad)); err == nil {
			t.Errorf("%.40q is taken", bad)
		}
	}
}

// systemd hashes the key alone, in PKCS #1. The value was worked out with openssl.
func TestKeyFingerprint_PublicKey_IsSystemds(t *testing.T) {
	der, err := os.ReadFile("testdata/kek.der")
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: cert.RawSubjectPublicKeyInfo})
	got, err := secureboot.KeyFingerprint(text)
	if diff := cmp.Diff("f2a1e5bededdeb72e39f5953bec01bfb94c80de04c4521590f0e181392eacbac", got); diff != "" || err != nil {
		t.Error(diff, err)
	}
	for _, bad := range [][]byte{nil, []byte("text"), pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})} {
		if _, err := secureboot.KeyFingerprint(bad); err == nil {
			t.Errorf("%.20q is taken", bad)
		}
	}
}
