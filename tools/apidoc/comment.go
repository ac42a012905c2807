package main

import (
	"regexp"
	"strings"
	"unicode"
)

// note is what a comment says, taken apart. The comment stays the one place where it is
// written: a default, a unit or a list of allowed values is read out of its words.
type note struct {
	// text is the comment as one paragraph, without lines "Example: ...".
	text string
	// def is the default, as `"stable"` or `false`; empty when none is named.
	def string
	// unit is as "bytes"; empty when none is named.
	unit string
	// enum are the allowed values, where the comment lists nothing but them.
	enum []string
	// example is the value of a line "Example: ...", or of `as "..."`.
	example string
	// never tells that the comment says "never null".
	never bool
}

var (
	exampleLine = regexp.MustCompile(`^[Ee]xample: *(.+)$`)
	// as "incus" names an example in passing; so do `for example "x"` and `"x" for example`.
	exampleWords = regexp.MustCompile(`(?:\bas|for example|such as) "([^"]+)"|"([^"]+)" for example`)
	// What stands behind the word "default", up to the end of its clause.
	defaultWords = regexp.MustCompile(`(?:^|[;,:(.] ?|\band )(?:[Tt]he )?[Dd]efaults?(?::| is| are)? ("[^"]*"|(?:\d+|true|false):|(?:[^.;:)]|\.\S)+(?:[.;)]|$))`)
	defaultsTo   = regexp.MustCompile(`\bdefaults to ("[^"]*"|(?:\d+|true|false):|(?:[^.;:)]|\.\S)+(?:[.;)]|$))`)
	// A value and then more words; ", or" makes it one of several.
	literal   = regexp.MustCompile(`^(-?\d+(?:\.\d+)?|true|false), (.*)$`)
	unitWords = regexp.MustCompile(`\bin (bytes|KiB|MiB|GiB|kbit/s|Mbit/s|bits per second|nanoseconds|microseconds|` +
		`milliseconds|seconds|minutes|hours|days|percent|degrees Celsius|hertz|MHz|watts)\b`)
	percentWords = regexp.MustCompile(`\bpercentage\b`)
	// A list of quoted words and nothing else, up to the end of its sentence or clause.
	enumWords = regexp.MustCompile(`^[A-Za-z0-9]+ (?:is|are|must be)(?: one of)? ("[^"]*"(?:, "[^"]*")*(?:,? or "[^"]*"|,? and "[^"]*")?)(?:[.;:]|$)`)
	quoted    = regexp.MustCompile(`"([^"]*)"`)
)

// readNote takes the comment of a field apart. Comments begin with the Go name, callers
// of the API know the JSON name, so that the first word is changed.
func readNote(comment, goName, jsonName string) note {
	var n note
	var words []string
	for line := range strings.SplitSeq(comment, "\n") {
		line = strings.TrimSpace(line)
		if found := exampleLine.FindStringSubmatch(line); found != nil {
			n.example = strings.TrimSpace(found[1])
			continue
		}
		words = append(words, strings.Fields(line)...)
	}
	n.text = strings.Join(words, " ")
	if found := exampleWords.FindStringSubmatch(n.text); found != nil && n.example == "" {
		n.example = found[1] + found[2]
	}
	for _, pattern := range []*regexp.Regexp{defaultsTo, defaultWords} {
		if found := pattern.FindStringSubmatch(n.text); found != nil {
			n.def = strings.TrimRight(found[1], ".;:) ")
			if value := literal.FindStringSubmatch(n.def); value != nil && !strings.HasPrefix(value[2], "or ") {
				n.def = value[1]
			}
			break
		}
	}
	if found := unitWords.FindStringSubmatch(n.text); found != nil {
		n.unit = found[1]
	} else if percentWords.MatchString(n.text) {
		n.unit = "percent"
	} else if strings.HasSuffix(jsonName, "_in_bytes") {
		n.unit = "bytes"
	}
	if found := enumWords.FindStringSubmatch(n.text); found != nil {
		for _, value := range quoted.FindAllStringSubmatch(found[1], -1) {
			n.enum = append(n.enum, value[1])
		}
	}
	n.never = strings.Contains(n.text, "never null")
	if rest, ok := strings.CutPrefix(n.text, goName+" "); ok && goName != "" {
		n.text = jsonName + " " + rest
	}
	return n
}

// saysNothing is true for a comment that is missing, or that has no word which the name
// does not have, as "Hostname is the hostname."
func saysNothing(comment, name string) bool {
	known := map[string]bool{}
	for _, word := range nameWords(name) {
		known[singular(word)] = true
	}
	known[singular(strings.ToLower(name))] = true
	for _, word := range strings.FieldsFunc(strings.ToLower(comment), func(r rune) bool {
		return !unicode.IsLetter(r) && !unicode.IsDigit(r) && r != '"'
	}) {
		switch word {
		case "a", "an", "the", "is", "are", "of", "this", "that", "its", "it", "s":
			continue
		}
		if !known[singular(word)] {
			return false
		}
	}
	return true
}

func singular(word string) string { return strings.TrimSuffix(word, "s") }

// nameWords splits a Go name: "PoolName" is pool, name; "MTUBytes" is mtu, bytes.
func nameWords(name string) []string {
	var words []string
	letters := []rune(name)
	start := 0
	for i := 1; i < len(letters); i++ {
		begins := unicode.IsUpper(letters[i]) &&
			(unicode.IsLower(letters[i-1]) || (i+1 < len(letters) && unicode.IsLower(letters[i+1])))
		if begins {
			words = append(words, strings.ToLower(string(letters[start:i])))
			start = i
		}
	}
	return append(words, strings.ToLower(string(letters[start:])))
}
