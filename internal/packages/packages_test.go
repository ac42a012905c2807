package packages_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/api/release"
	"github.com/holdfast-os/holdfast/internal/packages"
)

const status = `Package: openssl
Status: install ok installed
Architecture: amd64
Version: 3.5.1-1+b2
Source: openssl (3.5.1-1)
Description: a toolkit
 Version: this line goes on the one before

Package: libssl3t64
Status: install ok installed
Architecture: amd64
Source: openssl
Version: 3.5.1-1

Package: gone
Status: deinstall ok config-files
Architecture: amd64
Version: 1

Package: unknown
Architecture: amd64

Package: adduser
Status: install ok installed
Architecture: all
Version: 3.152
`

var (
	adduser = release.Package{Name: "adduser", Version: "3.152", Architecture: "all", Source: "adduser", SourceVersion: "3.152"}
	libssl  = release.Package{Name: "libssl3t64", Version: "3.5.1-1", Architecture: "amd64", Source: "openssl", SourceVersion: "3.5.1-1"}
	openssl = release.Package{Name: "openssl", Version: "3.5.1-1+b2", Architecture: "amd64", Source: "openssl", SourceVersion: "3.5.1-1"}
)

func listOf(component release.Component, all ...release.Package) release.PackageList {
	if all == nil {
		all = []release.Package{}
	}
	return release.PackageList{Component: component, Packages: all}
}

// Scanners look a package up by its source: a rebuild and a package of another name must
// lead there.
func TestFromDpkgStatus_InstalledAndRemovedPackages_ListsTheInstalledOnes(t *testing.T) {
	got, err := packages.FromDpkgStatus("os", strings.NewReader(status))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(listOf("os", adduser, libssl, openssl), got); diff != "" {
		t.Error(diff)
	}
}

// A wrong file must not become a release without packages.
func TestFromDpkgStatus_MalformedFile_Refuses(t *testing.T) {
	for name, text := range map[string]string{
		"no field":     "hello\n",
		"bad name":     "Package: ../x\nStatus: install ok installed\nArchitecture: all\nVersion: 1\n",
		"no version":   "Package: x1\nStatus: install ok installed\nArchitecture: all\n",
		"bad source":   "Package: x1\nStatus: install ok installed\nArchitecture: all\nVersion: 1\nSource: y (\n",
		"bad arch":     "Package: x1\nStatus: install ok installed\nArchitecture: A\nVersion: 1\n",
		"odd version":  "Package: x1\nStatus: install ok installed\nArchitecture: all\nVersion: 1 2\n",
		"empty source": "Package: x1\nStatus: install ok installed\nArchitecture: all\nVersion: 1\nSource:\n",
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := packages.FromDpkgStatus("os", strings.NewReader(text)); !errors.Is(err, packages.ErrFormat) {
				t.Errorf("got %v", err)
			}
		})
	}
}

// A layer's manifest has the layer alone, and no sources.
func TestFromManifest_OfALayer_ListsItsPackages(t *testing.T) {
	got, err := packages.FromManifest("incus", strings.NewReader(`{"manifest_version": 1, "config": {"name": "incus"}, "packages": [
		{"type": "deb", "name": "openssl", "version": "3.5.1-1", "architecture": "amd64"},
		{"type": "deb", "name": "adduser", "version": "3.152", "architecture": "all"}]}`))
	if err != nil {
		t.Fatal(err)
	}
	plain := release.Package{Name: "openssl", Version: "3.5.1-1", Architecture: "amd64", Source: "openssl", SourceVersion: "3.5.1-1"}
	if diff := cmp.Diff(listOf("incus", adduser, plain), got); diff != "" {
		t.Error(diff)
	}
	for _, text := range []string{"", "[]", `{"manifest_version": 2}`, `{"manifest_version": 1, "packages": [{"type": "deb", "name": "x y"}]}`} {
		if _, err := packages.FromManifest("incus", strings.NewReader(text)); !errors.Is(err, packages.ErrFormat) {
			t.Errorf("%s: got %v", text, err)
		}
	}
}

// What an application brings is what is not below it already.
func TestMinusAndUnion_LayerOverBase_KeepWhatDiffers(t *testing.T) {
	newer := openssl
	newer.Version = "3.5.2-1"
	base, layer := listOf("os", adduser, openssl), listOf("incus", adduser, libssl, newer)
	if diff := cmp.Diff(listOf("incus", libssl, newer), packages.Minus(layer, base)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(listOf("os", adduser, libssl, openssl, newer), packages.Union("os", base, layer)); diff != "" {
		t.Error(diff)
	}
}

// A list out of a build folder is foreign input to the publisher.
func TestCheck_ListOfAnotherMaker_IsRefused(t *testing.T) {
	with := func(change release.PackageChange) release.Package {
		p := openssl
		p.Changes = []release.PackageChange{change}
		return p
	}
	if err := packages.Check(listOf("os", adduser, with(release.PackageChange{Version: "3.5.1-1", CVEs: []string{"CVE-2026-1234"}}))); err != nil {
		t.Error(err)
	}
	for name, list := range map[string]release.PackageList{
		"order":    listOf("os", openssl, adduser),
		"twice":    listOf("os", openssl, openssl),
		"no name":  listOf("os", release.Package{}),
		"no CVE":   listOf("os", with(release.PackageChange{Version: "1", CVEs: []string{"a thing\n"}})),
		"unsorted": listOf("os", with(release.PackageChange{Version: "1", CVEs: []string{"CVE-2026-2222", "CVE-2026-1111"}})),
		"version":  listOf("os", with(release.PackageChange{Version: "a b", CVEs: []string{"CVE-2026-2222"}})),
	} {
		t.Run(name, func(t *testing.T) {
			if err := packages.Check(list); !errors.Is(err, packages.ErrFormat) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func FuzzFromDpkgStatus(f *testing.F) {
	f.Add(status)
	f.Fuzz(func(t *testing.T, text string) {
		list, err := packages.FromDpkgStatus("os", strings.NewReader(text))
		if err != nil {
			return
		}
		for _, p := range list.Packages {
			if p.Name == "" || p.Version == "" || strings.ContainsAny(p.Name+p.Version+p.Source, " \n/") {
				t.Errorf("accepted %+v", p)
			}
		}
	})
}
