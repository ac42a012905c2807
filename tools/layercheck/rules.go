package main

import (
	"fmt"
	"slices"
	"strings"
)

// pkg is one package as the rules see it. Paths of this module are relative to it, as
// "internal/cli"; others are whole.
type pkg struct {
	path    string
	imports []string
	std     map[string]bool // which of the imports belong to the standard library
}

// violation is one broken rule.
type violation struct {
	where string
	rule  string
}

func (v violation) String() string { return v.where + ": " + v.rule }

// ours tells whether an import belongs to this module: such paths were made relative.
func ours(path string) bool {
	first, _, _ := strings.Cut(path, "/")
	return slices.Contains([]string{"api", "client", "cmd", "internal", "test", "tools"}, first)
}

// under tells whether path is one of the folders or lies in one.
func under(path string, folders ...string) bool {
	for _, f := range folders {
		if path == f || strings.HasPrefix(path, f+"/") {
			return true
		}
	}
	return false
}

// domains hold the decisions. They see the machine through small interfaces of their own.
var domains = []string{
	"internal/layout", "internal/seed", "internal/release", "internal/sign", "internal/install", "internal/network",
	"internal/apps", "internal/trust", "internal/earlyboot", "internal/bootinfo", "internal/state", "internal/console",
	"internal/httpapi", "internal/config", "internal/plan", "internal/apply", "internal/change", "internal/kernel", "internal/logging",
	"internal/listener", "internal/operation", "internal/event", "internal/audit", "internal/metrics", "internal/proxy",
	"internal/recovery", "internal/cacerts", "internal/services", "internal/bundle", "internal/apidoc",
	"internal/packages", "internal/delta", "internal/tuf", "internal/fetch", "internal/parts", "internal/slotfeed", "internal/update",
	"internal/operationscenter", "internal/imageauth", "internal/secureboot", "internal/pcr", "internal/keyupdate",
	"internal/splice", "internal/prompt", "internal/netboot", "internal/customizer", "internal/media", "internal/backup", "internal/reset", "internal/cloudinit",
	"internal/seedsource", "internal/smime", "internal/rescue",
}

// shells are the packages that may import adapters.
var shells = []string{
	"internal/daemon", "internal/simulate", "internal/facts", "internal/installer", "internal/lab", "internal/image", "internal/cli",
	"internal/publisher", "internal/updater", "internal/system", "cmd", "test", "tools",
}

// adapterExceptions name, for a domain package, the adapters that it may import all the same.
var adapterExceptions = map[string][]string{
	"internal/sign":      {"internal/system/run"}, // signing is running openssl
	"internal/earlyboot": {"internal/system"},     // its host.go is the shell of the early-boot helper
}

// rule is one sentence about imports and the test for it. It is asked for each import.
type rule struct {
	text   string
	broken func(from, to string, std bool) bool
}

var rules = []rule{
	{"api imports the standard library and api alone", func(from, to string, std bool) bool {
		return under(from, "api") && !std && !under(to, "api")
	}},
	{"client imports the standard library, api and a websocket alone", func(from, to string, std bool) bool {
		return under(from, "client") && !std && !under(to, "api") && to != "github.com/coder/websocket"
	}},
	{"a domain package imports no adapter: let it ask through an interface of its own", func(from, to string, _ bool) bool {
		return under(from, domains...) && under(to, "internal/system") && !excepted(from, to)
	}},
	{"a domain package imports no daemon, cli, lab or image", func(from, to string, _ bool) bool {
		return under(from, domains...) && under(to, "internal/daemon", "internal/cli", "internal/lab", "internal/image")
	}},
	{"httpapi serves the daemon, no domain package imports it", func(from, to string, _ bool) bool {
		return under(from, domains...) && !under(from, "internal/httpapi") && under(to, "internal/httpapi")
	}},
	{"an adapter imports api, other adapters, the standard library and outside modules alone", func(from, to string, _ bool) bool {
		return under(from, "internal/system") && ours(to) && !under(to, "api", "internal/system")
	}},
	{"only " + strings.Join(shells, ", ") + " import adapters", func(from, to string, _ bool) bool {
		return under(to, "internal/system") && !under(from, shells...) && !under(from, domains...)
	}},
	{"only cmd/holdfastd, the simulated machine and the reference generator import the daemon", func(from, to string, _ bool) bool {
		return under(to, "internal/daemon") && !under(from, "internal/daemon", "internal/simulate", "cmd/holdfastd", "tools/apidoc")
	}},
	{"only internal/system starts programs: use internal/system/run", func(from, to string, _ bool) bool {
		return to == "os/exec" && !under(from, "internal/system", "test")
	}},
	{"no cgo", func(_, to string, _ bool) bool { return to == "C" }},
}

func excepted(from, to string) bool {
	for folder, allowed := range adapterExceptions {
		if under(from, folder) && under(to, allowed...) {
			return true
		}
	}
	return false
}

// checkImports gives every broken rule, in the order of packages and imports.
func checkImports(packages []pkg) []violation {
	var found []violation
	for _, p := range packages {
		for _, to := range p.imports {
			for _, r := range rules {
				if r.broken(p.path, to, p.std[to]) {
					found = append(found, violation{p.path + " imports " + to, r.text})
				}
			}
		}
	}
	return found
}

// Limits of files, in lines.
const (
	maxMain   = 40
	maxSource = 500
)

// checkFile gives the broken rules of one Go file; path is relative to the module.
func checkFile(path string, text []byte) ([]violation, error) {
	parsed, err := parse(path, text)
	if err != nil {
		return nil, err
	}
	if strings.HasSuffix(path, "_test.go") {
		return parsed.sleeps(), nil
	}
	var found []violation
	lines := strings.Count(string(text), "\n")
	switch {
	case under(path, "cmd") && strings.HasSuffix(path, "/main.go") && lines > maxMain:
		found = append(found, violation{path, fmt.Sprintf("main.go wires and nothing else: %d lines, at most %d", lines, maxMain)})
	case lines > maxSource:
		found = append(found, violation{path, fmt.Sprintf("a file has at most %d lines, this one %d", maxSource, lines)})
	}
	return append(found, parsed.sizes()...), nil
}
