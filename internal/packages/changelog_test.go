package packages_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/api/release"
	"github.com/holdfast-os/holdfast/internal/packages"
)

const changelog = `openssl (3.5.1-1+deb13u2) trixie-security; urgency=medium

  * CVE-2026-20002 (buffer overread), cve-2026-20001
  * Again CVE-2026-20001.

 -- A Person <a@example.org>  Sun, 22 Nov 2026 01:04:00 +0000

openssl (3.5.1-1+deb13u1) trixie; urgency=medium

  * A new logo.

 -- A Person <a@example.org>  Sun, 15 Nov 2026 01:04:00 +0000

openssl (3.5.1-1) unstable; urgency=medium

  * Fixes CVE-2026-10001.

 -- A Person <a@example.org>  Sun, 08 Nov 2026 01:04:00 +0000

Changes of upstream: CVE-1999-0001
`

// The owner decides by the CVEs of an update whether it can wait.
func TestParseChangelog_EntriesWithAndWithoutCVE_KeepsThoseWith(t *testing.T) {
	got, err := packages.ParseChangelog(strings.NewReader(changelog))
	if err != nil {
		t.Fatal(err)
	}
	want := []release.PackageChange{
		{Version: "3.5.1-1+deb13u2", CVEs: []string{"CVE-2026-20001", "CVE-2026-20002"}},
		{Version: "3.5.1-1", CVEs: []string{"CVE-2026-10001"}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// A changelog goes back thirty years, and a list goes to every node.
func TestParseChangelog_MoreEntriesThanKept_KeepsTheNewest(t *testing.T) {
	var text strings.Builder
	for n := range 60 {
		fmt.Fprintf(&text, "x1 (%d) unstable; urgency=low\n\n  * CVE-2026-%d\n\n -- A <a@b>  Sun\n\n", n+1, 1000+n)
	}
	got, err := packages.ParseChangelog(strings.NewReader(text.String()))
	if err != nil {
		t.Fatal(err)
	}
	type ends struct {
		Number      int
		First, Last string
	}
	if diff := cmp.Diff(ends{50, "60", "11"}, ends{len(got), got[0].Version, got[len(got)-1].Version}); diff != "" {
		t.Error(diff)
	}
}

func withChanges(p release.Package, version, source string, changes ...release.PackageChange) release.Package {
	p.Version, p.SourceVersion, p.Changes = version, source, changes
	return p
}

// What is new must be right in both directions: no CVE of before, none after.
func TestCompare_TwoReleases_TellsWhatIsNew(t *testing.T) {
	changes := []release.PackageChange{
		{Version: "3.5.3-1", CVEs: []string{"CVE-2026-30003"}},
		{Version: "3.5.2-1", CVEs: []string{"CVE-2026-30002"}},
		{Version: "3.5.1-1", CVEs: []string{"CVE-2026-30001"}},
	}
	kernel := func(version string) release.Package {
		return release.Package{
			Name: "linux-image-" + version, Version: version + "-1", Architecture: "amd64", Source: "linux-signed-amd64", SourceVersion: version + "+1",
			Changes: []release.PackageChange{
				{Version: "6.12.117+1", CVEs: []string{"CVE-2026-40117"}}, {Version: "6.12.116-1", CVEs: []string{"CVE-2026-40116"}},
			},
		}
	}
	virt := release.Package{Name: "virtiofsd", Version: "1.13", Architecture: "amd64", Source: "virtiofsd", SourceVersion: "1.13",
		Changes: []release.PackageChange{{Version: "1.13", CVEs: []string{"CVE-2026-50001"}}}}
	before := []release.PackageList{
		listOf("os", adduser, libssl, kernel("6.12.116"), withChanges(openssl, "3.5.1-1", "3.5.1-1")),
		listOf("incus", virt),
		listOf("debug", adduser),
	}
	now := []release.PackageList{
		listOf("os", libssl, kernel("6.12.117"), withChanges(openssl, "3.5.2-1", "3.5.2-1", changes...)),
		listOf("incus", virt),
		listOf("openfga", virt),
	}
	want := release.Changelog{Components: map[release.Component]release.ComponentChanges{
		"os": {
			Added:   []string{"linux-image-6.12.117 6.12.117-1"},
			Updated: []string{"openssl 3.5.1-1 to 3.5.2-1"},
			Removed: []string{"adduser 3.152", "linux-image-6.12.116 6.12.116-1"},
			CVEs:    []string{"CVE-2026-30002", "CVE-2026-40117"},
		},
		"debug":   {Removed: []string{"adduser 3.152"}},
		"openfga": {Added: []string{"virtiofsd 1.13"}},
	}}
	if diff := cmp.Diff(want, packages.Compare(before, now)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(release.Changelog{Components: map[release.Component]release.ComponentChanges{}}, packages.Compare(now, now)); diff != "" {
		t.Error(diff)
	}
	back := packages.Compare(now[:1], before[:1]).Components["os"]
	if diff := cmp.Diff([]string(nil), back.CVEs); diff != "" {
		t.Error(diff)
	}
}

func FuzzParseChangelog(f *testing.F) {
	f.Add(changelog)
	f.Fuzz(func(t *testing.T, text string) {
		got, err := packages.ParseChangelog(strings.NewReader(text))
		if err != nil {
			return
		}
		p := openssl
		p.Changes = got
		if err := packages.Check(listOf("os", p)); err != nil && !errors.Is(err, packages.ErrFormat) {
			t.Error(err)
		} else if err != nil {
			t.Errorf("what was parsed is refused: %v", err)
		}
	})
}
