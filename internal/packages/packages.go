// Package packages tells what Debian packages a release is made of, and what is new in
// them: lists, changelogs with their CVE numbers, and bills of material (SPDX).
//
// Who takes part: dpkg's status file of the tree that the system is made of, mkosi's
// manifests of the layers over it, and the .deb files that both were installed from. A
// build turns them into one list for each component; the publisher turns lists into
// documents; a node shows the documents and acts on none.
//
// What always holds: the same input gives the same bytes, lists are sorted, and each
// reader has a limit. Nothing here opens a file or starts a program. Data packed with xz
// is read through a function that the caller brings (Members).
//
// What can fail: a changelog tells only the CVEs that its maintainer wrote down, and a
// package whose .deb is gone has none at all. A list is therefore never a proof that a
// CVE is absent.
package packages

import (
	"bufio"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"

	"github.com/holdfast-os/holdfast/api/release"
)

// Limits of what is read, in bytes and in number.
const (
	maxStatus   = 64 << 20
	maxLine     = 1 << 20
	maxPackages = 20000
)

// ErrFormat means that the input is not what it is said to be.
var ErrFormat = errors.New("malformed")

var (
	nameForm         = regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]{0,199}$`)
	architectureForm = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,31}$`)
	sourceForm       = regexp.MustCompile(`^([a-z0-9][a-z0-9+.-]{0,199})(?:\s+\(([^()\s]+)\))?$`)
)

// FromDpkgStatus reads dpkg's status file, and gives the packages that are installed.
// ErrFormat when it is another file.
func FromDpkgStatus(component release.Component, r io.Reader) (release.PackageList, error) {
	list := release.PackageList{Component: component, Packages: []release.Package{}}
	err := stanzas(r, func(fields map[string]string) error {
		if words := strings.Fields(fields["Status"]); len(words) != 3 || words[2] != "installed" {
			return nil
		}
		p, err := fromControl(fields)
		if err != nil {
			return err
		}
		if len(list.Packages) == maxPackages {
			return fmt.Errorf("%w: more than %d packages", ErrFormat, maxPackages)
		}
		list.Packages = append(list.Packages, p)
		return nil
	})
	if err != nil {
		return release.PackageList{}, fmt.Errorf("reading dpkg's status: %w", err)
	}
	sortPackages(list.Packages)
	return list, nil
}

// FromManifest reads a manifest of mkosi (ManifestFormat=json). That of a layer has the
// packages of the layer alone. It does not name sources: Source is the package's own name
// until a .deb says more.
func FromManifest(component release.Component, r io.Reader) (release.PackageList, error) {
	var manifest struct {
		Version  int `json:"manifest_version"`
		Packages []struct{ Type, Name, Version, Architecture string }
	}
	data, err := io.ReadAll(io.LimitReader(r, maxStatus+1))
	if err != nil {
		return release.PackageList{}, fmt.Errorf("reading mkosi's manifest: %w", err)
	}
	if len(data) > maxStatus {
		return release.PackageList{}, fmt.Errorf("reading mkosi's manifest: %w: more than %d bytes", ErrFormat, maxStatus)
	}
	if err := json.Unmarshal(data, &manifest); err != nil {
		return release.PackageList{}, fmt.Errorf("reading mkosi's manifest: %w: %w", ErrFormat, err)
	}
	if manifest.Version != 1 || len(manifest.Packages) > maxPackages {
		return release.PackageList{}, fmt.Errorf("reading mkosi's manifest: %w: version %d with %d packages", ErrFormat, manifest.Version, len(manifest.Packages))
	}
	list := release.PackageList{Component: component, Packages: []release.Package{}}
	for _, m := range manifest.Packages {
		if m.Type != "deb" {
			continue
		}
		p, err := fromControl(map[string]string{"Package": m.Name, "Version": m.Version, "Architecture": m.Architecture})
		if err != nil {
			return release.PackageList{}, fmt.Errorf("reading mkosi's manifest: %w", err)
		}
		list.Packages = append(list.Packages, p)
	}
	sortPackages(list.Packages)
	return list, nil
}

// Union puts lists of one component together; what is in several is there once.
func Union(component release.Component, lists ...release.PackageList) release.PackageList {
	all := []release.Package{}
	seen := map[string]bool{}
	for _, list := range lists {
		for _, p := range list.Packages {
			if key := key(p); !seen[key] {
				seen[key] = true
				all = append(all, p)
			}
		}
	}
	sortPackages(all)
	return release.PackageList{Component: component, Packages: all}
}

// Minus is list without what is in base: what a layer adds. A package that the layer has
// in another version is its own.
func Minus(list, base release.PackageList) release.PackageList {
	under := map[string]bool{}
	for _, p := range base.Packages {
		under[key(p)] = true
	}
	out := release.PackageList{Component: list.Component, Packages: []release.Package{}}
	for _, p := range list.Packages {
		if !under[key(p)] {
			out.Packages = append(out.Packages, p)
		}
	}
	return out
}

// Check refuses a list that this package would not have made: from a build directory or a
// tree that somebody wrote by hand. ErrFormat.
func Check(list release.PackageList) error {
	if len(list.Packages) > maxPackages {
		return fmt.Errorf("%w: %d packages", ErrFormat, len(list.Packages))
	}
	for i, p := range list.Packages {
		if err := checkPackage(p); err != nil {
			return err
		}
		if i > 0 && compare(list.Packages[i-1], p) >= 0 {
			return fmt.Errorf("%w: package %s is not in its place", ErrFormat, p.Name)
		}
		if len(p.Changes) > MaxChanges {
			return fmt.Errorf("%w: package %s has %d changes", ErrFormat, p.Name, len(p.Changes))
		}
		for _, change := range p.Changes {
			if !slices.IsSorted(change.CVEs) || slices.ContainsFunc(change.CVEs, func(c string) bool { return !cveWhole.MatchString(c) }) || !validVersion(change.Version) {
				return fmt.Errorf("%w: package %s, change %q", ErrFormat, p.Name, change.Version)
			}
		}
	}
	return nil
}

func checkPackage(p release.Package) error {
	if !nameForm.MatchString(p.Name) || !nameForm.MatchString(p.Source) || !architectureForm.MatchString(p.Architecture) ||
		!validVersion(p.Version) || !validVersion(p.SourceVersion) {
		return fmt.Errorf("%w: package %q, version %q, architecture %q, source %q %q", ErrFormat, p.Name, p.Version, p.Architecture, p.Source, p.SourceVersion)
	}
	return nil
}

// FromControl reads the control file of a .deb.
func FromControl(r io.Reader) (release.Package, error) {
	var found []release.Package
	err := stanzas(r, func(fields map[string]string) error {
		p, err := fromControl(fields)
		found = append(found, p)
		return err
	})
	if err == nil && len(found) != 1 {
		err = fmt.Errorf("%w: %d packages in it", ErrFormat, len(found))
	}
	if err != nil {
		return release.Package{}, fmt.Errorf("reading a control file: %w", err)
	}
	return found[0], nil
}

// fromControl makes a package of the fields of a stanza. Without a field Source, or a
// version in it, the source has the package's own.
func fromControl(fields map[string]string) (release.Package, error) {
	p := release.Package{Name: fields["Package"], Version: fields["Version"], Architecture: fields["Architecture"]}
	p.Source, p.SourceVersion = p.Name, p.Version
	if source, ok := fields["Source"]; ok {
		match := sourceForm.FindStringSubmatch(source)
		if match == nil {
			return release.Package{}, fmt.Errorf("%w: package %q has the source %q", ErrFormat, p.Name, source)
		}
		p.Source = match[1]
		p.SourceVersion = cmp.Or(match[2], p.Version)
	}
	return p, checkPackage(p)
}

// stanzas gives the paragraphs of a file of dpkg, one after the other. Lines that go on a
// field are left out: no field that is asked for has any.
func stanzas(r io.Reader, each func(map[string]string) error) error {
	limited := &io.LimitedReader{R: r, N: maxStatus + 1}
	scanner := bufio.NewScanner(limited)
	scanner.Buffer(nil, maxLine)
	fields := map[string]string{}
	flush := func() error {
		if len(fields) == 0 {
			return nil
		}
		err := each(fields)
		fields = map[string]string{}
		return err
	}
	for scanner.Scan() {
		line := scanner.Text()
		switch {
		case strings.TrimSpace(line) == "":
			if err := flush(); err != nil {
				return err
			}
			continue
		case line[0] == ' ' || line[0] == '\t':
			continue
		}
		name, value, ok := strings.Cut(line, ":")
		if !ok {
			return fmt.Errorf("%w: the line %.80q has no field", ErrFormat, line)
		}
		fields[name] = strings.TrimSpace(value)
	}
	if err := scanner.Err(); err != nil {
		return err
	}
	if limited.N <= 0 {
		return fmt.Errorf("%w: more than %d bytes", ErrFormat, maxStatus)
	}
	return flush()
}

func key(p release.Package) string { return p.Name + " " + p.Architecture + " " + p.Version }

func compare(a, b release.Package) int {
	return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Architecture, b.Architecture), CompareVersions(a.Version, b.Version))
}

func sortPackages(all []release.Package) { slices.SortFunc(all, compare) }
