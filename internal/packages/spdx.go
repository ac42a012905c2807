package packages

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/holdfast-os/holdfast/api/release"
)

// spdxDocument and the types below are what is written of SPDX 2.3
// (https://spdx.github.io/spdx-spec/v2.3/).
type spdxDocument struct {
	Version       string             `json:"spdxVersion"`
	License       string             `json:"dataLicense"`
	ID            string             `json:"SPDXID"`
	Name          string             `json:"name"`
	Namespace     string             `json:"documentNamespace"`
	Creation      spdxCreation       `json:"creationInfo"`
	Packages      []spdxPackage      `json:"packages"`
	Relationships []spdxRelationship `json:"relationships"`
}

type spdxCreation struct {
	Created  string   `json:"created"`
	Creators []string `json:"creators"`
}

type spdxPackage struct {
	Name          string         `json:"name"`
	ID            string         `json:"SPDXID"`
	Version       string         `json:"versionInfo"`
	FileName      string         `json:"packageFileName,omitempty"`
	Supplier      string         `json:"supplier"`
	Location      string         `json:"downloadLocation"`
	FilesAnalyzed bool           `json:"filesAnalyzed"`
	Checksums     []spdxChecksum `json:"checksums,omitempty"`
	Concluded     string         `json:"licenseConcluded"`
	Declared      string         `json:"licenseDeclared"`
	Copyright     string         `json:"copyrightText"`
	SourceInfo    string         `json:"sourceInfo,omitempty"`
	References    []spdxRef      `json:"externalRefs,omitempty"`
	Purpose       string         `json:"primaryPackagePurpose,omitempty"`
}

type spdxChecksum struct {
	Algorithm string `json:"algorithm"`
	Value     string `json:"checksumValue"`
}

type spdxRef struct {
	Category string `json:"referenceCategory"`
	Type     string `json:"referenceType"`
	Locator  string `json:"referenceLocator"`
}

type spdxRelationship struct {
	Element string `json:"spdxElementId"`
	Type    string `json:"relationshipType"`
	Related string `json:"relatedSpdxElement"`
}

const noAssertion = "NOASSERTION"

// SPDX makes the bill of materials of one component of a release as SPDX 2.3 in JSON: the
// component's own files with their sums, and its Debian packages as package URLs. The same
// input gives the same bytes; the time in it is that of publication.
func SPDX(m release.Manifest, list release.PackageList) ([]byte, error) {
	name := strings.Join([]string{"holdfast", m.Version, m.Architecture, string(list.Component)}, "-")
	root := spdxPackage{
		Name: "holdfast-" + string(list.Component), ID: "SPDXRef-Component", Version: m.Version,
		Supplier: noAssertion, Location: noAssertion, Concluded: noAssertion, Declared: noAssertion,
		Copyright: noAssertion, Purpose: "APPLICATION",
	}
	if list.Component == release.ComponentOS {
		root.Purpose = "OPERATING-SYSTEM"
	}
	document := spdxDocument{
		Version: "SPDX-2.3", License: "CC0-1.0", ID: "SPDXRef-DOCUMENT", Name: name,
		Namespace:     "https://spdx.org/spdxdocs/" + name,
		Creation:      spdxCreation{m.PublishedAt.UTC().Format(time.RFC3339), []string{"Tool: holdfast"}},
		Packages:      []spdxPackage{root},
		Relationships: []spdxRelationship{{"SPDXRef-DOCUMENT", "DESCRIBES", root.ID}},
	}
	add := func(p spdxPackage) {
		document.Packages = append(document.Packages, p)
		document.Relationships = append(document.Relationships, spdxRelationship{root.ID, "CONTAINS", p.ID})
	}
	for i, part := range m.Parts {
		if part.Component == list.Component {
			add(spdxOfPart(m.Version, i, part))
		}
	}
	for i, p := range list.Packages {
		add(spdxOfPackage(i, p))
	}
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(document); err != nil {
		return nil, fmt.Errorf("encoding the bill of materials of %s: %w", list.Component, err)
	}
	return out.Bytes(), nil
}

func spdxOfPart(version string, i int, part release.Part) spdxPackage {
	return spdxPackage{
		Name: part.Name, ID: fmt.Sprintf("SPDXRef-File-%d", i+1), Version: version, FileName: part.Name,
		Supplier: noAssertion, Location: noAssertion, Checksums: []spdxChecksum{{"SHA256", part.SHA256}},
		Concluded: noAssertion, Declared: noAssertion, Copyright: noAssertion, Purpose: "FILE",
	}
}

func spdxOfPackage(i int, p release.Package) spdxPackage {
	return spdxPackage{
		Name: p.Name, ID: fmt.Sprintf("SPDXRef-Package-%d", i+1), Version: p.Version,
		Supplier: "Organization: Debian", Location: noAssertion,
		Concluded: noAssertion, Declared: noAssertion, Copyright: noAssertion,
		SourceInfo: "built from the Debian source package " + p.Source + " " + p.SourceVersion,
		References: []spdxRef{{"PACKAGE-MANAGER", "purl", PURL(p)}},
	}
}

// PURL is the package URL of a Debian package, as
// "pkg:deb/debian/openssl@3.5.1-1?arch=amd64". Its source is named by upstream where it has
// another name or version, which is what scanners look up.
func PURL(p release.Package) string {
	out := "pkg:deb/debian/" + purlEscape(p.Name) + "@" + purlEscape(p.Version) + "?arch=" + purlEscape(p.Architecture)
	switch {
	case p.Source == p.Name && p.SourceVersion == p.Version:
	case p.SourceVersion == p.Version:
		out += "&upstream=" + purlEscape(p.Source)
	default:
		out += "&upstream=" + purlEscape(p.Source+"@"+p.SourceVersion)
	}
	return out
}

// purlEscape percent-encodes all but letters, digits, ".", "-", "_", "~" and ":". There are
// no blanks in what it is for.
func purlEscape(s string) string {
	return strings.ReplaceAll(url.QueryEscape(s), "%3A", ":")
}
