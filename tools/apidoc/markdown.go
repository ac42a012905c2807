package main

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"unicode"

	"github.com/holdfast-os/holdfast/internal/httpapi"
)

const indexIntro = `# The REST API

A node answers on its socket ` + "`/run/incus-os/unix.socket`" + `, and over the network through its primary application, as
Incus, with ` + "`/os`" + ` in front of each path. The same reference for programs is [openapi.yaml](../openapi.yaml); a node
has its own at ` + "`/1.0/openapi.yaml`" + `. Where it differs from IncusOS: [compatibility](../compatibility.md).

## What holds for every path

Each answer is in one envelope, the one of Incus. These pages show its member ` + "`metadata`" + `, which is all that differs:

%s
- An error has ` + "`type`" + ` "error", the HTTP code in ` + "`error_code`" + `, and in ` + "`error`" + ` what was wrong, where, and how to go on.
- A body is JSON and read strictly. A field that is unknown or there twice is refused, with its name and place.
- A field that is not "optional" is in every answer. In a body any field may be left out, and then has its default.
- Each GET has an ` + "`ETag`" + `. A PUT that sends it back as ` + "`If-Match`" + ` is refused with 412 when the resource has changed
  since. A PUT replaces the whole ` + "`config`" + `; the node does not look at a ` + "`state`" + ` in it.
- What takes long may answer 202 with ` + "`type`" + ` "async": ` + "`operation`" + ` then is the path to follow it at.
- Times are in RFC 3339.
- Routes that are marked "later" answer 501. They are paths of IncusOS that this release does not have.

## Pages

`

// pages writes the index and a page for each resource: the name of each file with its text.
func (ref *reference) pages() (map[string][]byte, error) {
	out := map[string][]byte{}
	index, err := ref.index()
	if err != nil {
		return nil, err
	}
	out["README.md"] = index
	for _, name := range ref.resources() {
		page, err := ref.page(name)
		if err != nil {
			return nil, fmt.Errorf("page %s: %w", name, err)
		}
		out[name+".md"] = page
	}
	return out, nil
}

func comment() string { return "<!-- " + generated + " -->\n\n" }

func (ref *reference) index() ([]byte, error) {
	envelope, err := ref.shaper.value(envelopeValue)
	if err != nil {
		return nil, err
	}
	var b strings.Builder
	b.WriteString(comment())
	fmt.Fprintf(&b, indexIntro, fieldTable(envelope))
	for _, name := range ref.resources() {
		fmt.Fprintf(&b, "### [%s](%s.md)\n\n", pageTitle(name), name)
		b.WriteString(routeTable(ref.of(name), name+".md"))
		b.WriteString("\n")
	}
	return []byte(strings.TrimRight(b.String(), "\n") + "\n"), nil
}

func pageTitle(name string) string { return strings.ReplaceAll(name, "system-", "system: ") }

func routeTable(operations []operation, file string) string {
	rows := make([][]string, 0, len(operations))
	for _, op := range operations {
		marks := ""
		if op.Access == httpapi.SocketOnly {
			marks = "socket only"
		}
		if op.Later != "" {
			marks = strings.TrimPrefix(marks+", later", ", ")
		}
		rows = append(rows, []string{fmt.Sprintf("[`%s %s`](%s#%s)", op.Method, op.Path, file, anchor(op.heading())), op.Doc, marks})
	}
	return markdownTable([]string{"route", "what it does", ""}, rows, 2)
}

func (op operation) heading() string { return op.Method + " " + op.Path }

// anchor is what a renderer of Markdown makes of a heading.
func anchor(heading string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == ' ':
			return '-'
		case unicode.IsLetter(r), unicode.IsDigit(r), r == '-', r == '_':
			return unicode.ToLower(r)
		}
		return -1
	}, heading)
}

func (ref *reference) page(name string) ([]byte, error) {
	operations := ref.of(name)
	var b strings.Builder
	b.WriteString(comment())
	fmt.Fprintf(&b, "# REST API, %s\n\n[All pages](README.md)\n\n", pageTitle(name))
	b.WriteString(routeTable(operations, ""))
	for _, op := range operations {
		section, err := op.section(operations)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", op.heading(), err)
		}
		fmt.Fprintf(&b, "\n## %s\n\n%s", op.heading(), section)
	}
	return []byte(b.String()), nil
}

// section describes one route.
func (op operation) section(siblings []operation) (string, error) {
	var b strings.Builder
	b.WriteString(sentence(op.Doc))
	if op.Access == httpapi.SocketOnly {
		b.WriteString(" Only on the node's own socket.")
	}
	b.WriteString("\n")
	if op.Later != "" {
		fmt.Fprintf(&b, "\nNot in this release, it answers 501: %s.\n", strings.TrimSuffix(op.Later, "."))
		return b.String(), nil
	}
	b.WriteString(parameterTable(op))
	if err := op.writeBody(&b, siblings); err != nil {
		return "", err
	}
	if err := op.writeAnswer(&b); err != nil {
		return "", err
	}
	b.WriteString("\nErrors: ")
	for i, code := range op.codes {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(strconv.Itoa(code))
	}
	b.WriteString(".\n")
	return b.String(), nil
}

func parameterTable(op operation) string {
	var rows [][]string
	for _, name := range op.vars {
		rows = append(rows, []string{"`" + name + "`", "path", "any text without a slash", "`" + varExample(op.Path, name) + "`"})
	}
	for _, p := range op.Query {
		example := ""
		if p.Example != "" {
			example = "`" + p.Example + "`"
		}
		rows = append(rows, []string{"`" + p.Name + "`", "query", p.Doc, example})
	}
	if len(rows) == 0 {
		return ""
	}
	return "\n" + markdownTable([]string{"parameter", "in", "meaning", "example"}, rows, 3)
}

func (op operation) writeBody(b *strings.Builder, siblings []operation) error {
	if op.body == nil {
		return nil
	}
	b.WriteString("\n### Body of " + op.heading() + "\n\n")
	if op.EmptyBody {
		b.WriteString("It may be empty.\n\n")
	}
	if op.MaxBody != 0 {
		fmt.Fprintf(b, "At most %d bytes.\n\n", op.MaxBody)
	}
	if other := op.configElsewhere(siblings); other != "" {
		fmt.Fprintf(b, "`config` is as in the answer of [%s](#%s), and replaces the whole of it.\n\n", other, anchor(other))
	} else {
		b.WriteString(fieldTable(op.body) + "\n")
	}
	value, err := op.body.exampleOf()
	if err != nil {
		return fmt.Errorf("the example of the body: %w", err)
	}
	return fence(b, value)
}

// configElsewhere names the GET of the same path, when its answer has the config that
// this body has.
func (op operation) configElsewhere(siblings []operation) string {
	mine := op.body.member("config")
	for _, other := range siblings {
		if op.Method != http.MethodPut || other.Method != http.MethodGet || other.Path != op.Path || other.answer == nil || mine == nil {
			continue
		}
		if theirs := other.answer.member("config"); theirs != nil && theirs.name != "" && theirs.name == mine.name {
			return other.heading()
		}
	}
	return ""
}

func (s *shape) member(name string) *shape {
	for _, f := range s.fields {
		if f.name == name {
			return f.shape
		}
	}
	return nil
}

func (op operation) writeAnswer(b *strings.Builder) error {
	switch {
	case op.answer.kind == "binary":
		fmt.Fprintf(b, "\nThe answer is a download, `%s`, without the envelope.\n", op.answer.media)
		return nil
	case op.answer.kind == "stream":
		b.WriteString("\nThe connection becomes a websocket.\n")
		return nil
	case op.answer.kind == "object" && len(op.answer.fields) == 0 && op.answer.name == "":
		if op.Method == http.MethodGet {
			b.WriteString("\nThe answer is an object.\n")
		} else {
			b.WriteString("\nThe answer has nothing in it: `{}`.\n")
		}
		return nil
	}
	b.WriteString("\n### Answer of " + op.heading() + "\n\n")
	if op.async {
		b.WriteString("202: it goes on as an operation, whose path is in `operation` of the envelope.\n\n")
	}
	b.WriteString(fieldTable(op.answer) + "\n")
	value, err := op.answer.exampleOf()
	if err != nil {
		return fmt.Errorf("the example of the answer: %w", err)
	}
	return fence(b, value)
}

func fence(b *strings.Builder, value any) error {
	text, err := indentedJSON(value)
	if err != nil {
		return err
	}
	fmt.Fprintf(b, "```json\n%s\n```\n", text)
	return nil
}

// fieldTable has a row for each field, down to the last.
func fieldTable(s *shape) string {
	if s.outside != "" {
		return "An object of the type `" + s.outside + "` of another project, which documents it.\n"
	}
	rows := fieldRows(s, "", map[string]bool{})
	if len(rows) == 0 {
		return sentence(typeText(s)) + "\n"
	}
	return markdownTable([]string{"field", "type", "meaning", "unit", "default"}, rows, 3)
}

// fieldRows walks down. A type inside itself is named and not entered again.
func fieldRows(s *shape, prefix string, above map[string]bool) [][]string {
	switch s.kind {
	case "array":
		return fieldRows(s.elem, prefix+"[]", above)
	case "map":
		return fieldRows(s.elem, strings.TrimPrefix(prefix+".<name>", "."), above)
	}
	if s.outside != "" || (s.name != "" && above[s.name]) {
		return nil
	}
	above[s.name] = true
	defer delete(above, s.name)
	var rows [][]string
	for _, f := range s.fields {
		name := strings.TrimPrefix(prefix+"."+f.name, ".")
		kind := typeText(f.shape)
		if f.shape.nullable {
			kind += " or null"
		}
		if f.optional {
			kind += ", optional"
		}
		def := f.note.def
		if def != "" && (strings.HasPrefix(def, `"`) || def == "true" || def == "false") {
			def = "`" + strings.ReplaceAll(def, "|", `\|`) + "`"
		} else {
			def = escape(def)
		}
		rows = append(rows, []string{"`" + name + "`", kind, f.meaning(), f.note.unit, def})
		rows = append(rows, fieldRows(f.shape, name, above)...)
	}
	return rows
}

// meaning is the comment with the field's name as code.
func (f field) meaning() string {
	text := escape(f.note.text)
	if rest, ok := strings.CutPrefix(text, f.name+" "); ok {
		return "`" + f.name + "` " + rest
	}
	return text
}

// escape keeps a text inside its cell, and as the text that it is.
func escape(text string) string {
	return strings.NewReplacer("|", `\|`, "<", "&lt;", "*", `\*`, "\n", " ").Replace(text)
}

func typeText(s *shape) string {
	switch s.kind {
	case "array":
		return "list of " + plural(typeText(s.elem))
	case "map":
		return "map of " + plural(typeText(s.elem))
	case "any":
		return "any JSON"
	case "binary":
		return "bytes"
	}
	switch s.format {
	case "date-time":
		return "time"
	case "byte":
		return "base64"
	}
	if s.outside != "" {
		return "object `" + s.outside + "`"
	}
	return s.kind
}

func plural(text string) string {
	switch {
	case strings.HasPrefix(text, "list of "):
		return "lists of " + strings.TrimPrefix(text, "list of ")
	case strings.HasPrefix(text, "map of "):
		return "maps of " + strings.TrimPrefix(text, "map of ")
	case text == "any JSON", text == "bytes", text == "base64":
		return text
	}
	return text + "s"
}

// markdownTable leaves out the columns from keep on that are empty in each row.
func markdownTable(headers []string, rows [][]string, keep int) string {
	var columns []int
	for i := range headers {
		used := i < keep
		for _, row := range rows {
			used = used || row[i] != ""
		}
		if used {
			columns = append(columns, i)
		}
	}
	var b strings.Builder
	write := func(cell func(int) string) {
		b.WriteString("|")
		for _, i := range columns {
			b.WriteString(" " + cell(i) + " |")
		}
		b.WriteString("\n")
	}
	write(func(i int) string { return headers[i] })
	write(func(int) string { return "---" })
	for _, row := range rows {
		write(func(i int) string { return row[i] })
	}
	return b.String()
}
