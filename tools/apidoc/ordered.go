package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"

	"go.yaml.in/yaml/v4"
)

// object is a JSON object that keeps the order of its keys, so that what is generated
// is the same each time and reads from top to bottom.
type object struct {
	keys   []string
	values map[string]any
}

// pairs makes an object of keys and values in turn.
func pairs(all ...any) *object {
	o := &object{values: map[string]any{}}
	for i := 0; i+1 < len(all); i += 2 {
		o.set(all[i].(string), all[i+1])
	}
	return o
}

// set adds a key, or changes its value where it stands.
func (o *object) set(key string, value any) {
	if _, ok := o.values[key]; !ok {
		o.keys = append(o.keys, key)
	}
	o.values[key] = value
}

func (o *object) get(key string) any { return o.values[key] }

// MarshalJSON writes the keys in their order.
func (o *object) MarshalJSON() ([]byte, error) {
	var out bytes.Buffer
	out.WriteByte('{')
	for i, key := range o.keys {
		if i > 0 {
			out.WriteByte(',')
		}
		for j, part := range []any{key, o.values[key]} {
			if j > 0 {
				out.WriteByte(':')
			}
			text, err := compactJSON(part)
			if err != nil {
				return nil, err
			}
			out.Write(text)
		}
	}
	out.WriteByte('}')
	return out.Bytes(), nil
}

// compactJSON is json.Marshal that leaves <, > and & as they are.
func compactJSON(value any) ([]byte, error) {
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(value); err != nil {
		return nil, err
	}
	return bytes.TrimRight(out.Bytes(), "\n"), nil
}

// indentedJSON is for people.
func indentedJSON(value any) (string, error) {
	text, err := compactJSON(value)
	if err != nil {
		return "", err
	}
	var out bytes.Buffer
	if err := json.Indent(&out, text, "", "  "); err != nil {
		return "", err
	}
	return out.String(), nil
}

// parseOrdered reads JSON and keeps the order of its keys.
func parseOrdered(text string) (any, error) {
	decoder := json.NewDecoder(bytes.NewReader([]byte(text)))
	decoder.UseNumber()
	value, err := readOrdered(decoder)
	if err != nil {
		return nil, fmt.Errorf("reading the example %q: %w", text, err)
	}
	if decoder.More() {
		return nil, fmt.Errorf("reading the example %q: something stands behind the value", text)
	}
	return value, nil
}

func readOrdered(decoder *json.Decoder) (any, error) {
	token, err := decoder.Token()
	if err != nil {
		return nil, err
	}
	switch token {
	case json.Delim('['):
		list := []any{}
		for decoder.More() {
			item, err := readOrdered(decoder)
			if err != nil {
				return nil, err
			}
			list = append(list, item)
		}
		_, err := decoder.Token()
		return list, err
	case json.Delim('{'):
		o := pairs()
		for decoder.More() {
			key, err := decoder.Token()
			if err != nil {
				return nil, err
			}
			value, err := readOrdered(decoder)
			if err != nil {
				return nil, err
			}
			o.set(fmt.Sprint(key), value)
		}
		_, err := decoder.Token()
		return o, err
	}
	return token, nil
}

// dumpYAML writes a tree of objects, lists, strings, numbers and booleans.
func dumpYAML(value any) ([]byte, error) {
	node, err := yamlNode(value)
	if err != nil {
		return nil, err
	}
	return yaml.Dump(node, yaml.WithIndent(2), yaml.WithLineWidth(120))
}

func yamlNode(value any) (*yaml.Node, error) {
	switch v := value.(type) {
	case *object:
		node := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
		for _, key := range v.keys {
			child, err := yamlNode(v.values[key])
			if err != nil {
				return nil, fmt.Errorf("%s: %w", key, err)
			}
			node.Content = append(node.Content, scalar("!!str", key), child)
		}
		return node, nil
	case []any:
		node := &yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq"}
		for i, item := range v {
			child, err := yamlNode(item)
			if err != nil {
				return nil, fmt.Errorf("[%d]: %w", i, err)
			}
			node.Content = append(node.Content, child)
		}
		return node, nil
	case string:
		return scalar("!!str", v), nil
	case bool:
		return scalar("!!bool", strconv.FormatBool(v)), nil
	case int:
		return scalar("!!int", strconv.Itoa(v)), nil
	case json.Number:
		if _, err := v.Int64(); err == nil {
			return scalar("!!int", v.String()), nil
		}
		return scalar("!!float", v.String()), nil
	case nil:
		return scalar("!!null", "null"), nil
	}
	return nil, fmt.Errorf("a %T cannot be written as YAML", value)
}

func scalar(tag, text string) *yaml.Node {
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: tag, Value: text}
}

// anyList makes a list of values of one type one of any.
func anyList[T any](items ...T) []any {
	list := make([]any, len(items))
	for i, item := range items {
		list[i] = item
	}
	return list
}
