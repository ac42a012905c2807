package main

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/holdfast-os/holdfast/internal/httpapi"
)

const apiIntro = `Every answer is in one envelope, that of Incus; what differs from path to path is its member "metadata". ` +
	`A body is read strictly: an unknown or repeated field is an error that names it. A GET has an ETag, and a PUT with ` +
	`If-Match is refused when the resource has changed since. Routes with "x-later" are not there yet and answer 501. ` +
	`"x-access" is "any", or "socket" for what the node's own socket alone takes. A field that is "required" is in every ` +
	`answer; in a body it may be left out, and then has its default.`

// openAPI writes the reference as an OpenAPI 3.1 document.
func (ref *reference) openAPI() ([]byte, error) {
	schemas, err := ref.schemas()
	if err != nil {
		return nil, err
	}
	paths := pairs()
	for _, op := range ref.operations {
		item, ok := paths.get(op.Path).(*object)
		if !ok {
			item = pairs()
			if len(op.vars) > 0 {
				item.set("parameters", pathParameters(op))
			}
			paths.set(op.Path, item)
		}
		described, err := ref.operation(op)
		if err != nil {
			return nil, fmt.Errorf("%s %s: %w", op.Method, op.Path, err)
		}
		item.set(strings.ToLower(op.Method), described)
	}
	var tags []any
	for _, name := range ref.resources() {
		tags = append(tags, pairs("name", name))
	}
	text, err := dumpYAML(pairs(
		"openapi", "3.1.0",
		"info", pairs("title", "Holdfast REST API", "version", "1.0", "description", apiIntro,
			"license", pairs("name", "Apache-2.0", "identifier", "Apache-2.0")),
		"servers", anyList(
			pairs("url", "/", "description", "the node's socket, /run/incus-os/unix.socket"),
			pairs("url", "/os", "description", "over the network, through the primary application")),
		"tags", tags,
		"paths", paths,
		"components", pairs("schemas", schemas, "responses", errorResponses()),
	))
	return append([]byte("# "+generated+"\n"), text...), err
}

func pathParameters(op operation) []any {
	var all []any
	for _, name := range op.vars {
		all = append(all, pairs("name", name, "in", "path", "required", true,
			"description", "any text without a slash that does not begin with a colon",
			"schema", pairs("type", "string", "pattern", "^[^:/][^/]*$"), "example", varExample(op.Path, name)))
	}
	return all
}

// varExample is a value for a name in a path, which the collection in front of it knows.
func varExample(path, name string) string {
	before, _, _ := strings.Cut(path, "/{"+name+"}")
	if value, ok := memberExamples[before[strings.LastIndex(before, "/")+1:]]; ok {
		return value
	}
	if value, err := parseOrdered(nameExamples[name]); err == nil {
		return fmt.Sprint(value)
	}
	return name
}

func (ref *reference) operation(op operation) (*object, error) {
	out := pairs("operationId", op.id, "tags", anyList(op.resource), "summary", sentence(op.Doc), "x-access", op.Access.String())
	if op.Later != "" {
		out.set("x-later", op.Later)
	}
	var parameters []any
	for _, p := range op.Query {
		one := pairs("name", p.Name, "in", "query", "description", p.Doc, "schema", pairs("type", "string"))
		if p.Example != "" {
			one.set("example", p.Example)
		}
		parameters = append(parameters, one)
	}
	if op.Method == http.MethodPut && op.Later == "" {
		parameters = append(parameters, pairs("name", "If-Match", "in", "header", "description",
			"the ETag of the GET before; the change is refused when the resource is another by now", "schema", pairs("type", "string")))
	}
	if len(parameters) > 0 {
		out.set("parameters", parameters)
	}
	if op.body != nil {
		body := pairs("required", !op.EmptyBody, "content", pairs("application/json", pairs("schema", op.body.schema())))
		body.set("description", bodyText(op.Route))
		out.set("requestBody", body)
	}
	responses := pairs()
	if op.answer != nil {
		code, answer := success(op)
		responses.set(code, answer)
	}
	for _, code := range op.codes {
		responses.set(strconv.Itoa(code), pairs("$ref", "#/components/responses/"+errorName(code)))
	}
	out.set("responses", responses)
	return out, nil
}

func bodyText(r httpapi.Route) string {
	limit := r.MaxBody
	if limit == 0 {
		limit = httpapi.DefaultMaxBody
	}
	text := fmt.Sprintf("At most %d bytes.", limit)
	if r.EmptyBody {
		text += " It may be empty."
	}
	return text
}

// success gives the code of the answer when all is well, and its description.
func success(op operation) (string, *object) {
	switch op.answer.kind {
	case "stream":
		return "101", pairs("description", "the connection becomes a websocket")
	case "binary":
		return "200", pairs("description", "the bytes themselves, without envelope",
			"content", pairs(op.answer.media, pairs("schema", pairs())))
	}
	code, out := "200", pairs("description", "done")
	if op.async {
		code = "202"
		out = pairs("description", "it goes on as an operation, whose path is in the envelope",
			"headers", pairs("Location", pairs("description", "the operation's path", "schema", pairs("type", "string"))))
	}
	if op.Method == http.MethodGet {
		out.set("headers", pairs("ETag", pairs("description", "in quotes; it changes with what a PUT replaces, or with the metadata where there is no PUT",
			"schema", pairs("type", "string"))))
	}
	metadata := pairs("type", "object", "properties", pairs("metadata", op.answer.schema()))
	out.set("content", pairs("application/json", pairs("schema",
		pairs("allOf", anyList(pairs("$ref", "#/components/schemas/Response"), metadata)))))
	return code, out
}

func errorName(code int) string {
	switch code {
	case http.StatusRequestEntityTooLarge:
		return "TooLarge"
	case http.StatusInternalServerError:
		return "Internal"
	case http.StatusServiceUnavailable:
		return "Unavailable"
	}
	return strings.ReplaceAll(http.StatusText(code), " ", "")
}

func errorResponses() *object {
	codes := make([]int, 0, len(errorText))
	for code := range errorText {
		codes = append(codes, code)
	}
	slices.Sort(codes)
	all := pairs()
	for _, code := range codes {
		all.set(errorName(code), pairs("description", errorText[code], "content", pairs("application/json", pairs(
			"schema", pairs("allOf", anyList(pairs("$ref", "#/components/schemas/Response"),
				pairs("type", "object", "properties", pairs("type", pairs("const", "error"), "error_code", pairs("const", code),
					"metadata", pairs("type", "null")))))))))
	}
	return all
}

// schemas describes every named type, in the order of names.
func (ref *reference) schemas() (*object, error) {
	envelope, err := ref.shaper.value(envelopeValue)
	if err != nil {
		return nil, fmt.Errorf("the envelope: %w", err)
	}
	named := map[string]*shape{envelope.name: envelope}
	for _, s := range ref.shaper.byType {
		if s.name != "" {
			named[s.name] = s
		}
	}
	names := make([]string, 0, len(named))
	for name := range named {
		names = append(names, name)
	}
	slices.Sort(names)
	all := pairs()
	for _, name := range names {
		all.set(name, named[name].full())
	}
	return all, nil
}

// schema refers to a named type, and describes any other.
func (s *shape) schema() *object {
	if s.name == "" {
		return s.full()
	}
	ref := pairs("$ref", "#/components/schemas/"+s.name)
	if s.nullable {
		return pairs("anyOf", anyList(ref, pairs("type", "null")))
	}
	return ref
}

// full describes a type.
func (s *shape) full() *object {
	out := pairs()
	switch s.kind {
	case "any", "binary", "stream":
	case "map":
		out.set("type", s.types("object"))
		out.set("additionalProperties", s.elem.schema())
	case "array":
		out.set("type", s.types("array"))
		out.set("items", s.elem.schema())
	default:
		out.set("type", s.types(s.kind))
	}
	if s.note.text != "" {
		out.set("description", s.note.text)
	}
	if s.outside != "" {
		out.set("description", s.outside+" of another project, with its own documentation")
	}
	if s.format == "byte" {
		out.set("contentEncoding", "base64")
	} else if s.format != "" {
		out.set("format", s.format)
	}
	if s.minimum {
		out.set("minimum", 0)
	}
	if len(s.enum) > 0 {
		out.set("enum", anyList(s.enum...))
	}
	if len(s.fields) == 0 {
		return out
	}
	properties, required := pairs(), []any{}
	for _, f := range s.fields {
		properties.set(f.name, f.schema())
		if !f.optional {
			required = append(required, f.name)
		}
	}
	out.set("properties", properties)
	if len(required) > 0 {
		out.set("required", required)
	}
	return out
}

// types is the kind, with null where that may be.
func (s *shape) types(kind string) any {
	if s.nullable {
		return anyList(kind, "null")
	}
	return kind
}

// schema describes a member: its type, and what its own comment says.
func (f field) schema() *object {
	out := f.shape.schema()
	if f.note.text != "" {
		out.set("description", f.note.text)
	}
	if value, ok := f.defaultValue(); ok {
		out.set("default", value)
	}
	if value, ok := f.knownExample(); ok {
		out.set("examples", anyList(value))
	}
	if f.note.unit != "" {
		out.set("x-unit", f.note.unit)
	}
	return out
}

// knownExample is a good value for a text or number that may be anything.
func (f field) knownExample() (any, bool) {
	if !slices.Contains([]string{"string", "integer", "number"}, f.shape.kind) || len(f.shape.enum) > 0 || f.shape.format == "date-time" {
		return nil, false
	}
	for _, take := range []func(note, string) (any, bool, error){f.shape.fromComment, f.shape.fromTable} {
		if value, ok, err := take(f.note, f.key); ok || err != nil {
			return value, err == nil
		}
	}
	return f.shape.scalar(f.note, f.key)
}

// defaultValue is the default as a value, where the comment gives one of the type.
func (f field) defaultValue() (any, bool) {
	value, err := parseOrdered(f.note.def)
	if err != nil || !f.shape.fits(value) || value == nil {
		return nil, false
	}
	if text, ok := value.(string); ok && len(f.shape.enum) > 0 && !slices.Contains(f.shape.enum, text) {
		return nil, false
	}
	return value, true
}
