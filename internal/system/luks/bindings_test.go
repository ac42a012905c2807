package luks_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/internal/system/luks"
	"github.com/holdfast-os/holdfast/internal/system/run"
)

// header is metadata with bindings at some token numbers: "0=3:aa" is token 0 for keyslot 3.
func header(tokens ...string) string {
	slots, list := []string{`"0":{"kdf":{"type":"argon2id"}}`}, []string{}
	for _, text := range tokens {
		var token, slot int
		var policy string
		if _, err := fmt.Sscanf(text, "%d=%d:%s", &token, &slot, &policy); err != nil {
			panic(err)
		}
		slots = append(slots, fmt.Sprintf(`"%d":{"kdf":{"type":"pbkdf2"}}`, slot))
		list = append(list, fmt.Sprintf(`"%d":{"type":"systemd-tpm2","keyslots":["%d"],"tpm2-pcrs":[7,15],"tpm2-policy-hash":"%s","tpm2_pubkey":"UEVN"}`, token, slot, policy))
	}
	return `{"keyslots":{` + strings.Join(slots, ",") + `},"tokens":{` + strings.Join(list, ",") + `},"segments":{}}`
}

// tool answers reads with one header after the other, the last one for ever.
type tool struct {
	headers []string
	got     []string
}

func (v *tool) run(_ context.Context, c run.Command) (run.Result, error) {
	if c.Name != "cryptsetup" {
		v.got = append(v.got, strings.Join(append([]string{c.Name}, c.Args...), " "))
		v.headers = v.headers[1:]
		return run.Result{}, nil
	}
	return run.Result{Stdout: []byte(v.headers[0])}, nil
}

// The order of the tokens' numbers is that in which systemd tries them, 10 behind 2.
func TestParseBindings_Tokens_AreInTheOrderOfSystemd(t *testing.T) {
	text := strings.Replace(header("10=1:0aff", "2=4:0bff"), `"0bff"`, `["0b","0c"]`, 1)
	got, err := luks.ParseBindings([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	want := []luks.Binding{{Slot: 4, PublicKey: []byte("PEM")}, {Slot: 1, Policy: []byte{0x0a, 0xff}, PublicKey: []byte("PEM")}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestParseBindings_BadToken_SaysWhich(t *testing.T) {
	for from, to := range map[string]string{
		`["1"]`: `["1","2"]`, `["1"],"tpm2-pcrs"`: `[],"tpm2-pcrs"`, `keyslots":["1"]`: `keyslots":["x"]`, `"0aff"`: `"0aff0"`, `"UEVN"`: `7`,
	} {
		text := strings.Replace(header("3=1:0aff"), from, to, 1)
		if _, err := luks.ParseBindings([]byte(text)); err == nil || !strings.Contains(err.Error(), "token 3") {
			t.Errorf("%s: got %v", to, err)
		}
	}
}

// The header comes from a disk that others may have written to.
func FuzzParseBindings_AnyHeader_GivesUsableBindings(f *testing.F) {
	f.Add([]byte(header("0=1:0aff", "1=2:0b")))
	f.Add([]byte(metadata))
	f.Fuzz(func(t *testing.T, data []byte) {
		bindings, err := luks.ParseBindings(data)
		for _, b := range bindings {
			if err != nil || b.Policy != nil && len(b.Policy) == 0 {
				t.Errorf("got %+v, %v", b, err)
			}
		}
	})
}

// The bindings of before stay while a new one is tried: nothing is wiped on the way.
func TestAddBinding_BesideAnother_WipesNothingAndGivesItsSlot(t *testing.T) {
	v := &tool{headers: []string{header("0=1:0aff"), header("0=1:0aff", "1=2:0bff")}}
	slot, err := luks.Host{Run: v.run}.AddBinding(t.Context(), "/dev/vda10", "/k", luks.TPMPolicy{PCRs: map[int]string{15: "00", 7: "ab"}, PublicKeyFile: "/pub.pem"})
	if err != nil || slot != 2 {
		t.Errorf("got %d, %v", slot, err)
	}
	want := []string{"systemd-cryptenroll --unlock-key-file=/k --tpm2-device=auto --tpm2-pcrlock= " +
		"--tpm2-pcrs=7:sha256=ab+15:sha256=00 --tpm2-public-key-pcrs=11 --tpm2-public-key=/pub.pem /dev/vda10"}
	if diff := cmp.Diff(want, v.got); diff != "" {
		t.Error(diff)
	}
}

// A program that says that all is well is not believed: the header is.
func TestAddBinding_HeaderSaysOtherwise_IsAnError(t *testing.T) {
	for name, c := range map[string]struct {
		after   string
		already bool
	}{
		"nothing added":      {header("0=1:0aff"), true},
		"the old one gone":   {header("1=2:0bff"), false},
		"two added":          {header("0=1:0aff", "1=2:0bff", "2=3:0c"), false},
		"no header any more": {"", false},
	} {
		v := &tool{headers: []string{header("0=1:0aff"), c.after}}
		_, err := luks.Host{Run: v.run}.AddBinding(t.Context(), "/dev/vda10", "/k", luks.TPMPolicy{})
		if err == nil || errors.Is(err, luks.ErrAlreadyBound) != c.already {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// Removing the wrong keyslot would take the owner's key away.
func TestRemoveBinding_Slots_OnlyABindingIsWiped(t *testing.T) {
	for slot, c := range map[int]struct {
		got   []string
		fails bool
	}{
		0: {nil, true},
		1: {[]string{"systemd-cryptenroll --wipe-slot=1 /dev/vda10"}, false},
		7: {nil, false},
	} {
		v := &tool{headers: []string{header("0=1:0aff", "1=2:0bff"), header("1=2:0bff")}}
		err := luks.Host{Run: v.run}.RemoveBinding(t.Context(), "/dev/vda10", slot)
		if diff := cmp.Diff(c.got, v.got); diff != "" || (err != nil) != c.fails {
			t.Errorf("%d: %s, %v", slot, diff, err)
		}
	}
	v := &tool{headers: []string{header("0=1:0aff"), header("0=1:0aff")}}
	if err := (luks.Host{Run: v.run}).RemoveBinding(t.Context(), "/dev/vda10", 1); err == nil {
		t.Error("a binding that is still there counts as removed")
	}
}
