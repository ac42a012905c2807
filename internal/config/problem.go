// Package config holds what every section of the configuration has in common: how a
// problem in it is told, and how secrets leave a copy that is shown.
//
// A section is one document that an owner writes as a whole, as the network or the
// kernel. Its checks return all problems at once, each with the path of the field and
// the name of the rule, so that a person mends a document in one go.
package config

import (
	"fmt"
	"strings"
)

// Problem is one rule that a configuration breaks.
type Problem struct {
	// Path names the field below the section's "config", as "interfaces[0].name".
	Path string
	// Rule is a short word for the rule, as "unique".
	Rule string
	// Text says what is wrong and what would be right.
	Text string
}

// Limits of what is told of a document: one that is wrong everywhere is not worth more.
const (
	maxTold = 100
	maxText = 500
)

func (p Problem) String() string {
	if p.Path == "" {
		return fmt.Sprintf("%s (rule %s)", cut(p.Text), p.Rule)
	}
	return fmt.Sprintf("%s: %s (rule %s)", cut(p.Path), cut(p.Text), p.Rule)
}

// cut takes the middle out of a text that is too long for a person.
func cut(text string) string {
	if len(text) <= maxText {
		return text
	}
	half := maxText / 2
	return strings.ToValidUTF8(text[:half], "") + "..." + strings.ToValidUTF8(text[len(text)-half:], "")
}

// Problems are all that is wrong with a configuration. It is an error when it is not
// empty.
type Problems []Problem

func (p Problems) Error() string {
	lines := make([]string, 0, min(len(p), maxTold+1))
	for i, problem := range p {
		if i == maxTold {
			lines = append(lines, fmt.Sprintf("and %d more", len(p)-maxTold))
			break
		}
		lines = append(lines, problem.String())
	}
	return strings.Join(lines, "; ")
}

// Add notes one more.
func (p *Problems) Add(path, rule, format string, args ...any) {
	*p = append(*p, Problem{Path: path, Rule: rule, Text: fmt.Sprintf(format, args...)})
}

// Err is the problems as an error; nil when there are none.
func (p Problems) Err() error {
	if len(p) == 0 {
		return nil
	}
	return p
}

// Secret stands for a value that is kept but not shown. A document that is sent back
// with it keeps the value that the node has.
const Secret = "(kept secret)"

// Keep puts the kept value in the place of a reference to it. It reports false when
// there is a reference and nothing is kept.
func Keep(value *string, kept string) bool {
	if *value != Secret {
		return true
	}
	*value = kept
	return kept != ""
}

// Hide puts a reference in the place of a secret; what is empty stays empty.
func Hide(value *string) {
	if *value != "" {
		*value = Secret
	}
}
