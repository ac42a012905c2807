package bootloader

import (
	"cmp"
	"path"
	"slices"
	"strings"
)

// Next is the entry that systemd-boot starts without anybody at the menu: the first in
// its order that one of the patterns names, else the first in its order. False when
// there is none. A pattern is a glob over IDs, as LoaderEntryOneShot, LoaderEntryDefault
// and "default" of loader.conf have them; the first pattern that fits wins, even for an
// entry without tries.
//
// The rules are those of boot_entry_compare and config_select_default_entry in
// src/boot/boot.c of systemd 257: entries without tries left come last; then, since all
// of them have the same IMAGE_ID as sort key, the higher IMAGE_VERSION is first, which
// for this system is the version in the name; then the higher ID; then more tries left,
// then fewer tries done. systemd-boot also starts the first entry when no entry has any
// tries left.
func Next(entries []Entry, patterns ...string) (Entry, bool) {
	if len(entries) == 0 {
		return Entry{}, false
	}
	sorted := slices.Clone(entries)
	slices.SortStableFunc(sorted, compare)
	for _, pattern := range patterns {
		if pattern == "" {
			continue
		}
		for _, entry := range sorted {
			if matched, err := path.Match(strings.ToLower(pattern), entry.ID); err == nil && matched {
				return entry, true
			}
		}
	}
	return sorted[0], true
}

func compare(a, b Entry) int {
	last := func(e Entry) int {
		if e.TriesLeft == 0 {
			return 1
		}
		return 0
	}
	if r := cmp.Or(cmp.Compare(last(a), last(b)), -CompareVersions(a.Version, b.Version), -CompareVersions(a.ID, b.ID)); r != 0 {
		return r
	}
	if a.TriesLeft < 0 || b.TriesLeft < 0 {
		return 0
	}
	return cmp.Or(-cmp.Compare(a.TriesLeft, b.TriesLeft), cmp.Compare(a.TriesDone, b.TriesDone))
}

// CompareVersions is negative when a is older than b, 0 when they count as the same, and
// positive when it is newer, by the rules of the UAPI group's version format that systemd
// uses everywhere (strverscmp_improved): segments of digits and of letters; "~" is older
// than the end, "-" than "^", "^" than ".", and all of them than a further segment.
func CompareVersions(a, b string) int {
	for {
		a, b = strings.TrimLeftFunc(a, noPart), strings.TrimLeftFunc(b, noPart)
		if r := separator(&a, &b, '~'); r != 0 {
			return r
		}
		if a == "" || b == "" {
			return cmp.Compare(min(len(a), 1), min(len(b), 1))
		}
		for _, mark := range []byte("-^.") {
			if r := separator(&a, &b, mark); r != 0 {
				return r
			}
		}
		if r := segment(&a, &b); r != 0 {
			return r
		}
	}
}

func noPart(r rune) bool { return !isDigit(r) && !isLetter(r) && !strings.ContainsRune("~-^.", r) }

func isDigit(r rune) bool { return r >= '0' && r <= '9' }

func isLetter(r rune) bool { return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' }

// separator takes the mark off both; the one that alone has it is older.
func separator(a, b *string, mark byte) int {
	inA, inB := strings.HasPrefix(*a, string(mark)), strings.HasPrefix(*b, string(mark))
	switch {
	case inA && !inB:
		return -1
	case inB && !inA:
		return 1
	case inA:
		*a, *b = (*a)[1:], (*b)[1:]
	}
	return 0
}

// segment takes the leading digits, or letters, off both and compares them.
func segment(a, b *string) int {
	numeric := startsWith(*a, isDigit) || startsWith(*b, isDigit)
	kind := isLetter
	if numeric {
		kind = isDigit
	}
	restA, restB := strings.TrimLeftFunc(*a, kind), strings.TrimLeftFunc(*b, kind)
	partA, partB := (*a)[:len(*a)-len(restA)], (*b)[:len(*b)-len(restB)]
	*a, *b = restA, restB
	if numeric {
		if r := cmp.Compare(min(len(partA), 1), min(len(partB), 1)); r != 0 {
			return r
		}
		partA, partB = strings.TrimLeft(partA, "0"), strings.TrimLeft(partB, "0")
		return cmp.Or(cmp.Compare(len(partA), len(partB)), strings.Compare(partA, partB))
	}
	short := min(len(partA), len(partB))
	return cmp.Or(strings.Compare(partA[:short], partB[:short]), cmp.Compare(len(partA), len(partB)))
}

func startsWith(s string, kind func(rune) bool) bool { return s != "" && kind(rune(s[0])) }
