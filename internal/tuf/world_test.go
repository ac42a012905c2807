package tuf

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/holdfast-os/holdfast/api/release"
)

const (
	v1, v2, v3 = "202611010000", "202611080000", "202611150000"
	x86        = "x86_64"
)

// start is when the tree of the tests is made.
var start = time.Date(2026, 11, 16, 12, 0, 0, 0, time.UTC)

// files is a Store, and a mirror that serves itself.
type files map[string][]byte

func (f files) Read(name string) ([]byte, error) {
	data, ok := f[name]
	if !ok {
		return nil, fmt.Errorf("%s: %w", name, fs.ErrNotExist)
	}
	return data, nil
}

func (f files) Write(name string, data []byte) error {
	f[name] = bytes.Clone(data)
	return nil
}

func (f files) Fetch(_ context.Context, path string, max int64) ([]byte, error) {
	data, err := f.Read(strings.TrimPrefix(path, "tuf/"))
	if err == nil && int64(len(data)) > max {
		data = data[:max+1]
	}
	return data, err
}

// fetcher is a mirror with a mind of its own.
type fetcher func(ctx context.Context, path string, max int64) ([]byte, error)

func (f fetcher) Fetch(ctx context.Context, path string, max int64) ([]byte, error) {
	return f(ctx, path, max)
}

// key is the same key for the same name, in every run.
func key(name string) Signer {
	seed := sha256.Sum256([]byte(name))
	return KeySigner(ed25519.NewKeyFromSeed(seed[:]))
}

func keys(names ...string) []Signer {
	all := []Signer{}
	for _, name := range names {
		all = append(all, key(name))
	}
	return all
}

func role(threshold int, names ...string) Role {
	r := Role{Threshold: threshold}
	for _, name := range names {
		r.Keys = append(r.Keys, key(name).Public())
	}
	return r
}

var allKeys = []string{"root-1", "root-2", "root-3", "targets-1", "targets-2", "targets-3", "snapshot", "timestamp", "stable", "testing"}

// world is a tree, its publisher and a node.
type world struct {
	t    testing.TB
	tree files
	now  time.Time
	// confirmed is what the node's clock says of itself.
	confirmed bool
	// clock is the node's; zero is the publisher's.
	clock time.Time
	dir   string
	image []byte
	built time.Time
	p     *Publisher
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{t: t, tree: files{}, now: start, confirmed: true, dir: filepath.Join(t.TempDir(), "trusted"), built: start.Add(-10 * day)}
	w.p = &Publisher{Store: w.tree, Signers: keys(allKeys...), Now: func() time.Time { return w.now }}
	w.must(w.p.Init(context.Background(), Roles{
		Root: role(2, "root-1", "root-2", "root-3"), Targets: role(2, "targets-1", "targets-2", "targets-3"),
		Snapshot: role(1, "snapshot"), Timestamp: role(1, "timestamp"),
		Channels: map[string]Role{"stable": role(1, "stable"), "testing": role(1, "testing")},
	}))
	w.image = w.tree["1.root.json"]
	w.publish("stable", v1)
	return w
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) publish(channel string, versions ...string) {
	w.t.Helper()
	for _, version := range versions {
		w.must(w.p.Publish(context.Background(), channel, manifestOf(version, x86), manifestOf(version, "aarch64")))
	}
}

// client opens the node's client; without mirrors it asks the tree itself.
func (w *world) client(mirrors ...Fetcher) *Client {
	w.t.Helper()
	if len(mirrors) == 0 {
		mirrors = []Fetcher{w.tree}
	}
	c, err := Open(Options{Root: w.image, Dir: w.dir, Mirrors: mirrors, Built: w.built, Clock: func() (time.Time, bool) {
		if !w.clock.IsZero() {
			return w.clock, w.confirmed
		}
		return w.now, w.confirmed
	}})
	w.must(err)
	w.t.Cleanup(func() { w.must(c.Close()) })
	return c
}

func (w *world) refresh(mirrors ...Fetcher) Status {
	w.t.Helper()
	status, err := w.client(mirrors...).Refresh(context.Background())
	w.must(err)
	return status
}

// newest is the version that a node that just started would take.
func (w *world) newest(mirrors ...Fetcher) string {
	w.t.Helper()
	manifest, err := w.client(mirrors...).Newest(context.Background(), "stable", x86)
	w.must(err)
	return manifest.Version
}

// copy is the tree as it is now.
func (w *world) copy() files { return maps.Clone(w.tree) }

func sumOf(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

func blobOf(path string) release.Blob {
	return release.Blob{Path: path, Size: int64(len(path)), SHA256: sumOf(path)}
}

func manifestOf(version, arch string) release.Manifest {
	name := "Holdfast_" + version + ".usr"
	return release.Manifest{
		Format: "1", Version: version, Architecture: arch, PublishedAt: start, Severity: release.SeverityNone,
		Parts: []release.Part{{
			Name: name, Component: release.ComponentOS, Type: release.TypeUpdateUsr, Size: 1000, SHA256: sumOf(arch + name),
			Full:   blobOf(version + "/" + arch + "/" + name + ".gz"),
			Chunks: &release.Chunks{Index: blobOf(version + "/" + arch + "/usr.index"), Pack: blobOf(version + "/" + arch + "/usr.pack")},
			Deltas: []release.Delta{{From: "202610010000", BaseSize: 900, BaseSHA256: sumOf("base"), Patch: blobOf(version + "/" + arch + "/usr.delta")}},
		}},
		Documents: []release.Document{{Kind: release.DocumentSBOM, Component: release.ComponentOS, Blob: blobOf(version + "/" + arch + "/sbom.json")}},
	}
}

// remembered is the sum of what the node's directory holds, by name.
func (w *world) remembered() map[string]string {
	w.t.Helper()
	found := map[string]string{}
	entries, err := os.ReadDir(w.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		w.t.Fatal(err)
	}
	for _, entry := range entries {
		text, err := os.ReadFile(filepath.Join(w.dir, entry.Name()))
		w.must(err)
		found[entry.Name()] = sumOf(string(text))[:12]
	}
	return found
}

// forge changes a document of a mirror and signs it with the named keys.
func forge[T metadata.Roles](t testing.TB, data []byte, change func(*metadata.Metadata[T]), names ...string) []byte {
	t.Helper()
	m, err := new(metadata.Metadata[T]).FromBytes(data)
	if err != nil {
		t.Fatal(err)
	}
	change(m)
	var ids []string
	for _, signer := range keys(names...) {
		id, err := KeyID(signer.Public())
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, id)
	}
	text, err := sign(context.Background(), keys(names...), ids, m)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// current gives the version of a role that the tree's metadata name.
func (w *world) current(role string) int64 {
	w.t.Helper()
	t, err := load(w.tree)
	w.must(err)
	switch role {
	case metadata.ROOT:
		return t.root.Signed.Version
	case metadata.SNAPSHOT:
		return t.snapshot.Signed.Version
	case metadata.TIMESTAMP:
		return t.timestamp.Signed.Version
	}
	return t.snapshot.Signed.Meta[metaName(role)].Version
}

// chain puts a channel's or the targets' document into a mirror, with snapshot and
// timestamp that name it, as a thief of the online keys could.
func (w *world) chain(mirror files, role string, version int64, data []byte) {
	w.t.Helper()
	mirror[metaFile(role, version)] = data
	w.rename(mirror, func(s *metadata.Metadata[metadata.SnapshotType]) {
		s.Signed.Meta[metaName(role)] = described(version, data)
	})
}

// rename signs a changed snapshot of the next version, and a timestamp for it.
func (w *world) rename(mirror files, change func(*metadata.Metadata[metadata.SnapshotType])) {
	w.t.Helper()
	at := w.current(metadata.SNAPSHOT)
	var version int64
	snapshot := forge(w.t, mirror[metaFile(metadata.SNAPSHOT, at)], func(s *metadata.Metadata[metadata.SnapshotType]) {
		s.Signed.Version++
		change(s)
		version = s.Signed.Version
	}, "snapshot")
	mirror[metaFile(metadata.SNAPSHOT, version)] = snapshot
	mirror[timestampFile] = forge(w.t, mirror[timestampFile], func(m *metadata.Metadata[metadata.TimestampType]) {
		m.Signed.Version++
		m.Signed.Meta[metaName(metadata.SNAPSHOT)] = described(version, snapshot)
	}, "timestamp")
}

func checkErr(t testing.TB, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Errorf("got error %v, want %v", got, want)
	}
}

func same[T any](t testing.TB, want, got T) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
