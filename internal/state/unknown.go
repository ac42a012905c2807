package state

import (
	"encoding"
	"encoding/json"
	"reflect"
	"strings"
)

var (
	jsonMarshaler = reflect.TypeFor[json.Marshaler]()
	textMarshaler = reflect.TypeFor[encoding.TextMarshaler]()
)

// keepUnknown adds to the new data those keys of the old that the value's type does not
// have. It looks into structs and maps; lists are replaced as a whole, since their
// members have no names.
func keepUnknown(before, data json.RawMessage, value any) (json.RawMessage, error) {
	return merge(before, data, reflect.TypeOf(value))
}

func merge(before, data json.RawMessage, t reflect.Type) (json.RawMessage, error) {
	for t != nil && t.Kind() == reflect.Pointer && !opaque(t) {
		t = t.Elem()
	}
	if t == nil || opaque(t) || (t.Kind() != reflect.Struct && t.Kind() != reflect.Map) {
		return data, nil
	}
	var old, merged map[string]json.RawMessage
	if json.Unmarshal(before, &old) != nil || json.Unmarshal(data, &merged) != nil || old == nil || merged == nil {
		return data, nil // null, or another kind than before: nothing to keep
	}
	fields := map[string]reflect.Type{}
	if t.Kind() == reflect.Struct {
		fields = structFields(t)
	}
	for key, text := range old {
		member, known := fields[strings.ToLower(key)]
		if t.Kind() == reflect.Map {
			member, known = t.Elem(), true
		}
		if !known {
			merged[key] = text
			continue
		}
		if now, ok := merged[key]; ok {
			kept, err := merge(text, now, member)
			if err != nil {
				return nil, err
			}
			merged[key] = kept
		}
	}
	return json.Marshal(merged)
}

func opaque(t reflect.Type) bool {
	return t.Implements(jsonMarshaler) || reflect.PointerTo(t).Implements(jsonMarshaler) || t.Implements(textMarshaler)
}

// structFields gives the JSON keys of a struct in lower case, since decoding does not
// look at the case either.
func structFields(t reflect.Type) map[string]reflect.Type {
	fields := map[string]reflect.Type{}
	for _, f := range reflect.VisibleFields(t) {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if !f.IsExported() || name == "-" || (f.Anonymous && name == "") {
			continue
		}
		if name == "" {
			name = f.Name
		}
		fields[strings.ToLower(name)] = f.Type
	}
	return fields
}
