package customizer

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/holdfast-os/holdfast/internal/config"
	"github.com/holdfast-os/holdfast/internal/seed"
)

// Types of images.
const (
	TypeRaw = "raw"
	TypeISO = "iso"
)

// Architectures of images.
var architectures = []string{"x86_64", "aarch64"}

// Choice is what a person wants in an image. It is plain data: the same choice has the same
// canonical form and the same ID, wherever it was made.
type Choice struct {
	// Architecture is "x86_64" or "aarch64".
	Architecture string
	// Type is TypeRaw or TypeISO.
	Type string
	// Channel is the one to take the newest release of; default "stable".
	Channel string
	// Version is one release, whatever its channels; default the newest of the channel.
	Version string
	// Offline has the node never look for updates by itself, and adds a medium with the
	// applications; default false.
	Offline bool
	// Seeds are the documents for the node's first boot; nil is left out.
	Seeds seed.Set
}

// canonical is the form of a choice that its ID is made of, and that links hold. Fields and
// documents are ordered by name.
type canonical struct {
	Architecture string                     `json:"architecture"`
	Channel      string                     `json:"channel"`
	Offline      bool                       `json:"offline,omitempty"`
	Seeds        map[string]json.RawMessage `json:"seeds,omitempty"`
	Type         string                     `json:"type"`
	Version      string                     `json:"version,omitempty"`
}

// Canonical is the choice as JSON, always the same bytes for the same choice.
func (c Choice) Canonical() ([]byte, error) {
	form := canonical{c.Architecture, c.Channel, c.Offline, map[string]json.RawMessage{}, c.Type, c.Version}
	for _, name := range seed.Names() {
		document, err := c.Seeds.Get(name)
		if errors.Is(err, seed.Missing) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if form.Seeds[name], err = json.Marshal(document); err != nil {
			return nil, fmt.Errorf("encoding seed %s: %w", name, err)
		}
	}
	text, err := json.Marshal(form)
	if err != nil {
		return nil, fmt.Errorf("encoding the choice: %w", err)
	}
	return text, nil
}

// ID is the SHA-256 of the canonical form, hexadecimal.
func (c Choice) ID() (string, error) {
	text, err := c.Canonical()
	if err != nil {
		return "", err
	}
	return idOf(text), nil
}

func idOf(canonical []byte) string {
	sum := sha256.Sum256(canonical)
	return hex.EncodeToString(sum[:])
}

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
	c := Choice{Channel: "stable"}
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
		if err := c.decodeSeeds(seeds, &p); err != nil {
			return Choice{}, err
		}
	}
	if c.Channel == "" {
		c.Channel = "stable"
	}
	c.check(&p)
	return c, p.Err()
}

func (c *Choice) decodeSeeds(data json.RawMessage, p *config.Problems) error {
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
		for _, problem := range seedProblems(c.Seeds.Decode(name+".json", document)) {
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
