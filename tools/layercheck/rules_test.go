package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The map of the code is a promise to whoever reads it: each of its sentences must be
// able to fail.
func TestCheckImports_EachRuleBroken_NamesTheRule(t *testing.T) {
	for _, test := range []struct {
		from, to string
		std      bool
		want     string // the first words of the rule; empty when it is allowed
	}{
		{"api/os", "time", true, ""},
		{"api/seed", "api/os", false, ""},
		{"api/os", "go.yaml.in/yaml/v4", false, "api imports"},
		{"api/os", "internal/seed", false, "api imports"},
		{"client", "api/os", false, ""},
		{"client", "github.com/google/go-cmp/cmp", false, "client imports"},
		{"client", "internal/release", false, "client imports"},
		{"internal/install", "internal/layout", false, ""},
		{"internal/install", "internal/system/block", false, "a domain package imports no adapter"},
		{"internal/httpapi", "internal/system/run", false, "a domain package imports no adapter"},
		{"internal/sign", "internal/system/run", false, ""},
		{"internal/sign", "internal/system/zfs", false, "a domain package imports no adapter"},
		{"internal/earlyboot", "internal/system/luks", false, ""},
		{"internal/apps", "internal/daemon", false, "a domain package imports no daemon"},
		{"internal/apps", "internal/httpapi", false, "httpapi serves the daemon"},
		{"internal/daemon", "internal/httpapi", false, ""},
		{"internal/system/zfs", "internal/system/run", false, ""},
		{"internal/system/zfs", "api/os", false, ""},
		{"internal/system/zfs", "golang.org/x/sys/unix", false, ""},
		{"internal/system/zfs", "internal/state", false, "an adapter imports"},
		{"internal/facts", "internal/system/block", false, ""},
		{"test/vm", "internal/system/qemu", false, ""},
		{"internal/unknown", "internal/system/block", false, "only internal/daemon"},
		{"cmd/holdfastd", "internal/daemon", false, ""},
		{"tools/apidoc", "internal/daemon", false, ""},
		{"internal/simulate", "internal/daemon", false, ""},
		{"internal/change", "internal/system/run", false, "a domain package imports no adapter"},
		{"cmd/holdfast", "internal/daemon", false, "only cmd/holdfastd, the simulated machine"},
		{"internal/system/run", "os/exec", true, ""},
		{"internal/release", "os/exec", true, "only internal/system starts programs"},
		{"internal/facts", "C", true, "no cgo"},
	} {
		var first string
		found := checkImports([]pkg{{path: test.from, imports: []string{test.to}, std: map[string]bool{test.to: test.std}}})
		if len(found) > 0 {
			first = found[0].rule
		}
		if (test.want == "") != (len(found) == 0) || !strings.HasPrefix(first, test.want) {
			t.Errorf("%s importing %s: got %v, want a rule that begins with %q", test.from, test.to, found, test.want)
		}
	}
}

// A file that has outgrown a screenful of screens is split before it is merged.
func TestCheckFile_LimitPassed_NamesFileAndRule(t *testing.T) {
	lines := func(n int) string { return "package x\n" + strings.Repeat("\n", n-1) }
	for name, test := range map[string]struct {
		path, source string
		want         []violation
	}{
		"main at the limit": {"cmd/holdfast/main.go", lines(40), nil},
		"main too long": {"cmd/holdfast/main.go", lines(41),
			[]violation{{"cmd/holdfast/main.go", "main.go wires and nothing else: 41 lines, at most 40"}}},
		"main of a tool": {"tools/layercheck/main.go", lines(41), nil},
		"file at limit":  {"internal/x/x.go", lines(500), nil},
		"file too long": {"internal/x/x.go", lines(501),
			[]violation{{"internal/x/x.go", "a file has at most 500 lines, this one 501"}}},
		"long test": {"internal/x/x_test.go", lines(501), nil},
		"sleeping test": {"internal/x/x_test.go", "package x\n\nfunc f() {\n\ttime.Sleep(1)\n}\n",
			[]violation{{"internal/x/x_test.go:4", "a test does not sleep: wait for what it needs"}}},
		"function at limit": {"internal/x/x.go", "package x\n\nfunc f() {" + strings.Repeat("\n", 69) + "}\n", nil},
		"function too long": {"internal/x/x.go", "package x\n\nfunc (x t) f() {" + strings.Repeat("\n", 70) + "}\n",
			[]violation{{"internal/x/x.go:3", "a function has at most 70 lines, f has 71"}}},
		"comment above a function": {"internal/x/x.go", "package x\n" + strings.Repeat("// long\n", 80) + "func f() {}\n", nil},
		"long function of a test":  {"internal/x/x_test.go", "package x\n\nfunc f() {" + strings.Repeat("\n", 70) + "}\n", nil},
		"interface at limit":       {"internal/x/x.go", "package x\n\ntype i interface{ a(); b(); c(); d(); e(); f() }\n", nil},
		"interface too wide": {"internal/x/x.go", "package x\n\ntype i interface{ a(); b(); c(); d(); e(); f(); error }\n",
			[]violation{{"internal/x/x.go:3", "an interface has at most 6 methods, i has 7"}}},
		"interface of a test":   {"internal/x/x_test.go", "package x\n\ntype i interface{ a(); b(); c(); d(); e(); f(); g() }\n", nil},
		"struct of many fields": {"internal/x/x.go", "package x\n\ntype s struct{ a, b, c, d, e, f, g int }\n", nil},
		"sleep in a comment":    {"internal/x/x_test.go", "package x\n\n// time.Sleep(1)\n", nil},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := checkFile(test.path, []byte(test.source))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got, cmp.AllowUnexported(violation{})); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// What `go list` says is brought to the form that the rules speak of.
func TestReduce_ModulePaths_BecomeRelative(t *testing.T) {
	all, err := decode([]byte(`{"ImportPath":"example.org/m/internal/cli","Module":{"Path":"example.org/m"},
		"Imports":["os","example.org/m/client","golang.org/x/term"]}` + "\n"))
	if err != nil {
		t.Fatal(err)
	}
	want := pkg{
		path:    "internal/cli",
		imports: []string{"os", "client", "golang.org/x/term"},
		std:     map[string]bool{"os": true, "golang.org/x/term": false},
	}
	if diff := cmp.Diff(want, reduce(all[0]), cmp.AllowUnexported(pkg{})); diff != "" {
		t.Error(diff)
	}
}
