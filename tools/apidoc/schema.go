package main

import (
	"encoding"
	"encoding/json"
	"fmt"
	"path"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/holdfast-os/holdfast/internal/httpapi"
)

// shape is a type of the API as JSON has it.
type shape struct {
	// kind is "object", "array", "map", "string", "integer", "number", "boolean", "any",
	// "binary" for a download or "stream" for a connection.
	kind string
	// name is that of the schema; empty for what has no name of its own.
	name string
	// outside is the Go name of a type that is not of this module, as "api.Resources".
	outside string
	// note is the comment of the type.
	note note
	// format and enum are as in JSON Schema.
	format string
	enum   []string
	// minimum is true for a number that cannot be below 0.
	minimum bool
	// nullable is true for what may be null.
	nullable bool
	// media is the type of a binary answer.
	media  string
	fields []field
	elem   *shape
}

// field is one member of an object.
type field struct {
	name string
	note note
	// optional is true for a member that may be left out.
	optional bool
	// examples is where the table of examples knows the field: "Type.name".
	key   string
	shape *shape
}

// shaper turns Go types into shapes. Named structs become one shape each, so that types
// may refer to themselves.
type shaper struct {
	source *source
	byType map[reflect.Type]*shape
	// names are the schemas by name.
	names map[string]reflect.Type
	// problems are fields of the API without a comment.
	problems []problem
}

func newShaper(s *source) *shaper {
	return &shaper{source: s, byType: map[reflect.Type]*shape{}, names: map[string]reflect.Type{}}
}

var (
	timeType  = reflect.TypeFor[time.Time]()
	rawType   = reflect.TypeFor[json.RawMessage]()
	bytesType = reflect.TypeFor[[]byte]()
	fileType  = reflect.TypeFor[httpapi.Raw]()
	jsonType  = reflect.TypeFor[json.Marshaler]()
	textType  = reflect.TypeFor[encoding.TextMarshaler]()
)

// value gives the shape of a value of the table; nil stands for an empty object.
func (s *shaper) value(v any) (*shape, error) {
	if v == nil {
		return &shape{kind: "object"}, nil
	}
	if raw, ok := v.(httpapi.Raw); ok {
		media := raw.ContentType
		if media == "" {
			media = "application/octet-stream"
		}
		return &shape{kind: "binary", media: media}, nil
	}
	if _, ok := v.(httpapi.Stream); ok {
		return &shape{kind: "stream"}, nil
	}
	return s.of(reflect.TypeOf(v))
}

func (s *shaper) of(t reflect.Type) (*shape, error) {
	switch t {
	case timeType:
		return &shape{kind: "string", format: "date-time"}, nil
	case rawType:
		return &shape{kind: "any"}, nil
	case bytesType:
		return &shape{kind: "string", format: "byte"}, nil
	case fileType:
		return &shape{kind: "binary", media: "application/octet-stream"}, nil
	}
	if t.Kind() != reflect.Pointer && t.Kind() != reflect.Interface {
		if t.Implements(jsonType) || reflect.PointerTo(t).Implements(jsonType) {
			return s.opaque(t, "any")
		}
		if t.Implements(textType) || reflect.PointerTo(t).Implements(textType) {
			return s.opaque(t, "string")
		}
	}
	switch t.Kind() {
	case reflect.Pointer:
		return s.of(t.Elem())
	case reflect.Struct:
		return s.structOf(t)
	case reflect.Slice, reflect.Array:
		elem, err := s.of(t.Elem())
		return &shape{kind: "array", elem: elem}, err
	case reflect.Map:
		elem, err := s.of(t.Elem())
		return &shape{kind: "map", elem: elem}, err
	case reflect.Interface:
		return &shape{kind: "any"}, nil
	case reflect.Bool:
		return &shape{kind: "boolean"}, nil
	case reflect.String:
		return s.stringOf(t)
	case reflect.Float32, reflect.Float64:
		return &shape{kind: "number", format: "double"}, nil
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return &shape{kind: "integer", format: intFormat(t)}, nil
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return &shape{kind: "integer", minimum: true, format: intFormat(t)}, nil
	}
	return nil, fmt.Errorf("type %s cannot be JSON", t)
}

// intFormat names the size where it is one that the specification knows.
func intFormat(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Int32:
		return "int32"
	case reflect.Int64, reflect.Int:
		return "int64"
	}
	return ""
}

// opaque is a type that writes its own JSON, so that only its comment tells its form.
func (s *shaper) opaque(t reflect.Type, kind string) (*shape, error) {
	doc, err := s.source.typeOf(t)
	if err != nil || doc == nil {
		return &shape{kind: kind}, err
	}
	return &shape{kind: kind, note: readNote(doc.doc, "", "")}, nil
}

func (s *shaper) stringOf(t reflect.Type) (*shape, error) {
	found, err := s.opaque(t, "string")
	if err != nil || t.PkgPath() == "" {
		return found, err
	}
	doc, err := s.source.typeOf(t)
	if doc != nil {
		found.enum = doc.values
	}
	return found, err
}

func (s *shaper) structOf(t reflect.Type) (*shape, error) {
	if known := s.byType[t]; known != nil {
		return known, nil
	}
	made := &shape{kind: "object"}
	s.byType[t] = made
	doc, err := s.source.typeOf(t)
	if err != nil {
		return nil, err
	}
	if t.Name() != "" {
		made.name = s.schemaName(t)
	}
	_, inside := s.source.folder(t.PkgPath())
	if t.PkgPath() != "" && !inside {
		made.outside = t.String()
	}
	if doc != nil {
		made.note = readNote(doc.doc, "", "")
		if saysNothing(doc.doc, doc.name) {
			s.problems = append(s.problems, missing(doc.at, doc.name, doc.doc))
		}
	}
	made.fields, err = s.fields(t, doc, made.name)
	return made, err
}

// fields flattens embedded structs, as encoding/json does.
func (s *shaper) fields(t reflect.Type, doc *typeDoc, owner string) ([]field, error) {
	var found []field
	for i := range t.NumField() {
		f := t.Field(i)
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "-" || (!f.IsExported() && !f.Anonymous) {
			continue
		}
		if f.Anonymous && name == "" {
			inner := f.Type
			if inner.Kind() == reflect.Pointer {
				inner = inner.Elem()
			}
			innerDoc, err := s.source.typeOf(inner)
			if err != nil {
				return nil, err
			}
			more, err := s.fields(inner, innerDoc, owner)
			if err != nil {
				return nil, err
			}
			found = append(found, more...)
			continue
		}
		if name == "" {
			name = f.Name
		}
		one, err := s.field(f, name, options, doc, owner, t)
		if err != nil {
			return nil, fmt.Errorf("field %s of %s: %w", f.Name, t, err)
		}
		found = append(found, one)
	}
	return found, nil
}

func (s *shaper) field(f reflect.StructField, name, options string, doc *typeDoc, owner string, owned reflect.Type) (field, error) {
	inner, err := s.of(f.Type)
	if err != nil {
		return field{}, err
	}
	comment := doc.field(f.Name)
	n := readNote(comment, f.Name, name)
	n.text = jsonNames(n.text, f.Name, owned)
	if doc != nil && saysNothing(comment, f.Name) {
		i := slices.IndexFunc(doc.fields, func(d fieldDoc) bool { return d.name == f.Name })
		s.problems = append(s.problems, missing(doc.fields[i].at, doc.name+"."+f.Name, comment))
	}
	optional := slices.ContainsFunc(strings.Split(options, ","), func(o string) bool { return o == "omitempty" || o == "omitzero" })
	if slices.Contains(strings.Split(options, ","), "string") {
		inner = &shape{kind: "string"}
	}
	if len(n.enum) > 0 {
		inner = withEnum(inner, n.enum)
	}
	switch f.Type.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Map:
		if !optional && !n.never && f.Type != rawType {
			copied := *inner
			copied.nullable = true
			inner = &copied
		}
	}
	return field{name: name, note: n, optional: optional, key: owner + "." + name, shape: inner}, nil
}

// jsonNames puts JSON names in the place of the Go names of fields beside this one. Only
// names of several words, as StartHour, can be nothing else.
func jsonNames(text, self string, t reflect.Type) string {
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if f.Name == self || name == "" || name == "-" || len(nameWords(f.Name)) < 2 {
			continue
		}
		text = regexp.MustCompile(`\b`+regexp.QuoteMeta(f.Name)+`\b`).ReplaceAllString(text, name)
	}
	return text
}

// withEnum puts the values where the texts are: at a string, or at the members of a list.
func withEnum(s *shape, values []string) *shape {
	copied := *s
	switch {
	case s.kind == "string" && len(s.enum) == 0 && s.format == "":
		copied.enum = values
	case s.kind == "array" && s.elem.kind == "string" && len(s.elem.enum) == 0:
		elem := *s.elem
		elem.enum = values
		copied.elem = &elem
	}
	return &copied
}

// outsideNames go in front of the names of types from other modules.
var outsideNames = map[string]string{"github.com/lxc/incus/v6/shared/api": "Incus"}

// schemaName names a type: those of api/os as they are, Put[T] as PutT, and a second
// type of one name with its package in front.
func (s *shaper) schemaName(t reflect.Type) string {
	name, args, generic := strings.Cut(t.Name(), "[")
	name = title(name)
	if generic {
		for arg := range strings.SplitSeq(strings.TrimSuffix(args, "]"), ",") {
			name += title(arg[strings.LastIndexAny(arg, "./")+1:])
		}
	}
	if prefix, ok := outsideNames[t.PkgPath()]; ok {
		name = prefix + name
	}
	if taken := s.names[name]; taken != nil && taken != t {
		name = title(path.Base(t.PkgPath())) + name
	}
	for taken := s.names[name]; taken != nil && taken != t; taken = s.names[name] {
		name += "X"
	}
	s.names[name] = t
	return name
}

func title(text string) string {
	if text == "" {
		return ""
	}
	letters := []rune(text)
	letters[0] = unicode.ToUpper(letters[0])
	return string(letters)
}
