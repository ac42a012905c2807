package seed

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"go.yaml.in/yaml/v4"
)

// ReadSection reads the documents that stand below one key of a YAML file of somebody
// else, by their names: "network: {...}". What is beside the key is not looked at; below
// it the rules are those of a file of its own. A text with the armour of age is a sealed
// document. The paths of problems begin with the key. A file without the key is Missing.
func ReadSection(file string, data []byte, key string) (*Set, error) {
	set := &Set{}
	where := place{file: file, under: key}
	section, err := findSection(data, key)
	if err != nil {
		return set, locate(file, "", err)
	}
	if section == nil {
		return set, Missing
	}
	reader := yamlReader{aliases: maxAliases, budget: maxNodes}
	tree, err := reader.value(section, "", 0)
	if err != nil {
		return set, locate(file, key, err)
	}
	if tree.isNull() {
		return set, Missing
	}
	if tree.kind != mapNode {
		return set, where.problem("", "type", fmt.Sprintf("%s where a map of seeds is expected", tree.kind), section.Line)
	}
	var problems []error
	for i, name := range tree.keys {
		if err := set.takeTree(place{file, key + "." + name}, name, tree.kids[i], tree.keyLines[i]); err != nil {
			problems = append(problems, err)
		}
	}
	return set, errors.Join(problems...)
}

// takeTree reads one document of a section.
func (s *Set) takeTree(where place, name string, tree *node, line int) error {
	file := name + ".yaml"
	if _, known := NameOf(file); !known {
		return where.problem("", "unknown-seed", unknownSeed(name), line)
	}
	if tree.kind == scalarNode && IsSealed([]byte(tree.text)) {
		return s.Decode(file+sealedEnding, []byte(tree.text))
	}
	value := s.fresh(name)
	there, err := decodeTree(where, name, tree, value)
	if err == nil && there {
		s.take(name, value)
	}
	return err
}

// findSection gives the value of a key of the first document in a file; nil when it is not
// there.
func findSection(data []byte, key string) (*yaml.Node, error) {
	if len(data) > MaxMember {
		return nil, &fault{rule: "limit", text: fmt.Sprintf("more than %d bytes", MaxMember)}
	}
	var document yaml.Node
	err := yaml.NewDecoder(bytes.NewReader(data)).Decode(&document)
	if err == io.EOF {
		return nil, nil
	}
	if err != nil {
		return nil, yamlFault(err)
	}
	if len(document.Content) == 0 || document.Content[0].Kind != yaml.MappingNode {
		return nil, nil
	}
	root := document.Content[0]
	var found *yaml.Node
	for i := 0; i+1 < len(root.Content); i += 2 {
		if root.Content[i].Kind != yaml.ScalarNode || root.Content[i].Value != key {
			continue
		}
		if found != nil {
			return nil, &fault{key, "unique", "the field is there twice", root.Content[i].Line}
		}
		found = root.Content[i+1]
	}
	return found, nil
}
