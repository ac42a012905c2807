// Package seed reads and writes the seed archive: what an owner tells a node before
// its first boot.
//
// An archive is a plain tar at the beginning of the partition seed-data. Each of the
// eleven documents is a member named <seed>.json, .yaml or .yml. It is written by
// people with an editor, so reading is strict and answers with every problem at
// once, each with its file, its place and the way on: a word that is misspelt must
// not be a setting that is silently absent. It is also the first foreign input that
// a node reads, as root and before any login, so everything has a limit: the
// archive, its members, their number, the depth and the aliases of a document.
//
// YAML is turned into the JSON that it means before it is looked at, so that both
// spellings obey the same rules. The package is pure; callers open the partition.
//
// A member NAME.yaml.age is sealed: encrypted with age to a key or a passphrase. Reading
// it needs the key (sealed.go); copying it does not. Once a node has taken its seed over,
// Wipe leaves on the disk what is no secret (wipe.go); the tags of the types say what is.
package seed

import (
	"errors"
	"fmt"
	"reflect"
	"slices"

	"github.com/holdfast-os/holdfast/api/seed"
)

// Missing means that there is no archive, or no such document in it. Everything
// that reads seeds treats it as "nothing was said".
//
//lint:ignore ST1012 callers read errors.Is(err, seed.Missing), which says it all
var Missing = errors.New("no such seed")

// Limits on what is read, in bytes where not said otherwise.
const (
	MaxArchive = 100 << 20
	MaxMember  = 1 << 20
	// MaxMembers is a number of members.
	MaxMembers = 64
)

// Problem is one thing wrong with a seed.
type Problem struct {
	// File is the member's name, as "install.yaml"; empty for the archive itself.
	File string
	// Path is the place in the document, as "target.bus" or "applications[0].name"; empty for the whole.
	Path string
	// Line is the line of the file, from 1; 0 where it is not known.
	Line int
	// Rule names what was broken, as "unknown-field"; programs may test it.
	Rule string
	// Text says it in words.
	Text string
}

// Error is "seed <file>:<line>: <path>: <text>".
func (p *Problem) Error() string {
	text := "seed"
	if p.File != "" {
		text += " " + p.File
	}
	if p.Line > 0 {
		text += fmt.Sprintf(":%d", p.Line)
	}
	if p.Path != "" {
		text += ": " + p.Path
	}
	return text + ": " + p.Text
}

// Set is an archive's content. A document that is not there is nil.
type Set struct {
	Install          *seed.Install
	Applications     *seed.Applications
	Incus            *seed.Incus
	MigrationManager *seed.MigrationManager
	OperationsCenter *seed.OperationsCenter
	Network          *seed.Network
	Provider         *seed.Provider
	Update           *seed.Update
	Security         *seed.Security
	Services         *seed.Services
	Kernel           *seed.Kernel
	// Sealed are the documents that are encrypted and were not opened: see Open.
	Sealed []Member
	// Warnings are what a person should know, and what keeps no node from using the seed.
	Warnings []*Problem
}

// slot is one field of a Set.
type slot struct {
	name  string
	field reflect.Value
}

// slots are the documents of a Set, in the order in which an archive is written.
func (s *Set) slots() []slot {
	v := reflect.ValueOf(s).Elem()
	var out []slot
	for i, name := range Names() {
		out = append(out, slot{name, v.Field(i)})
	}
	return out
}

// Names are the eleven documents, in the order of Set's fields.
func Names() []string {
	return []string{
		"install", "applications", "incus", "migration-manager", "operations-center", "network",
		"provider", "update", "security", "services", "kernel",
	}
}

// Get is a document by name: a pointer to its type in api/seed. A document that is
// not there is Missing.
func (s *Set) Get(name string) (any, error) {
	for _, slot := range s.slots() {
		if slot.name == name && !slot.field.IsNil() {
			return slot.field.Interface(), nil
		}
	}
	return nil, fmt.Errorf("seed %s: %w", name, Missing)
}

// Decode reads one document into the set. file is its name with ending, as
// "network.yaml"; it need not come from an archive. A sealed one is kept until Open. The
// error joins *Problem.
func (s *Set) Decode(file string, data []byte) error {
	name, ok := NameOf(file)
	if !ok {
		return notRead(file, name)
	}
	if SealedName(file) {
		if err := checkSealed(file, data); err != nil {
			return err
		}
		s.Sealed = append(s.Sealed, Member{file, data})
		return nil
	}
	value := s.fresh(name)
	there, err := decode(file, name, data, value)
	if err == nil && there {
		s.take(name, value)
	}
	return err
}

// fresh is a pointer to a new document of that name.
func (s *Set) fresh(name string) reflect.Value {
	i := slices.Index(Names(), name)
	return reflect.New(reflect.ValueOf(s).Elem().Field(i).Type().Elem())
}

func (s *Set) take(name string, value reflect.Value) {
	reflect.ValueOf(s).Elem().Field(slices.Index(Names(), name)).Set(value)
}

// Remove takes one document out of the set; one that is not there is no error.
func (s *Set) Remove(name string) {
	for _, slot := range s.slots() {
		if slot.name == name {
			slot.field.SetZero()
		}
	}
}

// Empty tells a set without any document.
func (s *Set) Empty() bool {
	return len(s.Sealed) == 0 && !slices.ContainsFunc(s.slots(), func(one slot) bool { return !one.field.IsNil() })
}

// check holds the rules that a type cannot express. Rules on the meaning of a
// document (does the disk exist, is the address sound) belong to its reader.
func check(document any) []fault {
	var problems []fault
	add := func(path, rule, text string) {
		problems = append(problems, fault{path: path, rule: rule, text: text})
	}
	switch d := document.(type) {
	case *seed.Applications:
		if len(d.Applications) == 0 {
			add("applications", "needed", "at least one application is needed, as [{\"name\": \"incus\"}]; or leave the file out")
		}
		var seen []string
		for i, a := range d.Applications {
			path := fmt.Sprintf("applications[%d].name", i)
			if a.Name == "" {
				add(path, "needed", "an application needs a name")
			} else if slices.Contains(seen, a.Name) {
				add(path, "unique", fmt.Sprintf("%q is listed twice", a.Name))
			}
			seen = append(seen, a.Name)
		}
	case *seed.Provider:
		if d.Name == "" {
			add("name", "needed", "a provider needs a name, as \"images\"; or leave the file out")
		}
	}
	return problems
}
