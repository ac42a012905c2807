package seed

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
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

// fault is a problem without its file.
type fault struct{ path, rule, text string }

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
	var tree *node
	var err error
	if path.Ext(file) == ".json" {
		tree, err = readJSON(data)
	} else {
		tree, err = readYAML(data)
	}
	if err == nil && tree != nil && tree.kind == scalarNode && tree.value == nil {
		return nil, &fault{rule: "null", text: "the document is null: write {} for a document without fields, or leave the file out"}
	}
	return tree, err
}

func readJSON(data []byte) (*node, error) {
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.UseNumber()
	token, err := decoder.Token()
	if err == io.EOF {
		return nil, nil
	}
	if err != nil {
		return nil, jsonFault(decoder, err)
	}
	budget := maxNodes
	tree, err := readJSONValue(decoder, token, "", 0, &budget)
	if err != nil {
		return nil, err
	}
	if _, err := decoder.Token(); err != io.EOF {
		return nil, &fault{rule: "one-document", text: "text after the end of the document: a seed holds one document"}
	}
	return tree, nil
}

func readJSONValue(decoder *json.Decoder, token json.Token, at string, depth int, budget *int) (*node, error) {
	if err := spend(at, depth, budget); err != nil {
		return nil, err
	}
	delimiter, ok := token.(json.Delim)
	if !ok {
		text := ""
		if token != nil {
			text = fmt.Sprint(token)
		}
		return &node{kind: scalarNode, value: token, text: text}, nil
	}
	out := &node{kind: listNode}
	if delimiter == '{' {
		out.kind = mapNode
	}
	for decoder.More() {
		place := fmt.Sprintf("%s[%d]", at, len(out.kids))
		token, err := decoder.Token()
		if err != nil {
			return nil, jsonFault(decoder, err)
		}
		if out.kind == mapNode {
			key, ok := token.(string)
			if !ok {
				return nil, &fault{at, "syntax", "a key is not a text"}
			}
			if err := out.addKey(at, key); err != nil {
				return nil, err
			}
			place = join(at, key)
			if token, err = decoder.Token(); err != nil {
				return nil, jsonFault(decoder, err)
			}
		}
		kid, err := readJSONValue(decoder, token, place, depth+1, budget)
		if err != nil {
			return nil, err
		}
		out.kids = append(out.kids, kid)
	}
	if _, err := decoder.Token(); err != nil {
		return nil, jsonFault(decoder, err)
	}
	return out, nil
}

func jsonFault(decoder *json.Decoder, err error) error {
	if err == io.EOF || errors.Is(err, io.ErrUnexpectedEOF) {
		return &fault{rule: "syntax", text: "the document ends too early: a bracket is not closed"}
	}
	return &fault{rule: "syntax", text: fmt.Sprintf("byte %d: %v", decoder.InputOffset(), err)}
}

func readYAML(data []byte) (*node, error) {
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	var document, second yaml.Node
	err := decoder.Decode(&document)
	if err == io.EOF {
		return nil, nil
	}
	if err != nil {
		return nil, &fault{rule: "syntax", text: err.Error()}
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

// yamlReader turns YAML's nodes into ours under a budget: an alias costs what it
// stands for, so a few lines cannot become a billion values.
type yamlReader struct{ aliases, budget int }

func (y *yamlReader) value(n *yaml.Node, at string, depth int) (*node, error) {
	if err := spend(at, depth, &y.budget); err != nil {
		return nil, err
	}
	switch n.Kind {
	case yaml.AliasNode:
		if y.aliases--; y.aliases < 0 {
			return nil, &fault{at, "limit", fmt.Sprintf("more than %d aliases", maxAliases)}
		}
		return y.value(n.Alias, at, depth+1)
	case yaml.SequenceNode:
		out := &node{kind: listNode}
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
	return nil, &fault{at, "syntax", "this is no value"}
}

func (y *yamlReader) mapping(n *yaml.Node, at string, depth int) (*node, error) {
	out := &node{kind: mapNode}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i]
		if key.Kind != yaml.ScalarNode {
			return nil, &fault{at, "syntax", fmt.Sprintf("line %d: a key is not a text", key.Line)}
		}
		if key.Tag == "!!merge" {
			return nil, &fault{at, "syntax", fmt.Sprintf("line %d: the merge key << is not supported: write the fields out", key.Line)}
		}
		if err := out.addKey(at, key.Value); err != nil {
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
	out := &node{kind: scalarNode, text: n.Value, value: n.Value}
	switch n.ShortTag() {
	case "!!null":
		out.value, out.text = nil, ""
	case "!!bool", "!!int", "!!float":
		var value any
		if err := n.Decode(&value); err != nil {
			return nil, &fault{at, "type", fmt.Sprintf("line %d: %q is not what its tag says", n.Line, n.Value)}
		}
		if flag, ok := value.(bool); ok {
			out.value = flag
			return out, nil
		}
		number, err := json.Marshal(value)
		if err != nil {
			return nil, &fault{at, "type", fmt.Sprintf("line %d: %q has no JSON number", n.Line, n.Value)}
		}
		out.value = json.Number(number)
	case "!!str", "!!timestamp":
		out.plain = n.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle|yaml.LiteralStyle|yaml.FoldedStyle) == 0
	default:
		return nil, &fault{at, "type", fmt.Sprintf("line %d: the tag %q is not supported", n.Line, n.Tag)}
	}
	return out, nil
}

func (n *node) addKey(at, key string) error {
	if n.seen[key] {
		return &fault{join(at, key), "unique", "the field is there twice"}
	}
	if n.seen == nil {
		n.seen = map[string]bool{}
	}
	n.seen[key] = true
	n.keys = append(n.keys, key)
	return nil
}

func spend(at string, depth int, budget *int) error {
	if depth > maxDepth {
		return &fault{at, "limit", fmt.Sprintf("nested deeper than %d", maxDepth)}
	}
	if *budget--; *budget < 0 {
		return &fault{at, "limit", fmt.Sprintf("more than %d values", maxNodes)}
	}
	return nil
}

func join(at, key string) string {
	if at == "" {
		return key
	}
	return at + "." + key
}
