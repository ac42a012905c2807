package backup

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"

	osapi "github.com/holdfast-os/holdfast/api/os"
)

// Bounds of a manifest beside its length, which is one of the Limits.
const (
	// maxFields is how many fields it may have.
	maxFields = 100
	// maxCards is how many network cards it may list.
	maxCards = 10_000
	// maxValue is the longest field, or member of a list, in bytes: a name may have
	// maxName bytes, and JSON six for each.
	maxValue = 64 << 10
)

// readManifest decodes a manifest, and stops at the first list that is too long: what is
// packed in a few bytes must not take the memory of the node. What is no manifest is a
// *Problem; what the archive cannot give is its own error.
func readManifest(content io.Reader, limits Limits) (*osapi.BackupManifest, error) {
	in := &bounded{r: content, upTo: maxValue}
	r := manifestReader{json.NewDecoder(in), in}
	m, err := r.read(limits)
	var known *Problem
	switch {
	case in.err != nil:
		return nil, in.err
	case errors.As(err, &known):
		return nil, err
	case err != nil:
		return nil, refuse(ManifestName, RuleFormat, "it is not what a manifest is: %v", err)
	}
	return m, nil
}

type manifestReader struct {
	*json.Decoder
	in *bounded
}

func (r manifestReader) read(limits Limits) (*osapi.BackupManifest, error) {
	if err := r.expect('{'); err != nil {
		return nil, err
	}
	m := &osapi.BackupManifest{Members: []osapi.BackupMember{}}
	rest := map[string]json.RawMessage{}
	for fields := 0; r.More(); fields++ {
		if fields == maxFields {
			return nil, refuse(ManifestName, RuleLimit, "it has more than %d fields", maxFields)
		}
		token, err := r.Token()
		if err != nil {
			return nil, err
		}
		name, _ := token.(string)
		switch name {
		case "members":
			m.Members, err = list[osapi.BackupMember](r, name, limits.Entries)
		case "left_out":
			m.LeftOut, err = list[string](r, name, limits.Entries)
		case "cards":
			m.Cards, err = list[osapi.BackupCard](r, name, maxCards)
		default:
			rest[name], err = next[json.RawMessage](r)
		}
		if err != nil {
			return nil, err
		}
	}
	if err := r.expect('}'); err != nil {
		return nil, err
	}
	text, err := json.Marshal(rest)
	if err != nil {
		return nil, err
	}
	return m, json.Unmarshal(text, m)
}

// list reads a list of at most so many members; null is an empty one.
func list[T any](r manifestReader, name string, most int) ([]T, error) {
	all := []T{}
	token, err := r.Token()
	if err != nil || token == nil {
		return all, err
	}
	if token != json.Delim('[') {
		return nil, fmt.Errorf("%s is no list", name)
	}
	for r.More() {
		if len(all) == most {
			return nil, refuse(ManifestName, RuleLimit, "its list %s has more than %d members", name, most)
		}
		one, err := next[T](r)
		if err != nil {
			return nil, fmt.Errorf("%s[%d]: %w", name, len(all), err)
		}
		all = append(all, one)
	}
	return all, r.expect(']')
}

// next reads one value, and lets the next one be as long as this one could be.
func next[T any](r manifestReader) (value T, err error) {
	err = r.Decode(&value)
	r.in.upTo = r.InputOffset() + maxValue
	return value, err
}

func (r manifestReader) expect(what json.Delim) error {
	token, err := r.Token()
	if err == nil && token != what {
		err = fmt.Errorf("%v stands where %q is expected", token, rune(what))
	}
	r.in.upTo = r.InputOffset() + maxValue
	return err
}

// bounded reads up to a place, and refuses what goes on behind it.
type bounded struct {
	r       io.Reader
	n, upTo int64
	// err is what ended the reading; nil for its end.
	err error
}

func (b *bounded) Read(p []byte) (int, error) {
	if b.n >= b.upTo {
		b.err = refuse(ManifestName, RuleLimit, "a value in it is longer than %d bytes", maxValue)
		return 0, b.err
	}
	n, err := b.r.Read(p[:min(int64(len(p)), b.upTo-b.n)])
	b.n += int64(n)
	if err != nil && !errors.Is(err, io.EOF) {
		b.err = err
	}
	return n, err
}
