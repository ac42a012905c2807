package tuf

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
	"github.com/theupdateframework/go-tuf/v2/metadata/config"
	"github.com/theupdateframework/go-tuf/v2/metadata/updater"

	"github.com/holdfast-os/holdfast/api/release"
	"github.com/holdfast-os/holdfast/test/needs"
)

// cutStore takes some writes and then none.
type cutStore struct {
	files
	left int
}

var errCut = errors.New("cut")

func (s *cutStore) Write(name string, data []byte) error {
	if s.left--; s.left < 0 {
		return errCut
	}
	return s.files.Write(name, data)
}

// A publication that is cut anywhere leaves a tree that every node can use, as it was or
// as it will be, and doing it again completes it.
func TestPublisher_CutAtEveryWrite_TreeStaysValidAndAgainCompletes(t *testing.T) {
	ctx := context.Background()
	changes := map[string]func(p *Publisher) error{
		"publish": func(p *Publisher) error {
			return p.Publish(ctx, "stable", manifestOf(v2, x86), manifestOf(v2, "aarch64"))
		},
		"withdraw": func(p *Publisher) error { return p.Withdraw(ctx, "stable", v1) },
		"refresh": func(p *Publisher) error {
			p.Now = func() time.Time { return start.Add(200 * day) }
			_, err := p.Refresh(ctx)
			return err
		},
		"add a channel":    func(p *Publisher) error { return p.AddChannel(ctx, "nightly", role(1, "new-1")) },
		"rotate root":      func(p *Publisher) error { return p.Rotate(ctx, "root", role(2, "root-2", "new-1", "new-2")) },
		"rotate targets":   func(p *Publisher) error { return p.Rotate(ctx, "targets", role(2, "targets-3", "new-1")) },
		"rotate snapshot":  func(p *Publisher) error { return p.Rotate(ctx, "snapshot", role(1, "new-1")) },
		"rotate timestamp": func(p *Publisher) error { return p.Rotate(ctx, "timestamp", role(2, "new-1", "new-2")) },
		"rotate a channel": func(p *Publisher) error { return p.Rotate(ctx, "stable", role(1, "new-1")) },
	}
	for name, change := range changes {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for cut := 0; ; cut++ {
				w := newWorld(t)
				w.publish("stable", "202611020000")
				w.refresh()
				w.p.Signers = append(w.p.Signers, keys("new-1", "new-2")...)
				w.p.Store = &cutStore{w.tree, cut}
				err := change(w.p)
				if err == nil && cut > 0 {
					break
				}
				checkErr(t, err, errCut)
				if _, err := w.p.Check(); err != nil {
					t.Errorf("cut before write %d: %v", cut+1, err)
				}
				w.now = w.p.now() // refresh works at another time
				if name != "refresh" {
					same(t, "202611020000", w.newest())
				}
				w.p.Store = w.tree
				if err := change(w.p); err != nil {
					t.Errorf("again after a cut before write %d: %v", cut+1, err)
				}
				w.newest()
			}
		})
	}
}

// Init has no state of before: it is cut to nothing, or complete.
func TestInit_CutAtEveryWrite_AgainCompletes(t *testing.T) {
	roles := Roles{
		Root: role(2, "root-1", "root-2"), Targets: role(1, "targets-1"), Snapshot: role(1, "snapshot"), Timestamp: role(1, "timestamp"),
		Channels: map[string]Role{"stable": role(1, "stable")},
	}
	for cut := 0; ; cut++ {
		tree := files{}
		p := &Publisher{Store: &cutStore{tree, cut}, Signers: keys(allKeys...), Now: func() time.Time { return start }}
		if err := p.Init(t.Context(), roles); err == nil {
			same(t, []string{"1.root.json", "1.snapshot.json", "1.stable.json", "1.targets.json", "timestamp.json"}, slices.Sorted(maps.Keys(tree)))
			checkErr(t, p.Init(t.Context(), roles), ErrExists)
			break
		}
		p.Store = tree
		if err := p.Init(t.Context(), roles); err != nil {
			t.Errorf("cut before write %d: %v", cut+1, err)
		}
		if _, err := p.Check(); err != nil {
			t.Errorf("cut before write %d: %v", cut+1, err)
		}
	}
}

// What a mirror or a cache has under a number stays right for ever.
func TestPublish_AfterACut_NeverWritesANumberTwice(t *testing.T) {
	w := newWorld(t)
	w.p.Store = &cutStore{w.tree, 3} // two manifests and the channel
	checkErr(t, w.p.Publish(t.Context(), "stable", manifestOf(v2, x86), manifestOf(v2, "aarch64")), errCut)
	before := w.copy()
	w.p.Store = w.tree
	w.publish("stable", v3)
	delete(before, timestampFile)
	for name, text := range before {
		same(t, string(text), string(w.tree[name]))
	}
	same(t, v3, w.newest())
}

// Publishing is run again by whoever is not sure that it went well.
func TestPublisher_SameAgain_ChangesNoByte(t *testing.T) {
	ctx := t.Context()
	w := newWorld(t)
	w.publish("stable", v2)
	before := w.copy()
	w.publish("stable", v2, v1)
	_, err := w.p.Refresh(ctx)
	w.must(err)
	w.must(w.p.Rotate(ctx, "timestamp", role(1, "timestamp")))
	w.must(w.p.Rotate(ctx, "root", role(2, "root-3", "root-1", "root-2")))
	w.must(w.p.Rotate(ctx, "stable", role(1, "stable")))
	w.must(w.p.AddChannel(ctx, "testing", role(1, "testing")))
	same(t, before, w.tree)
	checkErr(t, w.p.AddChannel(ctx, "testing", role(1, "stable")), ErrExists)
}

// A release is what nodes have; only what is said about it may change.
func TestPublish_SameVersionOtherContent_OnlyWhatIsSaidMayChange(t *testing.T) {
	w := newWorld(t)
	said := manifestOf(v1, x86)
	said.Severity = release.SeverityHigh
	said.Parts[0].Deltas = nil
	w.must(w.p.Publish(t.Context(), "stable", said))
	got, err := w.client().Newest(t.Context(), "stable", x86)
	w.must(err)
	same(t, said, got)
	other := manifestOf(v1, x86)
	other.Parts[0].SHA256 = sumOf("another build")
	before := w.copy()
	checkErr(t, w.p.Publish(t.Context(), "stable", other), ErrPublished)
	checkErr(t, w.p.Publish(t.Context(), "testing", other), ErrPublished)
	same(t, before, w.tree)
}

// What cannot be right is refused before anything is written.
func TestPublisher_Refusals_WriteNothing(t *testing.T) {
	ctx := t.Context()
	future := manifestOf("202612010000", x86)
	broken := manifestOf(v2, x86)
	broken.Parts[0].Full.Path = "../x"
	cases := map[string]struct {
		want error
		do   func(p *Publisher) error
	}{
		"unknown channel":            {ErrNoRelease, func(p *Publisher) error { return p.Publish(ctx, "nightly", manifestOf(v2, x86)) }},
		"release of tomorrow":        {ErrManifest, func(p *Publisher) error { return p.Publish(ctx, "stable", future) }},
		"manifest that leads out":    {ErrManifest, func(p *Publisher) error { return p.Publish(ctx, "stable", broken) }},
		"withdraw what is not there": {ErrNoRelease, func(p *Publisher) error { return p.Withdraw(ctx, "stable", v2) }},
		"withdraw from no channel":   {ErrNoRelease, func(p *Publisher) error { return p.Withdraw(ctx, "nightly", v1) }},
		"no key of the channel": {ErrKeys, func(p *Publisher) error {
			p.Signers = keys("snapshot", "timestamp")
			return p.Publish(ctx, "stable", manifestOf(v2, x86))
		}},
		"no key of the timestamp": {ErrKeys, func(p *Publisher) error {
			p.Signers = keys("stable", "snapshot")
			return p.Publish(ctx, "stable", manifestOf(v2, x86))
		}},
		"new root without the old keys": {ErrKeys, func(p *Publisher) error {
			p.Signers = keys("root-1", "a", "b")
			return p.Rotate(ctx, "root", role(2, "a", "b"))
		}},
		"new root without the new keys": {ErrKeys, func(p *Publisher) error { return p.Rotate(ctx, "root", role(2, "a", "b")) }},
		"threshold above the keys":      {ErrKeys, func(p *Publisher) error { return p.Rotate(ctx, "root", role(4, "root-1", "root-2", "root-3")) }},
		"threshold of none":             {ErrKeys, func(p *Publisher) error { return p.Rotate(ctx, "timestamp", role(0, "timestamp")) }},
		"one key twice":                 {ErrKeys, func(p *Publisher) error { return p.Rotate(ctx, "root", role(2, "root-1", "root-1")) }},
		"root's key for the timestamp":  {ErrKeys, func(p *Publisher) error { return p.Rotate(ctx, "timestamp", role(1, "root-1")) }},
		"rotate no channel":             {ErrNoRelease, func(p *Publisher) error { return p.Rotate(ctx, "nightly", role(1, "a")) }},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			before := w.copy()
			checkErr(t, c.do(w.p), c.want)
			same(t, before, w.tree)
		})
	}
	w := newWorld(t)
	for _, name := range []string{"root", "timestamp", "../x", "A", ""} {
		if err := w.p.AddChannel(ctx, name, role(1, "a")); err == nil {
			t.Errorf("channel %q was made", name)
		}
	}
}

// Whoever can write to the web server must not get a signature for it with the next
// publication.
func TestPublish_TreeWasChanged_DoesNotSignIt(t *testing.T) {
	changes := map[string]struct {
		want   error
		change func(w *world)
	}{
		"channel swapped": {ErrMismatch, func(w *world) { w.tree["2.stable.json"] = w.tree["1.stable.json"] }},
		"manifest swapped": {ErrMismatch, func(w *world) {
			for name := range w.tree {
				if strings.HasPrefix(name, "targets/stable/x86_64/") {
					w.tree[name] = []byte("{}")
				}
			}
		}},
		"own targets, named by nobody": {ErrUntrusted, func(w *world) {
			w.chain(w.tree, "targets", 2, forge(w.t, w.tree["1.targets.json"], func(m *targetsMeta) { m.Signed.Version = 2 }, "mallory"))
		}},
		"own channel, with stolen online keys": {ErrUntrusted, func(w *world) {
			w.chain(w.tree, "stable", 9, forge(w.t, w.tree["2.stable.json"], func(m *targetsMeta) { m.Signed.Version = 9 }, "mallory"))
		}},
		"own timestamp": {ErrUntrusted, func(w *world) {
			w.tree[timestampFile] = forge(w.t, w.tree[timestampFile], none, "mallory")
		}},
		"own root": {ErrUntrusted, func(w *world) {
			w.tree["2.root.json"] = forge(w.t, w.tree["1.root.json"], func(m *rootMeta) { m.Signed.Version = 2 }, "mallory")
		}},
		"channel gone": {fs.ErrNotExist, func(w *world) { delete(w.tree, "2.stable.json") }},
	}
	for name, c := range changes {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			c.change(w)
			before := w.copy()
			same := manifestOf(v1, x86)
			checkErr(t, w.p.Publish(t.Context(), "stable", same, manifestOf(v2, x86)), c.want)
			_, err := w.p.Check()
			checkErr(t, err, c.want)
			if len(before) != len(w.tree) {
				t.Error("something was written")
			}
		})
	}
}

// A key that is lost or stolen cannot sign the way over; the change must be possible
// without it, and be completed when it was cut.
func TestRotate_OldKeyIsGone_CutAnywhere_AgainCompletes(t *testing.T) {
	for _, name := range []string{"timestamp", "snapshot", "targets"} {
		t.Run(name, func(t *testing.T) {
			for cut := 0; ; cut++ {
				w := newWorld(t)
				w.p.Signers = keys("root-1", "root-2", "targets-1", "snapshot", "timestamp", "stable", "new")
				w.p.Signers = slices.DeleteFunc(w.p.Signers, func(s Signer) bool {
					return slices.ContainsFunc(keys(name, name+"-1"), func(gone Signer) bool {
						return key(name).Public().(interface{ Equal(crypto.PublicKey) bool }).Equal(s.Public()) || gone.Public().(interface{ Equal(crypto.PublicKey) bool }).Equal(s.Public())
					})
				})
				w.p.Store = &cutStore{w.tree, cut}
				err := w.p.Rotate(t.Context(), name, role(1, "new"))
				if err == nil {
					same(t, v1, w.newest())
					return
				}
				checkErr(t, err, errCut)
				w.p.Store = w.tree
				w.must(w.p.Rotate(t.Context(), name, role(1, "new")))
				same(t, v1, w.newest())
			}
		})
	}
}

// The daily run keeps a tree alive with the online keys alone, and says in time who has
// to come with the offline ones.
func TestRefresh_WithOnlineKeys_RenewsAndNamesWhatIsDue(t *testing.T) {
	w := newWorld(t)
	w.p.Signers = keys("snapshot", "timestamp")
	for d := 1; d < 46; d++ {
		w.now = start.Add(time.Duration(d) * day)
		before := w.current("timestamp")
		due, err := w.p.Refresh(t.Context())
		w.must(err)
		var want []Due
		if d == 45 {
			want = []Due{{"stable", start.Add(90 * day)}, {"testing", start.Add(90 * day)}}
		}
		same(t, want, due)
		same(t, before+1, w.current("timestamp"))
	}
	same(t, int64(5), w.current("snapshot")) // two of the start, and each fifteenth day
	same(t, int64(1), w.current("root"))
	same(t, v1, w.newest())
	w.now = start.Add(183 * day)
	due, err := w.p.Refresh(t.Context())
	w.must(err)
	same(t, []Due{
		{"root", start.Add(365 * day)}, {"targets", start.Add(365 * day)}, {"stable", start.Add(90 * day)}, {"testing", start.Add(90 * day)},
	}, due)
	w.p.Signers = keys(allKeys...)
	due, err = w.p.Refresh(t.Context())
	w.must(err)
	same(t, []Due(nil), due)
	end, err := w.p.Check()
	w.must(err)
	same(t, w.now.Add(14*day), end)
	same(t, v1, w.newest())
}

// Tokens hold RSA and ECDSA keys rather than Ed25519 ones.
func TestPublish_KeysOfEveryKind_NodeAccepts(t *testing.T) {
	w := newWorld(t)
	curve, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	w.must(err)
	modulus, err := rsa.GenerateKey(rand.Reader, 2048)
	w.must(err)
	w.p.Signers = append(w.p.Signers, KeySigner(curve), KeySigner(modulus))
	both := Role{Keys: []crypto.PublicKey{curve.Public(), modulus.Public()}, Threshold: 2}
	w.must(w.p.Rotate(t.Context(), "root", both))
	w.must(w.p.Rotate(t.Context(), "stable", both))
	w.publish("stable", v2)
	same(t, v2, w.newest())
	for name, weak := range map[string]func() (crypto.Signer, error){
		"P-384":    func() (crypto.Signer, error) { return ecdsa.GenerateKey(elliptic.P384(), rand.Reader) },
		"RSA 1024": func() (crypto.Signer, error) { return rsa.GenerateKey(rand.Reader, 1024) },
	} {
		signer, err := weak()
		if err != nil {
			t.Logf("%s: this Go makes no such key: %v", name, err)
			continue
		}
		checkErr(t, w.p.Rotate(t.Context(), "stable", Role{Keys: []crypto.PublicKey{signer.Public()}, Threshold: 1}), ErrKeys)
	}
}

// program is a key that only the openssl program reaches, as one in a token is.
type program struct {
	public crypto.PublicKey
	args   []string
}

func (p program) Public() crypto.PublicKey { return p.public }

func (p program) Sign(ctx context.Context, message []byte) ([]byte, error) {
	command := exec.CommandContext(ctx, "openssl", append([]string{"dgst", "-sha256"}, p.args...)...)
	command.Stdin = bytes.NewReader(message)
	return command.Output()
}

// What openssl signs is what a node verifies; tokens are reached through it.
func TestPublish_KeysBehindOpenSSL_NodeAccepts(t *testing.T) {
	needs.Programs(t, "openssl")
	w := newWorld(t)
	curve, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	w.must(err)
	modulus, err := rsa.GenerateKey(rand.Reader, 2048)
	w.must(err)
	var both Role
	for name, key := range map[string]crypto.Signer{"curve": curve, "modulus": modulus} {
		der, err := x509.MarshalPKCS8PrivateKey(key)
		w.must(err)
		file := filepath.Join(t.TempDir(), name)
		w.must(os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600))
		args := []string{"-sign", file}
		if name == "modulus" {
			args = append(args, "-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:digest")
		}
		w.p.Signers = append(w.p.Signers, program{key.Public(), args})
		both.Keys = append(both.Keys, key.Public())
	}
	both.Threshold = 2
	w.must(w.p.Rotate(t.Context(), "targets", both))
	same(t, v1, w.newest())
}

// The tree is TUF's: another client reads it.
func TestPublish_GoTUFsOwnUpdater_ReadsTheTree(t *testing.T) {
	w := newWorld(t)
	w.publish("stable", v2)
	w.p.Signers = append(w.p.Signers, key("new"))
	w.must(w.p.Rotate(t.Context(), "snapshot", role(1, "new")))
	settings, err := config.New("https://mirror.example/tuf", w.image)
	w.must(err)
	settings.Fetcher, settings.DisableLocalCache = foreign{w.tree}, true
	client, err := updater.New(settings)
	w.must(err)
	client.UnsafeSetRefTime(start)
	w.must(client.Refresh())
	info, err := client.GetTargetInfo("stable/x86_64/" + v2 + ".json")
	w.must(err)
	_, data, err := client.DownloadTarget(info, "", "")
	w.must(err)
	got, err := parseManifest(data, x86, v2)
	w.must(err)
	same(t, manifestOf(v2, x86), got)
}

// foreign is go-tuf's fetcher over a tree.
type foreign struct{ files }

func (f foreign) DownloadFile(url string, max int64, _ time.Duration) ([]byte, error) {
	data, err := f.Fetch(context.Background(), strings.TrimPrefix(url, "https://mirror.example/"), max)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &metadata.ErrDownloadHTTP{StatusCode: 404, URL: url}
	}
	return data, err
}

// The tree is plain files, for any web server and any USB stick.
func TestOpenDir_PublishedTree_IsPlainFiles(t *testing.T) {
	dir := t.TempDir()
	store, err := OpenDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	other, err := os.Open(filepath.Join(dir, "tuf"))
	if err != nil {
		t.Fatal(err)
	}
	checkErr(t, syscall.Flock(int(other.Fd()), syscall.LOCK_EX|syscall.LOCK_NB), syscall.EWOULDBLOCK)
	p := &Publisher{Store: store, Signers: keys(allKeys...), Now: func() time.Time { return start }}
	err = p.Init(t.Context(), Roles{
		Root: role(1, "root-1"), Targets: role(1, "targets-1"), Snapshot: role(1, "snapshot"), Timestamp: role(1, "timestamp"),
		Channels: map[string]Role{"stable": role(1, "stable")},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Publish(t.Context(), "stable", manifestOf(v1, x86)); err != nil {
		t.Fatal(err)
	}
	found := map[string]fs.FileMode{}
	err = filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		info, err := entry.Info()
		name, _ := filepath.Rel(dir, path)
		found[name] = info.Mode()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	text, err := encodeManifest(manifestOf(v1, x86))
	if err != nil {
		t.Fatal(err)
	}
	same(t, map[string]fs.FileMode{
		"tuf/1.root.json": 0o644, "tuf/1.targets.json": 0o644, "tuf/1.stable.json": 0o644, "tuf/2.stable.json": 0o644,
		"tuf/1.snapshot.json": 0o644, "tuf/2.snapshot.json": 0o644, "tuf/timestamp.json": 0o644,
		"tuf/targets/stable/x86_64/" + sumOf(string(text)) + "." + v1 + ".json": 0o644,
	}, found)
	got, err := p.Manifests("stable")
	if err != nil {
		t.Fatal(err)
	}
	same(t, []release.Manifest{manifestOf(v1, x86)}, got)
	if err := store.Write("../outside", nil); err == nil {
		t.Error("a file outside was written")
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Flock(int(other.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		t.Error(err)
	}
}

// Keys on disk are for their owner, made once and never replaced.
func TestGenerateKeys_Twice_SameKeysForTheOwnerAlone(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "keys")
	ids := func() []string {
		signers, err := GenerateKeys(dir, "root", "stable")
		if err != nil {
			t.Fatal(err)
		}
		all := []string{}
		for _, signer := range signers {
			id, err := KeyID(signer.Public())
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, id)
		}
		return all
	}
	first := ids()
	same(t, first, ids())
	if first[0] == first[1] {
		t.Error("two names have one key")
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	modes := map[string]fs.FileMode{}
	for _, entry := range entries {
		info, err := entry.Info()
		if err != nil {
			t.Fatal(err)
		}
		modes[entry.Name()] = info.Mode()
	}
	same(t, map[string]fs.FileMode{"root.pem": 0o600, "stable.pem": 0o600}, modes)
	if err := os.Chmod(filepath.Join(dir, "root.pem"), 0o640); err != nil {
		t.Fatal(err)
	}
	_, err = GenerateKeys(dir, "root")
	checkErr(t, err, ErrKeys)
	if _, err := GenerateKeys(dir, "../root"); err == nil {
		t.Error("a key outside was made")
	}
}

// An error about a key must not show it.
func TestParseKey_Damaged_SaysNothingOfTheKey(t *testing.T) {
	secret := hex.EncodeToString([]byte("this is very secret"))
	for _, text := range []string{"", secret, "-----BEGIN PRIVATE KEY-----\n" + secret + "00\n-----END PRIVATE KEY-----\n"} {
		_, err := ParseKey([]byte(text))
		checkErr(t, err, ErrKeys)
		if err != nil && strings.Contains(err.Error(), secret) {
			t.Error("the error shows the key")
		}
	}
}
