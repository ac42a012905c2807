package customizer

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/holdfast-os/holdfast/internal/config"
	"github.com/holdfast-os/holdfast/internal/media"
	"github.com/holdfast-os/holdfast/internal/seed"
)

// Types of images.
const (
	TypeRaw = media.TypeRaw
	TypeISO = media.TypeISO
)

// Choice is what a person wants in an image.
type Choice = media.Choice

// File is one member of the seed's archive.
type File = media.Member

// inLink is the canonical form as it stands in a link.
func inLink(canonical []byte) string { return base64.RawURLEncoding.EncodeToString(canonical) }

// errNotChoice is a link whose choice cannot be read.
var errNotChoice = errors.New("the link does not hold a whole choice: copy it again")

// fromLink reads what inLink has written. Who made the link is not known.
func fromLink(text string) (Choice, error) {
	raw, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		return Choice{}, errNotChoice
	}
	return DecodeChoice(raw)
}

// DecodeChoice reads a choice. The error is config.Problems when the document can be read
// and is wrong, with all that is wrong.
func DecodeChoice(data []byte) (Choice, error) {
	c := Choice{Channel: media.DefaultChannel}
	var p config.Problems
	var seeds json.RawMessage
	err := decodeFields(data, "", &p, map[string]any{
		"architecture": &c.Architecture, "type": &c.Type, "channel": &c.Channel,
		"version": &c.Version, "offline": &c.Offline, "seeds": &seeds,
	})
	if err != nil {
		return Choice{}, err
	}
	if len(seeds) > 0 {
		if err := decodeSeeds(&c.Seeds, seeds, &p); err != nil {
			return Choice{}, err
		}
	}
	if c.Channel == "" {
		c.Channel = media.DefaultChannel
	}
	for _, wrong := range c.Check() {
		p.Add(wrong.Path, wrong.Rule, "%s", wrong.Text)
	}
	return c, p.Err()
}

func decodeSeeds(set *seed.Set, data json.RawMessage, p *config.Problems) error {
	documents := map[string]*json.RawMessage{}
	fields := map[string]any{}
	for _, name := range seed.Names() {
		documents[name] = new(json.RawMessage)
		fields[name] = documents[name]
	}
	if err := decodeFields(data, "seeds", p, fields); err != nil {
		return err
	}
	for _, name := range seed.Names() {
		document := *documents[name]
		if len(document) == 0 {
			continue
		}
		for _, problem := range seedProblems(set.Decode(name+".json", document)) {
			p.Add(joinPath("seeds."+name, problem.Path), problem.Rule, "%s", problem.Text)
		}
	}
	return nil
}

// seedProblems takes a joined error of package seed apart.
func seedProblems(err error) (all []*seed.Problem) {
	var one *seed.Problem
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range joined.Unwrap() {
			all = append(all, seedProblems(e)...)
		}
	} else if errors.As(err, &one) {
		all = append(all, one)
	} else if err != nil {
		all = append(all, &seed.Problem{Rule: "document", Text: err.Error()})
	}
	return all
}

func joinPath(parts ...string) string {
	return strings.Join(slices.DeleteFunc(parts, func(p string) bool { return p == "" }), ".")
}

// decodeFields reads an object whose fields are known, each at most once; null is as if the
// field were not there. A field's value goes to where the map points.
func decodeFields(data []byte, at string, p *config.Problems, fields map[string]any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	token, err := d.Token()
	if err != nil {
		return notJSON(data, d, err)
	}
	if token != json.Delim('{') {
		p.Add(joinPath(at), "type", "an object is expected")
		return nil
	}
	seen := map[string]bool{}
	for d.More() {
		token, err := d.Token()
		if err != nil {
			return notJSON(data, d, err)
		}
		name, _ := token.(string)
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return notJSON(data, d, err)
		}
		path := joinPath(at, name)
		to, known := fields[name]
		switch {
		case !known:
			p.Add(path, "unknown-field", "there is no such field: known are %s", strings.Join(sortedKeys(fields), ", "))
		case seen[name]:
			p.Add(path, "unique", "the field is there twice")
		case string(value) == "null":
		default:
			if err := json.Unmarshal(value, to); err != nil {
				p.Add(path, "type", "%s where %s is expected", kindOf(value), kindFor(to))
			}
		}
		seen[name] = true
	}
	if _, err := d.Token(); err != nil {
		return notJSON(data, d, err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("the document goes on behind its end")
	}
	return nil
}

func sortedKeys(m map[string]any) []string {
	var keys []string
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

func notJSON(data []byte, d *json.Decoder, err error) error {
	line := 1 + bytes.Count(data[:min(d.InputOffset(), int64(len(data)))], []byte("\n"))
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = errors.New("it is cut off")
	}
	return fmt.Errorf("the document is not JSON, line %d: %w", line, err)
}

func kindOf(value json.RawMessage) string {
	switch value[0] {
	case '"':
		return "a text"
	case '{':
		return "an object"
	case '[':
		return "a list"
	case 't', 'f':
		return "true or false"
	}
	return "a number"
}

func kindFor(to any) string {
	switch to.(type) {
	case *string:
		return "a text"
	case *bool:
		return "true or false"
	}
	return "a list of texts"
}
