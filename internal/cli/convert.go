package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"

	"go.yaml.in/yaml/v4"
)

// maxInput bounds what `edit` reads, in bytes.
const maxInput = 1 << 20

// maxDepth bounds how deep documents may be nested.
const maxDepth = 100

// jsonNode reads JSON into a YAML tree, which keeps the order of the fields and the
// spelling of the numbers.
func jsonNode(raw json.RawMessage) (*yaml.Node, error) {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	node, err := jsonValue(d, 0)
	if err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("more than one JSON value")
	}
	return node, nil
}

func jsonValue(d *json.Decoder, depth int) (*yaml.Node, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("nested deeper than %d levels", maxDepth)
	}
	token, err := d.Token()
	if err != nil {
		return nil, err
	}
	switch value := token.(type) {
	case json.Delim:
		return jsonCollection(d, value, depth)
	case string:
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: value}, nil
	case json.Number:
		tag := "!!int"
		if bytes.ContainsAny([]byte(value), ".eE") {
			tag = "!!float"
		}
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: tag, Value: value.String()}, nil
	case bool:
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!bool", Value: strconv.FormatBool(value)}, nil
	}
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!null", Value: "null"}, nil
}

func jsonCollection(d *json.Decoder, open json.Delim, depth int) (*yaml.Node, error) {
	node := &yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq"}
	if open == '{' {
		node = &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
	}
	for d.More() {
		child, err := jsonValue(d, depth+1)
		if err != nil {
			return nil, err
		}
		node.Content = append(node.Content, child)
	}
	if len(node.Content) == 0 {
		node.Style = yaml.FlowStyle
	}
	_, err := d.Token()
	return node, err
}

func jsonToYAML(raw json.RawMessage) ([]byte, error) {
	node, err := jsonNode(raw)
	if err != nil {
		return nil, err
	}
	return yaml.Dump(node)
}

// yamlToJSON reads what a person wrote: one YAML document (JSON is one too), without
// aliases, into JSON that holds exactly the fields written.
func yamlToJSON(text []byte) (json.RawMessage, error) {
	if len(bytes.TrimSpace(text)) == 0 {
		return nil, errors.New("the input is empty")
	}
	var node yaml.Node
	if err := yaml.Load(text, &node, yaml.WithSingleDocument()); err != nil {
		return nil, notYAML(err)
	}
	if err := checkNode(&node, 0); err != nil {
		return nil, err
	}
	if second := moreDocuments(text); second {
		return nil, errors.New("the input holds more than one YAML document")
	}
	var value map[string]any
	if err := node.Decode(&value); err != nil {
		return nil, fmt.Errorf("the input is not a YAML mapping with text keys: %w", err)
	}
	if value == nil {
		return nil, errors.New("the input holds nothing")
	}
	data, err := json.Marshal(value)
	if err != nil {
		return nil, fmt.Errorf("the input cannot be written as JSON: %w", err)
	}
	return data, nil
}

// notYAML says where the input stops being YAML, in the words of an editor.
func notYAML(err error) error {
	var at *yaml.LoadError
	if errors.As(err, &at) && at.Mark.Line > 0 {
		return fmt.Errorf("the input is not YAML: line %d: %s", at.Mark.Line, at.Message)
	}
	return fmt.Errorf("the input is not YAML: %w", err)
}

func moreDocuments(text []byte) bool {
	loader, err := yaml.NewLoader(bytes.NewReader(text))
	if err != nil {
		return false
	}
	var node yaml.Node
	if loader.Load(&node) != nil {
		return false
	}
	return !errors.Is(loader.Load(&node), io.EOF)
}

func checkNode(n *yaml.Node, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("line %d: nested deeper than %d levels", n.Line, maxDepth)
	}
	if n.Kind == yaml.AliasNode {
		return fmt.Errorf("line %d: aliases (*name) are not read here, write the value out", n.Line)
	}
	for _, child := range n.Content {
		if err := checkNode(child, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// flatten lists every value of a document with its path, as "state.pools[0].name".
func flatten(raw json.RawMessage) ([]field, error) {
	node, err := jsonNode(raw)
	if err != nil {
		return nil, fmt.Errorf("the node's answer: %w", err)
	}
	var fields []field
	flattenNode(node, "", &fields)
	return fields, nil
}

func flattenNode(n *yaml.Node, path string, fields *[]field) {
	switch n.Kind {
	case yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			name := n.Content[i].Value
			if path != "" {
				name = path + "." + name
			}
			flattenNode(n.Content[i+1], name, fields)
		}
	case yaml.SequenceNode:
		for i, child := range n.Content {
			flattenNode(child, fmt.Sprintf("%s[%d]", path, i), fields)
		}
	default:
		value := n.Value
		if n.Tag == "!!null" {
			value = ""
		}
		*fields = append(*fields, field{path, value})
	}
}
