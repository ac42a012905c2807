package seed_test

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"filippo.io/age"
	"filippo.io/age/armor"
	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/api/os"
	api "github.com/holdfast-os/holdfast/api/seed"
	"github.com/holdfast-os/holdfast/internal/seed"
)

const secretNetwork = "dns: {hostname: node1}\nproxy: {servers: {a: {host: proxy, auth: basic, username: u, password: hunter2}}}\n"

// pair makes a key, as text and as what a document is sealed to.
func pair(t testing.TB) (private string, to age.Recipient) {
	t.Helper()
	private, public, err := seed.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	all, err := seed.Recipients([]string{public}, "")
	if err != nil {
		t.Fatal(err)
	}
	return private, all[0]
}

func keysOf(t testing.TB, text string) []age.Identity {
	t.Helper()
	keys, err := seed.ParseKeys(text)
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

// cheap seals with a passphrase as age does, with little work.
func cheap(t testing.TB, text, passphrase string, work int, armoured bool) []byte {
	t.Helper()
	to, err := age.NewScryptRecipient(passphrase)
	if err != nil {
		t.Fatal(err)
	}
	to.SetWorkFactor(work)
	var out bytes.Buffer
	var dst io.WriteCloser = nopCloser{&out}
	if armoured {
		dst = armor.NewWriter(&out)
	}
	w, err := age.Encrypt(dst, to)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, text); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(w.Close(), dst.Close()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }

// Whoever finds the medium reads nothing; whoever has the key reads what was written.
func TestSeal_ThenOpenWithTheKey_GivesTheDocument(t *testing.T) {
	private, to := pair(t)
	sealed, err := seed.Seal("network.yaml", []byte(secretNetwork), to)
	if err != nil {
		t.Fatal(err)
	}
	if sealed.Name != "network.yaml.age" || bytes.Contains(sealed.Data, []byte("hunter2")) {
		t.Errorf("sealed as %s: %s", sealed.Name, sealed.Data)
	}
	set, err := seed.Parse(bytes.NewReader(archive(t, "applications.yaml", "applications: [{name: incus}]", "./network.yaml.age", string(sealed.Data))))
	if err != nil {
		t.Fatal(err)
	}
	if set.Network != nil || len(set.Sealed) != 1 {
		t.Errorf("before it is opened: %+v", set)
	}
	if err := set.Open(keysOf(t, "# a comment\n"+private+"\n")...); err != nil {
		t.Fatal(err)
	}
	want := &seed.Set{
		Applications: &api.Applications{Applications: []api.Application{{Name: "incus"}}},
		Network: &api.Network{NetworkConfig: os.NetworkConfig{DNS: &os.NetworkDNS{Hostname: "node1"}, Proxy: &os.NetworkProxy{
			Servers: map[string]os.NetworkProxyServer{"a": {Host: "proxy", Auth: "basic", Username: "u", Password: "hunter2"}}}}},
	}
	if diff := cmp.Diff(want, set); diff != "" {
		t.Error(diff)
	}
}

// Files made with the program age are taken, with armour and without.
func TestOpen_SealedByAgeWithAPassphrase_Opens(t *testing.T) {
	for name, armoured := range map[string]bool{"armour": true, "binary": false} {
		t.Run(name, func(t *testing.T) {
			set := &seed.Set{Sealed: []seed.Member{{Name: "update.yaml.age", Data: cheap(t, "channel: stable", "correct horse", 10, armoured)}}}
			if err := set.Open(keysOf(t, "correct horse\n")...); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(&seed.Set{Update: &api.Update{UpdateConfig: os.UpdateConfig{Channel: "stable"}}}, set); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// What cannot be opened stays sealed, and the reason is one that a person can act on.
func TestOpen_CannotBeOpened_SaysWhyAndStaysSealed(t *testing.T) {
	private, to := pair(t)
	otherKey, _ := pair(t)
	good, err := seed.Seal("update.yaml", []byte("channel: stable"), to)
	if err != nil {
		t.Fatal(err)
	}
	dear := cheap(t, "channel: stable", "correct horse", 10, false)
	dear = bytes.Replace(dear, []byte(" 10\n"), []byte(" 30\n"), 1) // scrypt with 2^30 steps: a terabyte
	for name, test := range map[string]struct {
		data []byte
		key  string
		rule string
	}{
		"no key":               {good.Data, "", "sealed"},
		"another key":          {good.Data, otherKey, "key"},
		"a passphrase":         {good.Data, "correct horse", "key"},
		"another passphrase":   {cheap(t, "channel: stable", "correct horse", 10, true), "battery staple", "key"},
		"a key for a password": {cheap(t, "channel: stable", "correct horse", 10, true), private, "key"},
		"endless work":         {dear, "correct horse", "limit"},
		"cut off":              {good.Data[:len(good.Data)-60], private, "damaged"},
		"only the header":      {[]byte("age-encryption.org/v1\n"), private, "damaged"},
	} {
		t.Run(name, func(t *testing.T) {
			set := &seed.Set{Sealed: []seed.Member{{Name: "update.yaml.age", Data: test.data}}}
			var keys []age.Identity
			if test.key != "" {
				keys = keysOf(t, test.key)
			}
			err := set.Open(keys...)
			var problem *seed.Problem
			if !errors.As(err, &problem) {
				t.Fatalf("got %v", err)
			}
			if problem.Rule != test.rule || problem.File != "update.yaml.age" || len(set.Sealed) != 1 || set.Update != nil {
				t.Errorf("got %+v, %+v", problem, set)
			}
		})
	}
}

// A document that was changed on its way is never half there: every single bit counts, and
// so does every byte that is missing.
func TestOpen_AnyBitFlippedOrByteMissing_Refuses(t *testing.T) {
	private, to := pair(t)
	var out bytes.Buffer
	w, err := age.Encrypt(&out, to)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, "channel: stable"); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	keys, whole := keysOf(t, private), out.Bytes()
	open := func(data []byte) error {
		set := &seed.Set{Sealed: []seed.Member{{Name: "update.yaml.age", Data: data}}}
		return set.Open(keys...)
	}
	if err := open(whole); err != nil {
		t.Fatal(err)
	}
	for i := range whole {
		if err := open(whole[:i]); err == nil {
			t.Errorf("the first %d of %d bytes were accepted", i, len(whole))
		}
		for bit := range 8 {
			changed := bytes.Clone(whole)
			changed[i] ^= 1 << bit
			if err := open(changed); err == nil {
				t.Errorf("byte %d, bit %d changed: accepted", i, bit)
			}
		}
	}
}

// A mistake in a sealed document would be found when nobody can see it any more.
func TestSeal_BadDocument_IsRefused(t *testing.T) {
	_, to := pair(t)
	for name, test := range map[string]struct{ file, text, rule string }{
		"unknown field": {"network.yaml", "dsn: {}", "unknown-field"},
		"unknown name":  {"netwrk.yaml", "{}", "unknown-seed"},
		"sealed twice":  {"network.yaml.age", "{}", "sealed"},
		"too long":      {"incus.yaml", "version: \"" + strings.Repeat("x", 900_000) + "\"", "limit"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := seed.Seal(test.file, []byte(test.text), to)
			var problem *seed.Problem
			if !errors.As(err, &problem) || problem.Rule != test.rule {
				t.Errorf("got %v", err)
			}
		})
	}
}

// A file that only pretends to be sealed must not pass for one whose content is unknown.
func TestParse_NamedAgeButPlain_IsAProblem(t *testing.T) {
	set, err := seed.Parse(bytes.NewReader(archive(t, "network.yaml.age", "dns: {}")))
	want := "seed network.yaml.age: the name ends in .age, and the file is not encrypted with age: seal it, or name it without .age"
	if err == nil || err.Error() != want || !set.Empty() {
		t.Errorf("got %v, %+v", err, set)
	}
}

// What stands in a key is in no error: errors are on the screen of the machine.
func TestParseKeys_BadKey_SaysNothingOfIt(t *testing.T) {
	otherKey, _ := pair(t)
	for name, text := range map[string]string{
		"cut off":    otherKey[:40],
		"two lines":  "hunter2\nhunter3",
		"too long":   strings.Repeat("hunter2", 1000),
		"nothing":    "\n",
		"two, mixed": "hunter2\n" + otherKey,
	} {
		t.Run(name, func(t *testing.T) {
			_, err := seed.ParseKeys(text)
			if err == nil {
				t.Fatal("accepted")
			}
			if strings.Contains(err.Error(), "hunter") || strings.Contains(err.Error(), otherKey[:30]) {
				t.Errorf("got %v", err)
			}
		})
	}
}

// An image tool and the installer copy what they cannot read.
func TestMerge_SealedDocuments_AreCopiedReplacedAndRemoved(t *testing.T) {
	_, to := pair(t)
	update, err := seed.Seal("update.yaml", []byte("channel: stable"), to)
	if err != nil {
		t.Fatal(err)
	}
	old := archive(t, "network.yaml.age", "age-encryption.org/v1\nold", "update.yaml", "channel: testing", "install.json.age", "age-encryption.org/v1\nx")
	var out bytes.Buffer
	if err := seed.Merge(bytes.NewReader(old), &out, &seed.Set{Sealed: []seed.Member{update}}, "install"); err != nil {
		t.Fatal(err)
	}
	got, err := seed.ReadMembers(&out)
	if err != nil {
		t.Fatal(err)
	}
	want := []seed.Member{{Name: "network.yaml.age", Data: []byte("age-encryption.org/v1\nold")}, update}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// A sealed document comes from a medium that anybody can have written.
func FuzzUnseal(f *testing.F) {
	f.Add(cheap(f, "channel: stable", "x", 1, true))
	f.Add(cheap(f, "channel: stable", "x", 1, false))
	f.Add([]byte("age-encryption.org/v1\n-> X25519 a\nb\n--- c\n"))
	keys := keysOf(f, "y")
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 1<<16 {
			return
		}
		text, err := seed.Unseal(seed.Member{Name: "update.yaml.age", Data: data}, keys...)
		var problem *seed.Problem
		if err != nil && !errors.As(err, &problem) {
			t.Errorf("got %q, %v", text, err)
		}
	})
}
