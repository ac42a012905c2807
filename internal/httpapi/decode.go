package httpapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"slices"
	"strings"
)

// maxDepth is how many lists and objects may stand inside each other in a body.
const maxDepth = 32

// maxDrain is how much of a body that is too large is read to its end, in bytes.
const maxDrain = 64 << 20

// readBody gives a pointer to a new value of the route's request type.
func readBody(route *Route, r *http.Request) (any, error) {
	limit := route.MaxBody
	if limit == 0 {
		limit = DefaultMaxBody
	}
	data, err := io.ReadAll(io.LimitReader(r.Body, limit+1))
	if err != nil {
		return nil, BadRequest("reading the body: %w", err)
	}
	if int64(len(data)) > limit {
		// A proxy that is still sending would answer "bad gateway" in our place, so the
		// rest is read and forgotten, up to a limit too. When that fails, the sender is
		// gone and nobody reads the answer.
		if _, err := io.CopyN(io.Discard, r.Body, maxDrain); err != nil && !errors.Is(err, io.EOF) {
			return nil, BadRequest("reading the body: %w", err)
		}
		return nil, WithCode(http.StatusRequestEntityTooLarge,
			fmt.Errorf("the body is larger than %d bytes", limit))
	}
	value := reflect.New(reflect.TypeOf(route.Request))
	if len(bytes.TrimSpace(data)) == 0 {
		if route.EmptyBody {
			return value.Interface(), nil
		}
		return nil, BadRequest("the body is empty: %s %s needs a JSON object", route.Method, route.Path)
	}
	if err := decode(data, value.Interface()); err != nil {
		return nil, err
	}
	return value.Interface(), nil
}

// decode reads JSON into a pointer, strictly. Every error is a BadRequest.
func decode(data []byte, into any) error {
	if err := checkSyntax(data); err != nil {
		return err
	}
	walker := &walker{data: data, dec: json.NewDecoder(bytes.NewReader(data))}
	if err := walker.value(reflect.TypeOf(into), "", 0); err != nil {
		return err
	}
	err := json.Unmarshal(data, into)
	var wrongType *json.UnmarshalTypeError
	if errors.As(err, &wrongType) {
		return BadRequest("%s: a JSON %s does not fit, %s is wanted (%s)",
			orBody(wrongType.Field), wrongType.Value, kindName(wrongType.Type), place(data, wrongType.Offset))
	}
	if err != nil {
		return BadRequest("reading the body: %w", err)
	}
	return nil
}

func checkSyntax(data []byte) error {
	var raw json.RawMessage
	err := json.Unmarshal(data, &raw)
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) {
		return BadRequest("the body is not JSON: %w (%s)", err, place(data, syntax.Offset))
	}
	if err != nil {
		return BadRequest("the body is not JSON: %w", err)
	}
	return nil
}

// walker goes through a body beside the Go type that it is for.
type walker struct {
	data []byte
	dec  *json.Decoder
}

func (w *walker) value(t reflect.Type, path string, depth int) error {
	token, err := w.dec.Token()
	if err != nil {
		return BadRequest("the body is not JSON: %w (%s)", err, w.place())
	}
	delim, ok := token.(json.Delim)
	if !ok {
		return nil
	}
	if depth >= maxDepth {
		return BadRequest("%s is nested more than %d levels deep (%s)", orBody(path), maxDepth, w.place())
	}
	t = plain(t)
	if delim == '[' {
		for i := 0; w.dec.More(); i++ {
			if err := w.value(elem(t), fmt.Sprintf("%s[%d]", path, i), depth+1); err != nil {
				return err
			}
		}
	} else if err := w.object(t, path, depth); err != nil {
		return err
	}
	_, err = w.dec.Token()
	return err
}

func (w *walker) object(t reflect.Type, path string, depth int) error {
	var known map[string]reflect.Type
	if t != nil && t.Kind() == reflect.Struct {
		known = jsonFields(t)
	}
	seen := map[string]bool{}
	for w.dec.More() {
		token, err := w.dec.Token()
		if err != nil {
			return BadRequest("the body is not JSON: %w (%s)", err, w.place())
		}
		key, _ := token.(string)
		at := strings.TrimPrefix(path+"."+short(key), ".")
		if seen[key] {
			return BadRequest("field %q is there twice (%s)", at, w.place())
		}
		seen[key] = true
		member := elem(t)
		if known != nil {
			fieldType, ok := known[key]
			if !ok {
				return BadRequest("unknown field %q (%s): %s", at, w.place(), suggestion(key, known))
			}
			member = fieldType
		}
		if err := w.value(member, at, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// maxKey is how much of a field's name an error repeats, in bytes.
const maxKey = 200

func short(key string) string {
	if len(key) <= maxKey {
		return key
	}
	return strings.ToValidUTF8(key[:maxKey], "") + "..."
}

func (w *walker) place() string { return place(w.data, w.dec.InputOffset()) }

// place says where a byte is, for a person with an editor.
func place(data []byte, offset int64) string {
	before := data[:min(max(offset, 0), int64(len(data)))]
	line := bytes.Count(before, []byte("\n")) + 1
	column := len(before) - (bytes.LastIndexByte(before, '\n') + 1)
	return fmt.Sprintf("line %d, column %d", line, max(column, 1))
}

var unmarshaler = reflect.TypeFor[json.Unmarshaler]()

// plain takes pointers away; it gives nil for a type that reads its JSON itself.
func plain(t reflect.Type) reflect.Type {
	for t != nil {
		if t.Implements(unmarshaler) || reflect.PointerTo(t).Implements(unmarshaler) || t.Kind() == reflect.Interface {
			return nil
		}
		if t.Kind() != reflect.Pointer {
			return t
		}
		t = t.Elem()
	}
	return nil
}

func elem(t reflect.Type) reflect.Type {
	if t != nil && (t.Kind() == reflect.Slice || t.Kind() == reflect.Array || t.Kind() == reflect.Map) {
		return t.Elem()
	}
	return nil
}

func jsonFields(t reflect.Type) map[string]reflect.Type {
	fields := map[string]reflect.Type{}
	for _, f := range reflect.VisibleFields(t) {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if !f.IsExported() || name == "-" || (f.Anonymous && name == "") {
			continue
		}
		if name == "" {
			name = f.Name
		}
		fields[name] = f.Type
	}
	return fields
}

func kindName(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Struct, reflect.Map:
		return "an object"
	case reflect.Slice, reflect.Array:
		return "a list"
	case reflect.String:
		return "a string"
	case reflect.Bool:
		return "true or false"
	default:
		return "a number (" + t.String() + ")"
	}
}

func orBody(path string) string {
	if path == "" {
		return "the body"
	}
	return path
}

// suggestion names the nearest known field, or all of them when none is near.
func suggestion(key string, known map[string]reflect.Type) string {
	names := make([]string, 0, len(known))
	for name := range known {
		names = append(names, name)
	}
	slices.Sort(names)
	best, distance := "", len(key)/2+2
	for _, name := range names {
		if d := editDistance(strings.ToLower(key), name); d < distance {
			best, distance = name, d
		}
	}
	switch {
	case best != "":
		return fmt.Sprintf("did you mean %q?", best)
	case len(names) == 0:
		return "no field is known here"
	default:
		return "known here: " + strings.Join(names, ", ")
	}
}

// editDistance counts the letters to add, remove or change between two words.
func editDistance(a, b string) int {
	if len(a) > 64 {
		a = a[:64]
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		diagonal := row[0]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := diagonal
			if a[i-1] != b[j-1] {
				cost++
			}
			diagonal = row[j]
			row[j] = min(cost, row[j]+1, row[j-1]+1)
		}
	}
	return row[len(b)]
}
