package media

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/lxc/incus/v6/shared/units"
	"go.yaml.in/yaml/v4"

	api "github.com/holdfast-os/holdfast/api/seed"
	"github.com/holdfast-os/holdfast/internal/cacerts"
	"github.com/holdfast-os/holdfast/internal/install"
	"github.com/holdfast-os/holdfast/internal/network"
	"github.com/holdfast-os/holdfast/internal/seed"
)

// File is a seed document as a person wrote it.
type File struct {
	// Name decides what it is, as "network.yaml"; folders before it are not looked at.
	Name string
	// Data is JSON or YAML.
	Data []byte
}

// Documents reads seed files as a node does, with the rules that a node has for what they
// say. The error is Problems, with all of them.
func Documents(files []File) (*seed.Set, error) {
	set := &seed.Set{}
	var problems Problems
	given := map[string]File{}
	for _, f := range files {
		if len(f.Data) > seed.MaxMember {
			problems = append(problems, Problem{File: f.Name, Rule: "limit", Text: fmt.Sprintf("more than %d bytes", seed.MaxMember)})
			continue
		}
		base := path.Base(f.Name)
		name := stem(base)
		if first, twice := given[name]; twice {
			problems = append(problems, Problem{File: f.Name, Rule: "unique", Text: fmt.Sprintf("%s is given too: they are the same seed", first.Name)})
			continue
		}
		given[name] = f
		if err := set.Decode(base, f.Data); err != nil {
			problems = append(problems, listProblems(err, given)...)
		}
	}
	return set, append(problems, CheckSet(set, given)...).Err()
}

// problemsOf makes Problems of what package seed says; nil stays nil.
func problemsOf(err error, files map[string]File) error {
	if err == nil {
		return nil
	}
	return listProblems(err, files).Err()
}

// stem is the name of a document without the endings of its file.
func stem(file string) string {
	file = strings.TrimSuffix(file, ".age")
	return strings.TrimSuffix(file, path.Ext(file))
}

func listProblems(err error, files map[string]File) Problems {
	var found Problems
	if err == nil {
		return nil
	}
	var one *seed.Problem
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range joined.Unwrap() {
			found = append(found, listProblems(e, files)...)
		}
		return found
	}
	if !errors.As(err, &one) {
		return Problems{{Rule: "document", Text: err.Error()}}
	}
	return Problems{locate(Problem{File: one.File, Line: one.Line, Path: one.Path, Rule: one.Rule, Text: one.Text}, files)}
}

// locate adds the file and line that a person knows.
func locate(p Problem, files map[string]File) Problem {
	name := stem(p.File)
	if f, ok := files[name]; ok {
		p.File = f.Name
		if p.Line == 0 && p.Rule != "unknown-seed" { // it is about the name
			p.Line = lineOf(f.Data, p.Path)
		}
	}
	return p
}

// lineOf finds where a path of a document stands; 0 when it cannot be found. JSON is YAML.
func lineOf(data []byte, where string) int {
	var document yaml.Node
	if err := yaml.Load(data, &document); err != nil {
		var at *yaml.LoadError
		if errors.As(err, &at) {
			return at.Mark.Line
		}
		return 0
	}
	if len(document.Content) == 0 || where == "" {
		return 0
	}
	node, line := document.Content[0], 0
	for _, step := range steps(where) {
		next := child(node, step)
		if next == nil {
			return line
		}
		node, line = next, next.Line
	}
	return line
}

// steps takes "a.b[2].c" apart: "a", "b", "2", "c".
func steps(where string) []string {
	return strings.FieldsFunc(where, func(r rune) bool { return strings.ContainsRune(".[]", r) })
}

func child(n *yaml.Node, step string) *yaml.Node {
	switch n.Kind {
	case yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			if n.Content[i].Value == step {
				value := n.Content[i+1]
				if value.Kind == yaml.ScalarNode {
					return value
				}
				copied := *value
				copied.Line = n.Content[i].Line // of the key: a list begins a line below
				return &copied
			}
		}
	case yaml.SequenceNode:
		if i, err := strconv.Atoi(step); err == nil && i >= 0 && i < len(n.Content) {
			return n.Content[i]
		}
	}
	return nil
}

// CheckSet gives what a node would refuse although each document can be read: what the
// documents mean, as far as it can be told without the machine. files are those that the
// documents came from, by name; nil when they came out of an image.
func CheckSet(set *seed.Set, files map[string]File) Problems {
	var found Problems
	add := func(name, where, rule, text string) {
		p := Problem{File: name, Path: where, Rule: rule, Text: text}
		found = append(found, locate(p, files))
	}
	if set.Network != nil {
		for _, p := range network.Validate(set.Network.NetworkConfig) {
			add("network", p.Path, p.Rule, p.Text)
		}
	}
	if i := set.Install; i != nil {
		if i.Security != nil && i.Security.MissingTPM && i.Security.MissingSecureBoot {
			add("install", "security", "both", "missing_tpm and missing_secure_boot together leave nothing to trust: ask for at most one of them")
		}
		checkTarget(i.Target, add)
	}
	if s := set.Security; s != nil {
		// Whether they have ended is for the node's clock to say.
		for _, p := range cacerts.Check(nil, s.CustomCACerts, time.Time{}) {
			add("security", p.Path, p.Rule, p.Text)
		}
	}
	found = append(found, checkCertificates(set, files)...)
	return found
}

// checkTarget looks at how a disk is asked for; which one it will be is only known there. Each
// field is tried on its own, so that all that is wrong is told.
func checkTarget(target *api.InstallTarget, add func(name, where, rule, text string)) {
	if target == nil {
		return
	}
	told := false
	for _, one := range []api.InstallTarget{{MinSize: target.MinSize}, {MaxSize: target.MaxSize}, {SortOrder: target.SortOrder}} {
		_, problem := install.Select(nil, &one)
		if problem != nil && slices.Contains([]string{"target-size-form", "target-order"}, problem.Rule) {
			where, _ := strings.CutPrefix(problem.Where, "seed install, ")
			add("install", where, problem.Rule, problem.What+": "+problem.Do)
			told = true
		}
	}
	if told || target.MinSize == "" || target.MaxSize == "" {
		return
	}
	least, err1 := units.ParseByteSizeString(target.MinSize)
	most, err2 := units.ParseByteSizeString(target.MaxSize)
	if err1 == nil && err2 == nil && most < least {
		add("install", "target.max_size", "target-size-order", "the largest size is below the smallest one, "+target.MinSize)
	}
}
