package seed

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// decode reads a document into value, a pointer to its type. Every problem of the
// document is in the error. It reports false for a document that says nothing: null, where
// an empty document would be a mistake.
func decode(file, name string, data []byte, value reflect.Value) (bool, error) {
	tree, err := readTree(file, data)
	if err != nil {
		return false, locate(file, "", err)
	}
	if tree == nil && name == "install" {
		return true, nil
	}
	if tree == nil {
		return false, &Problem{File: file, Rule: "empty", Text: "the document is empty: write {} for a document without fields, or leave the file out"}
	}
	return decodeTree(place{file: file}, name, tree, value)
}

// DecodeOther reads a document that is no seed, by the rules of seeds, into value, a pointer
// to a struct. A field that is a json.RawMessage takes anything. The error joins *Problem,
// each with its line. JSON is told by the ending of file; all else is YAML.
func DecodeOther(file string, data []byte, value any) error {
	_, err := decode(file, "", data, reflect.ValueOf(value))
	return err
}

// place is where a document stands: in a file of its own, or below a field of another.
type place struct{ file, under string }

func (p place) problem(at, rule, text string, line int) *Problem {
	if p.under != "" {
		at = strings.TrimSuffix(p.under+"."+at, ".")
	}
	return &Problem{File: p.file, Path: at, Line: line, Rule: rule, Text: text}
}

// needsFields are the documents that mean nothing without fields, so that null stands for
// a file that is left out. For the others null is a document without fields.
var needsFields = []string{"applications", "provider"}

func decodeTree(where place, name string, tree *node, value reflect.Value) (bool, error) {
	if tree.isNull() {
		return !slices.Contains(needsFields, name), nil
	}
	if err := refuseKeys(where, name, tree); err != nil {
		return false, err
	}
	b := builder{place: where}
	plain := b.build(tree, value.Type().Elem(), "")
	if len(b.problems) > 0 {
		return false, errors.Join(b.problems...)
	}
	text, err := json.Marshal(plain)
	if err != nil {
		return false, fmt.Errorf("seed %s: %w", where.file, err)
	}
	if err := json.Unmarshal(text, value.Interface()); err != nil {
		var mismatch *json.UnmarshalTypeError
		if errors.As(err, &mismatch) {
			return false, where.problem(mismatch.Field, "type", fmt.Sprintf("%s does not fit here", mismatch.Value), tree.lineOf(mismatch.Field))
		}
		return false, fmt.Errorf("seed %s: %w", where.file, err)
	}
	var problems []error
	for _, f := range check(value.Interface()) {
		problems = append(problems, where.problem(f.path, f.rule, f.text, tree.lineOf(f.path)))
	}
	return len(problems) == 0, errors.Join(problems...)
}

// RuleRecoveryKeys is the rule of a seed that has recovery keys. No node goes on with one:
// its owner believes in keys that it would not have, and they lie on the medium.
const RuleRecoveryKeys = "recovery-keys"

func refuseKeys(where place, name string, tree *node) error {
	const field = "encryption_recovery_keys"
	if name != "security" || !tree.seen[field] {
		return nil
	}
	return where.problem(field, RuleRecoveryKeys, "recovery keys cannot be in a seed, which anybody with the medium can read: take them out, and set them at /1.0/system/security once the node runs", tree.lineOf(field))
}

func locate(file, under string, err error) error {
	var f *fault
	if errors.As(err, &f) {
		return place{file, under}.problem(f.path, f.rule, f.text, f.line)
	}
	return fmt.Errorf("seed %s: %w", file, err)
}

// builder turns nodes into what encoding/json decodes without surprises, and
// collects what does not fit. Knowing the type, it can take `version: 1` for the
// text "1", as a YAML decoder would.
type builder struct {
	place
	problems []error
}

func (b *builder) add(at string, line int, rule, format string, args ...any) any {
	b.problems = append(b.problems, b.problem(at, rule, fmt.Sprintf(format, args...), line))
	return nil
}

func (b *builder) build(n *node, t reflect.Type, at string) any {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if n.kind == scalarNode && n.value == nil {
		return nil
	}
	if t == reflect.TypeFor[json.RawMessage]() {
		return b.buildAny(n, t, at)
	}
	switch t.Kind() {
	case reflect.Struct:
		return b.buildStruct(n, t, at)
	case reflect.Map:
		return b.buildMap(n, t.Elem(), at)
	case reflect.Slice:
		return b.buildList(n, t.Elem(), at)
	case reflect.Interface:
		return b.buildAny(n, t, at)
	}
	if n.kind != scalarNode {
		return b.add(at, n.line, "type", "%s where %s is expected", n.kind, kindName(t))
	}
	return b.buildScalar(n, t, at)
}

func (b *builder) buildScalar(n *node, t reflect.Type, at string) any {
	_, isBool := n.value.(bool)
	_, isNumber := n.value.(json.Number)
	switch t.Kind() {
	case reflect.String:
		return n.text
	case reflect.Bool:
		if isBool {
			return n.value
		}
		// YAML 1.1's words, which people still write.
		if flag, ok := map[string]bool{"yes": true, "on": true, "no": false, "off": false}[strings.ToLower(n.text)]; ok && n.plain {
			return flag
		}
	case reflect.Int:
		if isNumber {
			return n.value
		}
	}
	return b.add(at, n.line, "type", "%q where %s is expected", n.text, kindName(t))
}

func (b *builder) buildStruct(n *node, t reflect.Type, at string) any {
	if n.kind != mapNode {
		return b.add(at, n.line, "type", "%s where a map is expected", n.kind)
	}
	fields, names := fieldsOf(t)
	out := make(map[string]any, len(n.keys))
	for i, key := range n.keys {
		field, ok := fields[key]
		if !ok {
			b.add(join(at, key), n.keyLines[i], "unknown-field", "there is no such field%s", suggest(key, names))
			continue
		}
		out[key] = b.build(n.kids[i], field, join(at, key))
	}
	return out
}

func (b *builder) buildMap(n *node, t reflect.Type, at string) any {
	if n.kind != mapNode {
		return b.add(at, n.line, "type", "%s where a map is expected", n.kind)
	}
	out := make(map[string]any, len(n.keys))
	for i, key := range n.keys {
		out[key] = b.build(n.kids[i], t, join(at, key))
	}
	return out
}

func (b *builder) buildList(n *node, t reflect.Type, at string) any {
	if n.kind != listNode {
		return b.add(at, n.line, "type", "%s where a list is expected", n.kind)
	}
	out := make([]any, 0, len(n.kids))
	for i, kid := range n.kids {
		out = append(out, b.build(kid, t, fmt.Sprintf("%s[%d]", at, i)))
	}
	return out
}

func (b *builder) buildAny(n *node, t reflect.Type, at string) any {
	switch n.kind {
	case mapNode:
		return b.buildMap(n, t, at)
	case listNode:
		return b.buildList(n, t, at)
	}
	return n.value
}

// fieldsOf are a struct's fields by the names of their JSON tags, those of embedded
// structs included, and the names in order.
func fieldsOf(t reflect.Type) (map[string]reflect.Type, []string) {
	fields := map[string]reflect.Type{}
	var names []string
	for _, f := range reflect.VisibleFields(t) {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "" || name == "-" {
			continue
		}
		fields[name] = f.Type
		names = append(names, name)
	}
	return fields, names
}

func kindName(t reflect.Type) string {
	switch t.Kind() {
	case reflect.String:
		return "a text"
	case reflect.Bool:
		return "true or false"
	case reflect.Int:
		return "a whole number"
	}
	return "a " + t.Kind().String()
}

// suggest is the end of a message: the nearest known name, or all of them.
func suggest(word string, known []string) string {
	best, distance := "", len(word)/2+1
	for _, k := range known {
		if d := editDistance(strings.ToLower(word), k); d < distance {
			best, distance = k, d
		}
	}
	if best != "" {
		return fmt.Sprintf(": did you mean %q?", best)
	}
	return ": known are " + strings.Join(known, ", ")
}

// editDistance counts the letters to insert, remove or change between two words.
// Words longer than any field name are not compared.
func editDistance(a, b string) int {
	if len(a) > 64 {
		return len(a)
	}
	previous := make([]int, len(b)+1)
	for j := range previous {
		previous[j] = j
	}
	for i := range len(a) {
		current := make([]int, len(b)+1)
		current[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			current[j+1] = min(previous[j]+cost, previous[j+1]+1, current[j]+1)
		}
		previous = current
	}
	return previous[len(b)]
}
