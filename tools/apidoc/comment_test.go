package main

import (
	"os"
	"path/filepath"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
)

// The words of a comment are the only source of defaults, units and allowed values.
func TestReadNote_EachWording_GivesItsParts(t *testing.T) {
	for comment, want := range map[string]note{
		`Channel is the release channel followed; default "stable".`: {
			text: `channel is the release channel followed; default "stable".`, def: `"stable"`},
		"Channel restarts the node by itself; default false.": {text: "channel restarts the node by itself; default false.", def: "false"},
		"Channel is a factor; default 1.5.":                   {text: "channel is a factor; default 1.5.", def: "1.5"},
		`Channel defaults to "geneve".`:                       {text: `channel defaults to "geneve".`, def: `"geneve"`},
		"Channel names one subsystem; default all that the target offers.": {
			text: "channel names one subsystem; default all that the target offers.", def: "all that the target offers"},
		"Channel is a MAC address. Default: that of the first member.": {
			text: "channel is a MAC address. Default: that of the first member.", def: "that of the first member"},
		"Channel is how many may wait; default\n1000, at most 1000000.": {text: "channel is how many may wait; default 1000, at most 1000000.", def: "1000"},
		"Channel is the speed; default 0: as the kernel has it.":        {text: "channel is the speed; default 0: as the kernel has it.", def: "0"},
		"Channel is the MTU. Default: 1500, or what DHCP says.":         {text: "channel is the MTU. Default: 1500, or what DHCP says.", def: "1500, or what DHCP says"},
		"Channel is a proxy. Default port: 80.":                         {text: "channel is a proxy. Default port: 80."},
		"Channel is the default route.":                                 {text: "channel is the default route."},
		"Channel is the time since the start, in seconds":               {text: "channel is the time since the start, in seconds", unit: "seconds"},
		"Channel is a percentage.":                                      {text: "channel is a percentage.", unit: "percent"},
		`Channel is "a", "b" or "c".`:                                   {text: `channel is "a", "b" or "c".`, enum: []string{"a", "b", "c"}},
		`Channel is "", "ipv4" or "no"; the first waits for nothing.`: {
			text: `channel is "", "ipv4" or "no"; the first waits for nothing.`, enum: []string{"", "ipv4", "no"}},
		`Channel is a Go duration, or "never".`: {text: `channel is a Go duration, or "never".`},
		`Channel is "Sunday" to "Saturday".`:    {text: `channel is "Sunday" to "Saturday".`},
		`Channel is "a", "b", or an address.`:   {text: `channel is "a", "b", or an address.`},
		`Channel is a name, as "nvme".`:         {text: `channel is a name, as "nvme".`, example: "nvme"},
		"Channel is a\nname.\nExample: [\"a\"]": {text: "channel is a name.", example: `["a"]`},
		"Channels of the node, never null.":     {text: "Channels of the node, never null.", never: true},
	} {
		if diff := cmp.Diff(want, readNote(comment, "Channel", "channel"), cmp.AllowUnexported(note{})); diff != "" {
			t.Errorf("%s\n%s", comment, diff)
		}
	}
}

// A comment that tells nothing new must not stop the question.
func TestSaysNothing_RepetitionOfTheName_IsNothing(t *testing.T) {
	for _, test := range []struct {
		name, comment string
		want          bool
	}{
		{"Hostname", "", true},
		{"Hostname", "Hostname is the hostname.", true},
		{"PoolNames", "PoolNames are the names of the pool.", true},
		{"MTU", "MTU is the MTU.", true},
		{"Hostname", "Hostname is the node's name, without domain.", false},
		{"Name", `Name is "images".`, false},
	} {
		if got := saysNothing(test.comment, test.name); got != test.want {
			t.Errorf("%s %q: got %v", test.name, test.comment, got)
		}
	}
}

// Whoever adds a field is told at once what is missing, and where.
func TestCheckComments_MissingOnes_AreNamedWithTheirPlace(t *testing.T) {
	files := fstest.MapFS{
		"go.mod": {Data: []byte("module example.org/m\n")},
		"api/os/a.go": {Data: []byte(`package os

type Bare struct {
	Name string
	// Said has a unit.
	Said string
	Same string // Same is the same.
	json string
	Gone string ` + "`json:\"-\"`" + `
	Base
}

// Base is what all have.
type Base struct{}

type private struct{ Name string }
`)},
		"api/os/a_test.go":    {Data: []byte("package os\n\ntype Test struct{ Name string }\n")},
		"internal/x/other.go": {Data: []byte("package x\n\ntype Other struct{}\n")},
	}
	got, err := newSource(files, "example.org/m").checkComments("api")
	if err != nil {
		t.Fatal(err)
	}
	const ask = ": say what it means, its unit, its default and what is allowed"
	want := []problem{
		{"api/os/a.go:3", "Bare has no comment" + ask},
		{"api/os/a.go:4", "Bare.Name has no comment" + ask},
		{"api/os/a.go:7", "the comment of Bare.Same only repeats the name" + ask},
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(problem{})); diff != "" {
		t.Error(diff)
	}
}

// The pages follow the table: what has changed is written, what is gone is removed, and
// what a person wrote stays.
func TestWrite_FolderOfBefore_BecomesTheNewOne(t *testing.T) {
	root := t.TempDir()
	put := func(name, text string) {
		t.Helper()
		file := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	put("docs/reference/api/same.md", comment()+"same")
	put("docs/reference/api/old.md", comment()+"old")
	put("docs/reference/api/gone.md", comment()+"gone")
	put("docs/reference/api/person.md", "written by hand")
	want := map[string][]byte{
		"docs/reference/api/same.md": []byte(comment() + "same"),
		"docs/reference/api/old.md":  []byte(comment() + "new"),
		"internal/apidoc/new.yaml":   []byte("new"),
	}
	names, err := write(root, want)
	if err != nil {
		t.Fatal(err)
	}
	changed := []string{"docs/reference/api/gone.md", "docs/reference/api/old.md", "internal/apidoc/new.yaml"}
	if diff := cmp.Diff(changed, names); diff != "" {
		t.Error(diff)
	}
	have := map[string]string{}
	for _, name := range []string{"docs/reference/api/same.md", "docs/reference/api/old.md", "docs/reference/api/gone.md",
		"docs/reference/api/person.md", "internal/apidoc/new.yaml"} {
		if text, err := os.ReadFile(filepath.Join(root, name)); err == nil {
			have[name] = string(text)
		}
	}
	if diff := cmp.Diff(map[string]string{
		"docs/reference/api/same.md": comment() + "same", "docs/reference/api/old.md": comment() + "new",
		"docs/reference/api/person.md": "written by hand", "internal/apidoc/new.yaml": "new",
	}, have); diff != "" {
		t.Error(diff)
	}
	if again, err := stale(root, want); err != nil || len(again) > 0 {
		t.Errorf("still stale: %v, %v", again, err)
	}
}

// A typing mistake in the tables of examples would show up in a page of today or of later.
func TestExamples_EachOfTheTables_IsJSON(t *testing.T) {
	seen := 0
	for _, table := range []map[string]string{outsideExamples, keyExamples, nameExamples} {
		for key, text := range table {
			seen++
			if _, err := parseOrdered(text); err != nil {
				t.Errorf("%s: %v", key, err)
			}
		}
	}
	if seen < 100 {
		t.Errorf("only %d examples", seen)
	}
}
