package main

import (
	"strings"
	"unicode"

	osapi "github.com/holdfast-os/holdfast/api/os"
)

// generated is the first line of each file.
const generated = "Made by tools/apidoc. Change the comments, the types or the table of routes, then run: make docs"

// envelopeValue is the envelope of every answer.
var envelopeValue = osapi.Response{}

// sentence begins with a capital letter and ends with a full stop.
func sentence(text string) string {
	text = strings.TrimSpace(text)
	if text == "" {
		return ""
	}
	letters := []rune(text)
	letters[0] = unicode.ToUpper(letters[0])
	if !strings.ContainsRune(".!?:", letters[len(letters)-1]) {
		letters = append(letters, '.')
	}
	return string(letters)
}
