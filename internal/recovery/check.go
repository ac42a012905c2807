package recovery

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode"

	"github.com/holdfast-os/holdfast/internal/config"
)

// Limits of the keys.
const (
	// MinLength is the shortest key, in characters.
	MinLength = 15
	// MaxLength is the longest, in bytes: cryptsetup reads no more from a keyboard.
	MaxLength = 512
	// MinUnique is how many different characters a key has at least.
	MinUnique = 5
	// MinRest is how many characters must be left of a key when the words and runs that
	// are tried first are taken out.
	MinRest = 8
	// MaxKeys is how many keys there may be; a volume has 32 keyslots.
	MaxKeys = 16
)

const path = "encryption_recovery_keys"

var generated = regexp.MustCompile(`^[cbdefghijklnrtuv]{8}(-[cbdefghijklnrtuv]{8}){7}$`)

// Generated is true for a key in the form that systemd and this node make: 8 groups of 8
// letters.
func Generated(key string) bool { return generated.MatchString(key) }

// Check gives all that is wrong with a list of keys. A key of before is in force already
// and may stay as it is. No problem repeats a key.
func Check(before, next []string) config.Problems {
	var problems config.Problems
	if len(next) == 0 {
		problems.Add(path, "required", "there is no key: the last one cannot be removed; send the list with at least one")
	}
	if len(next) > MaxKeys {
		problems.Add(path, "count", "there are %d keys, at most %d are possible", len(next), MaxKeys)
		next = next[:MaxKeys]
	}
	for i, key := range next {
		at := fmt.Sprintf("%s[%d]", path, i)
		if first := slices.Index(next, key); first < i {
			problems.Add(at, "unique", "this is the same key as %s[%d]", path, first)
			continue
		}
		if !slices.Contains(before, key) {
			check(&problems, at, key)
		}
	}
	return problems
}

func check(problems *config.Problems, at, key string) {
	if strings.ContainsFunc(key, func(r rune) bool { return r < ' ' || r > '~' }) {
		problems.Add(at, "characters", "the key has characters beside the letters, digits, signs and spaces of ASCII: it could not be typed when the machine starts")
	}
	if strings.TrimSpace(key) != key {
		problems.Add(at, "spaces", "the key begins or ends with a space, which gets lost when it is copied or printed")
	}
	if len(key) > MaxLength {
		problems.Add(at, "length", "the key has %d bytes, at most %d are possible", len(key), MaxLength)
		return
	}
	if n := len([]rune(key)); n < MinLength {
		problems.Add(at, "length", "the key has %d characters, at least %d are needed", n, MinLength)
	}
	if n := unique(key); n < MinUnique {
		problems.Add(at, "variety", "the key has %d different characters, at least %d are needed", n, MinUnique)
	}
	if Generated(key) {
		return
	}
	if !strings.ContainsFunc(key, isSymbol) {
		problems.Add(at, "symbol", "the key has letters and digits alone, at least one other character is needed")
	}
	if n := len(rest(key)); n < MinRest {
		problems.Add(at, "guessable", "without common words, sequences and repetitions %d characters are left of the key, at least %d are needed", n, MinRest)
	}
}

func unique(key string) int {
	seen := map[rune]bool{}
	for _, r := range key {
		seen[r] = true
	}
	return len(seen)
}

func isSymbol(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsDigit(r) }
