package main

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// source holds the comments of the packages of this module, read on demand. What lies
// outside the module has none here: its own documentation is elsewhere.
type source struct {
	// files is the module's folder.
	files fs.FS
	// module is its path, as in go.mod.
	module   string
	packages map[string]*pkgDoc
}

// pkgDoc are the comments of one package.
type pkgDoc struct {
	// types are by name, in any order; names has them in the order of the files.
	types map[string]*typeDoc
	names []string
}

// typeDoc are the comments of one type.
type typeDoc struct {
	name string
	doc  string
	// at is the place of the type, as "api/os/server.go:4".
	at string
	// fields are in order; only those of a struct.
	fields []fieldDoc
	// values are the constants of a named string.
	values []string
}

// fieldDoc is the comment of one field.
type fieldDoc struct {
	name, doc, at string
	// embedded fields are documented where their type is.
	embedded bool
	// hidden fields are no part of the JSON.
	hidden bool
}

func newSource(files fs.FS, module string) *source {
	return &source{files: files, module: module, packages: map[string]*pkgDoc{}}
}

// moduleOf reads the module's path.
func moduleOf(files fs.FS) (string, error) {
	text, err := fs.ReadFile(files, "go.mod")
	if err != nil {
		return "", fmt.Errorf("reading go.mod: is this the module's folder? %w", err)
	}
	first, _, _ := strings.Cut(string(text), "\n")
	module, ok := strings.CutPrefix(first, "module ")
	if !ok {
		return "", errors.New("reading go.mod: the first line is not the module's path")
	}
	return strings.TrimSpace(module), nil
}

// folder gives the folder of a package; false when it is outside the module.
func (s *source) folder(pkgPath string) (string, bool) {
	return strings.CutPrefix(pkgPath, s.module+"/")
}

// typeOf gives the comments of a type of the module; nil when there is none.
func (s *source) typeOf(t reflect.Type) (*typeDoc, error) {
	folder, ok := s.folder(t.PkgPath())
	if !ok {
		return nil, nil
	}
	p, err := s.read(folder)
	if err != nil {
		return nil, err
	}
	name, _, _ := strings.Cut(t.Name(), "[")
	return p.types[name], nil
}

// read parses a package's folder once.
func (s *source) read(folder string) (*pkgDoc, error) {
	if p := s.packages[folder]; p != nil {
		return p, nil
	}
	entries, err := fs.ReadDir(s.files, folder)
	if err != nil {
		return nil, fmt.Errorf("reading the sources of %s: %w", folder, err)
	}
	p := &pkgDoc{types: map[string]*typeDoc{}}
	set := token.NewFileSet()
	var parsed []*ast.File
	for _, entry := range entries {
		name := path.Join(folder, entry.Name())
		if entry.IsDir() || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			continue
		}
		text, err := fs.ReadFile(s.files, name)
		if err != nil {
			return nil, fmt.Errorf("reading a source file: %w", err)
		}
		file, err := parser.ParseFile(set, name, text, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return nil, fmt.Errorf("parsing a source file: %w", err)
		}
		parsed = append(parsed, file)
		p.addTypes(set, file)
	}
	for _, file := range parsed {
		p.addValues(file)
	}
	s.packages[folder] = p
	return p, nil
}

func place(set *token.FileSet, at token.Pos) string {
	position := set.Position(at)
	return fmt.Sprintf("%s:%d", position.Filename, position.Line)
}

func (p *pkgDoc) addTypes(set *token.FileSet, file *ast.File) {
	for _, decl := range file.Decls {
		general, ok := decl.(*ast.GenDecl)
		if !ok || general.Tok != token.TYPE {
			continue
		}
		for _, spec := range general.Specs {
			t := spec.(*ast.TypeSpec)
			doc := t.Doc.Text()
			if doc == "" && len(general.Specs) == 1 {
				doc = general.Doc.Text()
			}
			found := &typeDoc{name: t.Name.Name, doc: doc, at: place(set, t.Pos())}
			if s, ok := t.Type.(*ast.StructType); ok {
				found.fields = fieldDocs(set, s)
			}
			p.types[found.name] = found
			p.names = append(p.names, found.name)
		}
	}
}

func fieldDocs(set *token.FileSet, s *ast.StructType) []fieldDoc {
	var found []fieldDoc
	for _, field := range s.Fields.List {
		doc := field.Doc.Text()
		if doc == "" {
			doc = field.Comment.Text()
		}
		hidden := field.Tag != nil && strings.Contains(field.Tag.Value, `json:"-"`)
		if len(field.Names) == 0 {
			found = append(found, fieldDoc{name: embeddedName(field.Type), doc: doc, at: place(set, field.Pos()), embedded: true, hidden: hidden})
		}
		for _, name := range field.Names {
			found = append(found, fieldDoc{name: name.Name, doc: doc, at: place(set, name.Pos()), hidden: hidden || !name.IsExported()})
		}
	}
	return found
}

func embeddedName(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.StarExpr:
		return embeddedName(e.X)
	case *ast.SelectorExpr:
		return e.Sel.Name
	case *ast.IndexExpr:
		return embeddedName(e.X)
	case *ast.Ident:
		return e.Name
	}
	return ""
}

// addValues notes the constants of named strings: they are the allowed values.
func (p *pkgDoc) addValues(file *ast.File) {
	for _, decl := range file.Decls {
		general, ok := decl.(*ast.GenDecl)
		if !ok || general.Tok != token.CONST {
			continue
		}
		for _, spec := range general.Specs {
			v := spec.(*ast.ValueSpec)
			of, ok := v.Type.(*ast.Ident)
			if !ok || p.types[of.Name] == nil {
				continue
			}
			for _, value := range v.Values {
				literal, ok := value.(*ast.BasicLit)
				if !ok || literal.Kind != token.STRING {
					continue
				}
				text, err := strconv.Unquote(literal.Value)
				if err == nil {
					p.types[of.Name].values = append(p.types[of.Name].values, text)
				}
			}
		}
	}
}

// field gives the comment of a field of the struct.
func (t *typeDoc) field(name string) string {
	if t == nil {
		return ""
	}
	i := slices.IndexFunc(t.fields, func(f fieldDoc) bool { return f.name == name })
	if i < 0 {
		return ""
	}
	return t.fields[i].doc
}

// problem is a comment that is missing.
type problem struct {
	at, text string
}

func (p problem) String() string { return p.at + ": " + p.text }

// checkComments finds the exported types and their fields in the folders below root that
// have no comment, or one that only repeats the name.
func (s *source) checkComments(root string) ([]problem, error) {
	var found []problem
	err := fs.WalkDir(s.files, root, func(folder string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.IsDir() {
			return err
		}
		p, err := s.read(folder)
		if err != nil {
			return err
		}
		for _, name := range p.names {
			if ast.IsExported(name) {
				found = append(found, p.types[name].problems()...)
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("checking the comments of %s: %w", root, err)
	}
	return found, nil
}

func (t *typeDoc) problems() []problem {
	var found []problem
	if saysNothing(t.doc, t.name) {
		found = append(found, missing(t.at, t.name, t.doc))
	}
	for _, f := range t.fields {
		if !f.embedded && !f.hidden && saysNothing(f.doc, f.name) {
			found = append(found, missing(f.at, t.name+"."+f.name, f.doc))
		}
	}
	return found
}

func missing(at, name, doc string) problem {
	if strings.TrimSpace(doc) == "" {
		return problem{at, name + " has no comment: say what it means, its unit, its default and what is allowed"}
	}
	return problem{at, "the comment of " + name + " only repeats the name: say what it means, its unit, its default and what is allowed"}
}
