package seed

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"
)

// Limits on one document.
const (
	maxDepth   = 32
	maxAliases = 64
	maxNodes   = 100_000
)

// node is a document as read, before its types are looked at. JSON and YAML give
// the same nodes; aliases are already replaced by what they stand for.
type node struct {
	kind nodeKind
	keys []string
	seen map[string]bool
	// line is where it begins in its file, from 1; keyLines are those of the keys.
	line     int
	keyLines []int
	// kids are the values of a map's keys or the entries of a list.
	kids []*node
	// text is a scalar as it was written.
	text string
	// plain is true for a YAML text without quotes, which may mean a truth value.
	plain bool
	// value is a scalar as JSON has it: nil, bool, json.Number or string.
	value any
}

type nodeKind int

const (
	scalarNode nodeKind = iota
	mapNode
	listNode
)

func (k nodeKind) String() string { return [...]string{"a value", "a map", "a list"}[k] }

// fault is a problem without its file. Line is 0 where it is not known.
type fault struct {
	path, rule, text string
	line             int
}

func (f *fault) Error() string { return f.text }

// readTree reads the one document in data; nil for an empty one.
func readTree(file string, data []byte) (*node, error) {
	data = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))
	if !utf8.Valid(data) {
		return nil, &fault{rule: "utf-8", text: "the text is not UTF-8: save the file as UTF-8"}
	}
	if i := bytes.IndexByte(data, 0); i >= 0 {
		return nil, &fault{rule: "utf-8", text: fmt.Sprintf("byte %d is zero: this is no text file", i)}
	}
	data = bytes.ReplaceAll(data, []byte("\r\n"), []byte("\n"))
	data = bytes.ReplaceAll(data, []byte("\r"), []byte("\n"))
	if path.Ext(file) == ".json" {
		return readJSON(data)
	}
	return readYAML(data)
}

// isNull tells a document that is the value null. Tools of IncusOS write one for a seed
// that nothing was chosen in.
func (n *node) isNull() bool { return n.kind == scalarNode && n.value == nil }

// lineOf finds the line of a place as "target.bus" or "console[0]"; that of the nearest
// place above it when there is no such field.
func (n *node) lineOf(at string) int {
	steps := strings.FieldsFunc(at, func(r rune) bool { return strings.ContainsRune(".[]", r) })
	line := n.line
	for _, step := range steps {
		i := slices.Index(n.keys, step)
		if n.kind == listNode {
			if number, err := strconv.Atoi(step); err == nil {
				i = number
			}
		}
		if i < 0 || i >= len(n.kids) {
			return line
		}
		line = n.kids[i].line
		if n.kind == mapNode {
			line = n.keyLines[i]
		}
		n = n.kids[i]
	}
	return line
}

func readJSON(data []byte) (*node, error) {
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.UseNumber()
	reader := jsonReader{Decoder: decoder, data: data, line: 1, budget: maxNodes}
	token, err := decoder.Token()
	if err == io.EOF {
		return nil, nil
	}
	if err != nil {
		return nil, reader.fault(err)
	}
	tree, err := reader.value(token, "", 0)
	if err != nil {
		return nil, err
	}
	if _, err := decoder.Token(); err != io.EOF {
		return nil, &fault{rule: "one-document", text: "text after the end of the document: a seed holds one document", line: reader.here()}
	}
	return tree, nil
}

// jsonReader turns JSON's tokens into nodes. It counts lines as it goes on.
type jsonReader struct {
	*json.Decoder
	data         []byte
	counted      int64
	line, budget int
}

// here is the line of the token that was read last.
func (r *jsonReader) here() int {
	now := min(r.InputOffset(), int64(len(r.data)))
	r.line += bytes.Count(r.data[r.counted:now], []byte("\n"))
	r.counted = now
	return r.line
}

func (r *jsonReader) value(token json.Token, at string, depth int) (*node, error) {
	line := r.here()
	if err := spend(at, depth, line, &r.budget); err != nil {
		return nil, err
	}
	delimiter, ok := token.(json.Delim)
	if !ok {
		text := ""
		if token != nil {
			text = fmt.Sprint(token)
		}
		return &node{kind: scalarNode, value: token, text: text, line: line}, nil
	}
	out := &node{kind: listNode, line: line}
	if delimiter == '{' {
		out.kind = mapNode
	}
	for r.More() {
		place := fmt.Sprintf("%s[%d]", at, len(out.kids))
		token, err := r.Token()
		if err != nil {
			return nil, r.fault(err)
		}
		if out.kind == mapNode {
			key, ok := token.(string)
			if !ok {
				return nil, &fault{at, "syntax", "a key is not a text", r.here()}
			}
			if err := out.addKey(at, key, r.here()); err != nil {
				return nil, err
			}
			place = join(at, key)
			if token, err = r.Token(); err != nil {
				return nil, r.fault(err)
			}
		}
		kid, err := r.value(token, place, depth+1)
		if err != nil {
			return nil, err
		}
		out.kids = append(out.kids, kid)
	}
	if _, err := r.Token(); err != nil {
		return nil, r.fault(err)
	}
	return out, nil
}

func (r *jsonReader) fault(err error) error {
	if err == io.EOF || errors.Is(err, io.ErrUnexpectedEOF) {
		return &fault{rule: "syntax", text: "the document ends too early: a bracket is not closed", line: r.here()}
	}
	// The decoder counts from where it began to read a value; this finds the byte itself.
	var wrong *json.SyntaxError
	if !errors.As(json.Unmarshal(r.data, new(json.RawMessage)), &wrong) {
		return &fault{rule: "syntax", text: err.Error(), line: r.here()}
	}
	before := r.data[:min(max(wrong.Offset-1, 0), int64(len(r.data)))]
	return &fault{rule: "syntax", text: wrong.Error(), line: 1 + bytes.Count(before, []byte("\n"))}
}

func readYAML(data []byte) (*node, error) {
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	var document, second yaml.Node
	err := decoder.Decode(&document)
	if err == io.EOF {
		return nil, nil
	}
	if err != nil {
		return nil, yamlFault(err)
	}
	if err := decoder.Decode(&second); err != io.EOF {
		return nil, &fault{rule: "one-document", text: "a second document follows (\"---\"): a seed holds one document"}
	}
	if len(document.Content) == 0 {
		return nil, nil
	}
	root := document.Content[0]
	if root.Kind == yaml.ScalarNode && root.Tag == "!!null" && root.Value == "" {
		return nil, nil
	}
	reader := yamlReader{aliases: maxAliases, budget: maxNodes}
	return reader.value(root, "", 0)
}

func yamlFault(err error) error {
	f := &fault{rule: "syntax", text: err.Error()}
	if strings.Contains(f.text, "anchor") {
		// The parser names it, and it may be a password without quotes.
		f.text = "an alias has no anchor: put a text that begins with * into quotes"
	}
	var at *yaml.LoadError
	if errors.As(err, &at) {
		f.line = at.Mark.Line
	}
	return f
}

// yamlReader turns YAML's nodes into ours under a budget: an alias costs what it
// stands for, so a few lines cannot become a billion values.
type yamlReader struct{ aliases, budget int }

func (y *yamlReader) value(n *yaml.Node, at string, depth int) (*node, error) {
	if err := spend(at, depth, n.Line, &y.budget); err != nil {
		return nil, err
	}
	switch n.Kind {
	case yaml.AliasNode:
		if y.aliases--; y.aliases < 0 {
			return nil, &fault{at, "limit", fmt.Sprintf("more than %d aliases", maxAliases), n.Line}
		}
		return y.value(n.Alias, at, depth+1)
	case yaml.SequenceNode:
		out := &node{kind: listNode, line: n.Line}
		for i, item := range n.Content {
			kid, err := y.value(item, fmt.Sprintf("%s[%d]", at, i), depth+1)
			if err != nil {
				return nil, err
			}
			out.kids = append(out.kids, kid)
		}
		return out, nil
	case yaml.MappingNode:
		return y.mapping(n, at, depth)
	case yaml.ScalarNode:
		return yamlScalar(n, at)
	}
	return nil, &fault{at, "syntax", "this is no value", n.Line}
}

func (y *yamlReader) mapping(n *yaml.Node, at string, depth int) (*node, error) {
	out := &node{kind: mapNode, line: n.Line}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i]
		if key.Kind != yaml.ScalarNode {
			return nil, &fault{at, "syntax", "a key is not a text", key.Line}
		}
		if key.Tag == "!!merge" {
			return nil, &fault{at, "syntax", "the merge key << is not supported: write the fields out", key.Line}
		}
		if err := out.addKey(at, key.Value, key.Line); err != nil {
			return nil, err
		}
		kid, err := y.value(n.Content[i+1], join(at, key.Value), depth+1)
		if err != nil {
			return nil, err
		}
		out.kids = append(out.kids, kid)
	}
	return out, nil
}

func yamlScalar(n *yaml.Node, at string) (*node, error) {
	out := &node{kind: scalarNode, text: n.Value, value: n.Value, line: n.Line}
	switch n.ShortTag() {
	case "!!null":
		out.value, out.text = nil, ""
	case "!!bool", "!!int", "!!float":
		var value any
		if err := n.Decode(&value); err != nil {
			return nil, &fault{at, "type", fmt.Sprintf("%q is not what its tag says", n.Value), n.Line}
		}
		if flag, ok := value.(bool); ok {
			out.value = flag
			return out, nil
		}
		number, err := json.Marshal(value)
		if err != nil {
			return nil, &fault{at, "type", fmt.Sprintf("%q has no JSON number", n.Value), n.Line}
		}
		out.value = json.Number(number)
	case "!!str", "!!timestamp":
		out.plain = n.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle|yaml.LiteralStyle|yaml.FoldedStyle) == 0
	default:
		return nil, &fault{at, "type", "a tag is not supported: put a text that begins with ! into quotes", n.Line}
	}
	return out, nil
}

func (n *node) addKey(at, key string, line int) error {
	if n.seen[key] {
		return &fault{join(at, key), "unique", "the field is there twice", line}
	}
	if n.seen == nil {
		n.seen = map[string]bool{}
	}
	n.seen[key] = true
	n.keys, n.keyLines = append(n.keys, key), append(n.keyLines, line)
	return nil
}

func spend(at string, depth, line int, budget *int) error {
	if depth > maxDepth {
		return &fault{at, "limit", fmt.Sprintf("nested deeper than %d", maxDepth), line}
	}
	if *budget--; *budget < 0 {
		return &fault{at, "limit", fmt.Sprintf("more than %d values", maxNodes), line}
	}
	return nil
}

func join(at, key string) string {
	if at == "" {
		return key
	}
	return at + "." + key
}
