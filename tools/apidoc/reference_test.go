package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v4"

	"github.com/holdfast-os/holdfast/internal/httpapi"
	"github.com/holdfast-os/holdfast/tools/apidoc/testdata/shop"
)

var update = flag.Bool("update", false, "write testdata/golden anew")

const module = "github.com/holdfast-os/holdfast"

func handler(*httpapi.Request) (any, error) { return nil, nil }

// table has something of everything that a route can say.
var table = []httpapi.Route{
	{Method: "GET", Path: "/", Doc: "lists the versions", Response: []string{}, Handler: handler},
	{Method: "GET", Path: "/1.0/items", Doc: "lists items", Response: []string{}, Handler: handler,
		Query: []httpapi.Param{{Name: "colour", Doc: "only those of a colour; default all", Example: "red"}}},
	{Method: "GET", Path: "/1.0/items/{name}", Doc: "shows an item", Response: httpapi.Tagged{Answer: shop.Item{}}, Handler: handler},
	{Method: "PUT", Path: "/1.0/items/{name}", Doc: "changes an item", Request: shop.Put[shop.ItemConfig]{}, Handler: handler},
	{Method: "POST", Path: "/1.0/items/{name}/:sell", Doc: "sells an item", Request: shop.Base{}, EmptyBody: true, MaxBody: 100,
		Response: httpapi.Async{Answer: shop.Job{}}, Handler: handler},
	{Method: "POST", Path: "/1.0/items/{name}/:lend", Doc: "lends an item", Later: "nobody has asked for it"},
	{Method: "GET", Path: "/1.0/system/events", Doc: "streams what happens", Response: httpapi.Stream(nil), Handler: handler},
	{Method: "GET", Path: "/1.0/system/events/file", Doc: "gives what has happened", Response: httpapi.Raw{ContentType: "application/gzip"}, Handler: handler},
	{Method: "DELETE", Path: "/internal/till", Access: httpapi.SocketOnly, Doc: "empties the till", Handler: handler},
}

func refer(t *testing.T, routes []httpapi.Route) *reference {
	t.Helper()
	ref, err := newReference(routes, newSource(os.DirFS("../.."), module))
	if err != nil {
		t.Fatal(err)
	}
	return ref
}

func realTable(t *testing.T) []httpapi.Route {
	t.Helper()
	routes, err := realRoutes()
	if err != nil {
		t.Fatal(err)
	}
	return routes
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	file := filepath.Join("testdata/golden", name)
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s (go test -update writes it anew):\n%s", file, diff)
	}
}

// What a reader and a program see of a route is told by the table and the comments alone.
func TestReference_SmallTable_IsAsWrittenDown(t *testing.T) {
	ref := refer(t, table)
	spec, err := ref.openAPI()
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "openapi.yaml", spec)
	for _, p := range specProblems(t, spec, table) {
		t.Error(p)
	}
	pages, err := ref.pages()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for name, text := range pages {
		names = append(names, name)
		golden(t, name, text)
	}
	slices.Sort(names)
	if diff := cmp.Diff([]string{"README.md", "internal.md", "items.md", "root.md", "system-events.md"}, names); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]problem(nil), ref.shaper.problems, cmp.AllowUnexported(problem{})); diff != "" {
		t.Error(diff)
	}
}

// A GET whose answer nobody has described must not get into the reference as "an object".
func TestReference_GetWithoutResponse_IsAProblem(t *testing.T) {
	ref := refer(t, []httpapi.Route{{Method: "GET", Path: "/1.0/items", Doc: "lists items", Handler: handler}})
	want := []problem{{"the table of routes", "GET /1.0/items names no type of its answer: set Response"}}
	if diff := cmp.Diff(want, ref.shaper.problems, cmp.AllowUnexported(problem{})); diff != "" {
		t.Error(diff)
	}
}

// A client generator would lose one of two operations of one name.
func TestReference_TwoRoutesOfOneName_IsAnError(t *testing.T) {
	_, err := newReference([]httpapi.Route{
		{Method: "POST", Path: "/1.0/a/:b-c", Doc: "one", Handler: handler},
		{Method: "POST", Path: "/1.0/a/b/c", Doc: "two", Handler: handler},
	}, newSource(os.DirFS("../.."), module))
	if err == nil || err.Error() != "POST /1.0/a/:b-c and POST /1.0/a/b/c have one operationId: postABC" {
		t.Error(err)
	}
}

// The commands are told as their flags and examples are, and hidden ones not at all.
func TestCLIPage_SmallTree_IsAsWrittenDown(t *testing.T) {
	run := func(*cobra.Command, []string) error { return nil }
	root := &cobra.Command{Use: "shop", Short: "Keep a shop", Example: "  shop sell lamp"}
	root.PersistentFlags().String("till", "", "the till to use (default $SHOP_TILL)")
	sell := &cobra.Command{Use: "sell ITEM", Short: "Sell an item", Long: "Sell an item, <once>.", Example: "  shop sell lamp --for 3", Aliases: []string{"s"}, RunE: run}
	sell.Flags().IntP("for", "f", 10, "price|value in `euros`")
	sell.Flags().Bool("gift", false, "wrap it")
	root.AddCommand(sell, &cobra.Command{Use: "secret", Hidden: true, RunE: run})
	golden(t, "cli.md", cliPage(root))
}

// The document that a node serves has to be one that tools accept.
func TestReference_RealTable_IsValidAndComplete(t *testing.T) {
	routes := realTable(t)
	spec, err := refer(t, routes).openAPI()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range specProblems(t, spec, routes) {
		t.Error(p)
	}
}

// Files that differ from run to run could never be called fresh.
func TestGenerate_Twice_IsTheSame(t *testing.T) {
	first, _, err := generate(os.DirFS("../.."), realTable(t), cliTree)
	if err != nil {
		t.Fatal(err)
	}
	second, _, err := generate(os.DirFS("../.."), realTable(t), cliTree)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(first, second); diff != "" {
		t.Error(diff)
	}
	if len(first) < 15 {
		t.Errorf("only %d files", len(first))
	}
}

// An example that the node itself would refuse is worse than none.
func TestExamples_RealTable_FitTheirTypes(t *testing.T) {
	seen := 0
	for _, op := range refer(t, realTable(t)).operations {
		response, _ := answerOf(op.Response)
		for _, side := range []struct {
			shape *shape
			value any
		}{{op.body, op.Request}, {op.answer, response}} {
			if side.shape == nil || side.value == nil || side.shape.kind == "binary" || side.shape.kind == "stream" {
				continue
			}
			example, err := side.shape.exampleOf()
			if err != nil {
				t.Errorf("%s: %v", op.heading(), err)
				continue
			}
			text, err := compactJSON(example)
			if err != nil {
				t.Fatal(err)
			}
			decoder := json.NewDecoder(bytes.NewReader(text))
			decoder.DisallowUnknownFields()
			if err := decoder.Decode(reflect.New(reflect.TypeOf(side.value)).Interface()); err != nil {
				t.Errorf("%s: the example %s does not fit %T: %v", op.heading(), text, side.value, err)
			}
			seen++
		}
	}
	if seen < 4 {
		t.Errorf("only %d examples were looked at", seen)
	}
}

var link = regexp.MustCompile(`\]\(([^)]*)\)`)

// A reference is walked by its links.
func TestPages_RealTable_LinksLeadSomewhere(t *testing.T) {
	files, _, err := generate(os.DirFS("../.."), realTable(t), cliTree)
	if err != nil {
		t.Fatal(err)
	}
	anchors := map[string]bool{}
	for name, text := range files {
		for line := range strings.SplitSeq(string(text), "\n") {
			if heading, ok := strings.CutPrefix(strings.TrimLeft(line, "#"), " "); ok && strings.HasPrefix(line, "#") {
				anchors[name+"#"+anchor(heading)] = true
			}
		}
	}
	seen := 0
	for name, text := range files {
		if !strings.HasSuffix(name, ".md") {
			continue
		}
		for _, found := range link.FindAllStringSubmatch(string(text), -1) {
			seen++
			file, fragment, _ := strings.Cut(found[1], "#")
			target := name
			if file != "" {
				target = filepath.Join(filepath.Dir(name), file)
			}
			if _, err := os.Stat(filepath.Join("../..", target)); files[target] == nil && err != nil {
				t.Errorf("%s: link to %s, which is not there", name, found[1])
			}
			if fragment != "" && !anchors[target+"#"+fragment] {
				t.Errorf("%s: no heading for the link %s", name, found[1])
			}
		}
	}
	if seen < 100 {
		t.Errorf("only %d links were looked at", seen)
	}
}

// specProblems reads a document back and checks what makes it usable: each route is
// there, references resolve, names of operations are unique, variables of paths are
// declared, required members exist, and an allowed default is one.
func specProblems(t *testing.T, text []byte, routes []httpapi.Route) []string {
	t.Helper()
	var doc map[string]any
	if err := yaml.Load(text, &doc); err != nil {
		t.Fatal(err)
	}
	c := &specCheck{doc: doc, ids: map[string]bool{}}
	c.same("openapi", "3.1.0", doc["openapi"])
	paths := c.object(doc, "paths")
	operations := 0
	for path, item := range paths {
		for method, op := range item.(map[string]any) {
			if method != "parameters" {
				operations++
				c.operation(method+" "+path, op.(map[string]any))
			}
		}
		c.variables(path, item.(map[string]any))
	}
	c.same("number of operations", len(routes), operations)
	for _, r := range routes {
		item, _ := paths[r.Path].(map[string]any)
		if op, ok := item[strings.ToLower(r.Method)].(map[string]any); !ok {
			c.add("%s %s is missing", r.Method, r.Path)
		} else {
			c.same(r.Path+" x-access", r.Access.String(), op["x-access"])
			c.same(r.Path+" x-later", r.Later, fmt.Sprint(orEmpty(op["x-later"])))
		}
	}
	c.walk("", doc)
	slices.Sort(c.found)
	return c.found
}

func orEmpty(v any) any {
	if v == nil {
		return ""
	}
	return v
}

type specCheck struct {
	doc   map[string]any
	ids   map[string]bool
	found []string
}

func (c *specCheck) add(format string, args ...any) {
	c.found = append(c.found, fmt.Sprintf(format, args...))
}

func (c *specCheck) same(what string, want, got any) {
	if want != got {
		c.add("%s: got %v, want %v", what, got, want)
	}
}

func (c *specCheck) object(in map[string]any, key string) map[string]any {
	found, ok := in[key].(map[string]any)
	if !ok {
		c.add("%s is no object", key)
	}
	return found
}

func (c *specCheck) operation(where string, op map[string]any) {
	id, _ := op["operationId"].(string)
	if id == "" || c.ids[id] {
		c.add("%s: operationId %q is missing or there twice", where, id)
	}
	c.ids[id] = true
	if summary, _ := op["summary"].(string); summary == "" {
		c.add("%s: no summary", where)
	}
	if len(c.object(op, "responses")) == 0 {
		c.add("%s: no responses", where)
	}
}

func (c *specCheck) variables(path string, item map[string]any) {
	declared := map[string]bool{}
	list, _ := item["parameters"].([]any)
	for _, p := range list {
		p := p.(map[string]any)
		if p["in"] == "path" && p["required"] == true {
			declared[fmt.Sprint(p["name"])] = true
		}
	}
	for _, found := range regexp.MustCompile(`\{(\w+)\}`).FindAllStringSubmatch(path, -1) {
		if !declared[found[1]] {
			c.add("%s: {%s} is not declared", path, found[1])
		}
		delete(declared, found[1])
	}
	for name := range declared {
		c.add("%s: %s is declared and not in the path", path, name)
	}
}

func (c *specCheck) walk(at string, value any) {
	switch v := value.(type) {
	case []any:
		for i, item := range v {
			c.walk(fmt.Sprintf("%s[%d]", at, i), item)
		}
	case map[string]any:
		if ref, ok := v["$ref"].(string); ok {
			c.resolve(at, ref)
		}
		required, _ := v["required"].([]any)
		properties, _ := v["properties"].(map[string]any)
		for _, name := range required {
			if properties[fmt.Sprint(name)] == nil {
				c.add("%s: %v is required and not there", at, name)
			}
		}
		if enum, ok := v["enum"].([]any); ok && v["default"] != nil && !slices.Contains(enum, v["default"]) {
			c.add("%s: the default %v is none of %v", at, v["default"], enum)
		}
		for key, item := range v {
			c.walk(at+"/"+key, item)
		}
	}
}

func (c *specCheck) resolve(at, ref string) {
	path, ok := strings.CutPrefix(ref, "#/")
	var here any = c.doc
	for part := range strings.SplitSeq(path, "/") {
		inside, _ := here.(map[string]any)
		here = inside[part]
	}
	if !ok || here == nil {
		c.add("%s: %s leads nowhere", at, ref)
	}
}
