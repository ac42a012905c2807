package packages

import (
	"bufio"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"

	"github.com/holdfast-os/holdfast/api/release"
)

// Limits of a changelog.
const (
	// MaxChanges is how many entries of a changelog a list keeps: those that name a CVE,
	// the newest.
	MaxChanges = 50

	maxChangelog = 64 << 20
	// maxCVEs is for one entry; the largest of the kernel have some hundreds.
	maxCVEs = 5000
)

var (
	entryForm = regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]*[ \t]+\(([^()\s]+)\)[^;]*;`)
	cveForm   = regexp.MustCompile(`(?i)\bCVE-([0-9]{4}-[0-9]{4,7})\b`)
	cveWhole  = regexp.MustCompile(`^CVE-[0-9]{4}-[0-9]{4,7}$`)
)

// ParseChangelog reads a Debian changelog (deb-changelog(5)) and keeps the entries that
// name a CVE, newest first, at most MaxChanges. Text outside of an entry is passed over,
// so that a changelog of upstream behind it does not count.
func ParseChangelog(r io.Reader) ([]release.PackageChange, error) {
	limited := &io.LimitedReader{R: r, N: maxChangelog + 1}
	scanner := bufio.NewScanner(limited)
	scanner.Buffer(nil, maxLine)
	var found []release.PackageChange
	version := ""
	cves := map[string]bool{}
	flush := func() {
		if version != "" && len(cves) > 0 {
			found = append(found, release.PackageChange{Version: version, CVEs: sortedKeys(cves)})
		}
		version = ""
		clear(cves)
	}
	for scanner.Scan() {
		line := scanner.Text()
		if match := entryForm.FindStringSubmatch(line); match != nil && validVersion(match[1]) {
			flush()
			version = match[1]
			continue
		}
		if strings.HasPrefix(line, " -- ") {
			flush()
			continue
		}
		if version == "" {
			continue
		}
		for _, match := range cveForm.FindAllStringSubmatch(line, -1) {
			if len(cves) < maxCVEs {
				cves["CVE-"+match[1]] = true
			}
		}
	}
	flush()
	if err := scanner.Err(); err != nil {
		return nil, fmt.Errorf("reading a changelog: %w", err)
	}
	if limited.N <= 0 {
		return nil, fmt.Errorf("reading a changelog: %w: more than %d bytes", ErrFormat, maxChangelog)
	}
	slices.SortStableFunc(found, func(a, b release.PackageChange) int { return CompareVersions(b.Version, a.Version) })
	found = slices.CompactFunc(found, func(a, b release.PackageChange) bool { return CompareVersions(a.Version, b.Version) == 0 })
	return found[:min(len(found), MaxChanges)], nil
}

func sortedKeys(set map[string]bool) []string {
	out := make([]string, 0, len(set))
	for k := range set {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}
