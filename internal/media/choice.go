package media

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/holdfast-os/holdfast/internal/seed"
)

// Types of images, and the default channel.
const (
	TypeRaw        = "raw"
	TypeISO        = "iso"
	DefaultChannel = "stable"
)

// MaxWord bounds a channel and a version, in bytes.
const MaxWord = 64

// Architectures are those of images, which a caller must not change.
var Architectures = []string{"x86_64", "aarch64"}

// Choice is an image that somebody wants, with nothing left open: what `holdfast image
// customize` and the service behind `holdfast image serve` make images of. It is plain data:
// the same choice has the same canonical form and the same ID, wherever it was made.
// ChoiceOptions are how people write it down.
type Choice struct {
	// Architecture is "x86_64" or "aarch64".
	Architecture string
	// Type is TypeRaw or TypeISO.
	Type string
	// Channel is the one to take the newest release of.
	Channel string
	// Version is one release, whatever its channels; default the newest of the channel.
	Version string
	// Offline has the node never look for updates by itself, and goes with a medium with the
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

// ID is the SHA-256 of the canonical form, hexadecimal. It says nothing about whether the
// choice has secrets: see Secrets.
func (c Choice) ID() (string, error) {
	text, err := c.Canonical()
	if err != nil {
		return "", err
	}
	return IDOf(text), nil
}

// IDOf is the ID of a choice out of its canonical form.
func IDOf(canonical []byte) string {
	sum := sha256.Sum256(canonical)
	return hex.EncodeToString(sum[:])
}

// Secrets are the paths of fields that may hold a secret, as "seeds.provider.config.token",
// sorted; nil without any. A choice with secrets has no link that works twice, and its ID is
// not shown: links and identifiers are kept by browsers, proxies and logs.
func (c Choice) Secrets() ([]string, error) {
	found, err := Secrets(&c.Seeds)
	for i := range found {
		found[i] = "seeds." + found[i]
	}
	return found, err
}

// Check gives all that is wrong with a choice beyond its types, with paths as
// "seeds.install.target.min_size". What only the machine can tell is left to the machine.
func (c Choice) Check() Problems {
	problems := c.checkFrame()
	for _, p := range CheckSet(&c.Seeds, nil) {
		p.Path, p.File = strings.Trim("seeds."+p.File+"."+p.Path, "."), ""
		problems = append(problems, p)
	}
	return problems
}

// checkFrame is Check without what the documents say.
func (c Choice) checkFrame() (problems Problems) {
	add := func(path, rule, format string, args ...any) {
		problems = append(problems, Problem{Path: path, Rule: rule, Text: fmt.Sprintf(format, args...)})
	}
	if !slices.Contains(Architectures, c.Architecture) {
		add("architecture", "choice", "%q is not one of %s", c.Architecture, strings.Join(Architectures, ", "))
	}
	if c.Type != TypeRaw && c.Type != TypeISO {
		add("type", "choice", "%q is not one of raw, iso", c.Type)
	}
	for _, word := range [][2]string{{"channel", c.Channel}, {"version", c.Version}} {
		if !IsWord(word[1]) {
			add(word[0], "word", "letters, digits, dots and dashes, at most %d", MaxWord)
		}
	}
	if c.Type == TypeISO && c.Seeds.Install == nil {
		add("seeds.install", "needed", "a CD cannot be run from, it can only install: add an install seed, or take the type raw")
	}
	if c.Offline && c.Seeds.Applications == nil {
		add("seeds.applications", "needed", "without a network the node gets its applications from the second medium: name at least one")
	}
	return problems
}

// IsWord tells whether a text can be a channel or a version: a name of one folder, or empty.
func IsWord(text string) bool {
	return len(text) <= MaxWord && strings.Trim(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_") == "" &&
		!strings.HasPrefix(text, ".")
}
