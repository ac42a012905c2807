package recovery

import (
	"slices"
	"strings"
)

// common are words that whoever guesses passwords tries first, and those that are near at
// hand when one is asked for a key of this node. Each has at least four letters.
var common = strings.Fields(`
password passwort passwd passphrase passcode pass kennwort contrasena motdepasse secret geheim recovery recover
encryption encrypted encrypt decrypt cipher luks disk drive volume root swap backup restore rescue emergency
holdfast incus incusos linux debian server node host cluster system machine computer laptop datacenter rack
admin administrator administrador operator manager owner user guest login logon access account default
example sample test testing tester demo changeme change please temp temporary install setup config
welcome hello letmein iloveyou love lovely sunshine princess monkey dragon football baseball soccer hockey
basketball batman superman spiderman pokemon starwars matrix master shadow killer hunter ranger falcon eagle
tiger lion bear wolf horse dolphin cookie cheese chocolate banana orange apple cherry flower summer winter
autumn spring january february march april june july august september october november december monday
tuesday wednesday thursday friday saturday sunday michael jennifer jessica ashley charlie thomas robert
daniel andrew joshua matthew george harley jordan freedom whatever trustno internet google microsoft windows
facebook amazon company business office work home family mother father sister brother baby money house
correct horsebattery battery staple
`)

// rows are sequences whose parts are no work to guess, forwards or backwards.
var rows = []string{
	"abcdefghijklmnopqrstuvwxyz", "01234567890", "qwertyuiop", "qwertzuiop", "asdfghjkl", "zxcvbnm", "yxcvbnm", "azerty",
	"1q2w3e4r5t6z7u8i9o", "1q2w3e4r5t6y7u8i9o", "!@#$%^&*()",
}

// plainer undoes the usual replacements of letters by signs and digits.
var plainer = strings.NewReplacer("0", "o", "1", "i", "3", "e", "4", "a", "5", "s", "7", "t", "@", "a", "$", "s", "!", "i", "8", "b", "|", "l")

// rest is what is left of a key when common words, sequences and repetitions are taken
// out. A sentence of unusual words keeps most of its length; "Password-123456789" does
// not.
func rest(key string) string {
	text := strings.ToLower(key)
	for _, sequence := range sequences() {
		text = strings.ReplaceAll(text, sequence, "\x00")
	}
	words := slices.SortedFunc(slices.Values(common), func(a, b string) int { return len(b) - len(a) })
	for _, word := range words {
		text = cut(text, word)
	}
	return squeeze(text)
}

// cut takes a word out, also when it is written with signs for letters.
func cut(text, word string) string {
	for {
		at := strings.Index(plainer.Replace(text), word)
		if at < 0 {
			return text
		}
		text = text[:at] + "\x00" + text[at+len(word):]
	}
}

// sequences are all parts of four characters of the rows and their mirror images, the
// longest first.
func sequences() []string {
	const shortest = 4
	var all []string
	for _, row := range rows {
		back := []byte(row)
		slices.Reverse(back)
		for _, line := range []string{row, string(back)} {
			for n := len(line); n >= shortest; n-- {
				for at := 0; at+n <= len(line); at++ {
					all = append(all, line[at:at+n])
				}
			}
		}
	}
	slices.SortStableFunc(all, func(a, b string) int { return len(b) - len(a) })
	return all
}

// squeeze drops the marks of what was taken out, and each character that repeats what
// stands one, two or up to eight places before it.
func squeeze(text string) string {
	text = strings.ReplaceAll(text, "\x00", "")
	var kept []byte
	for i := 0; i < len(text); i++ {
		repeated := false
		for period := 1; period <= 8 && !repeated; period++ {
			// A repetition counts from its third character on, for a short period at once.
			repeated = i >= period && text[i] == text[i-period] && (period == 1 || i >= period+1 && text[i-1] == text[i-1-period])
		}
		if !repeated {
			kept = append(kept, text[i])
		}
	}
	return string(kept)
}
