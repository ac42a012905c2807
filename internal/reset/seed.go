package reset

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	osapi "github.com/holdfast-os/holdfast/api/os"
	"github.com/holdfast-os/holdfast/internal/config"
	"github.com/holdfast-os/holdfast/internal/layout"
	"github.com/holdfast-os/holdfast/internal/media"
	"github.com/holdfast-os/holdfast/internal/plan"
	"github.com/holdfast-os/holdfast/internal/seed"
)

// installSeed would make an install medium of the node's own disk.
const installSeed = "install"

// NewSeed gives the seed archive that a node has after a reset: that of now, which present
// reads, with the documents given in place of theirs. Problems name each document.
func NewSeed(present io.Reader, request osapi.FactoryResetPost) ([]byte, error) {
	given, err := documents(request.Seeds)
	if err != nil {
		return nil, err
	}
	if request.WipeExistingSeeds {
		present = bytes.NewReader(nil)
	}
	var archive bytes.Buffer
	if err := seed.Merge(limited(present), &archive, given, installSeed); err != nil {
		return nil, fmt.Errorf("reading the seed of now: %w; wipe_existing_seeds goes on without it", err)
	}
	if int64(archive.Len()) > layout.Size(layout.Seed) {
		return nil, fmt.Errorf("the new seed has %d bytes and its partition %d", archive.Len(), layout.Size(layout.Seed))
	}
	return archive.Bytes(), nil
}

// documents checks what was given, as strictly as the seed files of a medium are.
func documents(given map[string]json.RawMessage) (*seed.Set, error) {
	var problems config.Problems
	set := &seed.Set{}
	for _, name := range slices.Sorted(maps.Keys(given)) {
		path := "seeds." + name
		switch {
		case name == installSeed:
			problems.Add(path, "install", "the node would install itself anew at each start")
			continue
		case !slices.Contains(seed.Names(), name):
			problems.Add(path, "known", "there is no such seed; it is one of %s", strings.Join(seed.Names()[1:], ", "))
			continue
		case !isObject(given[name]):
			problems.Add(path, "object", "a seed is a JSON object, as {\"version\": \"1\"}")
			continue
		}
		if err := set.Decode(name+".json", given[name]); err != nil {
			add(&problems, path, err)
		}
	}
	// What a document means is judged as for a medium: a node would leave a wrong one out.
	for _, p := range media.CheckSet(set, nil) {
		problems.Add(strings.TrimSuffix("seeds."+p.File+"."+p.Path, "."), p.Rule, "%s", p.Text)
	}
	return set, problems.Err()
}

// SeedOf is the document that an application is initialized with; empty for one that reads
// none.
func SeedOf(application string) string {
	switch application {
	case "incus", "incus-lts-7.0":
		return "incus"
	case "migration-manager", "operations-center":
		return application
	}
	return ""
}

// ApplicationSeed gives the document that an application is reset with, checked like those of
// NewSeed; nil when none is given. Problems name each document.
func ApplicationSeed(application string, given map[string]json.RawMessage) (json.RawMessage, error) {
	var problems config.Problems
	name, own := SeedOf(application), map[string]json.RawMessage{}
	for _, other := range slices.Sorted(maps.Keys(given)) {
		switch {
		case name == "":
			problems.Add("seeds."+other, "application", "the application %s reads no seed", application)
		case other != name:
			problems.Add("seeds."+other, "application", "the application %s does not read this seed; it reads %s", application, name)
		default:
			own[name] = given[name]
		}
	}
	set, err := documents(own)
	var found config.Problems
	if errors.As(err, &found) {
		problems = append(problems, found...)
	}
	if err := problems.Err(); err != nil || len(own) == 0 {
		return nil, err
	}
	document, err := set.Get(name)
	if err != nil {
		return nil, err
	}
	return json.Marshal(document)
}

func isObject(raw json.RawMessage) bool {
	var object map[string]json.RawMessage
	return json.Unmarshal(raw, &object) == nil && object != nil
}

// add takes the problems of one document.
func add(problems *config.Problems, path string, err error) {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, one := range joined.Unwrap() {
			add(problems, path, one)
		}
		return
	}
	var one *seed.Problem
	if !errors.As(err, &one) {
		problems.Add(path, "seed", "%v", err)
		return
	}
	at := path
	if one.Path != "" {
		at += "." + one.Path
	}
	problems.Add(at, one.Rule, "%s", one.Text)
}

// The tools of a plan's steps.
const (
	ToolClear      = "tpm.clear"
	ToolSeed       = "seed.write"
	ToolPartitions = "partitions.remove"
)

// NewPlan shows what a reset does; Begin, Commit and Finish do it. before reads the seed of
// now and after is that to be; the names of their documents are shown, which may be secret.
func NewPlan(request osapi.FactoryResetPost, hasTPM bool, before io.Reader, after []byte) plan.Plan {
	p := plan.Plan{Disconnects: true, Reboot: "the next start makes the node anew"}
	was, is := seedNames(before), seedNames(bytes.NewReader(after))
	if hasTPM {
		p.Add(plan.Step{Kind: plan.UseTool, Object: "the TPM", Tool: ToolClear, Why: "every key in it is forgotten"})
	} else {
		p.Notes = append(p.Notes, "This machine has no TPM: there is nothing to clear.")
	}
	p.Add(plan.Step{Kind: plan.UseTool, Object: "the seed", Tool: ToolSeed, Why: "it has " + listed(is) + ", and had " + listed(was)})
	p.Add(plan.Step{
		Kind: plan.UseTool, Object: "partitions 9, 10 and 11", Tool: ToolPartitions,
		Why: "swap, root and local-data are removed with all that is on them",
	})
	p.Notes = append(p.Notes,
		"What is on other disks stays, but the keys of pools and drives that this node has made are lost: keep them elsewhere before.",
		"Nothing of this can be undone.")
	if request.AllowTPMResetFailure && hasTPM {
		p.Notes = append(p.Notes, "If the TPM cannot be cleared the reset goes on.")
	}
	return p
}

func listed(names []string) string {
	if len(names) == 0 {
		return "no document"
	}
	return strings.Join(names, ", ")
}

// seedNames are the documents of an archive. One that is damaged has those that can be read.
func seedNames(archive io.Reader) []string {
	set, _ := seed.Parse(limited(archive)) // what is wrong with it was said by NewSeed
	var names []string
	if set == nil {
		return nil
	}
	for _, name := range seed.Names() {
		if _, err := set.Get(name); err == nil {
			names = append(names, name)
		}
	}
	return names
}
