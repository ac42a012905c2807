package release_test

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	api "github.com/holdfast-os/holdfast/api/release"
	"github.com/holdfast-os/holdfast/internal/release"
)

// threeReleases is a tree whose first is in stable and testing, the others in testing.
func threeReleases(t *testing.T) (release.TreeOptions, channels, *identity) {
	t.Helper()
	signer, meta := newIdentity(t, "update", nil), channels{}
	o := options(t.TempDir(), buildWithList(t, v1, "3.5.1-1"), signer)
	o.Metadata, o.Channels = meta, []string{"stable", "testing"}
	mustPublish(t, o)
	o.Channels = []string{"testing"}
	for version, openssl := range map[string]string{v2: "3.5.2-1", v3: "3.5.3-1"} {
		o.BuildDir = buildWithList(t, version, openssl)
		mustPublish(t, o)
	}
	return release.TreeOptions{Tree: o.Tree, Signer: signer, Metadata: meta}, meta, signer
}

// state is what a tree says of each release.
func state(t *testing.T, tree string) []string {
	t.Helper()
	index, err := release.List(tree)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, u := range index.Updates {
		line := fmt.Sprint(u.Version, " ", u.Severity, " ", strings.Join(u.Channels, "+"), ":")
		for _, f := range u.Files {
			if f.Type == api.TypeChangelog {
				line += " " + f.Filename
			}
		}
		out = append(out, line)
	}
	return out
}

// A release goes from testing to stable as it is, and out again when it was a mistake.
func TestPromoteDemoteSeverity_OfAPublishedRelease_ChangeOnlyWhatIsSaidOfIt(t *testing.T) {
	o, meta, signer := threeReleases(t)
	const testing2, testing3 = v2 + " none testing: x86_64/changelog-testing.yaml.gz", v3 + " none testing: x86_64/changelog-testing.yaml.gz"
	if _, err := release.Promote(t.Context(), o, v3, "stable"); err != nil {
		t.Fatal(err)
	}
	want := []string{v3 + " none stable+testing: x86_64/changelog-stable.yaml.gz x86_64/changelog-testing.yaml.gz", testing2, v1 + " none stable+testing:"}
	if diff := cmp.Diff(want, state(t, o.Tree)); diff != "" {
		t.Error("promoted:", diff)
	}
	before := snapshot(t, o.Tree)
	if _, err := release.Promote(t.Context(), o, v3, "stable"); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, snapshot(t, o.Tree)); diff != "" {
		t.Error("promoted twice:", diff)
	}
	if _, err := release.SetSeverity(t.Context(), o, v2, "critical"); err != nil {
		t.Fatal(err)
	}
	if got := readManifest(t, o.Tree, v2).Severity; got != "critical" {
		t.Errorf("the manifest says %s", got)
	}
	if _, err := release.Demote(t.Context(), o, v3, "stable"); err != nil {
		t.Fatal(err)
	}
	want = []string{testing3, strings.Replace(testing2, "none", "critical", 1), v1 + " none stable+testing:"}
	if diff := cmp.Diff(want, state(t, o.Tree)); diff != "" {
		t.Error("demoted:", diff)
	}
	if diff := cmp.Diff(map[string]string{"stable": v1 + " ", "testing": v3 + " " + v2 + " " + v1 + " "}, meta.versions()); diff != "" {
		t.Error(diff)
	}
	if report := verifyTree(t, o.Tree, signer); len(report.Problems)+len(report.Unnamed) > 0 {
		t.Error(report.Problems, report.Unnamed)
	}
}

// What makes no sense is refused before anything changes.
func TestPromoteDemoteSeverityPrune_WrongArguments_ChangeNothing(t *testing.T) {
	o, _, _ := threeReleases(t)
	before := snapshot(t, o.Tree)
	_, err := release.Promote(t.Context(), o, "202601010000", "stable")
	checkErr(t, err, release.ErrNoRelease)
	_, err = release.Demote(t.Context(), o, v2, "stable")
	checkErr(t, err, release.ErrChannel)
	nowhere := o
	nowhere.Tree = filepath.Join(o.Tree, "nowhere")
	_, err = release.Prune(t.Context(), nowhere, 1)
	checkErr(t, err, os.ErrNotExist)
	for _, wrong := range []func() error{
		func() error { _, err := release.Promote(t.Context(), o, "../"+v1, "stable"); return err },
		func() error { _, err := release.Promote(t.Context(), o, v1, "../x"); return err },
		func() error { _, err := release.SetSeverity(t.Context(), o, v1, "urgent"); return err },
		func() error { _, err := release.Prune(t.Context(), o, 0); return err },
		func() error { _, err := release.Prune(t.Context(), release.TreeOptions{Tree: o.Tree}, 1); return err },
	} {
		if wrong() == nil {
			t.Error("accepted")
		}
	}
	if diff := cmp.Diff(before, snapshot(t, o.Tree)); diff != "" {
		t.Error(diff)
	}
}

// A release that is the newest of a quiet channel must outlive many of a busy one.
func TestPrune_TwoChannels_KeepsTheNewestOfEach(t *testing.T) {
	o, meta, signer := threeReleases(t)
	gone, err := release.Prune(t.Context(), o, 1)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{v2}, gone); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{v3 + " none testing: x86_64/changelog-testing.yaml.gz", v1 + " none stable+testing:"}, state(t, o.Tree)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(map[string]string{"stable": v1 + " ", "testing": v3 + " " + v1 + " "}, meta.versions()); diff != "" {
		t.Error(diff)
	}
	if _, err := os.Stat(filepath.Join(o.Tree, v2)); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	if report := verifyTree(t, o.Tree, signer); len(report.Problems)+len(report.Unnamed) > 0 {
		t.Error(report.Problems, report.Unnamed)
	}
}

// A tree of before has no manifests; its releases get them when something is said of them.
func TestPromote_ReleaseWithoutManifest_MakesOne(t *testing.T) {
	o, _, signer := threeReleases(t)
	want := readManifest(t, o.Tree, v2)
	if err := os.Remove(filepath.Join(o.Tree, v2, "x86_64", "manifest.json")); err != nil {
		t.Fatal(err)
	}
	if report := verifyTree(t, o.Tree, signer); len(report.Problems) > 0 {
		t.Error(report.Problems)
	}
	if _, err := release.Promote(t.Context(), o, v2, "other"); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want.Parts, readManifest(t, o.Tree, v2).Parts); diff != "" {
		t.Error(diff)
	}
}

// Whoever mirrors a tree wants to know all that is wrong with it, not the first thing.
func TestVerifyTree_DamagedTree_NamesEveryProblem(t *testing.T) {
	o, _, signer := threeReleases(t)
	stranger := newIdentity(t, "stranger", nil)
	dir := v1 + "/x86_64/"
	change := func(name string, how func([]byte) []byte) {
		path := filepath.Join(o.Tree, name)
		data, err := os.ReadFile(path)
		if err == nil {
			err = os.Remove(path) // releases share what is the same
		}
		if err == nil {
			err = os.WriteFile(path, how(data), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	change(dir+"incus.raw.gz", func(b []byte) []byte { b[len(b)-9] ^= 1; return b })
	change(dir+"Holdfast_"+v1+".efi.gz", func(b []byte) []byte { return b[1:] })
	change(v2+"/x86_64/manifest.json", func(b []byte) []byte {
		return bytes.Replace(b, []byte(sumOf([]byte("application"))), []byte(sumOf([]byte("x"))), 1)
	})
	change(v3+"/x86_64/manifest.json", func(b []byte) []byte { return bytes.ReplaceAll(b, []byte(`"none"`), []byte(`"high"`)) })
	change(v3+"/update.json", bytes.ToUpper)
	signed, err := smimeOf([]byte("{}\n"), stranger)
	if err != nil {
		t.Fatal(err)
	}
	change(v2+"/update.sjson", func([]byte) []byte { return signed })
	if err := errors.Join(os.Remove(filepath.Join(o.Tree, dir+"os.spdx.json.gz")), os.WriteFile(filepath.Join(o.Tree, dir+"extra"), nil, 0o644)); err != nil {
		t.Fatal(err)
	}
	report := verifyTree(t, o.Tree, signer)
	got := map[string]string{}
	for _, p := range report.Problems {
		kind := "other"
		for name, is := range map[string]error{"mismatch": release.ErrMismatch, "untrusted": release.ErrUntrusted, "missing": os.ErrNotExist} {
			if errors.Is(p.Err, is) {
				kind = name
			}
		}
		got[p.Path] += kind
	}
	want := map[string]string{
		dir + "incus.raw.gz":               "mismatch",
		dir + "Holdfast_" + v1 + ".efi.gz": "mismatch",
		dir + "os.spdx.json.gz":            "missing",
		v2 + "/update.sjson":               "untrusted",
		v2 + "/x86_64/incus.raw.gz":        "mismatch",
		v3 + "/update.json":                "mismatch",
		v3 + "/x86_64/manifest.json":       "mismatch",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	shallow, err := release.VerifyTree(t.Context(), release.VerifyOptions{Tree: o.Tree, UpdateCA: signer.pem()})
	if err != nil {
		t.Fatal(err)
	}
	var paths []string
	for _, p := range shallow.Problems {
		paths = append(paths, p.Path)
	}
	// That something else comes out of a good file shows only where it is unpacked.
	delete(want, v2+"/x86_64/incus.raw.gz")
	if diff := cmp.Diff(slices.Sorted(maps.Keys(want)), paths); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{dir + "extra"}, report.Unnamed); diff != "" {
		t.Error(diff)
	}
	foreign, err := release.VerifyTree(t.Context(), release.VerifyOptions{Tree: o.Tree, UpdateCA: stranger.pem()})
	if err != nil || len(foreign.Problems) != 1 || !errors.Is(foreign.Problems[0].Err, release.ErrUntrusted) || foreign.Problems[0].Path != "index.sjson" {
		t.Errorf("got %v, %v", foreign.Problems, err)
	}
}

// The copy on a stick must be believed by the same nodes as the tree.
func TestExport_NewestRelease_IsServedAndVerified(t *testing.T) {
	o, _, signer := threeReleases(t)
	to := filepath.Join(t.TempDir(), "stick")
	if _, err := release.Export(t.Context(), o.Tree, to, ""); err != nil {
		t.Fatal(err)
	}
	source := newSource(t, serve(t, to), signer.pem(), release.Limits{})
	update, err := source.Latest(t.Context(), "testing", "x86_64", v1)
	if err != nil || update.Version != v3 {
		t.Fatal(update.Version, err)
	}
	for _, f := range update.Files {
		if err := source.Fetch(t.Context(), update, f, filepath.Join(t.TempDir(), "file"), nil); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Stat(filepath.Join(to, v2)); !errors.Is(err, os.ErrNotExist) {
		t.Error("more than one release was copied")
	}
	_, err = release.Export(t.Context(), o.Tree, to, v2)
	checkErr(t, err, release.ErrNotNewest)
	_, err = release.Export(t.Context(), o.Tree, to, "202601010000")
	checkErr(t, err, release.ErrNoRelease)
	if _, err := release.Export(t.Context(), o.Tree, to, v1); err != nil {
		t.Error(err) // the newest of stable
	}
}

// A cut download goes on where it was, unless the file is another by now.
func TestServe_RangesAndTags_AreAnsweredAsTheStandardSays(t *testing.T) {
	tree := t.TempDir()
	name := filepath.Join(tree, "file.gz")
	if err := os.WriteFile(name, []byte("0123456789"), 0o644); err != nil {
		t.Fatal(err)
	}
	handler, err := release.Serve(tree)
	if err != nil {
		t.Fatal(err)
	}
	defer handler.Close()
	get := func(header ...string) *httptest.ResponseRecorder {
		r := httptest.NewRequest(http.MethodGet, "/file.gz", nil)
		for i := 0; i < len(header); i += 2 {
			r.Header.Set(header[i], header[i+1])
		}
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		return w
	}
	tag := get().Header().Get("ETag")
	answer := func(w *httptest.ResponseRecorder) string {
		return fmt.Sprint(w.Code, " ", w.Header().Get("Content-Range"), " ", strings.TrimSpace(w.Body.String()))
	}
	got := []string{
		answer(get()), answer(get("Range", "bytes=4-6")), answer(get("Range", "bytes=-3")), answer(get("Range", "bytes=10-")),
		answer(get("If-None-Match", tag)), answer(get("Range", "bytes=4-", "If-Range", tag)), answer(get("Range", "bytes=4-", "If-Range", `"other"`)),
	}
	want := []string{
		"200  0123456789", "206 bytes 4-6/10 456", "206 bytes 7-9/10 789", "416 bytes */10 invalid range: failed to overlap",
		"304  ", "206 bytes 4-9/10 456789", "200  0123456789",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if err := errors.Join(os.WriteFile(name+".new", []byte("9876543210"), 0o644), os.Rename(name+".new", name)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff("200  9876543210", answer(get("Range", "bytes=4-", "If-Range", tag))); diff != "" {
		t.Error(diff)
	}
}

// An application that did not change is packed once, however many releases carry it.
func TestPublish_ApplicationThatStayed_SharesItsPackedFile(t *testing.T) {
	o, _, _ := threeReleases(t)
	var files []os.FileInfo
	for _, version := range []string{v1, v2} {
		info, err := os.Stat(filepath.Join(o.Tree, version, "x86_64", "incus.raw.gz"))
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, info)
	}
	if !os.SameFile(files[0], files[1]) {
		t.Error("two releases have a packed file each for the same application")
	}
}
