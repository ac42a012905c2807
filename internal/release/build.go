package release

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/holdfast-os/holdfast/api/release"
	"github.com/holdfast-os/holdfast/internal/layout"
)

// artifact is one file of a build directory on its way into a tree.
type artifact struct {
	source    string
	name      string
	component release.Component
	kind      release.Type
	// trim cuts the zeros that only pad the file to the size of its partition.
	trim bool
}

var (
	usrForm         = regexp.MustCompile(`^usr-(x86-64|arm64)(-verity|-verity-sig)?\.([0-9a-f]{32}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12})\.raw$`)
	applicationForm = regexp.MustCompile(`^[a-z][a-z0-9]*([.-][a-z0-9]+)*$`)
)

// BuildVersion reads the file "version" of a build directory: 12 digits.
func BuildVersion(dir string) (string, error) {
	text, err := os.ReadFile(filepath.Join(dir, "version"))
	if err != nil {
		return "", fmt.Errorf("reading the version of the build: %w", err)
	}
	version := strings.TrimSpace(string(text))
	if !versionForm.MatchString(version) {
		return "", fmt.Errorf("reading the version of the build in %s: %q is not 12 digits", dir, version)
	}
	return version, nil
}

// artifacts finds what a build directory holds of a release, ordered by name. Other
// files are left alone; a release without all four parts of the OS is an error.
func artifacts(dir, version, arch string, medium bool) ([]artifact, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("reading the build: %w", err)
	}
	var found []artifact
	count := map[release.Type]int{}
	for _, entry := range entries {
		if !entry.Type().IsRegular() {
			continue
		}
		a, ok := classify(entry.Name(), version, arch)
		if !ok || (a.kind == release.TypeImageRaw && !medium) {
			continue
		}
		a.source = filepath.Join(dir, entry.Name())
		found = append(found, a)
		count[a.kind]++
	}
	needed := []release.Type{
		release.TypeUpdateEFI, release.TypeUpdateUsr, release.TypeUpdateUsrVerity, release.TypeUpdateUsrSignature,
	}
	if medium {
		needed = append(needed, release.TypeImageRaw)
	}
	var problems []error
	for _, kind := range needed {
		if count[kind] != 1 {
			problems = append(problems, fmt.Errorf("%d files of type %s in %s for version %s and %s, one is needed", count[kind], kind, dir, version, arch))
		}
	}
	slices.SortFunc(found, func(a, b artifact) int { return cmp.Compare(a.name, b.name) })
	return found, errors.Join(problems...)
}

// classify tells what a file is by its name.
func classify(name, version, arch string) (artifact, bool) {
	if rest, ok := strings.CutPrefix(name, layout.Name+"_"+version+"."); ok {
		return classifySystem(name, rest, arch)
	}
	application, ok := strings.CutSuffix(name, ".raw")
	if !ok || !applicationForm.MatchString(application) {
		return artifact{}, false
	}
	component := release.Component(application)
	if strings.HasPrefix(application, "incus-lts-") {
		component = release.ComponentIncus
	}
	return artifact{name: name, component: component, kind: release.TypeApplication}, true
}

func classifySystem(name, rest, arch string) (artifact, bool) {
	a := artifact{name: name, component: release.ComponentOS}
	switch rest {
	case "efi":
		a.kind = release.TypeUpdateEFI
		return a, true
	case "raw":
		a.kind, a.name = release.TypeImageRaw, strings.TrimSuffix(name, "raw")+"img"
		return a, true
	case "manifest.json":
		a.kind = release.TypeImageManifest
		return a, true
	}
	match := usrForm.FindStringSubmatch(rest)
	if match == nil || match[1] != map[string]string{"x86_64": "x86-64", "aarch64": "arm64"}[arch] {
		return artifact{}, false
	}
	switch match[2] {
	case "":
		a.kind, a.trim = release.TypeUpdateUsr, true
	case "-verity":
		a.kind, a.trim = release.TypeUpdateUsrVerity, true
	case "-verity-sig":
		a.kind = release.TypeUpdateUsrSignature
	}
	return a, true
}
