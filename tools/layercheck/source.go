package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
)

// Limits inside a file.
const (
	maxFunction = 70 // lines, from "func" to the closing brace
	maxMethods  = 6  // of an interface; an embedded one counts as one
)

// source is a parsed file.
type source struct {
	path  string
	files *token.FileSet
	file  *ast.File
}

func parse(path string, text []byte) (source, error) {
	files := token.NewFileSet()
	file, err := parser.ParseFile(files, path, text, parser.SkipObjectResolution)
	if err != nil {
		return source{}, fmt.Errorf("parsing %s: %w", path, err)
	}
	return source{path, files, file}, nil
}

func (s source) line(at token.Pos) int { return s.files.Position(at).Line }

func (s source) violation(at token.Pos, format string, args ...any) violation {
	return violation{fmt.Sprintf("%s:%d", s.path, s.line(at)), fmt.Sprintf(format, args...)}
}

// sleeps finds the calls of time.Sleep.
func (s source) sleeps() []violation {
	var found []violation
	ast.Inspect(s.file, func(n ast.Node) bool {
		selector, ok := n.(*ast.SelectorExpr)
		if !ok || selector.Sel.Name != "Sleep" {
			return true
		}
		if x, ok := selector.X.(*ast.Ident); ok && x.Name == "time" {
			found = append(found, s.violation(n.Pos(), "a test does not sleep: wait for what it needs"))
		}
		return true
	})
	return found
}

// sizes finds what has outgrown a screen.
func (s source) sizes() []violation {
	var found []violation
	ast.Inspect(s.file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.FuncDecl:
			if lines := s.line(n.End()) - s.line(n.Pos()) + 1; lines > maxFunction {
				found = append(found, s.violation(n.Name.Pos(), "a function has at most %d lines, %s has %d", maxFunction, n.Name.Name, lines))
			}
		case *ast.TypeSpec:
			if i, ok := n.Type.(*ast.InterfaceType); ok && methods(i) > maxMethods {
				found = append(found, s.violation(n.Name.Pos(), "an interface has at most %d methods, %s has %d", maxMethods, n.Name.Name, methods(i)))
			}
		}
		return true
	})
	return found
}

// methods counts the methods of an interface; each embedded interface is one.
func methods(i *ast.InterfaceType) int {
	count := 0
	for _, field := range i.Methods.List {
		count += max(len(field.Names), 1)
	}
	return count
}
