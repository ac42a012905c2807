package console

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/width"
)

// ellipsis stands for what was cut. It is ASCII: the font of a Linux console has no
// character for it.
const ellipsis = "..."

// clean takes away everything that a terminal could obey or that a person cannot see:
// control characters of both kinds (C0 and C1), marks of direction, invalid UTF-8. White
// space becomes spaces.
func clean(text string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case r == utf8.RuneError:
			return '?'
		case !unicode.IsPrint(r):
			return -1
		}
		return r
	}, text)
}

// shorten cuts a text to a number of bytes, at a whole character.
func shorten(text string, limit int) string {
	if len(text) <= limit {
		return text
	}
	cut := limit - len(ellipsis)
	for cut > 0 && !utf8.RuneStart(text[cut]) {
		cut--
	}
	return text[:cut] + ellipsis
}

// cellsOf is how many columns a character takes: two for wide ones, as in Chinese, none
// for a mark that stands on the character before.
func cellsOf(r rune) int {
	switch {
	case r < utf8.RuneSelf:
		return 1
	case unicode.In(r, unicode.Mn, unicode.Me) || r >= 0x1160 && r <= 0x11ff: // the latter join to Hangul
		return 0
	}
	if kind := width.LookupRune(r).Kind(); kind == width.EastAsianWide || kind == width.EastAsianFullwidth {
		return 2
	}
	return 1
}

// cells is how many columns a text takes.
func cells(text string) int {
	n := 0
	for _, r := range text {
		n += cellsOf(r)
	}
	return n
}

// head gives as much of the text as fits into a number of columns.
func head(text string, columns int) string {
	n := 0
	for i, r := range text {
		if n += cellsOf(r); n > columns {
			return text[:i]
		}
	}
	return text
}

// fit cuts a text to a number of columns, with an ellipsis.
func fit(text string, columns int) string {
	if cells(text) <= columns {
		return text
	}
	return head(text, max(columns-len(ellipsis), 0)) + head(ellipsis, columns)
}

// wrap breaks at spaces, and in a word only when it is longer than a line. It gives at
// least one line and at most limit; what is left out then is an ellipsis. A column is
// wide enough for every character when columns is at least 2.
func wrap(text string, columns, limit int) []string {
	columns = max(columns, 2)
	var lines []string
	line := ""
	for word := range strings.FieldsSeq(text) {
		if line != "" && cells(line)+1+cells(word) > columns {
			lines, line = append(lines, line), ""
		}
		if line != "" {
			line += " "
		}
		line += word
		for cells(line) > columns && len(lines) <= limit {
			part := head(line, columns)
			lines, line = append(lines, part), line[len(part):]
		}
		if len(lines) > limit {
			break
		}
	}
	if line != "" || len(lines) == 0 {
		lines = append(lines, line)
	}
	if len(lines) > limit {
		lines = lines[:limit]
		last := lines[limit-1]
		lines[limit-1] = head(last, columns-len(ellipsis)) + head(ellipsis, columns)
	}
	return lines
}
