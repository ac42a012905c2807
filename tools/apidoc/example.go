package main

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
)

// left is the example of what is left out: a type inside itself.
type left struct{}

// exampleOf makes a value of a shape. What it takes, first come first served: the line
// "Example:" of a comment or its `as "..."`, the table by type and name, the default,
// allowed values, the table by name, and last something of the kind.
func (s *shape) exampleOf() (any, error) { return s.example(note{}, "", map[string]bool{}) }

func (s *shape) example(n note, key string, above map[string]bool) (any, error) {
	if s.outside != "" {
		if text, ok := outsideExamples[s.outside]; ok {
			return parseOrdered(text)
		}
	}
	for _, take := range []func(note, string) (any, bool, error){s.fromComment, s.fromTable} {
		value, ok, err := take(n, key)
		if ok || err != nil {
			return value, err
		}
	}
	switch s.kind {
	case "object":
		return s.exampleObject(above)
	case "array", "map":
		value, err := s.elem.example(note{}, key, above)
		if value == (left{}) || err != nil {
			return value, err
		}
		if s.kind == "map" {
			return pairs("name", value), nil
		}
		return []any{value}, nil
	}
	value, _ := s.scalar(n, key)
	return value, nil
}

func (s *shape) exampleObject(above map[string]bool) (any, error) {
	if s.name != "" && above[s.name] {
		return left{}, nil
	}
	above[s.name] = true
	defer delete(above, s.name)
	made := pairs()
	for _, f := range s.fields {
		if f.shape.kind == "any" && f.optional && f.note.example == "" {
			continue // the state in the body of a PUT, which is not looked at
		}
		value, err := f.shape.example(f.note, f.key, above)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f.name, err)
		}
		if value == (left{}) {
			continue
		}
		made.set(f.name, value)
	}
	return made, nil
}

// fromComment takes what the comment gives. A text stands there as it is, anything else
// as JSON; a text alone fits a list of texts.
func (s *shape) fromComment(n note, _ string) (any, bool, error) {
	if n.example == "" {
		return nil, false, nil
	}
	switch {
	case s.kind == "string" && !strings.HasPrefix(n.example, `"`):
		return n.example, true, nil
	case s.kind == "array" && s.elem.kind == "string" && !strings.HasPrefix(n.example, "["):
		return []any{strings.Trim(n.example, `"`)}, true, nil
	case s.kind == "map" && !strings.HasPrefix(n.example, "{"), s.kind == "object" && !strings.HasPrefix(n.example, "{"):
		return nil, false, nil // a word of the comment, not a value of this type
	}
	value, err := parseOrdered(n.example)
	if err != nil || !s.fits(value) {
		return nil, false, nil
	}
	return value, true, nil
}

// fits tells whether a value is of the shape's kind.
func (s *shape) fits(value any) bool {
	switch v := value.(type) {
	case string:
		return s.kind == "string" || s.kind == "any"
	case bool:
		return s.kind == "boolean" || s.kind == "any"
	case json.Number:
		_, err := v.Int64()
		return s.kind == "number" || s.kind == "any" || (s.kind == "integer" && err == nil)
	case []any:
		return s.kind == "array" || s.kind == "any"
	case *object:
		return s.kind == "object" || s.kind == "map" || s.kind == "any"
	}
	return s.nullable || s.kind == "any"
}

func (s *shape) fromTable(_ note, key string) (any, bool, error) {
	text, ok := keyExamples[key]
	if !ok {
		return nil, false, nil
	}
	value, err := parseOrdered(text)
	if err != nil {
		return nil, false, err
	}
	if s.fits(value) {
		return value, true, nil
	}
	return nil, false, nil // the members of a list or map have the key of their owner
}

// scalar gives a text, number or boolean. It reports false when nobody knows a good one.
func (s *shape) scalar(n note, key string) (any, bool) {
	if text, err := strconv.Unquote(n.def); err == nil && s.kind == "string" && text != "" {
		return text, true
	}
	for _, value := range s.enum {
		if value != "" {
			return value, true
		}
	}
	if s.format == "date-time" {
		return "2026-11-22T01:04:00Z", true
	}
	if s.kind == "integer" {
		if number, err := strconv.Atoi(n.def); err == nil && number != 0 {
			return number, true
		}
	}
	_, name, _ := strings.Cut(key, ".")
	if value, err := parseOrdered(nameExamples[name]); err == nil && s.fits(value) {
		return value, true
	}
	switch s.kind {
	case "string":
		return "text", false
	case "integer":
		return 1, false
	case "number":
		return json.Number("1.5"), false
	case "boolean":
		return true, true
	case "binary":
		return "(bytes)", false
	}
	return pairs(), false
}
