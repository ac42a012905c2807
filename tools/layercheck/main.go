// Command layercheck enforces the rules of ARCHITECTURE.md that a compiler does not:
// which package may import which, how long a file or a function may be, how many
// methods an interface may have, and that no test sleeps.
//
// It is run in the module's folder, without arguments. It prints each broken rule as
// `WHERE: RULE` and ends with 1 if there was one, with 2 if it could not look.
// Imports of tests are left alone: a test may use what it likes to build its world.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/holdfast-os/holdfast/internal/system/run"
)

func main() {
	found, err := check(context.Background(), run.Host, ".")
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(2)
	}
	for _, v := range found {
		fmt.Println(v)
	}
	if len(found) > 0 {
		os.Exit(1)
	}
}

// listed is what is read of `go list -json`.
type listed struct {
	ImportPath   string
	Dir          string
	Module       *struct{ Path, Dir string }
	GoFiles      []string
	CgoFiles     []string
	IgnoredGo    []string `json:"IgnoredGoFiles"`
	TestGoFiles  []string
	XTestGoFiles []string
	Imports      []string
}

// check looks at the whole module in dir.
func check(ctx context.Context, runner run.Runner, dir string) ([]violation, error) {
	result, err := runner(ctx, run.Command{Name: "go", Args: []string{"list", "-e", "-json", "./..."}, Dir: dir})
	if err != nil {
		return nil, fmt.Errorf("listing the packages: %w", err)
	}
	packages, err := decode(result.Stdout)
	if err != nil {
		return nil, err
	}
	var seen []pkg
	var found []violation
	for _, l := range packages {
		if l.Module == nil {
			continue
		}
		seen = append(seen, reduce(l))
		inFiles, err := checkFiles(l)
		if err != nil {
			return nil, err
		}
		found = append(found, inFiles...)
	}
	if len(seen) == 0 {
		return nil, errors.New("no package found: run this in the module's folder")
	}
	return append(checkImports(seen), found...), nil
}

func decode(output []byte) ([]listed, error) {
	var all []listed
	d := json.NewDecoder(bytes.NewReader(output))
	for {
		var one listed
		err := d.Decode(&one)
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return nil, fmt.Errorf("reading the list of packages: %w", err)
		}
		all = append(all, one)
	}
}

// reduce makes the paths of the module relative. A path without a dot in its first
// element belongs to the standard library.
func reduce(l listed) pkg {
	p := pkg{path: strings.TrimPrefix(l.ImportPath, l.Module.Path+"/"), std: map[string]bool{}}
	for _, to := range l.Imports {
		inside, relative := strings.CutPrefix(to, l.Module.Path+"/")
		if relative {
			p.imports = append(p.imports, inside)
			continue
		}
		first, _, _ := strings.Cut(to, "/")
		p.std[to] = !strings.Contains(first, ".")
		p.imports = append(p.imports, to)
	}
	return p
}

func checkFiles(l listed) ([]violation, error) {
	relative, err := filepath.Rel(l.Module.Dir, l.Dir)
	if err != nil {
		return nil, fmt.Errorf("package %s: %w", l.ImportPath, err)
	}
	var found []violation
	for _, names := range [][]string{l.GoFiles, l.CgoFiles, l.IgnoredGo, l.TestGoFiles, l.XTestGoFiles} {
		for _, name := range names {
			source, err := os.ReadFile(filepath.Join(l.Dir, name))
			if err != nil {
				return nil, fmt.Errorf("reading a source file: %w", err)
			}
			inFile, err := checkFile(path.Join(filepath.ToSlash(relative), name), source)
			if err != nil {
				return nil, err
			}
			found = append(found, inFile...)
		}
	}
	return found, nil
}
