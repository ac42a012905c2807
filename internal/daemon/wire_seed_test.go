package daemon

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"io/fs"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	osapi "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/api/seed"
	"github.com/holdfast-os/holdfast/internal/bootinfo"
	seeds "github.com/holdfast-os/holdfast/internal/seed"
	"github.com/holdfast-os/holdfast/internal/state"
)

func seedWithSecrets() *seeds.Set {
	return &seeds.Set{
		Install: &seed.Install{},
		Network: &seed.Network{NetworkConfig: osapi.NetworkConfig{
			DNS:   &osapi.NetworkDNS{Hostname: "node1"},
			Proxy: &osapi.NetworkProxy{Servers: map[string]osapi.NetworkProxyServer{"a": {Host: "proxy", Password: "hunter2"}}}}},
		Sealed: []seeds.Member{{Name: "update.yaml.age", Data: []byte("age-encryption.org/v1\n")}},
	}
}

// Whoever takes the disk out finds what the node is, and no secret: not in the archive, and
// not behind it where a longer one has been.
func TestWipeSeed_Partition_HasNoSecretAnyMore(t *testing.T) {
	const size = 4 << 20
	var old bytes.Buffer
	if err := seeds.Write(&old, seedWithSecrets()); err != nil {
		t.Fatal(err)
	}
	partition := append(old.Bytes(), bytes.Repeat([]byte("hunter2 "), (size-old.Len())/8)...)
	partition = append(partition, make([]byte, size-len(partition))...)
	path := filepath.Join(t.TempDir(), "partition")
	if err := os.WriteFile(path, partition, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	removed, err := wipeSeed(f, size, seedWithSecrets())
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"network.proxy.servers.a.password", "update.yaml.age"}, removed); diff != "" {
		t.Error(diff)
	}
	left, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if len(left) != size || bytes.Contains(left, []byte("hunter2")) || bytes.Contains(left, []byte("age-encryption")) {
		t.Errorf("%d bytes, secrets are left", len(left))
	}
	got, err := seeds.Parse(bytes.NewReader(left))
	if err != nil {
		t.Fatal(err)
	}
	want := &seeds.Set{Network: &seed.Network{NetworkConfig: osapi.NetworkConfig{
		DNS: &osapi.NetworkDNS{Hostname: "node1"}, Proxy: &osapi.NetworkProxy{Servers: map[string]osapi.NetworkProxyServer{"a": {Host: "proxy"}}}}}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	members, err := seeds.ReadMembers(bytes.NewReader(left))
	if err != nil {
		t.Fatal(err)
	}
	if last := members[len(members)-1].Name; last != seeds.InstalledMark {
		t.Errorf("the last member is %s", last)
	}
}

// An application that is reset months later starts from the seed as it was, secrets and all.
func TestKeptSeed_WrittenAndRead_IsTheSame(t *testing.T) {
	set := seedWithSecrets()
	set.Sealed = nil
	kept, err := keep(set, "the seed partition")
	if err != nil {
		t.Fatal(err)
	}
	got, err := kept.set()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(set, got); diff != "" {
		t.Error(diff)
	}
}

// A mistake is shown and left out on a node, and stops an installation. A sealed document
// without its key is no mistake: without it the node would belong to nobody.
func TestJudge_SeedWithProblems_GoesOnWaitsOrStops(t *testing.T) {
	problem := func(rule string) error {
		return errors.Join(&seeds.Problem{File: "x.yaml", Rule: rule, Text: "no"})
	}
	sealed := []seeds.Member{{Name: "network.yaml.age"}}
	plain := &seed.Install{}
	for name, test := range map[string]struct {
		mode bootinfo.Mode
		set  seeds.Set
		err  error
		ok   bool
	}{
		"sound":                            {bootinfo.Node, seeds.Set{}, nil, true},
		"mistake on a node":                {bootinfo.Node, seeds.Set{}, problem("unknown-field"), true},
		"mistake on a medium":              {bootinfo.Install, seeds.Set{Install: plain}, problem("unknown-field"), false},
		"recovery keys on a node":          {bootinfo.Node, seeds.Set{}, problem(seeds.RuleRecoveryKeys), false},
		"sealed on a node":                 {bootinfo.Node, seeds.Set{Sealed: sealed}, problem(seeds.RuleSealed), false},
		"sealed on a medium":               {bootinfo.Install, seeds.Set{Install: plain, Sealed: sealed}, problem(seeds.RuleSealed), true},
		"another key on a medium":          {bootinfo.Install, seeds.Set{Install: plain, Sealed: sealed}, problem(seeds.RuleKey), true},
		"sealed request to install":        {bootinfo.Install, seeds.Set{Sealed: sealed}, problem(seeds.RuleSealed), false},
		"sealed and a mistake on a medium": {bootinfo.Install, seeds.Set{Install: plain, Sealed: sealed}, errors.Join(problem(seeds.RuleSealed), problem("unknown-field")), false},
		"damaged on a medium":              {bootinfo.Install, seeds.Set{Install: plain, Sealed: sealed}, problem("damaged"), false},
	} {
		t.Run(name, func(t *testing.T) {
			log := slog.New(slog.DiscardHandler)
			node := &nodeSeed{mode: test.mode, log: log, message: func(string, string) {}, typed: newTypedKeys(nobody{}, nil)}
			set, err := node.judge(&test.set, test.err)
			if (err == nil) != test.ok || (set != nil) != test.ok {
				t.Errorf("got %v, %v", set, err)
			}
		})
	}
}

// A screen has room for one sentence about what is locked, whatever else is wrong beside it.
func TestLocked_ManyDocuments_AreOneSentence(t *testing.T) {
	sealed := []seeds.Member{{Name: "network.yaml.age"}, {Name: "update.yaml.age"}}
	none := func(name string) error { return &seeds.Problem{File: name, Rule: seeds.RuleSealed, Text: "no"} }
	another := &seeds.Problem{File: "update.yaml.age", Rule: seeds.RuleKey, Text: "no"}
	for name, c := range map[string]struct {
		err  error
		want []string
	}{
		"no key":              {errors.Join(none("network.yaml.age"), none("update.yaml.age")), []string{"sealed, and no key or passphrase is at hand: network.yaml.age, update.yaml.age; type the passphrase here"}},
		"another":             {errors.Join(none("network.yaml.age"), another), []string{"sealed, and the key or passphrase at hand does not open it: network.yaml.age, update.yaml.age; type"}},
		"an error beside it":  {errors.Join(fs.ErrPermission, errors.Join(another)), []string{"permission denied", "sealed, and the key"}},
		"a mistake beside it": {errors.Join(errors.Join(another), &seeds.Problem{File: "incus.yaml", Rule: "unknown-field", Text: "no"}), []string{"seed incus.yaml: no", "sealed, and the key"}},
	} {
		lines := strings.Split(locked(sealed, c.err).Error(), "\n")
		ok := len(lines) == len(c.want)
		for i := 0; ok && i < len(lines); i++ {
			ok = strings.HasPrefix(lines[i], c.want[i])
		}
		if !ok {
			t.Errorf("%s: got %q", name, lines)
		}
	}
}

// Whoever is the administrator of Incus reaches the node also when Incus does not start;
// whoever may only use a project does not.
func TestSeededClients_OfAllApplications_AreThoseWithAllRights(t *testing.T) {
	one, two, three := certificate(t, "one"), certificate(t, "two"), certificate(t, "three")
	block, _ := pem.Decode([]byte(two))
	set := &seeds.Set{
		Incus: &seed.Incus{Preseed: &seed.IncusPreseed{Certificates: []seed.IncusCertificate{
			{Type: "client", Certificate: one}, {Type: "client", Certificate: base64.StdEncoding.EncodeToString(block.Bytes)},
			{Type: "client", Certificate: three, Restricted: true}, {Type: "metrics", Certificate: three}, {Type: "client", Certificate: "none"},
			{Type: "client", Token: true},
		}}},
		MigrationManager: &seed.MigrationManager{TrustedClientCertificates: []string{one}},
		OperationsCenter: &seed.OperationsCenter{TrustedClientCertificates: []string{two + "\n"}},
	}
	if diff := cmp.Diff([]string{one, two}, seededClients(set)); diff != "" {
		t.Error(diff)
	}
	if got := seededClients(&seeds.Set{}); got != nil {
		t.Errorf("got %q", got)
	}
}

func certificate(t *testing.T, name string) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// sticks are media by label, each with files in its root folder.
type sticks map[string]map[string]string

func (sticks) Settle(context.Context) error { return nil }

func (s sticks) Read(_ context.Context, label, dir string, _ int64, wanted func(string) bool) (map[string][]byte, bool, error) {
	files, there := s[label]
	out := map[string][]byte{}
	for name, text := range files {
		if dir == "." && wanted(name) {
			out[name] = []byte(text)
		}
	}
	return out, there, nil
}

// newNodeSeed is the seed of a node whose partition is a file.
func newNodeSeed(t *testing.T, dir, partition string, media sticks) *nodeSeed {
	t.Helper()
	return &nodeSeed{
		mode: bootinfo.Node, log: slog.New(slog.DiscardHandler), message: func(string, string) {}, media: media,
		store:     func() (*state.Store, error) { return state.Open(filepath.Join(dir, "state")) },
		partition: func(context.Context) (string, error) { return partition, nil },
		oem:       func() ([]string, error) { return nil, nil },
		typed:     newTypedKeys(nobody{}, nil),
	}
}

// partitionWith is a file with an archive of these members.
func partitionWith(t *testing.T, members ...seeds.Member) string {
	t.Helper()
	var archive bytes.Buffer
	if err := seeds.Write(&archive, &seeds.Set{Sealed: members}); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "partition")
	if err := os.WriteFile(path, append(archive.Bytes(), make([]byte, 4<<20-archive.Len())...), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// The life of a sealed seed: the node waits for the key, uses it once, keeps the documents
// where they are encrypted, and needs neither key nor partition at its next start. A stick
// that somebody plugs in later changes nothing.
func TestNodeSeed_SealedOnThePartition_IsTakenOverOnceAndForAll(t *testing.T) {
	private, public, err := seeds.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	to, err := seeds.Recipients([]string{public}, "")
	if err != nil {
		t.Fatal(err)
	}
	text := `{"setup_key": "hunter2", "enabled": true}`
	sealed, err := seeds.Seal("services.yaml", []byte(`netbird: `+text), to...)
	if err != nil {
		t.Fatal(err)
	}
	dir, partition, media := t.TempDir(), partitionWith(t, sealed), sticks{}
	node := newNodeSeed(t, dir, partition, media)
	if _, err := node.Read(t.Context()); err == nil {
		t.Fatal("the node goes on without the key")
	}
	media["SEED_KEY"] = map[string]string{"seed.key": private}
	set, err := node.Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := &seeds.Set{Services: &seed.Services{Netbird: &seed.Netbird{Enabled: true, SetupKey: "hunter2"}}}
	if diff := cmp.Diff(want, set); diff != "" {
		t.Error(diff)
	}
	if err := node.Used(t.Context()); err != nil {
		t.Fatal(err)
	}
	left, err := os.ReadFile(partition)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(left, []byte("hunter2")) || bytes.Contains(left, []byte("age-encryption")) || bytes.Contains(left, []byte("AGE ENCRYPTED")) {
		t.Error("the partition still has the secret, or what holds it")
	}
	delete(media, "SEED_KEY")
	media["SEED_DATA"] = map[string]string{"update.yaml": "channel: testing"}
	next := newNodeSeed(t, dir, filepath.Join(dir, "the disk has no such partition"), media)
	set, err = next.Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, set); diff != "" {
		t.Error(diff)
	}
	if err := next.Used(t.Context()); err != nil {
		t.Errorf("a seed that was wiped is wiped again: %v", err)
	}
}

// A new document is what the node reads from then on, and its secrets go where those of the
// seed are: to the root volume, and not to the partition.
func TestNodeSeed_Replace_KeepsTheDocumentAndWipesItsSecrets(t *testing.T) {
	dir, partition := t.TempDir(), partitionWith(t, seeds.Member{Name: "update.yaml", Data: []byte("channel: testing")})
	node := newNodeSeed(t, dir, partition, sticks{})
	if err := node.Used(t.Context()); err != nil {
		t.Fatal(err)
	}
	document := []byte(`{"apply_defaults":true,"preseed":{"config":{"oidc.client.secret":"hunter2"}}}`)
	if err := node.Replace(t.Context(), "incus", document); err != nil {
		t.Fatal(err)
	}
	for name, reader := range map[string]*nodeSeed{"at once": node, "at the next start": newNodeSeed(t, dir, partition, sticks{})} {
		set, err := reader.Read(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if set.Incus == nil || set.Incus.Preseed.Config["oidc.client.secret"] != "hunter2" || set.Update == nil {
			t.Errorf("%s: %+v", name, set)
		}
	}
	left, err := os.ReadFile(partition)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(left, []byte("hunter2")) || !bytes.Contains(left, []byte("incus.json")) {
		t.Error("the partition has the secret, or does not have the document")
	}
	if err := node.Replace(t.Context(), "incus", nil); err != nil {
		t.Fatal(err)
	}
	if set, err := node.Read(t.Context()); err != nil || set.Incus != nil || set.Update == nil {
		t.Errorf("%+v %v", set, err)
	}
}

// The power fails between keeping and wiping: the next start wipes.
func TestNodeSeed_CutBeforeTheWipe_IsWipedByTheNextStart(t *testing.T) {
	dir := t.TempDir()
	node := newNodeSeed(t, dir, filepath.Join(dir, "unreadable", "partition"), sticks{
		"SEED_DATA": {"provider.yaml": "name: images\nconfig: {token: hunter2}"}})
	if err := node.Used(t.Context()); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("got %v", err)
	}
	partition := partitionWith(t)
	next := newNodeSeed(t, dir, partition, sticks{})
	set, err := next.Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if set.Provider == nil || set.Provider.Config["token"] != "hunter2" {
		t.Errorf("got %+v", set)
	}
	if err := next.Used(t.Context()); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(partition)
	if err != nil {
		t.Fatal(err)
	}
	left, err := seeds.Parse(f)
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	want := &seeds.Set{Provider: &seed.Provider{ProviderConfig: osapi.ProviderConfig{Name: "images", Config: map[string]string{}}}}
	if diff := cmp.Diff(want, left, cmpopts.EquateEmpty()); diff != "" {
		t.Error(diff)
	}
}

// An install medium hands on what it cannot read, and needs the key for nothing.
func TestNodeSeed_InstallMediumWithoutTheKey_HandsOnTheSealedDocuments(t *testing.T) {
	_, public, err := seeds.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	to, err := seeds.Recipients([]string{public}, "")
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := seeds.Seal("update.yaml", []byte("channel: stable"), to...)
	if err != nil {
		t.Fatal(err)
	}
	node := newNodeSeed(t, t.TempDir(), "", sticks{"SEED_DATA": {"install.yaml": "{}", sealed.Name: string(sealed.Data)}})
	node.mode = bootinfo.Install
	if _, err := node.Read(t.Context()); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(&seeds.Set{Install: &seed.Install{}, Sealed: []seeds.Member{sealed}}, node.external()); diff != "" {
		t.Error(diff)
	}
}
