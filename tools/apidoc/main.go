// Command apidoc writes the reference of the REST API and of the commands, out of what
// they are made of: the daemon's table of routes, the Go types of api/ with their
// comments, and the tree of commands.
//
//	docs/reference/openapi.yaml    the API for programs, OpenAPI 3.1
//	internal/apidoc/openapi.yaml   the same, for the daemon to serve
//	docs/reference/api/            a page per resource, and an index
//	docs/reference/cli.md          the commands
//
// It is run in the module's folder. With -check it writes nothing; it prints each
// comment that is missing in api/, or in a type that a route uses, and each file that is
// not what it would write, and ends with 1 if there is any. It ends with 2 if it could
// not look.
//
// Nothing is told twice: a field's default, unit, allowed values and example are read
// out of the words of its comment (comment.go says which words), and which errors a
// route can give follows from its line in the table (errorCodes). The output depends on
// the sources alone, and is the same each time.
package main

import (
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/holdfast-os/holdfast/internal/cli"
	"github.com/holdfast-os/holdfast/internal/daemon"
	"github.com/holdfast-os/holdfast/internal/httpapi"
)

func main() {
	check := flag.Bool("check", false, "write nothing; end with 1 when a comment is missing or a file is not fresh")
	flag.Parse()
	found, err := run(".", *check, os.Stdout)
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(2)
	}
	if found {
		os.Exit(1)
	}
}

// run makes the reference of the module in root. It reports whether something is wrong.
func run(root string, check bool, out io.Writer) (bool, error) {
	routes, err := realRoutes()
	if err != nil {
		return false, err
	}
	want, problems, err := generate(os.DirFS(root), routes, cliTree)
	if err != nil {
		return false, err
	}
	for _, p := range problems {
		fmt.Fprintln(out, p)
	}
	if !check {
		names, err := write(root, want)
		if len(names) > 0 {
			fmt.Fprintln(out, "changed:", strings.Join(names, " "))
		}
		return len(problems) > 0, err
	}
	names, err := stale(root, want)
	if err != nil {
		return false, err
	}
	if len(names) > 0 {
		fmt.Fprintln(out, "not fresh:", strings.Join(names, " "))
		fmt.Fprintln(out, "try:   make docs")
	}
	return len(names)+len(problems) > 0, nil
}

// generate makes every file, by its name in the module.
func generate(files fs.FS, routes []httpapi.Route, commands func() []byte) (map[string][]byte, []problem, error) {
	module, err := moduleOf(files)
	if err != nil {
		return nil, nil, err
	}
	s := newSource(files, module)
	problems, err := s.checkComments("api")
	if err != nil {
		return nil, nil, err
	}
	ref, err := newReference(routes, s)
	if err != nil {
		return nil, nil, err
	}
	problems = merge(problems, ref.shaper.problems)
	spec, err := ref.openAPI()
	if err != nil {
		return nil, nil, err
	}
	pages, err := ref.pages()
	if err != nil {
		return nil, nil, err
	}
	out := map[string][]byte{embeddedFile: spec, openAPIFile: spec, cliFile: commands()}
	for name, text := range pages {
		out[pagesFolder+"/"+name] = text
	}
	return out, problems, nil
}

// merge adds what is not there yet.
func merge(all, more []problem) []problem {
	seen := map[problem]bool{}
	for _, p := range all {
		seen[p] = true
	}
	for _, p := range more {
		if !seen[p] {
			seen[p] = true
			all = append(all, p)
		}
	}
	return all
}

// realRoutes is the table of the daemon.
func realRoutes() ([]httpapi.Route, error) { return daemon.Table(), nil }

// cliTree describes the commands of holdfast as they are without any environment.
func cliTree() []byte {
	cli.Version = "development"
	return cliPage(cli.Root(&cli.Env{
		Getenv: func(string) string { return "" }, Stdin: strings.NewReader(""), Stdout: io.Discard, Stderr: io.Discard,
	}))
}
