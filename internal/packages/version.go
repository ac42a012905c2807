package packages

import (
	"regexp"
	"strings"
)

// versionForm is what deb-version(7) allows, in at most 200 characters.
var versionForm = regexp.MustCompile(`^([0-9]{1,9}:)?[0-9A-Za-z.+~:-]{1,200}$`)

func validVersion(v string) bool { return versionForm.MatchString(v) }

// CompareVersions orders two versions as dpkg does: negative when a is older, 0 when they
// mean the same. An epoch counts first, then the upstream version, then Debian's revision;
// within each, digits compare as numbers and "~" sorts before everything, the end included
// (deb-version(7)).
func CompareVersions(a, b string) int {
	epochA, restA := cutEpoch(a)
	epochB, restB := cutEpoch(b)
	if c := compareDigits(epochA, epochB); c != 0 {
		return c
	}
	upstreamA, revisionA := cutRevision(restA)
	upstreamB, revisionB := cutRevision(restB)
	if c := comparePart(upstreamA, upstreamB); c != 0 {
		return c
	}
	return comparePart(revisionA, revisionB)
}

func cutEpoch(v string) (epoch, rest string) {
	if epoch, rest, ok := strings.Cut(v, ":"); ok {
		return epoch, rest
	}
	return "", v
}

func cutRevision(v string) (upstream, revision string) {
	if i := strings.LastIndexByte(v, '-'); i >= 0 {
		return v[:i], v[i+1:]
	}
	return v, ""
}

// comparePart takes from both, in turn, what is no digit and what is.
func comparePart(a, b string) int {
	for a != "" || b != "" {
		for (a != "" && !digit(a[0])) || (b != "" && !digit(b[0])) {
			if c := weight(a) - weight(b); c != 0 {
				return c
			}
			a, b = a[min(1, len(a)):], b[min(1, len(b)):]
		}
		endA, endB := digits(a), digits(b)
		if c := compareDigits(a[:endA], b[:endB]); c != 0 {
			return c
		}
		a, b = a[endA:], b[endB:]
	}
	return 0
}

func digit(c byte) bool { return c >= '0' && c <= '9' }

// digits is how many digits s begins with.
func digits(s string) int {
	n := 0
	for n < len(s) && digit(s[n]) {
		n++
	}
	return n
}

// weight is the place of the first character in dpkg's order: "~", then the end or a
// digit, then letters, then everything else.
func weight(s string) int {
	if s == "" || digit(s[0]) {
		return 0
	}
	c := s[0]
	switch {
	case c == '~':
		return -1
	case (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'):
		return int(c)
	}
	return int(c) + 256
}

// compareDigits compares numbers of any length.
func compareDigits(a, b string) int {
	a, b = strings.TrimLeft(a, "0"), strings.TrimLeft(b, "0")
	if len(a) != len(b) {
		return len(a) - len(b)
	}
	return strings.Compare(a, b)
}
