package media

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	"go.yaml.in/yaml/v4"

	api "github.com/holdfast-os/holdfast/api/seed"
	"github.com/holdfast-os/holdfast/internal/seed"
)

// Member is one member of the seed's archive.
type Member struct {
	// Name is as "install.yaml".
	Name string `json:"name"`
	// Content is YAML.
	Content string `json:"content"`
}

// fileOrder is the order of the members, as the customizer of IncusOS writes them.
var fileOrder = []string{
	"applications", "incus", "operations-center", "migration-manager", "install", "network",
	"provider", "services", "update", "security", "kernel",
}

// Files are the members of the seed's archive, in their order.
func (c Choice) Files() ([]Member, error) {
	set := c.Seeds
	if c.Offline {
		update := api.Update{}
		if set.Update != nil {
			update = *set.Update
		}
		update.CheckFrequency = "never"
		set.Update = &update
	}
	files := []Member{}
	for _, name := range fileOrder {
		document, err := set.Get(name)
		if errors.Is(err, seed.Missing) {
			continue
		}
		if err != nil {
			return nil, err
		}
		content, err := toYAML(name, document)
		if err != nil {
			return nil, fmt.Errorf("writing seed %s: %w", name, err)
		}
		files = append(files, Member{name + ".yaml", content})
	}
	return files, nil
}

// Archive is the seed's archive: always the same bytes for the same choice.
func (c Choice) Archive() ([]byte, error) {
	files, err := c.Files()
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, f := range files {
		header := &tar.Header{Typeflag: tar.TypeReg, Name: f.Name, Mode: 0o600, Size: int64(len(f.Content)), Format: tar.FormatUSTAR}
		if err := w.WriteHeader(header); err != nil {
			return nil, fmt.Errorf("writing seed member %s: %w", f.Name, err)
		}
		if _, err := w.Write([]byte(f.Content)); err != nil {
			return nil, fmt.Errorf("writing seed member %s: %w", f.Name, err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("ending the seed archive: %w", err)
	}
	return out.Bytes(), nil
}

// toYAML writes a document as people write it, in the order of its type's fields. The node
// must read the same out of it; a text that YAML would change is written as JSON, which is
// YAML too.
func toYAML(name string, document any) (string, error) {
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(document); err != nil {
		return "", err
	}
	var node yaml.Node
	if err := yaml.Load(text.Bytes(), &node); err != nil {
		return text.String(), nil
	}
	blockStyle(&node)
	plain, err := yaml.Dump(&node)
	if err != nil {
		return text.String(), nil
	}
	var back seed.Set
	if err := back.Decode(name+".yaml", plain); err != nil {
		return text.String(), nil
	}
	read, err := back.Get(name)
	if err != nil {
		return "", err
	}
	var again bytes.Buffer
	encoder = json.NewEncoder(&again)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(read); err != nil {
		return "", err
	}
	if !bytes.Equal(text.Bytes(), again.Bytes()) {
		return text.String(), nil
	}
	return string(plain), nil
}

// blockStyle takes the braces and quotes of JSON away where YAML needs none.
func blockStyle(n *yaml.Node) {
	if len(n.Content) > 0 || n.Kind == yaml.ScalarNode {
		n.Style = 0
	}
	for _, child := range n.Content {
		blockStyle(child)
	}
}
