package backup

import (
	"crypto/sha256"
	"path"
	"strings"
	"unicode/utf8"
)

// Longest names, in bytes, and deepest one, in elements.
const (
	maxName    = 4096
	maxElement = 255
	maxDepth   = 100
)

// cleanName gives the name of a member without "./" and slashes that say nothing. Empty is
// the folder itself.
func cleanName(name string) (string, error) {
	switch {
	case len(name) > maxName:
		return "", refuse(name, RuleName, "the name has %d bytes, at most %d are possible", len(name), maxName)
	case !utf8.ValidString(name) || strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return "", refuse(strings.ToValidUTF8(name, "?"), RuleName, "the name has characters that no name may have")
	case strings.HasPrefix(name, "/"):
		return "", refuse(name, RuleName, "the name is absolute")
	}
	elements := strings.Split(name, "/")
	if len(elements) > maxDepth {
		return "", refuse(name, RuleName, "the name is %d folders deep, at most %d are possible", len(elements), maxDepth)
	}
	for _, element := range elements {
		if element == ".." {
			return "", refuse(name, RuleName, `the name has ".." in it`)
		}
		if len(element) > maxElement {
			return "", refuse(name, RuleName, "a part of the name has %d bytes, at most %d are possible", len(element), maxElement)
		}
	}
	if cleaned := path.Clean(name); cleaned != "." {
		return cleaned, nil
	}
	return "", nil
}

// checkLink refuses a link that leads out of the folder. root is where the folder lies on a
// node: links of Incus are absolute. A ".." may only stand at the beginning: behind the name
// of another link it would lead elsewhere than it seems.
func checkLink(name, target, root string) error {
	if target == "" || len(target) > maxName || strings.Contains(target, "\x00") || !utf8.ValidString(target) {
		return refuse(name, RuleLink, "the link has no target that can be")
	}
	elements := strings.Split(target, "/")
	climbs := 0
	for climbs < len(elements) && elements[climbs] == ".." {
		climbs++
	}
	for _, element := range elements[climbs:] {
		if element == ".." {
			return refuse(name, RuleLink, "the link to %q has \"..\" in the middle", shown(target))
		}
	}
	if strings.HasPrefix(target, "/") {
		if !within(path.Clean(target), root) {
			return refuse(name, RuleLink, "the link to %q leads out of the folder", shown(target))
		}
		return nil
	}
	if climbs > strings.Count(name, "/") {
		return refuse(name, RuleLink, "the link to %q leads out of the folder", shown(target))
	}
	return nil
}

// within tells whether a clean path is a folder or lies in it.
func within(name, folder string) bool { return name == folder || strings.HasPrefix(name, folder+"/") }

// names remembers the members of an archive. It holds sums in the place of names, so that
// long names take no memory.
type names map[[16]byte]bool // true for a folder

func key(name string) [16]byte {
	sum := sha256.Sum256([]byte(name))
	return [16]byte(sum[:16])
}

// add takes the next member. A folder may come after what lies in it, and twice only as a
// folder that nobody has named yet.
func (n names) add(name string, folder bool, named names) error {
	for parent := path.Dir(name); parent != "."; parent = path.Dir(parent) {
		k := key(parent)
		if isFolder, known := n[k]; known && !isFolder {
			return refuse(name, RuleName, "it lies below %q, which is no folder", shown(parent))
		}
		n[k] = true
	}
	k := key(name)
	if named[k] {
		return refuse(name, RuleUnique, "the archive has it twice")
	}
	named[k] = true
	if isFolder, known := n[k]; known && (isFolder != folder) {
		return refuse(name, RuleName, "other members lie below it, and it is no folder")
	}
	n[k] = folder
	return nil
}
