package release_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	api "github.com/holdfast-os/holdfast/api/release"
	"github.com/holdfast-os/holdfast/internal/release"
)

const v3 = "202611240104"

var published = time.Date(2026, 11, 22, 1, 4, 5, 0, time.UTC)

func opensslOf(version string, changes ...api.PackageChange) api.Package {
	return api.Package{Name: "openssl", Version: version, Architecture: "amd64", Source: "openssl", SourceVersion: version, Changes: changes}
}

// withList brings a package list into a build.
func withList(t *testing.T, dir string, component api.Component, all ...api.Package) string {
	t.Helper()
	list := api.PackageList{Component: component, Packages: all}
	if err := os.WriteFile(filepath.Join(dir, "packages-"+string(component)+".json"), jsonOf(list), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

// buildWithList is a build of a version whose openssl has that version too.
func buildWithList(t *testing.T, version, openssl string) string {
	t.Helper()
	return withList(t, writeBuild(t, version), "os", opensslOf(openssl,
		api.PackageChange{Version: "3.5.3-1", CVEs: []string{"CVE-2026-30003"}}, api.PackageChange{Version: "3.5.2-1", CVEs: []string{"CVE-2026-30002"}}))
}

func unpack(t *testing.T, name string) []byte {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func readManifest(t *testing.T, tree, version string) api.Manifest {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(tree, version, "x86_64", "manifest.json"))
	if err != nil {
		t.Fatal(err)
	}
	var m api.Manifest
	if err := json.Unmarshal(data, &m); err != nil {
		t.Fatal(err)
	}
	return m
}

// copier is Extras that is as simple as can be: what it makes says out of what.
type copier struct{ made []string }

func (c *copier) Chunks(_ context.Context, part api.Part, unpacked string, from, to release.ChunkFiles) (bool, error) {
	if part.Type != api.TypeUpdateUsr {
		return false, nil
	}
	data, err := os.ReadFile(unpacked)
	if err != nil || sumOf(data) != part.SHA256 || int64(len(data)) != part.Size {
		return false, fmt.Errorf("%s is not the part: %w", unpacked, err)
	}
	made := "chunks of " + part.Name
	if from.Index != "" {
		made += ", like those of " + strings.TrimSuffix(filepath.Base(from.Index), ".chunks")
		if _, err := os.Stat(from.Pack); err != nil {
			return false, err
		}
	}
	c.made = append(c.made, made)
	return true, errors.Join(os.WriteFile(to.Index, []byte("index"), 0o600), os.WriteFile(to.Pack, []byte("pack"), 0o600))
}

func (c *copier) Delta(_ context.Context, part api.Part, unpacked string, base api.Part, baseUnpacked, patch string) (bool, error) {
	if part.Type != api.TypeUpdateUsr {
		return false, nil
	}
	old, err := os.ReadFile(baseUnpacked)
	if err != nil || sumOf(old) != base.SHA256 {
		return false, fmt.Errorf("%s is not the base: %w", baseUnpacked, err)
	}
	if _, err := os.Stat(unpacked); err != nil {
		return false, err
	}
	c.made = append(c.made, part.Name+" from "+base.Name)
	return true, os.WriteFile(patch, []byte(base.Name), 0o600)
}

// channels is Metadata in memory, which adds and forgets nothing by itself, newest first.
type channels map[string][]api.Manifest

func (c channels) Publish(_ context.Context, channel string, manifests ...api.Manifest) error {
	all := slices.Clone(manifests)
	for _, old := range c[channel] {
		if !slices.ContainsFunc(manifests, func(m api.Manifest) bool { return m.Version == old.Version }) {
			all = append(all, old)
		}
	}
	slices.SortFunc(all, func(a, b api.Manifest) int { return strings.Compare(b.Version, a.Version) })
	c[channel] = all
	return nil
}

func (c channels) Withdraw(_ context.Context, channel, version string) error {
	c[channel] = slices.DeleteFunc(slices.Clone(c[channel]), func(m api.Manifest) bool { return m.Version == version })
	return nil
}

// versions is what nodes see of the metadata.
func (c channels) versions() map[string]string {
	out := map[string]string{}
	for channel, manifests := range c {
		for _, m := range manifests {
			out[channel] += m.Version + " "
		}
	}
	return out
}

func options(tree, build string, signer release.Signer) release.PublishOptions {
	return release.PublishOptions{Tree: tree, BuildDir: build, Signer: signer, Now: published}
}

func mustPublish(t *testing.T, o release.PublishOptions) {
	t.Helper()
	if _, err := release.Publish(t.Context(), o); err != nil {
		t.Fatal(err)
	}
}

func verifyTree(t *testing.T, tree string, signer *identity) release.VerifyReport {
	t.Helper()
	report, err := release.VerifyTree(t.Context(), release.VerifyOptions{Tree: tree, UpdateCA: signer.pem(), Deep: true})
	if err != nil {
		t.Fatal(err)
	}
	return report
}

// A node believes the manifest alone: it says what comes out of each file, and how to get it.
func TestPublish_SecondRelease_HasAManifestWithEveryWayToGetIt(t *testing.T) {
	signer, tree, extras := newIdentity(t, "update", nil), t.TempDir(), &copier{}
	o := options(tree, buildWithList(t, v1, "3.5.1-1"), signer)
	o.Extras = extras
	mustPublish(t, o)
	o.BuildDir = buildWithList(t, v2, "3.5.2-1")
	mustPublish(t, o)

	m := readManifest(t, tree, v2)
	usr := "Holdfast_" + v2 + ".usr-x86-64." + uuidA + ".raw"
	old := readManifest(t, tree, v1)
	i := slices.IndexFunc(m.Parts, func(p api.Part) bool { return p.Type == api.TypeUpdateUsr })
	content := append(bytes.Repeat([]byte("usr "+v2), 1000), make([]byte, 4096-16000%4096)...)
	before := append(bytes.Repeat([]byte("usr "+v1), 1000), make([]byte, 4096-16000%4096)...)
	dir := v2 + "/x86_64/"
	want := api.Part{
		Name: usr, Component: "os", Type: api.TypeUpdateUsr, Size: 16384, SHA256: sumOf(content), Full: m.Parts[i].Full,
		Chunks: &api.Chunks{
			Index: api.Blob{Path: dir + usr + ".chunks", Size: 5, SHA256: sumOf([]byte("index"))},
			Pack:  api.Blob{Path: dir + usr + ".pack", Size: 4, SHA256: sumOf([]byte("pack"))},
		},
		Deltas: []api.Delta{{
			From: v1, BaseSize: 16384, BaseSHA256: sumOf(before),
			Patch: api.Blob{Path: dir + usr + ".from-" + v1 + ".delta", Size: int64(len(usr)), SHA256: sumOf([]byte("Holdfast_" + v1 + ".usr-x86-64." + uuidA + ".raw"))},
		}},
	}
	if diff := cmp.Diff(want, m.Parts[i]); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(content, unpack(t, filepath.Join(tree, m.Parts[i].Full.Path))); diff != "" {
		t.Error("the full file is not the part")
	}
	var documents []string
	for _, d := range m.Documents {
		documents = append(documents, fmt.Sprint(d.Kind, " ", d.Component, " ", d.From, " ", d.Blob.Path))
	}
	if diff := cmp.Diff([]string{
		"changelog  " + v1 + " " + dir + "changelog-stable.yaml.gz",
		"packages os  " + dir + "os.packages.json.gz",
		"sbom os  " + dir + "os.spdx.json.gz",
	}, documents); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{
		"chunks of Holdfast_" + v1 + ".usr-x86-64." + uuidA + ".raw", "chunks of " + usr + ", like those of Holdfast_" + v1 + ".usr-x86-64." + uuidA + ".raw", usr + " from Holdfast_" + v1 + ".usr-x86-64." + uuidA + ".raw",
	}, extras.made); diff != "" {
		t.Error(diff)
	}
	if len(old.Parts) != 5 || len(old.Documents) != 2 {
		t.Errorf("the first release has %d parts and %d documents", len(old.Parts), len(old.Documents))
	}
	if report := verifyTree(t, tree, signer); len(report.Problems)+len(report.Unnamed) > 0 {
		t.Error(report.Problems, report.Unnamed)
	}
}

// Tools of IncusOS show the changelog: its fields are theirs.
func TestPublish_SecondReleaseOfAChannel_HasItsChangelog(t *testing.T) {
	signer, tree := newIdentity(t, "update", nil), t.TempDir()
	mustPublish(t, options(tree, buildWithList(t, v1, "3.5.1-1"), signer))
	o := options(tree, buildWithList(t, v2, "3.5.2-1"), signer)
	o.Channels = []string{"testing"}
	mustPublish(t, o)
	o.BuildDir, o.Channels = buildWithList(t, v3, "3.5.3-1"), []string{"stable", "testing"}
	mustPublish(t, o)
	got := map[string]string{}
	for _, channel := range []string{"stable", "testing"} {
		got[channel] = string(unpack(t, filepath.Join(tree, v3, "x86_64", "changelog-"+channel+".yaml.gz")))
	}
	want := map[string]string{
		"stable": `current_version: "202611240104"
prior_version: "202611220104"
channel: stable
components:
    os:
        updated:
            - openssl 3.5.1-1 to 3.5.3-1
        cves:
            - CVE-2026-30002
            - CVE-2026-30003
`,
		"testing": `current_version: "202611240104"
prior_version: "202611230104"
channel: testing
components:
    os:
        updated:
            - openssl 3.5.2-1 to 3.5.3-1
        cves:
            - CVE-2026-30003
`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	index, err := release.List(tree)
	if err != nil {
		t.Fatal(err)
	}
	logs := map[string][]string{}
	for _, u := range index.Updates {
		for _, f := range u.Files {
			if f.Type == api.TypeChangelog {
				logs[u.Version] = append(logs[u.Version], string(f.Component)+" "+f.Filename)
			}
		}
	}
	if diff := cmp.Diff(map[string][]string{v3: {"os x86_64/changelog-stable.yaml.gz", "os x86_64/changelog-testing.yaml.gz"}}, logs); diff != "" {
		t.Error(diff)
	}
}

// A release is published again after every doubt, and nodes must not see a difference.
func TestPublish_TwiceWithEverything_ChangesNoByte(t *testing.T) {
	signer, tree := newIdentity(t, "update", nil), t.TempDir()
	o := options(tree, buildWithList(t, v1, "3.5.1-1"), signer)
	o.Extras, o.Metadata = &copier{}, channels{}
	mustPublish(t, o)
	o.BuildDir = buildWithList(t, v2, "3.5.2-1")
	mustPublish(t, o)
	before := snapshot(t, tree)
	again := &copier{}
	o.Extras, o.Now = again, published.Add(time.Hour)
	mustPublish(t, o)
	if diff := cmp.Diff(before, snapshot(t, tree)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string(nil), again.made); diff != "" {
		t.Error(diff)
	}
}

// The packages of a version are part of it.
func TestPublish_OtherPackagesUnderSameVersion_Refuses(t *testing.T) {
	signer, tree, build := newIdentity(t, "update", nil), t.TempDir(), buildWithList(t, v1, "3.5.1-1")
	mustPublish(t, options(tree, build, signer))
	before := snapshot(t, tree)
	_, err := release.Publish(t.Context(), options(tree, withList(t, build, "os", opensslOf("3.5.9-1")), signer))
	checkErr(t, err, release.ErrPublished)
	_, err = release.Publish(t.Context(), options(tree, withList(t, build, "os", opensslOf("../x")), signer))
	if err == nil || !strings.Contains(err.Error(), "packages-os.json") {
		t.Errorf("got %v", err)
	}
	if diff := cmp.Diff(before, snapshot(t, tree)); diff != "" {
		t.Error(diff)
	}
}

var errCut = errors.New("cut")

// cutAt ends the work at the step of this number and notes the names of the steps.
func cutAt(number int, seen *[]string) func(string) error {
	return func(step string) error {
		*seen = append(*seen, step)
		if len(*seen) == number {
			return errCut
		}
		return nil
	}
}

// unsigned is a tree without what differs each time it is signed.
func unsigned(t *testing.T, tree string) map[string]string {
	t.Helper()
	all := snapshot(t, tree)
	for name := range all {
		if strings.HasSuffix(name, ".sjson") {
			delete(all, name)
		}
	}
	return all
}

// A publisher's machine dies at any moment: nodes see the old tree or the new one, all that
// index and metadata name is there, and doing it again ends as if nothing had happened.
func TestTree_CutAtEveryStep_IsValidAndEndsTheSame(t *testing.T) {
	signer := newIdentity(t, "update", nil)
	build1, build2, build3 := buildWithList(t, v1, "3.5.1-1"), buildWithList(t, v2, "3.5.2-1"), buildWithList(t, v3, "3.5.3-1")
	type world struct {
		tree string
		meta channels
	}
	start := world{t.TempDir(), channels{}}
	for _, build := range []string{build1, build2} {
		o := options(start.tree, build, signer)
		o.Metadata, o.Channels = start.meta, []string{"testing"}
		mustPublish(t, o)
	}
	fresh := func(t *testing.T) world {
		w := world{t.TempDir(), maps.Clone(start.meta)}
		if err := os.CopyFS(w.tree, os.DirFS(start.tree)); err != nil {
			t.Fatal(err)
		}
		return w
	}
	publish := func(channel string, build string, extras bool) func(world, func(string) error) error {
		return func(w world, cut func(string) error) error {
			o := options(w.tree, build, signer)
			o.Metadata, o.Channels = w.meta, []string{channel}
			if extras {
				o.Extras = &copier{}
			}
			_, err := release.Publish(context.Background(), release.CutPublish(o, cut))
			return err
		}
	}
	change := func(do func(release.TreeOptions) error) func(world, func(string) error) error {
		return func(w world, cut func(string) error) error {
			return do(release.CutTree(release.TreeOptions{Tree: w.tree, Signer: signer, Metadata: w.meta}, cut))
		}
	}
	for name, do := range map[string]func(world, func(string) error) error{
		"publish a new release":      publish("testing", build3, true),
		"publish with a new channel": publish("stable", build2, true),
		"promote": change(func(o release.TreeOptions) error {
			_, err := release.Promote(context.Background(), o, v2, "stable")
			return err
		}),
		"severity": change(func(o release.TreeOptions) error {
			_, err := release.SetSeverity(context.Background(), o, v2, "high")
			return err
		}),
		"prune": change(func(o release.TreeOptions) error { _, err := release.Prune(context.Background(), o, 1); return err }),
		"demote": change(func(o release.TreeOptions) error {
			// Done twice it is an error that it is not in the channel, which is as good.
			_, err := release.Demote(context.Background(), o, v2, "testing")
			if errors.Is(err, release.ErrChannel) {
				return nil
			}
			return err
		}),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // most of the time is waiting for the disk
			whole := fresh(t)
			var steps []string
			if err := do(whole, cutAt(0, &steps)); err != nil {
				t.Fatal(err)
			}
			if len(steps) < 4 {
				t.Fatalf("only %d steps: %v", len(steps), steps)
			}
			comesIn := name != "prune" && name != "demote"
			want, wantMeta := unsigned(t, whole.tree), whole.meta.versions()
			for n := range steps {
				w := fresh(t)
				var seen []string
				checkErr(t, do(w, cutAt(n+1, &seen)), errCut)
				at := "cut before " + seen[len(seen)-1]
				checkWorld(t, at, w.tree, w.meta, signer, comesIn)
				if err := do(w, nil); err != nil {
					t.Errorf("%s, again: %v", at, err)
				}
				checkWorld(t, at+", again", w.tree, w.meta, signer, comesIn)
				if diff := cmp.Diff(wantMeta, w.meta.versions()); diff != "" {
					t.Errorf("%s, again: %s", at, diff)
				}
				if name == "demote" {
					continue // a changelog may be left, which nothing names
				}
				if diff := cmp.Diff(want, unsigned(t, w.tree)); diff != "" {
					t.Errorf("%s, again: %s", at, diff)
				}
			}
		})
	}
}

// checkWorld wants that all is there that the signed index and the metadata name. Plain
// index.json beside it is for people, and may be one change ahead.
func checkWorld(t *testing.T, at, tree string, meta channels, signer *identity, comesIn bool) {
	t.Helper()
	source := newSource(t, serve(t, tree), signer.pem(), release.Limits{})
	index, err := source.Index(t.Context())
	if err != nil {
		t.Fatalf("%s: %v", at, err)
	}
	for _, u := range index.Updates {
		for _, f := range u.Files {
			checkFile(t, at, tree, api.Blob{Path: u.Version + "/" + f.Filename, Size: f.Size, SHA256: f.SHA256})
		}
		for _, b := range release.Blobs(readManifest(t, tree, u.Version)) {
			checkFile(t, at, tree, b)
		}
		// What is taken out leaves the metadata first; what comes in is there before.
		for _, channel := range u.Channels {
			has := slices.ContainsFunc(meta[channel], func(m api.Manifest) bool { return m.Version == u.Version })
			if comesIn && !has {
				t.Errorf("%s: the index has %s in %s, and the metadata does not", at, u.Version, channel)
			}
		}
	}
	for _, manifests := range meta {
		for _, m := range manifests {
			for _, b := range release.Blobs(m) {
				checkFile(t, at, tree, b)
			}
		}
	}
}

func checkFile(t *testing.T, at, tree string, b api.Blob) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(tree, b.Path))
	if err != nil || sumOf(data) != b.SHA256 || int64(len(data)) != b.Size {
		t.Errorf("%s: %s is not as named: %v", at, b.Path, err)
	}
}
