package packages_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/api/release"
	"github.com/holdfast-os/holdfast/internal/packages"
)

func manifest() release.Manifest {
	return release.Manifest{
		Version: "202611220104", Architecture: "x86_64", PublishedAt: time.Date(2026, 11, 22, 1, 4, 5, 0, time.UTC),
		Parts: []release.Part{
			{Name: "Holdfast_202611220104.efi", Component: "os", SHA256: strings.Repeat("ab", 32)},
			{Name: "incus.raw", Component: "incus", SHA256: strings.Repeat("cd", 32)},
		},
	}
}

// Auditors compare these documents: the same release gives the same bytes.
func TestSPDX_OfAComponent_IsAsInTheFile(t *testing.T) {
	list := listOf("os", adduser, openssl)
	list.Packages[1].Version = "1:3.5.1-1+b2"
	got, err := packages.SPDX(manifest(), list)
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(filepath.Join("testdata", "os.spdx.json"))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Error(diff)
	}
}

// A scanner refuses a document that breaks the rules of SPDX 2.3: identifiers are of the
// allowed letters and single, and relations lead to something.
func TestSPDX_Structure_KeepsTheRulesOfTheStandard(t *testing.T) {
	text, err := packages.SPDX(manifest(), listOf("incus", adduser, libssl, openssl))
	if err != nil {
		t.Fatal(err)
	}
	var document struct {
		SPDXVersion, DataLicense, SPDXID, Name, DocumentNamespace string
		CreationInfo                                              struct {
			Created  time.Time
			Creators []string
		}
		Packages []struct {
			Name, SPDXID, DownloadLocation string
			FilesAnalyzed                  *bool
			ExternalRefs                   []struct{ ReferenceCategory, ReferenceType, ReferenceLocator string }
		}
		Relationships []struct{ SpdxElementID, RelationshipType, RelatedSpdxElement string }
	}
	if err := json.Unmarshal(text, &document); err != nil {
		t.Fatal(err)
	}
	id := regexp.MustCompile(`^SPDXRef-[A-Za-z0-9.-]+$`)
	purl := regexp.MustCompile(`^pkg:deb/debian/[a-z0-9.%B-]+@[A-Za-z0-9.%:~_-]+\?arch=[a-z0-9]+(&upstream=[A-Za-z0-9.%:~_-]+)?$`)
	known := map[string]bool{document.SPDXID: true}
	for _, p := range document.Packages {
		if !id.MatchString(p.SPDXID) || known[p.SPDXID] || p.Name == "" || p.DownloadLocation == "" || p.FilesAnalyzed == nil || *p.FilesAnalyzed {
			t.Errorf("package %+v", p)
		}
		known[p.SPDXID] = true
		for _, ref := range p.ExternalRefs {
			if ref.ReferenceCategory != "PACKAGE-MANAGER" || ref.ReferenceType != "purl" || !purl.MatchString(ref.ReferenceLocator) {
				t.Errorf("reference %+v", ref)
			}
		}
	}
	for _, r := range document.Relationships {
		if !known[r.SpdxElementID] || !known[r.RelatedSpdxElement] || r.RelationshipType == "" {
			t.Errorf("relationship %+v", r)
		}
	}
	head := []string{document.SPDXVersion, document.DataLicense, document.SPDXID, document.DocumentNamespace, document.CreationInfo.Created.String()}
	want := []string{"SPDX-2.3", "CC0-1.0", "SPDXRef-DOCUMENT", "https://spdx.org/spdxdocs/holdfast-202611220104-x86_64-incus", "2026-11-22 01:04:05 +0000 UTC"}
	if diff := cmp.Diff(want, head); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]int{5, 5}, []int{len(document.Packages), len(document.Relationships)}); diff != "" {
		t.Error(diff)
	}
}
