package seed_test

import (
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-os/holdfast/internal/seed"
)

var update = flag.Bool("update", false, "write docs/reference/seeds.md anew")

const referencePage = "../../docs/reference/seeds.md"

// The page is made out of the comments of the types, so that it cannot say what is not so.
// After a change: go test ./internal/seed -run Reference -update
func TestReference_OfTheTypes_IsUpToDate(t *testing.T) {
	want := reference(t)
	if *update {
		if err := os.WriteFile(referencePage, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(referencePage)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("run go test ./internal/seed -run Reference -update:\n%s", diff)
	}
}

// embedded are the documents whose fields are those of a section of the API.
var embedded = map[string]string{
	"os.NetworkConfig":  "`config` of [/1.0/system/network](api/system-network.md)",
	"os.ProviderConfig": "`config` of [/1.0/system/provider](api/system-provider.md)",
	"os.UpdateConfig":   "`config` of [/1.0/system/update](api/system-update.md)",
}

// types are the declarations of package api/seed by name.
type types map[string]*ast.TypeSpec

func reference(t *testing.T) string {
	t.Helper()
	files, err := filepath.Glob("../../api/seed/*.go")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	all := types{}
	for _, path := range files {
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range file.Decls {
			general, ok := decl.(*ast.GenDecl)
			if !ok || general.Tok != token.TYPE {
				continue
			}
			for _, spec := range general.Specs {
				one := spec.(*ast.TypeSpec)
				one.Doc = general.Doc
				all[one.Name.Name] = one
			}
		}
	}
	var out strings.Builder
	out.WriteString(referenceIntro)
	for _, name := range seed.Names() {
		typeName := documentType(name)
		fmt.Fprintf(&out, "\n## %s\n\n%s\n", name, comment(all[typeName].Doc, typeName))
		var rows []string
		all.rows(&out, &rows, typeName, "")
		if len(rows) > 0 {
			out.WriteString("\n| field | type | |\n|---|---|---|\n" + strings.Join(rows, ""))
		}
	}
	return out.String()
}

// documentType is the type of a document: MigrationManager for "migration-manager".
func documentType(name string) string {
	set := reflect.TypeFor[seed.Set]()
	for i, known := range seed.Names() {
		if known == name {
			return set.Field(i).Type.Elem().Name()
		}
	}
	return ""
}

// rows adds a row for each field of a type, and below it those of its own type.
func (all types) rows(out *strings.Builder, rows *[]string, name, prefix string) {
	fields, ok := all[name].Type.(*ast.StructType)
	if !ok {
		return
	}
	for _, f := range fields.Fields.List {
		kind, list := typeText(f.Type)
		if f.Tag == nil { // embedded
			if link := embedded[kind]; link != "" {
				fmt.Fprintf(out, "\nIts fields are those of %s.\n", link)
			} else {
				all.rows(out, rows, kind, prefix)
			}
			continue
		}
		tag := reflect.StructTag(strings.Trim(f.Tag.Value, "`"))
		field, _, _ := strings.Cut(tag.Get("json"), ",")
		text := comment(f.Doc, f.Names[0].Name)
		if tag.Get("secret") != "" && !strings.Contains(text, "secret") {
			text += " It is secret."
		}
		shown := kind
		if all[kind] != nil {
			shown = "map"
		}
		if list {
			shown = "list of " + shown + "s"
		}
		*rows = append(*rows, fmt.Sprintf("| `%s` | %s | %s |\n", prefix+field, shown, strings.ReplaceAll(text, "|", "\\|")))
		if all[kind] != nil {
			below := prefix + field + "."
			if list {
				below = prefix + field + "[]."
			}
			all.rows(out, rows, kind, below)
		}
	}
}

// typeText names a type for people, and tells a list.
func typeText(e ast.Expr) (name string, list bool) {
	switch t := e.(type) {
	case *ast.StarExpr:
		return typeText(t.X)
	case *ast.ArrayType:
		name, _ := typeText(t.Elt)
		return name, true
	case *ast.MapType:
		return "map", false
	case *ast.SelectorExpr:
		return fmt.Sprintf("%s.%s", t.X, t.Sel), false
	case *ast.Ident:
		switch t.Name {
		case "string":
			return "text", false
		case "int":
			return "number", false
		case "bool":
			return "boolean", false
		}
		return t.Name, false
	}
	return "", false
}

// comment is a doc comment without the Go name that it begins with.
func comment(doc *ast.CommentGroup, name string) string {
	text := strings.Join(strings.Fields(doc.Text()), " ")
	for _, verb := range []string{" is ", " are ", " "} {
		if rest, ok := strings.CutPrefix(text, name+verb); ok {
			return strings.ToUpper(rest[:1]) + rest[1:]
		}
	}
	return text
}

const referenceIntro = `<!-- Made by go test ./internal/seed -run Reference -update. Do not edit. -->
# Seeds

A seed is what a node reads before its first start: up to eleven documents, each optional. A document is a file
` + "`NAME.json`, `NAME.yaml` or `NAME.yml`" + `, or one of these sealed with age, as ` + "`NAME.yaml.age`" + `
([how](../how-to/seal-a-seed.md)). The presence of ` + "`install`" + `, even empty, makes a medium install.

## Where it is read from

The first that exists counts, and replaces the others as a whole.

| | place | form |
|---|---|---|
| 1 | a partition named, or a file system labelled, ` + "`SEED_DATA`" + ` | FAT or ISO 9660 with the files in its root folder |
| 2 | partition 2 of the disk that the machine starts from, at byte 2148532224 | plain tar (ustar) |
| 3 | a file system labelled ` + "`CIDATA` or `cidata`" + ` (NoCloud) | the section ` + "`holdfast`" + ` of the cloud-config in ` + "`user-data`" + ` |
| 4 | a file system labelled ` + "`config-2`" + ` (ConfigDrive) | the same, in ` + "`openstack/latest/user_data`" + ` |

Media other than the own disk are read while the node has not taken its seed over: until every phase of its first start
has ended well. Then it has the seed on its encrypted root volume, and partition 2 loses its secrets. An installation
writes the documents of an outside medium, without ` + "`install`" + `, into partition 2 of the disk, over those of the medium.

The section of a cloud-config holds the documents by name:

` + "```yaml" + `
#cloud-config
holdfast:
  applications: {applications: [{name: incus}]}
  incus: {apply_defaults: true}
` + "```" + `

What is beside it is not looked at. A value that is a text with the armour of age is a sealed document. User data that are
packed, or of several parts (MIME), are refused.

## Rules

- An unknown field, an unknown name and a wrong type are problems, each told with file, line and field, and the nearest
  name that is known. On a medium they stop the installation; on a node the document is shown and left out.
- A file with the name of a document that lies in a folder of the archive, or has upper case in its name, as
  ` + "`t/install.yaml` or `INSTALL.YML`" + `, is not read: it is a problem too. Other files are not looked at.
- Of two files for one document the first counts, with a warning. On a medium, JSON goes before YAML, and sealed ones come
  last.
- A document that is ` + "`null`" + ` has no fields; ` + "`applications` and `provider`" + ` that are ` + "`null`" + ` count as left out. An empty file is
  a problem, but for ` + "`install`" + `.
- YAML: one document; no merge keys, no own tags; at most 64 aliases. Both: a depth of 32, 100 000 values.
- At most 64 files of 1 MiB, 100 MiB together.
- A document that becomes a section of the configuration is taken once, while nothing was said about that section.

What is said to be secret is removed from partition 2 once the seed is used. So are, in what only Incus understands, the
fields whose name has ` + "`password`, `passphrase`, `secret`, `token`, `key`, `credential`, `user-data`, `vendor-data` or `environment`" + `
in it, and everywhere private keys and addresses with a login.

Check a seed with ` + "[`holdfast seed check`](cli.md#holdfast-seed-check)" + `.
`
