package cli

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	api "github.com/holdfast-os/holdfast/api/release"
	"github.com/holdfast-os/holdfast/internal/packages"
	"github.com/holdfast-os/holdfast/test/needs"
)

func writeInput(t *testing.T, name, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// buildDeb makes NAME_VERSION_amd64.deb, packed with xz as Debian's; without a changelog its
// folder of documents is a link.
func buildDeb(t *testing.T, dir, name, source, version, changelog string) {
	t.Helper()
	root := t.TempDir()
	control := "Package: " + name + "\nVersion: " + version + "\nArchitecture: amd64\nMaintainer: A <a@example.org>\nDescription: a test\n"
	if source != "" {
		control += "Source: " + source + "\n"
	}
	writeInput(t, filepath.Join(root, "DEBIAN/control"), control)
	doc := filepath.Join(root, "usr/share/doc", name)
	if changelog == "" {
		if err := os.MkdirAll(filepath.Dir(doc), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink("other", doc); err != nil {
			t.Fatal(err)
		}
	} else {
		var packed bytes.Buffer
		w := gzip.NewWriter(&packed)
		if _, err := w.Write([]byte(changelog)); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		writeInput(t, filepath.Join(doc, "changelog.Debian.gz"), packed.String())
		writeInput(t, filepath.Join(doc, "copyright"), strings.Repeat("free ", 1000))
	}
	file := filepath.Join(dir, name+"_"+strings.ReplaceAll(version, ":", "%3a")+"_amd64.deb")
	command := exec.Command("dpkg-deb", "--root-owner-group", "-Zxz", "--build", root, file)
	if out, err := command.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

func readList(t *testing.T, name string) api.PackageList {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	var list api.PackageList
	if err := json.Unmarshal(text, &list); err != nil {
		t.Fatal(err)
	}
	return list
}

// The lists of a release are as good as what is read out of the .deb files of its build: the
// CVEs reach every package of a source, and the second build does not unpack them again.
func TestImagePackages_BaseAndApplication_ListsBothWithTheirCVEs(t *testing.T) {
	needs.Programs(t, "dpkg-deb", "tar", "xz")
	env, _, stderr := testEnv(t, "")
	from, debs, out, cache := filepath.Join(env.Dir, "from"), filepath.Join(env.Dir, "debs"), filepath.Join(env.Dir, "out"), filepath.Join(env.Dir, "cache")
	writeInput(t, filepath.Join(from, "base/var/lib/dpkg/status"), "Package: libssl3\nStatus: install ok installed\nArchitecture: amd64\nSource: openssl\nVersion: 1:3.5-2\n\n"+
		"Package: gone-deb\nStatus: install ok installed\nArchitecture: amd64\nVersion: 1\n")
	writeInput(t, filepath.Join(from, "incus.manifest"), `{"manifest_version": 1, "packages": [
		{"type": "deb", "name": "openssl", "version": "1:3.5-2", "architecture": "amd64"},
		{"type": "deb", "name": "libssl3", "version": "1:3.5-2", "architecture": "amd64"}]}`)
	for _, name := range []string{"incus.raw", "openfga.raw", "Holdfast_202611220104.raw"} {
		writeInput(t, filepath.Join(from, name), "")
	}
	for _, dir := range []string{debs, out} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	buildDeb(t, debs, "libssl3", "openssl", "1:3.5-2", "")
	buildDeb(t, debs, "openssl", "", "1:3.5-2", "openssl (1:3.5-2) trixie; urgency=low\n\n  * CVE-2026-1234\n\n -- A <a@b>  Sun\n")
	run := func() {
		t.Helper()
		if code := Run(t.Context(), []string{"image", "packages", from, debs, out, "--cache", cache}, *env); code != ExitOK {
			t.Fatalf("exit code %d: %s", code, stderr)
		}
	}
	run()
	changes := []api.PackageChange{{Version: "1:3.5-2", CVEs: []string{"CVE-2026-1234"}}}
	want := []api.PackageList{
		{Component: "os", Packages: []api.Package{
			{Name: "gone-deb", Version: "1", Architecture: "amd64", Source: "gone-deb", SourceVersion: "1"},
			{Name: "libssl3", Version: "1:3.5-2", Architecture: "amd64", Source: "openssl", SourceVersion: "1:3.5-2", Changes: changes},
		}},
		{Component: "incus", Packages: []api.Package{
			{Name: "openssl", Version: "1:3.5-2", Architecture: "amd64", Source: "openssl", SourceVersion: "1:3.5-2", Changes: changes},
		}},
	}
	lists := func() []api.PackageList {
		return []api.PackageList{readList(t, filepath.Join(out, "packages-os.json")), readList(t, filepath.Join(out, "packages-incus.json"))}
	}
	if diff := cmp.Diff(want, lists()); diff != "" {
		t.Error(diff)
	}
	for _, part := range []string{"gone-deb", "openfga.manifest"} {
		if !strings.Contains(stderr.String(), part) {
			t.Errorf("nobody is told of %s: %s", part, stderr)
		}
	}
	// The same sizes with nothing in them: only the cache can know the rest.
	files, err := filepath.Glob(filepath.Join(debs, "*.deb"))
	if err != nil || len(files) != 2 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		info, err := os.Stat(file)
		if err != nil {
			t.Fatal(err)
		}
		writeInput(t, file, strings.Repeat("x", int(info.Size())))
	}
	run()
	if diff := cmp.Diff(want, lists()); diff != "" {
		t.Error(diff)
	}
}

// What comes from a program is foreign: a broken frame is an error.
func TestSplitMembers_GoodAndBrokenFrames_AreToldApart(t *testing.T) {
	got, err := splitMembers([]byte("3 ./a b\nabc0 ./empty\n2 ./c\n\n\n"))
	if err != nil {
		t.Fatal(err)
	}
	want := []packages.File{{Name: "./a b", Data: []byte("abc")}, {Name: "./empty", Data: []byte{}}, {Name: "./c", Data: []byte("\n\n")}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for _, broken := range []string{"x", "5 ./a\nabc", "-1 ./a\n", "3\nabc", "a b\n"} {
		if _, err := splitMembers([]byte(broken)); err == nil {
			t.Errorf("%q was accepted", broken)
		}
	}
}
