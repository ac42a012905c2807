package packages

import (
	"slices"

	"github.com/holdfast-os/holdfast/api/release"
)

// Compare tells what is new in a release against the one before it. Channel and versions
// are the caller's to fill in. A component without a change is left out; one that is new
// has all its packages under Added.
//
// CVEs are those that the changelog of a package that is updated, or takes the place of
// another of the same source, names in its entries after the old source version, up to the
// new one. A package that became older has none.
func Compare(before, now []release.PackageList) release.Changelog {
	out := release.Changelog{Components: map[release.Component]release.ComponentChanges{}}
	components := map[release.Component][2][]release.Package{}
	for i, lists := range [2][]release.PackageList{before, now} {
		for _, list := range lists {
			pair := components[list.Component]
			pair[i] = append(pair[i], list.Packages...)
			components[list.Component] = pair
		}
	}
	for component, pair := range components {
		changes := compareComponent(pair[0], pair[1])
		if len(changes.Added)+len(changes.Updated)+len(changes.Removed) > 0 {
			out.Components[component] = changes
		}
	}
	return out
}

func compareComponent(before, now []release.Package) release.ComponentChanges {
	var changes release.ComponentChanges
	old, current, sources := byName(before), byName(now), newestSources(before)
	cves := map[string]bool{}
	for name, p := range current {
		q, ok := old[name]
		switch {
		case !ok:
			changes.Added = append(changes.Added, name+" "+p.Version)
			addAfter(cves, sources[p.Source], p)
		case q.Version != p.Version:
			changes.Updated = append(changes.Updated, name+" "+q.Version+" to "+p.Version)
			addAfter(cves, q.SourceVersion, p)
		}
	}
	for name, q := range old {
		if _, ok := current[name]; !ok {
			changes.Removed = append(changes.Removed, name+" "+q.Version)
		}
	}
	slices.Sort(changes.Added)
	slices.Sort(changes.Updated)
	slices.Sort(changes.Removed)
	if len(cves) > 0 {
		changes.CVEs = sortedKeys(cves)
	}
	return changes
}

// addAfter adds the CVEs of the entries of p's changelog after the source version before,
// which is empty when the source is new: then nothing was mended.
func addAfter(cves map[string]bool, before string, p release.Package) {
	if before == "" {
		return
	}
	for _, change := range p.Changes {
		if CompareVersions(change.Version, before) <= 0 || CompareVersions(change.Version, p.SourceVersion) > 0 {
			continue
		}
		for _, cve := range change.CVEs {
			cves[cve] = true
		}
	}
}

// newestSources finds the version of a source that was there. The kernel and some
// libraries have a version in the name of their package: an update of these adds one
// package and removes another, and only their source tells that they belong together.
func newestSources(all []release.Package) map[string]string {
	out := map[string]string{}
	for _, p := range all {
		if have, ok := out[p.Source]; !ok || CompareVersions(have, p.SourceVersion) < 0 {
			out[p.Source] = p.SourceVersion
		}
	}
	return out
}

// byName finds packages by name. Where a list has a name for several architectures, the
// second and later ones have theirs added, as "libc6:i386".
func byName(all []release.Package) map[string]release.Package {
	out := map[string]release.Package{}
	for _, p := range all {
		name := p.Name
		if _, taken := out[name]; taken {
			name += ":" + p.Architecture
		}
		out[name] = p
	}
	return out
}
